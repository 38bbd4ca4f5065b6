"""
What is asked of Parameter Store, and what it answers.

The requests and their fields are called as AWS calls its operations. A `Transport` sends them: the one that talks to
AWS is in `boto.py`, and the one in memory in `aiossmenv.testing`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from aiossmenv._models import Parameter, ParameterHistory, ParameterMetadata, ParameterType, Tier
from aiossmenv._naming import base_name, split_selector

# What GetParameters and DeleteParameters take in one call, and GetParametersByPath gives in one page, at most.
BATCH = 10
# What GetParameterHistory and DescribeParameters give in one page, at most.
LONG_PAGE = 50


@dataclass(frozen=True, slots=True)
class GetParametersByPath:
    """
    Ask for one page of the parameters under a path.

    Attributes:
        path: The path, without its final slash.
        recursive: Whether all levels are wanted, or direct children only.
        with_decryption: Whether each `SecureString` is wanted as plaintext.
        next_token: What the page before gave; `None` for the first page.
    """

    path: str
    recursive: bool = True
    with_decryption: bool = True
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class GetParameters:
    """
    Ask for up to ten parameters by name.

    Attributes:
        names: Full names or ARNs, each with a selector or without.
        with_decryption: Whether each `SecureString` is wanted as plaintext.
    """

    names: tuple[str, ...]
    with_decryption: bool = True


@dataclass(frozen=True, slots=True)
class GetParameter:
    """
    Ask for one parameter by name.

    Attributes:
        name: A full name or an ARN, with a selector or without.
        with_decryption: Whether a `SecureString` is wanted as plaintext.
    """

    name: str
    with_decryption: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PutParameter:
    """
    Write a parameter.

    Attributes:
        name: Full name.
        value: Plaintext; never in the repr.
        type: `String`, `StringList` or `SecureString`.
        overwrite: Whether a parameter that is there gets a new version. Parameter Store refuses this with *tags*.
        key_id: The KMS key of a `SecureString`; `None` for the account's default key.
        tier: `Standard`, `Advanced` or `Intelligent-Tiering`; `None` for that of the parameter, or of the account.
        description: `None` to leave it.
        tags: Pairs of key and value.
        data_type: `text`, `aws:ec2:image` and the like; `None` for the service's default.
    """

    name: str
    value: str = field(repr=False)
    type: ParameterType = "SecureString"
    overwrite: bool = False
    key_id: str | None = None
    tier: Tier | None = None
    description: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    data_type: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteParameters:
    """
    Delete up to ten parameters, each with all its versions.

    Attributes:
        names: Full names.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GetParameterHistory:
    """
    Ask for one page of the versions of a parameter, in plaintext.

    Attributes:
        name: A full name or an ARN.
        next_token: What the page before gave; `None` for the first page.
    """

    name: str
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class DescribeParameters:
    """
    Ask for one page of what the store says of the parameters under a path, without values.

    Attributes:
        path: The path, without its final slash.
        recursive: Whether all levels are wanted, or direct children only.
        next_token: What the page before gave; `None` for the first page.
    """

    path: str
    recursive: bool = True
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class AddTagsToResource:
    """
    Give a parameter more tags, or other values of those it has.

    Attributes:
        resource_id: The full name of the parameter.
        tags: Pairs of key and value.
    """

    resource_id: str
    tags: tuple[tuple[str, str], ...]


ReadRequest = GetParametersByPath | GetParameters | GetParameter
Request = ReadRequest | PutParameter | DeleteParameters | GetParameterHistory | DescribeParameters | AddTagsToResource


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedParameter:
    """
    A `SecureString` as a read without decryption returned it: everything but the value.

    Attributes:
        name: Full name.
        type: `SecureString`.
        version: From 1.
        last_modified: With time zone.
        arn: As the service gave it.
        digest: SHA-256 of the ciphertext, 32 bytes. The ciphertext itself, which looks like a value, is not kept.
        selector: `:3` or `:label` when it was asked for by one, else empty.
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
        Return whether this would decrypt to *parameter*, whose ciphertext had *digest* if that is known.

        Compared for equality, never for order: a parameter that was deleted and made anew starts at version 1.
        """
        return (
            digest in (None, self.digest)
            and (self.arn, self.type, self.version, self.last_modified)
            == (parameter.arn, parameter.type, parameter.version, parameter.last_modified)
        )  # fmt: skip


