"""
A Parameter Store and a MySQL server on free ports of loopback, for as long as a block runs.

The store is moto's HTTP server in this process. The database is a private MariaDB if `mariadbd` is installed, else a
server in Python that speaks the MySQL protocol: it checks passwords and stores nothing.
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
# Debian and Homebrew install servers in folders that PATH may lack.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"])


class Store:
    """A Parameter Store with methods to write. They block on HTTP: call them in a thread."""

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
        """The variables that lead an AWS SDK to this store."""
        return {
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": "embedded",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_SSM": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def put(self, name: str, value: str, kind: str = "SecureString") -> None:
        """Create or overwrite a parameter."""
        self.client.put_parameter(Name=name, Value=value, Type=kind, Overwrite=True)

    def delete(self, name: str) -> None:
        """Remove a parameter."""
        self.client.delete_parameter(Name=name)


@contextlib.contextmanager
def embedded_store() -> Iterator[Store]:
    """Run a Parameter Store. One per process: moto keeps its data in globals of the process."""
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
        """Create a user, or change its password; the old password stops working at once."""

    async def drop_user(self, user: str) -> None:
        """Remove a user; its open sessions continue."""


@contextlib.asynccontextmanager
async def embedded_database(*, real: bool = True) -> AsyncIterator[Database]:
    """Run MariaDB if *real* and installed, else the server in Python."""
    async with mariadb() if real and find_mariadb() else mimic() as database:
        yield database


def find_mariadb() -> tuple[str, str] | None:
    """Return the paths of `mariadb-install-db` and `mariadbd`, or `None`."""
    install, server = (shutil.which(name, path=_PATH) for name in ("mariadb-install-db", "mariadbd"))
    return (install, server) if install and server else None


def find_mysql() -> Path | None:
    """Return the folder that holds an unpacked mysql-server-core of Debian, or `None`."""
    root = os.environ.get("MYSQL_ROOT")
    return Path(root) if root and Path(root, "usr/sbin/mysqld").exists() else None


class Server:
    """A private server on loopback; root logs in through *socket* without a password."""

    name: str
    # Error codes: the account is locked; it is blocked after too many wrong passwords.
    locked: int
    blocked: int
    # The status variable that counts refused logins.
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
        """Let a user whose password is *old* log in with *old* or *new*."""
        raise NotImplementedError

    async def drop_user(self, user: str) -> None:
        """See `Database`."""
        await self.execute(f"DROP USER IF EXISTS '{user}'@'%'")

    async def refused(self) -> int:
        """Count the refused logins since the server started."""
        return int((await self.execute(f"SHOW GLOBAL STATUS LIKE '{self.refusals}'"))[0][1])

    async def execute(self, statement: str) -> tuple[tuple[Any, ...], ...]:
        """Run a statement as root and return its rows."""
        async with self.root() as connection, connection.cursor(aiomysql.Cursor) as cursor:
            await cursor.execute(statement)
            return tuple(await cursor.fetchall())

    def root(self) -> contextlib.AbstractAsyncContextManager[aiomysql.Connection]:
        """Log in as root; warnings such as deprecations are switched off."""
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

    async def set_passwords(self, user: str, new: str, old: str) -> None:  # noqa: ARG002 - the server keeps it
        """See `Server`."""
        await self.execute(f"ALTER USER '{user}'@'%' IDENTIFIED BY '{new}' RETAIN CURRENT PASSWORD")


@contextlib.asynccontextmanager
async def mariadb(*options: str) -> AsyncIterator[MariaDB]:
    """Run a private MariaDB with a database `app`: 0.7 s to start, 34 MB on disk."""
    found = find_mariadb()
    if not found:
        raise RuntimeError("mariadbd is not installed: apt-get install mariadb-server-core")
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
    """Run a private MySQL with a database `app`: 4 s to start, 90 MB on disk."""
    root = find_mysql()
    if not root:
        raise RuntimeError("there is no mysqld: set MYSQL_ROOT to an unpacked mysql-server-core of Debian")
    # Its libraries are not where the system looks, so its own loader gets their paths.
    loader = next(path for path in sorted(root.glob("usr/lib*/**/ld-linux*.so*")) if path.is_file())
    libraries = [*root.glob("usr/lib/*-linux-gnu*"), root / "usr/lib/mysql/private"]
    server = [
        str(loader), "--library-path", ":".join(map(str, libraries)), f"{root}/usr/sbin/mysqld", "--no-defaults",
        f"--lc-messages-dir={root}/usr/share/mysql", f"--character-sets-dir={root}/usr/share/mysql/charsets",
        f"--plugin-dir={root}/usr/lib/mysql/plugin", "--secure-file-priv=", "--performance-schema=OFF",
        "--innodb-redo-log-capacity=32M", "--innodb-buffer-pool-size=8M", "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=OFF", "--innodb-flush-method=nosync", "--mysqlx=OFF", "--auto-generate-certs=OFF",
    ]  # fmt: skip
    # RSA keys for caching_sha2_password are made when the server runs; making them here too takes seconds.
    installing = [*server, "--initialize-insecure", "--sha256-password-auto-generate-rsa-keys=OFF"]
    async with _server(MySQL, installing, [*server, "--skip-name-resolve", *options]) as database:
        yield database


S = TypeVar("S", bound=Server)


@contextlib.asynccontextmanager
async def _server(kind: type[S], installing: list[str], running: list[str]) -> AsyncIterator[S]:
    """Run a server whose data is in a temporary folder."""
    # The server runs as root only with this option, and takes the option from root only.
    user = ["--user=root"] if os.geteuid() == 0 else []
    # The path of a socket is limited to about 100 bytes, and a temporary folder of macOS takes half of them.
    short = "/tmp" if sys.platform == "darwin" else None
    with tempfile.TemporaryDirectory(prefix="db-", dir=short, ignore_cleanup_errors=True) as folder:
        # Each server has its own temporary files, because a server deletes those of others when it starts.
        where = [f"--datadir={folder}/data", f"--tmpdir={folder}", *user]
        log = Path(folder, "log")
        with log.open("wb") as output:  # noqa: ASYNC230 - nothing else runs yet
            await asyncio.to_thread(subprocess.run, [*installing, *where], check=True, stdout=output, stderr=output)
            port = free_port()
            # Not in a thread: Linux sends the signal of a parent's death when the thread ends that started the process.
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
    # asyncio logs an error of mimic when a client disconnects.
    logging.getLogger("asyncio").addFilter(lambda record: "client_connected_cb" not in record.getMessage())
    database = Mimic(free_port())

    class Users(IdentityProvider):  # type: ignore[misc] # untyped base
        def get_plugins(self) -> list[Any]:
            return [NativePasswordAuthPlugin()]

        async def get_user(self, username: str) -> Any:
            # An unknown user gets a random password, because mimic would refuse it with an error code of its own.
            password = database.users.get(username, os.urandom(16).hex())
            return User(username, NativePasswordAuthPlugin.create_auth_string(password), NativePasswordAuthPlugin.name)

    server = MysqlServer(identity_provider=Users())
    await server.start_server(host="127.0.0.1", port=int(database.address.rpartition(":")[2]))
    try:
        yield database
    finally:
        server.close()


def free_port() -> int:
    """Return a free port of loopback; another process may take it meanwhile."""
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
