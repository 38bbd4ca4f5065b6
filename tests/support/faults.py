"""
A proxy between a client and a Parameter Store that injects the faults that emulators never produce.

The proxy tries the rules in the order in which they were added. The first rule that matches answers, up to `times`
times. The store answers a request that no rule matches.
"""

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Json = dict[str, Any]
Forward = Callable[[Json], Awaitable[Json]]
Fault = Callable[["Call", Forward], Awaitable[web.StreamResponse]]


@dataclass
class Call:
    """One request; *number* counts the requests of its operation from 0."""

    operation: str
    body: Json
    number: int
    request: web.Request = field(repr=False)


@dataclass
class _Rule:
    fault: Fault
    operation: str | None
    when: Callable[[Call], bool]
    times: float


class FaultProxy:
    """The proxy: *url* is its address, *calls* all requests that arrived, *answered* the number that rules answered."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.calls: list[Call] = []
        self.answered = 0
        self.open_connections = 0
        self._rules: list[_Rule] = []
        self._session: aiohttp.ClientSession

    def add(
        self,
        fault: Fault,
        *,
        operation: str | None = None,
        when: Callable[[Call], bool] = lambda _: True,
        times: float = float("inf"),
    ) -> None:
        """Answer the next *times* calls of *operation* with *fault*, if *when* returns true for them."""
        self._rules.append(_Rule(fault, operation, when, times))

    def clear(self) -> None:
        """Remove all rules and recorded calls."""
        self._rules.clear()
        self.calls.clear()
        self.answered = 0

    def count(self, operation: str | None = None) -> int:
        """Return how many calls of *operation* arrived."""
        return sum(operation in (None, call.operation) for call in self.calls)

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["FaultProxy"]:
        """Listen on a free port of loopback, over https with *tls*."""
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._handle)
        # A hanging handler is cancelled when its client disconnects, so the shutdown needs no long timeout.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession() as self._session:
                yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        call = Call(operation, json.loads(await request.read() or b"{}"), self.count(operation), request)
        self.calls.append(call)

        async def forward(body: Json) -> Json:
            headers = {k: v for k, v in request.headers.items() if k.lower() not in {"content-length", "host"}}
            async with self._session.post(self.target, data=json.dumps(body), headers=headers) as response:
                return {"status": response.status, "body": await response.json(content_type=None)}

        for rule in self._rules:
            if rule.times > 0 and rule.operation in (None, operation) and rule.when(call):
                rule.times -= 1
                self.answered += 1
                return await rule.fault(call, forward)
        return await passed_on(call, forward)


async def passed_on(call: Call, forward: Forward) -> web.Response:
    """Forward the request and return the store's answer."""
    answer = await forward(call.body)
    return _json(answer["body"], answer["status"])


def error(code: str, message: str = "", status: int = 400) -> Fault:
    """Answer with a service error."""

    async def fault(_: Call, __: Forward) -> web.Response:
        return _json({"__type": code, "message": message}, status)

    return fault


def throttled() -> Fault:
    """Answer with a throttling error, as Parameter Store does beyond its quota."""
    return error("ThrottlingException", "Rate exceeded")


def raw(body: bytes, status: int = 200) -> Fault:
    """Answer with these bytes."""

    async def fault(_: Call, __: Forward) -> web.Response:
        return web.Response(body=body, status=status, content_type="application/x-amz-json-1.1")

    return fault


def truncated(part: float = 0.5) -> Fault:
    """Answer with the first part of the correct body, and with the length of that part."""

    async def fault(call: Call, forward: Forward) -> web.Response:
        body = json.dumps((await forward(call.body))["body"]).encode()
        return web.Response(body=body[: int(len(body) * part)], content_type="application/x-amz-json-1.1")

    return fault


def hang(seconds: float = 3600) -> Fault:
    """Answer after *seconds*; by default practically never."""

    async def fault(call: Call, forward: Forward) -> web.Response:
        await asyncio.sleep(seconds)
        return await passed_on(call, forward)

    return fault


def reset(*, rst: bool = False) -> Fault:
    """Close the connection without an answer, with FIN or with RST."""

    async def fault(call: Call, _: Forward) -> web.Response:
        transport = call.request.transport
        assert transport is not None
        if rst:
            # A linger time of zero makes close() send RST.
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        return web.Response()

    return fault


def changed(change: Callable[[Json, Json], Json]) -> Fault:
    """Answer with the result of *change*, which gets the JSON of the request and of the correct answer."""

    async def fault(call: Call, forward: Forward) -> web.Response:
        answer = await forward(call.body)
        return _json(change(call.body, answer["body"]), answer["status"])

    return fault


def ragged_pages(draw: Callable[[], float]) -> Fault:
    """Split pages as the service may: 0 to 10 parameters on a page, and a token while there are more."""

    async def fault(call: Call, forward: Forward) -> web.Response:
        body = dict(call.body)
        token = body.pop("NextToken", "")
        if not token.startswith("again-") and draw() < 0.3:
            return _json({"Parameters": [], "NextToken": f"again-{token}"}, 200)
        real = token.removeprefix("again-").removeprefix("at-")
        body |= {"MaxResults": 1 + int(draw() * 10)} | ({"NextToken": real} if real else {})
        answer = await forward(body)
        page = answer["body"]
        if "NextToken" in page:
            page["NextToken"] = f"at-{page['NextToken']}"
        return _json(page, answer["status"])

    return fault


def _json(body: Json, status: int) -> web.Response:
    return web.Response(
        text=json.dumps(body),
        status=status,
        content_type="application/x-amz-json-1.1",
        headers={"x-amzn-RequestId": "00000000-0000-0000-0000-000000000000"},
    )


class Server:
    """
    A stand-in for an HTTP service that sends raw bytes: STS, a credentials endpoint, or a proxy.

    *answer* gets each request (head and body) and returns the bytes to send before the connection closes; with `None`
    nothing is sent and the connection stays open. *requests* lists the requests that arrived.
    """

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        """Listen on a free port of loopback."""
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        handlers: set[asyncio.Task[None]] = set()
        self._handlers = handlers
        try:
            yield self
        finally:
            server.close()
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = asyncio.current_task()
        assert here
        self._handlers.add(here)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                request = head + (await reader.readexactly(int(length[1])) if length else b"")
                self.requests.append(request)
                answer = self.answer(request)
                if answer is None:
                    await asyncio.sleep(3600)
                writer.write(answer or b"")
                await writer.drain()
        finally:
            self._handlers.discard(here)
            writer.close()


def http(body: str | bytes = b"", status: int = 200, kind: str = "text/xml") -> bytes:
    """Return a whole HTTP response."""
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + content


def cut(part: float, *, chunked: bool = False, rst: bool = False) -> Fault:
    """
    Send the first part of the correct body in pieces, and then close the connection with FIN or with RST.

    *chunked*: send chunks and no length; otherwise the length is that of the whole body.
    """

    async def fault(call: Call, forward: Forward) -> web.Response:
        body = json.dumps((await forward(call.body))["body"]).encode()
        transport = call.request.transport
        assert transport is not None
        length = b"Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}".encode()
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n" + length + b"\r\n\r\n")
        end = int(len(body) * part)
        for begin in range(0, end, 1000):
            piece = body[begin : min(end, begin + 1000)]
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            # Give the client time to read each piece: a RST discards what it has not read yet.
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.01)
        if rst:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        return web.Response()

    return fault
