"""
An asyncpg pool that follows its credentials: `SSM_PATH=/FAKEBOOK/TEST/ python asyncpg_following.py`.

The path holds DB_URL (host:port), DB_USER and DB_PASSWORD. When they change, a new pool logs in and takes over; the old
one closes when its last connection comes back. asyncpg can replace the arguments of a pool (`set_connect_args()`), but
a pool whose new password is wrong has no connections at all, so a pool that has logged in replaces another here.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import asyncpg

from aiossmenv import Env, Rotating, load_env


async def create(values: Mapping[str, str]) -> "asyncpg.Pool[asyncpg.Record]":
    """Make a pool with one connection."""
    host, _, port = values["DB_URL"].rpartition(":")
    login: dict[str, Any] = {"user": values["DB_USER"], "password": values["DB_PASSWORD"], "database": "app"}
    return await asyncpg.create_pool(host=host, port=int(port), min_size=1, max_size=10, **login)


def classify(error: Exception) -> Any:
    """Say whether other credentials, or time, may help."""
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidPasswordError):
        return "auth_failed"
    passing = ConnectionError | asyncpg.CannotConnectNowError | asyncpg.TooManyConnectionsError
    return "transient" if isinstance(error, passing) else None


def rotating_pool(env: Env) -> "Rotating[asyncpg.Pool[asyncpg.Record]]":
    """Follow the keys of *env*."""
    return Rotating(
        env,
        ["DB_URL", "DB_USER", "DB_PASSWORD"],
        create,
        probe=lambda pool: pool.fetchval("SELECT 1"),
        dispose=lambda pool: pool.close(),
        classify=classify,
    )


async def main() -> None:
    """Print the time of the database until interrupted."""
    async with load_env(ttl=float(os.environ.get("SSM_TTL", "60"))) as env, rotating_pool(env) as rotating:
        while True:
            async with rotating.use(lambda pool: pool.acquire()) as connection:
                print(await connection.fetchval("SELECT now()::text"), flush=True)
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main())
