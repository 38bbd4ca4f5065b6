"""
A secret that would be found, through every public path, well and badly; then all that was said is searched for it.

Each scene is played once, with the loggers of everybody at DEBUG and asyncio in debug mode. Heard is what is logged,
printed and warned of, the repr of what the scene has in its hands, and each exception with the variables of our frames.
Left out are exceptions that a user's own functions raise: their text is the user's, our frames in them are not.
"""

import asyncio
import base64
import gc
import inspect
import io
import itertools
import json
import linecache
import logging
import os
import pydoc
import re
import secrets
import sys
import traceback
import types
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aioboto3
import aiohttp
import pytest
import rich.pretty
import uvicorn
from cachetools import TTLCache
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

import aiossmenv.fastapi
import aiossmenv.mysql
import aiossmenv.pydantic
import aiossmenv.testing
from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    EmptyPath,
    EncryptedParameter,
    Env,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    InvalidPath,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    Parameter,
    ParameterNotFound,
    ParameterStore,
    Rotating,
    RotationFailed,
    ServiceError,
    Snapshot,
    StaleEnv,
    StoreUnavailable,
    Throttled,
    diff,
    load_env,
)
from aiossmenv._generations import Values
from aiossmenv.fastapi import EnvDep, get_env, health, lifespan
from aiossmenv.mysql import RotatingPool
from aiossmenv.pydantic import LiveSettings, ParameterSource, live_settings, load_settings
from aiossmenv.testing import ManualClock, MemoryStore
from embedded import MariaDB, Store
from face import MODULES, code_of, is_ours, public
from faults import Call, Fault, FaultProxy, Forward, error, hang, raw, reset, throttled, truncated
from reach import shapes
from timing import eventually

# Found whole wherever it is quoted, escaped or not, and however short the part that is shown.
CORE = "Qz7XkV9w"
SECRET = f"{CORE}\"'\\ /+&%\t\nü{CORE}"


SHAPES = [shape.casefold() for shape in shapes(CORE)]


class Ear(logging.Handler):
    """Hears all that is said; *found* are the pieces of it that hold the secret, *ran* and *seen* what made them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.deaf = False
        self.records = 0
        self.found: list[str] = []
        self.failure: BaseException | None = None
        self.ran: set[types.CodeType] = set()
        self.seen: set[type] = set()

    def hear(self, kind: str, said: str) -> None:
        """Search a piece of what was said."""
        text = said.casefold()
        for at in {text.find(shape) for shape in SHAPES} - {-1}:
            self.found.append(f"{kind}: ...{said[max(0, at - 300) : at + 100]}...")

    def emit(self, record: logging.LogRecord) -> None:
        """Hear a record, its parts and the frames of its exception, from any logger."""
        if self.deaf:
            return
        self.records += 1
        self.hear(f"log of {record.name}", f"{self.format(record)} {vars(record)!r}")
        if record.exc_info and record.exc_info[1]:
            self.caught(record.exc_info[1], whose="theirs")

    def shown(self, *things: object) -> None:
        """Hear the repr of things and of all in them, by themselves and within others."""
        for thing in things:
            self.seen.add(type(thing))
            cache: TTLCache[int, object] = TTLCache(9, 60)
            cache[0] = thing
            held = [thing, (thing,), {thing.__class__: thing}, types.MappingProxyType({"it": thing}), cache]
            held += [Held(thing), Model(it=thing), types.SimpleNamespace(it=thing), partial(print, thing)]
            for one in held:
                self.hear(f"repr in {type(one).__name__}", f"{one!r} {one} {rich.pretty.pretty_repr(one)}")
            self.hear("str", f"{thing} {thing!s:>5}")

    def look_round(self) -> None:
        """Hear the repr of every object of ours that there is, and of every task."""
        for thing in gc.get_objects():
            if str(type(thing).__module__).startswith("aiossmenv"):
                with suppress(AttributeError):  # of what was not made whole
                    self.hear(f"repr of {type(thing).__qualname__}", repr(thing))
        for task in asyncio.all_tasks():
            self.hear("task", repr(task))

    def caught(self, error: object, *, whose: str = "ours") -> None:
        """
        Hear an exception, those behind it, and the variables of our frames in them, in three ways of showing them.
        """
        while isinstance(error, BaseException):
            self.seen.add(type(error))
            if whose == "ours" or isinstance(error, AiossmenvError):
                self.hear("exception", f"{error} {error!r} {error.args!r} {vars(error)!r} {type(error).__name__}")
            for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
                self.caught(inner, whose=whose)
            for frame, line in traceback.walk_tb(error.__traceback__):
                if is_ours(frame.f_code.co_filename):
                    self._frame(f"{Path(frame.f_code.co_filename).name} line {line}", frame, line)
            trace = traceback.TracebackException.from_exception(error, capture_locals=True)
            for summary in trace.stack:
                if is_ours(summary.filename):
                    self.hear(f"traceback of {summary.filename}:{summary.lineno}", f"{summary.locals}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def _frame(self, where: str, frame: types.FrameType, line: int) -> None:
        """Hear the variables as rich unfolds them, and the dotted names in the line as cgitb looks them up."""
        for name, value in frame.f_locals.items():
            self.hear(f"{name} at {where}", str(rich.pretty.traverse(value)))
        for dotted in re.findall(r"[A-Za-z_][\w.]*", linecache.getline(frame.f_code.co_filename, line)):
            first, *rest = dotted.split(".")
            with suppress(Exception):  # not there, or not made whole
                value = frame.f_locals[first]
                for name in rest:
                    value = getattr(value, name)
                self.hear(f"{dotted} at {where}", repr(value))

    @contextmanager
    def failing(self, *kinds: type[BaseException], whose: str = "ours") -> Iterator[None]:
        """Expect an exception, and hear it."""
        with pytest.raises(kinds) as caught:
            yield
        self.caught(caught.value, whose=whose)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear everything until the block ends."""
        out, root = io.StringIO(), logging.getLogger()
        before = root.level, root.handlers, sys.unraisablehook, sys.getprofile()
        sys.unraisablehook = lambda said: self.caught(said.exc_value)
        root.handlers = [self]
        root.setLevel(logging.DEBUG)
        sys.setprofile(self._ran)
        try:
            with redirect_stdout(out), redirect_stderr(out), warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                yield
        finally:
            sys.setprofile(before[3])
            root.setLevel(before[0])
            root.handlers, sys.unraisablehook = before[1:3]
        self.hear("output", out.getvalue())
        for warning in warned:
            self.hear("warning", f"{warning} {warning.source!r}")

    def _ran(self, frame: types.FrameType, event: str, _: object) -> None:
        if event == "call" and is_ours(frame.f_code.co_filename):
            self.ran.add(frame.f_code)


