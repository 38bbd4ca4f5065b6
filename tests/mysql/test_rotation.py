"""Rotation under load on a real MariaDB: no transaction fails, whatever the order in which credentials change."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import aiomysql
import pytest

from aiossmenv.mysql import RotatingPool
from embedded import MariaDB

if TYPE_CHECKING:
    from mysql.conftest import Account, Source

MAXSIZE = 10
TASKS = 20
ROTATIONS = 20
# Seconds from one rotation to the next: a thousand times as often as anybody does it.
PAUSE = 0.065
# Seconds that a read of the store takes, and between two of them where it is polled.
LATENCY = 0.008
POLL = 0.02


class Rotator:
    """What changes credentials, in the server and in the store, which are never changed at the same moment."""

    def __init__(self, server: MariaDB, account: "Account", source: "Source", dice: random.Random) -> None:
        self._server = server
        self._name = account.name
        self._source = source
        self._dice = dice
        self._numbers = itertools.count()

    async def db_first(self) -> None:
        """Change the password in the server and then in the store, as AWS's rotators do."""
        password = self._password()
        await self._server.set_user(self._name, password)
        await self._moment()
        self._source.store(DB_PASSWORD=password)

    async def store_first(self) -> None:
        """Change the password in the store and then in the server."""
        password = self._password()
        self._source.store(DB_PASSWORD=password)
        await self._moment()
        await self._server.set_user(self._name, password)

    async def two_user(self) -> None:
        """Make the other user, name it in the store, and remove the old one 50 ms later."""
        before, after = await self._other_user()
        self._source.store(**after)
        await asyncio.sleep(0.05)
        await self._server.drop_user(before)

    async def torn(self) -> None:
        """Do so, with the user's name in the store for a moment before the password."""
        before, after = await self._other_user()
        self._source.store(DB_USER=after["DB_USER"])
        await self._moment()
        self._source.store(**after)
        await asyncio.sleep(0.05)
        await self._server.drop_user(before)

    async def burst(self) -> None:
        """Change the password five times in ten milliseconds."""
        for _ in range(5):
            password = self._password()
            await self._server.set_user(self._name, password)
            self._source.store(DB_PASSWORD=password)
            await asyncio.sleep(0.002)

    async def bad_put(self) -> None:
        """Have garbage in the store for 30 ms."""
        before = self._source.stored["DB_PASSWORD"]
        self._source.store(DB_PASSWORD="garbage")
        await asyncio.sleep(0.03)
        self._source.store(DB_PASSWORD=before)

    async def _other_user(self) -> tuple[str, dict[str, str]]:
        """Make the user that is not in the store; returns the name of the one that is, and what to store."""
        before = self._source.stored["DB_USER"]
        after = self._name if before != self._name else f"{self._name}_b"
        password = self._password()
        await self._server.set_user(after, password)
        return before, {"DB_USER": after, "DB_PASSWORD": password}

    def _password(self) -> str:
        """Return a password that was never there."""
        return f"p{next(self._numbers)}"

    async def _moment(self) -> None:
        """Let 0 to 30 ms pass."""
        await asyncio.sleep(self._dice.uniform(0, 0.03))


class Load:
    """Tasks that commit one transaction after the other; *committed* of them, and no more than *most* connections."""

    def __init__(self, pool: RotatingPool, server: MariaDB, account: "Account", dice: random.Random) -> None:
        self.committed = 0
        self.most = 0
        self._pool = pool
        self._server = server
        self._name = account.name
        self._dice = dice
        self._ended = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work until the block ends; what a task raises comes out of it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count())
            for _ in range(TASKS):
                group.create_task(self._work())
            yield
            self._ended = True

    async def _work(self) -> None:
        """Commit one transaction after the other."""
        while not self._ended:
            async with self._pool.acquire() as connection, connection.cursor() as cursor:
                await connection.begin()
                await cursor.execute(f"INSERT INTO {self._name} VALUES (1)")
                await cursor.execute("SELECT 1")
                await connection.commit()
                self.committed += 1
                if self._dice.random() < 0.01:
                    # Dropped, so that there are new logins all the time.
                    connection.close()

    async def _count(self) -> None:
        """Count connections all the time."""
        where = f"user LIKE '{self._name}%'"
        async with (
            aiomysql.connect(unix_socket=self._server.socket, user="root") as connection,
            connection.cursor() as cursor,
        ):
            while not self._ended:
                await cursor.execute(f"SELECT COUNT(*) FROM information_schema.processlist WHERE {where}")
                self.most = max(self.most, (await cursor.fetchone())[0])
                await asyncio.sleep(0.005)


@asynccontextmanager
async def polled(source: "Source") -> AsyncIterator[None]:
    """Read the store all the time."""

    async def poll() -> None:
        """Read until cancelled."""
        while True:
            await source.read()
            await asyncio.sleep(POLL)

    task = asyncio.create_task(poll())
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def forced(source: "Source") -> AsyncIterator[None]:
    """Read the store only when a refresh is forced."""
    yield


@pytest.mark.parametrize(
    ("rotate", "reading"),
    [
        (Rotator.db_first, polled),
        (Rotator.store_first, polled),
        (Rotator.two_user, polled),
        (Rotator.torn, polled),
        (Rotator.burst, polled),
        (Rotator.bad_put, polled),
        (Rotator.db_first, forced),
        (Rotator.store_first, forced),
        (Rotator.two_user, forced),
    ],
)
async def test_no_transaction_fails(
    server: MariaDB,
    account: "Account",
    source: "Source",
    rotate: Callable[[Rotator], Awaitable[None]],
    reading: Callable[["Source"], AbstractAsyncContextManager[None]],
) -> None:
    """Credentials change again and again under load, and every transaction is committed, once."""
    dice = random.Random(rotate.__name__)
    source.latency = LATENCY
    least = 1 if rotate is Rotator.bad_put else 3
    rotator = Rotator(server, account, source, dice)
    await server.execute(f"CREATE TABLE app.{account.name} (n INT)")

    # Rotations come faster than anybody else's, so refreshes may, too. Half of the connections warm: a third generation
    # that begins before the first one has ended then stays within the bound.
    async with (
        reading(source),
        RotatingPool(source, db="app", maxsize=MAXSIZE, warm=MAXSIZE // 2, min_gap=POLL) as pool,
    ):
        load = Load(pool, server, account, dice)
        async with load.running():
            # A machine that is busy elsewhere builds more slowly than credentials change here; it gets more of them.
            for rotation in range(5 * ROTATIONS):
                if rotation >= ROTATIONS and pool.generation >= least:
                    break
                await asyncio.gather(rotate(rotator), asyncio.sleep(PAUSE))

    assert 0 == await account.gone()
    assert ((load.committed,),) == await server.execute(f"SELECT COUNT(*) FROM app.{account.name}")
    assert 2 * MAXSIZE >= load.most
    assert least <= pool.generation
    assert rotate is not Rotator.bad_put or pool.generation == 1
    await server.execute(f"DROP TABLE app.{account.name}")
