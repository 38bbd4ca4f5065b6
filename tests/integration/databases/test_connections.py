"""The life of one `RotatingPool` connection, from login to close, on real servers."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import aiomysql
import pytest

from aiossmenv import RotationFailed
from aiossmenv.mysql import RotatingPool
from embedded import MySQL, Server
from relay import Relay
from rotations import Account, Source, execute, scalar
from timing import eventually

WORDS = ("first", "second", "third")


@pytest.fixture
async def login_relay(server: Server, source: Source) -> AsyncIterator[Relay]:
    """Send the pool's logins through a relay."""
    async with Relay("127.0.0.1", server.port).running() as relay:
        source.publish(DB_URL=relay.address)
        yield relay


async def sessions(account: Account, server: Server) -> list[int]:
    """Return the ids of the account's sessions."""
    return [row[0] for row in await server.execute("SHOW PROCESSLIST") if row[1] == account.name]


# Logins


async def test_retired_pool_never_logs_in(source: Source, account: Account, server: Server, login_relay: Relay) -> None:
    """A retired pool closes without a login, even if the server killed its idle sessions."""
    async with RotatingPool(source, maxsize=3, minsize=2) as pool, pool.acquire():
        for session in await sessions(account, server):
            await server.execute(f"KILL {session}")
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2)
    assert ["first"] * 2 + ["second"] * 2 == [login.password(*WORDS) for login in login_relay.logins]
    assert {account.name} == {login.user for login in login_relay.logins}


async def test_no_login_with_old_credentials_before_swap(source: Source, account: Account, login_relay: Relay) -> None:
    """
    Between the read of new credentials and the swap, a login with the old ones does not start; it waits for the swap.
    """
    async with RotatingPool(source, maxsize=3, minsize=1, retry_deadline=5) as pool, pool.acquire():
        await account.set_password("second")
        login_relay.hold()
        source.publish(DB_PASSWORD="second")
        pending = [asyncio.create_task(scalar(pool, "SELECT 1")) for _ in range(2)]
        await asyncio.sleep(0.2)
        login_relay.resume()
        assert [1, 1] == await asyncio.gather(*pending)
    assert 1 == [login.password(*WORDS) for login in login_relay.logins].count("first")
    assert 0 == pool.status.auth_failures


async def test_old_credentials_serve_while_new_ones_fail(source: Source, account: Account, login_relay: Relay) -> None:
    """After the new credentials are rejected, new logins use the old ones and do not wait."""
    async with RotatingPool(source, maxsize=2, minsize=1, retry_deadline=5) as pool, pool.acquire():
        source.publish(DB_PASSWORD="wrong")
        assert 1 == await scalar(pool, "SELECT 1")
        assert "DEGRADED" == pool.state
    assert 2 == [login.password(*WORDS) for login in login_relay.logins].count("first")


async def test_swap_during_login(source: Source, account: Account, login_relay: Relay) -> None:
    """If a login fails because its pool was replaced meanwhile, the acquire logs in to the new pool."""
    async with RotatingPool(source, maxsize=2, minsize=1, drain_timeout=0.2, retry_deadline=5) as pool, pool.acquire():
        login_relay.hold()
        pending = asyncio.create_task(scalar(pool, "SELECT 1"))
        await asyncio.sleep(0.1)
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await asyncio.sleep(0.1)
        login_relay.resume()
        assert 1 == await pending
    # The server rejects the one login that started before the swap; no login with the old password starts after it.
    assert 2 >= [login.password(*WORDS) for login in login_relay.logins].count("first")


async def test_new_password_logs_in_without_tls(source: Source, account: Account, server: Server) -> None:
    """Without TLS, a new password logs in too: `caching_sha2_password` needs it encrypted with the server's RSA key."""
    async with RotatingPool(source, maxsize=2) as pool:
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2)
        async with pool.cursor() as cursor:
            await cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
            assert ("Ssl_version", "") == await cursor.fetchone()
    if isinstance(server, MySQL):
        plugin = await server.execute(f"SELECT plugin FROM mysql.user WHERE user = '{account.name}'")
        assert (("caching_sha2_password",),) == plugin


