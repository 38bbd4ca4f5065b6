"""Requests of one kind, sent at the pace that the account allows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from aiossmenv._concurrency import Backoff, Clock, wait_for
from aiossmenv._errors import AiossmenvError, StoreUnavailable, Throttled
from aiossmenv._ssm.limiter import AdaptiveRateLimiter
from aiossmenv._ssm.service_errors import CONFIG_REMEDY, InvalidNextToken, error_of_answer, locate
from aiossmenv._ssm.transport import Answer, Request, ServiceError, Transport

A = TypeVar("A", bound=Answer)

BACKOFF = Backoff()


@dataclass(slots=True)
class ReadStats:
    """What reads cost: *requests* sent, how many of them were *throttled*, and how many values were *decrypted*."""

    requests: int = 0
    throttled: int = 0
    decrypted: int = 0


class Sender:
    """
    Sends requests through one transport, on one event loop.

    *connect* returns the transport. *limiter* sets the pace. *random* gives numbers from 0 to 1.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Transport]],
        *,
        limiter: AdaptiveRateLimiter,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self.clock = clock
        self.random = random
        self._connect = connect
        self._transport: Transport | None = None
        self._limiter = limiter
        # Set when an answer comes, and with it room for a request.
        self._wakeup = asyncio.Event()
        self._send_lock = asyncio.Lock()

    async def send(self, request: Request, answer: type[A], stats: ReadStats) -> A | AiossmenvError:
        """Send one request, once, as soon as the rate limit allows; return its answer, or what is wrong."""
        key = object()
        transport = self._transport = await self._wait_for_turn(key)
        stats.requests += 1
        result: Answer | AiossmenvError
        try:
            result = await transport.send(request)
        except ServiceError as error:
            result = error_of_answer(error, request)
            locate(result, request, transport.region)
        except AiossmenvError as error:
            result = error
        except BaseException:
            self._limiter.forget(key)
            self._wakeup.set()
            raise
        throttled = isinstance(result, Throttled)
        stats.throttled += throttled
        good = isinstance(result, (answer, InvalidNextToken))
        self._limiter.answered(key, self.clock.now(), "good" if good else "throttled" if throttled else "failed")
        self._wakeup.set()
        if isinstance(result, (answer, AiossmenvError)):
            return result
        return StoreUnavailable("the transport gave the answer of another request", remedy=CONFIG_REMEDY)

    async def _wait_for_turn(self, key: object) -> Transport:
        async with self._send_lock:
            # One request in a turn of the loop: making and signing one takes the SDK half a millisecond, and twenty of
            # them in one turn would hold the loop.
            await asyncio.sleep(0)
            while seconds := self._limiter.seconds_to_wait(self.clock.now()):
                self._wakeup.clear()
                woken = asyncio.create_task(self._wakeup.wait(), name="aiossmenv wakeup")
                try:
                    await wait_for(woken, self.clock, seconds)
                finally:
                    woken.cancel()
            transport = await self._connect()
            self._limiter.sent(key, self.clock.now())
            return transport
