"""`aiossmenv.fastapi`: apps on a real uvicorn, over HTTP, while Parameter Store and the database change."""

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import pytest
import uvicorn
from fastapi import Depends, FastAPI, WebSocket

import aiossmenv.fastapi
from aiossmenv import EmptyPath, Env, ParameterStore, load_env
from aiossmenv.fastapi import EnvDep, Health, get_env, health, lifespan
from aiossmenv.testing import ManualClock
from embedded import MariaDB, Store
from faults import FaultProxy, error
from timing import eventually

EXAMPLES = Path(__file__).parents[3] / "examples"
MARKER = "s3cret-marker"
ROTATIONS = 12


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve *app* on a free port of loopback; yield a client of the app."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="on", log_config=None))
    task = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started or task.done())
        port = server.servers[0].sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        await task


async def fetched(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    """Return the status and the JSON of a GET."""
    async with client.get(path) as response:
        return response.status, await response.json()


# --- The documentation page


def blocks() -> list[str]:
    """Return the code blocks of the module's docstring."""
    page = aiossmenv.fastapi.__doc__ or ""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", page, re.MULTILINE) if block.strip()]


async def test_page_example(ssm: Store) -> None:
    """The first example of the docstring, unchanged, serves current values and its health."""
    ssm.put("/FAKEBOOK/TEST/DB_URL", "first")
    names: dict[str, Any] = {}
    exec(blocks()[0], names)

    async with serving(names["app"]) as client:
        assert (200, "first") == await fetched(client, "/database")
        ssm.put("/FAKEBOOK/TEST/DB_URL", "second")
        await get_env(names["app"]).refresh()
        assert (200, "second") == await fetched(client, "/database")
        status, body = await fetched(client, "/health")
        assert (200, True, 0, None) == (status, body["fresh"], body["failures"], body["last_error"])


@pytest.mark.parametrize("number", [1, 2])
async def test_page_lifespans(ssm: Store, server: MariaDB, number: int) -> None:
    """The other examples of the docstring, unchanged, give the `Env` to routes too, and close what they opened."""
    await server.set_user("page", "password")
    for key, value in {"DB_URL": server.address, "DB_USER": "page", "DB_PASSWORD": "password"}.items():
        ssm.put(f"/FAKEBOOK/TEST/{key}", value)
    names: dict[str, Any] = {}
    exec("from aiossmenv import *\nfrom aiossmenv.fastapi import *\nfrom aiossmenv.mysql import *\n", names)
    names |= {"asynccontextmanager": asynccontextmanager, "AsyncIterator": AsyncIterator, "FastAPI": FastAPI}
    exec(blocks()[number], names)
    app = FastAPI(lifespan=names["opened"])

    @app.get("/user")
    async def user(env: EnvDep) -> str:
        return env["DB_USER"]

    async with serving(app) as client:
        assert (200, "page") == await fetched(client, "/user")
        if number == 1:
            async with app.state.pool.acquire() as connection:
                await connection.ping()
    await server.drop_user("page")


def test_without_fastapi() -> None:
    """Without fastapi, the import says how to install it."""
    script = "import sys; sys.modules['fastapi'] = None; import aiossmenv.fastapi"
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert "ImportError: aiossmenv.fastapi needs fastapi: pip install 'aiossmenv[fastapi]'" in run.stderr


# --- The dependency


async def test_no_env() -> None:
    """An app without an `Env` says what to do, and a route that needs one fails with that error."""
    app = FastAPI(title="lonely")

    with pytest.raises(LookupError, match=r"'lonely' has no Env.*FastAPI\(lifespan=lifespan\(PATH, ttl=60\)\)"):
        get_env(app)
    app.state.aiossmenv = {"A": "a mapping, and no Env"}
    with pytest.raises(LookupError):
        get_env(app)


async def test_lifetime_of_the_env(ssm: Store) -> None:
    """The app has its `Env` while it runs; afterwards the `Env` is closed and removed, and the app can start again."""
    ssm.put("/R/A", "1")
    app = FastAPI(lifespan=lifespan("/R", ttl=60))
    for _ in range(2):
        async with serving(app):
            env = get_env(app)
            assert {"A": "1"} == dict(env)
        with pytest.raises(LookupError):
            get_env(app)
        with pytest.raises(RuntimeError, match="closed"):
            await env.refresh()


async def test_websocket_and_nested_dependency(ssm: Store) -> None:
    """The dependency works in WebSockets, in nested dependencies and in mounted apps."""
    ssm.put("/R/A", "1")
    app, mounted = FastAPI(lifespan=lifespan("/R")), FastAPI()
    app.mount("/mounted", mounted)

    async def a(env: EnvDep) -> str:
        return env["A"]

    @mounted.get("/a")
    @app.get("/a")
    async def route(value: Annotated[str, Depends(a)]) -> str:
        return value

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, env: EnvDep) -> None:
        await websocket.accept()
        await websocket.send_text(env["A"])
        await websocket.close()

    async with serving(app) as client:
        assert (200, "1") == await fetched(client, "/a")
        mounted.state.aiossmenv = get_env(app)
        assert (200, "1") == await fetched(client, "/mounted/a")

        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/socket", "query_string": b"", "headers": [], "subprotocols": []}
        await app(scope, receive, send)
        assert ["1"] == [message["text"] for message in sent if message["type"] == "websocket.send"]


