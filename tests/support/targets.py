"""What runs the transactions of a load: a `RotatingPool`, a `RotatingEngine`, and the pools of two examples."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import asyncpg_following
import psycopg_following
from aiossmenv.mysql import RotatingPool
from aiossmenv.sqlalchemy import RotatingEngine

if TYPE_CHECKING:
    import asyncpg
    import psycopg
    import psycopg_pool

    from aiossmenv import Rotating
    from aiossmenv._rotating import Source as EnvLike


class Target(Protocol):
    """What runs a transaction."""

    @property
    def generation(self) -> int:
        """The number of sets of credentials."""

    async def transaction(self, table: str, seconds: float, *, drop: bool) -> None:
        """Commit one row, *seconds* after it was inserted; *drop*: close the connection afterwards."""


class PoolTarget:
    """A `RotatingPool` as a `Target`."""

    def __init__(self, pool: RotatingPool) -> None:
        self._pool = pool

    @property
    def generation(self) -> int:
        """See `Target`."""
        return self._pool.generation

    async def transaction(self, table: str, seconds: float, *, drop: bool) -> None:
        """See `Target`."""
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            await connection.begin()
            await cursor.execute(f"INSERT INTO {table} VALUES (1)")
            await cursor.execute("SELECT 1")
            await cursor.fetchall()
            if seconds:
                await asyncio.sleep(seconds)
            await connection.commit()
            if drop:
                connection.close()


class EngineTarget:
    """An engine of SQLAlchemy as a `Target`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @property
    def generation(self) -> int:
        """See `Target`."""
        return self._engine.generation if isinstance(self._engine, RotatingEngine) else 1

    async def transaction(self, table: str, seconds: float, *, drop: bool) -> None:
        """See `Target`."""
        async with self._engine.connect() as connection:
            async with connection.begin():
                await connection.execute(text(f"INSERT INTO {table} VALUES (1)"))
                (await connection.execute(text("SELECT 1"))).all()
                if seconds:
                    await asyncio.sleep(seconds)
            if drop:
                await connection.invalidate()


class AsyncpgTarget:
    """The pool of an example as a `Target`."""

    def __init__(self, rotating: "Rotating[asyncpg.Pool[asyncpg.Record]]") -> None:
        self._rotating = rotating

    @property
    def generation(self) -> int:
        """See `Target`."""
        return self._rotating.generation

    async def transaction(self, table: str, seconds: float, *, drop: bool) -> None:
        """See `Target`."""
        async with self._rotating.use(lambda pool: pool.acquire()) as connection:
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {table} VALUES (1)")
                await asyncio.sleep(seconds)
            if drop:
                await connection.close()


class PsycopgTarget:
    """The pool of an example as a `Target`; it does not count its sets of credentials."""

    generation = 4

    def __init__(self, pool: "psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]") -> None:
        self._pool = pool

    async def transaction(self, table: str, seconds: float, *, drop: bool) -> None:
        """See `Target`."""
        async with self._pool.connection() as connection:
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {table} VALUES (1)".encode())
                await asyncio.sleep(seconds)
            if drop:
                await connection.close()


@asynccontextmanager
async def opened(
    env: "EnvLike", driver: str | None, keys: Mapping[str, str], *, maxsize: int, minsize: int | None, min_gap: float
) -> AsyncIterator[Target]:
    """
    Open what connects with the *keys* of *env*.

    *driver*: `None` for a `RotatingPool`, "asyncpg" and "psycopg" for the pools of the examples, else that of a
    `RotatingEngine`. *minsize*: the connections that are opened first; by default half of *maxsize* for a pool.
    """
    if driver == "asyncpg":
        async with asyncpg_following.rotating_pool(env) as rotating:  # type: ignore[arg-type] # it has what is used
            yield AsyncpgTarget(rotating)
    elif driver == "psycopg":
        async with psycopg_following.following_pool(env, min_size=2, max_size=maxsize) as pool:  # type: ignore[arg-type]
            yield PsycopgTarget(pool)
    elif driver:
        engine = RotatingEngine(env, f"{driver}:///app", keys, pool_size=maxsize, max_overflow=0, min_gap=min_gap)
        async with engine:
            async with AsyncExitStack() as stack:
                for _ in range(minsize or 0):
                    _ = await stack.enter_async_context(engine.connect())
            yield EngineTarget(engine)
    else:
        minsize = maxsize // 2 if minsize is None else minsize
        async with RotatingPool(env, keys, db="app", maxsize=maxsize, minsize=minsize, min_gap=min_gap) as mysql_pool:
            yield PoolTarget(mysql_pool)
