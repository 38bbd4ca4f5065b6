"""
A worker whose API key and database password change while it runs: `SSM_PATH=/FAKEBOOK/TEST/ python worker.py`.

It takes one job at a time from an HTTP API, computes it in the database, and posts the result. The path holds API_URL,
API_KEY, DB_URL, DB_USER and DB_PASSWORD. Each job uses the newest values. If the API rejects the key, the worker reads
it again at once. In an outage of Parameter Store it logs a warning and uses the last values. SIGTERM ends it after the
current job.
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
# Seconds before the API is asked for a job again, if it had none or did not answer.
PAUSE = 0.2
# Seconds to wait until a key that the API accepts is in Parameter Store.
KEY_TIMEOUT = 10.0

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
        """Do one job after the other; wait for PAUSE seconds if there is none."""
        while not self.stopping.is_set():
            self._log_freshness()
            try:
                job = await self._api("/next")
                if job:
                    await self._api("/done", {"id": job["id"], "result": await self._square(job["n"])})
                    log.info("job %d is done", job["id"])
                    continue
            except (aiohttp.ClientError, aiomysql.MySQLError, TimeoutError) as error:
                # The type only, because drivers quote user names. The API hands out the job again.
                log.warning("no job is done: %s", type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self.stopping.wait()

    async def _square(self, n: int) -> int:
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT %s * %s", (n, n))
            (result,) = await cursor.fetchone()
            return int(result)

    async def _api(self, path: str, result: dict[str, int] | None = None) -> dict[str, int] | None:
        """Post to the API with the newest key; if the key is rejected, read it again and retry."""
        async with asyncio.timeout(KEY_TIMEOUT):
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
                    log.warning("the API rejects the key, and it could not be read again: %s", type(error).__name__)

    def _log_freshness(self) -> None:
        status = self._env.status
        if status.fresh != self._fresh:
            self._fresh = status.fresh
            if status.fresh:
                log.info("the environment is current again")
            else:
                log.warning("refreshes fail: using values that are %.0f s old", status.age)


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