async def test_schema_shows_no_env() -> None:
    """The OpenAPI schema shows neither the `Env` nor its values: no parameter, no body, no component."""
    app = FastAPI()
    app.get("/health")(health)

    @app.get("/a")
    async def route(env: EnvDep) -> str:
        return env["A"]

    schema = app.openapi()
    assert {"summary", "operationId", "responses"} == set(schema["paths"]["/a"]["get"])
    assert {"200"} == set(schema["paths"]["/a"]["get"]["responses"])
    assert {"Health"} == set(schema["components"]["schemas"])


# --- Health


async def test_health_of_an_outage(ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock) -> None:
    """During an outage the health has one line without values; the status stays 200, and the health recovers."""
    ssm.put("/R/A", MARKER)
    app = FastAPI(lifespan=lifespan("/R", ttl=60, deadline=5, store=store))
    app.get("/health")(health)
    async with serving(app) as client:
        env = get_env(app)
        proxy.add(error("ExpiredTokenException", "The security token\nis expired"))
        await clock.advance(28.5)
        await eventually(lambda: env.status.failures)
        await clock.advance(40)
        await eventually(lambda: env.status.failures > 1 and env.status.next_refresh)

        status, body = await fetched(client, "/health")
        assert (200, False) == (status, body["fresh"])
        assert env.status.age == body["age"] > 60
        assert env.status.failures == body["failures"]
        assert re.fullmatch(r"AccessDenied: .*The security token is expired \(parameter /R/A, .*", body["last_error"])
        assert MARKER not in json.dumps(body)
        assert Health(**body) == await health(env)

        proxy.clear()
        await env.refresh()
        assert {"fresh": True, "age": 0, "failures": 0, "last_error": None} == (await fetched(client, "/health"))[1]


# --- An app that cannot load