async def test_missing_cryptography(mysql_server: Server) -> None:
    """If the package that RSA needs is missing, the error says how to install it and shows no value."""
    await mysql_server.set_user("no_rsa", "s3cret")
    script = f"""
        import asyncio, sys, traceback
        sys.modules["cryptography"] = None
        sys.path += {[str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3] / "examples")]}
        from aiossmenv.mysql import RotatingPool
        from rotations import Source

        async def main():
            source = Source(DB_URL="{mysql_server.address}", DB_USER="no_rsa", DB_PASSWORD="s3cret")
            pool = RotatingPool(source)
            try:
                await pool.__aenter__()
            except Exception as error:
                print(error, pool)
                while error:
                    print("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
                    error = error.__cause__ or error.__context__

        asyncio.run(main())
    """
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", dedent(script)], check=True, capture_output=True, text=True
    )
    assert (
        "nothing could be built from DB_URL, DB_USER, DB_PASSWORD: the server wants the password encrypted"
        in run.stdout
    )
    assert "the package cryptography is not installed. Run pip install 'aiossmenv[mysql]', or use TLS" in run.stdout
    assert "s3cret" not in run.stdout.replace('DB_PASSWORD="s3cret"', "")
    await mysql_server.drop_user("no_rsa")


async def test_error_of_another_library(source: Source) -> None:
    """An error that is not aiomysql's shows its text, unless the text contains a part of a value."""
    with pytest.raises(RotationFailed, match="unexpected keyword argument 'databse'"):
        await RotatingPool(source, databse="app").__aenter__()
    source.publish(DB_PASSWORD="databse-s3cret")
    with pytest.raises(RotationFailed, match=r"DB_PASSWORD: TypeError\. "):
        await RotatingPool(source, databse="app").__aenter__()
    source.publish(DB_USER="hidden-one\ud800")
    with pytest.raises(RotationFailed, match=r"DB_PASSWORD: UnicodeEncodeError\. ") as caught:
        await RotatingPool(source).__aenter__()
    assert "hidden-one" not in repr(caught.value.__cause__)


# Secrets without a usable server


@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        ('{"username": "u", "password": "s3cret"}', "DSN has no host"),
        ('{"username": "u", "password": "s3cret", "host": "", "engine": "mysql"}', "DSN has no host"),
        ('{"username": "u", "password": "s3cret", "host": null, "engine": "mariadb"}', "DSN has no host"),
        ('{"username": "u", "password": "s3cret", "host": "h", "engine": "postgres"}', "DSN is the secret of another"),
        ('{"username": "u", "password": "s3cret", "host": "h", "engine": "sqlserver"}', "DSN is the secret of another"),
        ('{"username": "u", "password": "s3cret", "engine": "aurora-postgresql"}', "DSN is the secret of another"),
        ('{"username": "u", "password": "s3cret", "host": "h", "engine": ["mysql"]}', "DSN is the secret of another"),
    ],
)
async def test_secret_without_mysql_host(source: Source, secret: str, fault: str) -> None:
    """A secret without a host, or of another kind of database, is rejected; the error gives the reason and no value."""
    source.publish(DSN=secret)
    with pytest.raises(RotationFailed, match=f"nothing could be built from DSN: {fault}") as caught:
        await RotatingPool(source, {"dsn": "DSN"}).__aenter__()
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"
    assert 0 == source.refreshes_forced


async def test_keys_without_a_host(source: Source) -> None:
    """If neither the keys nor the options give a host, the pool connects nowhere."""
    for keys in ({"user": "DB_USER", "password": "DB_PASSWORD"}, {"host": "HOST", "user": "DB_USER"}):
        source.publish(HOST=":3306")
        with pytest.raises(RotationFailed, match="has no host"):
            await RotatingPool(source, keys).__aenter__()


@pytest.mark.parametrize("engine", ["mysql", "MariaDB", "aurora-mysql", "aurora", ""])
async def test_secret_of_mysql_engine(source: Source, account: Account, server: Server, engine: str) -> None:
    """Every engine that speaks the MySQL protocol is accepted, and a socket path can replace the host."""
    source.publish(DSN=f'{{"username": "{account.name}", "password": "first", "engine": "{engine}"}}')
    await server.execute(f"CREATE USER '{account.name}'@'localhost' IDENTIFIED BY 'first'")
    async with RotatingPool(source, {"dsn": "DSN"}, unix_socket=server.socket) as pool:
        assert f"{account.name}@localhost" == await scalar(pool, "SELECT USER()")
    await server.execute(f"DROP USER '{account.name}'@'localhost'")


