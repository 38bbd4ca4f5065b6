"""`RotatingEngine` on MariaDB and PostgreSQL: one engine whose connections follow the keys, for each driver."""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy import AsyncAdaptedQueuePool, NullPool, StaticPool, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from aiossmenv import RotationFailed
from aiossmenv.sqlalchemy import RotatingEngine
from embedded import MariaDB
from postgres import PostgreSQL
from rotations import Account, AnyServer, Source, new_account
from timing import eventually, our_tasks

DRIVERS = ["mysql+aiomysql", "mysql+asyncmy", "postgresql+asyncpg", "postgresql+psycopg"]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Give each driver."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def server(driver: str, request: pytest.FixtureRequest) -> AnyServer:
    """Give the server of the driver."""
    name = "postgres_server" if driver.startswith("postgresql") else "mariadb_server"
    return request.getfixturevalue(name)  # type: ignore[no-any-return] # pytest does not know its type


@pytest.fixture
async def account(server: AnyServer) -> AsyncIterator[Account]:
    """Give a user of the test, with the password "first"; the test leaves neither connection nor task."""
    async with new_account(server) as account:
        yield account
        assert 0 == await account.remaining_connections()
        assert set() == await our_tasks()


@pytest.fixture
def source(server: AnyServer, account: Account) -> Source:
    """Give the account's credentials, in memory."""
    return Source(DB_URL=server.address, DB_USER=account.name, DB_PASSWORD="first")


def opened(source: Source, driver: str, **options: Any) -> RotatingEngine:
    """Make an engine with the database `app`."""
    return RotatingEngine(source, f"{driver}:///app", min_gap=0.02, **options)


async def session_of(engine: AsyncEngine, driver: str) -> int:
    """Return the number of the server's session of one connection."""
    function = "pg_backend_pid" if driver.startswith("postgresql") else "connection_id"
    async with engine.connect() as connection:
        return int((await connection.execute(text(f"SELECT {function}()"))).scalar_one())


def follows(engine: RotatingEngine, generation: int) -> bool:
    """Return whether so many sets of credentials have been current."""
    return engine.generation == generation


async def test_one_engine_for_the_life_of_an_app(source: Source, account: Account, driver: str) -> None:
    """Sessions made before the first login work after each rotation, on the same engine."""
    engine = opened(source, driver)
    sessions = async_sessionmaker(engine)
    async with engine:
        for number in range(3):
            async with sessions.begin() as session:
                assert 1 == (await session.execute(text("SELECT 1"))).scalar_one()
            await account.set_password(f"p{number}")
            source.publish(DB_PASSWORD=f"p{number}")
            await eventually(partial(follows, engine, number + 2))
        assert isinstance(engine, AsyncEngine)
        assert ("READY", 4) == (engine.state, engine.generation)


async def test_idle_connections_are_replaced_and_those_in_use_finish(
    source: Source, account: Account, driver: str
) -> None:
    """A swap replaces idle connections before they are needed, and leaves a transaction that is open alone."""
    async with opened(source, driver, pool_size=3, max_overflow=0) as engine:
        async with engine.connect(), engine.connect(), engine.connect():
            pass
        number = text(f"SELECT {'pg_backend_pid' if driver.startswith('postgresql') else 'connection_id'}()")
        async with engine.begin() as connection:
            session = (await connection.execute(number)).scalar_one()
            await account.set_password("second")
            source.publish(DB_PASSWORD="second")
            await eventually(lambda: engine._renewal and engine._renewal.done())
            assert session == (await connection.execute(number)).scalar_one()
        # Those that were idle have logged in already, so another password in the server does not matter to them.
        await account.set_password("third")
        source.store(DB_PASSWORD="third")
        async with engine.connect(), engine.connect():
            assert 0 == engine.status.auth_failures
            # The one that was in use is replaced when it is needed, with the credentials that are valid then.
            assert session != await session_of(engine, driver)
            assert 1 == engine.status.auth_failures


async def test_a_rejected_login_reads_the_credentials_again(source: Source, account: Account, driver: str) -> None:
    """Several tasks that need a connection after a rotation get one, for one rejected login and one refresh."""
    async with opened(source, driver, pool_size=5) as engine, engine.connect():
        await account.set_password("second")
        source.store(DB_PASSWORD="second")
        assert [1] * 4 == [
            (await answer).scalar_one() for answer in await asyncio.gather(*(in_a_connection(engine) for _ in range(4)))
        ]
        assert 2 == engine.generation
        assert 1 == engine.status.auth_failures


