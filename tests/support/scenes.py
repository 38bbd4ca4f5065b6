"""Scenarios of loads, refreshes and failures, in which every value contains the secret."""

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
    AddTagsToResource,
    AiossmenvError,
    DecryptionFailed,
    DeleteParameters,
    DescribeParameters,
    EmptyPath,
    EncryptedParameter,
    Env,
    ExpansionFailed,
    GetParameter,
    GetParameterHistory,
    GetParameters,
    GetParametersByPath,
    InvalidParameter,
    InvalidPath,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    Page,
    ParameterAlreadyExists,
    ParameterNotFound,
    ParameterStore,
    PutParameter,
    ServiceError,
    StaleEnv,
    StoreUnavailable,
    Throttled,
    diff,
    load_env,
    load_env_sync,
)
from aiossmenv.testing import ManualClock, MemoryStore
from face import MODULES, public
from faults import Call, Fault, FaultProxy, Forward, error, hang, raw, reset, throttled, truncated
from hearing import CORE, SECRET, Context, Derived, scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# --- Values


@scenario
async def loads(context: Context) -> None:
    """Load over the wire with each kind of `load_env` call, and show the results."""
    detector, environ = context.detector, {"OTHER": SECRET, "B": SECRET}
    for name in "AB":
        context.put(f"/L/{name}")
    context.put("/L/LIST", f"{CORE},{CORE}", "StringList")
    once = await load_env("/L/")
    assert SECRET == once["A"] == os.environ["A"]
    named = await load_env("/L", "/L", keys=["A", "B"], required=["A"], environ=environ, override=False)
    assert {"B"} == named.shadowed
    env: Env
    async with load_env("/L", ttl=60, max_stale=600, environ=None, to_key=str) as env:
        with detector.expecting(KeyError):
            env["C"]
        with detector.expecting(TypeError):
            env["A"] = "x"  # type: ignore[index] # must fail
        for one in (once, named, env):
            detector.check_repr(
                one, one.snapshot, one.parameters, one.status, one.shadowed, one.keys(), one.parameters["A"]
            )
            assert 3 >= len(one) == len(list(one))
        for parameter in env.parameters.values():
            detector.check_repr(Derived(**{name: getattr(parameter, name) for name in parameter.__slots__}))
        detector.check_all_objects()
    with detector.expecting(RuntimeError):
        await env.refresh()
    with detector.expecting(TypeError):
        await load_env("/L", keys="A", environ=environ)
    with detector.expecting(ValueError):
        await load_env("/L", ttl=0, environ=environ)
    loading = load_env("/L", environ=environ)
    detector.check_repr(loading)
    loading.close()
    await asyncio.create_task(load_env("/L", environ=environ))


@scenario
async def loads_without_a_loop(context: Context) -> None:
    """Load on a loop of its own, well and badly."""
    detector = context.detector
    context.put("/N/A")
    env = load_env_sync("/N", environ={"OTHER": SECRET})
    assert SECRET == env["A"]
    detector.check_repr(env, env.snapshot)
    with detector.expecting(EmptyPath):
        load_env_sync("/N/NONE", environ={"OTHER": SECRET})
    with detector.expecting(ExpansionFailed):
        load_env_sync("/N", expand="json", environ={"OTHER": SECRET})
    with detector.expecting(ValueError):
        load_env_sync("/N", deadline=0, environ={"OTHER": SECRET})
    with detector.expecting(TypeError):
        load_env_sync("/N", ttl=60, environ={"OTHER": SECRET})  # type: ignore[call-arg] # that is what fails


