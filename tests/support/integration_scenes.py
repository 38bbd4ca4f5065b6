"""Scenes of pools, frameworks and typed settings, each with values that would be found."""

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
from aiossmenv.testing import ManualClock, MemoryStore
from hearing import CORE, SECRET, Stage, scene
from timing import eventually

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
