"""`RotatingEngine` on MariaDB and PostgreSQL: one engine whose connections follow the keys, for each driver."""

import ast
import asyncio
import gc
import hashlib
import inspect
import json
import logging
import re
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator
from functools import partial
from textwrap import dedent
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import AsyncAdaptedQueuePool, NullPool, StaticPool, String, TypeDecorator, event, literal, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from aiossmenv import RotationFailed
from aiossmenv import sqlalchemy as our_module
from aiossmenv.sqlalchemy import RotatingEngine
from certificates import Authority
from embedded import MariaDB, MySQL, Store
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


@pytest.mark.parametrize("driver", ["postgresql+asyncpg"])
async def test_example_of_the_module(ssm: Store, server: AnyServer, account: Account, driver: str) -> None:
    """The example in the module's docstring works unchanged."""
    example = re.search(r"^    .*\n(?:    .*\n|\n)+", our_module.__doc__ or "", re.MULTILINE)
    assert example
    assert driver in example[0]
    for key, value in {"DB_URL": server.address, "DB_USER": account.name, "DB_PASSWORD": "first"}.items():
        await asyncio.to_thread(ssm.put, f"/FAKEBOOK/TEST/{key}", value)
    # A user's own schema comes before others.
    await server.execute(f"CREATE SCHEMA {account.name} CREATE TABLE visits (n INT)")
    await server.execute(f"GRANT ALL ON SCHEMA {account.name} TO PUBLIC")
    await server.execute(f"GRANT ALL ON {account.name}.visits TO PUBLIC")

    code = compile(dedent(example[0]), "docstring", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, {})

    assert [(1,)] == await server.execute(f"SELECT n FROM {account.name}.visits")
    await server.execute(f"DROP SCHEMA {account.name} CASCADE")


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


async def test_an_error_of_a_users_own_type(source: Source, driver: str) -> None:
    """An error that a user's own type raises is raised as SQLAlchemy raises it, whatever it holds."""

    class Refusing(TypeDecorator[str]):
        impl = String
        cache_ok = True

        def process_bind_param(self, value: str | None, _: object) -> str:
            raise ValueError({"not": "hashable"}, value)

    async with opened(source, driver) as engine:
        with pytest.raises(StatementError, match="not.*hashable"):
            async with engine.connect() as connection:
                await connection.execute(select(literal("x", Refusing())))


