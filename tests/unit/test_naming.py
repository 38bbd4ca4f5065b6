"""Paths and names: their grammar, their selectors, and a parameter that hides its value."""

import dataclasses
import logging
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import Change, InvalidPath, Parameter
from aiossmenv._models import asked_name
from aiossmenv._naming import (
    REFERENCE,
    base_name,
    is_reference,
    nearest,
    normal_key,
    normal_path,
    relative_name,
    split_names,
    split_selector,
)
from aiossmenv._ssm.merge import is_older
from aiossmenv._ssm.transport import EncryptedParameter, FetchedParameter, Page, answers

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
    """A final slash makes no difference, and normalizing a path twice changes nothing."""
    assert path == normal_path(path) == normal_path(path + "/")


def test_root_stays_a_slash() -> None:
    """The path `/` stays as it is."""
    assert "/" == normal_path("/")


def test_surrounding_whitespace_is_dropped() -> None:
    """Spaces and line ends around a path are dropped, because a variable that was read from a file often has them."""
    assert "/FAKEBOOK/TEST" == normal_path(" /FAKEBOOK/TEST/\n")


EMPTY, UNROOTED, ODD = "the path is empty", "a path begins with a slash", "single slashes and of letters, digits"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("'/a/b'", "quotes around it .* Write /a/b without them"),
        ('"/a/b"', "quotes around it .* Write /a/b without them"),
        ('"/a/b', "Write /a/b without them"),
        (r"C:\a", "path of Windows .* MSYS_NO_PATHCONV=1"),
        (r"\a\b", "backslashes .* Write it with slashes: /a/b"),
        ("C:/Program Files/Git/app", "path of Windows .* Git Bash .* MSYS_NO_PATHCONV=1"),
        ("arn:aws:ssm:eu-west-1:111122223333:parameter/A/B", "an ARN .* Write the path in it: /A/B$"),
        ("arn:aws:ssm:eu-west-1:111122223333:parameter/A/*", "an ARN .* Write the path in it: /A$"),
        ("arn:aws-cn:ssm:cn-north-1:111122223333:parameter/A:3", "an ARN .* Write the path in it: /A$"),
        ("arn:aws:secretsmanager:eu-west-1:111122223333:secret:x-AbCdEf", "keys=.'/aws/reference/secretsmanager/ID'"),
        ("/aws/reference/secretsmanager/x", "cannot be listed .* keys="),
        (
            "https://eu-west-1.console.aws.amazon.com/systems-manager/parameters/a/description",
            "a URL .* like /FAKEBOOK/",
        ),
        ("ssm:/a", "Write it without ssm: in front: /a$"),
        ("ssm:///a/b/", "Write it without ssm: in front: /a/b$"),
        ("$APP_PATH", "nothing replaced"),
        ("/${STAGE}/app/", "nothing replaced .* f-string"),
        ("/{stage}/app", "nothing replaced .* f-string"),
        ("%APP_PATH%", "nothing replaced"),
        ("/a/*", "wildcard .* so write /a/$"),
        ("/a/b*", "wildcard .* so write /a/$"),
        ("/a/b:3", "no version and no label .* load_env..*/a', keys=..b:3"),
        ("/a:live", "no version and no label .* load_env.'/', keys=..a:live"),
        ("/a,/b", "several in one text .* several arguments"),
        ("/a\n/b", "several in one text .* several arguments"),
        ("/a/:/b/", "several in one text .* several arguments"),
        ("/a;/b", "several in one text .* several arguments"),
    ],
)
def test_mistaken_paths(path: str, says: str) -> None:
    """
    A text that is no path, such as an ARN or a URL, is `InvalidPath` with the remedy for that mistake; nothing is sent.
    """
    with pytest.raises(InvalidPath) as caught:
        normal_path(path)
    assert re.search(says, " ".join(str(caught.value).split()).removesuffix("."))
    assert path == caught.value.path
    with pytest.raises(InvalidPath, match="^SSM_PATH: "):
        normal_path(path, "SSM_PATH")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("mysql", "mysql"),
        ("mysql/password:3", "mysql/password:3"),
        (" mysql/ ", "mysql"),
        ("/production/mysql/password", "/production/mysql/password"),
        ("/production/mysql/password:live", "/production/mysql/password:live"),
        ("/aws/reference/secretsmanager/any-id+=@", "/aws/reference/secretsmanager/any-id+=@"),
    ],
)
def test_key_forms(key: str, name: str) -> None:
    """A key is a name relative to the paths, a full name below one of them, or the name of a secret."""
    assert name == normal_key(key, ["/staging", "/production"])


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "the name is empty"),
        ("  ", "the name is empty"),
        ("/", "made of single slashes"),
        ("/other/mysql:3", "below none of the paths: /production, /b .*Pass '/other' as a path.* 'other/mysql:3'"),
        ("/productions/mysql", "below none of the paths"),
        ("/production", "below none of the paths"),
        ("/x", "Pass '/' as a path"),
        ("mysql/*", "wildcard .* whole"),
        ("*", "wildcard"),
        ("'mysql'", "quotes .* Write mysql without"),
        ("$KEY", "nothing replaced"),
        ("a,b", "several in one text .* as a list"),
        ("a b", "single slashes"),
        ("a//b", "single slashes"),
        ("a:b:c", "single slashes"),
        ("a:", "single slashes"),
        (":3", "single slashes"),
        ("ssm:/production/mysql", "Write it without ssm: in front: /production/mysql"),
        (r"C:\mysql", "path of Windows"),
        (r"mysql\password", "Write it with slashes: mysql/password"),
        ("arn:aws:ssm:eu-west-1:111122223333:parameter/production/a", "Write the name in it, /production/a, or .* ARN"),
    ],
)
def test_invalid_keys(key: str, says: str) -> None:
    """
    A key that is no name below the paths is `InvalidPath` with a remedy, and the error has the key as it was given.
    """
    with pytest.raises(InvalidPath) as caught:
        normal_key(key, ["/production", "/b"])
    assert re.search(says, " ".join(str(caught.value).split()))
    assert key == caught.value.parameter


