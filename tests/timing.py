"""Waiting, in tests: for the loop's tasks, and for what real sockets and threads bring about."""

import asyncio
from collections.abc import Callable

from aiossmenv.testing import _settle as settle

__all__ = ["eventually", "our_tasks", "settle"]


async def our_tasks() -> set[str]:
    """Return the names of the library's tasks that have not ended, after those that were cancelled had their turn."""
    await settle()
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("aiossmenv")}


async def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    """Return once *condition* holds, which real sockets and threads bring about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
