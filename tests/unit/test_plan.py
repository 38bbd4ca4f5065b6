"""What an import would do, and how two sets of values differ."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiossmenv import KeyCollision, Parameter
from aiossmenv.cli._plan import Difference, Plan, Write, compare, plan
from aiossmenv.cli._run import CommandError


def there(**values: str) -> list[Parameter]:
    """Return parameters under /P; two underscores in a name are a slash."""
    return [
        Parameter(name=f"/P/{name.replace('__', '/')}", value=value, type="SecureString", version=1)
        for name, value in values.items()
    ]


def refused(wanted: dict[str, str], **options: Any) -> str:
    """Return the text of the error with which an import into an empty path is refused."""
    with pytest.raises(CommandError) as caught:
        plan(options.pop("path", "/P"), wanted, options.pop("there", []), **options)
    return str(caught.value)


def test_it_adds_changes_and_counts_what_is_unchanged() -> None:
    """A new key is added, another value is a change, and without `prune` nothing is deleted."""
    done = plan("/P", {"A": "1", "B": "2", "C": "3"}, there(A="1", B="x", D="4"))

    assert (
        Plan(
            (
                Write(name="/P/B", value="2", type="SecureString", is_new=False),
                Write(name="/P/C", value="3", type="SecureString", is_new=True),
            ),
            (),
            1,
        )
        == done
    )
    assert 2 == done.size


def test_prune_deletes_what_is_not_in_the_file() -> None:
    """Deletions are sorted, and what the file spells otherwise is not one of them."""
    done = plan("/P", {"DB_URL": "1"}, there(z="1", db__url="1", a="2"), prune=True)

    assert ("/P/a", "/P/z") == done.deletions
    assert (0, 1) == (len(done.writes), done.unchanged)


def test_a_key_decides_which_parameter_is_meant() -> None:
    """DB_URL updates db/url, and the plan says how the file calls it; a name that is there keeps its spelling."""
    done = plan("/P", {"DB_URL": "new", "x/y": "new"}, there(db__url="old", x__y="old"))

    assert [("/P/db/url", "DB_URL", False), ("/P/x/y", "", False)] == [
        (write.name, write.spelling, write.is_new) for write in done.writes
    ]


def test_parameters_with_one_key_are_refused() -> None:
    """Two parameters of one key are an error, as they are to `load_env`."""
    with pytest.raises(KeyCollision, match="DB_URL from /P/DB_URL and /P/db/url"):
        plan("/P", {"A": "1"}, there(db__url="1", DB_URL="2"))


def test_types_stay_unless_told() -> None:
    """An existing parameter keeps its type, new ones are SecureStrings, and another type is refused."""
    text = [Parameter(name="/P/A", value="x", type="String", version=1)]

    assert ["String", "SecureString"] == [write.type for write in plan("/P", {"A": "1", "B": "2"}, text).writes]
    assert ["String"] == [write.type for write in plan("/P", {"B": "2"}, text, kind="String").writes]
    said = refused({"A": "x"}, there=text, kind="SecureString")
    assert "it is a String, and a type cannot be changed: '/P/A'. Delete it first" in said


def test_a_key_is_for_what_is_encrypted() -> None:
    """With a key, a String that changes is no error."""
    text = [Parameter(name="/P/A", value="x", type="String", version=1)]

    assert ["/P/A"] == [write.name for write in plan("/P", {"A": "1"}, text, key_id="alias/mine").writes]


@pytest.mark.parametrize(
    ("wanted", "options", "said", "name"),
    [
        ({"a b": "s3cr3t"}, {}, "a name is made of single slashes", "'/P/a b'"),
        ({"": "s3cr3t"}, {}, "a name is made of", "'/P/'"),
        ({"a//b": "s3cr3t"}, {}, "a name is made of", "'/P/a//b'"),
        ({"é": "s3cr3t"}, {}, "a name is made of", "'/P/\\xe9'"),
        ({"x": "s3cr3t"}, {"path": "/aws"}, "a name can't be prefixed", "'/aws/x'"),
        ({"SSM": "s3cr3t"}, {"path": "/"}, "a name can't be prefixed", "'/SSM'"),
        ({"/".join("abcdefghijklmnop"): "s3cr3t"}, {}, "15 levels", "n/o/p'"),
        ({"x" * 1_010: "s3cr3t"}, {}, "1,011 characters", "x'"),
        ({"A": ""}, {}, "the value is empty", "'/P/A'"),
        ({"A": "s3cr3t\0"}, {}, "the value holds a NUL", "'/P/A'"),
        ({"A": "x" * 4_097}, {}, "its value has 4,097 bytes", "'/P/A'"),
        ({"A": "é" * 2_049}, {}, "its value has 4,098 bytes", "'/P/A'"),
        ({"A": "x" * 4_097}, {"tier": "Standard"}, "the value has 4,097 bytes", "'/P/A'"),
        ({"A": "x" * 8_193}, {"tier": "Advanced"}, "the value has 8,193 characters", "'/P/A'"),
    ],
)
def test_what_parameter_store_would_refuse_is_refused_before(
    wanted: dict[str, str], options: dict[str, Any], said: str, name: str
) -> None:
    """Every name and value is checked, and the error quotes no value."""
    text = refused(wanted, **options)

    assert text.startswith("nothing is written, because ")
    assert said in text
    assert f"{name}. " in text
    assert "s3cr3t" not in text
    assert "xxx" not in text.replace("x" * 1_010, "")


def test_all_that_is_wrong_is_named_at_once() -> None:
    """An error has each fault and each remedy once, and up to twenty names of each fault."""
    text = refused({f"K {number:02}": "1" for number in range(30)} | {"E": ""})

    assert "'/P/E'" in text
    assert "'/P/K 00', '/P/K 01'" in text
    assert "'/P/K 19', and 10 more" in text
    assert 1 == text.count("Check for a doubled")


def test_large_values_need_a_tier() -> None:
    """4,096 bytes are free, and more are written if the tier is named."""
    assert 1 == plan("/P", {"A": "x" * 4_096}, []).size
    assert 1 == plan("/P", {"A": "x" * 8_192}, [], tier="Intelligent-Tiering").size


def test_the_root_path_has_no_doubled_slash() -> None:
    """Below / a parameter is called /A."""
    assert ["/A"] == [write.name for write in plan("/", {"A": "1"}, []).writes]


def test_no_value_is_in_a_repr() -> None:
    """A plan in a traceback or a log shows no value."""
    assert "s3cr3t" not in repr(plan("/P", {"A": "s3cr3t"}, []))


NAMES = st.dictionaries(st.sampled_from("ABCDEF"), st.sampled_from("12"), min_size=1)


@settings(max_examples=40)
@given(wanted=NAMES, before=NAMES, prune=st.booleans(), done=st.integers(0, 6))
def test_a_second_import_does_the_rest(wanted: dict[str, str], before: dict[str, str], prune: bool, done: int) -> None:
    """After the first changes of a plan are made, the plan is what is left of it; after all of them, nothing."""
    first = plan("/P", wanted, there(**before), prune=prune)
    after = dict(before)
    for write in first.writes[:done]:
        after[write.name.removeprefix("/P/")] = write.value
    for name in first.deletions[: max(0, done - len(first.writes))]:
        del after[name.removeprefix("/P/")]

    second = plan("/P", wanted, there(**after), prune=prune)

    assert first.writes[done:] == second.writes
    assert max(0, first.size - done) == second.size
    for write in second.writes:
        after[write.name.removeprefix("/P/")] = write.value
    for name in second.deletions:
        del after[name.removeprefix("/P/")]
    assert (wanted if prune else before | wanted) == after


@settings(max_examples=40)
@given(first=NAMES, second=NAMES)
def test_two_sets_differ_by_the_keys_that_one_has_and_by_values(first: dict[str, str], second: dict[str, str]) -> None:
    """Each differing key is in one of the three groups, and equal sets have none."""
    found = compare(first, second)

    assert bool(found) == (first != second)
    assert {key for key in {**first, **second} if first.get(key) != second.get(key)} == {
        *found.only_first, *found.only_second, *found.different,
    }  # fmt: skip
    assert Difference(found.only_second, found.only_first, found.different) == compare(second, first)