def test_full_name_belongs_to_the_longest_path() -> None:
    """If paths are nested, a full name belongs to the longest one; every name is below `/`."""
    assert "/a/b" == nearest(["/", "/a", "/a/b", "/a/bc"], "/a/b/x")
    assert "/" == nearest(["/", "/a"], "/ab/x")
    assert nearest(["/a"], "/a") is None


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (EMPTY, ["", "  "]),
        (UNROOTED, ["FAKEBOOK/TEST", "A", "./A", "~/A", "A:3"]),
        (ODD, ["//A", "/A//B", "/A//", "///", "/A B", "/A/ /", "/Ä"]),
    ],
    ids=["empty", "unrooted", "odd"],
)
def test_invalid_path_has_a_remedy(text: str, paths: list[str]) -> None:
    """An invalid path is `InvalidPath` with the reason and a remedy, and the error has the path as it was given."""
    for path in paths:
        with pytest.raises(InvalidPath, match=text) as caught:
            normal_path(path)
        assert path == caught.value.path
        assert caught.value.remedy


def test_two_slashes_are_not_the_root() -> None:
    """
    `f"/{name}/"` with an empty name gives `//`, which is rejected: it must not mean all parameters of the account.
    """
    with pytest.raises(InvalidPath):
        normal_path("//")


def test_missing_first_slash_is_added_in_the_remedy() -> None:
    """The remedy for a path without its first slash shows the path with the slash."""
    with pytest.raises(InvalidPath, match="Write it as /FAKEBOOK/TEST/, if"):
        normal_path("FAKEBOOK/TEST/")


@given(PATHS, PATHS)
def test_relative_name_undoes_joining(path: str, below: str) -> None:
    """The relative name of a joined path is the part that was joined."""
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
    """A path is removed once, at a slash and with regard to case; a name that is not below the path stays complete."""
    assert relative == relative_name(path, name)


@pytest.mark.parametrize("form", ["{}", "{}:3", "{}:live", "arn:aws:ssm:eu-west-1:111122223333:parameter{}"])
def test_base_name_for_iam(form: str) -> None:
    """The base name of a name, a selector or an ARN is the part that an IAM policy needs."""
    assert "/A/X" == base_name(form.format("/A/X"))


def test_base_name_of_an_arn_with_a_selector() -> None:
    """Both the ARN prefix and the selector are removed; a name without slashes stays as it is."""
    assert "/X" == base_name("arn:aws-cn:ssm:cn-north-1:111122223333:parameter/X:3")
    assert "X" == base_name("X:live")