@dataclass
class Held:
    """A dataclass of a user's."""

    it: object


@dataclass(frozen=True)
class Derived(Parameter):
    """One that derives from ours, and so has a repr made of its fields."""

    team: str = field(default="", kw_only=True)


class Model(BaseModel):
    """A model of a user's."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    it: Any


@dataclass
class Stage:
    """What scenes are played on."""

    ear: Ear
    ssm: Store
    server: MariaDB

    def put(self, name: str, value: str = SECRET, kind: str = "SecureString") -> None:
        """Write a parameter, unheard: who writes it is another client, and no part of the package."""
        self.ear.deaf = True
        try:
            self.ssm.put(name, value, kind)
        finally:
            self.ear.deaf = False


Scene = Callable[[Stage], Coroutine[object, None, None]]
SCENES: dict[str, Scene] = {}


def scene(play: Scene) -> Scene:
    """Have *play* played."""
    SCENES[play.__name__] = play
    return play


# --- Values


@scene
async def loads(stage: Stage) -> None:
    """Load in each of the ways there are, over the wire, and show what came."""
    ear, environ = stage.ear, {"OTHER": SECRET, "B": SECRET}
    for name in "AB":
        stage.put(f"/L/{name}")
    stage.put("/L/LIST", f"{CORE},{CORE}", "StringList")
    once = await load_env("/L/")
    assert SECRET == once["A"] == os.environ["A"]
    named = await load_env("/L", "/L", keys=["A", "B"], required=["A"], environ=environ, override=False)
    assert {"B"} == named.shadowed
    env: Env
    async with load_env("/L", ttl=60, max_stale=600, environ=None, to_key=str) as env:
        with ear.failing(KeyError):
            env["C"]
        with ear.failing(TypeError):
            env["A"] = "x"  # type: ignore[index] # that is what fails
        for one in (once, named, env):
            ear.shown(one, one.snapshot, one.parameters, one.status, one.shadowed, one.keys(), one.parameters["A"])
            assert 3 >= len(one) == len(list(one))
        for parameter in env.parameters.values():
            ear.shown(Derived(**{name: getattr(parameter, name) for name in parameter.__slots__}))
        ear.look_round()
    with ear.failing(RuntimeError):
        await env.refresh()
    with ear.failing(TypeError):
        await load_env("/L", keys="A", environ=environ)
    with ear.failing(ValueError):
        await load_env("/L", ttl=0, environ=environ)
    loading = load_env("/L", environ=environ)
    ear.shown(loading)
    loading.close()
    await asyncio.create_task(load_env("/L", environ=environ))


@scene
async def changes(stage: Stage) -> None:
    """Refresh, and tell callbacks that quote what they were told, in what they raise, too."""
    ear, store = stage.ear, MemoryStore({"/C/A": SECRET, "/C/B": SECRET}, clock=ManualClock())
    told: list[object] = []

    def broken(change: aiossmenv.Change) -> None:
        told.append(change)
        raise RuntimeError(repr(change.new and change.new.value))

    async def broken_too(change: aiossmenv.Change) -> None:
        broken(change)

    async with load_env("/C", ttl=60, environ={}, store=store) as env:
        for callback in (broken, broken_too, lambda change: broken_too(change), told.append):  # noqa: PLW0108 - none is known for async
            ear.shown(env.on_change(callback, "A", "B"))
        ear.shown(env.group("A", "B"))
        reader = env.changes()
        before = env.snapshot
        store.put("/C/A", SECRET + "2")
        ear.shown(await env.refresh(), await env.refresh("A"), await env.ensure_fresh(0), reader)
        ear.shown(await anext(reader), *diff(before, env.snapshot), env.snapshot.taken_at)
        await asyncio.sleep(0)
        assert 4 == len(told)
        ear.shown(*told, told)
        ear.look_round()


@scene
async def single_reads(stage: Stage) -> None:
    """Read single parameters, many and all, by selector and by reference, from a store that caches them."""
    ear = stage.ear
    stage.put("/S/A")
    async with ParameterStore(ttl=60, region="eu-central-1") as store:
        ear.shown(store, await store.get("/S/A"), await store.get("/S/A:1"), await store.get_many(["/S/A"]))
        ear.shown([found async for found in store.scan("/S")], store, store.region, store._cache)
        ear.look_round()
        with ear.failing(ParameterNotFound):
            await store.get("/S/NONE")
        with ear.failing(InvalidPath):
            await store.get(" ")
    with ear.failing(ValueError):
        ParameterStore(max_concurrency=0)
    unclosed = ParameterStore()
    await unclosed.get("/S/A")
    await unclosed._transport.aclose()  # type: ignore[union-attr] # it is open; what warns is the store
    del unclosed
    gc.collect()


@scene
async def transports(stage: Stage) -> None:
    """Send each request through a transport, and let all stores read through it."""
    ear, memory = stage.ear, MemoryStore({"/T/A": SECRET})
    transport = await memory._connected()
    with ParameterStore.override_defaults(transport=transport):
        ear.shown(await load_env("/T", environ={}), transport)
    for request in (GetParametersByPath("/T"), GetParameters(("/T/A",)), GetParameter("/T/A")):
        page = await transport.send(request)
        (encrypted,) = (await transport.send(replace(request, with_decryption=False))).parameters
        assert isinstance(encrypted, EncryptedParameter)
        ear.shown(request, page, encrypted, [encrypted.matches(found, None) for found in page.parameters])  # type: ignore[arg-type] # decrypted
    with ear.failing(ServiceError):
        await transport.send(GetParameter("/T/NONE"))


@scene
async def memory(stage: Stage) -> None:
    """Use the store for tests in every way, and its faults."""
    ear, clock = stage.ear, ManualClock()
    store = MemoryStore({"/M/A": SECRET, "/aws/reference/secretsmanager/S": SECRET}, clock=clock)
    store.put("/M/A", SECRET)
    store.put("/M/L", SECRET, "StringList")
    store.label("/M/A", "blue", 1)
    with store.patch_default():
        env = await load_env("/M", keys=["A", "/aws/reference/secretsmanager/S"], environ={}, max_stale=10)
    ear.shown(
        env, store, clock, clock.wall(), store.decrypted, *store.calls, await store.get("/M/A:blue"), env.parameters
    )
    env = await load_env("/M", environ={}, store=store, max_stale=10, ttl=10)
    kinds: dict[Callable[[], None], type[AiossmenvError]] = {
        store.throttle: Throttled,
        store.fail: StoreUnavailable,
        store.hang: StoreUnavailable,
        partial(store.deny, "ssm:*"): AccessDenied,
        partial(store.deny, "kms:Decrypt"): DecryptionFailed,
    }
    for begin, kind in kinds.items():
        begin()
        store.put("/M/A", SECRET)
        refreshing = asyncio.create_task(env.refresh())
        await clock.advance(60)
        with ear.failing(kind):
            await refreshing
        with ear.failing(StaleEnv):
            env["A"]
        ear.shown(refreshing, env.status, env.status.last_error)
        store.heal()
    await env.aclose()
    store.delete("/M/L")
    wrongs: tuple[Callable[[], None], ...] = (
        lambda: store.delete("/M/L"),
        lambda: store.deny("s3:*"),
        lambda: store.label("/M/A", "1"),
        lambda: store.label("/M/A", "red", 99),
    )
    for wrong in wrongs:
        with ear.failing(ValueError, AiossmenvError):
            wrong()
    fixtures: Any = aiossmenv.testing  # whose fixtures are no functions to pytest
    ear.shown(clock := inspect.unwrap(fixtures.manual_clock)())
    given = inspect.unwrap(fixtures.memory_store)(clock)
    ear.shown(store := next(given))
    store.put("/M/A", SECRET)
    await load_env("/M")
    ear.shown(next(given, "done"))
    ear.look_round()


@scene
async def documentation(stage: Stage) -> None:
    """Read the help and the signature of every public thing while the environment is full of secrets."""
    os.environ["A"] = SECRET
    for module in MODULES:
        stage.ear.hear("help", pydoc.plain(pydoc.render_doc(module)))
    for name, thing in public():
        stage.ear.hear(f"help({name})", pydoc.plain(pydoc.render_doc(thing)))
        with suppress(ValueError, TypeError):
            stage.ear.hear(f"signature({name})", f"{inspect.signature(thing)}")  # type: ignore[arg-type] # suppressed


# --- Failures


def answered(**other: object) -> dict[str, object]:
    """Return an answer of the service, right but for *other*."""
    item = {"Name": "/W/A", "Type": "SecureString", "Value": SECRET, "Version": 1, "LastModifiedDate": 1.5e9}
    return {"Parameters": [item | other]}


def desynchronized(body: bytes) -> Fault:
    """Answer with a header that ends in the middle of the body, or that is none."""

    async def fault(call: Call, _: Forward) -> aiohttp.web.StreamResponse:
        assert call.request.transport is not None
        call.request.transport.write(body)
        await asyncio.sleep(0.05)
        call.request.transport.close()
        return aiohttp.web.Response()

    return fault


DEADLINE = 20.0
QUOTED = json.dumps(answered()).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n"
WIRE: dict[str, tuple[Fault, type[AiossmenvError]]] = {
    "throttled": (throttled(), Throttled),
    "down": (error("InternalServerError", status=500), StoreUnavailable),
    "denied": (error("AccessDeniedException", "not authorized to perform: ssm:GetParametersByPath"), AccessDenied),
    "kms": (error("AccessDeniedException", "not authorized to perform: kms:Decrypt"), DecryptionFailed),
    "key": (error("InvalidKeyId"), DecryptionFailed),
    "invalid": (error("ValidationException"), InvalidPath),
    "garbage": (raw(SECRET.encode()), StoreUnavailable),
    "binary": (raw(b"\xff\x00" + SECRET.encode()), StoreUnavailable),
    "nonsense": (raw(json.dumps(SECRET).encode()), StoreUnavailable),
    "refused_garbage": (raw(QUOTED[:-9], status=400), StoreUnavailable),
    "forbidden_garbage": (raw(QUOTED[:-9], status=403), AccessDenied),
    "failed_garbage": (raw(QUOTED[:-9], status=502), StoreUnavailable),
    "failed_whole": (raw(QUOTED, status=503), StoreUnavailable),
    "failed_page": (raw(b"<html>" + QUOTED, status=503), StoreUnavailable),
    "moved": (raw(QUOTED[:-9], status=302), StoreUnavailable),
    "truncated": (truncated(0.9), StoreUnavailable),
    "cut": (desynchronized(OK + b"Content-Length: 999999\r\n\r\n" + QUOTED), StoreUnavailable),
    "too_long": (desynchronized(OK + b"Content-Length: 20\r\n\r\n" + QUOTED + b"\r\n\r\n"), StoreUnavailable),
    "chunks": (
        desynchronized(OK + b"Transfer-Encoding: chunked\r\n\r\n" + SECRET.encode() + b"\r\n"),
        StoreUnavailable,
    ),
    "more_chunks": (
        desynchronized(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + QUOTED + b"\r\n"),
        StoreUnavailable,
    ),
    "no_status": (desynchronized(QUOTED + b"\r\n\r\n"), StoreUnavailable),
    "no_header": (desynchronized(b"HTTP/1.1 200 OK\r\n" + QUOTED + b"\r\n\r\n"), StoreUnavailable),
    "status": (desynchronized(b"HTTP/1.1 " + QUOTED + b"\r\n\r\n"), StoreUnavailable),
    "zipped": (desynchronized(OK + b"Content-Encoding: gzip\r\nContent-Length: 40\r\n\r\n" + QUOTED), StoreUnavailable),
    "reset": (reset(), StoreUnavailable),
    "hang": (hang(), StoreUnavailable),
    "version": (raw(json.dumps(answered(Version=SECRET)).encode()), StoreUnavailable),
    "date": (raw(json.dumps(answered(LastModifiedDate=SECRET)).encode()), StoreUnavailable),
    "far_date": (raw(json.dumps(answered(LastModifiedDate=1e300)).encode()), StoreUnavailable),
    "kind": (raw(json.dumps(answered(Type=SECRET)).encode()), StoreUnavailable),
    "value": (raw(json.dumps(answered(Value=[SECRET])).encode()), StoreUnavailable),
    "surrogate": (raw(json.dumps(answered(Name="/W/surrogate/A", Value=f"\ud800{SECRET}")).encode()), InvalidVariable),
    "null": (raw(json.dumps(answered(Name="/W/null/A", Value=f"\0{SECRET}")).encode()), InvalidVariable),
    "parameters": (raw(json.dumps({"Parameters": {"A": SECRET}}).encode()), StoreUnavailable),
    "token": (raw(json.dumps({**answered(), "NextToken": [SECRET]}).encode()), StoreUnavailable),
}


@scene
async def faults(stage: Stage) -> None:
    """Meet everything that may come over the wire, on the first load, and some of it on a refresh."""
    session = aioboto3.Session()
    async with FaultProxy(stage.ssm.endpoint_url).running() as proxy:
        os.environ["AWS_ENDPOINT_URL_SSM"] = proxy.url
        for name, (fault, kind) in WIRE.items():
            stage.put(f"/W/{name}/A")
            clock = ManualClock()
            async with ParameterStore(session=session, clock=clock, random=lambda: 0.5) as store:
                load = partial(load_env, f"/W/{name}", deadline=DEADLINE, store=store)
                attempts: list[Awaitable[object]] = [load(environ={"OTHER": SECRET})]
                if name in {"throttled", "kms", "truncated", "failed_garbage"}:
                    env = await load(environ={})
                    attempts.append(env.refresh())
                for attempt in attempts:
                    proxy.clear()
                    proxy.add(fault, times=2)
                    proxy.add(hang())
                    meeting = asyncio.ensure_future(attempt)
                    # Tried again: so the first answer was read.
                    while not meeting.done() and proxy.count() < 2 and not (name == "hang" and proxy.calls):
                        await asyncio.sleep(0.002)
                        await clock.advance(0.1)
                    await clock.advance(DEADLINE)
                    with stage.ear.failing(kind):
                        await meeting
                    proxy.clear()


@scene
async def refusals(stage: Stage) -> None:
    """Break what can be broken before and after the reads: paths, keys, an environment, names."""
    ear = stage.ear
    store = MemoryStore({f"/R/K{number:03d}": SECRET for number in range(120)})
    store.put("/R/ab", SECRET)
    store.put("/R/a-b", SECRET)
    store.put("/R/deep/a.b", SECRET)

    class Picky(dict[str, str]):
        """An environment that refuses a variable, and whatever shall be undone then."""

        stubborn = False

        def __setitem__(self, key: str, value: str) -> None:
            if key == "K100" or (self.stubborn and "K100" in self):
                self["K100 was here"] = ""
                raise OSError(f"{key}={value}")
            super().__setitem__(key, value)

        def pop(self, key: str, *default: Any) -> Any:
            if self.stubborn:
                raise OSError(dict(self))
            return super().pop(key, *default)

    def to_key(name: str) -> str:
        raise ValueError(name)

    load = partial(load_env, store=store)
    with ear.failing(KeyCollision):
        await load("/R", environ={"OTHER": SECRET}, to_key=lambda name: name.replace("-", "")[:2])
    with ear.failing(InvalidVariable):
        await load("/R", environ={"OTHER": SECRET}, to_key=to_key)
    with ear.failing(InvalidVariable):
        await load("/R", environ=Picky(OTHER=SECRET, K001=SECRET))
    stubborn = Picky(OTHER=SECRET, K001=SECRET)
    stubborn.stubborn = True
    with ear.failing(InvalidVariable):
        await load("/R", environ=stubborn)
    with ear.failing(EmptyPath):
        await load("/NONE", environ={"OTHER": SECRET})
    with ear.failing(MissingParameters):
        await load("/R", required=["NONE"], environ={"OTHER": SECRET})
    with ear.failing(InvalidPath):
        await load("R", environ={"OTHER": SECRET})
    with ear.failing(InvalidPath):
        await load_env()

    class Spiteful(dict[str, str]):
        """An environment that says all it has when it is asked, once it is *angry*."""

        angry = False

        def get(self, key: str, *default: Any) -> Any:
            if self.angry:
                raise OSError(dict(self))
            return super().get(key, *default)

    clock, environ = ManualClock(), Spiteful()
    store = MemoryStore({"/R/A": SECRET}, clock=clock)
    async with load_env("/R", ttl=60, override=False, environ=environ, store=store) as env:
        environ.angry = True
        store.put("/R/A", SECRET + "2")
        await clock.advance(60)
        assert "unexpected OSError" == str(env.status.last_error)
        ear.caught(env.status.last_error)


@scene
async def cancellations(stage: Stage) -> None:
    """Cancel a load and a refresh at every few turns of the loop, in the middle of publishing, too."""
    store = MemoryStore({f"/R/K{number:03d}": SECRET for number in range(160)})
    for turns in itertools.count(0, 5):
        environ = {"OTHER": SECRET}
        load = asyncio.create_task(load_env("/R", environ=environ, store=store))
        for _ in range(turns):
            await asyncio.sleep(0)
        if 2 < len(environ):
            stage.ear.look_round()
        load.cancel()
        try:
            env = await load
        except asyncio.CancelledError as error:
            stage.ear.caught(error)
            stage.ear.hear("task", repr(load))
        else:
            break
    assert turns > 30
    with stage.ear.failing(TimeoutError):
        store.hang()
        async with asyncio.timeout(0.01):
            await env.refresh()


# --- Integrations


class Resource:
    """What is made of a secret, and does not show it."""

    def __init__(self, secret: str) -> None:
        self.secret = secret


@scene
async def rotations(stage: Stage) -> None:  # noqa: PLR0915 - one life, from beginning to end
    """Rotate a resource whose functions quote its values in all that they raise."""
    ear, clock = stage.ear, ManualClock()
    store = MemoryStore({"/T/A": SECRET, "/T/B": SECRET}, clock=clock)
    fails = {"create"}

    def fail(where: str, quoted: object) -> None:
        if where in fails:
            raise ValueError(quoted)

    async def create(values: Mapping[str, str]) -> Resource:
        ear.shown(values)
        assert values["A"].startswith(SECRET)
        assert ["A", "B"] == list(values)
        assert 2 == len(values)
        fail("create", dict(values))
        return Resource(values["A"])

    async def probe(made: Resource) -> None:
        fail("probe", made.secret)

    async def dispose(made: Resource) -> None:
        fail("dispose", made.secret)

    def classify(error: Exception) -> None:
        fail("classify", str(error))

    @asynccontextmanager
    async def enter(made: Resource) -> AsyncIterator[str]:
        fail("enter", made.secret)
        yield made.secret

    def rotating() -> Rotating[Resource]:
        return Rotating(env, ["A", "B"], create, probe, dispose, classify=classify, random=lambda: 0.5, min_gap=1)

    async with load_env("/T", environ={}, store=store, ttl=60) as env:
        for where in ("create", "probe"):
            fails.add(where)
            with ear.failing(RotationFailed, whose="theirs"):
                async with rotating():
                    pass
            fails.clear()
        with ear.failing(RotationFailed):
            async with Rotating(env, ["A", "NONE"], create):
                pass
        async with rotating() as one:
            async with one.use() as made, one.use(enter) as secret:
                assert SECRET == made.secret == secret
            fails |= {"enter", "classify"}
            with ear.failing(ValueError, whose="theirs"):
                async with one.use(enter):
                    pass
            with ear.failing(RotationFailed):
                await one.__aenter__()
            fails |= {"create", "dispose"}
            store.put("/T/A", SECRET + "2")
            await clock.advance(120)
            ear.shown(one, one.state, one.generation, getattr(one, "status", None))
            assert "DEGRADED" == one.state
            fails.discard("create")
            store.put("/T/A", SECRET + "3")
            await clock.advance(240)
            assert 2 == one.generation
            ear.look_round()
        with ear.failing(RotationFailed):
            async with one.use():
                pass


@scene
async def pools(stage: Stage) -> None:
    """Rotate a pool of a real server, whose user's name and password are secrets, with logins that are refused."""
    ear, server, user = stage.ear, stage.server, f"{CORE}{secrets.token_hex(3)}"
    store = MemoryStore({"/P/DB_URL": server.address, "/P/DB_USER": user, "/P/DB_PASSWORD": f"{CORE}1"})

    async def rotate(number: int) -> None:
        ear.deaf = True
        await server.set_user(user, f"{CORE}{number}")
        ear.deaf = False

    await rotate(1)
    async with load_env("/P", environ={}, store=store, ttl=60) as env:
        async with RotatingPool(env, maxsize=2, minsize=1, db="app") as pool:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute("SELECT 1")
                ear.shown(connection, cursor)
            if cursors := getattr(pool, "cursor", None):
                async with cursors() as cursor:
                    await cursor.execute("SELECT 1")
            ear.shown(pool, pool.state, pool.generation, getattr(pool, "status", None))
            await rotate(2)
            store.put("/P/DB_PASSWORD", f"{CORE}2")
            async with pool.acquire(), pool.acquire():
                ear.look_round()
            assert 2 == pool.generation
        store.put("/P/DB_PASSWORD", f"{CORE}3")
        await env.refresh()
        with ear.failing(RotationFailed, whose="theirs"):
            async with RotatingPool(env, db="app"):
                pass
        store.put("/P/DB_URL", f"{server.address}{CORE}")
        await env.refresh()
        with ear.failing(RotationFailed, whose="theirs"):
            async with RotatingPool(env, db="app"):
                pass
    await server.drop_user(user)


