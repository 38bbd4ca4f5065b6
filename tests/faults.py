"""
A proxy between a client and a Parameter Store that does what emulators never do.

Rules are asked in the order they were added; the first that applies answers, `times` times. Whatever no rule
answers is passed on.
"""

import asyncio
import contextlib
import json
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
    """One request as it arrived; *number* counts those of its operation from 0."""

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
    """*url* is what clients talk to; *calls* is all that arrived, and *answered* how many of it rules took."""

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
        """Answer with *fault* the next *times* calls of *operation* for which *when* holds."""
        self._rules.append(_Rule(fault, operation, when, times))

    def clear(self) -> None:
        """Forget all rules and calls."""
        self._rules.clear()
        self.calls.clear()
        self.answered = 0

    def count(self, operation: str | None = None) -> int:
        """Return how many calls of *operation* arrived."""
        return sum(operation in (None, call.operation) for call in self.calls)

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["FaultProxy"]:
        """Listen on a free port of loopback; *tls*: clients come over https."""
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._handle)
        # A handler that hangs is ended when its client goes away, and so is not waited for.
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
    """Answer as the store does."""
    answer = await forward(call.body)
    return _json(answer["body"], answer["status"])


def error(code: str, message: str = "", status: int = 400) -> Fault:
    """Answer with an error of the service."""

    async def fault(_: Call, __: Forward) -> web.Response:
        return _json({"__type": code, "message": message}, status)

    return fault


def throttled() -> Fault:
    """Answer as Parameter Store does beyond its quota."""
    return error("ThrottlingException", "Rate exceeded")


def raw(body: bytes, status: int = 200) -> Fault:
    """Answer with these bytes."""

    async def fault(_: Call, __: Forward) -> web.Response:
        return web.Response(body=body, status=status, content_type="application/x-amz-json-1.1")

    return fault


def truncated(part: float = 0.5) -> Fault:
    """Answer with the first part of the right body, and a length that fits it."""

    async def fault(call: Call, forward: Forward) -> web.Response:
        body = json.dumps((await forward(call.body))["body"]).encode()
        return web.Response(body=body[: int(len(body) * part)], content_type="application/x-amz-json-1.1")

    return fault


def hang(seconds: float = 3600) -> Fault:
    """Answer late, or never."""

    async def fault(call: Call, forward: Forward) -> web.Response:
        await asyncio.sleep(seconds)
        return await passed_on(call, forward)

    return fault


def reset(*, rst: bool = False) -> Fault:
    """Close the connection instead of answering: in order (FIN), or with a bang (RST)."""

    async def fault(call: Call, _: Forward) -> web.Response:
        transport = call.request.transport
        assert transport is not None
        if rst:
            # Linger for no time at all: close() then sends RST.
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        return web.Response()

    return fault


def changed(change: Callable[[Json, Json], Json]) -> Fault:
    """Answer with what *change* makes of the request's and the right answer's JSON."""

    async def fault(call: Call, forward: Forward) -> web.Response:
        answer = await forward(call.body)
        return _json(change(call.body, answer["body"]), answer["status"])

    return fault


def ragged_pages(draw: Callable[[], float]) -> Fault:
    """Page as the service may: any number of parameters from 0 to 10 on a page, and a token as long as there are more."""

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