ARN = "arn:aws:ssm:eu-west-1:111122223333:parameter"


@pytest.mark.parametrize(
    ("name", "base", "selector"),
    [
        ("/A/X", "/A/X", ""),
        ("X", "X", ""),
        ("/A/X:3", "/A/X", "3"),
        ("X:live", "X", "live"),
        (f"{ARN}/A/X", f"{ARN}/A/X", ""),
        (f"{ARN}/A/X:3", f"{ARN}/A/X", "3"),
        (f"{ARN}/X:live", f"{ARN}/X", "live"),
        (f"{REFERENCE}/db", f"{REFERENCE}/db", ""),
        (f"{REFERENCE}/db:AWSPREVIOUS", f"{REFERENCE}/db:AWSPREVIOUS", ""),
        (f"{REFERENCE}:3", REFERENCE, "3"),
    ],
)
def test_selectors_are_split_off(name: str, base: str, selector: str) -> None:
    """A version or label is split off a name or an ARN; the suffix of a secret's name belongs to Secrets Manager."""
    assert (base, selector) == split_selector(name)


def test_secrets_manager_references() -> None:
    """A reference is the reserved path of Secrets Manager followed by an id."""
    assert [True, True, False, False, False] == [
        is_reference(name)
        for name in (f"{REFERENCE}/db", f"{REFERENCE}/a/b:3", REFERENCE, f"{REFERENCE}x/db", f"/P{REFERENCE}/db")
    ]


@pytest.mark.parametrize(
    ("requested", "name", "arn", "is_answer"),
    [
        ("/A/X", "/A/X", f"{ARN}/A/X", True),
        ("/A/X:3", "/A/X", f"{ARN}/A/X", True),
        ("X", "/X", f"{ARN}/X", True),
        ("/X:live", "X", f"{ARN}/X", True),
        (f"{ARN}/A/X", "/A/X", f"{ARN}/A/X", True),
        (f"{ARN}/A/X:3", "/A/X", "", True),
        (f"{ARN}/X", "X", f"{ARN}/X", True),
        (f"{ARN}/A/X:3", f"{ARN}/A/X", f"{ARN}/A/X", True),
        (f"{REFERENCE}/db:AWSPREVIOUS", f"{REFERENCE}/db:AWSPREVIOUS", "", True),
        ("/A/X", "/A/Y", f"{ARN}/A/Y", False),
        ("/A/X", "/A/X/Y", f"{ARN}/A/X/Y", False),
        ("/A/X", "/a/x", f"{ARN}/a/x", False),
        (f"{ARN}/A/X", "/A/Y", f"{ARN}/A/Y", False),
        # A parameter of that name in another account.
        (f"{ARN}/A/X", "/A/X", f"{ARN}/A/X".replace("111122223333", "444455556666"), False),
    ],
)
def test_answers_are_matched_by_name_or_arn(requested: str, name: str, arn: str, *, is_answer: bool) -> None:
    """An answer matches by name, with or without the first slash, or by ARN; selectors are ignored."""
    read = Parameter(name=name, value="x", type="String", version=1, arn=arn)

    assert is_answer == answers(requested, read)


ENCRYPTED = EncryptedParameter(
    name=PARAMETER.name, type="SecureString", version=7, last_modified=PARAMETER.last_modified, arn="", digest=b"d" * 32
)


@pytest.mark.parametrize(
    ("change", "digest", "opens"),
    [
        ({}, None, True),
        ({}, b"d" * 32, True),
        ({}, b"e" * 32, False),
        ({"version": 8}, None, False),
        ({"version": 6}, b"d" * 32, False),
        ({"type": "String"}, None, False),
        ({"arn": "arn:other"}, None, False),
        ({"last_modified": datetime(2026, 1, 2, tzinfo=UTC)}, None, False),
        ({"last_modified": None}, b"d" * 32, False),
        ({"value": "other", "selector": "", "data_type": "other"}, None, True),
    ],
)
def test_encrypted_parameter_matches(change: dict[str, Any], digest: bytes | None, *, opens: bool) -> None:
    """An encrypted parameter matches if every field that both have is equal, and the digest too if it is known."""
    assert opens == ENCRYPTED.matches(dataclasses.replace(PARAMETER, **change), digest)


