"""
Credential rotation under load on a real server; tests/integration/databases and benchmarks/rotation.py use it.

A `Rotator` changes credentials in the server and in the store, never both at the same moment. Meanwhile a `Load` of 20
tasks commits transactions. `rotate_under_load()` runs both together and returns the `Outcome`.
"""

import asyncio
import itertools
import json
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiomysql

from aiossmenv import Change, Parameter, Snapshot, diff, load_env
from aiossmenv._databases import MYSQL, POSTGRESQL
from aiossmenv.mysql import _KEYS, RotatingPool
from embedded import MySQL, Server
from postgres import PostgreSQL
from relay import Login, Relay
from targets import Target, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiossmenv._rotating import Source as EnvLike
    from embedded import Store

AnyServer = Server | PostgreSQL
TASKS = 20
# LATENCY is how long one read of the in-memory store takes; POLL is the pause between two reads. Both in seconds.
LATENCY = 0.008
POLL = 0.02
# A transaction counts as near a swap if it overlaps the NEAR seconds before the swap (the new pool logs in then) or the
# NEAR seconds after it.
NEAR = 0.02


class Source:
    """
    The part of `Env` that `RotatingPool` uses, on the loop's clock.

    *snapshot* holds the values last read, *stored* the values in the store, *latency* the seconds that a read takes,
    *refreshes_forced* the number of forced refreshes.
    """

    def __init__(self, **values: str) -> None:
        self.stored = values
        self.snapshot = Snapshot({}, datetime.now(UTC))
        self.latency = 0.0
        self.refreshes_forced = 0
        self._began = float("-inf")
        self._watchers: list[tuple[Callable[[Change], None], tuple[str, ...]]] = []
        self._publish()

    def store(self, **values: str) -> None:
        """Write values without reading them."""
        self.stored |= values

    def publish(self, **values: str) -> None:
        """Write values and read them at once."""
        self.store(**values)
        self._publish()

    async def read(self) -> None:
        """Read what is stored, in *latency* seconds."""
        self._began = asyncio.get_running_loop().time()
        await asyncio.sleep(self.latency)
        self._publish()

    def on_change(self, callback: Callable[[object], None], *keys: str) -> Callable[[], None]:
        """See `Env`."""
        entry = (callback, keys)
        self._watchers.append(entry)
        return lambda: self._watchers.remove(entry)

    def group(self, *keys: str) -> Callable[[], None]:
        """See `Env`; this source always reads all keys in one read."""
        assert keys
        return lambda: None

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> None:
        """See `Env`."""
        assert set(keys) <= self.stored.keys()
        self.refreshes_forced += 1
        await asyncio.sleep(self._began + min_gap - asyncio.get_running_loop().time())
        await self.read()

    def _publish(self) -> None:
        """Replace the snapshot with the stored values, and call the watchers of each changed key."""
        parameters = {
            key: Parameter(name=f"/T/{key}", value=value, type="SecureString", version=1)
            for key, value in self.stored.items()
        }
        before, self.snapshot = self.snapshot, Snapshot(parameters, datetime.now(UTC))
        for change in diff(before, self.snapshot):
            for callback, keys in tuple(self._watchers):
                if change.key in keys:
                    callback(change)


