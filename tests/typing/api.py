# mypy: disallow-any-expr
"""
The public API for type checkers: two of them check this file, and it never runs.

An unnecessary ignore is an error for both, and so is each expression with an Any in its type.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Literal, assert_type

from fastapi import FastAPI
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from aiossmenv import (
    AccessDenied,
    AddTagsToResource,
    AddTagsToResourceResult,
    AiossmenvError,
    Change,
    Clock,
    DecryptionFailed,
    DeleteParameters,
    DeleteParametersResult,
    DescribeParameters,
    DescribeParametersResult,
    EmptyPath,
    EncryptedParameter,
    Env,
    ExpansionFailed,
    GetParameter,
    GetParameterHistory,
    GetParameterHistoryResult,
    GetParameters,
    GetParametersByPath,
    InvalidParameter,
    InvalidPath,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    Page,
    Parameter,
    ParameterAlreadyExists,
    ParameterHistory,
    ParameterMetadata,
    ParameterNotFound,
    ParameterStore,
    PutParameter,
    PutParameterResult,
    Rotating,
    RotatingStatus,
    RotationFailed,
    ServiceError,
    Snapshot,
    StaleEnv,
    Status,
    StoreUnavailable,
    Throttled,
    Transport,
    Written,
    __version__,
    diff,
    load_env,
    load_env_sync,
)
from aiossmenv.fastapi import EnvDep, Health, get_env, health, lifespan
from aiossmenv.pydantic import InvalidSettings, LiveSettings, ParameterSource, live_settings, load_settings
from aiossmenv.testing import Call, ManualClock, MemoryStore

assert_type(__version__, str)


async def loads() -> None:
    """Load with each form of `load_env`."""
    assert_type(await load_env(), Env)
    assert_type(await load_env("/A", "/B", ttl=60, required={"X"}), Env)
    async with load_env("/A", ttl=60.0) as env:
        assert_type(env, Env)
    assert_type(await asyncio.create_task(load_env("/A")), Env)
    assert_type(await asyncio.gather(load_env("/A"), load_env("/B")), tuple[Env, Env])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(load_env("/A"))
    assert_type(task.result(), Env)

    load_env("/A", 60)  # type: ignore[arg-type,unused-awaitable]
    load_env("/A", ttl="60")  # type: ignore[arg-type,unused-awaitable]


async def options(store: ParameterStore, environ: dict[str, str]) -> None:
    """Pass every option."""
    await load_env(
        "/A",
        ttl=None,
        keys=("DB_URL", "DB_USER"),
        required=["DB_URL"],
        recursive=False,
        to_key=str,
        expand="json",
        environ=environ,
        override=False,
        protected=("LD_*",),
        allow_empty=True,
        deadline=5,
        max_stale=3600,
        list_interval=300,
        revalidate_interval=None,
        store=store,
    )
    await load_env("/A", to_key=lambda name: name.upper(), environ=None)
    await load_env("/A", expand={"DB": "json", "MORE": "dotenv"})
    load_env("/A", expand="yaml")  # type: ignore[arg-type,unused-awaitable]
    load_env("/A", expand={"DB": "yaml"})  # type: ignore[dict-item,unused-awaitable]


def options_without_a_loop(store: ParameterStore, environ: dict[str, str]) -> None:
    """Load where no event loop runs, with every option but the one that needs one."""
    assert_type(load_env_sync(), Env)
    load_env_sync(
        "/A",
        "/B",
        keys=("DB_URL", "DB_USER"),
        required=["DB_URL"],
        recursive=False,
        to_key=str,
        expand={"DB": "json"},
        environ=environ,
        override=False,
        protected=("LD_*",),
        allow_empty=True,
        deadline=5,
        max_stale=3600,
        list_interval=300,
        revalidate_interval=None,
        store=store,
    )
    load_env_sync("/A", to_key=lambda name: name.upper(), expand="dotenv", environ=None)
    load_env_sync("/A", ttl=60)  # type: ignore[call-arg]
    load_env_sync("/A", tll=60)  # type: ignore[call-arg]
    load_env_sync("/A", deadline="5")  # type: ignore[arg-type]
    load_env_sync("/A", expand="yaml")  # type: ignore[arg-type]
    load_env_sync("/A", 60)  # type: ignore[arg-type]


Request = (
    GetParametersByPath
    | GetParameters
    | GetParameter
    | PutParameter
    | DeleteParameters
    | GetParameterHistory
    | DescribeParameters
    | AddTagsToResource
)
Answer = (
    Page
    | PutParameterResult
    | DeleteParametersResult
    | GetParameterHistoryResult
    | DescribeParametersResult
    | AddTagsToResourceResult
)


def read_answer(answer: Answer) -> None:
    """Read each field of an answer."""
    match answer:
        case Page(parameters, next_token, invalid_parameters):
            assert_type((next_token, invalid_parameters), tuple[str | None, tuple[str, ...]])
            for parameter in parameters:
                if isinstance(parameter, EncryptedParameter):
                    assert_type((parameter.name, parameter.version, parameter.digest), tuple[str, int, bytes])
                    plain = Parameter(name="/A", value="", type="String", version=1)
                    assert_type(parameter.matches(plain, None), bool)
        case PutParameterResult(version, tier):
            assert_type((version, tier), tuple[int, str])
        case DeleteParametersResult(deleted_parameters, invalid_parameters):
            assert_type((deleted_parameters, invalid_parameters), tuple[tuple[str, ...], tuple[str, ...]])
        case GetParameterHistoryResult(versions, next_token):
            assert_type((versions, next_token), tuple[tuple[ParameterHistory, ...], str | None])
        case DescribeParametersResult(described, next_token):
            assert_type((described, next_token), tuple[tuple[ParameterMetadata, ...], str | None])
        case AddTagsToResourceResult():
            pass


def read_request(request: Request) -> None:
    """Read each field of a request."""
    match request:
        case GetParametersByPath(path, recursive, with_decryption, next_token):
            assert_type((path, recursive, with_decryption, next_token), tuple[str, bool, bool, str | None])
        case GetParameters(names, with_decryption):
            assert_type((names, with_decryption), tuple[tuple[str, ...], bool])
        case GetParameter(name, with_decryption):
            if name == "/A":
                error = ServiceError("ThrottlingException", "Rate exceeded", status=400)
                assert_type((error.code, error.message, error.status), tuple[str, str, int])
                raise error
        case PutParameter():
            assert_type((request.name, request.value, request.overwrite), tuple[str, str, bool])
            assert_type(request.type, Literal["String", "StringList", "SecureString"])
            assert_type(request.tier, Literal["Standard", "Advanced", "Intelligent-Tiering"] | None)
            assert_type(
                (request.key_id, request.description, request.data_type), tuple[str | None, str | None, str | None]
            )
            assert_type(request.tags, tuple[tuple[str, str], ...])
        case DeleteParameters(names):
            assert_type(names, tuple[str, ...])
        case GetParameterHistory(name, with_decryption, next_token):
            assert_type((name, with_decryption, next_token), tuple[str, bool, str | None])
        case DescribeParameters(path, recursive, next_token):
            assert_type((path, recursive, next_token), tuple[str, bool, str | None])
        case AddTagsToResource(resource_id, tags):
            assert_type((resource_id, tags), tuple[str, tuple[tuple[str, str], ...]])


class Recorder:
    """A custom transport in front of another one."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner

    @property
    def region(self) -> str | None:
        """See `Transport`."""
        return self.inner.region

    async def send(self, request: Request) -> Answer:
        """Look at a request and at its answer, and pass them on."""
        read_request(request)
        answer = await self.inner.send(request)
        read_answer(answer)
        return answer

    async def aclose(self) -> None:
        """See `Transport`."""
        await self.inner.aclose()


