"""`RotatingPool` on a real server: rejected logins, swaps, limits, cancellation and close."""

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiomysql
import pytest

from aiossmenv import RotationFailed
from aiossmenv.mysql import RotatingPool
from embedded import MySQL, Server
from relay import Relay
from rotations import Account, Source, error_code, scalar
from timing import eventually

# Rejected logins


TROUBLES = {
    1044: ("REVOKE ALL ON app.* FROM '{0}'@'%'", "GRANT ALL ON app.* TO '{0}'@'%'"),
    1045: ("ALTER USER '{0}'@'%' IDENTIFIED BY 'second'", "ALTER USER '{0}'@'%' IDENTIFIED BY 'first'"),
    # 3118 on MySQL, 4151 on MariaDB.
    0: ("ALTER USER '{0}'@'%' ACCOUNT LOCK", "ALTER USER '{0}'@'%' ACCOUNT UNLOCK"),
}


@pytest.mark.parametrize("number", TROUBLES)
async def test_rejected_login_is_retried(source: Source, account: Account, server: Server, number: int) -> None:
    """A rejected login is retried after a refresh, until it succeeds."""
    harm, heal = (statement.format(account.name) for statement in TROUBLES[number])
    async with RotatingPool(source, db="app", maxsize=2, minsize=1) as pool, pool.acquire():
        await server.execute(harm)
        with pytest.raises(RotationFailed) as caught:
            await RotatingPool(source, db="app", start_deadline=1).__aenter__()
        assert (number or server.locked) == error_code(caught.value.__cause__)

        pending = asyncio.create_task(scalar(pool, "SELECT 1"))
        await eventually(lambda: source.refreshes_forced)
        assert not pending.done()
        await server.execute(heal)
        assert 1 == await pending
        assert 1 == pool.generation


async def test_rejected_login_fails_at_the_deadline(source: Source, account: Account) -> None:
    """A login that is rejected until `retry_deadline` fails with the server's own error."""
    async with RotatingPool(source, maxsize=2, minsize=1, retry_deadline=1) as pool, pool.acquire():
        await account.set_password("second")
        began = time.monotonic()
        with pytest.raises(aiomysql.OperationalError) as caught:
            await scalar(pool, "SELECT 1")
        assert 1045 == error_code(caught.value)
        assert 0.5 < time.monotonic() - began < 6


async def test_a_blocked_account_is_not_built_again(source: Source, account: Account, server: Server) -> None:
    """
    If the server blocks the account after too many wrong passwords, rebuilds stop and the current pool still serves.
    """
    async with account.blocked_after(3), RotatingPool(source, maxsize=2, minsize=1, min_gap=0.02) as pool:
        source.publish(DB_PASSWORD="wrong")
        await eventually(lambda: pool.status.last_error == f"OperationalError {server.blocked}")
        # The pool still refreshes, but makes no login while the values are unchanged.
        failed = await server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_connects'")
        refreshes_forced = source.refreshes_forced
        await eventually(lambda: source.refreshes_forced > refreshes_forced + 3)
        assert failed == await server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_connects'")
        # MariaDB rejects the third password as wrong; MySQL already answers that the account is blocked.
        assert (2 if isinstance(server, MySQL) else 3, "DEGRADED") == (pool.status.auth_failures, pool.state)
        assert f"{account.name}@127.0.0.1" == await scalar(pool, "SELECT USER()")

        # Correct values end the failure.
        await account.unblock()
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2)
        assert (0, None) == (pool.status.failures, pool.status.last_error)


async def test_a_blocked_account_is_not_retried(source: Source, account: Account, server: Server) -> None:
    """If the server blocks the account after too many wrong passwords, an acquire fails without a further login."""
    async with account.blocked_after(1), RotatingPool(source, maxsize=2, minsize=1) as pool, pool.acquire():
        for _ in range(2):
            with pytest.raises(aiomysql.OperationalError) as caught:
                await aiomysql.connect(host="127.0.0.1", port=server.port, user=account.name, password="wrong")
        assert server.blocked == error_code(caught.value)

        began = time.monotonic()
        with pytest.raises(aiomysql.OperationalError) as caught:
            await scalar(pool, "SELECT 1")
        assert server.blocked == error_code(caught.value)
        assert 1 > time.monotonic() - began
        assert 0 == source.refreshes_forced


