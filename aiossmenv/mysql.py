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
import json
import os
import select
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from aiossmenv._concurrency import Clock
from aiossmenv._errors import RotationFailed
from aiossmenv._rotating import ErrorKind, Rotating, RotatingStatus, Source, State, Superseded

try:
    import aiomysql
    from pymysql.charset import charset_by_name
    from pymysql.constants import CLIENT
except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no aiomysql
    raise ImportError("aiossmenv.mysql needs aiomysql: pip install 'aiossmenv[mysql]'") from error

# Codes that mean: these credentials, or what they may do, are not valid (any more, or yet). 3118 is MySQL's 4151.
_REFUSED = frozenset({1044, 1045, 1698, 1820, 1862, 3118, 4151})
# Codes that mean: not now. 4150 and 3955 are not here: the account is blocked because of too many bad logins.
_TRANSIENT = frozenset({1040, 1053, 1203, 1226, 2003, 2006, 2013})
# Codes with which a server refuses to write: --read-only, --super-read-only and --innodb-read-only, Aurora's readers
# too.
_READ_ONLY = frozenset({1290, 1836})
# The engines of an AWS secret that speak the MySQL protocol.
_ENGINES = frozenset({"mysql", "mariadb", "aurora", "aurora-mysql"})

_COM_RESET_CONNECTION = 0x1F
# Of the status that comes with each answer: the statement has changed the session state.
_SESSION_STATE_CHANGED = 1 << 14
# What changed: a system variable, the default database, anything. MySQL 9 also reports each BEGIN and COMMIT, as 5.
_SCHEMA_CHANGED = 1
_CHANGES = frozenset({0, _SCHEMA_CHANGED, 2})
_TRACK = "SESSION session_track_state_change = ON"
# Seconds for a ping, for what undoes a borrower's changes, and for the end of all idle connections of a pool.
_PING_TIMEOUT = 2.0
_RESET_TIMEOUT = 2.0
_CLOSE_TIMEOUT = 1.0

