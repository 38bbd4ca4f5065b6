"""
A Parameter Store and a MySQL server for a machine that has neither: on loopback, on free ports, gone when done.

The store is moto's HTTP server in this process. The server is a private MariaDB where `mariadbd` is installed, else
one in pure Python that speaks the MySQL protocol and only pretends to store anything; it does check passwords.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import aiomysql
import boto3
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"
# Where Debian and Homebrew put servers, which is not on everybody's PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"])


class Store:
    """A Parameter Store that can be written to. Its methods wait for HTTP: call them in a thread."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self.client: Any = boto3.client(
            "ssm",
            region_name=REGION,
            endpoint_url=endpoint_url,
            aws_access_key_id="embedded",
            aws_secret_access_key="embedded",
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which any SDK finds this store."""
        return {
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": "embedded",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_SSM": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def put(self, name: str, value: str, kind: str = "SecureString") -> None:
        """Write a parameter, whether or not it is there."""
        self.client.put_parameter(Name=name, Value=value, Type=kind, Overwrite=True)

    def delete(self, name: str) -> None:
        """Remove a parameter."""
        self.client.delete_parameter(Name=name)


@contextlib.contextmanager
def embedded_store() -> Iterator[Store]:
    """Run a Parameter Store. There is one in a process: what one writes, another would read."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Store(f"http://{host}:{port}")
    finally:
        server.stop()


class Database(Protocol):
    """A MySQL server whose users can be changed."""

    name: str
    address: str

    async def set_user(self, user: str, password: str) -> None:
        """Create a user, or give it another password: the old one is void at once."""

    async def drop_user(self, user: str) -> None:
        """Remove a user; sessions that are open live on."""


@contextlib.asynccontextmanager
async def embedded_database(*, real: bool = True) -> AsyncIterator[Database]:
    """Run the best database server that there is on this machine; *real* is whether it may be a MariaDB."""
    async with mariadb() if real and find_mariadb() else mimic() as database:
        yield database


def find_mariadb() -> tuple[str, str] | None:
    """Return where `mariadb-install-db` and `mariadbd` are, or `None`."""
    install, server = (shutil.which(name, path=_PATH) for name in ("mariadb-install-db", "mariadbd"))
    return (install, server) if install and server else None


def find_mysql() -> Path | None:
    """Return the folder in which a MySQL server is unpacked, that of Debian's package mysql-server-core, or `None`."""
    root = os.environ.get("MYSQL_ROOT")
    return Path(root) if root and Path(root, "usr/sbin/mysqld").exists() else None


class Server:
    """A private server; *port* is on loopback, *socket* lets root in without a password."""

    name: str
    # The errors for an account that is locked, and for one that is blocked after too many wrong passwords.
    locked: int
    blocked: int
    # The counter of logins that were refused.
    refusals: str

    def __init__(self, port: int, socket_path: str, pid: int) -> None:
        self.port = port
        self.socket = socket_path
        self.pid = pid
        self.address = f"127.0.0.1:{port}"

    async def set_user(self, user: str, password: str) -> None:
        """See `Database`."""
        there = await self.execute(f"SELECT 1 FROM mysql.user WHERE user = '{user}'")
        await self.execute(f"{'ALTER' if there else 'CREATE'} USER '{user}'@'%' IDENTIFIED BY '{password}'")
        await self.execute(f"GRANT ALL ON app.* TO '{user}'@'%'")

    async def set_passwords(self, user: str, new: str, old: str) -> None:
        """Let a user, whose password is *old*, log in with either."""
        raise NotImplementedError

    async def drop_user(self, user: str) -> None:
        """See `Database`."""
        await self.execute(f"DROP USER IF EXISTS '{user}'@'%'")

    async def refused(self) -> int:
        """Count the logins that were refused since the server began."""
        return int((await self.execute(f"SHOW GLOBAL STATUS LIKE '{self.refusals}'"))[0][1])

    async def execute(self, statement: str) -> tuple[tuple[Any, ...], ...]:
        """Run a statement as root and return its rows."""
        async with self.root() as connection, connection.cursor(aiomysql.Cursor) as cursor:
            await cursor.execute(statement)
            return tuple(await cursor.fetchall())

    def root(self) -> contextlib.AbstractAsyncContextManager[aiomysql.Connection]:
        """Log in as root; the connection tells of no warnings, as that a statement is deprecated."""
        quiet = "SET SESSION max_error_count = 0"
        connecting = aiomysql.connect(unix_socket=self.socket, user="root", autocommit=True, init_command=quiet)
        return cast("contextlib.AbstractAsyncContextManager[aiomysql.Connection]", connecting)


class MariaDB(Server):
    """A private MariaDB."""

    name = "MariaDB"
    locked = 4151
    blocked = 4150
    refusals = "Access_denied_errors"

    async def set_passwords(self, user: str, new: str, old: str) -> None:
        """See `Server`."""
        ways = " OR ".join(f"mysql_native_password USING PASSWORD('{word}')" for word in (new, old))
        await self.execute(f"ALTER USER '{user}'@'%' IDENTIFIED VIA {ways}")


class MySQL(Server):
    """A private MySQL."""

    name = "MySQL"
    locked = 3118
    blocked = 3955
    refusals = "Aborted_connects"

    async def set_passwords(self, user: str, new: str, old: str) -> None:  # noqa: ARG002 - the server remembers it
        """See `Server`."""
        await self.execute(f"ALTER USER '{user}'@'%' IDENTIFIED BY '{new}' RETAIN CURRENT PASSWORD")