async def test_too_many_connections_are_waited_out(source: Source, account: Account) -> None:
    """If the server allows no further connection, the acquire waits for one and does not refresh."""
    await account.alter("WITH MAX_USER_CONNECTIONS 1")
    async with RotatingPool(source, maxsize=2, minsize=1) as pool:
        async with pool.acquire():
            pending = asyncio.create_task(scalar(pool, "SELECT 1"))
            await asyncio.sleep(0.1)
            assert not pending.done()
        assert 1 == await pending
        assert 0 == source.refreshes_forced


async def test_wrong_password_does_not_replace_the_pool(source: Source, account: Account) -> None:
    """A new password that does not log in does not replace the current pool."""
    async with RotatingPool(source, maxsize=2) as pool:
        source.publish(DB_PASSWORD="garbage")
        await eventually(lambda: pool.state == "DEGRADED")
        assert 1 == await scalar(pool, "SELECT 1")
        assert 1 == pool.generation

        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2)
        assert "READY" == pool.state


# Swaps


async def test_a_transaction_outlives_a_swap(source: Source, account: Account, server: Server) -> None:
    """A transaction that is open during a password change commits on its own connection."""
    await server.execute(f"CREATE TABLE app.{account.name} (n INT)")
    async with RotatingPool(source, db="app", maxsize=2) as pool, pool.acquire() as connection:
        await connection.begin()
        async with connection.cursor() as cursor:
            await cursor.execute(f"INSERT INTO {account.name} VALUES (1)")
            await account.set_password("second")
            source.publish(DB_PASSWORD="second")
            await eventually(lambda: pool.generation == 2)
            assert 1 == await scalar(pool, "SELECT 1")
            await asyncio.sleep(0.1)
            await cursor.execute(f"INSERT INTO {account.name} VALUES (2)")
        await connection.commit()
        assert ((2,),) == await server.execute(f"SELECT COUNT(*) FROM app.{account.name}")
    await server.execute(f"DROP TABLE app.{account.name}")


async def test_retired_pool_closes_after_its_last_release(source: Source, account: Account) -> None:
    """After a swap the old pool closes all its connections as soon as none is in use."""
    async with RotatingPool(source, maxsize=3) as pool:
        async with pool.acquire():
            await account.set_password("second")
            source.publish(DB_PASSWORD="second")
            await eventually(lambda: pool.generation == 2)
            assert 6 == await account.connections()
        await eventually(lambda: "0 retiring" in repr(pool))
        await asyncio.sleep(0.05)
        assert 3 == await account.connections()


async def test_retired_pool_closes_with_com_quit(source: Source, account: Account, server: Server) -> None:
    """A retired pool sends COM_QUIT on each connection, so the server counts none as aborted."""
    aborted = await server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
    async with RotatingPool(source, maxsize=3) as pool:
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2)
    assert 0 == await account.remaining_connections()
    assert aborted == await server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")


