"""
Code whose types contain an Any of another library: type checkers check it, and it never runs.

`aiossmenv.mysql` lends objects of aiomysql and passes options to it, and aiomysql has no types. To mypy, the argument
of a lambda is an Any at first.
"""

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, assert_type

from aiossmenv import Env, Rotating
from aiossmenv.mysql import RotatingPool


async def follows_mysql(env: Env) -> None:
    """Acquire connections of a pool."""
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
        """Acquire a connection; here it is a number."""
        ...


async def enters(rotating: Rotating[Pool]) -> None:
    """Use a part of a resource."""
    async with rotating.use(lambda pool: pool.acquire()) as connection:
        assert_type(connection, int)