def transports(inner: Transport, clock: Clock) -> None:
    """Pass a custom transport, to one store and to all."""
    ParameterStore(transport=Recorder(inner), clock=clock)
    ParameterStore(transport=object())  # type: ignore[arg-type]
    with ParameterStore.override_defaults(transport=Recorder(inner), clock=clock, random=lambda: 0.5):
        ParameterStore()


async def reads(env: Env) -> None:
    """Use an `Env` as a mapping, and use its other methods."""
    assert_type(env["X"], str)
    assert_type(env.get("X"), str | None)
    assert_type(env.get("X", ""), str)
    assert_type(len(env), int)
    assert_type(iter(env), Iterator[str])
    assert_type(dict(env), dict[str, str])
    mapping: Mapping[str, str] = env
    assert_type(mapping["X"], str)
    env["X"] = "y"  # type: ignore[index]

    assert_type(env.snapshot, Snapshot)
    assert_type(env.parameters, Mapping[str, Parameter])
    assert_type(env.parameters["X"].last_modified, datetime | None)
    assert_type(env.shadowed, frozenset[str])
    assert_type(await env.refresh(), tuple[Change, ...])
    assert_type(await env.refresh("X", "Y", min_gap=0.5), tuple[Change, ...])
    env.refresh()  # type: ignore[unused-coroutine]
    assert_type(await env.ensure_fresh(60), tuple[Change, ...])
    env.ensure_fresh(60)  # type: ignore[unused-coroutine]
    await env.ensure_fresh()  # type: ignore[call-arg]
    ungroup = env.group("X", "Y")
    assert_type(ungroup(), None)
    await env.aclose()


