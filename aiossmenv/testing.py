"""
For the tests of your service: a Parameter Store in memory, and a clock that stands still until you move it.

With `pytest_plugins = ["aiossmenv.testing"]` in your `conftest.py` there are two fixtures: *manual_clock*, and
*memory_store*, which is empty, is what your service's own `load_env()` finds while the test runs, and puts
`os.environ` back after it. A rotation, rehearsed (with pytest-asyncio's `asyncio_mode = auto`):

    from aiossmenv import Rotating, load_env

    async def test_follows_its_password(memory_store, manual_clock):
        memory_store.put("/FAKEBOOK/TEST/DB_PASSWORD", "first")

        async def log_in(values):
            return f"logged in with {values['DB_PASSWORD']}"

        async with load_env("/FAKEBOOK/TEST/", ttl=60) as env, Rotating(env, ["DB_PASSWORD"], log_in) as session:
            memory_store.put("/FAKEBOOK/TEST/DB_PASSWORD", "second")
            await manual_clock.advance(60)
            async with session.use() as current:
                assert current == "logged in with second"
            assert (session.state, env.status.failures) == ("READY", 0)

An outage, in which the last good values stay (`deny("kms:Decrypt")`, `hang()` and `fail()` are others):

    from aiossmenv import Throttled, load_env

    async def test_keeps_its_password(memory_store, manual_clock):
        memory_store.put("/FAKEBOOK/TEST/DB_PASSWORD", "first")
        async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:
            memory_store.put("/FAKEBOOK/TEST/DB_PASSWORD", "second")
            memory_store.throttle()
            await manual_clock.advance(600)
            assert env["DB_PASSWORD"] == "first" and isinstance(env.status.last_error, Throttled)
            memory_store.heal()
            await manual_clock.advance(600)
            assert env["DB_PASSWORD"] == "second" and env.status.fresh

A `Rotating` or `RotatingPool` that is refused asks for news on this clock, too: let it `advance()` beside the use.

Without pytest: `with MemoryStore({"/FAKEBOOK/TEST/DB_URL": "db.test"}).installed():`, or `load_env(..., store=store)`.
Errors are made by the code that talks to AWS, so they are those that production gets, texts of the service apart.
(PYTEST_DONT_REWRITE: there is nothing here for pytest to rewrite, so your conftest may import it, too.)
"""

import asyncio
import heapq
import itertools
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple, Self, get_args

from aiossmenv._ssm import store as _store
from aiossmenv._concurrency import Clock
from aiossmenv._errors import AiossmenvError, ParameterNotFound, StoreUnavailable
from aiossmenv._models import Parameter, ParameterType
from aiossmenv._naming import base_name, is_reference, normal_path, split_selector
from aiossmenv._ssm.boto import Client
from aiossmenv._ssm.boto_errors import _NETWORK, _refusal
from aiossmenv._ssm.boto_session import _READ_TIMEOUT
from aiossmenv._ssm.transport import (
    BATCH,
    EncryptedParameter,
    FetchedParameter,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    Request,
)

_REGION = "eu-central-1"
_ARN = f"arn:aws:ssm:{_REGION}:111122223333:parameter"
_KEY = f"arn:aws:kms:{_REGION}:111122223333:key/00000000-0000-0000-0000-000000000000"
_ROLE = "arn:aws:sts::111122223333:assumed-role/test/test"
_ACTIONS = {
    GetParametersByPath: "ssm:GetParametersByPath",
    GetParameters: "ssm:GetParameters",
    GetParameter: "ssm:GetParameter",
}
_RIGHTS = (*_ACTIONS.values(), "kms:Decrypt", "secretsmanager:GetSecretValue")


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
    # Nothing else in asyncio tells whether anybody wants to run now. uvloop does not tell at all; and somebody always may.
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


