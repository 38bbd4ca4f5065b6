"""
A worker whose API key and database password change while it works: `SSM_PATH=/FAKEBOOK/TEST/ python worker.py`.

It takes jobs from an HTTP API, one at a time, has the database work them out, and posts the results. Under the path there
are API_URL and API_KEY, and DB_URL, DB_USER and DB_PASSWORD. Each job is done with the newest values; a key that is
refused is read again at once. On SIGTERM it finishes the job at hand. It works on through an outage of Parameter Store,
with the last values that it knows, and says so.
"""

import asyncio
import logging
import os
import signal
from contextlib import suppress
from http import HTTPStatus

import aiohttp
import aiomysql

from aiossmenv import AiossmenvError, Env, load_env
from aiossmenv.mysql import RotatingPool

TTL = float(os.environ.get("SSM_TTL", "60"))
# Seconds from one question for work to the next, when there is none or the API is down.
PAUSE = 0.2
# Seconds in which a new key that counts already is in Parameter Store as well.
PATIENCE = 10.0

log = logging.getLogger("worker")


class Worker:
    """Does jobs until *stopping* is set."""

    def __init__(self, env: Env, pool: RotatingPool, http: aiohttp.ClientSession) -> None:
        self.stopping = asyncio.Event()
        self._env = env
        self._pool = pool
        self._http = http
        self._fresh = True

    async def run(self) -> None:
        """Do one job after the other, and wait a little where there is none."""
        while not self.stopping.is_set():
            self._say_how_fresh()
            try:
                job = await self._api("/next")
                if job:
                    await self._api("/done", {"id": job["id"], "result": await self._work_out(job["n"])})
                    log.info("job %d is done", job["id"])
                    continue
            except (aiohttp.ClientError, aiomysql.MySQLError, TimeoutError) as error:
                # Not its text: drivers quote user names. A job that is not done is handed out again.
                log.warning("no job is done: %s", type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self.stopping.wait()

    async def _work_out(self, n: int) -> int:
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT %s * %s", (n, n))
            (result,) = await cursor.fetchone()
            return int(result)

    async def _api(self, path: str, result: dict[str, int] | None = None) -> dict[str, int] | None:
        """Post to the API with the key of now; one that is refused is read again until there is a better one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                headers = {"Authorization": f"Bearer {self._env['API_KEY']}"}
                async with self._http.post(self._env["API_URL"] + path, json=result, headers=headers) as response:
                    if response.status != HTTPStatus.UNAUTHORIZED:
                        response.raise_for_status()
                        job: dict[str, int] | None = await response.json()
                        return job
                try:
                    await self._env.refresh("API_KEY", min_gap=PAUSE)
                except AiossmenvError as error:
                    log.warning("the API key is refused, and there is no news of it: %s", type(error).__name__)

    def _say_how_fresh(self) -> None:
        status = self._env.status
        if status.fresh != self._fresh:
            self._fresh = status.fresh
            if status.fresh:
                log.info("the environment is current again")
            else:
                log.warning("no news from Parameter Store: working on with values of %.0f s ago", status.age)


async def main() -> None:
    """Work until SIGTERM or an interrupt."""
    async with load_env(ttl=TTL) as env, RotatingPool(env, maxsize=1) as pool, aiohttp.ClientSession() as http:
        worker = Worker(env, pool, http)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stopping.set)
        log.info("working")
        await worker.run()
    log.info("stopped")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    asyncio.run(main())