def states(status: Status) -> None:
    """Read every field of a status."""
    assert_type(status.fresh, bool)
    assert_type(status.age, float)
    assert_type(status.last_success, datetime)
    assert_type(status.last_error, AiossmenvError | None)
    assert_type(status.failures, int)
    assert_type(status.next_refresh, float | None)
    assert_type(status.refreshes, int)
    assert_type(status.changes, int)
    assert_type(status.next_refresh, float | None)
    assert_type(status.requests, int)
    assert_type(status.throttled, int)
    assert_type(status.decrypted, int)
    status.failures = 0  # type: ignore[misc]


async def follows(env: Env) -> None:
    """Register callbacks of each form."""
    assert_type(env.status, Status)
    assert_type(env.changes(), AsyncIterator[Change])
    async for change in env.changes():
        assert_type(change.key, str)
        assert_type(change.kind, Literal["added", "updated", "removed"])
        assert_type(change.old, Parameter | None)
        assert_type(change.new, Parameter | None)

    def function(change: Change) -> None: ...
    async def coroutine_function(change: Change) -> None: ...
    def of_nothing() -> None: ...

    assert_type(env.on_change(function), Callable[[], None])
    assert_type(env.on_change(coroutine_function, "X", "Y"), Callable[[], None])
    env.on_change(of_nothing)  # type: ignore[arg-type]


def snapshots(old: Snapshot, new: Snapshot) -> None:
    """Read and compare snapshots."""
    assert_type(old["X"], str)
    assert_type(old.parameters, Mapping[str, Parameter])
    assert_type(old.taken_at, datetime)
    assert_type(diff(old, new), tuple[Change, ...])
    old["X"] = "y"  # type: ignore[index]
    old.parameters["X"] = new.parameters["X"]  # type: ignore[index]


def parameters() -> None:
    """Create a parameter, and read all its fields."""
    parameter = Parameter(name="/A/X", value="x", type="SecureString", version=1)
    assert_type(parameter.name, str)
    assert_type(parameter.value, str)
    assert_type(parameter.type, Literal["String", "StringList", "SecureString"])
    assert_type(parameter.version, int)
    assert_type(parameter.arn, str)
    assert_type(parameter.data_type, str)
    assert_type(parameter.version_id, str)
    assert_type(parameter.selector, str)
    assert_type(parameter.inner_name, str)
    parameter.value = "y"  # type: ignore[misc]
    Parameter("/A/X", "x", "String", 1)  # type: ignore[call-arg]
    Parameter(name="/A/X", value="x", type="Secret", version=1)  # type: ignore[arg-type]


async def stores() -> None:
    """Read one, several and all parameters."""
    async with ParameterStore(region="eu-west-1", endpoint_url=None, max_concurrency=4, ttl=10, deadline=5) as store:
        assert_type(store, ParameterStore)
        assert_type(await store.get("/A/X:3"), Parameter)
        assert_type(await store.get_many(["/A/X", "/A/Y"]), dict[str, Parameter])
        assert_type([found async for found in store.scan("/A", recursive=False)], list[Parameter])
        assert_type(store.region, str | None)
    await store.aclose()


