"""
For the tests of your service: a Parameter Store in memory, and a clock that stands still until you move it.

With `pytest_plugins = ["aiossmenv.testing"]` in your `conftest.py` there are two fixtures: *manual_clock*, and
*memory_store*, which is empty, is what your service's own `load_env()` finds while the test runs, and puts
`os.environ` back after it. A rotation, rehearsed (with pytest-asyncio's `asyncio_mode = auto`):

    from aiossmenv import Rotating, load_env

    async def test_follows_its_password(memory_store, manual_clock):
        memory_store.set("/FAKEBOOK/TEST/DB_PASSWORD", "first")

        async def log_in(values):
            return f"logged in with {values['DB_PASSWORD']}"

        async with load_env("/FAKEBOOK/TEST/", ttl=60) as env, Rotating(env, ["DB_PASSWORD"], log_in) as session:
            memory_store.set("/FAKEBOOK/TEST/DB_PASSWORD", "second")
            await manual_clock.advance(60)
            async with session.use() as current:
                assert current == "logged in with second"
            assert (session.state, env.status.failures) == ("READY", 0)

An outage, in which the last good values stay (`deny("kms:Decrypt")`, `hang()` and `fail()` are others):

    from aiossmenv import Throttled, load_env

    async def test_keeps_its_password(memory_store, manual_clock):
        memory_store.set("/FAKEBOOK/TEST/DB_PASSWORD", "first")
        async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:
            memory_store.set("/FAKEBOOK/TEST/DB_PASSWORD", "second")
            memory_store.throttle()
            await manual_clock.advance(600)
            assert env["DB_PASSWORD"] == "first" and isinstance(env.status.last_error, Throttled)
            memory_store.heal()
            await manual_clock.advance(600)
            assert env["DB_PASSWORD"] == "second" and env.status.fresh

A `Rotating` or `RotatingPool` whose login is rejected waits on this clock, too: let it `advance()` beside the use.

Without pytest: `with MemoryStore({"/FAKEBOOK/TEST/DB_URL": "db.test"}).patch_default():`, or `load_env(...,
store=store)`. Errors are made by the code that talks to AWS, so they are those that production gets, texts of the
service apart. (PYTEST_DONT_REWRITE: there is nothing here for pytest to rewrite, so your conftest may import it, too.)
"""

import asyncio
import heapq
import itertools
import os
import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from hashlib import sha256
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

from aiossmenv import (
    AddTagsToResource,
    AddTagsToResourceResult,
    Clock,
    DeleteParameters,
    DeleteParametersResult,
    DescribeParameters,
    DescribeParametersResult,
    EncryptedParameter,
    GetParameter,
    GetParameterHistory,
    GetParameterHistoryResult,
    GetParameters,
    GetParametersByPath,
    InvalidPath,
    Page,
    Parameter,
    ParameterHistory,
    ParameterMetadata,
    ParameterNotFound,
    ParameterStore,
    PutParameter,
    PutParameterResult,
    ServiceError,
    StoreUnavailable,
)

_REGION = "eu-central-1"
_ARN = f"arn:aws:ssm:{_REGION}:111122223333:parameter"
_KEY = f"arn:aws:kms:{_REGION}:111122223333:key/00000000-0000-0000-0000-000000000000"
_ROLE = "arn:aws:sts::111122223333:assumed-role/test/test"
_SECRETS = "/aws/reference/secretsmanager/"
_RIGHTS = (
    "ssm:GetParametersByPath",
    "ssm:GetParameters",
    "ssm:GetParameter",
    "ssm:GetParameterHistory",
    "ssm:DescribeParameters",
    "ssm:PutParameter",
    "ssm:DeleteParameters",
    "ssm:AddTagsToResource",
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "secretsmanager:GetSecretValue",
)
_Type = Literal["String", "StringList", "SecureString"]
_TYPES = ("String", "StringList", "SecureString")
_INVALID = "ValidationException"
_LONGEST = {"Standard": 4_096, "Advanced": 8_192}
# The service's limits: names in a call and parameters in a page, items in a page of a history, versions that it keeps.
_BATCH, _LONG_PAGE, _VERSIONS = 10, 50, 100
# Seconds after which the real transport gives up.
_READ_TIMEOUT = 10.0
_NAME = re.compile(r"(?:/[A-Za-z0-9_.-]+)+/?")

