"""A TCP proxy on loopback."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator


class Tunnel:
    """
    A TCP proxy on a free port of loopback.

    With a *target* (host and port) it forwards all connections there. Without one it is an HTTP proxy that learns the
    target from `CONNECT`. *resets*: the number of next connections that it resets after the client's first bytes, for
    instance after the first message of a TLS handshake. *targets*: the addresses to which it forwarded connections.
    """

    def __init__(self, target: tuple[str, int] | None = None) -> None:
        self.target = target
        self.resets = 0
        self.port = 0
        self.targets: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Tunnel"]:
        """Listen; with *tls* the proxy itself speaks TLS to its clients."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Create the task here: asyncio reports the cancellation of its own handler task as an error.
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            first = b""
            if self.target is None:
                head = await reader.readuntil(b"\r\n\r\n")
                name = head.split()[1].decode()
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                name = "{}:{}".format(*self.target)
                first = await reader.read(65536)
            if self.resets:
                self.resets -= 1
                _reset(writer)
                return
            self.targets.append(name)
            host, _, port = name.rpartition(":")
            back_reader, back_writer = await asyncio.open_connection(host, int(port))
            with contextlib.closing(back_writer):
                back_writer.write(first)
                ways = [
                    asyncio.create_task(_copy(reader, back_writer)),
                    asyncio.create_task(_copy(back_reader, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    # A linger time of zero makes close() send RST.
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