class Account:
    """A user of the server, and every other user whose name starts with its name."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self._server = server

    async def set_password(self, password: str) -> None:
        """Set a new password."""
        await self._server.set_user(self.name, password)

    async def alter(self, clause: str) -> None:
        """Run ALTER USER."""
        await self._server.execute(f"ALTER USER '{self.name}'@'%' {clause}")

    @asynccontextmanager
    async def blocked_after(self, errors: int) -> AsyncIterator[None]:
        """Make the server block the account after *errors* wrong passwords, until the block ends."""
        if isinstance(self._server, MySQL):
            await self.alter(f"FAILED_LOGIN_ATTEMPTS {errors} PASSWORD_LOCK_TIME 1")
            yield
            return
        before = (await self._server.execute("SELECT @@global.max_password_errors"))[0][0]
        await self._server.execute(f"SET GLOBAL max_password_errors = {errors}")
        try:
            yield
        finally:
            await self._server.execute(f"SET GLOBAL max_password_errors = {before}")
            await self.unblock()

    async def unblock(self) -> None:
        """End a block after wrong passwords."""
        await (
            self.alter("ACCOUNT UNLOCK")
            if isinstance(self._server, MySQL)
            else self._server.execute("FLUSH PRIVILEGES")
        )

    async def connections(self) -> int:
        """Count the open connections of the account on the server."""
        async with self.watching() as count:
            return await count()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        """Yield a function that counts them, on a connection that stays open."""
        async with self._server.root() as connection, connection.cursor(aiomysql.Cursor) as cursor:

            async def count() -> int:
                """Count them."""
                await cursor.execute("SHOW PROCESSLIST")
                return sum(user.startswith(self.name) for _, user, *_ in await cursor.fetchall())

            yield count

    async def kill(self) -> None:
        """End all sessions of the account, and wait until they have ended."""
        for number, user, *_ in await self._server.execute("SHOW PROCESSLIST"):
            if user.startswith(self.name):
                await self._server.execute(f"KILL {number}")
        assert not await self.remaining_connections()

    async def remaining_connections(self) -> int:
        """Wait up to 2 s until the account has no connection, and return how many are left."""
        for _ in range(200):
            if not await self.connections():
                return 0
            await asyncio.sleep(0.01)
        return await self.connections()

    async def drop(self) -> None:
        """Drop all users of this account."""
        for (name,) in await self._server.execute(f"SELECT user FROM mysql.user WHERE user LIKE '{self.name}%'"):
            await self._server.drop_user(name)


class Role(Account):
    """A user of PostgreSQL, and every other user whose name starts with its name."""

    _server: PostgreSQL  # type: ignore[assignment] # it has the same methods, and no root

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        """See `Account`."""
        yield lambda: self._server.connections(self.name)

    async def kill(self) -> None:
        """See `Account`."""
        await self._server.kill(self.name)
        assert not await self.remaining_connections()

    async def drop(self) -> None:
        """See `Account`."""
        await self._server.drop_users(self.name)


@asynccontextmanager
async def new_account(server: AnyServer) -> AsyncIterator[Account]:
    """Create a new user with the password "first", and drop it at the end."""
    name = f"u{secrets.token_hex(4)}"
    account = Role(server, name) if isinstance(server, PostgreSQL) else Account(server, name)  # type: ignore[arg-type]
    await account.set_password("first")
    try:
        yield account
    finally:
        await account.drop()


async def scalar(pool: RotatingPool, statement: str) -> Any:
    """Run a statement on a connection of the pool, and return the first column of its first row."""
    async with pool.acquire() as connection:
        return await execute(connection, statement)


async def execute(connection: aiomysql.Connection, statement: str) -> Any:
    """Run a statement, and return the first column of its first row."""
    async with connection.cursor(aiomysql.Cursor) as cursor:
        await cursor.execute(statement)
        row = await cursor.fetchone()
        return row[0] if row else None


def error_code(error: BaseException | None) -> int:
    """Return the server's error number."""
    assert isinstance(error, aiomysql.MySQLError)
    return int(error.args[0])


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """
    A rotation method, and the load that runs meanwhile.

    *rotate*: a method of `Rotator`. *reading*: "polled" polls the in-memory store; "forced" reads it only on a forced
    refresh; "HTTP" reads Parameter Store. *form*: the layout of the parameters. *minsize*: half of *maxsize* by
    default, so that a third generation that starts before the first one has ended stays within twice *maxsize*.
    *churn*: the share of transactions that close their connection, so that logins never stop. *long*: the share that
    take 0.2 s longer. *cancelled*: the share whose task is cancelled at a random moment. *think*: mean seconds between
    two transactions of a task. *pause*: seconds from one rotation to the next.
    """

    name: str
    rotate: str
    reading: str = "polled"
    form: str = "keys"
    maxsize: int = 10
    minsize: int | None = None
    churn: float = 0.01
    long: float = 0.0
    cancelled: float = 0.0
    think: float = 0.0
    pause: float = 0.065


@dataclass
class Outcome:
    """
    What one run measured; `steady` and `near` hold the seconds of committed transactions, far from and near a swap.
    """

    rotations: int = 0
    swaps: int = 0
    committed: int = 0
    rows: int = 0
    cancelled: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    most: int = 0
    left: int = 0
    refused: int = 0
    stale_logins: int = 0
    steady: list[float] = field(default_factory=list)
    near: list[float] = field(default_factory=list)


def parameters_for(form: str, address: str, user: str, password: str, scheme: str = "mysql") -> dict[str, str]:
    """Return the parameters that hold the credentials in this form."""
    host, _, port = address.rpartition(":")
    match form:
        case "url":
            return {"DATABASE_URL": f"{scheme}://{user}:{password}@{address}/app"}
        case "json":
            secret = {"username": user, "password": password, "host": host, "port": int(port), "dbname": "app"}
            return {"DATABASE_URL": json.dumps(secret)}
        case _:
            return {"DB_URL": address, "DB_USER": user, "DB_PASSWORD": password}


