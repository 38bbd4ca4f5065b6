"""Ways to wait in tests: for the loop's tasks, and for real sockets and threads."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiossmenv.testing import ManualClock
from aiossmenv.testing import _settle as settle

__all__ = ["eventually", "our_tasks", "passing", "run_scenario", "settle"]

T = TypeVar("T")


async def our_tasks() -> set[str]:
    """Return the names of the library's unfinished tasks, after the cancelled ones had time to end."""
    await settle()
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("aiossmenv")}


async def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait until *condition* is true; use it for the effects of real sockets and threads."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def _sends(task: asyncio.Task[object]) -> bool:
    """Return whether *task* waits for an answer from the network, or for the thread that imports the SDK."""
    waiting: object = task.get_coro()
    while waiting is not None:
        code = getattr(waiting, "cr_code", None)
        if code is not None and code.co_qualname in {"BotoTransport.send", "ParameterStore._connected"}:
            return True
        waiting = getattr(waiting, "cr_await", None)
    return False


async def passing(clock: ManualClock, work: Awaitable[T]) -> T:
    """Run *work*, and advance the clock to its next timer whenever no request is in flight."""

    def waits() -> bool:
        return doing.done() or not any(map(_sends, asyncio.all_tasks()))

    doing = asyncio.ensure_future(work)
    while not doing.done():
        await eventually(waits, 60)
        await settle()
        due = [when for when, _, sleeper in clock._sleepers if not sleeper.done()]
        if waits() and due:
            await clock.advance(min(due) - clock.now() + 1e-9)
    return await doing


def run_scenario(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run *scenario*, and check that it leaves no task."""

    async def whole() -> None:
        await scenario()
        assert set() == await our_tasks()

    asyncio.run(whole())
