"""Generations of one resource; nothing here waits for anything."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


class Values(Mapping[str, str]):
    """Values of some keys, compared by value; its repr, which a traceback may show, has none of them."""

    def __init__(self, snapshot: Mapping[str, str], keys: Iterable[str]) -> None:
        self._values = {key: snapshot[key] for key in keys}

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<values of {', '.join(self)}>"

    # Sentry sends the variables of frames, and unfolds mappings in them unless they have this.
    __sentry_repr__ = __repr__


@dataclass(eq=False, slots=True)
class Generation(Generic[T]):
    """What was built from one set of *values*; *idle* is set when it is retiring and has no lease."""

    number: int
    values: Mapping[str, str] = field(repr=False)
    resource: T
    leases: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Generations(Generic[T]):
    """Which generation is current and which are retiring; no method waits for anything."""

    def __init__(self) -> None:
        self.current: Generation[T] | None = None
        self.retiring: set[Generation[T]] = set()
        self.number = 0

    def all(self) -> list[Generation[T]]:
        """Return the current generation, if there is one, and those that are retiring."""
        return [*([self.current] if self.current else []), *self.retiring]

    def acquire(self) -> Generation[T] | None:
        """Take a lease on the current generation."""
        if self.current:
            self.current.leases += 1
        return self.current

    def release(self, generation: Generation[T]) -> None:
        """Give a lease back, to the generation that it was taken on."""
        generation.leases -= 1
        if not generation.leases and generation in self.retiring:
            generation.idle.set()

    def swap(self, values: Mapping[str, str], resource: T) -> Generation[T] | None:
        """Make a new generation current; returns the old one, which is to be disposed of when it is idle."""
        old = self.close()
        self.number += 1
        self.current = Generation(self.number, values, resource)
        return old

    def close(self) -> Generation[T] | None:
        """Leave none current; returns the one that was, which is to be disposed of when it is idle."""
        old, self.current = self.current, None
        if old:
            self.retiring.add(old)
            if not old.leases:
                old.idle.set()
        return old