@contextlib.asynccontextmanager
async def mariadb(*options: str) -> AsyncIterator[MariaDB]:
    """Run a private MariaDB with a database `app`; two thirds of a second to start, 34 MB on disk."""
    found = find_mariadb()
    if not found:
        raise RuntimeError("there is no mariadbd here: apt-get install mariadb-server-core")
    install, server = found
    small = [
        "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M", "--aria-log-file-size=8M",
        "--aria-pagecache-buffer-size=8M", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
        "--innodb-flush-method=nosync", "--skip-name-resolve",
    ]  # fmt: skip
    installing = [install, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", *small]
    running = [server, "--no-defaults", "--performance-schema=0", *small, *options]
    async with _server(MariaDB, installing, running) as database:
        yield database


@contextlib.asynccontextmanager
async def mysql(*options: str) -> AsyncIterator[MySQL]:
    """Run a private MySQL with a database `app`; four seconds to start, 90 MB on disk."""
    root = find_mysql()
    if not root:
        raise RuntimeError("there is no mysqld here: set MYSQL_ROOT to where Debian's mysql-server-core is unpacked")
    # It is not installed, so its own loader has to find its libraries.
    loader = next(path for path in sorted(root.glob("usr/lib*/**/ld-linux*.so*")) if path.is_file())
    libraries = [*root.glob("usr/lib/*-linux-gnu*"), root / "usr/lib/mysql/private"]
    server = [
        str(loader), "--library-path", ":".join(map(str, libraries)), f"{root}/usr/sbin/mysqld", "--no-defaults",
        f"--lc-messages-dir={root}/usr/share/mysql", f"--character-sets-dir={root}/usr/share/mysql/charsets",
        f"--plugin-dir={root}/usr/lib/mysql/plugin", "--secure-file-priv=", "--performance-schema=OFF",
        "--innodb-redo-log-capacity=32M", "--innodb-buffer-pool-size=8M", "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=OFF", "--innodb-flush-method=nosync", "--mysqlx=OFF", "--auto-generate-certs=OFF",
    ]  # fmt: skip
    # Keys for the RSA of caching_sha2_password are made when it runs; more of them, for an own certificate, take seconds.
    installing = [*server, "--initialize-insecure", "--sha256-password-auto-generate-rsa-keys=OFF"]
    async with _server(MySQL, installing, [*server, "--skip-name-resolve", *options]) as database:
        yield database


S = TypeVar("S", bound=Server)


@contextlib.asynccontextmanager
async def _server(kind: type[S], installing: list[str], running: list[str]) -> AsyncIterator[S]:
    """Install a server into a folder that is gone afterwards, and run it."""
    # The server refuses to run as root unless it is told to, and refuses to be told by anybody else.
    user = ["--user=root"] if os.geteuid() == 0 else []
    # A short name, for the path of a socket is limited to about 100 bytes, and Apple's folders take half of that.
    short = "/tmp" if sys.platform == "darwin" else None
    with tempfile.TemporaryDirectory(prefix="db-", dir=short, ignore_cleanup_errors=True) as folder:
        # A folder for its temporary files, because a server that starts removes those of others as leftovers.
        where = [f"--datadir={folder}/data", f"--tmpdir={folder}", *user]
        log = Path(folder, "log")
        with log.open("wb") as output:  # noqa: ASYNC230 - the program that uses this has not begun
            await asyncio.to_thread(subprocess.run, [*installing, *where], check=True, stdout=output, stderr=output)
            port = free_port()
            # Started from here and not from a thread, because the signal of a parent's death is that of the thread's.
            process = subprocess.Popen(  # noqa: ASYNC220
                [
                    *running, *where, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/s",
                    f"--pid-file={folder}/pid", "--skip-log-bin", "--max-connections=300",
                ],
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one call into libc
            )  # fmt: skip
        try:
            await asyncio.to_thread(_wait_for_greeting, f"{folder}/s", process, log)
            database = kind(port, f"{folder}/s", process.pid)
            await database.execute("CREATE DATABASE app")
            yield database
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)


class Mimic:
    """The MySQL protocol without a database behind it."""

    name = "MySQL protocol server in Python (no MariaDB)"

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.users: dict[str, str] = {}

    async def set_user(self, user: str, password: str) -> None:
        """See `Database`."""
        self.users[user] = password

    async def drop_user(self, user: str) -> None:
        """See `Database`."""
        self.users.pop(user, None)


@contextlib.asynccontextmanager
async def mimic() -> AsyncIterator[Mimic]:
    """Run a MySQL protocol server on this loop."""
    from mysql_mimic import IdentityProvider, MysqlServer, NativePasswordAuthPlugin, User

    logging.getLogger("mysql_mimic").setLevel(logging.CRITICAL)
    # A client that hangs up is no error of this program, but asyncio reports it as one of mimic's.
    logging.getLogger("asyncio").addFilter(lambda record: "client_connected_cb" not in record.getMessage())
    database = Mimic(free_port())

    class Users(IdentityProvider):  # type: ignore[misc] # untyped base
        def get_plugins(self) -> list[Any]:
            return [NativePasswordAuthPlugin()]

        async def get_user(self, username: str) -> Any:
            # To nobody, an answer that no password gives: mimic would else refuse with a code of its own.
            password = database.users.get(username, os.urandom(16).hex())
            return User(username, NativePasswordAuthPlugin.create_auth_string(password), NativePasswordAuthPlugin.name)

    server = MysqlServer(identity_provider=Users())
    await server.start_server(host="127.0.0.1", port=int(database.address.rpartition(":")[2]))
    try:
        yield database
    finally:
        server.close()


def free_port() -> int:
    """Return a port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_greeting(path: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(path)
            if probe.recv(1):
                return
        if process.poll() is not None:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text() if log.exists() else 'no log'}")


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