class Pool:
    """A resource."""

    async def check(self) -> bool:
        """Check that it works."""
        return True

    async def close(self) -> None:
        """Close it."""

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[int]:
        """Acquire a connection; here it is a number."""
        yield 1


async def rotates(env: Env) -> None:
    """Rotate a resource, and use all of it and a part of it."""

    async def create(values: Mapping[str, str]) -> Pool:
        return Pool()

    def classify(error: Exception) -> Literal["auth_failed", "transient"] | None:
        return "auth_failed" if isinstance(error, PermissionError) else None

    async with Rotating(env, ["DB_URL"], create, Pool.check, Pool.close, classify=classify) as rotating:
        assert_type(rotating, Rotating[Pool])
        assert_type(rotating.generation, int)
        assert_type(rotating.state, Literal["NEW", "READY", "DEGRADED", "CLOSED"])
        async with rotating.use() as pool:
            assert_type(pool, Pool)
        async with rotating.use(Pool.acquire) as connection:
            assert_type(connection, int)
        assert_type(rotating.status, RotatingStatus)
        assert_type(rotating.status.state, Literal["NEW", "READY", "DEGRADED", "CLOSED"])
        assert_type(rotating.status.failures, int)
        assert_type(rotating.status.last_error, str | None)
    await rotating.aclose()

    def create_at_once(values: Mapping[str, str]) -> Pool:
        return Pool()

    Rotating(env, ["DB_URL"], create_at_once)  # type: ignore[arg-type]
    Rotating(env, ["DB_URL"], create, start_deadline=60, drain_timeout=5.0, probe=Pool.check)


async def serves() -> None:
    """Give an `Env` to a FastAPI app, with the options of `load_env` and no others."""
    assert_type(
        lifespan("/A", "/B", ttl=60, keys=["X"], to_key=str), Callable[[FastAPI], AbstractAsyncContextManager[None]]
    )
    lifespan("/A", ttl="60")  # type: ignore[arg-type]
    lifespan("/A", tll=60)  # type: ignore[call-arg]
    app = FastAPI(lifespan=lifespan("/A", ttl=60))
    async with lifespan()(app):
        assert_type(get_env(app), Env)

    async def route(env: EnvDep) -> str:
        assert_type(env, Env)
        return env["X"]

    # The route is not registered: the app's decorators have an Any in their types.
    routes: list[Callable[[Env], Awaitable[object]]] = [route, health]
    assert_type(len(routes), int)
    answer = await health(get_env(app))
    assert_type(answer, Health)
    assert_type(answer.fresh, bool)
    assert_type(answer.age, float)
    assert_type(answer.failures, int)
    assert_type(answer.last_error, str | None)
    answer.fresh = True  # type: ignore[misc]


def errors(
    error: AiossmenvError,
    denial: AccessDenied,
    collision: KeyCollision,
    missing: MissingParameters,
    expansion: ExpansionFailed,
) -> None:
    """Read the attributes of errors: those that all have, and those that some of them have."""
    assert_type(denial.action, str | None)
    assert_type(error.parameter, str | None)
    assert_type(error.path, str | None)
    assert_type(error.region, str | None)
    assert_type(error.remedy, str | None)
    assert_type(error.transient, bool)
    assert_type(collision.collisions, dict[str, tuple[str, ...]])
    assert_type(missing.keys, tuple[str, ...])
    assert_type((expansion.line, expansion.column), tuple[int | None, int | None])


async def tests() -> None:
    """Write a parameter, break the store, and advance the clock."""
    clock = ManualClock()
    store = MemoryStore({"/A/X": "x"}, clock=clock, max_concurrency=4, ttl=10)
    store.set("/A/X", "y")
    store.set("/A/Y", "a,b", "StringList")
    store.set("/A/Y", "a", "Secret")  # type: ignore[arg-type]
    store.label("/A/X", "blue")
    store.label("/A/X", "blue", 1)
    store.remove("/A/Y")
    store.throttle()
    store.fail(2)
    store.hang(times=1)
    store.deny("ssm:GetParameters", "/A/X")
    store.heal()
    assert_type(store.calls, list[Call])
    assert_type(store.calls[0].action, str)
    assert_type(store.calls[0].names, tuple[str, ...])
    assert_type(store.calls[0].decrypt, bool)
    assert_type(store.decrypted, int)
    assert_type(store.tags, Mapping[str, Mapping[str, str]])
    with store.patch_default() as installed:
        assert_type(installed, MemoryStore)
    async with load_env("/A", store=store) as env:
        assert_type(env, Env)
    assert_type(await store.get("/A/X:blue"), Parameter)
    await clock.advance(60)
    assert_type(clock.now(), float)
    assert_type(clock.wall(), datetime)


