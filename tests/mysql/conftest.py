"""What tests with a database get: an account on the server, its credentials in memory, and a relay to cut."""

import asyncio
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from aiossmenv import Change, Parameter, Snapshot, diff
from embedded import MariaDB
from timing import our_tasks


class Source:
    """
    What a `RotatingPool` needs of an `Env`, on the loop's clock.

    *snapshot* is what was read, *stored* what is there to be read, *latency* the seconds that a read takes, *asked*
    how often a refresh was forced.
    """

    def __init__(self, **values: str) -> None:
        self.stored = values
        self.snapshot = Snapshot({}, datetime.now(UTC))
        self.latency = 0.0
        self.asked = 0
        self._began = float("-inf")
        self._watchers: list[tuple[Callable[[Change], None], tuple[str, ...]]] = []
        self._publish()

    def store(self, **values: str) -> None:
        """Write values that nobody has read yet."""
        self.stored |= values

    def publish(self, **values: str) -> None:
        """Write values, and read them at once."""
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

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> None:
        """See `Env`."""
        assert set(keys) <= self.stored.keys()
        self.asked += 1
        await asyncio.sleep(self._began + min_gap - asyncio.get_running_loop().time())
        await self.read()

    def _publish(self) -> None:
        """Make what is stored the snapshot, and tell."""
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
    """A user of the server, and others whose names begin with its name."""

    def __init__(self, server: MariaDB, name: str) -> None:
        self.name = name
        self._server = server

    async def set_password(self, password: str) -> None:
        """Give it another password."""
        await self._server.set_user(self.name, password)

    async def alter(self, clause: str) -> None:
        """Run ALTER USER."""
        await self._server.execute(f"ALTER USER '{self.name}'@'%' {clause}")

    async def connections(self) -> int:
        """Count what the server has open for it."""
        where = f"user LIKE '{self.name}%'"
        return int(
            (await self._server.execute(f"SELECT COUNT(*) FROM information_schema.processlist WHERE {where}"))[0][0]
        )

    async def gone(self) -> int:
        """Count what is still open when the server had time to notice what was closed."""
        for _ in range(200):
            if not await self.connections():
                return 0
            await asyncio.sleep(0.01)
        return await self.connections()

    async def drop(self) -> None:
        """Remove them all."""
        for (name,) in await self._server.execute(f"SELECT user FROM mysql.user WHERE user LIKE '{self.name}%'"):
            await self._server.drop_user(name)


class Relay:
    """A way to the server that can be cut; *address* is what clients connect to."""

    def __init__(self, host: str, target: int) -> None:
        self.address = ""
        self._host = host
        self._target = target
        self._clients: list[asyncio.StreamWriter] = []
        self._open = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Relay until the block ends."""
        listener = await asyncio.start_server(self._serve, self._host, 0)
        port = listener.sockets[0].getsockname()[1]
        self.address = f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"
        async with listener:
            yield self
            self.cut()
            while self._open:
                await asyncio.sleep(0.001)

    def cut(self, most: int | None = None) -> None:
        """Reset connections, all of them or so many, as a load balancer does that was restarted."""
        there = [client for client in self._clients if not client.is_closing()]
        for client in there[:most]:
            linger = struct.pack("ii", 1, 0)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Relay one connection in both directions."""
        self._clients.append(client)
        self._open += 1
        far_reader, server = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(_pump(reader, server), _pump(far_reader, client))
        self._open -= 1


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, and the end."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def account(server: MariaDB) -> AsyncIterator[Account]:
    """Give a user of the test's own, with the password "first"; the test leaves neither connection nor task."""
    account = Account(server, f"u{secrets.token_hex(4)}")
    await account.set_password("first")
    yield account
    await account.drop()
    assert 0 == await account.gone()
    assert set() == await our_tasks()


@pytest.fixture
def source(server: MariaDB, account: Account) -> Source:
    """Give the account's credentials, in memory."""
    return Source(DB_URL=server.address, DB_USER=account.name, DB_PASSWORD="first")


@pytest.fixture(params=["127.0.0.1", "::1"])
async def relay(server: MariaDB, request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    """Give a way to the server that can be cut."""
    async with Relay(request.param, server.port).running() as running:
        yield running