@scenario
async def changes(context: Context) -> None:
    """Refresh, and pass the changes to callbacks that quote them in the errors that they raise."""
    detector, store = context.detector, MemoryStore({"/C/A": SECRET, "/C/B": SECRET}, clock=ManualClock())
    received: list[object] = []

    def broken(change: aiossmenv.Change) -> None:
        received.append(change)
        raise RuntimeError(repr(change.new and change.new.value))

    async def broken_too(change: aiossmenv.Change) -> None:
        broken(change)

    async with load_env("/C", ttl=60, environ={}, store=store) as env:
        for callback in (broken, broken_too, lambda change: broken_too(change), received.append):  # noqa: PLW0108 - the lambda hides that it is async
            detector.check_repr(env.on_change(callback, "A", "B"))
        detector.check_repr(env.group("A", "B"))
        reader = env.changes()
        before = env.snapshot
        store.set("/C/A", SECRET + "2")
        detector.check_repr(await env.refresh(), await env.refresh("A"), await env.ensure_fresh(0), reader)
        detector.check_repr(await anext(reader), *diff(before, env.snapshot), env.snapshot.taken_at)
        await asyncio.sleep(0)
        assert 4 == len(received)
        detector.check_repr(*received, received)
        detector.check_all_objects()


@scenario
async def expansions(context: Context) -> None:
    """Expand parameters that hold secrets, over the wire, and meet what cannot be expanded in all its ways."""
    detector = context.detector
    context.put("/E/JSON", json.dumps({"db": {"password": SECRET}, "list": [SECRET]}))
    context.put("/E/LINES", f"TOKEN='{CORE}'\nOTHER={CORE}")
    async with load_env("/E", ttl=60, expand={"JSON": "json", "LINES": "dotenv"}, environ={"OTHER": SECRET}) as env:
        assert (SECRET, CORE) == (env["DB_PASSWORD"], env["TOKEN"])
        detector.check_repr(env, env.snapshot, env.parameters, *env.parameters.values())
        detector.check_all_objects()
        for name, values in {
            "JSON": [
                SECRET,
                f'["{CORE}"]',
                f'{{"{CORE}": 1, "{CORE}": 2}}',
                '{"a": "' + CORE,
                '{"a": NaN, "b": "' + CORE,
            ],
            "LINES": [SECRET, f"A={CORE}\nB {CORE}", f"https://u:{CORE}@x?a=b", f"A='{CORE}", f"A={CORE}\nA={CORE}"],
        }.items():
            for value in values:
                context.put(f"/E/{name}", value)
                with detector.expecting(ExpansionFailed):
                    await env.refresh()
                detector.check_repr(env.status)
                for expand in ("json", {name: "dotenv"}):
                    with detector.expecting(ExpansionFailed):
                        await load_env("/E", expand=expand, environ={"OTHER": SECRET})  # type: ignore[arg-type] # both can be
            context.put(f"/E/{name}", "{}" if name == "JSON" else "A=1")


@scenario
async def single_reads(context: Context) -> None:
    """Read one, several and all parameters, by selector and by reference, from a store that caches them."""
    detector = context.detector
    context.put("/S/A")
    async with ParameterStore(ttl=60, region="eu-central-1") as store:
        detector.check_repr(store, await store.get("/S/A"), await store.get("/S/A:1"), await store.get_many(["/S/A"]))
        detector.check_repr([found async for found in store.scan("/S")], store, store.region, store._cache)
        detector.check_all_objects()
        with detector.expecting(ParameterNotFound):
            await store.get("/S/NONE")
        with detector.expecting(InvalidPath):
            await store.get(" ")
    with detector.expecting(ValueError):
        ParameterStore(max_concurrency=0)
    unclosed = ParameterStore()
    await unclosed.get("/S/A")
    await unclosed._transport.aclose()  # type: ignore[union-attr] # it is open; the store is what warns
    del unclosed
    gc.collect()


@scenario
async def writes(context: Context) -> None:
    """Write, list and delete over the wire, well and badly."""
    detector = context.detector
    async with ParameterStore(ttl=60) as store:
        for _ in range(2):
            detector.check_repr(await store.put("/W/A", SECRET, tags={"team": "payments"}))
        detector.check_repr([written async for written in store.put_many({"/W/B": SECRET, "/W/C": SECRET})])
        versions = await store.history("/W/A")
        detector.check_repr(versions, *versions, [found async for found in store.describe("/W")])
        detector.check_repr(*[found async for found in store.describe("/W")], await store.delete("/W/C", "/W/NONE"))
        detector.check_all_objects()
        with detector.expecting(ParameterAlreadyExists):
            await store.put("/W/A", SECRET, overwrite=False)
        with detector.expecting(InvalidParameter):
            await store.put("/W/A", SECRET * 1000)
        with detector.expecting(InvalidPath):
            await store.put("/W/A:1", SECRET)
        for wrong in ({"/W/A": SECRET, "W": SECRET}, {"/W/A": SECRET, "/W/B": SECRET * 1000}):
            with detector.expecting(InvalidPath, InvalidParameter):
                async for _ in store.put_many(wrong):
                    pass
        with detector.expecting(ParameterNotFound):
            await store.history("/W/NONE")