async def in_a_connection(engine: AsyncEngine) -> Any:
    """Run a query, and return a coroutine that gives its result."""
    async with engine.connect() as connection:
        result = await connection.execute(text("SELECT 1"))

    async def given() -> Any:
        return result

    return given()


async def test_a_pre_ping_a_recycled_connection_and_no_pool(
    source: Source, account: Account, server: AnyServer, driver: str
) -> None:
    """Whatever replaces a connection logs in with the newest credentials."""
    for options in ({"pool_pre_ping": True}, {"pool_recycle": 0}, {"poolclass": NullPool}, {"echo": True}):
        await account.set_password("first")
        source.publish(DB_PASSWORD="first")
        async with opened(source, driver, **options) as engine:
            first = await session_of(engine, driver)
            await account.set_password("second")
            source.store(DB_PASSWORD="second")
            await account.kill()
            await asyncio.sleep(0.02)
            assert first != await session_of(engine, driver)
            assert 2 == engine.generation
    assert server.address


async def test_a_statement_is_never_tried_again(source: Source, driver: str) -> None:
    """An error of a statement is raised as SQLAlchemy raises it, once."""
    async with opened(source, driver) as engine:
        asked: list[str] = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
        with pytest.raises(DBAPIError):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT nothing_of_this_name"))
        assert ["SELECT nothing_of_this_name"] == asked


async def test_what_does_not_heal_is_the_drivers_error(source: Source, account: Account, driver: str) -> None:
    """After the deadline SQLAlchemy's own error is raised, and no frame of the chain shows the password."""
    async with opened(source, driver, retry_deadline=0.3) as engine, engine.connect():
        source.publish(DB_PASSWORD="stored-wrong-once")
        await account.set_password("second")
        began = time.monotonic()
        # SQLAlchemy 2.0 passes on errors of asyncpg as they are.
        with pytest.raises((DBAPIError, asyncpg.InvalidPasswordError)) as caught:
            async with engine.connect():
                pass
        assert 0.1 < time.monotonic() - began < 3
    error: BaseException | None = caught.value
    while error:
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        shown = "".join(trace.format())
        assert "stored-wrong-once" not in shown
        assert "'first'" not in shown
        error = error.__cause__ or error.__context__


