"""
A pool of psycopg that follows its credentials: `SSM_PATH=/FAKEBOOK/TEST/ python psycopg_following.py`.

The path holds DB_URL (host:port), DB_USER and DB_PASSWORD. The pool is one object for the life of the program: psycopg
asks for the credentials at each login (`kwargs=`, since psycopg_pool 3.3), and `drain()` replaces what is open once the
new ones have logged in. A login that the server rejects reads them again at once.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool

from aiossmenv import Env, load_env

KEYS = ("DB_URL", "DB_USER", "DB_PASSWORD")


@asynccontextmanager
async def following_pool(env: Env, **options: Any) -> AsyncIterator["AsyncConnectionPool[Any]"]:
    """Make a pool that follows the keys of *env*, until the block ends."""

    def login() -> dict[str, Any]:
        host, _, port = env["DB_URL"].rpartition(":")
        user = {"user": env["DB_USER"], "password": env["DB_PASSWORD"]}
        return {"host": host, "port": port, "dbname": "app"} | user

    class Following(AsyncConnection[Any]):
        @classmethod
        async def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            for wait in (0.05, 0.1, 0.2, 0.4, 0.8):
                try:
                    return await super().connect(conninfo, **kwargs)
                except OperationalError:
                    await env.refresh(*KEYS, min_gap=wait)
                    kwargs |= login()
            return await super().connect(conninfo, **kwargs)

    async def replace(_: object) -> None:
        # A login proves the new credentials: until then what is open stays.
        await (await AsyncConnection.connect(**login())).close()
        await pool.drain()

    unsubscribe, ungroup = env.on_change(replace, *KEYS), env.group(*KEYS)
    try:
        async with AsyncConnectionPool(kwargs=login, connection_class=Following, open=False, **options) as pool:
            yield pool
    finally:
        unsubscribe()
        ungroup()


async def main() -> None:
    """Print the time of the database until interrupted."""
    async with load_env(ttl=float(os.environ.get("SSM_TTL", "60"))) as env, following_pool(env, max_size=10) as pool:
        while True:
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT now()::text")
                print((await cursor.fetchone() or ("",))[0], flush=True)
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main())