class Memory:
    """A store in memory."""

    def __init__(self, reading: str, values: dict[str, str]) -> None:
        self._source = Source(**values)
        self._source.latency = LATENCY
        self._reading = reading

    async def put(self, **values: str) -> None:
        """Write parameters."""
        self._source.store(**values)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["EnvLike"]:
        """Yield a source that reads this store."""

        async def poll() -> None:
            """Read until cancelled."""
            while True:
                await self._source.read()
                await asyncio.sleep(POLL)

        polling = asyncio.create_task(poll()) if self._reading == "polled" else None
        try:
            yield self._source
        finally:
            if polling:
                polling.cancel()


class Http:
    """Parameter Store over HTTP, read by `load_env`."""

    def __init__(self, store: "Store", values: dict[str, str]) -> None:
        self._store = store
        self._values = values

    async def put(self, **values: str) -> None:
        """Write parameters, one after the other."""
        for key, value in values.items():
            await asyncio.to_thread(self._store.put, f"/FAKEBOOK/TEST/{key}", value)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["EnvLike"]:
        """Yield an `Env` that reads this store."""
        await self.put(**self._values)
        async with load_env("/FAKEBOOK/TEST/", ttl=1, environ=None) as env:
            yield env


# The relay may see a login this many seconds late.
_LAG = 0.05