@scenario
async def transports(context: Context) -> None:
    """Send each request through a transport, and read through it with every store."""
    detector, memory = context.detector, MemoryStore({"/T/A": SECRET})
    transport = await memory._connected()
    with ParameterStore.override_defaults(transport=transport):
        detector.check_repr(await load_env("/T", environ={}), transport)
    for request in (GetParametersByPath("/T"), GetParameters(("/T/A",)), GetParameter("/T/A")):
        page = await transport.send(request)
        undecrypted = await transport.send(replace(request, with_decryption=False))
        assert isinstance(page, Page)
        assert isinstance(undecrypted, Page)
        (encrypted,) = undecrypted.parameters
        assert isinstance(encrypted, EncryptedParameter)
        detector.check_repr(request, page, encrypted, [encrypted.matches(found, None) for found in page.parameters])  # type: ignore[arg-type] # decrypted
    with detector.expecting(ServiceError):
        await transport.send(GetParameter("/T/NONE"))
    for change in (
        PutParameter(name="/T/B", value=SECRET),
        AddTagsToResource("/T/B", (("team", "payments"),)),
        GetParameterHistory("/T/B"),
        DescribeParameters("/T"),
        DeleteParameters(("/T/B",)),
    ):
        detector.check_repr(change, await transport.send(change))
    detector.check_repr(memory.tags)


