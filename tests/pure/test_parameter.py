"""The grammar of paths and names, and a parameter that keeps its value to itself."""

import dataclasses
import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import Change, InvalidPath, Parameter
from aiossmenv._parameter import base_name, normal_path, relative_name, split_names
from aiossmenv._scan import Page

SEGMENTS = st.text("AbZ09_.-", min_size=1, max_size=5)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda segments: "/" + "/".join(segments))

SECRET = "hunter2"
PARAMETER = Parameter(
    name="/FAKEBOOK/TEST/DB_PASSWORD",
    value=SECRET,
    type="SecureString",
    version=7,
    last_modified=datetime(2026, 1, 1, tzinfo=UTC),
    selector=":live",
)


@given(PATHS)
def test_final_slash_makes_no_difference(path: str) -> None:
    """A path with a final slash is the same as without, and a normal path is its own normal path."""
    assert path == normal_path(path) == normal_path(path + "/")


def test_root_stays_a_slash() -> None:
    """The bare slash is a path, and stays as it is."""
    assert "/" == normal_path("/")


def test_spaces_at_the_ends_are_dropped() -> None:
    """Spaces and line ends around a path are dropped, as a variable read from a file has them."""
    assert "/FAKEBOOK/TEST" == normal_path(" /FAKEBOOK/TEST/\n")


EMPTY, UNROOTED, ODD = "the path is empty", "a path begins with a slash", "single slashes and of letters, digits"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (EMPTY, ["", "  "]),
        (UNROOTED, ["FAKEBOOK/TEST", "A", "./A", "arn:aws:ssm:eu-west-1:111122223333:parameter/A"]),
        (ODD, ["//A", "/A//B", "/A//", "///", "/A B", "/A/ /", "/A:3", "/Ä", "/A\n/B", "/A,/B"]),
    ],
    ids=["empty", "unrooted", "odd"],
)
def test_impossible_path_is_refused_with_a_remedy(text: str, paths: list[str]) -> None:
    """A path that cannot exist is `InvalidPath`, which says why and what to do, and holds the path as it was given."""
    for path in paths:
        with pytest.raises(InvalidPath, match=text) as caught:
            normal_path(path)
        assert path == caught.value.path
        assert caught.value.remedy


def test_two_slashes_are_not_the_root() -> None:
    """What `f"/{name}/"` makes of an empty name is refused, instead of being all parameters of the account."""
    with pytest.raises(InvalidPath):
        normal_path("//")


def test_missing_first_slash_is_shown_as_it_should_be() -> None:
    """The remedy for a path without its first slash is the path with it."""
    with pytest.raises(InvalidPath, match="Write it as /FAKEBOOK/TEST/, if"):
        normal_path("FAKEBOOK/TEST/")


@given(PATHS, PATHS)
def test_relative_name_undoes_joining(path: str, below: str) -> None:
    """What is joined to a path is called, below that path, what was joined."""
    assert below[1:] == relative_name(path, path + below)
    assert below[1:] == relative_name("/", below)


@pytest.mark.parametrize(
    ("path", "name", "relative"),
    [
        ("/A", "/A/A/X", "A/X"),
        ("/A/A", "/A/A/X", "X"),
        ("/FAKEBOOK/TEST", "/FAKEBOOK/TESTING/X", "/FAKEBOOK/TESTING/X"),
        ("/FAKEBOOK/TEST", "/FAKEBOOK/TEST", "/FAKEBOOK/TEST"),
        ("/FAKEBOOK/TEST", "/fakebook/test/X", "/fakebook/test/X"),
        ("/", "/A/X", "A/X"),
        ("/", "X", "X"),
    ],
)
def test_relative_name_cuts_whole_segments_once(path: str, name: str, relative: str) -> None:
    """A path is cut off once, at a slash and case by case; a name that is not below it stays whole."""
    assert relative == relative_name(path, name)


@pytest.mark.parametrize("form", ["{}", "{}:3", "{}:live", "arn:aws:ssm:eu-west-1:111122223333:parameter{}"])
def test_base_name_is_what_iam_knows(form: str) -> None:
    """A name, with a selector or as an ARN, is cut to what stands in a policy."""
    assert "/A/X" == base_name(form.format("/A/X"))


def test_base_name_of_an_arn_with_a_selector() -> None:
    """Both are cut off an ARN that has a selector; a name without slashes stays as it is."""
    assert "/X" == base_name("arn:aws-cn:ssm:cn-north-1:111122223333:parameter/X:3")
    assert "X" == base_name("X:live")


def test_split_names() -> None:
    """A comma-separated list gives its parts without spaces and without empty ones, in their order."""
    assert ("/B", "/A/", "/C") == split_names(" /B, /A/ ,,\n/C,")
    assert () == split_names(" , ")


@pytest.mark.parametrize(
    "holder",
    [
        PARAMETER,
        [PARAMETER],
        {"DB_PASSWORD": PARAMETER},
        ((PARAMETER,), {PARAMETER}),
        Change(key="DB_PASSWORD", kind="updated", old=PARAMETER, new=PARAMETER),
        Page((PARAMETER,)),
        ValueError(PARAMETER),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_no_text_of_it_shows_the_value(holder: object) -> None:
    """The value is in no repr, str or log line of a parameter or of what holds one; its name is in all of them."""
    record = logging.LogRecord("log", logging.INFO, "", 0, "%s %r", (holder, holder), None)

    for text in (repr(holder), str(holder), f"{holder}", record.getMessage()):
        assert SECRET not in text
        assert "/FAKEBOOK/TEST/DB_PASSWORD:live SecureString version 7" in text


def test_frozen_and_slotted() -> None:
    """A parameter cannot be changed and takes no other attributes."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        PARAMETER.value = "other"  # type: ignore[misc]
    assert not hasattr(PARAMETER, "__dict__")


def test_only_four_fields_are_needed() -> None:
    """A parameter made for a test needs a name, a value, a type and a version; the rest is empty, and text."""
    parameter = Parameter(name="/P/X", value="x", type="String", version=1)

    assert (None, "", "text", "") == (parameter.last_modified, parameter.arn, parameter.data_type, parameter.selector)


def test_equal_only_if_all_is_equal() -> None:
    """Two reads are equal if every field is, the value too; and equal ones have one hash."""
    same = dataclasses.replace(PARAMETER)

    assert PARAMETER == same
    assert hash(PARAMETER) == hash(same)
    for other in (
        dataclasses.replace(PARAMETER, value="other"),
        dataclasses.replace(PARAMETER, version=8),
        dataclasses.replace(PARAMETER, last_modified=None),
    ):
        assert PARAMETER != other
