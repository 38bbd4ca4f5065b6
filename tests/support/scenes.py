"""Scenes of loading, refreshing and failing, each with values that would be found."""

import asyncio
import gc
import inspect
import itertools
import json
import os
import pydoc
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import aioboto3
import aiohttp

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
    ParameterNotFound,
    ParameterStore,
    ServiceError,
    StaleEnv,
    StoreUnavailable,
    Throttled,
    diff,
    load_env,
)
from aiossmenv.testing import ManualClock, MemoryStore
from face import MODULES, public
from faults import Call, Fault, FaultProxy, Forward, error, hang, raw, reset, throttled, truncated
from hearing import CORE, SECRET, Derived, Stage, scene

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
