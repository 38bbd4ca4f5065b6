# One owner: what a complete read means for what was known before. No I/O, no clock.
"""Complete reads, how they differ, and how a new one is merged with what is known."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from aiossmenv._naming import name_keys
from aiossmenv._parameter import Parameter, relative_name


class Snapshot(Mapping[str, str]):
    """
    One complete read: key -> value, immutable.

    *parameters* maps the same keys to their `Parameter`; *taken_at* is when the read ended, with time zone.
    """

    __slots__ = ("_values", "parameters", "taken_at")

    def __init__(self, parameters: Mapping[str, Parameter], taken_at: datetime) -> None:
        self.parameters: Mapping[str, Parameter] = MappingProxyType(dict(sorted(parameters.items())))
        self.taken_at = taken_at
        self._values = {key: parameter.value for key, parameter in self.parameters.items()}

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self)} parameters, taken {self.taken_at:%Y-%m-%d %H:%M:%S%z}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    What became of one *key*: *kind* is `added`, `updated` or `removed`.

    *old* and *new* are the `Parameter`s before and after, `None` where there was or is none. A parameter that was
    written again with the value it had is `updated` too: its version differs.
    """

    key: str
    kind: Literal["added", "updated", "removed"]
    old: Parameter | None
    new: Parameter | None


def diff(old: Snapshot, new: Snapshot) -> tuple[Change, ...]:
    """Return what leads from *old* to *new*, in the order of the keys."""
    keys = sorted(old.parameters.keys() | new.parameters.keys())
    changes = (_change(key, old.parameters.get(key), new.parameters.get(key)) for key in keys)
    return tuple(change for change in changes if change)


Snapshot.__module__ = Change.__module__ = diff.__module__ = "aiossmenv"


def coalesce(first: Change, second: Change) -> Change | None:
    """Return the one change that two on the same key amount to, or `None` if they cancel out."""
    return _change(first.key, first.old, second.new)


def _change(key: str, old: Parameter | None, new: Parameter | None) -> Change | None:
    if old == new:
        return None
    return Change(key=key, kind="added" if old is None else "removed" if new is None else "updated", old=old, new=new)


@dataclass(frozen=True, slots=True)
class Known:
    """
    What is believed to be in the store: *parameters* by name, and the names that the last complete read missed.

    Parameter Store is eventually consistent: a parameter that one read misses may be there in the next one, and an
    older answer may follow a newer one.
    """

    parameters: Mapping[str, Parameter]
    missed: frozenset[str] = frozenset()

    def merge(self, read: Mapping[str, Parameter]) -> "Known":
        """
        Return what is known after a complete *read*.

        A parameter is gone when two reads in a row miss it. An answer with a lower version *and* an earlier date than
        the known one comes from a replica that lags, and is ignored; with a later date it is a parameter that was
        deleted and made anew.
        """
        kept = {
            name: parameter
            for name, parameter in self.parameters.items()
            if name not in read and name not in self.missed
        }
        parameters = kept | {
            name: self.parameters[name] if _lags(parameter, self.parameters.get(name)) else parameter
            for name, parameter in read.items()
        }
        return Known(parameters, frozenset(kept))

    def below(self, path: str, *, recursive: bool, to_key: Callable[[str], str]) -> dict[str, Parameter]:
        """
        Return the parameters under *path* by their keys.

        Raises `KeyCollision` and `InvalidVariable`. A parameter that the last read missed cannot collide: if its key
        is taken, it was renamed.
        """
        there = [name for name in self.parameters if _is_below(path, name, recursive=recursive)]
        names = name_keys(path, (name for name in there if name not in self.missed), to_key)
        missed = name_keys(path, (name for name in there if name in self.missed), to_key)
        return {key: self.parameters[name] for key, name in (missed | names).items()}


def _is_below(path: str, name: str, *, recursive: bool) -> bool:
    relative = relative_name(path, name)
    return (path == "/" or relative != name) and (recursive or "/" not in relative)


def _lags(read: Parameter, known: Parameter | None) -> bool:
    # A label moves back to an older version by intent, so what was read by a selector never lags.
    if known is None or read.selector or read.last_modified is None or known.last_modified is None:
        return False
    return read.version < known.version and read.last_modified < known.last_modified