class Rotator:
    """Changes credentials in the server and in the store, never both at the same moment."""

    def __init__(self, server: AnyServer, account: Account, scenario: Scenario, rng: random.Random) -> None:
        self.store: Memory | Http
        self.load: Load
        self._server = server
        self._account = account
        self._database = POSTGRESQL if isinstance(server, PostgreSQL) else MYSQL
        self._name = self._user = account.name
        self._form = scenario.form
        self._password = "first"
        self._rng = rng
        self._numbers = itertools.count()
        # `address` is where clients connect. `_void` maps credentials to the time at which the server stopped accepting
        # them. `_read` lists which credentials the process read, and when.
        self.address = server.address
        self._void = {(account.name, "garbage"): float("-inf")}
        self._read: list[tuple[float, tuple[str, str]]] = []

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters for the current credentials."""
        return parameters_for(self._form, self.address, self._user, self._password, min(self._database.schemes))

    def watch(self, env: "EnvLike") -> None:
        """Record which credentials the process reads from now on."""

        def note(_: object) -> None:
            values = env.snapshot
            if self._form == "keys":
                read = {"user": values["DB_USER"], "password": values["DB_PASSWORD"]}
            else:
                read = self._database.read("dsn", values["DATABASE_URL"]) or {}
            self._read.append((time.perf_counter(), (read["user"], read["password"])))

        note(None)
        env.on_change(note, *self.parameters)

    def stale_logins(self, logins: "list[Login]") -> int:
        """
        Count the logins that used credentials the server no longer accepted, although the process knew newer ones.

        The process knows newer credentials once it has read them and has not tried them yet, or once a login with them
        has succeeded. If the server rejected the newer credentials, the process may try the old ones. All of this is
        checked 50 ms before the login: on a busy loop the relay sees a login up to 30 ms after the pool started it.
        """
        count = 0
        passwords = {word for _, word in self._void} | {word for _, (_, word) in self._read}
        sent = [(login, (login.user, login.password(*passwords) or "")) for login in logins]
        for login, pair in sent:
            moment = login.accepted
            before = [read for then, read in self._read if then <= moment - _LAG]
            since = [read for then, read in self._read if moment - _LAG < then <= moment]
            if pair not in before[:-1] or pair in (before[-1], *since) or self._void.get(pair, moment) >= moment:
                continue
            tries = [other for other, its in sent if its == before[-1] and other.accepted <= moment]
            count += not tries or any(other.succeeded <= moment - _LAG for other in tries)
        return count

    async def _set_user(self, user: str, password: str) -> None:
        """Give a user its only password."""
        await self._server.set_user(user, password)
        now = time.perf_counter()
        for other in {word for _, (name, word) in self._read if name == user} - {password}:
            self._void.setdefault((user, other), now)
        self._void.pop((user, password), None)

    async def _drop_user(self, user: str) -> None:
        """Remove a user."""
        await self._server.drop_user(user)
        now = time.perf_counter()
        for pair in {pair for _, pair in self._read if pair[0] == user}:
            self._void.setdefault(pair, now)

    async def db_first(self) -> None:
        """Change the password in the server and then in the store, as AWS's rotators do."""
        self._new_password()
        await self._set_user(self._user, self._password)
        await self._moment()
        await self._put()

    async def store_first(self) -> None:
        """Change the password in the store and then in the server."""
        self._new_password()
        await self._put()
        await self._moment()
        await self._set_user(self._user, self._password)

    async def two_user(self, grace: float = 0.05) -> None:
        """Create the other user, write it to the store, and drop the old user after *grace* seconds."""
        before = await self._other_user()
        await self._put()
        await asyncio.sleep(grace)
        await self._drop_user(before)

    async def two_user_at_once(self) -> None:
        """Run `two_user`, but drop the old user at once."""
        await self.two_user(grace=0)

    async def torn(self) -> None:
        """Like `two_user`, but the user's name is in the store up to 30 ms before the password."""
        before = await self._other_user()
        await self.store.put(DB_USER=self._user)
        await self._moment()
        await self._put()
        await asyncio.sleep(0.05)
        await self._drop_user(before)

    async def burst(self) -> None:
        """Change the password five times in ten milliseconds."""
        for _ in range(5):
            self._new_password()
            await self._set_user(self._user, self._password)
            await self._put()
            await asyncio.sleep(0.002)

    async def bad_put(self) -> None:
        """Store a wrong password for 30 ms."""
        right, self._password = self._password, "garbage"
        await self._put()
        await asyncio.sleep(0.03)
        self._password = right
        await self._put()

    async def dual(self) -> None:
        """Make the server accept both passwords for 30 ms."""
        old = self._password
        self._new_password()
        assert isinstance(self._server, Server)
        await self._server.set_passwords(self._user, self._password, old)
        await self._put()
        await asyncio.sleep(0.03)
        await self._set_user(self._user, self._password)

    async def killed(self) -> None:
        """End all sessions between two transactions, with the password changed in the server and later in the store."""
        self._new_password()
        async with self.load.paused():
            await self._set_user(self._user, self._password)
            await self._account.kill()
            # PostgreSQL says that a session has ended before it closes its connection.
            await asyncio.sleep(0.02)
        await self._moment()
        await self._put()

    async def mixed(self) -> None:
        """Rotate in one of three ways."""
        await self._rng.choice([self.db_first, self.store_first, self.two_user])()

    async def _other_user(self) -> str:
        """Create the user that the store does not name; return the name of the user that it does name."""
        before, self._user = self._user, self._name if self._user != self._name else f"{self._name}_b"
        self._new_password()
        await self._set_user(self._user, self._password)
        return before

    async def _put(self) -> None:
        """Write the credentials to the store, but not the address."""
        await self.store.put(**{key: value for key, value in self.parameters.items() if key != "DB_URL"})

    def _new_password(self) -> None:
        """Choose a password that no rotation has used before."""
        self._password = f"p{next(self._numbers)}"

    async def _moment(self) -> None:
        """Sleep for 0 to 30 ms."""
        await asyncio.sleep(self._rng.uniform(0, 0.03))


class Load:
    """Tasks that each commit one transaction after the other."""

    def __init__(self, target: Target, account: Account, scenario: Scenario, rng: random.Random) -> None:
        self.outcome = Outcome()
        self.spans: list[tuple[float, float]] = []
        self._target = target
        self._account = account
        self._scenario = scenario
        self._ended = False
        self._rng = rng
        self._may_begin = asyncio.Event()
        self._may_begin.set()
        self._open = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the tasks until the block ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count())
            for _ in range(TASKS):
                group.create_task(self._work())
            try:
                yield
            finally:
                self._ended = True

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let no transaction be open until the block ends."""
        self._may_begin.clear()
        while self._open:
            await asyncio.sleep(0.001)
        yield
        self._may_begin.set()

    async def _work(self) -> None:
        """Commit one transaction after the other, and count the failures."""
        while not self._ended:
            if self._rng.random() < self._scenario.cancelled:
                task = asyncio.create_task(self._transaction())
                await asyncio.wait({task}, timeout=self._rng.uniform(0, 0.01))
                self.outcome.cancelled += task.cancel()
                await asyncio.wait({task})
                self._note(None if task.cancelled() else task.exception())
            else:
                try:
                    await self._transaction()
                except Exception as error:
                    self._note(error)
            if self._scenario.think:
                await asyncio.sleep(self._rng.uniform(0, 2 * self._scenario.think))

    def _note(self, error: BaseException | None) -> None:
        """Count an error by type and number."""
        if error:
            self.outcome.failed[f"{type(error).__name__} {error.args[0] if error.args else ''}"] += 1

    async def _transaction(self) -> None:
        """Commit one transaction."""
        await self._may_begin.wait()
        self._open += 1
        try:
            began = time.perf_counter()
            seconds = 0.2 if self._rng.random() < self._scenario.long else 0.0
            drop = self._rng.random() < self._scenario.churn
            await self._target.transaction(f"app.{self._account.name}", seconds, drop=drop)
            self.outcome.committed += 1
            self.spans.append((began, time.perf_counter()))
        finally:
            self._open -= 1

    async def _count(self) -> None:
        """Sample the number of connections every 5 ms, and keep the highest."""
        async with self._account.watching() as count:
            while not self._ended:
                self.outcome.most = max(self.outcome.most, await count())
                await asyncio.sleep(0.005)


class _Swaps(logging.Handler):
    """Records the time at which each generation becomes current."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().endswith(" serves"):
            self.times.append(time.perf_counter())


