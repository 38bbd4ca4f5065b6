"""A private PostgreSQL on a free port of loopback, run by an unprivileged user, with users that can be changed."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg

from embedded import _die_with_parent, free_port


def find_postgres() -> Path | None:
    """Return the folder of the programs of the newest PostgreSQL that is installed, or `None`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    there = [*found, *filter(None, [Path(path) if (path := shutil.which("initdb")) else None])]
    return there[-1].parent if there else None


class PostgreSQL:
    """A private server; *admin* is a connection of its superuser through a socket."""

    name = "PostgreSQL"

    def __init__(self, port: int, pid: int, log: Path, admin: "psycopg.Connection[tuple[Any, ...]]") -> None:
        self.port = port
        self.pid = pid
        self.address = f"127.0.0.1:{port}"
        self._log = log
        self._admin = admin

    async def set_user(self, user: str, password: str) -> None:
        """Create a user, or change its password; the old password stops working at once."""
        there = await self.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{user}'")
        await self.execute(f"{'ALTER' if there else 'CREATE'} ROLE {user} LOGIN PASSWORD '{password}'")
        await self.execute(f"GRANT app_owner TO {user}")

    async def drop_user(self, user: str) -> None:
        """Let a user log in no more; its open sessions continue."""
        await self.execute(f"ALTER ROLE {user} NOLOGIN")

    async def drop_users(self, prefix: str) -> None:
        """Remove the users whose names begin with *prefix*."""
        for (name,) in await self.execute(f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{prefix}%'"):
            await self.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")

    async def kill(self, prefix: str) -> None:
        """End the sessions of users whose names begin with *prefix*."""
        await self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '{prefix}%'")

    async def refused(self) -> int:
        """Count the refused logins since the server started."""
        text = self._log.read_text(errors="replace")
        return text.count("password authentication failed for user") + text.count("is not permitted to log in")

    async def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser and return its rows."""
        # Not an asynchronous one, because each test has an event loop of its own.
        return await asyncio.to_thread(self._execute, statement)

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self._admin.cursor() as cursor:
            cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    async def connections(self, prefix: str) -> int:
        """Count the sessions of users whose names begin with *prefix*."""
        return int((await self.execute(f"SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '{prefix}%'"))[0][0])


@contextlib.asynccontextmanager
async def postgres(*options: str) -> AsyncIterator[PostgreSQL]:
    """Run a private PostgreSQL with a database and a schema `app`: 1.5 s to start, 40 MB on disk."""
    programs = find_postgres()
    if not programs:
        raise RuntimeError("there is no PostgreSQL: apt-get install postgresql")
    # The server refuses to run as root.
    user = next((name for name in ("postgres", "nobody") if _exists(name)), None) if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        if user:
            shutil.chown(folder, user)
        log, port = Path(folder, "log"), free_port()
        with log.open("wb") as output:  # noqa: ASYNC230 - nothing else runs yet
            initdb = [str(programs / "initdb"), "-D", f"{folder}/data", "-U", "admin", "--no-sync", "-E", "UTF8"]
            command = [*initdb, "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"]
            await asyncio.to_thread(
                subprocess.run, command, check=True, stdout=output, stderr=output, user=user, cwd=folder
            )
            quick = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB")
            own = (f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1", "max_connections=150")
            # Not in a thread: Linux sends the signal of a parent's death when the thread ends that started the process.
            process = subprocess.Popen(  # noqa: ASYNC220
                [
                    str(programs / "postgres"), "-D", f"{folder}/data", "-p", str(port),
                    *(word for setting in (*quick, *own, *options) for word in ("-c", setting)),
                ],
                stdout=output,
                stderr=output,
                user=user,
                cwd=folder,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one call into libc
            )  # fmt: skip
        try:
            with await asyncio.to_thread(_connected, folder, port, process, log) as admin:
                admin.execute("CREATE DATABASE app")
            with await asyncio.to_thread(_connected, folder, port, process, log, "app") as admin:
                admin.execute("CREATE ROLE app_owner; CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO app_owner")
                admin.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app_owner")
                yield PostgreSQL(port, process.pid, log, admin)
        finally:
            process.send_signal(signal.SIGINT)  # it does not wait for sessions, as it does on SIGTERM
            await asyncio.to_thread(process.wait)


def _connected(
    folder: str, port: int, process: "subprocess.Popen[bytes]", log: Path, database: str = "postgres"
) -> "psycopg.Connection[tuple[Any, ...]]":
    for _ in range(200):
        with contextlib.suppress(psycopg.OperationalError):
            return psycopg.connect(host=folder, port=port, user="admin", dbname=database, autocommit=True)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")


def _exists(name: str) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return True
    return False