# Session state after a release


def autocommit_off(connection: aiomysql.Connection) -> Coroutine[Any, Any, None]:
    """Switch autocommit off by the driver's method."""
    return connection.autocommit(False)  # type: ignore[no-any-return]


def autocommit_on(connection: aiomysql.Connection) -> Coroutine[Any, Any, None]:
    """Switch autocommit on by the driver's method."""
    return connection.autocommit(True)  # type: ignore[no-any-return]


def other_database(connection: aiomysql.Connection) -> Coroutine[Any, Any, None]:
    """Select another database by the driver's method."""
    return connection.select_db("information_schema")  # type: ignore[no-any-return]


def other_charset(connection: aiomysql.Connection) -> Coroutine[Any, Any, None]:
    """Change the character set by the driver's method."""
    return connection.set_charset("latin1")  # type: ignore[no-any-return]


ISOLATION = "{isolation}"
LEFTOVERS: list[tuple[str | Callable[[aiomysql.Connection], Coroutine[Any, Any, None]], str]] = [
    ("SET autocommit = 0", "@@autocommit"),
    (autocommit_off, "@@autocommit"),
    ("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", ISOLATION),
    ("SET SESSION TRANSACTION READ ONLY", "{read_only}"),
    ("SET SESSION wait_timeout = 77", "@@wait_timeout"),
    ("SET SESSION sql_mode = ''", "@@sql_mode"),
    ("SET time_zone = '+05:00'", "@@time_zone"),
    ("SET @tenant = 7", "@tenant"),
    ("USE information_schema", "DATABASE()"),
    (other_database, "DATABASE()"),
    ("SET NAMES latin1", "@@collation_connection"),
    (other_charset, "@@collation_connection"),
    ("SET SESSION foreign_key_checks = 0", "@@foreign_key_checks"),
]


@pytest.mark.parametrize("options", [{"db": "app"}, {"db": "app", "autocommit": False, "sql_mode": "'ANSI'"}, {}])
@pytest.mark.parametrize(("leave", "expression"), LEFTOVERS)
async def test_session_state_is_reset(
    source: Source, server: Server, leave: Any, expression: str, options: dict[str, Any]
) -> None:
    """An acquire gets the session as it was after the login, whatever the previous user of the connection changed."""
    if expression == "@@autocommit" and options.get("autocommit") is False:
        leave = "SET autocommit = 1" if isinstance(leave, str) else autocommit_on
    of_mysql = isinstance(server, MySQL)
    expression = expression.format(
        isolation="@@transaction_isolation" if of_mysql else "@@tx_isolation",
        read_only="@@transaction_read_only" if of_mysql else "@@tx_read_only",
    )
    async with RotatingPool(source, maxsize=1, **options) as pool:
        number, before = await scalar(pool, "SELECT CONNECTION_ID()"), await scalar(pool, f"SELECT {expression}")
        async with pool.acquire() as connection:
            await (execute(connection, leave) if isinstance(leave, str) else leave(connection))
            assert before != await execute(connection, f"SELECT {expression}")
        async with pool.acquire() as connection:
            assert before == await execute(connection, f"SELECT {expression}")
            assert options.get("autocommit", True) is connection.get_autocommit()
            assert ("ANSI" in options.get("sql_mode", "")) == ("ANSI" in await execute(connection, "SELECT @@sql_mode"))
        # The connection is reset, not replaced, except where only a new login can restore "no database selected".
        if options or expression != "DATABASE()":
            assert number == await scalar(pool, "SELECT CONNECTION_ID()")


async def test_temporary_table_is_dropped(source: Source) -> None:
    """A temporary table does not survive the release of its connection."""
    async with RotatingPool(source, db="app", maxsize=1) as pool:
        await scalar(pool, "CREATE TEMPORARY TABLE mine (n INT)")
        with pytest.raises(aiomysql.ProgrammingError, match="1146"):
            await scalar(pool, "SELECT * FROM mine")


async def test_init_command_runs_after_reset(source: Source) -> None:
    """The init command takes effect for every acquire, whatever the previous user of the connection changed."""
    async with RotatingPool(source, maxsize=1, init_command="SET @tenant = 1") as pool:
        assert 1 == await scalar(pool, "SELECT @tenant")
        await scalar(pool, "SET @tenant = 2")
        assert 1 == await scalar(pool, "SELECT @tenant")


