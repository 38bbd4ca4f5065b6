"""A relay to a MySQL server that can cut, hold and blackhole connections, and that records logins."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from pymysql import _auth


@dataclass(eq=False, kw_only=True)
class Login:
    """
    What a client sent to log in, and the server's answer.

    *accepted* is the time of the connection, *succeeded* the time at which the server accepted the login, both by
    `time.perf_counter()`.
    """

    accepted: float
    user: str
    plugin: str
    salt: bytes
    answer: bytes
    succeeded: float = float("inf")

    def password(self, *candidates: str) -> str | None:
        """Return the one of these passwords with which the client logged in."""
        scramble = {
            "mysql_native_password": _auth.scramble_native_password,
            "caching_sha2_password": _auth.scramble_caching_sha2,
        }[self.plugin]
        return next((word for word in candidates if self.answer == scramble(word.encode(), self.salt)), None)


class Relay:
    """
    A relay to the server; clients connect to *address*.

    *logins*: the logins that clients sent. *packets*: how often clients sent something after their login.
    """

    def __init__(self, host: str, target: int, port: int = 0) -> None:
        self.address = ""
        self.logins: list[Login] = []
        self.packets = 0
        self._host = host
        self._target = target
        self._port = port
        self._clients: list[asyncio.StreamWriter] = []
        self._lost: set[asyncio.StreamWriter] = set()
        self._open = 0
        self._passing = asyncio.Event()
        self._passing.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Relay until the block ends."""
        listener = await asyncio.start_server(self._serve, self._host, self._port)
        port = listener.sockets[0].getsockname()[1]
        self.address = f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"
        async with listener:
            yield self
            self._passing.set()
            self.cut()
            while self._open:
                await asyncio.sleep(0.001)

    def cut(self, most: int | None = None) -> None:
        """Reset all connections, or *most* of them, as a load balancer does when it restarts."""
        there = [client for client in self._clients if not client.is_closing()]
        for client in there[:most]:
            linger = struct.pack("ii", 1, 0)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.transport.abort()

    def blackhole(self) -> None:
        """
        Drop all data of the open connections in both directions, as a gateway does that lost its connection table.
        """
        self._lost |= set(self._clients)

    def hold(self) -> None:
        """Delay the greeting of new connections until `resume()`."""
        self._passing.clear()

    def resume(self) -> None:
        """Send the delayed greetings."""
        self._passing.set()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Relay one connection in both directions."""
        accepted = time.perf_counter()
        self._clients.append(client)
        self._open += 1
        await self._passing.wait()
        far_reader, server = await asyncio.open_connection("127.0.0.1", self._target)
        greeting: list[bytes] = []

        logins: list[Login] = []

        def from_server(data: bytes) -> bool:
            greeting.append(data)
            if logins and logins[0].succeeded == float("inf") and 0x00 in _kinds(data):
                logins[0].succeeded = time.perf_counter()
            return client not in self._lost

        def from_client(data: bytes) -> bool:
            if len(greeting) == 1 and data[3] == 1:
                logins.extend(_login(accepted, greeting[0], data))
                self.logins += logins
            else:
                self.packets += 1
            return client not in self._lost

        await asyncio.gather(_pump(reader, server, from_client), _pump(far_reader, client, from_server))
        self._open -= 1


def _login(accepted: float, greeting: bytes, answer: bytes) -> Iterator[Login]:
    """Yield the login from the first packets of both sides, unless it is encrypted."""
    if len(answer) > 36:
        version_end = greeting.index(b"\0", 5)
        salt = greeting[version_end + 5 : version_end + 13] + greeting[version_end + 32 : version_end + 44]
        user_end = answer.index(b"\0", 36)
        scrambled = answer[user_end + 2 : user_end + 2 + answer[user_end + 1]]
        plugin = greeting[version_end + 45 :].strip(b"\0").decode()
        yield Login(accepted=accepted, user=answer[36:user_end].decode(), plugin=plugin, salt=salt, answer=scrambled)


def _kinds(data: bytes) -> list[int]:
    """Return the first byte of each packet; 0 means that a login succeeded."""
    kinds, at = [], 0
    while at + 4 < len(data):
        kinds.append(data[at + 4])
        at += 4 + int.from_bytes(data[at : at + 3], "little")
    return kinds


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]) -> None:
    """Forward the data for which *passes* returns true, and close the other side at the end."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            if passes(data):
                writer.write(data)
                await writer.drain()
    writer.close()
