"""`examples/worker.py` in its own process, while its API, its MariaDB and its Parameter Store change and fail."""

import asyncio
import logging
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiossmenv import ParameterStore, load_env
from aiossmenv.mysql import RotatingPool
from aiossmenv.testing import ManualClock
from embedded import MariaDB, Store
from faults import FaultProxy, reset
from timing import eventually
from worker import Worker

WORKER = Path(__file__).parents[3] / "examples" / "worker.py"


class Api:
    """An API that gives jobs to clients with *key*. *given*: the number of jobs; *done*: the results by job."""

    def __init__(self) -> None:
        self.key = ""
        self.url = ""
        self.given = 0
        self.done: dict[int, int] = {}
        self.terminate: int | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Api"]:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_post("/next", self._next)
        app.router.add_post("/done", self._done)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _next(self, request: web.Request) -> web.Response:
        self._check(request)
        await asyncio.sleep(0.002)
        self.given += 1
        if self.terminate:
            # Send the signal while the job is on its way to the worker.
            os.kill(self.terminate, signal.SIGTERM)
        return web.json_response({"id": self.given, "n": self.given})

    async def _done(self, request: web.Request) -> web.Response:
        self._check(request)
        answer = await request.json()
        self.done[answer["id"]] = answer["result"]
        return web.json_response(None)

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            raise web.HTTPUnauthorized


class Site:
    """The services that a worker needs, and the rotation of their secrets."""

    def __init__(self, ssm: Store, server: MariaDB, api: Api) -> None:
        self.api = api
        self.user = f"worker{secrets.token_hex(4)}"
        self.values: list[str] = []
        self._ssm = ssm
        self._server = server

    async def begin(self) -> None:
        """Write all parameters."""
        await self.rotate()
        for key, value in {"DB_URL": self._server.address, "DB_USER": self.user, "API_URL": self.api.url}.items():
            await self._put(key, value)

    async def rotate(self) -> None:
        """Change the key and the password in the services, and shortly after in Parameter Store."""
        self.values += [secrets.token_hex(8), secrets.token_hex(8)]
        self.api.key, password = self.values[-2:]
        await self._server.set_user(self.user, password)
        await asyncio.sleep(0.05)
        await self._put("API_KEY", self.api.key)
        await self._put("DB_PASSWORD", password)

    async def more_work(self, jobs: int = 20) -> None:
        """Wait until this many more jobs are done."""
        before = len(self.api.done)
        await eventually(lambda: len(self.api.done) >= before + jobs, 30)

    async def _put(self, key: str, value: str) -> None:
        await asyncio.to_thread(self._ssm.put, f"/JOBS/{key}", value)


class Process:
    """The worker's process; *lines*: its log so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.lines: list[str] = []
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @property
    def text(self) -> str:
        """The whole log."""
        return "".join(self.lines)

    async def says(self, text: str, times: int = 1) -> None:
        """Wait until the log contains *text* this many times."""
        await eventually(lambda: self.text.count(text) >= times or self._reading.done(), 40)
        assert times <= self.text.count(text), self.text

    async def ended(self) -> int:
        """Wait for the end of the process; return the exit status."""
        async with asyncio.timeout(20):
            await self._reading
            return await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.lines.append(line.decode())


@asynccontextmanager
async def working(ttl: float = 0.3) -> AsyncIterator[Process]:
    """Run a worker until the block ends, and make sure that its process has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "always::ResourceWarning", str(WORKER)),
        env=os.environ | {"SSM_PATH": "/JOBS", "SSM_TTL": str(ttl)},
        stderr=asyncio.subprocess.PIPE,
    )
    worker = Process(process)
    try:
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await worker.ended()


@pytest.fixture
async def site(ssm: Store, server: MariaDB) -> AsyncIterator[Site]:
    """Give the services of one test."""
    async with Api().running() as api:
        site = Site(ssm, server, api)
        await site.begin()
        yield site
        await server.drop_user(site.user)


def squares(numbers: Iterable[int]) -> dict[int, int]:
    """Return the results that the jobs must have."""
    return {number: number * number for number in numbers}


async def test_rotated_secrets_are_used_between_jobs(site: Site) -> None:
    """While keys and passwords change, every job is done, even the one during SIGTERM; then the worker exits with 0."""
    async with working() as worker:
        for generation in range(2, 7):
            await site.more_work()
            await site.rotate()
            await worker.says(f"generation {generation} of DB_URL, DB_USER, DB_PASSWORD serves")
        await site.more_work()
        site.api.terminate = worker.pid
        assert 0 == await worker.ended()

    assert squares(range(1, site.api.given + 1)) == site.api.done
    assert re.search(r"worker INFO: stopped\n$", worker.text)
    for text in ("Traceback", "ResourceWarning", "no job is done", *site.values):
        assert text not in worker.text


async def test_rejected_key_forces_a_refresh(site: Site) -> None:
    """A rejected key forces a refresh at once, long before the TTL is over."""
    async with working(ttl=3600) as worker:
        for _ in range(3):
            await site.more_work()
            await site.rotate()
        await site.more_work()
        os.kill(worker.pid, signal.SIGINT)
        assert 0 == await worker.ended()

    assert squares(range(1, site.api.given + 1)) == site.api.done
    assert 3 == worker.text.count("changed: API_KEY (updated)")


async def test_outage_is_survived(site: Site, proxy: FaultProxy) -> None:
    """
    In an outage of many TTLs the worker keeps working and logs it, and follows again afterwards; SIGTERM ends it at any
    time.
    """
    async with working() as worker:
        await site.more_work()
        proxy.add(reset(rst=True))
        await worker.says("refreshes fail: using values that are")
        await site.more_work(100)
        proxy.clear()
        await worker.says("the environment is current again")
        await site.rotate()
        await site.more_work()
        await worker.says("changed: ")

        proxy.add(reset())
        await worker.says("refreshes fail", 2)
        os.kill(worker.pid, signal.SIGTERM)
        assert 0 == await worker.ended()

    assert squares(range(1, site.api.given + 1)) == site.api.done
    for text in ("Traceback", "ResourceWarning", *site.values):
        assert text not in worker.text


async def test_outage_of_minutes(
    site: Site, proxy: FaultProxy, store: ParameterStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """In ten minutes without Parameter Store the worker works, and logs one line at the start and one at the end."""
    caplog.set_level(logging.INFO, "worker")

    def warnings_logged() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "worker" and "is done" not in r.getMessage()]

    async with (
        load_env("/JOBS", ttl=60, environ=None, store=store) as env,
        RotatingPool(env, maxsize=1) as pool,
        aiohttp.ClientSession() as http,
    ):
        worker = Worker(env, pool, http)
        running: asyncio.Task[Any] = asyncio.create_task(worker.run())
        await site.more_work()
        proxy.add(reset())
        for _ in range(60):
            await clock.advance(10)
            await site.more_work(2)
        assert 600 == env.status.age
        await eventually(warnings_logged)

        proxy.clear()
        while not env.status.fresh:
            await clock.advance(10)
            await site.more_work(2)
        await eventually(lambda: len(warnings_logged()) > 1)
        worker.stopping.set()
        await running

    assert squares(range(1, site.api.given + 1)) == site.api.done
    # The clock is at some timer between 60 and 70 seconds.
    assert re.fullmatch(r"refreshes fail: using values that are (6\d|70) s old", warnings_logged()[0])
    assert ["the environment is current again"] == warnings_logged()[1:]
