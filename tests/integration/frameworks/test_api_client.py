"""The example of an HTTP client, against a server that accepts only the newest token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from aiossmenv import load_env
from api_client import client, fetch
from embedded import Store


@dataclass
class Api:
    """A server that accepts only *token*."""

    url: str = ""
    token: str = "t0"
    rejected: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Api"]:
        """Listen until the block ends."""

        async def answer(request: web.Request) -> web.Response:
            """Answer a request with the token, and reject any other."""
            if request.headers["Authorization"] != f"Bearer {self.token}":
                self.rejected += 1
                raise web.HTTPUnauthorized
            return web.json_response({"path": request.path})

        app = web.Application()
        app.router.add_get("/{path}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


async def test_no_request_fails(ssm: Store) -> None:
    """While the token changes many times, every request is answered, and each rejection causes a refresh."""
    async with Api().running() as server:
        for key, value in {"API_URL": server.url, "API_TOKEN": server.token}.items():
            await asyncio.to_thread(ssm.put, f"/FAKEBOOK/TEST/{key}", value)
        answers = 0
        async with load_env("/FAKEBOOK/TEST/", ttl=3600) as env, client(env) as api:

            async def work() -> None:
                """Send one request after the other."""
                nonlocal answers
                while api.generation <= 8:
                    assert {"path": "/it"} == await fetch(api, "/it")
                    answers += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(work())
                for rotation in range(1, 9):
                    server.token = f"t{rotation}"
                    await asyncio.to_thread(ssm.put, "/FAKEBOOK/TEST/API_TOKEN", server.token)
                    while api.generation <= rotation:
                        await asyncio.sleep(0.005)
                    await asyncio.sleep(0.05)
            status = api.status
        assert (9, "READY") == (status.generation, status.state)
        assert 8 <= status.auth_failures == server.rejected
        assert 8 <= status.refreshes
        assert 50 < answers
