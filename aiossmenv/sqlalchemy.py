"""
A SQLAlchemy `AsyncEngine` that follows its credentials: `pip install 'aiossmenv[sqlalchemy]'`, and a driver.

    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import async_sessionmaker

    from aiossmenv import load_env
    from aiossmenv.sqlalchemy import RotatingEngine

    async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:
        async with RotatingEngine(env, "postgresql+asyncpg:///app", pool_size=10) as engine:
            sessions = async_sessionmaker(engine, expire_on_commit=False)
            async with sessions.begin() as session:
                await session.execute(text("INSERT INTO visits VALUES (1)"))

It is one object for the life of the app, whatever the credentials do. Drivers: `mysql+aiomysql`, `mysql+asyncmy` (or
`mariadb+...`), `postgresql+asyncpg` and `postgresql+psycopg`.

When the credentials change in Parameter Store, one login proves the new ones. Then connections that are idle are
replaced, one after the other, so that no task waits for many logins at once; those that are in use finish, and are
replaced when they come back. When the server refuses a login, the credentials are read again at once and the login is
tried again, for whatever needs a connection: a session, a ping of `pool_pre_ping`, a connection that `pool_recycle`
replaces. A statement never is tried again.

The promise, no failed transaction, has the preconditions that `aiossmenv.mysql` names; its words about the order of
writes and rotations without any window hold here too. For PostgreSQL, where a user has one password: use two users in
turn, and let the old one live (or set it to NOLOGIN) until the next rotation.

The pool is SQLAlchemy's. It does not lend an idle connection that the server has closed, as far as this side can see
without a question; `pool_pre_ping=True` asks. A server that refuses writes because it has become a replica (errors 1290
and 1836 of MySQL) loses all idle connections. With `pool_use_lifo=True` old connections are replaced when they are
needed. The URL of the engine holds no credentials, so `engine.url` shows none.

A `do_connect` listener of yours is called for each login, with the credentials in *cparams*. It may change them, or
make the connection; for the login that proves new credentials, `conn_rec` is `None`.

In a forked child and on another event loop the engine lends nothing: make a new one there.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import dropwhile, islice
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from aiossmenv._databases import MYSQL, POSTGRESQL, Database
from aiossmenv._errors import RotationFailed
from aiossmenv._redaction import without_frames
from aiossmenv._rotating import Rotating, RotatingStatus, Source, State
from aiossmenv._sockets import ending_of

try:
    from sqlalchemy import URL, AsyncAdaptedQueuePool, NullPool, Pool, event, exc, make_url, util
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no SQLAlchemy
    raise ImportError("aiossmenv.sqlalchemy needs SQLAlchemy: pip install 'aiossmenv[sqlalchemy]'") from error

logger = logging.getLogger("aiossmenv")

_DRIVERS: Mapping[str, Database] = {
    "mysql+aiomysql": MYSQL,
    "mysql+asyncmy": MYSQL,
    "mariadb+aiomysql": MYSQL,
    "mariadb+asyncmy": MYSQL,
    "postgresql+asyncpg": POSTGRESQL,
    "postgresql+psycopg": POSTGRESQL,
    "postgresql+psycopg_async": POSTGRESQL,
}
_KEYS: Mapping[str, str] = {"host": "DB_URL", "user": "DB_USER", "password": "DB_PASSWORD"}
# Options of the URL or of connect_args= that say where the server is.
_PLACES = frozenset({"host", "hostaddr", "unix_socket", "service", "read_default_file"})
_OPTIONS = frozenset({"dsn", "host", "port", "user", "password", "database"})
# What of create_async_engine() would log in without us, or share what is ours.
_NOT_OURS = {
    "creator": "it would log in without the credentials of the Env",
    "async_creator": "it would log in without the credentials of the Env",
    "pool": "its connections would have other credentials; pass poolclass=",
}
# Codes with which a MySQL server refuses to write, because it has become a replica.
_READ_ONLY = ((1290,), (1836,))
# Seconds between two replacements of idle connections: other tasks must not notice them.
_RENEW_PAUSE = 0.005
# Seconds that closing waits for the one that is under way.
_RENEW_TIMEOUT = 5.0
# Seconds for which a login that is cancelled may go on.
_LOGIN_TIMEOUT = 1.0
# Keys of a connection's `info`: what it logged in with, and a function that says whether it has ended.
_LOGIN, _ENDED = "aiossmenv.login", "aiossmenv.ended"

# Whether the running task replaces idle connections.
_renewing: ContextVar[bool] = ContextVar("_renewing", default=False)
# SQLAlchemy 2.1 has another name for it, and 2.2 warns of this one.
_await: Callable[..., Any] = getattr(util, "await_", None) or util.await_only


@dataclass(eq=False, slots=True)
class _Login:
    """What one set of values logs in with; *spare* is the connection that proved it."""

    values: Mapping[str, str] = field(repr=False)
    params: Mapping[str, Any] = field(repr=False)
    spare: Any = field(default=None, repr=False)


class RotatingEngine(AsyncEngine):
    """
    An `AsyncEngine` whose connections are replaced when its keys change.

    Use it with `async with`, which raises `RotationFailed` when no login succeeds; it may be given to
    `async_sessionmaker` before that.

    Args:
        env: An `Env`.
        url: Dialect, driver and what is not in the `Env`: `mysql+aiomysql:///app`. It has no user and no password.
        keys: Connect options -> keys of the `Env`: `host` (a host, or `host:port`), `port`, `user`, `password`,
            `database`; or `dsn`, a URL or a JSON secret that holds them all. Such a URL may have `charset` (MySQL) or
            `sslmode` (PostgreSQL). Default: `host` from `DB_URL`, `user` from `DB_USER`, `password` from `DB_PASSWORD`.
        start_deadline: As for `Rotating`. Default: 10.
        build_timeout: As for `Rotating`, for each login. Default: 5.
        drain_timeout: Seconds that `aclose()` waits for connections that are in use. Default: 30.
        retry_deadline: Seconds for which a login is tried, after which the driver's error is raised. Default: 10.
        min_gap: As for `Rotating`. Default: 0.25.
        create_engine_options: Those of `sqlalchemy.ext.asyncio.create_async_engine()`.

    Raises:
        ValueError: The driver is not one of those above, *url* holds credentials, *keys* has another option, or an
            option of the engine cannot work here.
        TypeError: *keys* is no mapping.
    """

    def __init__(
        self,
        env: Source,
        url: str | URL,
        keys: Mapping[str, str] = _KEYS,
        *,
        start_deadline: float = 10.0,
        build_timeout: float = 5.0,
        drain_timeout: float = 30.0,
        retry_deadline: float = 10.0,
        min_gap: float = 0.25,
        **create_engine_options: Any,
    ) -> None:
        if not isinstance(keys, Mapping):
            raise TypeError("keys maps connect options to keys: write keys={'host': 'DB_URL', ...}")
        base, reason = _checked(url, keys, create_engine_options)
        del url  # it may hold a password, and a traceback may show the variables of this frame
        if base is None:
            raise ValueError(reason)
        self._base = base
        self._database = _DRIVERS[self._base.drivername]
        self._keys = dict(keys)
        self._connect_args = dict(create_engine_options.get("connect_args") or {})
        self._drain_timeout = drain_timeout
        self._records: WeakSet[Any] = WeakSet()
        self._renewal: asyncio.Task[None] | None = None
        self._renewals_left = 0
        self._rotating: Rotating[_Login] = Rotating(
            env,
            self._keys.values(),
            self._create,
            self._probe,
            self._dispose_of,
            classify=self._database.classify,
            start_deadline=start_deadline,
            build_timeout=build_timeout,
            retry_deadline=retry_deadline,
            min_gap=min_gap,
        )
        create_engine_options["poolclass"] = self._pools(create_engine_options.get("poolclass"))
        super().__init__(create_async_engine(self._base, **create_engine_options).sync_engine)
        event.listen(self.sync_engine, "do_connect", self._do_connect)
        if self._database is MYSQL:
            event.listen(self.sync_engine, "handle_error", _on_error)

    @property
    def state(self) -> State:
        """See `Rotating.state`."""
        return self._rotating.state

    @property
    def generation(self) -> int:
        """How many sets of credentials there have been."""
        return self._rotating.generation

    @property
    def status(self) -> RotatingStatus:
        """See `Rotating.status`."""
        return self._rotating.status

    def __repr__(self) -> str:
        # One that was not made whole has one too, for a traceback that shows variables.
        return str(getattr(self, "_rotating", "<Rotating>")).replace("Rotating", type(self).__name__, 1)

    async def aclose(self) -> None:
        """Wait for connections that are in use, at most *drain_timeout* seconds, and close all; idempotent."""
        await self._rotating.aclose()
        if self._rotating._home.is_forked():
            return  # the sockets are the parent's
        if self._renewal:
            self._renewals_left = 0  # not cancelled: SQLAlchemy logs an error of a connection that is cut off
            await asyncio.wait({self._renewal}, timeout=_RENEW_TIMEOUT)
            self._renewal.cancel()
            await asyncio.wait({self._renewal})
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout):
                while any(record.in_use for record in self._records):  # noqa: ASYNC110 - a pool tells nobody
                    await asyncio.sleep(0.01)
        await self.dispose()

    async def __aenter__(self) -> Self:
        await self._rotating.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _pools(self, poolclass: type[Pool] | None) -> type[Pool]:
        """Return a class of pools that lend nothing elsewhere, and replace what has ended or is to be renewed."""
        pools = poolclass or AsyncAdaptedQueuePool
        home, running_loop, take = self._rotating._home, asyncio._get_running_loop, pools._do_get

        # Not a "checkout" listener: with one, SQLAlchemy's checkout takes longer, and a ping comes before it.
        def do_get(pool: Pool) -> Any:
            if home.loop is not running_loop():
                self._rotating._check_place()
            record = take(pool)
            has_ended = record.info.get(_ENDED)  # another listener may have made the connection
            if has_ended and (has_ended() or (_renewing.get() and self._is_old(record))):
                # Softly: SQLAlchemy then replaces it. If a wait in here were cancelled, the pool would lose a place.
                record.invalidate(soft=True)
            return record

        # The pool's logger has the name of its class.
        return type(pools.__name__, (pools,), {"__module__": pools.__module__, "_do_get": do_get})

    # Logging in.

    def _do_connect(self, _: object, record: Any, args: Iterable[Any], params: dict[str, Any]) -> Any:
        """Log in for SQLAlchemy, which is synchronous and runs in a greenlet."""
        return _await(self._connect(record, tuple(args), params))

    async def _connect(self, record: Any, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
        try:
            async with self._rotating.use(lambda login: self._enter(login, record, args, params)) as entered:
                login, connection = entered
        except Exception as error:
            # The frames of a driver hold the password.
            without_frames(error)
            raise
        if record is not None:
            record.info[_LOGIN], record.info[_ENDED] = login, ending_of(connection.driver_connection)
            self._records.add(record)
        return connection

    @asynccontextmanager
    async def _enter(
        self, login: _Login, record: Any, args: tuple[Any, ...], params: Mapping[str, Any]
    ) -> AsyncIterator[tuple[_Login, Any]]:
        spare, login.spare = login.spare, None
        if spare is not None:
            if not ending_of(spare.driver_connection)():
                yield login, spare
                return
            await util.greenlet_spawn(self.dialect.do_terminate, spare)
        async with self._rotating._login(login):
            connection = await self._log_in(login, record, args, params)
        yield login, connection

    async def _log_in(self, login: _Login, record: Any, args: Iterable[Any], params: Mapping[str, Any]) -> Any:
        # In a task of its own: a connection that is there when this is cancelled must be closed.
        connecting = asyncio.create_task(
            util.greenlet_spawn(self._log_in_here, record, list(args), {**params, **login.params}),
            name="aiossmenv login",
        )
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=_LOGIN_TIMEOUT)
            if connecting.done() and not connecting.cancelled() and not connecting.exception():
                await util.greenlet_spawn(self.dialect.do_terminate, connecting.result())
            raise
        finally:
            del connecting  # a traceback may show the variables of this frame

    def _log_in_here(self, record: Any, args: list[Any], params: dict[str, Any]) -> Any:
        """Log in as SQLAlchemy does, which has asked those listeners that are before ours, if there is a record."""
        listeners = iter(self.dialect.dispatch.do_connect)
        if record is not None:
            listeners = islice(dropwhile(self._is_not_ours, listeners), 1, None)
        for listener in filter(self._is_not_ours, listeners):
            connection = listener(self.dialect, record, args, params)
            if connection is not None:
                return connection
        return self.dialect.connect(*args, **params)

    def _is_not_ours(self, listener: object) -> bool:
        return listener != self._do_connect

    async def _create(self, values: Mapping[str, str]) -> _Login:
        options = self._database.connect_options(self._keys, values)
        if options.get("host") or self._base.host or _PLACES & (self._base.query.keys() | self._connect_args.keys()):
            return _Login(values, self._params(options))
        # Below, no variable holds a value.
        del options
        raise RotationFailed(
            f"{self._keys.get('dsn') or ', '.join(self._keys.values())} has no host",
            remedy="Add `host` to the secret, map `host` to a key in `keys`, or name one in the URL of the engine.",
        )

    def _params(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options as the driver takes them, without what it gets for the engine's own URL anyway."""
        names = {"user": "username"}
        if "sslmode" in options and self.driver == "asyncpg":
            options["ssl"] = options.pop("sslmode")
        parts = {names.get(option, option): options.pop(option) for option in _OPTIONS & options.keys()}
        url = self._base.set(**parts).update_query_dict(options)
        before = self.dialect.create_connect_args(self._base)[1]
        return {
            name: value for name, value in self.dialect.create_connect_args(url)[1].items() if before.get(name) != value
        }

    async def _probe(self, login: _Login) -> None:
        given = {**self.dialect.create_connect_args(self._base)[1], **self._connect_args}
        login.spare = await self._log_in(login, None, (), given)
        self._rotating._logged_in = login.values

    # Replacing what older credentials opened.

    async def _dispose_of(self, login: _Login) -> None:
        spare, login.spare = login.spare, None
        if spare is not None:
            await util.greenlet_spawn(self.dialect.do_terminate, spare)
        if self.state != "CLOSED":
            self._renewals_left = 2 * sum(map(self._is_old, self._records))
            if not self._renewal or self._renewal.done():
                self._renewal = asyncio.create_task(self._renew(), name="aiossmenv renewal")

    async def _renew(self) -> None:
        """Replace the idle connections of older credentials now, and those that are in use when they come back."""
        _renewing.set(True)
        while self._renewals_left and any(map(self._is_old, self._records)):
            self._renewals_left -= 1
            await asyncio.sleep(_RENEW_PAUSE)
            try:
                await util.greenlet_spawn(self._borrow_idle)
            except Exception as error:
                logger.info("idle connections of %r are replaced later: %s", self, type(error).__name__)
                break
        for record in list(self._records):
            if self._is_old(record):
                record.invalidate(soft=True)

    def _borrow_idle(self) -> None:
        """Let the pool lend and take back a connection, if one is idle; it is replaced if it is old."""
        if any(not record.in_use for record in self._records):
            self.sync_engine.pool.connect().close()

    def _is_old(self, record: Any) -> bool:
        return record.dbapi_connection is not None and not self._rotating._is_current(record.info.get(_LOGIN))