class MemoryStore(_store.ParameterStore):
    """
    A Parameter Store in memory, and a `ParameterStore` that reads it.

    *parameters*: name -> value, of `SecureString`s. *clock*: a `ManualClock`, or the machine's by default; the jitter
    is always a half. *max_concurrency*, *ttl*: as for `ParameterStore`.

    *calls*: the requests that arrived, each a `Call`. *decrypted*: how many values KMS decrypted.
    """

    def __init__(
        self,
        parameters: Mapping[str, str] = MappingProxyType({}),
        *,
        clock: Clock | None = None,
        max_concurrency: int = 20,
        ttl: float = 60.0,
    ) -> None:
        connect, half = lambda: _Connection(self), lambda: 0.5
        super().__init__(max_concurrency=max_concurrency, ttl=ttl, caller=connect, clock=clock, random=half)
        self.calls: list[Call] = []
        self.decrypted = 0
        # Name -> selector -> parameter; the newest has the empty selector.
        self._held: dict[str, dict[str, Parameter]] = {}
        self._written = datetime.min.replace(tzinfo=UTC)
        self._faults: list[Iterator[Exception]] = []
        self._denied: list[tuple[str, str]] = []
        for name, value in parameters.items():
            self.put(name, value)

    def put(self, name: str, value: str, type: ParameterType = "SecureString") -> None:  # noqa: A002 - PutParameter's
        """Write a parameter: a new version with a new date. Under `/aws/reference/secretsmanager/` it is a secret."""
        if not value or type not in get_args(ParameterType):
            raise ValueError(f"{name}: a value is not empty, and of type {', '.join(get_args(ParameterType))}")
        secret = is_reference(name)
        name = name if secret else normal_path(name)
        self._written = max(self.clock.wall(), self._written + timedelta(milliseconds=1))
        versions = self._held.setdefault(name, {})
        parameter = Parameter(
            name=name,
            value=value,
            type="SecureString" if secret else type,
            version=0 if secret else versions[""].version + 1 if versions else 1,
            last_modified=self._written,
            arn=_ARN + name,
            version_id=f"{self._written:%Y%m%d%H%M%S%f}" if secret else "",
        )
        versions[""] = versions[str(parameter.version)] = parameter

    def delete(self, name: str) -> None:
        """Remove a parameter with all its versions and labels; it begins at version 1 when it is written again."""
        del self._held[self._there(name).name]

    def label(self, name: str, label: str, version: int | None = None) -> None:
        """Give a version, the newest by default, a *label*, which then leads to no other: `name:label` is read so."""
        if not re.fullmatch(r"[A-Za-z_.-][A-Za-z0-9_.-]*", label):
            raise ValueError(f"a label is of letters, digits and _ . -, and does not begin with a digit: {label!r}")
        self._held[name][label] = self._there(name if version is None else f"{name}:{version}")

    def throttle(self, times: int | None = None) -> None:
        """Answer the next *times* requests, by default all, as beyond the quota."""
        self._fault(_Refused("ThrottlingException", "Rate exceeded"), times)

    def fail(self, times: int | None = None) -> None:
        """Answer the next *times* requests, by default all, with a server's error."""
        self._fault(_Refused("InternalServerError", ""), times)

    def hang(self, times: int | None = None) -> None:
        """Leave the next *times* requests, by default all, without an answer: each is given up after 10 seconds."""
        self._fault(TimeoutError(f"no answer within {_READ_TIMEOUT:g} s"), times)

    def deny(self, action: str, resource: str = "*") -> None:
        """
        Take a right away from the role.

        *action*: `ssm:GetParametersByPath`, `ssm:GetParameters`, `ssm:GetParameter`, `kms:Decrypt`,
        `secretsmanager:GetSecretValue`, or a pattern of them, as in a policy. *resource*: a name, for a listing the path
        that is listed, or a pattern.
        """
        if not any(fnmatchcase(right, action) for right in _RIGHTS):
            raise ValueError(f"{action!r} is none of {', '.join(_RIGHTS)}")
        self._denied.append((action, resource.rstrip("/") or "/"))

    def heal(self) -> None:
        """Undo `throttle()`, `fail()`, `hang()` and `deny()`."""
        self._faults.clear()
        self._denied.clear()

    @contextmanager
    def patch_default(self) -> Iterator[Self]:
        """Let every `ParameterStore`, and so every `load_env()`, made in this block read from here, on this clock."""
        before, _store._outside = _store._outside, (self._connect, self.clock, self.random)
        try:
            yield self
        finally:
            _store._outside = before

    def __del__(self) -> None:
        """Say nothing: in memory nothing stays open."""

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._held)} parameters>"

    def _find(self, name: str) -> Parameter | None:
        base, selector = split_selector(name)
        found = self._held.get(base.removeprefix(_ARN), {}).get(selector)
        return replace(found, selector=f":{selector}") if found and selector else found

    def _there(self, name: str) -> Parameter:
        found = self._find(name)
        if not found:
            raise ParameterNotFound("there is no such parameter or version", parameter=name, remedy="Write it first.")
        return found

    def _fault(self, fault: Exception, times: int | None) -> None:
        self._faults.append(itertools.repeat(fault) if times is None else itertools.repeat(fault, times))