FetchedParameter = Parameter | EncryptedParameter


@dataclass(frozen=True, slots=True)
class Page:
    """
    What one request gave.

    Attributes:
        parameters: Each as a `Parameter`, or as an `EncryptedParameter` if decryption was not asked for.
        next_token: What the request for the next page needs; `None` if there is none.
        invalid_parameters: The names that do not exist, of those that were asked for.
    """

    parameters: tuple[FetchedParameter, ...]
    next_token: str | None = None
    invalid_parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PutParameterResult:
    """
    What a write gave.

    Attributes:
        version: The version that was written.
        tier: `Standard` or `Advanced`; empty if the service did not say.
    """

    version: int
    tier: str = ""


@dataclass(frozen=True, slots=True)
class DeleteParametersResult:
    """
    What a deletion gave.

    Attributes:
        deleted_parameters: The names that were there.
        invalid_parameters: The names that were not.
    """

    deleted_parameters: tuple[str, ...]
    invalid_parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GetParameterHistoryResult:
    """
    One page of the versions of a parameter.

    Attributes:
        parameters: The versions.
        next_token: What the request for the next page needs; `None` if there is none.
    """

    parameters: tuple[ParameterHistory, ...]
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class DescribeParametersResult:
    """
    One page of what the store says of parameters.

    Attributes:
        parameters: The parameters, without values.
        next_token: What the request for the next page needs; `None` if there is none.
    """

    parameters: tuple[ParameterMetadata, ...]
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class AddTagsToResourceResult:
    """The tags were added."""


Answer = (
    Page
    | PutParameterResult
    | DeleteParametersResult
    | GetParameterHistoryResult
    | DescribeParametersResult
    | AddTagsToResourceResult
)


class ServiceError(Exception):
    """
    The service answered a request with an error.

    A `Transport` raises it; what reads through the transport raises the library's own error for it.

    Attributes:
        code: As AWS calls it: `ThrottlingException`.
        message: The service's own text.
        status: The HTTP status.
    """

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        """Keep *code*, *message* and *status*."""
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status


class Transport(Protocol):
    """What sends one request to a Parameter Store. It opens itself with its first request."""

    @property
    def region(self) -> str | None:
        """The region that it talks to; `None` while that is not known."""

    async def send(self, request: Request) -> Answer:
        """
        Send one request, once.

        A read gives a `Page`, and any other request the result that is named after it.

        Raises:
            ServiceError: The service answered with an error.
            AiossmenvError: Another fault, with the remedy; one that is `transient` is tried again.
        """

    async def aclose(self) -> None:
        """Close all connections; idempotent."""


for _public in (
    *(GetParametersByPath, GetParameters, GetParameter, EncryptedParameter, Page, ServiceError, Transport),
    *(PutParameter, DeleteParameters, GetParameterHistory, DescribeParameters, AddTagsToResource),
    *(PutParameterResult, DeleteParametersResult, GetParameterHistoryResult, DescribeParametersResult),
    AddTagsToResourceResult,
):
    _public.__module__ = "aiossmenv"
del _public


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """
    What to read: all under *path*, or *names*.

    *may_list*: whether names under *path* may be found by listing it, where the role may not read them by name.
    """

    path: str = ""
    recursive: bool = True
    names: tuple[str, ...] | None = None
    may_list: bool = True


def answers(name: str, fetched: FetchedParameter) -> bool:
    """
    Return whether *fetched* is the answer to *name*, a name or an ARN, with a selector or without.

    The service echoes a name's spelling, but answers an ARN of one's own account with the plain name.
    """
    base, _ = split_selector(name)
    if base.startswith("arn:") and fetched.arn:
        return base == fetched.arn
    return base_name(name).lstrip("/") == base_name(fetched.name).lstrip("/")


def batches(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """
    Yield *names* in batches of ten, no two of one parameter together.

    Nor are two of parameters that differ by their account only: an answer says which parameter it is, but not always by
    which spelling or selector it was asked for.
    """
    with_room: list[dict[str, str]] = []
    for name in names:
        base = base_name(name).lstrip("/")
        batch = next((batch for batch in reversed(with_room) if base not in batch), None)
        if batch is None:
            batch = {}
            with_room.append(batch)
        batch[base] = name
        if len(batch) == BATCH:
            with_room.remove(batch)
            yield tuple(batch.values())
    yield from (tuple(batch.values()) for batch in with_room)