@scene
async def apps(stage: Stage) -> None:
    """Serve an app, its health, and routes that fail; start one that cannot load."""
    ear = stage.ear
    stage.put("/F/A")
    app = FastAPI(lifespan=lifespan("/F", ttl=60, environ={"OTHER": SECRET}), title="app")
    app.get("/health")(health)

    @app.get("/use")
    async def use(env: EnvDep) -> int:
        ear.shown(env, await health(env))
        return len(env["A"])

    with ear.failing(LookupError):
        get_env(app)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_config=None, log_level="trace"))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        for path in ("/use", "/health", "/openapi.json"):
            async with client.get(path) as response:
                assert 200 == response.status
                ear.hear(path, await response.text())
    ear.shown(app, get_env(app))
    server.should_exit = True
    await serving
    for options in ({}, {"deadline": -1}):
        broken = FastAPI(lifespan=lifespan("/NONE", environ={"OTHER": SECRET}, **options))  # type: ignore[arg-type] # wrong
        with ear.failing(EmptyPath, ValueError):
            async with broken.router.lifespan_context(broken):
                pass
        ear.shown(broken)
        server = uvicorn.Server(uvicorn.Config(broken, port=0, lifespan="on", log_config=None, log_level="trace"))
        with ear.failing(SystemExit):
            await server.serve()