class _Refused(Exception):
    """An error answer: its code and its text."""


class _Connection(Client):
    """A `Client` but for the wire: this is the service."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(session=None, region=_REGION, endpoint_url=None, connections=1)
        self._store = store

    async def _send(self, request: Request) -> Page:
        action = _ACTIONS[type(request)]
        names = (
            request.names
            if isinstance(request, GetParameters)
            else (request.path if isinstance(request, GetParametersByPath) else request.name,)
        )
        self._store.calls.append(Call(action, names, request.decrypt))
        fault = next((hit for faults in self._store._faults if (hit := next(faults, None))), None)
        await self._store.clock.sleep(_READ_TIMEOUT if isinstance(fault, TimeoutError) else 0)
        if fault:
            raise fault.with_traceback(None)
        for name in names:
            self._check(action, base_name(name))
        return self._page(request) if isinstance(request, GetParametersByPath) else self._named(request, names)

    def _page(self, request: GetParametersByPath) -> Page:
        held, stem = self._store._held, request.path.rstrip("/") + "/"
        names = sorted(held)
        after = names[bisect_right(names, request.token or stem) :]
        found = (
            name
            for name in itertools.takewhile(lambda name: name.startswith(stem), after)
            if not is_reference(name) and (request.recursive or "/" not in name.removeprefix(stem))
        )
        page = list(itertools.islice(found, BATCH + 1))
        items = tuple(self._reading(held[name][""], decrypt=request.decrypt) for name in page[:BATCH])
        return Page(items, page[BATCH - 1] if len(page) > BATCH else None)

    def _named(self, request: GetParameters | GetParameter, names: tuple[str, ...]) -> Page:
        for name in filter(is_reference, names if request.decrypt else ()):
            # Who may not read a secret is not told whether there is one.
            self._check("secretsmanager:GetSecretValue", name)
        found = {name: self._store._find(name) for name in names if request.decrypt or not is_reference(name)}
        unknown = tuple(name for name in names if not found.get(name))
        if unknown and isinstance(request, GetParameter):
            hidden = is_reference(request.name) and not request.decrypt
            raise _Refused("ValidationException" if hidden else "ParameterNotFound", "")
        there = sorted((item for item in found.values() if item), key=lambda item: item.name)
        return Page(tuple(self._reading(item, decrypt=request.decrypt) for item in there), unknown=unknown)

    def _reading(self, parameter: Parameter, *, decrypt: bool) -> FetchedParameter:
        if parameter.type != "SecureString":
            return parameter
        if decrypt:
            if not is_reference(parameter.name):
                self._check("kms:Decrypt", parameter.name)
            self._store.decrypted += 1
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
        denied = self._store._denied
        if not any(fnmatchcase(right, action) and fnmatchcase(resource, where) for action, where in denied):
            return
        if right == "secretsmanager:GetSecretValue":
            # In these words, whatever is the matter.
            raise _Refused("ValidationException", "An error occurred while calling one AWS dependency service.")
        on = f"{_KEY} (Service: AWSKMS)" if right == "kms:Decrypt" else _ARN + resource
        text = f"User: {_ROLE} is not authorized to perform: {right} on resource: {on}"
        raise _Refused("AccessDeniedException", text)

    def _translated(self, error: Exception, request: Request) -> tuple[AiossmenvError, None]:
        if isinstance(error, TimeoutError):
            return StoreUnavailable(str(error), remedy=_NETWORK), None
        code, text = error.args
        return _refusal({"Error": {"Code": code, "Message": text}}, request), None


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