async def test_drain_timeout_closes_connections(
    source: Source, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    """After *drain_timeout* the pool closes a connection of a retired generation that is in use, and no other one."""
    async with RotatingPool(source, maxsize=2, drain_timeout=0.1) as pool:
        async with pool.acquire() as connection:
            await account.set_password("second")
            source.publish(DB_PASSWORD="second")
            await eventually(lambda: pool.generation == 2 and "0 retiring" in repr(pool))
            assert connection.closed
            assert 1 == await scalar(pool, "SELECT 1")
        assert 1 == await scalar(pool, "SELECT 1")
        assert 1 == sum("closed under 1 users" in message for message in caplog.messages)


# Limits


async def test_no_more_than_maxsize_at_a_time(source: Source, account: Account) -> None:
    """With twelve tasks and `maxsize=3`, every task gets a connection and at most three have one at a time."""
    inside = most = 0
    async with RotatingPool(source, maxsize=3) as pool:

        async def work() -> None:
            """Hold a connection for 10 ms."""
            nonlocal inside, most
            async with pool.acquire() as connection, connection.cursor() as cursor:
                inside += 1
                most = max(most, inside)
                await cursor.execute("SELECT SLEEP(0.01)")
                inside -= 1

        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(work())
        assert 3 == most
        assert 3 == await account.connections()


async def _in_a_transaction(connection: aiomysql.Connection) -> None:
    """Leave a transaction open."""
    await connection.begin()


async def _closed(connection: aiomysql.Connection) -> None:
    """Close the connection."""
    connection.close()


@pytest.mark.parametrize("spoil", [_in_a_transaction, _closed])
async def test_waiters_get_a_connection_after_a_bad_release(source: Source, spoil: Callable[..., Any]) -> None:
    """
    A release of a closed connection, or inside a transaction, still wakes the waiters: aiomysql does not wake them.
    """
    async with RotatingPool(source, maxsize=1) as pool:
        async with pool.acquire() as connection:
            tasks = [asyncio.create_task(scalar(pool, "SELECT 1")) for _ in range(3)]
            await asyncio.sleep(0.01)
            await spoil(connection)
        async with asyncio.timeout(5):
            assert [1, 1, 1] == await asyncio.gather(*tasks)


@pytest.mark.parametrize("turns", range(6))
async def test_cancelled_waiter_does_not_lose_the_wakeup(source: Source, turns: int) -> None:
    """If a waiter is cancelled while a connection is released, the next waiter gets it: aiomysql loses that wake-up."""
    async with RotatingPool(source, maxsize=1) as pool:
        async with pool.acquire():
            first, second = (asyncio.create_task(scalar(pool, "SELECT 1")) for _ in range(2))
            await asyncio.sleep(0.01)
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(5):
            assert 1 == await second
            assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ in {int, asyncio.CancelledError}


async def test_a_killed_connection_is_replaced(source: Source, server: Server) -> None:
    """A connection that the server closed while it was idle is not lent again."""
    async with RotatingPool(source, maxsize=1) as pool:
        number = await scalar(pool, "SELECT CONNECTION_ID()")
        await server.execute(f"KILL {number}")
        await asyncio.sleep(0.05)
        assert number != await scalar(pool, "SELECT CONNECTION_ID()")


# Cancellation and close


# aiomysql leaves a connection whose login was cancelled to the garbage collector, which closes it with a warning.
unclosed = pytest.mark.filterwarnings(
    "ignore:Unclosed connection:ResourceWarning",
    "ignore:Exception ignored in.*Connection.__del__:pytest.PytestUnraisableExceptionWarning",
)


@unclosed
async def test_cancelled_start_leaves_no_connection(source: Source, account: Account) -> None:
    """A first build closes its connections, wherever it is cancelled."""
    for turns in range(0, 120, 3):
        pool = RotatingPool(source, maxsize=3)
        entering = asyncio.create_task(pool.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0 if turns % 2 else 0.00005)
        entering.cancel()
        await asyncio.wait({entering})
        await pool.aclose()
    assert 0 == await account.remaining_connections()


@unclosed
async def test_close_during_a_build_leaves_no_connection(source: Source, account: Account) -> None:
    """A later build closes its connections, wherever it is when the pool closes."""
    for turns in range(0, 120, 3):
        source.publish(DB_PASSWORD="first")
        async with RotatingPool(source, maxsize=3, minsize=turns % 4) as pool:
            # Both addresses log in, but they differ for the pool, so it builds a new generation.
            source.publish(DB_PASSWORD="first", DB_URL=source.stored["DB_URL"].replace("127.0.0.1", "localhost"))
            for _ in range(turns):
                await asyncio.sleep(0 if turns % 2 else 0.00005)
            assert pool.generation in {1, 2}
        source.publish(DB_URL=source.stored["DB_URL"].replace("localhost", "127.0.0.1"))
    assert 0 == await account.remaining_connections()


@unclosed
async def test_cancelled_users_leave_nothing(source: Source, account: Account) -> None:
    """Wherever an acquire is cancelled, all slots become free again and the connections still work."""
    async with RotatingPool(source, maxsize=2, minsize=1) as pool:
        for turns in range(60):
            tasks = [asyncio.create_task(scalar(pool, "SELECT SLEEP(0.001)")) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0 if turns % 2 else 0.00005)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [] == [end for end in ends if end != 0 and not isinstance(end, asyncio.CancelledError)]
        async with asyncio.timeout(5), AsyncExitStack() as stack:
            for _ in range(2):
                connection = await stack.enter_async_context(pool.acquire())
                await connection.ping(reconnect=False)
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2 and "0 retiring" in repr(pool))
    assert 0 == await account.remaining_connections()


