# One owner: what a complete read means for what was known before. No I/O, no clock.
"""Complete reads, how they differ, and how a new one is merged with what is known."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from aiossmenv._naming import name_keys
from aiossmenv._parameter import REFERENCE, Parameter, is_older, is_reference, relative_name


class Snapshot(Mapping[str, str]):
    """
    One complete read: key -> value, immutable.

    *parameters* maps the same keys to their `Parameter`; *taken_at* is when the last read of all ended, with time zone.
    """

    __slots__ = ("_parameters", "_taken_at")

    def __init__(self, parameters: Mapping[str, Parameter], taken_at: datetime) -> None:
        self._parameters = dict(sorted(parameters.items()))
        self._taken_at = taken_at

    def _retaken(self, taken_at: datetime) -> "Snapshot":
        """Return what a later read gives that found all as it was."""
        same = Snapshot({}, taken_at)
        same._parameters = self._parameters
        return same

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The same keys, with all that the store says of each."""
        return MappingProxyType(self._parameters)

    @property
    def taken_at(self) -> datetime:
        """When the read ended."""
        return self._taken_at

    def __getitem__(self, key: str) -> str:
        return self._parameters[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self)} parameters, taken {self.taken_at:%Y-%m-%d %H:%M:%S%z}>"

    # As for `Env`.
    __sentry_repr__ = __repr__


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
    before, after = old.parameters, new.parameters
    differing = [key for key, parameter in after.items() if before.get(key) is not parameter]
    changes = (
        _change(key, before.get(key), after.get(key)) for key in sorted([*differing, *before.keys() - after.keys()])
    )
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
    What is believed to be in the store: *parameters* by name, and the *digests* of their ciphertexts, where known.

    *missed*: names that the last complete read did not find. Parameter Store is eventually consistent: what one read
    misses may be there in the next one, and an older answer may follow a newer one.
    """

    parameters: Mapping[str, Parameter]
    digests: Mapping[str, bytes] = field(default_factory=dict)
    missed: frozenset[str] = frozenset()

    def merge(self, read: Mapping[str, Parameter], digests: Mapping[str, bytes], *, complete: bool = True) -> "Known":
        """
        Return what is known after a *read*.

        A parameter is gone when two *complete* reads in a row miss it. An answer from a replica that lags is ignored.
        """
        fresh = {name for name, new in read.items() if not _lags(new, self.parameters.get(name))}
        gone = self.missed - read.keys() if complete else frozenset()
        old = {name: parameter for name, parameter in self.parameters.items() if name not in gone}
        return Known(
            parameters={**old, **{name: read[name] for name in fresh}},
            digests={
                **{name: digest for name, digest in self.digests.items() if name in old and name not in fresh},
                **{name: digest for name, digest in digests.items() if name in fresh},
            },
            missed=frozenset(old.keys() - read.keys()) if complete else self.missed - read.keys(),
        )

    def names_below(self, path: str, *, recursive: bool) -> list[str]:
        """Return the names under *path*."""
        return [name for name in self.parameters if is_below(path, name, recursive=recursive)]

    def keyed(self, path: str, names: Iterable[str], *, to_key: Callable[[str], str]) -> dict[str, Parameter]:
        """
        Return the parameters of those *names*, all under *path*, that are known, by their keys.

        Raises `KeyCollision` and `InvalidVariable`. A parameter that the last read missed cannot collide: if its key
        is taken, it was renamed.
        """
        there = [name for name in names if name in self.parameters]
        found = name_keys(path, (name for name in there if name not in self.missed), to_key)
        missed = name_keys(path, (name for name in there if name in self.missed), to_key)
        return {key: self.parameters[name] for key, name in (missed | found).items()}


def is_below(path: str, name: str, *, recursive: bool) -> bool:
    """Whether *name* is under *path*, and directly under it if that is not to be *recursive*."""
    if is_reference(name):
        return path == REFERENCE
    relative = relative_name(path, name)
    return (path == "/" or relative != name) and (recursive or "/" not in relative)


def _lags(read: Parameter, known: Parameter | None) -> bool:
    return known is not None and read is not known and is_older(read, known)