class Inner(BaseModel):
    """A level of the hierarchy."""

    password: SecretStr
    port: int = 1


class Settings(BaseSettings):
    """Typed settings."""

    db: Inner
    tokens: list[SecretStr]
    more: dict[str, SecretStr] = {}
    count: int = 0
    checked: str = ""

    @field_validator("checked")
    @classmethod
    def _check(cls, value: str) -> str:
        if value.startswith("raise"):
            raise {"raise": ValueError, "raise2": RuntimeError}[value.split(maxsplit=1)[0]](value)
        return ""


@scene
async def settings(stage: Stage) -> None:
    """Fill typed settings and follow them, through everything that may be wrong with values."""
    ear = stage.ear
    good = {"db/password": SECRET, "tokens": f'["{CORE}"]', "more": f'{{"key": "{CORE}"}}'}
    store = MemoryStore({f"/Y/{name}": value for name, value in good.items()})
    wrong = {
        "count": SECRET,
        "checked": f"raise {SECRET}",
        "db": f'{{"{CORE}": ["{CORE}"], "port": "{CORE}"}}',
        "db/port": SECRET,
        "tokens": f'[{{"{CORE}": "{CORE}"}}]',
        "more": f'{{"{CORE}": {{"{CORE}": 1}}}}',
    }
    hostile = {"checked": f"raise2 {SECRET}", "more": f'{{"a":{"[" * 100_000}"{CORE}'}

    def broken(old: Settings, new: Settings) -> None:
        ear.shown(old, new)
        raise ValueError(SECRET)

    async def broken_too(old: Settings, new: Settings) -> None:
        broken(old, new)

    ear.shown(await load_settings(Settings, "/Y", store=store))
    async with live_settings(Settings, "/Y", ttl=60, store=store, environ={"OTHER": SECRET}) as live:
        ear.shown(live, live.current, live.env, live.env.parameters)
        live.on_change(broken)
        live.on_change(broken_too)
        for name, value in (wrong | hostile).items():
            store.put(f"/Y/{name}", value)
            await live.env.refresh()
            ear.shown(live, live.error)
            assert isinstance(live.error, AiossmenvError), name
            ear.caught(live.error)
            with ear.failing(type(live.error)):
                await load_settings(Settings, "/Y", store=store, environ={"OTHER": SECRET})
            with ear.failing(type(live.error)):
                LiveSettings(Settings, live.env)
            with ear.failing(Exception, whose="theirs"):
                Own.model_validate({"env": live.env})
            store.delete(f"/Y/{name}")
            if name in good:
                store.put(f"/Y/{name}", good[name])
            await live.env.refresh()
            await live.env.refresh()
            assert live.error is None
        ear.look_round()
    source = ParameterSource(Settings, live.env)
    ear.shown(source, source.names(), source.env_vars)
    with ear.failing(MissingParameters):
        await load_settings(Settings, "/NONE", store=store, environ={"OTHER": SECRET})
    with ear.failing(InvalidPath):
        await load_settings(Settings, "NONE", store=store, environ={"OTHER": SECRET})
    with ear.failing(TypeError):
        await load_settings(Settings, "/Y", tll=60, environ={"OTHER": SECRET})  # type: ignore[call-arg] # wrong
    for name in ("Count", "COUNT"):
        store.put(f"/Y/{name}", SECRET)
    with ear.failing(KeyCollision):
        await load_settings(Settings, "/Y", keys=None, store=store, environ={"OTHER": SECRET}, to_key=str)