_KEYS: Mapping[str, str] = {"host": "DB_URL", "user": "DB_USER", "password": "DB_PASSWORD"}
# What the value of a key has to be, where not every text will do.
_SHAPES = {
    "dsn": "a URL, as mysql://user:password@host:3306/db?charset=utf8mb4, percent-encoded and with no other option, nor"
    " a JSON object with username and password",
    "host": "a host, or host:port where the port is a number (of a whole URL the option is `dsn`)",
    "port": "the number of a port",
}


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
        # What is more special wins.
        self._keys = dict(sorted(keys.items(), key=lambda item: {"dsn": 0, "host": 1}.get(item[0], 2)))
        self._maxsize = maxsize
        self._minsize = min(maxsize, maxsize if minsize is None else minsize)
        self._pre_ping_after = pre_ping_after
        self._recycle = float(create_pool_options.pop("pool_recycle", -1))
        self._options = {"autocommit": True} | create_pool_options
        self._places = asyncio.Semaphore(maxsize)
        self._in_use = 0
        self._rotating: Rotating[_Pool] = Rotating(
            env,
            self._keys.values(),
            self._create,
            self._probe,
            _Pool.close,
            classify=_classify,
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

    def _lend(self, pool: "_Pool") -> AbstractAsyncContextManager[aiomysql.Connection]:
        return pool.lend(lambda: self._rotating._may_log_in(pool))

    async def _create(self, values: Mapping[str, str]) -> "_Pool":
        return _Pool(values, self._connect_options(values), self._rotating._clock, self._recycle, self._pre_ping_after)

    async def _probe(self, pool: "_Pool") -> None:
        # Logs in, and leaves the connections in the pool: tasks that find one waiting do not notice a rotation.
        for number in range(max(1, self._minsize)):
            if number and not self._places.locked():
                # Queries that run meanwhile would feel a burst of logins. Where places are short, haste is better.
                await asyncio.sleep(0.002)
            try:
                await pool.fill()
                self._rotating._worked = pool.values
            except aiomysql.MySQLError:
                if not number:
                    raise
                # One login proves the credentials. Either the server has no room for more beside the old pool, or they
                # were
                # replaced just now: then the connections that are here live on, and the old pool's are no better.
                break

    def _connect_options(self, values: Mapping[str, str]) -> dict[str, Any]:
        # A traceback may show all local variables: none holds a value here when an error is raised, and what reads a
        # value raises nothing.
        for option, key in self._keys.items():
            if _read(option, values[key]) is None:
                raise RotationFailed(f"{key} is not {_SHAPES[option]}", remedy="Correct it, or what `keys` says of it.")
            if option == "dsn" and not _speaks_mysql(values[key]):
                raise RotationFailed(
                    f"{key} is the secret of another kind of database: its `engine` is neither MySQL nor MariaDB",
                    remedy="Map `dsn` to the key of a MySQL secret.",
                )
        # aiomysql would connect to localhost.
        if not self._all_options(values).keys() & {"host", "unix_socket", "read_default_file"}:
            raise RotationFailed(
                f"{self._keys.get('dsn') or ', '.join(self._keys.values())} has no host",
                remedy="Add `host` to the secret, map `host` to a key in `keys`, or pass host=.",
            )
        return self._all_options(values)

    def _all_options(self, values: Mapping[str, str]) -> dict[str, Any]:
        read = [_read(option, values[key]) or {} for option, key in self._keys.items()]
        found = {option: value for options in read for option, value in options.items() if value != ""}
        return self._options | found


def _read(option: str, text: str) -> dict[str, Any] | None:
    """Return the connect options that a key's value holds, or `None` if it is not what it should be."""
    with suppress(ValueError, RecursionError):
        if option == "dsn":
            return _read_secret(json.loads(text)) if text.lstrip().startswith("{") else _read_url(text)
        if option == "host":
            return _read_address(text)
        return {option: _number(text) if option == "port" else text}
    return None


def _speaks_mysql(text: str) -> bool:
    """Return whether a secret is one of MySQL or MariaDB, as far as it says."""
    engine = json.loads(text).get("engine") if text.lstrip().startswith("{") else None
    return not engine or str(engine).lower() in _ENGINES


def _read_url(text: str) -> dict[str, Any] | None:
    url = urlsplit(text)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    # Of a password with a bare / ? or # in it, which ends a host, the rest would be found in these.
    rest = f"{url.path[1:]}{url.query}#{url.fragment}"
    if url.scheme.partition("+")[0] not in {"mysql", "mariadb"} or not url.hostname or query.keys() - {"charset"}:
        return None
    if "@" in rest or "/" in rest or not rest.endswith("#"):
        return None
    found = {"host": url.hostname, "user": url.username, "password": url.password, "db": url.path[1:]}
    port = {} if url.port is None else {"port": url.port}
    return {option: unquote(value) for option, value in found.items() if value} | port | query


def _read_secret(secret: dict[str, Any]) -> dict[str, Any] | None:
    names = {"user": "username", "password": "password", "host": "host", "db": "dbname"}
    found = {option: secret[name] for option, name in names.items() if secret.get(name) is not None}
    if not found.keys() >= {"user", "password"} or not all(isinstance(value, str) for value in found.values()):
        return None
    return found | ({"port": _number(str(secret["port"]))} if secret.get("port") else {})


def _read_address(text: str) -> dict[str, Any] | None:
    if "/" in text or "@" in text:
        return None
    # `host`, `host:port`, `[::1]` or `[::1]:port`; a bare IPv6 address has no port.
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return {"host": host, "port": _number(port.removeprefix(":"))} if port else {"host": host}
    return {"host": host, "port": _number(port)} if colon and ":" not in host else {"host": text}


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError
    return int(text)


class _Connection(aiomysql.Connection):  # type: ignore[misc] # untyped base
    """A connection that notes what its borrower did to it."""

    changed = False  # the session state, since it was set up
    moved = False  # to another database
    is_read_only = False  # the server has refused to write
    idle_since = (0.0, datetime.min.replace(tzinfo=UTC))
    _last_packet: Any = None
    # For the destructor of one whose options are not known.
    _pid = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"client_flag": options.get("client_flag", 0) | CLIENT.SESSION_TRACK})
        self._autocommit_at_first = self.autocommit_mode
        self._charset_at_first = self.charset
        self._pid = os.getpid()

    # aiomysql assigns the status of each answer to this attribute.
    @property
    def server_status(self) -> int:
        return self._server_status

    @server_status.setter
    def server_status(self, status: int) -> None:
        self._server_status = status
        if status and status & _SESSION_STATE_CHANGED and self._last_packet:
            changes = _CHANGES & set(_reported_changes(self._last_packet.get_all_data()))
            self.changed |= bool(changes)
            self.moved |= _SCHEMA_CHANGED in changes

    async def open(self) -> None:
        """Log in."""
        try:
            await self._connect()
            if self._tracks:
                await self.query(f"SET {_TRACK}")
            else:
                await self.ping(reconnect=False)
            self.changed = self.moved = False
        except BaseException as error:
            self.close()  # aiomysql closes one whose login failed, but not one whose login was cancelled
            if not isinstance(error, RuntimeError) or "cryptography" not in str(error):
                raise
        else:
            return
        # Not in the `except` block: the error would have a context, whose frames hold the password.
        raise RotationFailed(
            "the server wants the password encrypted with its RSA key (caching_sha2_password or sha256_password without"
            " TLS), and the package cryptography is not installed",
            remedy="Run pip install 'aiossmenv[mysql]', or use TLS: pass ssl=ssl.create_default_context().",
        )

    def is_dirty(self) -> bool:
        """Return whether the next borrower would notice this one."""
        return self._needs_reset() or self.get_transaction_status() or not self.get_autocommit()

    async def undo(self) -> None:
        """Roll back what is open, and reset the session if it is not what it was after the login."""
        await (self._reset() if self._needs_reset() else self.rollback())

    def is_dead(self) -> bool:
        """Return whether this connection, which is idle, has ended; it waits for nothing."""
        if self.closed or self._writer.transport.is_closing():
            return True
        # An idle server says nothing, so anything to read is the end, or the error that MySQL sends before the end. The
        # socket is asked itself: the event loop may not have run since.
        return _is_readable(self._writer.transport.get_extra_info("socket").fileno())

    def _needs_reset(self) -> bool:
        mode = self._autocommit_at_first
        return self.changed or self.charset != self._charset_at_first or mode not in {None, self.get_autocommit()}

    @property
    def _tracks(self) -> bool:
        return bool(self.server_capabilities & CLIENT.SESSION_TRACK)

    async def _reset(self) -> None:
        """Set the session up as `_connect()` does, after a reset, which keeps the default database."""
        await self._execute_command(_COM_RESET_CONNECTION, b"")
        await self._read_ok_packet()
        charset = charset_by_name(self._charset_at_first)
        await self.query(f"SET NAMES {charset.name} COLLATE {charset.collation}{f', {_TRACK}' if self._tracks else ''}")
        self._charset, self._encoding = charset.name, charset.encoding
        if self.sql_mode is not None:
            await self.query(f"SET sql_mode={self.sql_mode}")
        if self.init_command is not None:
            await self.query(self.init_command)
            await self.commit()
        if self._autocommit_at_first is not None:
            await self.autocommit(self._autocommit_at_first)
        if self.moved and self.db:
            await self.select_db(self.db)
        elif self.moved:
            self.close()  # there is no way back to no database
        self.changed = self.moved = False

    async def _read_packet(self, *packet_type: Any) -> Any:
        try:
            self._last_packet = await super()._read_packet(*packet_type)
        except aiomysql.MySQLError as error:
            self.is_read_only |= error.args[0] in _READ_ONLY
            raise
        return self._last_packet

    def __del__(self) -> None:
        # In a forked child this is a copy: closing it would end the parent's session, or its event loop's watch of it.
        if os.getpid() == self._pid:
            super().__del__()