@contextmanager
def swaps_noted() -> "Iterator[list[float]]":
    """Yield a list of swap times that grows until the block ends."""
    logger, handler = logging.getLogger("aiossmenv"), _Swaps()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler.times
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


async def rotate_under_load(
    server: AnyServer,
    scenario: Scenario,
    rotations: int,
    driver: "str | Callable[[EnvLike, Scenario], AbstractAsyncContextManager[Target]] | None" = None,
    *,
    least: int = 1,
    store: "Store | None" = None,
    relayed: bool = False,
) -> Outcome:
    """
    Rotate *rotations* times under load, and return the outcome.

    On a busy machine builds can be slower than rotations. The run then continues, for up to five times as many
    rotations, until the pool has had *least* generations. *store*: the Parameter Store of a scenario that reads over
    HTTP. *relayed*: send logins through a relay that records them; this makes them slower. *driver*: that of a
    `RotatingEngine`, instead of a `RotatingPool`; or what opens the target.
    """
    rng = random.Random(scenario.name)
    async with new_account(server) as account:
        rotator = Rotator(server, account, scenario, rng)
        await server.execute(f"CREATE TABLE app.{account.name} (n INT)")
        refused = await server.refused()
        async with Relay("127.0.0.1", server.port).running() as relay:
            rotator.address = relay.address if relayed else server.address
            rotator.store = Http(store, rotator.parameters) if store else Memory(scenario.reading, rotator.parameters)
            opening: AbstractAsyncContextManager[EnvLike] = rotator.store.opened()
            async with (
                opening as env,
                driver(env, scenario) if callable(driver) else _opened(env, driver, scenario) as target,
            ):
                rotator.watch(env)
                load = rotator.load = Load(target, account, scenario, rng)
                rotated = getattr(rotator, scenario.rotate)
                with swaps_noted() as swaps:
                    async with load.running():
                        for rotation in range(5 * rotations):
                            if rotation >= rotations and target.generation >= least:
                                break
                            await asyncio.gather(rotated(), asyncio.sleep(scenario.pause))
                            load.outcome.rotations += 1
                load.outcome.swaps = target.generation - 1
            load.outcome.stale_logins = rotator.stale_logins(relay.logins)
        load.outcome.left = await account.remaining_connections()
        load.outcome.refused = await server.refused() - refused
        load.outcome.rows = (await server.execute(f"SELECT COUNT(*) FROM app.{account.name}"))[0][0]
        await server.execute(f"DROP TABLE app.{account.name}")
    _sort(load, swaps)
    return load.outcome


def _opened(env: "EnvLike", driver: str | None, scenario: Scenario) -> AbstractAsyncContextManager[Target]:
    keys = {"dsn": "DATABASE_URL"} if scenario.form != "keys" else _KEYS
    # These rotations are faster than real ones, so forced refreshes may be faster too.
    return opened(env, driver, keys, maxsize=scenario.maxsize, minsize=scenario.minsize, min_gap=POLL)


def _sort(load: Load, swaps: list[float]) -> None:
    """Sort transactions into those near a swap and the others."""
    at = 0
    for began, ended in sorted(load.spans):
        while at < len(swaps) and swaps[at] + NEAR < began:
            at += 1
        near = at < len(swaps) and swaps[at] - NEAR <= ended
        (load.outcome.near if near else load.outcome.steady).append(ended - began)
