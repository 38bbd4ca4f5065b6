"""From names to keys: one key per name, or an error that names every collision."""

from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import InvalidVariable, KeyCollision
from aiossmenv._naming import name_keys, upper_snake

# Few characters, so that some examples collide and some do not.
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
    """Slashes, dots and hyphens become underscores, letters become upper case, and nothing else changes."""
    assert key == upper_snake(name)


@given(NAMES, st.sampled_from([upper_snake, str, str.lower, lambda name: name[:1]]))
def test_one_to_one_or_every_collision(names: set[str], to_key: Callable[[str], str]) -> None:
    """Each name has its own key; otherwise the error lists every key that has several names, with all its names."""
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
        # The text may drop a full stop at the end of a name.
        assert f"{key} from {' and '.join(same)}".removesuffix(".") in str(caught.value)


def test_selector_is_not_part_of_the_key() -> None:
    """A parameter with a version or label has the key of its bare name; two selectors of one name collide."""
    assert {"A_B": "/P/a/b:live"} == name_keys("/P", ["/P/a/b:live"], upper_snake)
    with pytest.raises(KeyCollision):
        name_keys("/P", ["/P/a:1", "/P/a:2"], upper_snake)


def test_one_error_lists_all_collisions() -> None:
    """One error lists two collisions, with a remedy."""
    with pytest.raises(KeyCollision) as caught:
        name_keys("/P", ["/P/b", "/P/a/x", "/P/c", "/P/a.x", "/P/B"], upper_snake)

    assert {"A_X": ("/P/a.x", "/P/a/x"), "B": ("/P/B", "/P/b")} == caught.value.collisions
    assert "to_key=str" in str(caught.value)


def test_to_key_str_keeps_names() -> None:
    """With `to_key=str` a key is the name below the path."""
    assert {"a.x": "/P/a.x", "a/x": "/P/a/x"} == name_keys("/P", ["/P/a/x", "/P/a.x"], str)


def test_to_key_that_raises_names_the_parameter() -> None:
    """
    If `to_key` raises, the error is `InvalidVariable`; it names the parameter and has the original error as its cause.
    """
    with pytest.raises(InvalidVariable, match="to_key raised KeyError") as caught:
        name_keys("/P", ["/P/a", "/P/b"], {"a": "A"}.__getitem__)

    assert ("/P/b", "/P") == (caught.value.parameter, caught.value.path)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.remedy


def test_to_key_must_return_a_string() -> None:
    """
    If `to_key` returns something other than a string, the error is `InvalidVariable` and names the type and parameter.
    """
    with pytest.raises(InvalidVariable, match="to_key returned NoneType, not str") as caught:
        name_keys("/P", ["/P/a"], lambda _: None)  # type: ignore[arg-type,return-value]

    assert ("/P/a", "/P") == (caught.value.parameter, caught.value.path)
    assert caught.value.remedy