_Request = (
    GetParametersByPath
    | GetParameters
    | GetParameter
    | PutParameter
    | DeleteParameters
    | GetParameterHistory
    | DescribeParameters
    | AddTagsToResource
)
_Answer = (
    Page
    | PutParameterResult
    | DeleteParametersResult
    | GetParameterHistoryResult
    | DescribeParametersResult
    | AddTagsToResourceResult
)


class ManualClock:
    """A `Clock` whose time passes in `advance()` only; `wall()` begins with 2026."""

    def __init__(self) -> None:
        self._now = 0.0
        self._turn = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the seconds that were advanced so far."""
        return self._now

    def wall(self) -> datetime:
        """Return the same as a time of day."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._now)

    async def sleep(self, seconds: float) -> None:
        """Return when the time was advanced so far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._turn), done))
        await done

    async def advance(self, seconds: float) -> None:
        """
        Let so many seconds pass: all that falls due happens, in order, each at its time.

        What it does without waiting for a socket or a thread is done when this returns.
        """
        if seconds < 0:
            raise ValueError("time does not run backwards")
        await _settle()
        until = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            self._now, _, done = heapq.heappop(self._sleepers)
            if not done.done():
                done.set_result(None)
                await _settle()
        self._now = until
        await _settle()


async def _settle() -> None:
    """Let every task run until it waits for something outside the loop."""
    # asyncio has no public way to tell whether a task is ready to run, and uvloop has none at all.
    ready = getattr(asyncio.get_running_loop(), "_ready", None)
    for _ in range(1_000 if ready is None else 10_000):
        await asyncio.sleep(0)
        if ready is not None and not ready:
            break


class Call(NamedTuple):
    """One request that arrived: *action*, as `ssm:GetParameters`, and its *names*, or the path as the only one."""

    action: str
    names: tuple[str, ...]
    decrypt: bool


class _Details(NamedTuple):
    """What the service says of a version that no read gives."""

    tier: str
    description: str
    key_id: str


@dataclass(eq=False, slots=True)
class _Service:
    """What a Parameter Store holds, and how it answers; a `Transport` that any number of stores may share."""

    calls: list[Call] = field(default_factory=list)
    decrypted: int = 0
    # Name -> selector -> parameter; the newest has the empty selector.
    held: dict[str, dict[str, Parameter]] = field(default_factory=dict)
    details: dict[str, dict[int, _Details]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[Iterator[Exception]] = field(default_factory=list)
    denied: list[tuple[str, str]] = field(default_factory=list)
    region: str | None = _REGION
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    wall: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    written: datetime = field(default_factory=lambda: datetime.min.replace(tzinfo=UTC))

    def find(self, name: str) -> Parameter | None:
        base, selector = _split(name)
        found = self.held.get(base.removeprefix(_ARN), {}).get(selector)
        return replace(found, selector=f":{selector}") if found and selector else found

    def write(self, name: str, value: str, kind: _Type, data_type: str = "text") -> Parameter:
        """Write a new version."""
        secret = name.startswith(_SECRETS)
        self.written = max(self.wall(), self.written + timedelta(milliseconds=1))
        versions = self.held.setdefault(name, {})
        parameter = Parameter(
            name=name,
            value=value,
            type="SecureString" if secret else kind,
            version=0 if secret else versions[""].version + 1 if versions else 1,
            last_modified=self.written,
            arn=_ARN + name,
            data_type=data_type,
            version_id=f"{self.written:%Y%m%d%H%M%S%f}" if secret else "",
        )
        versions[""] = versions[str(parameter.version)] = parameter
        return parameter

    def drop(self, name: str) -> bool:
        """Remove a parameter with all that is known of it; return whether it was there."""
        self.details.pop(name, None)
        self.tags.pop(name, None)
        return self.held.pop(name, None) is not None

    async def send(self, request: _Request) -> _Answer:  # noqa: C901, PLR0911 - a table of requests
        names = _names(request)
        action = f"ssm:{type(request).__name__}"
        decrypt = isinstance(request, GetParameterHistory) or getattr(request, "with_decryption", False)
        self.calls.append(Call(action, names, decrypt))
        fault = next((hit for faults in self.faults if (hit := next(faults, None))), None)
        await self.sleep(_READ_TIMEOUT if isinstance(fault, StoreUnavailable) else 0)
        if fault:
            raise fault.with_traceback(None)
        for name in names:
            self._check(action, _split(name)[0].removeprefix(_ARN))
        match request:
            case GetParametersByPath():
                return self._page(request)
            case GetParameters() | GetParameter():
                return self._named(request, names)
            case PutParameter():
                return self._put(request)
            case DeleteParameters():
                there = tuple(name for name in names if self.drop(name))
                return DeleteParametersResult(there, tuple(name for name in names if name not in there))
            case GetParameterHistory():
                return self._history(request)
            case DescribeParameters():
                return self._described(request)
            case AddTagsToResource(name, tags):
                if name not in self.held:
                    raise ServiceError("InvalidResourceId")
                self.tags.setdefault(name, {}).update(tags)
                return AddTagsToResourceResult()

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _put(self, request: PutParameter) -> PutParameterResult:
        name = request.name.rstrip("/")
        versions = self.held.get(name, {})
        newest = versions.get("")
        details = self._details_of(newest) if newest else _Details("Standard", "", "")
        tier = request.tier or details.tier
        if tier == "Intelligent-Tiering":
            tier = "Advanced" if len(request.value) > _LONGEST["Standard"] else details.tier
        if request.tags:
            self._check("ssm:AddTagsToResource", name)
        if request.type == "SecureString":
            self._check("kms:Encrypt" if tier == "Standard" else "kms:GenerateDataKey", name)
        _refuse(request, newest, details.tier, tier)
        self._drop_oldest(versions)
        written = self.write(name, request.value, request.type, request.data_type or "text")
        description = details.description if request.description is None else request.description
        key_id = (request.key_id or "alias/aws/ssm") if request.type == "SecureString" else ""
        self.details.setdefault(name, {})[written.version] = _Details(tier, description, key_id)
        if request.tags:
            self.tags.setdefault(name, {}).update(request.tags)
        return PutParameterResult(written.version, tier)

    def _drop_oldest(self, versions: dict[str, Parameter]) -> None:
        """Make room for one more version."""
        numbers = sorted(int(selector) for selector in versions if selector.isdecimal())
        if len(numbers) < _VERSIONS:
            return
        if _labels(versions, numbers[0]):
            raise ServiceError("ParameterMaxVersionLimitExceeded", "The oldest version has a label.")
        del versions[str(numbers[0])]

    def _history(self, request: GetParameterHistory) -> GetParameterHistoryResult:
        name = request.name.removeprefix(_ARN)
        versions = self.held.get(name)
        if not versions:
            raise ServiceError("ParameterNotFound")
        begin = int(request.next_token or 0)
        numbers = sorted(int(selector) for selector in versions if selector.isdecimal())
        page = numbers[begin : begin + _LONG_PAGE]
        items = []
        for number in page:
            parameter = self._given(versions[str(number)], decrypt=True)
            assert isinstance(parameter, Parameter)
            details = self._details_of(parameter)
            items.append(
                ParameterHistory(
                    parameter=parameter,
                    labels=_labels(versions, number),
                    last_modified_user=_ROLE,
                    key_id=details.key_id,
                    tier=details.tier,
                    description=details.description,
                )
            )
        more = begin + _LONG_PAGE < len(numbers)
        return GetParameterHistoryResult(tuple(items), str(begin + _LONG_PAGE) if more else None)

    def _described(self, request: DescribeParameters) -> DescribeParametersResult:
        names = self._below(request.path, request.next_token or "", recursive=request.recursive)
        page = list(itertools.islice(names, _LONG_PAGE + 1))
        items = []
        for name in page[:_LONG_PAGE]:
            parameter = self.held[name][""]
            details = self._details_of(parameter)
            items.append(
                ParameterMetadata(
                    name=name,
                    type=parameter.type,
                    version=parameter.version,
                    last_modified=parameter.last_modified,
                    last_modified_user=_ROLE,
                    key_id=details.key_id,
                    tier=details.tier,
                    description=details.description,
                    data_type=parameter.data_type,
                    arn=parameter.arn,
                )
            )
        return DescribeParametersResult(tuple(items), page[_LONG_PAGE - 1] if len(page) > _LONG_PAGE else None)

    def _details_of(self, parameter: Parameter) -> _Details:
        plain = _Details("Standard", "", "alias/aws/ssm" if parameter.type == "SecureString" else "")
        return self.details.get(parameter.name, {}).get(parameter.version, plain)

    def _below(self, path: str, after: str, *, recursive: bool) -> Iterator[str]:
        """Yield the names under *path* that come after *after*, in their order."""
        stem = path.rstrip("/") + "/"
        names = sorted(self.held)
        return (
            name
            for name in itertools.takewhile(
                lambda name: name.startswith(stem), names[bisect_right(names, after or stem) :]
            )
            if not name.startswith(_SECRETS) and (recursive or "/" not in name.removeprefix(stem))
        )

    def _page(self, request: GetParametersByPath) -> Page:
        found = self._below(request.path, request.next_token or "", recursive=request.recursive)
        page = list(itertools.islice(found, _BATCH + 1))
        items = tuple(self._given(self.held[name][""], decrypt=request.with_decryption) for name in page[:_BATCH])
        return Page(items, page[_BATCH - 1] if len(page) > _BATCH else None)

    def _named(self, request: GetParameters | GetParameter, names: tuple[str, ...]) -> Page:
        secrets = [name for name in names if name.startswith(_SECRETS)]
        for name in secrets if request.with_decryption else ():
            # A role that may not read a secret is not told whether there is one.
            self._check("secretsmanager:GetSecretValue", name)
        found = {name: self.find(name) for name in names if request.with_decryption or name not in secrets}
        unknown = tuple(name for name in names if not found.get(name))
        if unknown and isinstance(request, GetParameter):
            raise ServiceError("ValidationException" if secrets and not found else "ParameterNotFound")
        there = sorted((item for item in found.values() if item), key=lambda item: item.name)
        return Page(tuple(self._given(item, decrypt=request.with_decryption) for item in there), None, unknown)

    def _given(self, parameter: Parameter, *, decrypt: bool) -> Parameter | EncryptedParameter:
        if parameter.type != "SecureString":
            return parameter
        if decrypt:
            if not parameter.name.startswith(_SECRETS):
                self._check("kms:Decrypt", parameter.name)
            self.decrypted += 1
            return parameter
        return EncryptedParameter(
            name=parameter.name,
            type=parameter.type,
            version=parameter.version,
            last_modified=parameter.last_modified,
            arn=parameter.arn,
            # There is no ciphertext, but as with one, no two writes give the same.
            digest=sha256(f"{parameter.arn} {parameter.last_modified}".encode()).digest(),
            selector=parameter.selector,
        )

    def _check(self, right: str, resource: str) -> None:
        if not any(fnmatchcase(right, action) and fnmatchcase(resource, where) for action, where in self.denied):
            return
        if right == "secretsmanager:GetSecretValue":
            # In these words, whatever is the matter.
            raise ServiceError("ValidationException", "An error occurred while calling one AWS dependency service.")
        on = f"{_KEY} (Service: AWSKMS)" if right.startswith("kms:") else _ARN + resource
        if right == "ssm:DescribeParameters":
            on = f"{_ARN.removesuffix('parameter')}*"
        text = f"User: {_ROLE} is not authorized to perform: {right} on resource: {on}"
        raise ServiceError("AccessDeniedException", text)


class MemoryStore(ParameterStore):
    """
    A Parameter Store in memory, and a `ParameterStore` that reads it.

    The jitter of its waits is always a half.

    Args:
        parameters: Name -> value, of `SecureString`s.
        clock: A `ManualClock`. Default: the machine's.
        max_concurrency: As for `ParameterStore`.
        ttl: As for `ParameterStore`.

    Attributes:
        calls: The requests that arrived, each a `Call`.
        decrypted: How many values KMS decrypted.
    """

    def __init__(
        self,
        parameters: Mapping[str, str] = MappingProxyType({}),
        *,
        clock: Clock | None = None,
        max_concurrency: int = 20,
        ttl: float = 60.0,
    ) -> None:
        """See the class."""
        self._service = service = _Service()
        super().__init__(max_concurrency=max_concurrency, ttl=ttl, transport=service, clock=clock, random=_half)
        service.sleep = self.clock.sleep
        service.wall = self.clock.wall
        for name, value in parameters.items():
            self.set(name, value)

    @property
    def calls(self) -> list[Call]:
        """The requests that arrived."""
        return self._service.calls

    @property
    def decrypted(self) -> int:
        """How many values KMS decrypted."""
        return self._service.decrypted

    @property
    def tags(self) -> Mapping[str, Mapping[str, str]]:
        """The tags of each parameter that has any, by its name."""
        return self._service.tags

    def set(
        self,
        name: str,
        value: str,
        type: _Type = "SecureString",  # noqa: A002 - PutParameter's word
    ) -> None:
        """
        Write a parameter as another client would, without a request: a new version with a new date.

        `await store.put()` writes it with a request, with the rights and faults of this store.

        Args:
            name: Full name. Under `/aws/reference/secretsmanager/` it is a secret of Secrets Manager.
            value: Not empty.
            type: `String`, `StringList` or `SecureString`.

        Raises:
            ValueError: The value is empty, or there is no such type.
            InvalidPath: A parameter cannot be called so.
        """
        if not value or type not in _TYPES:
            raise ValueError(f"{name}: a value is not empty, and of type {', '.join(_TYPES)}")
        secret = name.startswith(_SECRETS)
        if not secret and not _NAME.fullmatch(name.strip()):
            raise InvalidPath(
                "a name begins with a slash, and is made of letters, digits and _ . - between single slashes",
                parameter=name,
                remedy="Write it like /FAKEBOOK/TEST/DB_URL.",
            )
        self._service.write(name if secret else name.strip().rstrip("/"), value, type)

    def remove(self, name: str) -> None:
        """
        Remove a parameter as another client would, with all its versions and labels.

        It begins at version 1 when it is written again.

        Raises:
            ParameterNotFound: There is no such parameter.
        """
        self._service.drop(self._there(name).name)

    def label(self, name: str, label: str, version: int | None = None) -> None:
        """
        Give a version a label, which then leads to no other version; `name:label` reads it.

        Args:
            name: Full name.
            label: Letters, digits and `_ . -`; the first is no digit.
            version: Default: the newest.

        Raises:
            ParameterNotFound: There is no such parameter or version.
            ValueError: A label cannot be called so.
        """
        if not re.fullmatch(r"[A-Za-z_.-][A-Za-z0-9_.-]*", label):
            raise ValueError(f"a label is of letters, digits and _ . -, and does not begin with a digit: {label!r}")
        parameter = self._there(name if version is None else f"{name}:{version}")
        self._service.held[name][label] = replace(parameter, selector="")

    def throttle(self, times: int | None = None) -> None:
        """Answer the next *times* requests, by default all, as beyond the quota."""
        self._fault(ServiceError("ThrottlingException", "Rate exceeded"), times)

    def fail(self, times: int | None = None) -> None:
        """Answer the next *times* requests, by default all, with a server's error."""
        self._fault(ServiceError("InternalServerError", status=500), times)

    def hang(self, times: int | None = None) -> None:
        """Leave the next *times* requests, by default all, without an answer: each is given up after 10 seconds."""
        remedy = "Check the network, the VPC endpoint or NAT, the region, and AWS_ENDPOINT_URL_SSM if it is set."
        self._fault(StoreUnavailable(f"no answer within {_READ_TIMEOUT:g} s", remedy=remedy), times)

    def deny(self, action: str, resource: str = "*") -> None:
        """
        Take a right away from the role.

        Args:
            action: `ssm:` and the name of a request (`ssm:GetParameters`, `ssm:PutParameter` and the like),
                `kms:Decrypt`, `kms:Encrypt`, `kms:GenerateDataKey` (advanced parameters),
                `secretsmanager:GetSecretValue`, or a pattern of them, as in a policy.
            resource: A name, for a listing the path that is listed, or a pattern.

        Raises:
            ValueError: There is no such action.
        """
        if not any(fnmatchcase(right, action) for right in _RIGHTS):
            raise ValueError(f"{action!r} is none of {', '.join(_RIGHTS)}")
        self._service.denied.append((action, resource.rstrip("/") or "/"))

    def heal(self) -> None:
        """Undo `throttle()`, `fail()`, `hang()` and `deny()`."""
        self._service.faults.clear()
        self._service.denied.clear()

    @contextmanager
    def patch_default(self) -> Iterator[Self]:
        """Let every `ParameterStore`, and so every `load_env()`, made in this block read from here, on this clock."""
        with ParameterStore.override_defaults(transport=self._service, clock=self.clock, random=self.random):
            yield self

    def __del__(self) -> None:
        """Say nothing: in memory nothing stays open."""

    def __repr__(self) -> str:
        """Return one line that is fit for a log."""
        return f"<MemoryStore {len(self._service.held)} parameters>"

    def _there(self, name: str) -> Parameter:
        found = self._service.find(name)
        if not found:
            raise ParameterNotFound("there is no such parameter or version", parameter=name, remedy="Write it first.")
        return found

    def _fault(self, fault: Exception, times: int | None) -> None:
        self._service.faults.append(itertools.repeat(fault) if times is None else itertools.repeat(fault, times))