class _Pool:
    """
    The connections of one generation.

    Not `aiomysql.Pool`: that one connects while it is disposed of, delays all callers during one login, and
    forgets to wake waiters. Here none waits: `RotatingPool` has a semaphore.
    """

    def __init__(
        self,
        values: Mapping[str, str],
        options: Mapping[str, Any],
        clock: Clock,
        recycle: float,
        pre_ping_after: float,
    ) -> None:
        self.values = values
        self._options = options
        self._clock = clock
        self._recycle = recycle
        self._pre_ping_after = pre_ping_after
        self._idle: deque[_Connection] = deque()
        self._lent: set[_Connection] = set()
        self._closed = False

    async def fill(self) -> None:
        """Log in, and keep the connection for the next borrower."""
        connection = await self._connect()
        self._lent.discard(connection)
        self._keep(connection)

    @asynccontextmanager
    async def lend(self, may_connect: Callable[[], bool]) -> AsyncIterator[_Connection]:
        """Lend a connection that works: an idle one, or a new one if *may_connect* says so then."""
        connection = await self._idle_one()
        if connection is None:
            # The credentials of a retired pool, and of one whose successor is being built, are known to be old.
            if not may_connect():
                raise Superseded("newer credentials were read, and are not proved yet")
            connection = await self._connect()
        has_time = True
        try:
            yield connection
        except BaseException as error:
            has_time = isinstance(error, Exception)
            raise
        finally:
            try:
                await self._undo(connection, has_time=has_time)
            finally:
                self._take_back(connection)

    async def close(self) -> None:
        """Close all connections, those that are lent too."""
        self._closed = True
        idle = list(self._idle)
        self._idle.clear()
        for connection in list(self._lent):
            connection.close()
        with suppress(TimeoutError):
            # The server counts a connection that ends without COM_QUIT as aborted.
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                for connection in idle:
                    # uvloop raises RuntimeError for a connection that was reset.
                    with suppress(OSError, RuntimeError):
                        await connection.ensure_closed()
        for connection in idle:
            connection.close()

    async def _connect(self) -> _Connection:
        connection = _Connection(**self._options)
        self._lent.add(connection)
        try:
            await connection.open()
        except BaseException:
            self._lent.discard(connection)
            raise
        if self._closed:
            self._discard(connection)
            raise RotationFailed("the pool was closed during a login")
        return connection

    async def _idle_one(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            self._lent.add(connection)
            try:
                if await self._works(connection):
                    return connection
            except BaseException:
                self._discard(connection)
                raise
            self._discard(connection)
        return None

    async def _works(self, connection: _Connection) -> bool:
        then, wall = connection.idle_since
        # A process that is frozen may stop one of the clocks; a clock that is set may jump.
        idle = max(self._clock.now() - then, (self._clock.wall() - wall).total_seconds())
        if connection.is_dead() or -1 < self._recycle < idle:
            return False
        if idle > self._pre_ping_after:
            try:
                async with asyncio.timeout(_PING_TIMEOUT):
                    await connection.ping(reconnect=False)
            except TimeoutError:
                # What is between here and the server has forgotten this connection, and those that idled as long.
                self._discard_idle()
                return False
            except (OSError, aiomysql.MySQLError):
                return False
        return True

    async def _undo(self, connection: _Connection, *, has_time: bool) -> None:
        if connection.closed or not connection.is_dirty():
            return
        try:
            if not has_time or self._closed:
                connection.close()
                return
            async with asyncio.timeout(_RESET_TIMEOUT):
                await connection.undo()
        except BaseException as error:
            connection.close()
            # What the block raised, if anything, says more than a failed undoing, which loses the connection and no
            # more.
            if not isinstance(error, Exception):
                raise

    def _take_back(self, connection: _Connection) -> None:
        self._lent.discard(connection)
        if connection.is_read_only:
            self._discard_idle()
        if connection.is_read_only or self._closed:
            connection.close()
        elif not connection.closed:
            self._keep(connection)

    def _keep(self, connection: _Connection) -> None:
        connection.idle_since = (self._clock.now(), self._clock.wall())
        self._idle.append(connection)

    def _discard(self, connection: _Connection) -> None:
        self._lent.discard(connection)
        connection.close()

    def _discard_idle(self) -> None:
        while self._idle:
            self._idle.popleft().close()


def _reported_changes(answer: bytes) -> Iterator[int]:
    """Yield the kinds of change that an OK packet reports: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html."""

    def length_at(at: int) -> tuple[int, int]:
        width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(answer[at], 0)
        return (int.from_bytes(answer[at + 1 : at + 1 + width], "little") if width else answer[at]), at + 1 + width

    if answer[0] != 0:
        return  # it ends rows, and reports nothing
    at = length_at(length_at(1)[1])[1] + 4  # rows, the last id, status and warnings
    length, at = length_at(at)  # the text for people
    length, at = length_at(at + length)
    end = at + length
    while at < end:
        yield answer[at]
        length, at = length_at(at + 1)
        at += length


def _is_readable(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):  # pragma: no cover - Windows, where select() has no limit on descriptors
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _classify(error: Exception) -> ErrorKind:
    code = error.args[0] if isinstance(error, aiomysql.MySQLError) and error.args else None
    return "auth_failed" if code in _REFUSED else "transient" if code in _TRANSIENT else None