@scenario
async def memory(context: Context) -> None:
    """Use every method and every fault of the in-memory store for tests."""
    detector, clock = context.detector, ManualClock()
    store = MemoryStore({"/M/A": SECRET, "/aws/reference/secretsmanager/S": SECRET}, clock=clock)
    store.set("/M/A", SECRET)
    store.set("/M/L", SECRET, "StringList")
    store.label("/M/A", "blue", 1)
    with store.patch_default():
        env = await load_env("/M", keys=["A", "/aws/reference/secretsmanager/S"], environ={}, max_stale=10)
    detector.check_repr(
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
        store.set("/M/A", SECRET)
        refreshing = asyncio.create_task(env.refresh())
        await clock.advance(60)
        with detector.expecting(kind):
            await refreshing
        with detector.expecting(StaleEnv):
            env["A"]
        detector.check_repr(refreshing, env.status, env.status.last_error)
        store.heal()
    await env.aclose()
    store.remove("/M/L")
    wrongs: tuple[Callable[[], None], ...] = (
        lambda: store.remove("/M/L"),
        lambda: store.deny("s3:*"),
        lambda: store.label("/M/A", "1"),
        lambda: store.label("/M/A", "red", 99),
    )
    for wrong in wrongs:
        with detector.expecting(ValueError, AiossmenvError):
            wrong()
    fixtures: Any = aiossmenv.testing  # Any: for mypy these fixtures are no plain functions
    detector.check_repr(clock := inspect.unwrap(fixtures.manual_clock)())
    given = inspect.unwrap(fixtures.memory_store)(clock)
    detector.check_repr(store := next(given))
    store.set("/M/A", SECRET)
    await load_env("/M")
    detector.check_repr(next(given, "done"))
    detector.check_all_objects()


@scenario
async def documentation(context: Context) -> None:
    """Read the help and the signature of every public object while the environment is full of secrets."""
    os.environ["A"] = SECRET
    for module in MODULES:
        context.detector.search("help", pydoc.plain(pydoc.render_doc(module)))
    for name, thing in public():
        context.detector.search(f"help({name})", pydoc.plain(pydoc.render_doc(thing)))
        with suppress(ValueError, TypeError):
            context.detector.search(f"signature({name})", f"{inspect.signature(thing)}")  # type: ignore[arg-type] # suppressed


# --- Failures


def answered(**other: object) -> dict[str, object]:
    """Return a correct answer of the service, with the fields of *other* replaced."""
    item = {"Name": "/W/A", "Type": "SecureString", "Value": SECRET, "Version": 1, "LastModifiedDate": 1.5e9}
    return {"Parameters": [item | other]}


def desynchronized(body: bytes) -> Fault:
    """Answer with a header that ends in the middle of the body, or with no valid header."""

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
    "rejected_garbage": (raw(QUOTED[:-9], status=400), StoreUnavailable),
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


@scenario
async def faults(context: Context) -> None:
    """Receive every wire fault on the first load, and some of them on a refresh."""
    session = aioboto3.Session()
    async with FaultProxy(context.ssm.endpoint_url).running() as proxy:
        os.environ["AWS_ENDPOINT_URL_SSM"] = proxy.url
        for name, (fault, kind) in WIRE.items():
            context.put(f"/W/{name}/A")
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
                    # A second request proves that the first answer was read.
                    while not meeting.done() and proxy.count() < 2 and not (name == "hang" and proxy.calls):
                        await asyncio.sleep(0.002)
                        await clock.advance(0.1)
                    await clock.advance(DEADLINE)
                    with context.detector.expecting(kind):
                        await meeting
                    proxy.clear()


@scenario
async def rejections(context: Context) -> None:
    """Fail before and after the reads: paths, keys, an environment, names."""
    detector = context.detector
    store = MemoryStore({f"/R/K{number:03d}": SECRET for number in range(120)})
    store.set("/R/ab", SECRET)
    store.set("/R/a-b", SECRET)
    store.set("/R/deep/a.b", SECRET)

    class Picky(dict[str, str]):
        """An environment that rejects a variable, and then also the rollback."""

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
    with detector.expecting(KeyCollision):
        await load("/R", environ={"OTHER": SECRET}, to_key=lambda name: name.replace("-", "")[:2])
    with detector.expecting(InvalidVariable):
        await load("/R", environ={"OTHER": SECRET}, to_key=to_key)
    with detector.expecting(InvalidVariable):
        await load("/R", environ=Picky(OTHER=SECRET, K001=SECRET))
    stubborn = Picky(OTHER=SECRET, K001=SECRET)
    stubborn.stubborn = True
    with detector.expecting(InvalidVariable):
        await load("/R", environ=stubborn)
    with detector.expecting(EmptyPath):
        await load("/NONE", environ={"OTHER": SECRET})
    with detector.expecting(MissingParameters):
        await load("/R", required=["NONE"], environ={"OTHER": SECRET})
    with detector.expecting(InvalidPath):
        await load("R", environ={"OTHER": SECRET})
    with detector.expecting(InvalidPath):
        await load_env()

    class Spiteful(dict[str, str]):
        """An environment whose errors quote all its values once *angry* is set."""

        angry = False

        def get(self, key: str, *default: Any) -> Any:
            if self.angry:
                raise OSError(dict(self))
            return super().get(key, *default)

    clock, environ = ManualClock(), Spiteful()
    store = MemoryStore({"/R/A": SECRET}, clock=clock)
    async with load_env("/R", ttl=60, override=False, environ=environ, store=store) as env:
        environ.angry = True
        store.set("/R/A", SECRET + "2")
        await clock.advance(60)
        assert "unexpected OSError" == str(env.status.last_error)
        detector.check_exception(env.status.last_error)


@scenario
async def cancellations(context: Context) -> None:
    """Cancel a load and a refresh at every few turns of the loop, also while the values are published."""
    store = MemoryStore({f"/R/K{number:03d}": SECRET for number in range(160)})
    for turns in itertools.count(0, 5):
        environ = {"OTHER": SECRET}
        load = asyncio.create_task(load_env("/R", environ=environ, store=store))
        for _ in range(turns):
            await asyncio.sleep(0)
        if 2 < len(environ):
            context.detector.check_all_objects()
        load.cancel()
        try:
            env = await load
        except asyncio.CancelledError as error:
            context.detector.check_exception(error)
            context.detector.search("task", repr(load))
        else:
            break
    assert turns > 30
    with context.detector.expecting(TimeoutError):
        store.hang()
        async with asyncio.timeout(0.01):
            await env.refresh()
