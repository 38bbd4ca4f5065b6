"""
Stalls of the loop, and memory, measured in a process that has never loaded the SDK.

`fetch.py` runs it as `alone.py stall PORT PATH` and `alone.py memory PORT PATH`, with the port of a `Store` that holds
many parameters under PATH and a few under PATH-few; it prints one JSON object.

*stall*: a task sleeps for a millisecond again and again, and records how late it wakes up. While nothing else runs,
that is the delay of this machine's scheduler, which is printed too. The worst stall is also printed without the time of
Python's garbage collector: a full collection visits every object of the process and stops all threads, and it runs
after a number of new objects, no matter which code created them. The time of one full collection with the SDK loaded
and no parameters is printed as well.

*memory*: what tracemalloc counts for an `Env` of many parameters after a garbage collection. The SDK and its client
exist before, from a load of PATH-few. The values themselves, and the contents of os.environ, are subtracted.
"""

import asyncio
import contextlib
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiossmenv import ParameterStore, load_env

if TYPE_CHECKING:
    from benchmarks.store import Control
else:
    # A script finds modules in its own directory; mypy finds them in the parent directory.
    from store import Control

# In seconds, so that no background refresh starts during a measurement.
_NEVER = 1e6
_TICK = 0.001


class Ticker:
    """A task that measures how long other code blocks the loop."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._collected: list[tuple[float, float]] = []
        self._began = 0.0

    @property
    def worst(self) -> float:
        """The longest delay of a wake-up, in seconds."""
        return max(end - begin for begin, end in self._late)

    @property
    def own(self) -> float:
        """The longest delay without garbage collection, in seconds."""
        return max(
            end - begin - sum(max(0.0, min(end, stop) - max(begin, start)) for start, stop in self._collected)
            for begin, end in self._late
        )

    async def run(self) -> None:
        """Tick until cancelled."""
        gc.callbacks.append(self._collecting)
        try:
            while True:
                due = time.perf_counter() + _TICK
                await asyncio.sleep(_TICK)
                self._late.append((due, time.perf_counter()))
        finally:
            gc.callbacks.remove(self._collecting)

    def _collecting(self, phase: str, _: dict[str, int]) -> None:
        # Store the time and evaluate it at the end: if a thread collects, the loop may wake up first.
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._collected.append((self._began, time.perf_counter()))


@contextlib.asynccontextmanager
async def _watched(name: str, report: dict[str, float]) -> AsyncIterator[None]:
    """Store the worst stall of this block in *report*, in milliseconds."""
    ticker = Ticker()
    task = asyncio.create_task(ticker.run())
    await asyncio.sleep(0)
    begun = time.perf_counter()
    yield
    report[f"{name} took"] = 1000 * (time.perf_counter() - begun)
    # The ticker wakes up only after the last code that blocked the loop.
    await asyncio.sleep(2 * _TICK)
    task.cancel()
    report[name] = 1000 * ticker.worst
    report[f"{name} without collector"] = 1000 * ticker.own


async def stall(control: Control, path: str) -> dict[str, float]:
    """Return the worst stall of each phase, in milliseconds."""
    report: dict[str, float] = {}
    async with _watched("idle", report):
        await asyncio.sleep(0.5)
    async with contextlib.AsyncExitStack() as stack:
        async with _watched("first load", report):
            env = await stack.enter_async_context(load_env(path, ttl=_NEVER))
        async with _watched("complete refresh", report):
            await env.refresh()
        async with _watched("poll", report):
            await env.refresh(*env)
        await asyncio.to_thread(control.change, [parameter.name for parameter in env.parameters.values()])
        async with _watched("refresh of changed", report):
            changes = await env.refresh()
        assert len(changes) == len(env)
        del env, changes
    await asyncio.sleep(0.1)
    gc.collect()
    begun = time.perf_counter()
    gc.collect()
    report["full collection"] = 1000 * (time.perf_counter() - begun)
    return report


async def memory(path: str) -> dict[str, float]:
    """Return bytes per parameter, without the values and os.environ, after a load and after a refresh."""
    report: dict[str, float] = {}
    async with ParameterStore() as store, load_env(f"{path}-few", ttl=_NEVER, store=store):
        before = await _traced()
        async with load_env(path, ttl=_NEVER, store=store) as env:
            # os.environ stores its own bytes: two objects for each variable.
            copies = sum(sys.getsizeof(text.encode()) for item in env.items() for text in item)
            values = sum(sys.getsizeof(value) for value in env.values())
            report["first load"] = (await _traced() - before - values - copies) / len(env)
            await env.refresh()
            report["after a refresh"] = (await _traced() - before - values - copies) / len(env)
            report |= {"values": values / len(env), "os.environ": copies / len(env)}
    return report


async def _traced() -> int:
    # What a task or a thread did last is let go of in the loop's next turns.
    await asyncio.sleep(0.1)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def main() -> None:
    """Measure, and print it as JSON."""
    what, port, path = sys.argv[1:]
    if what == "memory":
        tracemalloc.start()
        report = asyncio.run(memory(path))
    else:
        report = asyncio.run(stall(Control(int(port)), path))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