class Own(Settings):
    """Settings that read an `Env` by themselves."""

    env: Any = None

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the parameters behind the arguments."""
        return init_settings, ParameterSource(settings_cls, init_settings()["env"])


# --- What was heard


@pytest.fixture(scope="module")
def heard(moto: Store, server: MariaDB) -> dict[str, Ear]:
    """Play every scene, and give what was heard in each."""
    ears = {}
    for name, play in SCENES.items():
        before = dict(os.environ)
        for variable in [variable for variable in os.environ if variable.startswith(("AWS_", "SSM_"))]:
            del os.environ[variable]
        os.environ |= moto.environment
        ears[name] = ear = Ear()
        try:
            with ear.listening(), asyncio.Runner(debug=True) as runner:
                runner.run(play(Stage(ear, moto, server)))
        except (Exception, pytest.fail.Exception) as error:
            ear.failure = error
        for variable in os.environ.keys() - before.keys():
            del os.environ[variable]
        os.environ.update(before)
    return ears


@pytest.mark.parametrize("name", SCENES)
def test_no_secret_is_heard(heard: dict[str, Ear], name: str) -> None:
    """Nothing that is said in a scene, by whomever, holds a secret in any shape."""
    if failure := heard[name].failure:
        raise failure
    assert [] == heard[name].found


def test_every_public_name_is_driven(heard: dict[str, Ear]) -> None:
    """
    The scenes run every public function and method, raise every error and show every kind of object that there is.
    """
    ran = set[types.CodeType]().union(*(ear.ran for ear in heard.values()))
    seen = set[type]().union(*(ear.seen for ear in heard.values()))
    undriven = [
        name
        for name, thing in public()
        # When an object goes is the collector's business, and a protocol is what others are like.
        if not name.endswith("__del__") and not name.startswith(("aiossmenv.Clock", "aiossmenv.Transport"))
        if ((code := code_of(thing)) and code not in ran)
        or (isinstance(thing, type) and not any(issubclass(one, thing) for one in seen))
    ]
    assert [] == undriven


# --- That it would be heard


SAID: dict[str, Callable[[Ear, str], object]] = {
    "printed": lambda _, text: print(repr(text)),  # noqa: T201 - that is what is tried
    "written": lambda _, text: sys.stderr.write(json.dumps(text)),
    "warned": lambda _, text: warnings.warn(quote(text), ResourceWarning, stacklevel=1),
    "logged": lambda _, text: logging.getLogger("some.library").debug("%r", {"body": text.encode()}),
    "logged in an argument": lambda _, text: logging.getLogger("some.library").debug("%.0s", text),
    "encoded": lambda ear, text: ear.shown(base64.b64encode(b"user:" + text.encode())),
    "encoded otherwise": lambda ear, text: ear.shown(text.encode().hex().upper()),
    "shown": lambda ear, text: ear.shown({"a": [text]}),
    "raised": lambda ear, text: ear.caught(ValueError(text)),
    "raised before": lambda ear, text: ear.caught(chained(ValueError(), KeyError(text))),
    "raised together": lambda ear, text: ear.caught(ExceptionGroup("", [KeyError(text)])),
}


def chained(error: Exception, cause: Exception) -> Exception:
    """Return *error* with a cause."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("way", SAID)
