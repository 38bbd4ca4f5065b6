"""
A MySQL or MariaDB pool that follows its credentials: `pip install aiossmenv[mysql]`.

    async with load_env("/FAKEBOOK/TEST/", ttl=60) as env, RotatingPool(env, db="app", maxsize=10) as pool:
        async with pool.cursor() as cursor:
            await cursor.execute("SELECT 1")
        async with pool.acquire() as conn, conn.cursor() as cursor:
            await conn.begin()
            await cursor.execute("INSERT INTO visits VALUES (1)")
            await conn.commit()

When the credentials change in Parameter Store, a new pool is built and has logged in before it takes over; the old
one ends when its last connection comes back. When the server refuses a login, the credentials are read again at once
and the acquire is tried again; what is inside your block never is.

**The promise**, no failed query, has two preconditions. (a) The server lets sessions live that were open before the
change, at least until the new value was read and your longest transaction has ended: nothing on this side can save a
query whose session is killed. (b) New credentials can be read within `retry_deadline` seconds (10) after the old ones
stop working. A server that goes silent is not covered either: aiomysql has no read timeout, so put
`asyncio.timeout()` round queries that must end.

**One parameter or several.** By default DB_URL is a host or `host:port`, DB_USER and DB_PASSWORD are what they say;
`keys` maps other options of aiomysql, and other keys. With `keys={"dsn": "DATABASE_URL"}` one parameter holds it all
and can never be read half old, half new: a URL, `mysql://user:password@host:3306/db?charset=utf8mb4`, where special
characters are percent-encoded; or a JSON object with `username` and `password` and, if you like, `host`, `port` and
`dbname`, as AWS's own secrets are.

**Order of writes in a rotation.** One user: change the password in the database, then in Parameter Store, at once;
in between, open connections go on, and a new one waits. The other order works as well. Several
parameters: write the password last, or all of them and let the login that fails in between be tried again.

**Rotations without any window**, where the old credentials work on for a while:

- Two users in turn: give the one that is not in use a new password, write its name and password to Parameter Store,
  and let the other one live until the next rotation.
- MySQL 8: `ALTER USER app IDENTIFIED BY 'new' RETAIN CURRENT PASSWORD`; write 'new' to Parameter Store; when every
  process has followed, `ALTER USER app DISCARD OLD PASSWORD`.
- MariaDB: `ALTER USER app IDENTIFIED VIA mysql_native_password USING PASSWORD('new') OR mysql_native_password USING
  PASSWORD('old')`; write 'new'; later `ALTER USER app IDENTIFIED BY 'new'`.

**What a borrower changes does not reach the next one.** When a connection comes back, an open transaction is rolled
back. Where the server reports that the session state changed (autocommit, isolation level and other session variables,
user variables, the default database, temporary tables, prepared statements) the session is reset with
COM_RESET_CONNECTION and set up as it was after the login: two to four round trips, which a connection that changed
nothing does not pay. Servers do not report LOCK TABLES, GET_LOCK(), SET TRANSACTION without SESSION and SELECT with
`INTO @name` or `@name :=`: undo these yourself. The report is switched on after each login with one SET statement; for
RDS Proxy that is a reason to pin the session.

**Connections that no longer work.** The pool does not lend a connection that the server has closed. One that idled
longer than `pre_ping_after` seconds, by the monotonic clock or the time of day, is pinged first. A server that refuses
writes because it has become a replica (errors 1290 and 1836) loses all idle connections and the one that saw the error,
so that the next logins go where the host name leads now.

**TLS** is aiomysql's: pass `ssl=ssl.create_default_context()`. Where the server offers none it logs in without, so
let the server insist, as with `REQUIRE SSL`. Without TLS, `caching_sha2_password`, the default of MySQL 8 and 9,
encrypts the password with the server's RSA key, which needs the package `cryptography`: the extra installs it.

**Servers that block an account** after too many wrong passwords: a rotation costs a process one refused login or a
few, and values that stay wrong one every few seconds, then one a minute. Codes 4150 and 3955, blocked, are not retried.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from aiossmenv._databases import MYSQL
from aiossmenv._errors import RotationFailed
from aiossmenv._rotating import Rotating, RotatingStatus, Source, State

try:
    import aiomysql

    from aiossmenv._mysql_connections import Pool
except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no aiomysql
    raise ImportError("aiossmenv.mysql needs aiomysql: pip install 'aiossmenv[mysql]'") from error

_KEYS: Mapping[str, str] = {"host": "DB_URL", "user": "DB_USER", "password": "DB_PASSWORD"}


class RotatingPool:
    """
    A MySQL pool that is rebuilt when its keys change.

    `connect_timeout` of aiomysql loses cancellations on Python 3.11, so leave it out there; *build_timeout* ends a
    login that hangs.

    Args:
        env: An `Env`.
        keys: Connect options of aiomysql -> keys of the `Env`; `dsn` takes them all from one key. Default: `host` from
            `DB_URL` (a host, or `host:port`), `user` from `DB_USER`, `password` from `DB_PASSWORD`.
        maxsize: Connections that are lent at once, at most. Default: 10.
        minsize: Connections that a new pool opens before it takes over, as far as the server lets it. Default:
            *maxsize*.
        pre_ping_after: Seconds that a connection may idle and still be lent without a ping. Default: 10.
        start_deadline: As for `Rotating`. Default: 10.
        build_timeout: As for `Rotating`. Default: 5.
        drain_timeout: As for `Rotating`. Default: 30.
        retry_deadline: As for `Rotating`. Default: 10.
        min_gap: As for `Rotating`. Default: 0.25.
        create_pool_options: Those of `aiomysql.create_pool()`, `ssl` too; what comes from a key wins. `autocommit` is
            `True` unless you say otherwise: without it a plain SELECT leaves a snapshot open, and each return costs a
            ROLLBACK. `pool_recycle` closes a connection that idled longer than so many seconds.

    Raises:
        ValueError: *maxsize* is below 1.
        TypeError: *keys* is no mapping.
    """

    def __init__(
        self,
        env: Source,
        keys: Mapping[str, str] = _KEYS,
        *,
        maxsize: int = 10,
        minsize: int | None = None,
        pre_ping_after: float = 10.0,
        start_deadline: float = 10.0,
        build_timeout: float = 5.0,
        drain_timeout: float = 30.0,
        retry_deadline: float = 10.0,
        min_gap: float = 0.25,
        **create_pool_options: Any,
    ) -> None:
        if maxsize < 1:
            raise ValueError("maxsize is at least 1")
        if not isinstance(keys, Mapping):
            raise TypeError("keys maps connect options to keys: write keys={'host': 'DB_URL', ...}")
        self._keys = dict(keys)
        self._maxsize = maxsize
        self._minsize = min(maxsize, maxsize if minsize is None else minsize)
        self._pre_ping_after = pre_ping_after
        self._recycle = float(create_pool_options.pop("pool_recycle", -1))
        self._options = {"autocommit": True} | create_pool_options
        self._places = asyncio.Semaphore(maxsize)
        self._in_use = 0
        self._rotating: Rotating[Pool] = Rotating(
            env,
            self._keys.values(),
            self._create,
            self._probe,
            Pool.close,
            classify=MYSQL.classify,
            start_deadline=start_deadline,
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

    @property
    def status(self) -> RotatingStatus:
        """See `Rotating.status`."""
        return self._rotating.status

    def __repr__(self) -> str:
        # One that was not made whole has one too, for a traceback that shows variables.
        return str(getattr(self, "_rotating", "<Rotating>")).replace("Rotating", type(self).__name__, 1)

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[aiomysql.Connection]:  # noqa: ASYNC109 - not for the block
        """
        Lend a connection until the block ends.

        Waits for one of *maxsize* places first. The driver's error is raised when no login succeeded for
        *retry_deadline* seconds, and at once if no retry can help.

        Args:
            timeout: Seconds to wait for a connection. Default: no limit.

        Yields:
            A connection in the state that the options say.

        Raises:
            TimeoutError: There was no connection within *timeout* seconds.
            RotationFailed: The pool is closed, or does not belong to this process or event loop.
        """
        self._rotating._check_place()  # before the semaphore, which belongs to an event loop as well
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(timeout) as waiting:
                    await stack.enter_async_context(self._place())
                    connection = await stack.enter_async_context(self._rotating.use(self._lend))
            except TimeoutError:
                if not waiting.expired():
                    raise
                # Below, so that the error has no context: a driver's frames hold the password.
                connection = None
            if connection is None:
                raise TimeoutError(
                    f"no connection within {timeout:g} s from {self!r}: {self._in_use} of {self._maxsize} are in use"
                )
            yield connection

    @asynccontextmanager
    async def cursor(
        self,
        *cursors: type[aiomysql.Cursor],
        timeout: float | None = None,  # noqa: ASYNC109 - not for the block
    ) -> AsyncIterator[aiomysql.Cursor]:
        """
        Lend a cursor of a connection, for one statement.

        Args:
            cursors: Classes of cursors, as for aiomysql's `connection.cursor()`. Default: aiomysql's.
            timeout: Seconds to wait for a connection. Default: no limit.

        Yields:
            A cursor.

        Raises:
            TimeoutError: As `acquire()` does, and the driver's errors and `RotationFailed` too.
        """
        async with self.acquire(timeout=timeout) as connection, connection.cursor(*cursors) as cursor:
            yield cursor

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

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        async with self._places:
            self._in_use += 1
            try:
                yield
            finally:
                self._in_use -= 1

    def _lend(self, pool: Pool) -> AbstractAsyncContextManager[aiomysql.Connection]:
        return pool.lend(lambda: self._rotating._login(pool))

    async def _create(self, values: Mapping[str, str]) -> Pool:
        return Pool(values, self._connect_options(values), self._rotating._clock, self._recycle, self._pre_ping_after)

    async def _probe(self, pool: Pool) -> None:
        # Logs in, and leaves the connections in the pool: tasks that find one waiting do not notice a rotation.
        for number in range(max(1, self._minsize)):
            if number and not self._places.locked():
                # Queries that run meanwhile would feel a burst of logins. Where places are short, haste is better.
                await asyncio.sleep(0.002)
            try:
                await pool.fill()
                self._rotating._logged_in = pool.values
            except aiomysql.MySQLError:
                if not number:
                    raise
                # One login proves the credentials. Either the server has no room for more beside the old pool, or they
                # were replaced just now: then the connections that are here stay, and the old pool's are no better.
                break

    def _connect_options(self, values: Mapping[str, str]) -> dict[str, Any]:
        read = MYSQL.connect_options(self._keys, values)
        found = self._options | {"db" if option == "database" else option: value for option, value in read.items()}
        # aiomysql would connect to localhost.
        if found.keys() & {"host", "unix_socket", "read_default_file"}:
            return found
        # Below, no variable holds a value.
        del read, found
        raise RotationFailed(
            f"{self._keys.get('dsn') or ', '.join(self._keys.values())} has no host",
            remedy="Add `host` to the secret, map `host` to a key in `keys`, or pass host=.",
        )