async def test_no_start_without_an_env(ssm: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A lifespan that cannot load raises the error of the load, logs one line, and leaves nothing open."""
    app = FastAPI(lifespan=lifespan("/NOTHING/HERE", ttl=60))

    with pytest.raises(EmptyPath):
        async with app.router.lifespan_context(app):
            pass

    (line,) = [record for record in caplog.records if record.name == "aiossmenv"]
    assert logging.CRITICAL == line.levelno
    assert re.fullmatch(
        r"the app does not start: EmptyPath: .*\(path /NOTHING/HERE, region eu-central-1\).*", line.getMessage()
    )
    assert "\n" not in line.getMessage()


def test_server_exits_without_an_env(moto: Store, tmp_path: Path) -> None:
    """A server whose app cannot load serves nothing, and its exit status is not zero."""
    (tmp_path / "empty.py").write_text(
        "from fastapi import FastAPI\nfrom aiossmenv.fastapi import lifespan\n"
        "app = FastAPI(lifespan=lifespan('/NOTHING/HERE', ttl=60))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "--port", "0", "empty:app"],
        cwd=tmp_path,
        env=os.environ | moto.environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert 3 == done.returncode
    assert 1 == len([line for line in done.stderr.splitlines() if line.startswith("the app does not start: EmptyPath")])
    assert "Uvicorn running" not in done.stderr


# --- The example


class Example:
    """An example in its own process, and the rotation of its password."""

    def __init__(self, ssm: Store, server: MariaDB, program: str) -> None:
        self._ssm = ssm
        self._program = program
        self._server = server
        self._user = f"web{secrets.token_hex(4)}"
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Example"]:
        """Run the example until the block ends; it must shut down cleanly and print no error."""
        await self.rotate()
        for key, value in {"DB_URL": self._server.address, "DB_USER": self._user}.items():
            await asyncio.to_thread(self._ssm.put, f"/WEB/{key}", value)
        environment = {"SSM_PATH": "/WEB", "SSM_TTL": "0.5", "PORT": "0"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLES / self._program),
            env=os.environ | self._ssm.environment | environment,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        lines = []
        while not self.url:
            lines.append((await process.stderr.readline()).decode())
            assert lines[-1], lines
            running = re.search(r"running on (\S+)", lines[-1])
            self.url = running[1] if running else ""
        try:
            yield self
        finally:
            process.terminate()
            body = (await process.stderr.read()).decode()
            # The server shuts down cleanly, and then raises the signal again.
            assert -signal.SIGTERM == await process.wait(), body
            assert [] == [line for line in body.splitlines() if not line.startswith("INFO")]
            await self._server.drop_user(self._user)

    async def rotate(self) -> None:
        """Change the password in the database, and shortly after in Parameter Store."""
        password = secrets.token_hex(8)
        await self._server.set_user(self._user, password)
        await asyncio.sleep(0.02)
        await asyncio.to_thread(self._ssm.put, "/WEB/DB_PASSWORD", password)


@pytest.mark.parametrize("program", ["fastapi_app.py", "fastapi_sqlalchemy.py"])
async def test_no_request_fails_while_passwords_rotate(ssm: Store, server: MariaDB, program: str) -> None:
    """Twenty passwords are used under load, each by its own pool, and every HTTP request is answered."""
    answered, ended = 0, False
    async with Example(ssm, server, program).running() as example, aiohttp.ClientSession(example.url) as client:

        async def ask(number: int) -> None:
            nonlocal answered
            while not ended:
                assert (200, 2 * number) == await fetched(client, f"/sum?a={number}&b={number}")
                answered += 1

        async def rotate() -> None:
            nonlocal ended
            for version in range(2, ROTATIONS + 2):
                before = (await fetched(client, "/database"))[1]["generation"]
                await example.rotate()
                await reached(lambda: fetched(client, "/database"), version, before + 1)
            ended = True

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(ask(number))
            group.create_task(rotate())
        body = (await fetched(client, "/database"))[1]

    assert server.address == body["host"]
    assert ROTATIONS + 1 == body["password_version"]
    assert ROTATIONS + 1 <= body["generation"]
    assert answered > 20 * ROTATIONS


async def reached(ask: Callable[[], Awaitable[tuple[int, Any]]], version: int, generation: int) -> None:
    """Wait until the example has read this version of the password and serves this generation of its pool."""
    async with asyncio.timeout(20):
        while True:
            status, body = await ask()
            assert 200 == status
            if body["password_version"] >= version and body["generation"] >= generation:
                return
            await asyncio.sleep(0.02)


# --- Without the lifespan


async def test_env_set_by_hand(ssm: Store) -> None:
    """An `Env` that a test or a mounted app sets by hand is found."""
    ssm.put("/R/A", "1")
    app = FastAPI()
    app.state.aiossmenv = env = await load_env("/R", environ=None)

    assert env is get_env(app)
    assert isinstance(env, Env)


async def test_second_lifespan_of_one_app_is_rejected(ssm: Store) -> None:
    """FastAPI passes the including app to a router's lifespan, which must not silently replace the app's own `Env`."""
    await asyncio.to_thread(ssm.put, "/R/A", "1")
    app = FastAPI(title="shop")
    async with lifespan("/R")(app):
        with pytest.raises(RuntimeError, match="'shop' has an Env"):
            async with lifespan("/R")(app):
                pass
        assert "1" == get_env(app)["A"]
    async with lifespan("/R")(app):
        assert "1" == get_env(app)["A"]


async def test_iterator_options_work_for_each_start(ssm: Store) -> None:
    """Options that can be iterated only once are used for every start of the app, not only for the first."""
    for name in ("A", "B", "C"):
        ssm.put(f"/R/{name}", "1")
    app = FastAPI()
    start = lifespan("/R", keys=(name for name in ("A", "B")), required=iter(["A"]), protected=iter(["NOT_*"]))

    for _ in range(3):
        async with start(app):
            assert {"A": "1", "B": "1"} == dict(get_env(app))