@pytest.mark.parametrize("end", ["returns", "fails", "is cancelled"])
@pytest.mark.parametrize("autocommit", [True, False])
async def test_an_open_transaction_is_rolled_back(
    source: Source, account: Account, server: Server, end: str, *, autocommit: bool
) -> None:
    """A transaction that is open at release has no effect and holds no lock, however the block ends."""
    await server.execute(f"CREATE TABLE app.{account.name} (n INT)")

    async def leave() -> None:
        """Leave a transaction open."""
        async with pool.acquire() as connection:
            await connection.begin()
            await execute(connection, f"INSERT INTO {account.name} VALUES (1)")
            if end == "fails":
                raise LookupError
            if end == "is cancelled":
                await asyncio.sleep(60)

    async with RotatingPool(source, db="app", maxsize=1, autocommit=autocommit) as pool:
        number = await scalar(pool, "SELECT CONNECTION_ID()")
        leaving = asyncio.create_task(leave())
        await asyncio.wait({leaving}, timeout=0.2 if end == "is cancelled" else None)
        leaving.cancel()
        with suppress(LookupError, asyncio.CancelledError):
            await leaving
        async with pool.acquire() as connection:
            assert not connection.get_transaction_status()
            assert 0 == await execute(connection, f"SELECT COUNT(*) FROM {account.name}")
            # After a cancellation the pool closes the connection, because a rollback would need another round trip.
            assert (end == "is cancelled") == (number != await execute(connection, "SELECT CONNECTION_ID()"))
        await server.execute(f"DROP TABLE app.{account.name}")


async def test_release_drops_the_read_snapshot(source: Source, account: Account, server: Server) -> None:
    """Without autocommit, a block that only reads leaves no read snapshot to the next acquire."""
    await server.execute(f"CREATE TABLE app.{account.name} (n INT)")
    async with RotatingPool(source, db="app", maxsize=1, autocommit=False) as pool:
        assert 0 == await scalar(pool, f"SELECT COUNT(*) FROM {account.name}")
        await server.execute(f"INSERT INTO app.{account.name} VALUES (1)")
        assert 1 == await scalar(pool, f"SELECT COUNT(*) FROM {account.name}")
    await server.execute(f"DROP TABLE app.{account.name}")


async def test_reset_costs_no_round_trip_without_changes(
    source: Source, account: Account, server: Server, login_relay: Relay
) -> None:
    """The pool sends no request of its own after a committed transaction, and one after an open transaction."""
    await server.execute(f"CREATE TABLE app.{account.name} (n INT)")
    async with RotatingPool(source, db="app", maxsize=1) as pool:
        before = login_relay.packets
        for _ in range(10):
            await scalar(pool, "SELECT 1")
            async with pool.acquire() as connection:
                await connection.begin()
                await execute(connection, f"INSERT INTO {account.name} VALUES (1)")
                await connection.commit()
        assert 10 * 4 == login_relay.packets - before
        async with pool.acquire() as connection:
            await connection.begin()
        assert 10 * 4 + 2 == login_relay.packets - before
    await server.execute(f"DROP TABLE app.{account.name}")


# Connections that the server or the network closed


async def test_server_closes_idle_sessions_while_loop_is_blocked(source: Source, server: Server) -> None:
    """
    If the server closes idle sessions while the loop is blocked, the next acquire gets a new session and no error.
    """
    before = (await server.execute("SELECT @@global.wait_timeout"))[0][0]
    await server.execute("SET GLOBAL wait_timeout = 1")
    try:
        async with RotatingPool(source, maxsize=2) as pool:
            number = await scalar(pool, "SELECT CONNECTION_ID()")
            time.sleep(3)  # noqa: ASYNC251 - the test blocks the loop
            assert number != await scalar(pool, "SELECT CONNECTION_ID()")
    finally:
        await server.execute(f"SET GLOBAL wait_timeout = {before}")


