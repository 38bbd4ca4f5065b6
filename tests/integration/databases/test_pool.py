"""`RotatingPool` on a real server: use, keys, one parameter, start."""

import ast
import asyncio
import re
import ssl
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import quote

import aiomysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aiossmenv import RotationFailed, load_env, mysql
from aiossmenv.mysql import RotatingPool
from embedded import MySQL, Server, Store, free_port, mariadb
from embedded import mysql as mysql_server
from relay import Relay
from rotations import Account, Source, error_code, scalar
from timing import eventually

# Use


async def test_acquire_and_execute(source: Source, account: Account) -> None:
    """A connection of the pool is logged in as the user of the keys."""
    async with RotatingPool(source, maxsize=2) as pool:
        assert f"{account.name}@127.0.0.1" == await scalar(pool, "SELECT USER()")
        assert (1, "READY") == (pool.generation, pool.state)


async def test_example_of_the_module(ssm: Store, server: Server, account: Account) -> None:
    """The example in the module's docstring works unchanged."""
    example = re.search(r"(?:^    .*\n)+", mysql.__doc__ or "", re.MULTILINE)
    assert example
    for key, value in {"DB_URL": server.address, "DB_USER": account.name, "DB_PASSWORD": "first"}.items():
        await asyncio.to_thread(ssm.put, f"/FAKEBOOK/TEST/{key}", value)
    await server.execute("CREATE TABLE app.visits (n INT)")

    code = compile(dedent(example[0]), "docstring", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, {"load_env": load_env, "RotatingPool": RotatingPool})

    assert ((1,),) == await server.execute("SELECT n FROM app.visits")
    await server.execute("DROP TABLE app.visits")


async def test_a_cursor_for_one_statement(source: Source) -> None:
    """`cursor()` lends a cursor of the given class, and releases its connection at the end of the block."""
    async with RotatingPool(source, maxsize=1) as pool:
        for _ in range(3):
            async with pool.cursor() as cursor:
                await cursor.execute("SELECT 6 * 7")
                assert (42,) == await cursor.fetchone()
            async with pool.cursor(aiomysql.DictCursor) as cursor:
                await cursor.execute("SELECT 6 * 7 AS n")
                assert {"n": 42} == await cursor.fetchone()
        with pytest.raises(aiomysql.ProgrammingError):
            async with pool.cursor() as cursor:
                await cursor.execute("SELEKT")
        assert 1 == await scalar(pool, "SELECT 1")


async def test_a_real_env(ssm: Store, server: Server, account: Account) -> None:
    """With an `Env` that rarely refreshes, a rejected login forces the refresh that reads the new password."""
    for key, value in {"DB_URL": server.address, "DB_USER": account.name, "DB_PASSWORD": "first"}.items():
        await asyncio.to_thread(ssm.put, f"/FAKEBOOK/TEST/{key}", value)
    async with (
        load_env("/FAKEBOOK/TEST/", ttl=3600) as env,
        RotatingPool(env, maxsize=2, minsize=1) as pool,
        pool.acquire(),
    ):
        await account.set_password("second")
        await asyncio.to_thread(ssm.put, "/FAKEBOOK/TEST/DB_PASSWORD", "second")

        assert 42 == await scalar(pool, "SELECT 6 * 7")
        assert 2 == pool.generation


@pytest.mark.parametrize(("options", "expected"), [({}, True), ({"autocommit": False}, False)])
async def test_autocommit_is_on_by_default(source: Source, options: dict[str, Any], *, expected: bool) -> None:
    """By default a connection commits each statement."""
    async with RotatingPool(source, maxsize=1, **options) as pool, pool.acquire() as connection:
        assert expected is connection.get_autocommit()