async def writes(store: ParameterStore) -> None:
    """Write, delete, list versions and describe."""
    written = await store.put(
        "/A/X",
        "x",
        type="String",
        key_id=None,
        tier="Advanced",
        description="what it is for",
        tags={"team": "payments"},
        data_type="text",
        overwrite=False,
    )
    assert_type(written, Written)
    assert_type((written.name, written.version, written.tier), tuple[str, int, str])
    assert_type(written.previous_version, int | None)
    async for one in store.put_many({"/A/X": "x"}, type="SecureString", key_id="alias/a", tier=None, overwrite=True):
        assert_type(one, Written)
    assert_type(await store.delete("/A/X", "/A/Y"), tuple[str, ...])
    for version in await store.history("/A/X", with_decryption=False):
        assert_type(version, ParameterHistory)
        assert_type((version.value, version.labels), tuple[str | None, tuple[str, ...]])
        assert_type((version.last_modified_user, version.key_id), tuple[str, str])
        assert_type((version.tier, version.description), tuple[str, str])
    async for found in store.describe("/A", recursive=False):
        assert_type(found, ParameterMetadata)
        assert_type((found.name, found.version, found.last_modified), tuple[str, int, datetime | None])
        assert_type(found.type, Literal["String", "StringList", "SecureString"])
        assert_type((found.last_modified_user, found.key_id, found.tier), tuple[str, str, str])
        assert_type((found.description, found.data_type, found.arn), tuple[str, str, str])
    store.put("/A/X", "x")  # type: ignore[unused-coroutine]
    await store.put("/A/X", "x", type="Secret")  # type: ignore[arg-type]
    await store.put("/A/X", "x", "String")  # type: ignore[call-arg]
    await store.put("/A/X", b"x")  # type: ignore[arg-type]


EVERY: tuple[type[AiossmenvError], ...] = (
    AccessDenied,
    DecryptionFailed,
    EmptyPath,
    ExpansionFailed,
    InvalidParameter,
    InvalidPath,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    ParameterAlreadyExists,
    ParameterNotFound,
    RotationFailed,
    StaleEnv,
    StoreUnavailable,
    Throttled,
)


class Settings(BaseSettings):
    """Typed settings."""

    db_url: str

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the parameters first."""
        return ParameterSource(settings_cls), init_settings, env_settings, dotenv_settings, file_secret_settings


async def typed_settings(env: Env) -> None:
    """Load settings with each form, and follow them."""
    assert_type(await load_settings(Settings, "/A", "/B", deadline=5), Settings)
    async with live_settings(Settings, "/A", ttl=60, keys=None, environ={}) as live:
        assert_type(live, LiveSettings[Settings])
        assert_type(live.current, Settings)
        assert_type(live.error, AiossmenvError | None)
        assert_type(live.env, Env)

        def function(old: Settings, new: Settings) -> None: ...
        async def coroutine_function(old: Settings, new: Settings) -> None: ...
        def of_a_change(change: Change) -> None: ...

        assert_type(live.on_change(function), Callable[[], None])
        assert_type(live.on_change(coroutine_function), Callable[[], None])
        live.on_change(of_a_change)  # type: ignore[arg-type]
    assert_type(LiveSettings(Settings, env), LiveSettings[Settings])
    assert_type(ParameterSource(Settings, env).names(), list[str])
    error: AiossmenvError = InvalidSettings("")

    load_settings(Settings, "/A")  # type: ignore[unused-coroutine]
    await load_settings(Settings, "/A", tll=60)  # type: ignore[call-arg]
    await load_settings(Settings, "/A", ttl="60")  # type: ignore[arg-type]
    await load_settings(str, "/A")  # type: ignore[type-var]
    raise error