def _checked(url: str | URL, keys: Mapping[str, str], options: Mapping[str, Any]) -> tuple[URL | None, str]:
    """Return the URL, or what cannot work."""
    try:
        base = make_url(url)
    except (exc.ArgumentError, ValueError):
        return None, "the URL of the engine cannot be read: write it as postgresql+asyncpg:///app"
    reason = next(_reasons(base, keys, options), "")
    return None if reason else base, reason


def _reasons(base: URL, keys: Mapping[str, str], options: Mapping[str, Any]) -> Iterator[str]:
    """Yield why these cannot work."""
    if base.drivername not in _DRIVERS:
        yield f"the driver {base.drivername} is not one of {', '.join(_DRIVERS)}"
    if base.username or base.password or base.query.keys() & {"user", "password", "passwd"}:
        yield "the URL of the engine holds credentials: name the keys of the Env that hold them in keys="
    if others := keys.keys() - _OPTIONS:
        yield f"keys has no option {', '.join(sorted(others))}, but {', '.join(sorted(_OPTIONS))}"
    for option, reason in _NOT_OURS.items():
        if options.get(option) is not None:
            yield f"{option}= cannot be used here: {reason}"
    if options.get("poolclass") not in {None, AsyncAdaptedQueuePool, NullPool}:
        yield "poolclass= is AsyncAdaptedQueuePool or NullPool here: others keep a connection for ever"


def _on_error(context: Any) -> None:
    # SQLAlchemy then replaces all connections that are as old as this one.
    # Not of an error that is no database's: that may hold anything.
    if isinstance(context.sqlalchemy_exception, exc.DBAPIError) and context.original_exception.args[:1] in _READ_ONLY:
        context.is_disconnect = True
