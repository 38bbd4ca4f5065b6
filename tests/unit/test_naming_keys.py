"""From names to keys: one to one, or an error that names every pair."""

from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import InvalidVariable, KeyCollision
from aiossmenv._naming import name_keys, upper_snake

# Few characters, so that collisions are as common as their absence.
NAMES = st.sets(st.from_regex(r"/P(/[aAb._-]{1,2}){1,2}", fullmatch=True), max_size=6)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("DB_URL", "DB_URL"),
        ("db/read-only.url", "DB_READ_ONLY_URL"),
        ("a//b", "A__B"),
        ("2fa", "2FA"),
        ("with space", "WITH SPACE"),
    ],
)
def test_upper_snake(name: str, key: str) -> None:
    """Slashes, dots and hyphens become underscores, letters upper case, and nothing else changes."""
    assert key == upper_snake(name)


@given(NAMES, st.sampled_from([upper_snake, str, str.lower, lambda name: name[:1]]))
def test_one_to_one_or_every_collision(names: set[str], to_key: Callable[[str], str]) -> None:
    """Keys and names are paired one to one; if they cannot be, the error names every key with all its names."""
    names_by_key = defaultdict(list)
    for name in sorted(names):
        names_by_key[to_key(name.removeprefix("/P/"))].append(name)
    collisions = {key: tuple(same) for key, same in names_by_key.items() if len(same) > 1}

    if not collisions:
        assert {key: name for key, [name] in names_by_key.items()} == name_keys("/P", names, to_key)
        return
    with pytest.raises(KeyCollision) as caught:
        name_keys("/P", names, to_key)
    assert collisions == caught.value.collisions
    assert "/P" == caught.value.path
    for key, same in collisions.items():
        # A full stop at the very end may be lost to what follows.
        assert f"{key} from {' and '.join(same)}".removesuffix(".") in str(caught.value)


def test_a_selector_is_no_part_of_the_key() -> None:
    """
    A parameter that is read at a version or a label has the key that it has without; two of them are one too many.
    """
    assert {"A_B": "/P/a/b:live"} == name_keys("/P", ["/P/a/b:live"], upper_snake)
    with pytest.raises(KeyCollision):
        name_keys("/P", ["/P/a:1", "/P/a:2"], upper_snake)


def test_collisions_are_all_told_at_once() -> None:
    """Two pairs that collide are one error, with what to do about it."""
    with pytest.raises(KeyCollision) as caught:
        name_keys("/P", ["/P/b", "/P/a/x", "/P/c", "/P/a.x", "/P/B"], upper_snake)

    assert {"A_X": ("/P/a.x", "/P/a/x"), "B": ("/P/B", "/P/b")} == caught.value.collisions
    assert "to_key=str" in str(caught.value)


def test_names_are_kept_as_they_are_with_str() -> None:
    """With `to_key=str` a key is the name below the path."""
    assert {"a.x": "/P/a.x", "a/x": "/P/a/x"} == name_keys("/P", ["/P/a/x", "/P/a.x"], str)


def test_to_key_that_raises_is_named_with_its_parameter() -> None:
    """A `to_key` that raises is `InvalidVariable`, which names the parameter and the error and has it as its cause."""
    with pytest.raises(InvalidVariable, match="to_key raised KeyError") as caught:
        name_keys("/P", ["/P/a", "/P/b"], {"a": "A"}.__getitem__)

    assert ("/P/b", "/P") == (caught.value.parameter, caught.value.path)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.remedy


def test_to_key_that_returns_no_string_is_named_with_its_parameter() -> None:
    """A `to_key` that returns something else than a string is `InvalidVariable`, which names type and parameter."""
    with pytest.raises(InvalidVariable, match="to_key returned NoneType, not str") as caught:
        name_keys("/P", ["/P/a"], lambda _: None)  # type: ignore[arg-type,return-value]

    assert ("/P/a", "/P") == (caught.value.parameter, caught.value.path)
    assert caught.value.remedy