async def test_sessions_killed_while_loop_is_blocked(source: Source, account: Account, server: Server) -> None:
    """A session that was killed is not lent, whether or not the loop has run since."""
    async with RotatingPool(source, maxsize=3) as pool:
        for _ in range(2):
            killing = [f"KILL {session};" for session in await sessions(account, server)]
            script = (
                "import asyncio, aiomysql, sys\n"
                "async def main():\n"
                "    async with aiomysql.connect(unix_socket=sys.argv[1], user='root') as c, c.cursor() as cursor:\n"
                "        for kill in sys.argv[2:]: await cursor.execute(kill)\n"
                "asyncio.run(main())\n"
            )
            subprocess.run([sys.executable, "-c", script, server.socket, *killing], check=True)  # noqa: ASYNC221 - blocks the loop
            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(scalar(pool, "SELECT 1")) for _ in range(3)]
            assert [1, 1, 1] == [answer.result() for answer in answers]


async def test_connections_lost_by_the_network(source: Source, login_relay: Relay) -> None:
    """If idle connections no longer answer, one ping waits for two seconds, and then all of them are replaced."""
    async with RotatingPool(source, maxsize=3, pre_ping_after=0.05) as pool:
        login_relay.blackhole()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for _ in range(3):
            assert 1 == await scalar(pool, "SELECT 1")
        assert 1.9 < time.monotonic() - began < 3.9


async def test_pings(source: Source, login_relay: Relay) -> None:
    """A connection is pinged only if it idled longer than `pre_ping_after`, by either of the two clocks."""

    class Clock:
        """A clock whose wall time can run ahead of its monotonic time, as after a suspend."""

        ahead = timedelta()
        now = staticmethod(time.monotonic)

        def wall(self) -> datetime:
            return datetime.now(UTC) + self.ahead

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    clock = Clock()
    source._clock = clock  # type: ignore[attr-defined] # an `Env` has this attribute
    async with RotatingPool(source, maxsize=1) as pool:
        before = login_relay.packets
        for _ in range(10):
            await scalar(pool, "SELECT 1")
        assert 10 == login_relay.packets - before
        clock.ahead = timedelta(seconds=9)
        await scalar(pool, "SELECT 1")
        assert 11 == login_relay.packets - before
        clock.ahead = timedelta(seconds=20)
        await scalar(pool, "SELECT 1")
        assert 13 == login_relay.packets - before


async def test_pool_recycle(source: Source) -> None:
    """A connection that idled longer than `pool_recycle` is replaced, as in aiomysql."""
    async with RotatingPool(source, maxsize=1, pool_recycle=0.1) as pool:
        number = await scalar(pool, "SELECT CONNECTION_ID()")
        assert number == await scalar(pool, "SELECT CONNECTION_ID()")
        await asyncio.sleep(0.15)
        assert number != await scalar(pool, "SELECT CONNECTION_ID()")


async def test_server_becomes_read_only(source: Source, account: Account, server: Server) -> None:
    """After error 1290 no session that was open is lent again, so the next logins resolve the host name again."""
    await server.execute(f"CREATE TABLE app.{account.name} (n INT)")
    async with RotatingPool(source, db="app", maxsize=3) as pool:
        before = set(await sessions(account, server))
        await server.execute("SET GLOBAL read_only = 1")
        try:
            with pytest.raises(aiomysql.OperationalError, match="1290"):
                await scalar(pool, f"INSERT INTO {account.name} VALUES (1)")
        finally:
            await server.execute("SET GLOBAL read_only = 0")
        await scalar(pool, f"INSERT INTO {account.name} VALUES (1)")
        assert not before & {await scalar(pool, "SELECT CONNECTION_ID()") for _ in range(4)}
    await server.execute(f"DROP TABLE app.{account.name}")


@pytest.mark.parametrize(("number", "closed"), [(1290, True), (1836, True), (1062, False), (1644, False)])
async def test_read_only_error_that_the_block_catches(source: Source, number: int, *, closed: bool) -> None:
    """A read-only error closes the connection on release even if the block catches it; other errors do not."""
    async with RotatingPool(source, maxsize=1) as pool:
        async with pool.acquire() as connection:
            before = await execute(connection, "SELECT CONNECTION_ID()")
            with pytest.raises(aiomysql.MySQLError, match=str(number)):
                await execute(connection, f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}")
            assert 1 == await execute(connection, "SELECT 1")
        assert closed == (before != await scalar(pool, "SELECT CONNECTION_ID()"))


# Waiting