EARLY, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("read", "than", "older"),
    [
        ((1, EARLY), (2, LATE), True),
        ((1, LATE), (2, EARLY), False),
        ((1, EARLY), (2, EARLY), False),
        ((2, EARLY), (2, LATE), False),
        ((3, EARLY), (2, LATE), False),
        ((1, None), (2, LATE), False),
        ((1, EARLY), (2, None), False),
    ],
)
def test_older_in_version_and_date(
    read: tuple[int, datetime | None], than: tuple[int, datetime | None], *, older: bool
) -> None:
    """
    A parameter is older only with a lower version and an earlier date, encrypted or not; without dates it never is.
    """

    def fetched(version: int, when: datetime | None) -> tuple[FetchedParameter, FetchedParameter]:
        return (
            dataclasses.replace(PARAMETER, version=version, last_modified=when, selector=""),
            dataclasses.replace(ENCRYPTED, version=version, last_modified=when),
        )

    assert {older} == {is_older(one, other) for one in fetched(*read) for other in fetched(*than)}


def test_parameter_found_by_selector_is_never_older() -> None:
    """A label may move back to an older version on purpose."""
    before = dataclasses.replace(PARAMETER, version=6, last_modified=EARLY)

    assert not is_older(before, dataclasses.replace(PARAMETER, last_modified=LATE))
    assert not is_older(dataclasses.replace(ENCRYPTED, version=6, last_modified=EARLY, selector=":live"), PARAMETER)
    assert is_older(dataclasses.replace(before, selector=""), dataclasses.replace(PARAMETER, last_modified=LATE))


@pytest.mark.parametrize(
    ("name", "selector", "requested"),
    [("/P/A", "", "/P/A"), ("/P/A", ":3", "/P/A:3"), (f"{REFERENCE}/db:AWSPREVIOUS", ":AWSPREVIOUS", None)],
)
def test_requested_name(name: str, selector: str, requested: str | None) -> None:
    """A parameter is requested by its name and selector; the name of a secret includes its selector."""
    assert (requested or name) == asked_name(dataclasses.replace(PARAMETER, name=name, selector=selector))


def test_encrypted_parameter_has_no_value() -> None:
    """An encrypted parameter has no attribute for a value or for the ciphertext."""
    assert {"name", "type", "version", "last_modified", "arn", "digest", "selector"} == {
        field.name for field in dataclasses.fields(EncryptedParameter)
    }
    assert (EncryptedParameter, object) == EncryptedParameter.__mro__


@pytest.mark.parametrize("path", ["/", "/P", REFERENCE])
def test_secrets_manager_key_is_the_id(path: str) -> None:
    """The key of a secret is its id, below whatever path it was requested."""
    assert "db/main" == relative_name(path, f"{REFERENCE}/db/main")


def test_split_names() -> None:
    """A comma-separated list gives its parts in order, without surrounding spaces and empty parts."""
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
def test_value_is_hidden(holder: object) -> None:
    """No repr, str or log line of a parameter, or of an object that holds one, shows its value; all show its name."""
    record = logging.LogRecord("log", logging.INFO, "", 0, "%s %r", (holder, holder), None)

    for text in (repr(holder), str(holder), f"{holder}", record.getMessage()):
        assert SECRET not in text
        assert "/FAKEBOOK/TEST/DB_PASSWORD:live SecureString version 7" in text


def test_frozen_and_slotted() -> None:
    """A parameter is immutable and accepts no other attributes."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        PARAMETER.value = "other"  # type: ignore[misc]
    assert not hasattr(PARAMETER, "__dict__")


def test_only_four_fields_are_needed() -> None:
    """A parameter needs only a name, a value, a type and a version; the other fields have empty defaults."""
    parameter = Parameter(name="/P/X", value="x", type="String", version=1)

    assert (None, "", "text", "") == (parameter.last_modified, parameter.arn, parameter.data_type, parameter.selector)


def test_equality_and_hash() -> None:
    """Two parameters are equal if every field is equal, including the value, and equal ones have the same hash."""
    same = dataclasses.replace(PARAMETER)

    assert PARAMETER == same
    assert hash(PARAMETER) == hash(same)
    for other in (
        dataclasses.replace(PARAMETER, value="other"),
        dataclasses.replace(PARAMETER, version=8),
        dataclasses.replace(PARAMETER, last_modified=None),
    ):
        assert PARAMETER != other