def _half() -> float:
    return 0.5


def _split(name: str) -> tuple[str, str]:
    """Return a name without its selector, and that."""
    if name.startswith(_SECRETS):
        return name, ""
    stem, found, rest = name.partition(":parameter") if name.startswith("arn:") else ("", "", name)
    base, _, selector = rest.partition(":")
    return stem + found + base, selector


def _names(request: _Request) -> tuple[str, ...]:
    match request:
        case GetParametersByPath(path) | DescribeParameters(path):
            return (path,)
        case GetParameters(names) | DeleteParameters(names):
            return names
        case AddTagsToResource(name):
            return (name,)
        case _:
            return (request.name,)


def _refuse(request: PutParameter, newest: Parameter | None, tier_before: str, tier: str) -> None:
    """Raise what Parameter Store answers to a write that it does not take."""
    first = request.name.strip("/").partition("/")[0]
    for is_wrong, code, text in (
        (request.tags and request.overwrite, _INVALID, "Invalid request: tags and overwrite can't be used together."),
        (first.casefold() in {"aws", "ssm"}, _INVALID, 'Parameter name: can\'t be prefixed with "aws" or "ssm".'),
        (not _NAME.fullmatch(request.name), _INVALID, "Parameter name must be a fully qualified name."),
        (newest and not request.overwrite, "ParameterAlreadyExists", "The parameter already exists."),
        (newest and newest.type != request.type, "HierarchyTypeMismatchException", "The type cannot be changed."),
        (
            (tier_before, tier) == ("Advanced", "Standard"),
            _INVALID,
            "An advanced parameter cannot become a standard one.",
        ),
        (not request.value, _INVALID, "Member must have length greater than or equal to 1."),
        (
            len(request.value) > _LONGEST[tier],
            _INVALID,
            f"{tier} tier parameters support a maximum parameter value of {_LONGEST[tier]} characters.",
        ),
    ):
        if is_wrong:
            raise ServiceError(code, text)


def _labels(versions: Mapping[str, Parameter], number: int) -> tuple[str, ...]:
    """Return the labels of a version."""
    named = (label for label in versions if label and not label.isdecimal())
    return tuple(sorted(label for label in named if versions[label].version == number))


try:
    import pytest
except ImportError:  # pragma: no cover - a test runs this in an interpreter that finds no pytest
    pass
else:

    @pytest.fixture
    def manual_clock() -> ManualClock:
        """Give a clock that stands still."""
        return ManualClock()

    @pytest.fixture
    def memory_store(manual_clock: ManualClock) -> Iterator[MemoryStore]:
        """Give an empty Parameter Store, installed for the test; put the environment back."""
        before = dict(os.environ)
        with MemoryStore(clock=manual_clock).patch_default() as store:
            yield store
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
