"""
What an Any that is not ours gets into, as a type checker sees it: checked, never run.

`aiossmenv.mysql` lends what is aiomysql's, and passes options on to it; it is untyped. And to mypy a lambda's argument
is an Any until it knows better.
"""

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, assert_type

from aiossmenv import Env, Rotating
from aiossmenv.mysql import RotatingPool


async def follows_mysql(env: Env) -> None:
    """Lend connections of a pool."""
    async with RotatingPool(
        env,
        {"host": "HOST"},
        maxsize=5,
        minsize=2,
        build_timeout=1,
        drain_timeout=60,
        retry_deadline=5,
        min_gap=1,
        db="app",
    ) as pool:
        assert_type(pool, RotatingPool)
        assert_type(pool.generation, int)
        assert_type(pool.state, Literal["NEW", "READY", "DEGRADED", "CLOSED"])
        assert_type(pool.status.auth_failures, int)
        async with pool.acquire() as connection:
            await connection.ping()
        async with pool.cursor() as cursor:
            await cursor.close()
    await pool.aclose()
    RotatingPool(env, ["DB_URL"])  # type: ignore[arg-type]


class Pool(Protocol):
    """A resource."""

    def acquire(self) -> AbstractAsyncContextManager[int]:
        """Take a connection, which is a number here."""
        ...


async def enters(rotating: Rotating[Pool]) -> None:
    """Lease a part of a resource."""
    async with rotating.use(lambda pool: pool.acquire()) as connection:
        assert_type(connection, int)