async def test_closing_leaves_no_connection(source: Source, account: Account) -> None:
    """After the block the server has no connection of the pool."""
    async with RotatingPool(source, maxsize=5) as pool:
        await scalar(pool, "SELECT 1")
        assert 5 == await account.connections()
    assert 0 == await account.remaining_connections()


async def test_waiters_fail_when_the_pool_closes(source: Source) -> None:
    """`aclose()` lets a block finish, and fails the tasks that wait for a connection."""
    pool = RotatingPool(source, maxsize=1)
    async with pool, pool.acquire() as connection:
        waiting = asyncio.create_task(scalar(pool, "SELECT 1"))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(pool.aclose())
        await asyncio.sleep(0.05)
        await connection.ping(reconnect=False)
        assert not closing.done()
    await closing
    with pytest.raises(RotationFailed, match="not open"):
        await waiting


async def test_a_reset_of_all_connections(relay: Relay, source: Source, account: Account) -> None:
    """After the network has reset every idle connection, the pool lends new ones and closes without an error."""
    source.publish(DB_URL=relay.address)
    async with RotatingPool(source, maxsize=3) as pool:
        relay.cut()
        await asyncio.sleep(0.05)
        assert 1 == await scalar(pool, "SELECT 1")
    assert 0 == await account.remaining_connections()


@pytest.mark.parametrize("most", [1, 3])
async def test_an_old_pool_whose_connections_were_reset(
    relay: Relay, source: Source, account: Account, caplog: pytest.LogCaptureFixture, most: int
) -> None:
    """Connections that are already dead do not stop a swap from closing the others, and cause no warning."""
    source.publish(DB_URL=relay.address)
    async with RotatingPool(source, maxsize=3) as pool:
        relay.cut(most)
        await asyncio.sleep(0.05)
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2 and "0 retiring" in repr(pool))
        await asyncio.sleep(0.05)
        there = await account.connections()
    # Collect now, so that a ResourceWarning fails this test and not another one.
    gc.collect()
    assert 3 == there
    assert [] == [record.message for record in caplog.records if record.levelname == "WARNING"]


async def test_a_hanging_login_ends_at_the_deadline(source: Source, server: Server, account: Account) -> None:
    """If a server accepts a login and never answers, the acquire ends at its deadline and the pool can close."""
    silent = asyncio.Event()
    hanging: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if silent.is_set():
            task = asyncio.current_task()
            assert task
            hanging.add(task)
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            writer.close()
            return
        upstream, downstream = await asyncio.open_connection("127.0.0.1", server.port)

        async def pump(source_: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source_.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, downstream), pump(upstream, writer))

    listening = await asyncio.start_server(relay, "127.0.0.1", 0)
    source.publish(DB_URL=f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", DB_USER=account.name)
    async with RotatingPool(source, maxsize=3, minsize=1, retry_deadline=0.5) as pool:
        async with pool.acquire():
            silent.set()
            outside = asyncio.create_task(scalar(pool, "SELECT 1"))
            await eventually(lambda: hanging)
        with pytest.raises(TimeoutError):
            await outside
    for task in hanging:
        task.cancel()
    listening.close()
    await listening.wait_closed()
