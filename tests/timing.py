"""A clock that stands still until a test moves it."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A `Clock` whose time passes in `advance()` only."""

    def __init__(self) -> None:
        self._now = 0.0
        self._turn = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the seconds that were advanced so far."""
        return self._now

    def wall(self) -> datetime:
        """Return the same as a time of day."""
        return _EPOCH + timedelta(seconds=self._now)

    async def sleep(self, seconds: float) -> None:
        """Return when the time was advanced far enough."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._turn), done))
        await done

    async def advance(self, seconds: float) -> None:
        """Let time pass, and wake each sleeper at its time; what it does without waiting for a socket is then done."""
        await settle()
        until = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            self._now, _, done = heapq.heappop(self._sleepers)
            if not done.done():
                done.set_result(None)
                await settle()
        self._now = until
        await settle()


async def settle() -> None:
    """Let every task run until it waits for something outside the loop."""
    for _ in range(30):
        await asyncio.sleep(0)


async def our_tasks() -> set[str]:
    """Return the names of the library's tasks that have not ended, after those that were cancelled had their turn."""
    await settle()
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("aiossmenv")}


async def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    """Return once *condition* holds, which real sockets and threads bring about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
