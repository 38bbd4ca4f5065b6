"""From a parameter's relative name to the key it has in an environment."""

from collections.abc import Callable, Iterable

from aiossmenv._errors import InvalidVariable, KeyCollision
from aiossmenv._parameter import relative_name

_SEPARATORS = str.maketrans("/.-", "___")


def upper_snake(name: str) -> str:
    """Return *name* with `/`, `.` and `-` made `_`, in upper case: `db/read-only.url` is `DB_READ_ONLY_URL`."""
    return name.translate(_SEPARATORS).upper()


def name_keys(path: str, names: Iterable[str], to_key: Callable[[str], str]) -> dict[str, str]:
    """
    Map each key to the one name of *names* that it stands for; all are below *path*.

    Raises `KeyCollision` with every pair that maps to one key, `InvalidVariable` where *to_key* fails.
    """
    names_by_key: dict[str, list[str]] = {}
    for name in sorted(names):
        names_by_key.setdefault(_key(path, name, to_key), []).append(name)
    collisions = {key: tuple(same) for key, same in names_by_key.items() if len(same) > 1}
    if collisions:
        pairs = "; ".join(f"{key} from {' and '.join(same)}" for key, same in collisions.items())
        raise KeyCollision(
            f"several parameters map to one key: {pairs}",
            collisions=collisions,
            path=path,
            remedy="Rename all but one of each, or pass to_key=str to keep names as they are.",
        )
    return {key: same[0] for key, same in names_by_key.items()}


def _key(path: str, name: str, to_key: Callable[[str], str]) -> str:
    try:
        # Which version of it is read is no part of what it is called.
        key = to_key(relative_name(path, name).partition(":")[0])
    except Exception as error:
        raise InvalidVariable(
            f"to_key raised {type(error).__name__}", parameter=name, path=path, remedy="Correct to_key."
        ) from error
    if not isinstance(key, str):
        raise InvalidVariable(
            f"to_key returned {type(key).__name__}, not str", parameter=name, path=path, remedy="Correct to_key."
        )
    return key