async def test_no_credentials_are_shown(
    source: Source, account: Account, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """URL, repr, status, echo and the log of the pool have neither user nor password."""
    with caplog.at_level(logging.DEBUG):
        async with opened(source, driver, echo="debug", echo_pool="debug") as engine:
            await session_of(engine, driver)
            things = (engine, engine.sync_engine, engine.url, engine.pool.status(), engine.status)
            shown = " ".join(f"{thing!r} {thing}" for thing in things)
    assert "first" not in shown + caplog.text
    assert account.name not in shown
    assert f"{driver}:///app" == str(engine.url)


@pytest.mark.parametrize("form", ["url", "secret", "port"])
async def test_forms_of_credentials(account: Account, server: AnyServer, driver: str, form: str) -> None:
    """A URL, a JSON secret of AWS, and a port and a database in keys of their own all lead to the server."""
    scheme = "postgresql" if isinstance(server, PostgreSQL) else "mysql"
    host, _, port = server.address.rpartition(":")
    secret = {"username": account.name, "password": "first", "host": host, "port": int(port), "dbname": "app"}
    keys, values = {
        "url": ({"dsn": "DSN"}, {"DSN": f"{scheme}://{account.name}:first@{server.address}/app"}),
        "secret": ({"dsn": "DSN"}, {"DSN": json.dumps(secret | {"engine": scheme.removesuffix("ql")})}),
        "port": (
            {"host": "H", "port": "P", "user": "U", "password": "W", "database": "D"},
            {"H": host, "P": port, "U": account.name, "W": "first", "D": "app"},
        ),
    }[form]
    if form == "secret" and scheme == "mysql":
        values["DSN"] = json.dumps(secret | {"engine": "mariadb"})
    async with RotatingEngine(Source(**values), f"{driver}://", keys) as engine, engine.connect() as connection:
        query = "SELECT current_database()" if scheme == "postgresql" else "SELECT database()"
        assert "app" == (await connection.execute(text(query))).scalar_one()


async def test_the_secret_of_another_kind_of_database(driver: str) -> None:
    """A JSON secret whose engine is not the driver's is refused by its key."""
    other = "mysql" if driver.startswith("postgresql") else "postgres"
    secret = json.dumps({"username": "u", "password": "p", "host": "localhost", "engine": other})
    with pytest.raises(RotationFailed, match="DSN is the secret of another kind of database"):
        async with RotatingEngine(Source(DSN=secret), f"{driver}://", {"dsn": "DSN"}, start_deadline=1):
            pass


async def test_without_a_host(driver: str) -> None:
    """Drivers connect to this machine where there is no host; the engine refuses."""
    with pytest.raises(RotationFailed, match="U, W has no host"):
        async with RotatingEngine(Source(U="u", W="w"), f"{driver}://", {"user": "U", "password": "W"}):
            pass


@pytest.mark.parametrize(
    ("options", "text_of"),
    [
        ({"url": "mysql://"}, "the driver mysql is not one of"),
        ({"url": "sqlite+aiosqlite://"}, "the driver sqlite.aiosqlite is not one of"),
        ({"url": "mysql+aiomysql://user@host/app"}, "holds credentials"),
        ({"url": "hidden-one"}, "cannot be read"),
        ({"url": "mysql+aiomysql://host:hidden-one/app"}, "cannot be read"),
        ({"url": "mysql+aiomysql://host/app?password=hidden-one"}, "holds credentials"),
        ({"keys": {"host": "A", "db": "B"}}, "keys has no option db"),
        ({"poolclass": StaticPool}, "poolclass= is AsyncAdaptedQueuePool or NullPool"),
        ({"creator": print}, "creator= cannot be used"),
        ({"async_creator": print}, "async_creator= cannot be used"),
        ({"pool": object()}, "pool= cannot be used"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], text_of: str) -> None:
    """An option that would go round the credentials is refused at once, with the reason, and quotes no password."""
    arguments = {"url": "mysql+aiomysql:///app"} | options
    with pytest.raises(ValueError, match=text_of) as caught:
        RotatingEngine(Source(A="a", B="b"), **arguments)
    assert "hidden-one" not in str(caught.value)


async def test_closing_waits_for_connections(source: Source, driver: str) -> None:
    """`aclose()` waits for a connection that is in use, and afterwards nothing logs in."""
    async with opened(source, driver) as engine:
        connection = await engine.connect()
        closing = asyncio.create_task(engine.aclose())
        await asyncio.sleep(0.05)
        assert not closing.done()
        assert 1 == (await connection.execute(text("SELECT 1"))).scalar_one()
        await connection.close()
        await closing
        with pytest.raises(RotationFailed, match="is not open"):
            async with engine.connect():
                pass


async def test_closing_ends_with_its_deadline(source: Source, driver: str) -> None:
    """A connection that never comes back does not hold up `aclose()` for longer than `drain_timeout`."""
    async with opened(source, driver, drain_timeout=0.1) as engine:
        connection = await engine.connect()
        await engine.aclose()
        await connection.invalidate()
        await connection.close()


async def test_another_loop_is_refused(source: Source, driver: str) -> None:
    """A login on another event loop is refused at once, with the remedy."""
    async with opened(source, driver, poolclass=NullPool) as engine:

        async def elsewhere() -> None:
            async with engine.connect():
                pass

        with pytest.raises(RotationFailed, match="another event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())


async def test_logins_that_are_cancelled_leave_nothing(source: Source, account: Account, driver: str) -> None:
    """Cancelling tasks anywhere in a login or a query leaves no connection and takes no place of the pool."""
    async with opened(source, driver, pool_size=2, max_overflow=0, pool_timeout=5) as engine:
        for number in range(40):
            await account.set_password(f"p{number}") if number % 10 == 9 else None
            source.store(DB_PASSWORD=f"p{number}") if number % 10 == 9 else None
            tasks = [asyncio.create_task(in_a_connection(engine)) for _ in range(3)]
            await asyncio.sleep(number / 8000)
            for task in tasks:
                task.cancel()
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                if asyncio.iscoroutine(found):
                    found.close()
        async with engine.connect(), engine.connect():
            pass


@pytest.mark.parametrize("driver", ["mysql+aiomysql", "mysql+asyncmy"])
async def test_a_server_that_became_a_replica(source: Source, server: AnyServer, driver: str) -> None:
    """A server that refuses writes loses all connections, so that the next login goes where the host leads now."""
    assert isinstance(server, MariaDB)
    async with opened(source, driver, pool_size=2) as engine:
        async with engine.connect(), engine.connect():
            pass
        before = await session_of(engine, driver)
        with pytest.raises(OperationalError):
            async with engine.connect() as connection:
                await connection.execute(text("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290"))
        sessions = {await session_of(engine, driver) for _ in range(3)}
        assert before not in sessions


@pytest.mark.parametrize("driver", ["mysql+aiomysql"])
def test_the_pool_is_sqlalchemys(source: Source, driver: str) -> None:
    """Options of the pool work as SQLAlchemy's."""
    engine = opened(source, driver, pool_size=7)
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    assert 7 == engine.pool.size()