async def test_options_go_to_aiomysql(source: Source) -> None:
    """Options that are not keys are passed to aiomysql."""
    async with (
        RotatingPool(source, maxsize=1, db="app", cursorclass=aiomysql.DictCursor) as pool,
        pool.acquire() as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute("SELECT DATABASE() AS name")
        assert {"name": "app"} == await cursor.fetchone()


async def test_tls(source: Source, server: Server, tmp_path: Path) -> None:
    """
    A TLS context reaches the server: connections are encrypted, also after a swap, and an unknown certificate is
    rejected.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "database")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    (tmp_path / "certificate").write_bytes(certificate.public_bytes(pem))
    # The server may run as another user, so the directory must be readable for all.
    tmp_path.chmod(0o755)

    another = mysql_server if isinstance(server, MySQL) else mariadb
    async with another(f"--ssl-cert={tmp_path}/certificate", f"--ssl-key={tmp_path}/key") as secured:
        await secured.set_user("tls", "first")
        source.publish(DB_URL=secured.address, DB_USER="tls")
        trusting = ssl.create_default_context(cafile=tmp_path / "certificate")
        async with RotatingPool(source, maxsize=2, ssl=trusting) as pool:
            for generation, password in enumerate(("first", "second"), 1):
                await secured.set_user("tls", password)
                source.publish(DB_PASSWORD=password)
                while pool.generation < generation:
                    await asyncio.sleep(0.005)
                async with pool.cursor() as cursor:
                    await cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
                    assert ("Ssl_version", "TLSv1.3") == await cursor.fetchone()

        with pytest.raises(RotationFailed):
            await RotatingPool(source, ssl=ssl.create_default_context(), start_deadline=0.1).__aenter__()


async def test_maxsize_is_at_least_one(source: Source) -> None:
    """A pool without slots is rejected, because an acquire could never succeed."""
    with pytest.raises(ValueError, match="maxsize"):
        RotatingPool(source, maxsize=0)
    assert "<RotatingPool>" == repr(object.__new__(RotatingPool))


@pytest.mark.parametrize(("minsize", "expected"), [(None, 3), (0, 1), (2, 2), (9, 3)])
async def test_minsize_connections_are_opened_in_advance(
    source: Source, account: Account, minsize: int | None, expected: int
) -> None:
    """A new pool opens *minsize* connections in advance: at least one, and at most *maxsize*, which is the default."""
    async with RotatingPool(source, maxsize=3, minsize=minsize) as pool:
        assert expected == await account.connections()
        await scalar(pool, "SELECT 1")
        assert expected == await account.connections()


async def test_outside_of_the_block(source: Source) -> None:
    """Before it is entered and after it is closed the pool lends nothing; a second close does nothing."""
    pool = RotatingPool(source, maxsize=1)
    with pytest.raises(RotationFailed, match="not open"):
        await scalar(pool, "SELECT 1")
    async with pool:
        await scalar(pool, "SELECT 1")
    await pool.aclose()
    with pytest.raises(RotationFailed, match="not open"):
        await scalar(pool, "SELECT 1")


async def test_status(source: Source, account: Account) -> None:
    """The status counts swaps, failures and refreshes; neither the status nor the repr shows a value."""
    async with RotatingPool(source, maxsize=2, minsize=1, min_gap=0.02) as pool:
        async with pool.acquire():
            await account.set_password("second")
            pending = asyncio.create_task(scalar(pool, "SELECT 1"))
            await eventually(lambda: pool.status.auth_failures)
            source.store(DB_PASSWORD="second")
            await pending
            status = pool.status
            assert ("READY", 2, 1, 0, None) == (
                status.state,
                status.generation,
                status.retiring,
                status.failures,
                status.last_error,
            )
            assert 1 <= status.refreshes == source.refreshes_forced
        source.publish(DB_PASSWORD="s3cret")
        await eventually(lambda: pool.state == "DEGRADED")
        failed = f"{pool.status.failures} failed: OperationalError 1045"
        assert f"<RotatingPool DB_URL, DB_USER, DB_PASSWORD: DEGRADED, generation 2, 0 retiring, {failed}>" == repr(
            pool
        )
        assert "OperationalError 1045" == pool.status.last_error
        assert "s3cret" not in f"{pool.status}"


async def test_repr(source: Source) -> None:
    """The repr names the keys, the state and the generation, and no value."""
    async with RotatingPool(source, maxsize=1) as pool:
        assert "<RotatingPool DB_URL, DB_USER, DB_PASSWORD: READY, generation 1, 0 retiring>" == repr(pool)


def test_without_aiomysql() -> None:
    """Without aiomysql, the import says how to install it."""
    script = "import sys; sys.modules['aiomysql'] = None; import aiossmenv.mysql"
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert "ImportError: aiossmenv.mysql needs aiomysql: pip install 'aiossmenv[mysql]'" in run.stderr


# Keys


async def test_an_address_with_a_port(relay: Relay, source: Source) -> None:
    """The host may include a port, also with an IPv6 address."""
    source.publish(DB_URL=relay.address)
    async with RotatingPool(source, maxsize=1) as pool:
        assert 1 == await scalar(pool, "SELECT 1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_host_and_a_port_key(source: Source, server: Server, host: str) -> None:
    """The port may have its own key."""
    source.publish(HOST=host, PORT=f"{server.port}")
    keys = {"host": "HOST", "port": "PORT", "user": "DB_USER", "password": "DB_PASSWORD"}
    async with RotatingPool(source, keys, maxsize=1) as pool:
        assert server.port == await scalar(pool, "SELECT @@port")


async def test_a_host_alone(relay: Relay, source: Source) -> None:
    """Without a port in the host, the options give the port, also for an IPv6 address with or without brackets."""
    host, _, port = relay.address.rpartition(":")
    for text in (host, host.strip("[]")):
        source.publish(DB_URL=text)
        async with RotatingPool(source, maxsize=1, port=int(port)) as pool:
            assert 1 == await scalar(pool, "SELECT 1")


async def test_other_keys(source: Source, server: Server, account: Account) -> None:
    """Any option of aiomysql may come from a key; the other options come from the arguments."""
    source.publish(RW_USER=account.name, RW_PASSWORD="first", RW_SCHEMA="app")
    keys = {"user": "RW_USER", "password": "RW_PASSWORD", "db": "RW_SCHEMA"}
    async with RotatingPool(source, keys, maxsize=1, host="127.0.0.1", port=server.port) as pool:
        assert "app" == await scalar(pool, "SELECT DATABASE()")


# One parameter


FORMS = {
    "url": "mysql://{user}:{password}@127.0.0.1:{port}/app?charset=utf8mb4",
    "dialect": "mariadb+aiomysql://{user}:{password}@127.0.0.1:{port}/app",
    "json": '{{"username": "{user}", "password": "{plain}", "host": "127.0.0.1", "port": {port}, "dbname": "app"}}',
    "text": ' {{"username": "{user}", "password": "{plain}", "engine": "mariadb", "host": "127.0.0.1",'
    ' "port": "{port}", "dbname": "app", "masterarn": null}}',
}


@pytest.mark.parametrize("form", FORMS)
async def test_one_parameter_holds_all_credentials(source: Source, account: Account, server: Server, form: str) -> None:
    """A URL or a JSON object in one key rotates like several keys do, whatever characters the password has."""
    for generation, plain in enumerate(("p@s/s:w#r d%21?", "first&second=+[łé😀]"), 1):
        await account.set_password(plain)
        password = quote(plain, safe="")
        source.publish(
            DATABASE_URL=FORMS[form].format(user=account.name, password=password, plain=plain, port=server.port)
        )
        if generation == 1:
            pool = RotatingPool(source, {"dsn": "DATABASE_URL"}, maxsize=1, db="mysql")
            await pool.__aenter__()
        while pool.generation < generation:
            await asyncio.sleep(0.005)
        # A value of the key overrides the option.
        assert "app" == await scalar(pool, "SELECT DATABASE()")
        assert f"{account.name}@127.0.0.1" == await scalar(pool, "SELECT USER()")
    await pool.aclose()


async def test_a_secret_without_an_address(source: Source, account: Account, server: Server) -> None:
    """A secret that AWS manages has no address, so the address may have its own key or be an option."""
    source.publish(SECRET=f'{{"username": "{account.name}", "password": "first"}}')
    async with RotatingPool(source, {"host": "DB_URL", "dsn": "SECRET"}, maxsize=1) as pool:
        assert server.port == await scalar(pool, "SELECT @@port")
    async with RotatingPool(source, {"dsn": "SECRET"}, maxsize=1, host="127.0.0.1", port=server.port) as pool:
        assert server.port == await scalar(pool, "SELECT @@port")


async def test_a_charset_of_a_url(source: Source, account: Account) -> None:
    """The only option that a URL may have, `charset`, reaches the server."""
    source.publish(DATABASE_URL=f"mysql://{account.name}:first@{source.stored['DB_URL']}?charset=latin1")
    async with RotatingPool(source, {"dsn": "DATABASE_URL"}, maxsize=1) as pool:
        assert "latin1" == await scalar(pool, "SELECT @@character_set_client")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", "127.0.0.1:s3cret"),
        ("host", "[::1]s3cret"),
        ("port", "s3cret"),
        ("dsn", "s3cret"),
        ("dsn", "postgres://u:s3cret@h/db"),
        ("dsn", "mysql://u:s3cret@/db"),
        ("dsn", "mysql://u:pw/s3cret@h/db"),
        ("dsn", "mysql://u:1/s3cret@h"),
        ("dsn", "mysql://u:1#s3cret@h/db"),
        ("dsn", "mysql://u:1?s3cret@h/db"),
        ("dsn", "mysql://u:1?charset=s3cret@h"),
        ("dsn", "mysql://u:s3cret@h:port/db"),
        ("dsn", "mysql://u:p@[s3cret/db"),
        ("dsn", "mysql://u:s3cret@h/db/more"),
        ("dsn", "mysql://u:p@h/db?s3cret=1"),
        ("dsn", '{"username": "u", "password": "s3cret"'),
        ("dsn", '{"user": "u", "password": "s3cret"}'),
        ("dsn", '{"username": "u", "password": ["s3cret"]}'),
        ("dsn", '{"username": "u", "password": "s3cret", "port": "x"}'),
        ("dsn", '{"s3cret":' * 800),
    ],
)
async def test_malformed_value(source: Source, option: str, value: str) -> None:
    """
    A malformed value is an error at the start that names the key; no traceback shows the value, not even in locals.
    """
    source.publish(KEY=value)
    keys = {"host": "DB_URL", "user": "DB_USER", "password": "DB_PASSWORD"}
    with pytest.raises(RotationFailed) as caught:
        await RotatingPool(source, keys | {option: "KEY"}).__aenter__()

    assert "KEY is not " in str(caught.value)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"
    error: BaseException | None = caught.value
    frames = 0
    while error:
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        ours = [frame for frame in trace.stack if Path(frame.filename).parent.name == "aiossmenv"]
        frames += len(ours)
        assert [] == [frame.name for frame in ours if "s3cret" in f"{frame.locals}"]
        # Check `__context__` too: error trackers may walk it even where Python does not print it.
        error = error.__cause__ or error.__context__
    assert 0 < frames


# Start


async def test_a_wrong_password_at_the_start(source: Source) -> None:
    """Rejected credentials are an error at the start, and the server's error is its cause."""
    source.publish(DB_PASSWORD="wrong")
    with pytest.raises(RotationFailed, match="DB_URL, DB_USER, DB_PASSWORD: OperationalError 1045") as caught:
        await RotatingPool(source, start_deadline=1).__aenter__()
    # The pool refreshes in between, because a process may start in the middle of a rotation.
    assert 1 <= source.refreshes_forced
    assert 1045 == error_code(caught.value.__cause__)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_no_server_at_the_start(source: Source, host: str) -> None:
    """An address without a server is an error after `start_deadline`, and the driver's error is its cause."""
    source.publish(DB_URL=f"{host}:{free_port()}")
    with pytest.raises(RotationFailed, match="OperationalError 2003") as caught:
        await RotatingPool(source, start_deadline=1).__aenter__()
    assert 2003 == error_code(caught.value.__cause__)
    assert 0 == source.refreshes_forced


async def test_a_start_before_the_server(source: Source, server: Server, account: Account) -> None:
    """A pool that is opened before its database is up waits for it."""
    port = free_port()
    relay = Relay("127.0.0.1", server.port, port)
    source.publish(DB_URL=f"127.0.0.1:{port}")
    pool = RotatingPool(source, maxsize=2)
    entering = asyncio.create_task(pool.__aenter__())
    await eventually(lambda: pool.status.failures)
    async with relay.running():
        await entering
        assert f"{account.name}@127.0.0.1" == await scalar(pool, "SELECT USER()")
        await pool.aclose()


async def test_a_start_in_the_window_of_a_rotation(source: Source, account: Account) -> None:
    """If only the server knows the new password at the start, the pool refreshes until the source has it too."""
    await account.set_password("second")
    pool = RotatingPool(source, maxsize=2, min_gap=0.02)
    entering = asyncio.create_task(pool.__aenter__())
    await eventually(lambda: source.refreshes_forced)
    assert not entering.done()
    source.store(DB_PASSWORD="second")
    await entering
    assert (1, "READY") == (pool.generation, pool.state)
    await pool.aclose()


async def test_a_server_that_never_answers(source: Source, account: Account) -> None:
    """A server that accepts connections and never answers is an error at the start, and DEGRADED during a rotation."""
    ends: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(lambda _, writer: ends.append(writer), "127.0.0.1", 0) as listener:
        silent = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with RotatingPool(source, maxsize=1, build_timeout=0.2) as pool:
            address = source.stored["DB_URL"]
            source.publish(DB_URL=silent)
            with pytest.raises(RotationFailed, match="TimeoutError"):
                await RotatingPool(source, build_timeout=0.1, start_deadline=1).__aenter__()
            await eventually(lambda: pool.state == "DEGRADED")
            assert f"{account.name}@127.0.0.1" == await scalar(pool, "SELECT USER()")

            source.publish(DB_URL=address)
            await eventually(lambda: pool.state == "READY")
            assert 1 == pool.generation
        # Close them inside the block: from Python 3.12 on, a listener waits for its connections.
        for end in ends:
            end.close()


async def test_a_server_with_few_connections_left(source: Source, account: Account, server: Server) -> None:
    """One login proves the credentials: if the server allows no more connections, the pool still serves and rotates."""

    async def aborted() -> int:
        """Return how many connections ended without a COM_QUIT."""
        return int((await server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'"))[0][1])

    before = await aborted()
    await account.alter("WITH MAX_USER_CONNECTIONS 4")
    async with RotatingPool(source, maxsize=3) as pool:
        assert 3 == await account.connections()
        await account.set_password("second")
        source.publish(DB_PASSWORD="second")
        await eventually(lambda: pool.generation == 2)
        await scalar(pool, "SELECT 1")
    assert 0 == await account.remaining_connections()
    assert before == await aborted()
