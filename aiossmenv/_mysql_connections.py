"""
Connections to MySQL or MariaDB: what a borrower changed is undone, and those that no longer work are not lent.

A subclass of aiomysql's connection and a pool, which uses private names of aiomysql 0.2 and 0.3.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import aiomysql
from pymysql.charset import charset_by_name
from pymysql.constants import CLIENT

from aiossmenv._concurrency import Clock
from aiossmenv._errors import RotationFailed
from aiossmenv._sockets import is_readable

# Codes with which a server refuses to write: --read-only, --super-read-only and --innodb-read-only, Aurora's readers
# too.
_READ_ONLY = frozenset({1290, 1836})

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


class Connection(aiomysql.Connection):  # type: ignore[misc] # untyped base
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
        return is_readable(self._writer.transport.get_extra_info("socket").fileno())

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


class Pool:
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
        self._idle: deque[Connection] = deque()
        self._lent: set[Connection] = set()
        self._closed = False

    async def fill(self) -> None:
        """Log in, and keep the connection for the next borrower."""
        connection = await self._connect()
        self._lent.discard(connection)
        self._keep(connection)

    @asynccontextmanager
    async def lend(self, login: Callable[[], AbstractAsyncContextManager[None]]) -> AsyncIterator[Connection]:
        """Lend a connection that works: an idle one, or a new one; *login* surrounds that, and may refuse it."""
        connection = await self._idle_one()
        if connection is None:
            # The credentials of a retired pool, and of one whose successor is being built, are known to be old.
            async with login():
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

    async def _connect(self) -> Connection:
        connection = Connection(**self._options)
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

    async def _idle_one(self) -> Connection | None:
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

    async def _works(self, connection: Connection) -> bool:
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

    async def _undo(self, connection: Connection, *, has_time: bool) -> None:
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

    def _take_back(self, connection: Connection) -> None:
        self._lent.discard(connection)
        if connection.is_read_only:
            self._discard_idle()
        if connection.is_read_only or self._closed:
            connection.close()
        elif not connection.closed:
            self._keep(connection)

    def _keep(self, connection: Connection) -> None:
        connection.idle_since = (self._clock.now(), self._clock.wall())
        self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
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