@pytest.mark.parametrize("way_in", ["acquire", "cursor"])
async def test_acquire_timeout(source: Source, way_in: str) -> None:
    """An acquire that times out names the pool, its size and the number of connections in use."""
    async with RotatingPool(source, maxsize=2) as pool, pool.acquire(timeout=0), pool.acquire():
        began = time.monotonic()
        expected = r"no connection within 0\.1 s from <RotatingPool DB_URL, .*>: 2 of 2 are in use"
        with pytest.raises(TimeoutError, match=expected) as caught:
            async with getattr(pool, way_in)(timeout=0.1):
                pytest.fail("the pool lent a connection")
        assert 0.09 <= time.monotonic() - began < 2
        assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    # The timeout covers the wait, not the block. Both blocks return their connection.
    async with RotatingPool(source, maxsize=1) as pool:
        for _ in range(2):
            async with getattr(pool, way_in)(timeout=0.1):
                await asyncio.sleep(0.2)
            with pytest.raises(TimeoutError, match="^mine$"):
                async with getattr(pool, way_in)(timeout=5):
                    raise TimeoutError("mine")


async def test_timeout_covers_the_login(source: Source, login_relay: Relay) -> None:
    """A login that hangs ends at the timeout too, and gives its slot back."""
    async with RotatingPool(source, maxsize=2, minsize=1) as pool, pool.acquire():
        login_relay.hold()
        with pytest.raises(TimeoutError, match=r"within 0\.2 s from .*: 2 of 2 are in use"):
            async with pool.acquire(timeout=0.2):
                pytest.fail("the login succeeded")
        login_relay.resume()
        assert 1 == await scalar(pool, "SELECT 1")


# Other loops and processes


@asynccontextmanager
async def left_open(pool: RotatingPool) -> AsyncIterator[None]:
    """Acquire a connection, with a limit of 5 s."""
    async with asyncio.timeout(5), pool.acquire():
        yield


async def test_pool_rejects_another_loop(source: Source) -> None:
    """On another event loop a pool fails at once and names the remedy; on its own loop it still works."""

    async def elsewhere() -> None:
        """Acquire from the pool, and close it."""
        for attempt in (left_open(pool).__aenter__, pool.aclose):
            with pytest.raises(RotationFailed, match=r"another event loop.* in each asyncio\.run\(\)"):
                await attempt()

    async with RotatingPool(source, maxsize=1) as pool:
        await asyncio.to_thread(asyncio.run, elsewhere())
        assert 1 == await scalar(pool, "SELECT 1")
        # It fails at once even if all connections are in use.
        async with pool.acquire():
            await asyncio.to_thread(asyncio.run, elsewhere())


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()"])
async def test_pool_rejects_a_forked_child(server: Server, account: Account, end: str) -> None:
    """
    In a forked child a pool fails at once and names the remedy; however the child ends, the parent's sessions stay
    open.
    """
    script = f"""
        import asyncio, gc, os, sys, warnings
        sys.path += {[str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3] / "examples")]}
        from aiossmenv.mysql import RotatingPool
        from rotations import Source

        async def use(pool):
            try:
                async with pool.acquire(timeout=5):
                    print("lent")
            except Exception as error:
                print(type(error).__name__, error)
            await pool.aclose()

        async def number(pool):
            async with pool.cursor() as cursor:
                await cursor.execute("SELECT CONNECTION_ID()")
                return await cursor.fetchone()

        def child(pool):
            asyncio.run(use(pool))
            gc.collect()
            sys.stdout.flush()
            {end}

        async def main():
            source = Source(DB_URL="{server.address}", DB_USER="{account.name}", DB_PASSWORD="first")
            async with RotatingPool(source, maxsize=1) as pool:
                before = await number(pool)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    pid = os.fork()
                if not pid:
                    asyncio._set_running_loop(None)
                    child(pool)
                while not os.waitpid(pid, os.WNOHANG)[0]:
                    await asyncio.sleep(0.01)
                for _ in range(3):
                    print("the same" if before == await asyncio.wait_for(number(pool), 5) else "another")

        asyncio.run(main())
    """
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", dedent(script)], check=False, capture_output=True, text=True
    )
    lines = run.stdout.splitlines()
    assert "RotationFailed" == lines[0].split()[0], run
    assert (
        "was opened before a fork, and its connections belong to the parent process. Open one in each worker"
        in lines[0]
    )
    assert ["the same"] * 3 == lines[1:], run
