"""
A MySQL or MariaDB pool that follows its credentials: `pip install aiossmenv[mysql]`.

    async with load_env("/FAKEBOOK/TEST/", ttl=60) as env, RotatingPool(env, db="app", maxsize=10) as pool:
        async with pool.acquire() as conn, conn.cursor() as cursor:
            await cursor.execute("SELECT 1")

When the credentials change in Parameter Store, a new pool is built and has logged in before it takes over; the old
one ends when its last connection comes back. When the server refuses a login, the credentials are read again at once
and the acquire is tried again; what is inside your block never is.

The promise, no failed query, holds while (a) the server lets sessions live that were open before the change, and (b)
new credentials can be read within `retry_deadline` seconds after the old ones stop working.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

from aiossmenv._errors import RotationFailed
from aiossmenv._rotating import Rotating, Source, State, Verdict

try:
    import aiomysql
except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no aiomysql
    raise ImportError("aiossmenv.mysql needs aiomysql: pip install 'aiossmenv[mysql]'") from error

# Codes that mean: these credentials, or what they may do, are not valid (any more, or yet).
_REFUSED = frozenset({1044, 1045, 1698, 1820, 1862, 4151})
# Codes that mean: not now. 4150 and 3955 are not here: the account is blocked because of too many bad logins.
_TRANSIENT = frozenset({1040, 1053, 1203, 1226, 2003, 2006, 2013})

_KEYS: Mapping[str, str] = {"host": "DB_URL", "user": "DB_USER", "password": "DB_PASSWORD"}


class RotatingPool:
    """
    An `aiomysql` pool that is rebuilt when its keys change.

    *env*: an `Env`. *keys*: connect options of aiomysql -> keys of the `Env`; default: `host` from `DB_URL` (a host,
    or `host:port`), `user` from `DB_USER`, `password` from `DB_PASSWORD`. *warm*: connections that a new pool opens
    before it takes over, default *maxsize*. *build_timeout*, *drain_timeout*, *retry_deadline*, *min_gap*: as for
    `Rotating`. All else goes to `aiomysql.create_pool()`.

    Of its options, `autocommit` is `True` unless you say otherwise: without it a plain SELECT leaves a snapshot open,
    and the next user of the connection reads the past. `minsize` is always 0, for aiomysql reconnects up to it with
    credentials that may no longer hold, before it looks at the connections that are there.
    """

    def __init__(
        self,
        env: Source,
        keys: Mapping[str, str] = _KEYS,
        *,
        maxsize: int = 10,
        warm: int | None = None,
        build_timeout: float = 5.0,
        drain_timeout: float = 30.0,
        retry_deadline: float = 10.0,
        min_gap: float = 0.25,
        **create_pool_options: Any,
    ) -> None:
        if maxsize < 1:
            raise ValueError("maxsize is at least 1")
        self._keys = dict(keys)
        self._maxsize = maxsize
        self._warm = min(maxsize, maxsize if warm is None else warm)
        self._options = {"autocommit": True} | create_pool_options | {"minsize": 0, "maxsize": maxsize}
        # Nobody waits inside aiomysql's pool: a waiter there is not woken when a connection comes back closed.
        self._slots = asyncio.Semaphore(maxsize)
        self._rotating: Rotating[aiomysql.Pool] = Rotating(
            env,
            self._keys.values(),
            self._create,
            self._probe,
            _dispose,
            classify=_classify,
            build_timeout=build_timeout,
            drain_timeout=drain_timeout,
            retry_deadline=retry_deadline,
            min_gap=min_gap,
        )

    @property
    def state(self) -> State:
        """See `Rotating.state`."""
        return self._rotating.state

    @property
    def generation(self) -> int:
        """How many pools there have been."""
        return self._rotating.generation

    def __repr__(self) -> str:
        return repr(self._rotating).replace("Rotating", type(self).__name__, 1)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[aiomysql.Connection]:
        """
        Lend a connection until the block ends.

        Waits for one of *maxsize* places first. Raises the driver's error when no login succeeded for
        *retry_deadline* seconds, and at once for what no retry can help.
        """
        async with self._slots, self._rotating.use(_lend) as connection:
            yield connection

    async def aclose(self) -> None:
        """Wait for connections to come back, at most *drain_timeout* seconds, and close them all; idempotent."""
        await self._rotating.aclose()

    async def __aenter__(self) -> Self:
        await self._rotating.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _create(self, values: Mapping[str, str]) -> aiomysql.Pool:
        return await aiomysql.create_pool(**self._options | self._connect_options(values))

    async def _probe(self, pool: aiomysql.Pool) -> None:
        # Logs in, and leaves the connections in the pool: tasks that find one waiting do not notice a rotation.
        warmed: list[aiomysql.Connection] = []
        try:
            while len(warmed) < max(1, self._warm):
                warmed += [await pool.acquire()]
            await warmed[0].ping(reconnect=False)
        finally:
            for connection in warmed:
                pool.release(connection)

    def _connect_options(self, values: Mapping[str, str]) -> dict[str, object]:
        # No local variable here or below holds a value when an error is raised: a traceback may show them all.
        if not _has_port(values, self._keys):
            raise RotationFailed("the port is not a number", remedy="Check which key it is taken from.")
        address = _address(values[self._keys["host"]], port="port" in self._keys) if "host" in self._keys else {}
        port = {"port": int(values[self._keys["port"]])} if "port" in self._keys else {}
        return {option: values[key] for option, key in self._keys.items()} | address | port


def _has_port(values: Mapping[str, str], keys: Mapping[str, str]) -> bool:
    if "port" in keys:
        return values[keys["port"]].isdecimal()
    _, port = _split(values[keys["host"]]) if "host" in keys else ("", None)
    return port is None or port.isdecimal()


def _address(text: str, *, port: bool) -> dict[str, object]:
    host, number = _split(text)
    return {"host": text} if port else {"host": host} if number is None else {"host": host, "port": int(number)}


def _split(text: str) -> tuple[str, str | None]:
    """Split `host`, `host:port`, `[::1]` or `[::1]:port`; a bare IPv6 address has no port."""
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":") or None
    return (host, port) if colon and ":" not in host else (text, None)


@asynccontextmanager
async def _lend(pool: aiomysql.Pool) -> AsyncIterator[aiomysql.Connection]:
    connection = await pool.acquire()
    try:
        yield connection
    finally:
        # Not awaited: what it returns wakes those who wait inside the pool, and nobody does; but it waits itself for a
        # lock that aiomysql holds while it connects, so whoever is done would wait for somebody else's login.
        pool.release(connection)


async def _dispose(pool: aiomysql.Pool) -> None:
    with suppress(Exception):
        # One by one, to say goodbye to the server, which counts what is closed without as aborted. Not by clear(), which
        # forgets a connection that was reset; acquire() closes those. It waits for a login that is under way.
        async with asyncio.timeout(1):
            while pool.freesize:
                connection = await pool.acquire()
                try:
                    await connection.ensure_closed()
                finally:
                    connection.close()
                    pool.release(connection)
    pool.terminate()
    await pool.wait_closed()


def _classify(error: Exception) -> Verdict:
    code = error.args[0] if isinstance(error, aiomysql.MySQLError) and error.args else None
    return "refused" if code in _REFUSED else "transient" if code in _TRANSIENT else None
