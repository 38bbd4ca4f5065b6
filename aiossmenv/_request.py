"""What is asked of Parameter Store, and what it answers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiossmenv._parameter import Reading, base_name

# What GetParameters takes in one call, and GetParametersByPath gives in one page, at most.
BATCH = 10


@dataclass(frozen=True, slots=True)
class ByPath:
    """One page of a path: `GetParametersByPath`."""

    path: str
    recursive: bool
    decrypt: bool = True
    token: str | None = None


@dataclass(frozen=True, slots=True)
class ByName:
    """Up to ten parameters by name: `GetParameters`."""

    names: tuple[str, ...]
    decrypt: bool = True


@dataclass(frozen=True, slots=True)
class One:
    """One parameter by name: `GetParameter`."""

    name: str
    decrypt: bool = True


Request = ByPath | ByName | One


@dataclass(frozen=True, slots=True)
class Page:
    """What one request gave. *token*: there is more. *unknown*: names that do not exist."""

    items: tuple[Reading, ...]
    token: str | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The listing cannot be continued from this token."""


Answer = Page | TokenRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """
    What to look at: all under *path*, or *names*.

    *may_list*: whether names under *path* may be found by listing it, where the role may not read them by name.
    """

    path: str = ""
    recursive: bool = True
    names: tuple[str, ...] | None = None
    may_list: bool = True


def tens(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """
    Return *names* in tens, no two of one parameter together, nor of parameters that differ by their account only.

    An answer says which parameter it is, but not always by which spelling or selector it was asked for.
    """
    with_room: list[dict[str, str]] = []
    for name in names:
        base = base_name(name).lstrip("/")
        ten = next((ten for ten in reversed(with_room) if base not in ten), None)
        if ten is None:
            ten = {}
            with_room.append(ten)
        ten[base] = name
        if len(ten) == BATCH:
            with_room.remove(ten)
            yield tuple(ten.values())
    yield from (tuple(ten.values()) for ten in with_room)