async def test_listeners_of_a_user(source: Source, account: Account, driver: str) -> None:
    """A `do_connect` listener is called for each login, that of new credentials too; it may change them, or log in."""
    source.publish(DB_USER="another")
    engine = opened(source, driver)
    made: list[Any] = []

    @event.listens_for(engine.sync_engine, "do_connect")
    def correct(_: object, __: object, ___: object, options: dict[str, Any]) -> None:
        options["user"] = account.name

    @event.listens_for(engine.sync_engine, "do_connect")
    def log_in(dialect: Any, _: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        made.append(dialect.connect(*arguments, **options))
        return made[-1]

    async with engine:
        async with engine.connect(), engine.connect():
            assert 2 == len(made)
            await account.set_password("second")
            source.publish(DB_PASSWORD="second")
            await eventually(lambda: engine._renewal and engine._renewal.done())
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            assert raw.dbapi_connection in made[2:]


async def test_a_listener_that_was_there_first(
    source: Source, account: Account, server: AnyServer, driver: str
) -> None:
    """A connection that an earlier listener makes is SQLAlchemy's to manage, and is not replaced."""
    host, _, port = server.address.rpartition(":")
    async with opened(source, driver) as engine:

        @event.listens_for(engine.sync_engine, "do_connect", insert=True)
        def log_in(dialect: Any, _: object, arguments: list[Any], options: dict[str, Any]) -> Any:
            own = {"host": host, "port": int(port), "user": f"{account.name}", "password": "first"}
            return dialect.connect(*arguments, **options | own)

        before = await session_of(engine, driver)
        source.publish(DB_USER="another")
        await eventually(lambda: engine.generation == 2 or engine.status.failures)
        assert before == await session_of(engine, driver)


async def test_the_connection_that_proved_has_ended(source: Source, account: Account, driver: str) -> None:
    """If the server ended the connection that proved the credentials, it is closed, and another login follows."""
    async with opened(source, driver) as engine:
        await account.kill()
        await asyncio.sleep(0.02)
        await session_of(engine, driver)
        gc.collect()  # an open one would warn


async def test_what_does_not_heal_is_the_drivers_error(source: Source, account: Account, driver: str) -> None:
    """After the deadline SQLAlchemy's own error is raised, and no frame of the chain shows the password."""
    async with opened(source, driver, retry_deadline=2) as engine, engine.connect():
        source.publish(DB_PASSWORD="stored-wrong-once")
        await account.set_password("second")
        began = time.monotonic()
        # SQLAlchemy 2.0 passes on errors of asyncpg as they are.
        with pytest.raises((DBAPIError, asyncpg.InvalidPasswordError)) as caught:
            async with engine.connect():
                pass
        assert 1 < time.monotonic() - began < 8
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


async def test_where_the_server_is(account: Account, server: AnyServer, driver: str) -> None:
    """Options of the driver may say where the server is, so that the `Env` holds only user and password."""
    keys, source = {"user": "U", "password": "W"}, Source(U=account.name, W="first")
    places: list[dict[str, Any]] = [{"host": "127.0.0.1", "port": server.port}]
    if isinstance(server, MariaDB):
        places.append({"unix_socket": server.socket})
    for options in places:
        async with RotatingEngine(source, f"{driver}:///app", keys, connect_args=options) as engine:
            assert await session_of(engine, driver)


async def test_options_of_a_url(account: Account, server: AnyServer, driver: str) -> None:
    """The option that a URL in the `Env` may have reaches the server: `charset`, or `sslmode`."""
    name = "sslmode" if isinstance(server, PostgreSQL) else "charset"
    scheme = "postgres" if isinstance(server, PostgreSQL) else "mysql"
    url = f"{scheme}://{account.name}:first@{server.address}/app?{name}="
    first, second = ("disable", "require") if isinstance(server, PostgreSQL) else ("latin1", "utf8mb4")
    source = Source(DSN=url + first)
    async with RotatingEngine(source, f"{driver}://", {"dsn": "DSN"}) as engine:
        if name == "charset":
            async with engine.connect() as connection:
                assert "latin1" == (await connection.execute(text("SELECT @@character_set_client"))).scalar_one()
        source.publish(DSN=url + second)
        # The server has no TLS.
        await eventually(lambda: engine.state == ("DEGRADED" if name == "sslmode" else "READY"))
        await eventually(lambda: name == "sslmode" or engine.generation == 2)


@pytest.mark.parametrize("form", ["keys", "url"])
async def test_any_password(account: Account, server: AnyServer, driver: str, form: str) -> None:
    """A password may have any character, ASCII or not."""
    plain = "p@s/s:w#r d%21?&=+[łé😀]"
    await account.set_password(plain)
    scheme = "postgresql" if isinstance(server, PostgreSQL) else "mysql"
    url = f"{scheme}://{account.name}:{quote(plain, safe='')}@{server.address}/app"
    source, keys = Source(DB_URL=server.address, DB_USER=account.name, DB_PASSWORD=plain), our_module._KEYS
    if form == "url":
        source, keys = Source(DSN=url), {"dsn": "DSN"}
    async with RotatingEngine(source, f"{driver}:///app", keys) as engine:
        assert await session_of(engine, driver)


async def test_a_password_that_cannot_be_encoded(source: Source, driver: str) -> None:
    """A character that is none is an error that shows nothing of the password."""
    source.publish(DB_PASSWORD="hidden-one\ud800")
    with pytest.raises(RotationFailed) as caught:
        async with opened(source, driver, start_deadline=0.2):
            pass
    error: BaseException | None = caught.value
    while error:
        assert "hidden-one" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


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


@pytest.mark.parametrize("options", [{"poolclass": NullPool}, {}, {"pool_pre_ping": True}])
async def test_another_loop_is_refused(source: Source, driver: str, options: dict[str, Any]) -> None:
    """On another event loop the engine neither logs in nor lends an idle connection, and leaves both as they are."""
    async with opened(source, driver, **options) as engine:
        before = await session_of(engine, driver)

        async def elsewhere() -> None:
            async with engine.connect():
                pass

        with pytest.raises(RotationFailed, match="another event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert (before == await session_of(engine, driver)) == ("poolclass" not in options)


_FORKING = """
    import asyncio, os, sys
    from sqlalchemy import text
    from aiossmenv import RotationFailed
    from aiossmenv.sqlalchemy import RotatingEngine
    from rotations import Source

    async def main(address, user, driver):
        source = Source(DB_URL=address, DB_USER=user, DB_PASSWORD="first")
        async with RotatingEngine(source, f"{driver}:///app") as engine:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

            async def in_child():
                try:
                    async with engine.connect():
                        print("lent")
                except RotationFailed as error:
                    print(error.args[0].partition(" retiring> ")[2], flush=True)
                await engine.aclose()

            def fork():
                if not (child := os.fork()):
                    asyncio.run(in_child())
                    os._exit(0)
                os.waitpid(child, 0)

            await asyncio.to_thread(fork)
            async with engine.connect() as connection:
                print((await connection.execute(text("SELECT 2"))).scalar_one(), len(engine._records))

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("driver", ["postgresql+psycopg"])
async def test_a_child_process_is_refused(account: Account, server: AnyServer, driver: str) -> None:
    """A forked child neither uses nor closes its parent's connections."""
    run = await asyncio.to_thread(
        subprocess.run,
        # From 3.12 on Python warns of a fork while there are threads.
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            dedent(_FORKING),
            server.address,
            account.name,
            driver,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert "" == run.stderr
    assert ["was opened before a fork, and its connections belong to the parent process", "2 1"] == (
        run.stdout.splitlines()
    )


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
    """Options of the pool work as SQLAlchemy's, and its logger has SQLAlchemy's name."""
    engine = opened(source, driver, pool_size=7)
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    assert 7 == engine.pool.size()
    assert isinstance(engine.pool.logger, logging.Logger)
    assert "sqlalchemy.pool.impl.AsyncAdaptedQueuePool" == engine.pool.logger.name


def test_private_names_of_sqlalchemy_are_known() -> None:
    """The one private method of SQLAlchemy that we override has the source of releases that were reviewed: 2.0, 2.1."""
    sources = [inspect.getsource(pool._do_get) for pool in (AsyncAdaptedQueuePool, NullPool)]
    assert ["765070dd194a6c65", "e584d65ea22cce93"] == [
        hashlib.sha256(source.encode()).hexdigest()[:16] for source in sources
    ]


@pytest.mark.parametrize("way", ["TLS", "RSA"])
@pytest.mark.parametrize("driver", ["mysql+aiomysql", "mysql+asyncmy"])
async def test_mysql(mysql_server: MySQL, authority: Authority, driver: str, way: str) -> None:
    """On MySQL, whose logins are `caching_sha2_password`, the engine follows too, over TLS and without."""
    options: dict[str, Any] = {"poolclass": NullPool}
    if way == "TLS":
        certificate = authority.issue()
        for name, value in {"ca": authority.bundle, "cert": certificate, "key": certificate}.items():
            await mysql_server.execute(f"SET GLOBAL ssl_{name} = '{value}'")
        # It offers TLS from now on, which clients use only if they are told to.
        await mysql_server.execute("ALTER INSTANCE RELOAD TLS")
        options["connect_args"] = {"ssl": ssl.create_default_context(cafile=authority.bundle)}
    async with new_account(mysql_server) as account:
        source = Source(DB_URL=mysql_server.address, DB_USER=account.name, DB_PASSWORD="first")
        async with opened(source, driver, **options) as engine:
            for password in ("second", "third"):
                # The connection that proved the credentials.
                assert await session_of(engine, driver)
                await account.set_password(password)
                source.store(DB_PASSWORD=password)
                async with engine.connect() as connection:
                    name, version = (await connection.execute(text("SHOW STATUS LIKE 'Ssl_version'"))).one()
                    assert ("Ssl_version", "TLSv1.3" if way == "TLS" else "") == (name, version)
            assert (3, 2) == (engine.generation, engine.status.auth_failures)
        assert 0 == await account.remaining_connections()
