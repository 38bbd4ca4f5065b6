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

**Order of writes for who rotates.** One user: change the password in the database, then in Parameter Store, at once;
in between, connections that are open work on, and who needs a new one waits. The other order works as well. Several
parameters: write the password last, or all of them and let the login that fails in between be tried again.

**Rotations without any window**, where the old credentials work on for a while:

- Two users in turn: give the one that is not in use a new password, write its name and password to Parameter Store,
  and let the other one live until the next rotation.
- MySQL 8: `ALTER USER app IDENTIFIED BY 'new' RETAIN CURRENT PASSWORD`; write 'new' to Parameter Store; when every
  process has followed, `ALTER USER app DISCARD OLD PASSWORD`.
- MariaDB: `ALTER USER app IDENTIFIED VIA mysql_native_password USING PASSWORD('new') OR mysql_native_password USING
  PASSWORD('old')`; write 'new'; later `ALTER USER app IDENTIFIED BY 'new'`.

**TLS** is aiomysql's: pass `ssl=ssl.create_default_context()`. Where the server offers none it logs in without, so
let the server insist, as with `REQUIRE SSL`.

**Servers that block an account** after too many wrong passwords: a rotation costs a process one refused login or a
few, and values that stay wrong one every few seconds, then one a minute. Codes 4150 and 3955, blocked, are not retried.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from aiossmenv._errors import RotationFailed
from aiossmenv._rotating import Rotating, RotatingStatus, Source, State, Verdict

try:
    import aiomysql
except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no aiomysql
    raise ImportError("aiossmenv.mysql needs aiomysql: pip install 'aiossmenv[mysql]'") from error

# Codes that mean: these credentials, or what they may do, are not valid (any more, or yet). 3118 is MySQL's 4151.
_REFUSED = frozenset({1044, 1045, 1698, 1820, 1862, 3118, 4151})
# Codes that mean: not now. 4150 and 3955 are not here: the account is blocked because of too many bad logins.
_TRANSIENT = frozenset({1040, 1053, 1203, 1226, 2003, 2006, 2013})

_KEYS: Mapping[str, str] = {"host": "DB_URL", "user": "DB_USER", "password": "DB_PASSWORD"}
# What the value of a key has to be, where not every text will do.
_SHAPES = {
    "dsn": "a URL, as mysql://user:password@host:3306/db?charset=utf8mb4, percent-encoded and with no other option, nor a"
    " JSON object with username and password",
    "host": "a host, or host:port where the port is a number (of a whole URL the option is `dsn`)",
    "port": "the number of a port",
}


class RotatingPool:
    """
    An `aiomysql` pool that is rebuilt when its keys change.

    *env*: an `Env`. *keys*: connect options of aiomysql -> keys of the `Env`; default: `host` from `DB_URL` (a host,
    or `host:port`), `user` from `DB_USER`, `password` from `DB_PASSWORD`; `dsn` takes them all from one key. *warm*:
    connections that a new pool opens before it takes over, as far as the server lets it, default *maxsize*. *start_deadline*, *build_timeout*,
    *drain_timeout*, *retry_deadline*, *min_gap*: as for `Rotating`. All else goes to `aiomysql.create_pool()`, `ssl`
    too; what comes from a key wins.

    Of its options, `autocommit` is `True` unless you say otherwise: without it a plain SELECT leaves a snapshot open,
    and the next user of the connection reads the past. `minsize` is always 0, for aiomysql reconnects up to it with
    credentials that may no longer hold, before it looks at the connections that are there. Leave `connect_timeout` out
    on Python 3.11, where it loses cancellations; *build_timeout* ends a login that hangs.
    """

    def __init__(
        self,
        env: Source,
        keys: Mapping[str, str] = _KEYS,
        *,
        maxsize: int = 10,
        warm: int | None = None,
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
    async def acquire(self) -> AsyncIterator[aiomysql.Connection]:
        """
        Lend a connection until the block ends.

        Waits for one of *maxsize* places first. Raises the driver's error when no login succeeded for
        *retry_deadline* seconds, and at once for what no retry can help.
        """
        async with self._slots, self._rotating.use(_lend) as connection:
            yield connection

    @asynccontextmanager
    async def cursor(self, *cursors: type[aiomysql.Cursor]) -> AsyncIterator[aiomysql.Cursor]:
        """Lend a cursor of a connection, for one statement; *cursors* and errors as for both of them."""
        async with self.acquire() as connection, connection.cursor(*cursors) as cursor:
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

    async def _create(self, values: Mapping[str, str]) -> aiomysql.Pool:
        return await aiomysql.create_pool(**self._options | self._connect_options(values))

    async def _probe(self, pool: aiomysql.Pool) -> None:
        # Logs in, and leaves the connections in the pool: tasks that find one waiting do not notice a rotation.
        warmed: list[aiomysql.Connection] = []
        try:
            while len(warmed) < max(1, self._warm):
                try:
                    warmed += [await pool.acquire()]
                except aiomysql.MySQLError as error:
                    if not warmed or _classify(error) != "transient":
                        raise
                    break  # one login proves the credentials, and the server has no room for more beside the old pool
                if not self._slots.locked():
                    # Queries that run meanwhile would feel a burst of logins. Where places are short, haste is better.
                    await asyncio.sleep(0.002)
            await warmed[0].ping(reconnect=False)
        finally:
            for connection in warmed:
                pool.release(connection)

    def _connect_options(self, values: Mapping[str, str]) -> dict[str, Any]:
        # A traceback may show all local variables: none holds a value here when an error is raised, and what reads a
        # value raises nothing.
        for option, key in self._keys.items():
            if _read(option, values[key]) is None:
                raise RotationFailed(f"{key} is not {_SHAPES[option]}", remedy="Correct it, or what `keys` says of it.")
        read = [_read(option, values[key]) or {} for option, key in self._keys.items()]
        return {option: value for options in read for option, value in options.items()}


def _read(option: str, text: str) -> dict[str, Any] | None:
    """Return the connect options that a key's value holds, or `None` if it is not what it should be."""
    with suppress(ValueError, RecursionError):
        if option == "dsn":
            return _read_secret(json.loads(text)) if text.lstrip().startswith("{") else _read_url(text)
        if option == "host":
            return _read_address(text)
        return {option: _number(text) if option == "port" else text}
    return None


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
