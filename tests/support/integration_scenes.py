"""Scenarios of pools, frameworks and typed settings, in which every value contains the secret."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from aiossmenv import (
    AiossmenvError,
    EmptyPath,
    InvalidPath,
    KeyCollision,
    MissingParameters,
    Rotating,
    RotationFailed,
    load_env,
)
from aiossmenv.fastapi import EnvDep, get_env, health, lifespan
from aiossmenv.mysql import RotatingPool
from aiossmenv.pydantic import LiveSettings, ParameterSource, live_settings, load_settings
from aiossmenv.sqlalchemy import RotatingEngine
from aiossmenv.testing import ManualClock, MemoryStore
from hearing import CORE, SECRET, Context, scenario
from timing import eventually

# --- Integrations


class Resource:
    """A resource that is created from a secret and does not show it."""

    def __init__(self, secret: str) -> None:
        self.secret = secret


@scenario
async def rotations(context: Context) -> None:  # noqa: PLR0915 - one life cycle, in one function
    """Rotate a resource whose callbacks quote its values in every error that they raise."""
    detector, clock = context.detector, ManualClock()
    store = MemoryStore({"/T/A": SECRET, "/T/B": SECRET}, clock=clock)
    fails = {"create"}

    def fail(where: str, quoted: object) -> None:
        if where in fails:
            raise ValueError(quoted)

    async def create(values: Mapping[str, str]) -> Resource:
        detector.check_repr(values)
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
            with detector.expecting(RotationFailed, whose="theirs"):
                async with rotating():
                    pass
            fails.clear()
        with detector.expecting(RotationFailed):
            async with Rotating(env, ["A", "NONE"], create):
                pass
        async with rotating() as one:
            async with one.use() as made, one.use(enter) as secret:
                assert SECRET == made.secret == secret
            fails |= {"enter", "classify"}
            with detector.expecting(ValueError, whose="theirs"):
                async with one.use(enter):
                    pass
            with detector.expecting(RotationFailed):
                await one.__aenter__()
            fails |= {"create", "dispose"}
            store.set("/T/A", SECRET + "2")
            await clock.advance(120)
            detector.check_repr(one, one.state, one.generation, getattr(one, "status", None))
            assert "DEGRADED" == one.state
            fails.discard("create")
            store.set("/T/A", SECRET + "3")
            await clock.advance(240)
            assert 2 == one.generation
            detector.check_all_objects()
        with detector.expecting(RotationFailed):
            async with one.use():
                pass


@scenario
async def pools(context: Context) -> None:
    """Rotate a pool of a real server, with a secret user name and password and with rejected logins."""
    detector, server, user = context.detector, context.server, f"{CORE}{secrets.token_hex(3)}"
    store = MemoryStore({"/P/DB_URL": server.address, "/P/DB_USER": user, "/P/DB_PASSWORD": f"{CORE}1"})

    async def rotate(number: int) -> None:
        detector.paused = True
        await server.set_user(user, f"{CORE}{number}")
        detector.paused = False

    await rotate(1)
    async with load_env("/P", environ={}, store=store, ttl=60) as env:
        async with RotatingPool(env, maxsize=2, minsize=1, db="app") as pool:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute("SELECT 1")
                detector.check_repr(connection, cursor)
            if cursors := getattr(pool, "cursor", None):
                async with cursors() as cursor:
                    await cursor.execute("SELECT 1")
            detector.check_repr(pool, pool.state, pool.generation, getattr(pool, "status", None))
            await rotate(2)
            store.set("/P/DB_PASSWORD", f"{CORE}2")
            async with pool.acquire(), pool.acquire():
                detector.check_all_objects()
            assert 2 == pool.generation
        store.set("/P/DB_PASSWORD", f"{CORE}3")
        await env.refresh()
        with detector.expecting(RotationFailed, whose="theirs"):
            async with RotatingPool(env, db="app"):
                pass
        store.set("/P/DB_URL", f"{server.address}{CORE}")
        await env.refresh()
        with detector.expecting(RotationFailed, whose="theirs"):
            async with RotatingPool(env, db="app"):
                pass
    await server.drop_user(user)


@scenario
async def engines(context: Context) -> None:
    """Rotate engines of SQLAlchemy that echo what they do, with rejected logins; drivers quote user names."""
    detector, server, user = context.detector, context.server, f"user{secrets.token_hex(3)}"
    store = MemoryStore({"/P/DB_URL": server.address, "/P/DB_USER": user, "/P/DB_PASSWORD": f"{CORE}1"})
    for driver in ("mysql+aiomysql", "mysql+asyncmy"):
        detector.paused = True
        await server.set_user(user, f"{CORE}1")
        detector.paused = False
        store.set("/P/DB_PASSWORD", f"{CORE}1")
        async with load_env("/P", environ={}, store=store, ttl=60) as env:
            options: dict[str, Any] = {"echo": "debug", "echo_pool": "debug", "pool_pre_ping": True}
            async with RotatingEngine(env, f"{driver}:///app", retry_deadline=2, **options) as engine:
                async with engine.connect() as connection:
                    (await connection.execute(text("SELECT 1"))).all()
                    detector.check_repr(connection, connection.sync_connection, engine.pool)
                detector.check_repr(
                    engine, engine.url, engine.sync_engine, engine.state, engine.generation, engine.status
                )
                detector.paused = True
                await server.set_user(user, f"{CORE}2")
                detector.paused = False
                store.set("/P/DB_PASSWORD", f"{CORE}2")
                async with engine.connect(), engine.connect():
                    detector.check_all_objects()
                assert 2 == engine.generation
                detector.paused = True
                await server.set_user(user, f"{CORE}3")
                detector.paused = False
                with detector.expecting(OperationalError, whose="theirs"):
                    async with engine.connect(), engine.connect(), engine.connect():
                        pass
            with detector.expecting(RotationFailed):
                async with engine.connect():
                    pass
            with detector.expecting(RotationFailed, whose="theirs"):
                async with RotatingEngine(env, f"{driver}:///app"):
                    pass
            with detector.expecting(ValueError):
                RotatingEngine(env, f"{driver}://u:{CORE}@localhost/app")
    await server.drop_user(user)


@scenario
async def apps(context: Context) -> None:
    """Serve an app with a health route and failing routes; then start apps that cannot load."""
    detector = context.detector
    context.put("/F/A")
    app = FastAPI(lifespan=lifespan("/F", ttl=60, environ={"OTHER": SECRET}), title="app")
    app.get("/health")(health)

    @app.get("/use")
    async def use(env: EnvDep) -> int:
        detector.check_repr(env, await health(env))
        return len(env["A"])

    with detector.expecting(LookupError):
        get_env(app)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_config=None, log_level="trace"))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        for path in ("/use", "/health", "/openapi.json"):
            async with client.get(path) as response:
                assert 200 == response.status
                detector.search(path, await response.text())
    detector.check_repr(app, get_env(app))
    server.should_exit = True
    await serving
    for options in ({}, {"deadline": -1}):
        broken = FastAPI(lifespan=lifespan("/NONE", environ={"OTHER": SECRET}, **options))  # type: ignore[arg-type] # wrong on purpose
        with detector.expecting(EmptyPath, ValueError):
            async with broken.router.lifespan_context(broken):
                pass
        detector.check_repr(broken)
        server = uvicorn.Server(uvicorn.Config(broken, port=0, lifespan="on", log_config=None, log_level="trace"))
        with detector.expecting(SystemExit):
            await server.serve()


class Inner(BaseModel):
    """A nested model of the settings."""

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


@scenario
async def settings(context: Context) -> None:
    """Fill typed settings and keep them current, with each kind of wrong value."""
    detector = context.detector
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
        detector.check_repr(old, new)
        raise ValueError(SECRET)

    async def broken_too(old: Settings, new: Settings) -> None:
        broken(old, new)

    detector.check_repr(await load_settings(Settings, "/Y", store=store))
    async with live_settings(Settings, "/Y", ttl=60, store=store, environ={"OTHER": SECRET}) as live:
        detector.check_repr(live, live.current, live.env, live.env.parameters)
        live.on_change(broken)
        live.on_change(broken_too)
        for name, value in (wrong | hostile).items():
            store.set(f"/Y/{name}", value)
            await live.env.refresh()
            detector.check_repr(live, live.error)
            assert isinstance(live.error, AiossmenvError), name
            detector.check_exception(live.error)
            with detector.expecting(type(live.error)):
                await load_settings(Settings, "/Y", store=store, environ={"OTHER": SECRET})
            with detector.expecting(type(live.error)):
                LiveSettings(Settings, live.env)
            with detector.expecting(Exception, whose="theirs"):
                Own.model_validate({"env": live.env})
            store.remove(f"/Y/{name}")
            if name in good:
                store.set(f"/Y/{name}", good[name])
            await live.env.refresh()
            await live.env.refresh()
            assert live.error is None
        detector.check_all_objects()
    source = ParameterSource(Settings, live.env)
    detector.check_repr(source, source.names(), source.env_vars)
    with detector.expecting(MissingParameters):
        await load_settings(Settings, "/NONE", store=store, environ={"OTHER": SECRET})
    with detector.expecting(InvalidPath):
        await load_settings(Settings, "NONE", store=store, environ={"OTHER": SECRET})
    with detector.expecting(TypeError):
        await load_settings(Settings, "/Y", tll=60, environ={"OTHER": SECRET})  # type: ignore[call-arg] # wrong on purpose
    for name in ("Count", "COUNT"):
        store.set(f"/Y/{name}", SECRET)
    with detector.expecting(KeyCollision):
        await load_settings(Settings, "/Y", keys=None, store=store, environ={"OTHER": SECRET}, to_key=str)


class Own(Settings):
    """Settings that read an `Env` through their own sources."""

    env: Any = None

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the parameters after the arguments."""
        return init_settings, ParameterSource(settings_cls, init_settings()["env"])
