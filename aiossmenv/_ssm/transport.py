"""What is asked of Parameter Store, and what it answers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from aiossmenv._models import Parameter, ParameterType
from aiossmenv._naming import base_name, split_selector


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedParameter:
    """
    A `SecureString` as a read without decryption returned it: everything but the value.

    *digest*: SHA-256 of the ciphertext, 32 bytes. The ciphertext itself, which looks like a value, is not kept.
    """

    name: str
    type: ParameterType
    version: int
    last_modified: datetime | None
    arn: str
    digest: bytes
    selector: str = ""

    def matches(self, parameter: Parameter, digest: bytes | None) -> bool:
        """
        Whether *parameter*, whose ciphertext had *digest* if that is known, is what this would decrypt to.

        Compared for equality, never for order: a parameter that was deleted and made anew starts at version 1.
        """
        return (
            digest in (None, self.digest)
            and (self.arn, self.type, self.version, self.last_modified)
            == (parameter.arn, parameter.type, parameter.version, parameter.last_modified)
        )  # fmt: skip


FetchedParameter = Parameter | EncryptedParameter


def answers(asked: str, read: FetchedParameter) -> bool:
    """
    Whether *read* is the answer to *asked*, a name or an ARN, with a selector or without.

    The service echoes a name's spelling, but answers an ARN of one's own account with the plain name.
    """
    base, _ = split_selector(asked)
    if base.startswith("arn:") and read.arn:
        return base == read.arn
    return base_name(asked).lstrip("/") == base_name(read.name).lstrip("/")


# What GetParameters takes in one call, and GetParametersByPath gives in one page, at most.
BATCH = 10


@dataclass(frozen=True, slots=True)
class GetParametersByPath:
    """One page of a path: `GetParametersByPath`."""

    path: str
    recursive: bool
    decrypt: bool = True
    token: str | None = None


@dataclass(frozen=True, slots=True)
class GetParameters:
    """Up to ten parameters by name: `GetParameters`."""

    names: tuple[str, ...]
    decrypt: bool = True


@dataclass(frozen=True, slots=True)
class GetParameter:
    """One parameter by name: `GetParameter`."""

    name: str
    decrypt: bool = True


Request = GetParametersByPath | GetParameters | GetParameter


@dataclass(frozen=True, slots=True)
class Page:
    """What one request gave. *token*: there is more. *unknown*: names that do not exist."""

    items: tuple[FetchedParameter, ...]
    token: str | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The listing cannot be continued from this token."""


Answer = Page | TokenRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """
    What to look at: all under *path*, or *names*.

    *may_list*: whether names under *path* may be found by listing it, where the role may not read them by name.
    """

    path: str = ""
    recursive: bool = True
    names: tuple[str, ...] | None = None
    may_list: bool = True


def batches(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
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