def test_it_would_be_heard(way: str) -> None:
    """A secret that is said in any of these ways is found."""
    ear = Ear()
    with ear.listening():
        SAID[way](ear, SECRET)
    assert ear.found


def test_variables_would_be_heard() -> None:
    """
    A secret in a variable of a frame of ours is found, each way of showing it by itself, whatever the exception says.
    """
    ear = Ear()
    with ear.failing(TypeError):
        load_env("/A", ttl=SECRET)  # type: ignore[arg-type,unused-awaitable] # that is what fails
    assert {"ttl", "seconds", "traceback"} <= {piece.split()[0] for piece in ear.found}


async def test_another_logger_of_the_sdk_would_be_heard(ssm: Store) -> None:
    """An SDK that logged what it reads through a logger that nobody thought of would be found."""
    ssm.put("/V/A", SECRET)
    session = aioboto3.Session()
    session._session.register("after-call.ssm", lambda parsed, **_: logging.getLogger("sdk.new").debug("%s", parsed))
    ear = Ear()
    with ear.listening():
        async with ParameterStore(session=session) as store:
            await store.get("/V/A")
    assert ["log of sdk.new"] == sorted({piece.partition(":")[0] for piece in ear.found})


async def test_logs_of_other_clients_are_left_alone(ssm: Store, caplog: pytest.LogCaptureFixture) -> None:
    """What the SDK logs for clients of the user's, beside ours and after it in the same task, is all there."""
    ssm.put("/V/OURS", "value-of-ours")
    ssm.put("/V/THEIRS", "value-of-theirs")
    caplog.set_level(logging.DEBUG)
    async with ParameterStore(ttl=0.001) as store, aioboto3.Session().client("ssm") as client:
        await store.get("/V/OURS")
        read = partial(client.get_parameter, Name="/V/THEIRS", WithDecryption=True)
        await asyncio.gather(read(), store.get("/V/OURS"), read())
        await read()
    bodies = [record.getMessage() for record in caplog.records if record.name == "botocore.parsers"]
    assert 3 == sum("value-of-theirs" in body for body in bodies)
    assert "value-of-ours" not in caplog.text


async def test_mappings_are_not_unfolded() -> None:
    """
    What unfolds mappings among a frame's variables, as Sentry does before it sends them, is given their repr instead.
    """
    env = await load_env("/A", environ={}, store=MemoryStore({"/A/X": SECRET}))
    assert repr(env) == Env.__sentry_repr__(env)
    assert repr(env.snapshot) == Snapshot.__sentry_repr__(env.snapshot)
    seen: list[Mapping[str, str]] = []

    async def create(values: Mapping[str, str]) -> None:
        """Keep what was given."""
        seen.append(values)

    async with Rotating(env, ["X"], create):
        assert isinstance(seen[0], Values)
        assert repr(seen[0]) == Values.__sentry_repr__(seen[0])
