"""Time, waits between tries, the event loop that an object lives on, and calls that several callers share."""

import asyncio
import itertools
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from aiossmenv._errors import StoreUnavailable

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")


class Process:
    """The id of this process, kept because to ask for it takes longer than to read a value."""

    __slots__ = ("id",)

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Ask for it; in a child process after a fork."""
        self.id = os.getpid()


process = Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process.renew)


class Home:
    """
    The event loop that an object lives on.

    asyncio's tasks, locks, events and connections work on the loop that they were made on, and no other. Another loop
    is noticed at use, by the identity of the running loop; a fork, which copies the loop, by the id of the process.
    """

    def __init__(self) -> None:
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._pid = 0
        self._lock = threading.Lock()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop; `None` before the first use, when it is gone, and in a child process."""
        return self._loop() if self._loop and self._pid == process.id else None

    def is_forked(self) -> bool:
        """Whether this process is a child of the one that this was used in."""
        return self._pid not in (0, process.id)

    def is_elsewhere(self) -> bool:
        """Whether there is a home, and the loop that runs here, if one does, is another; changes nothing."""
        here = asyncio._get_running_loop()
        return self._loop is not None and here is not None and self.loop is not here

    def refuse_other_thread(self, what: object) -> None:
        """Raise `RuntimeError` if *what* lives on the running loop of another thread."""
        loop = self.loop
        if loop and loop.is_running() and self.is_elsewhere():
            raise RuntimeError(
                f"{what!r} is in use on the event loop of another thread: make one for each loop,"
                " or use asyncio.run_coroutine_threadsafe()"
            )

    def moved(self, what: object) -> bool:
        """Make the running loop the home of *what*; whether another one was, which must not be running any more."""
        with self._lock:
            self.refuse_other_thread(what)
            elsewhere = self.is_elsewhere()
            self._loop, self._pid = weakref.ref(asyncio.get_running_loop()), process.id
            return elsewhere


class SingleFlight(Generic[K, T]):
    """
    One running call for each key, shared by its callers.

    A cancelled caller leaves the call to the others; the last one cancels it and waits until it has ended.
    """

    def __init__(self) -> None:
        self._calls: dict[K, tuple[asyncio.Task[T], set[object]]] = {}

    async def do(self, key: K, call: Callable[[], Coroutine[object, object, T]]) -> T:
        """Return what the call that runs for *key* gives; *call* begins one if none does."""
        running = self._calls.get(key)
        if not running or running[0].done():
            # A finished task stays registered until its callback runs; do not join it.
            task = asyncio.create_task(call(), name=f"aiossmenv {type(key).__name__}")
            self._calls[key] = task, set()
            task.add_done_callback(lambda done: self._forget(key, done))
        task, waiters = self._calls[key]
        me = object()
        waiters.add(me)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            here = asyncio.current_task()
            if task.cancelled() and here and not here.cancelling():
                # The call was cancelled, and not its caller.
                raise StoreUnavailable("it was closed while it was read", transient=False) from None
            raise
        finally:
            waiters.discard(me)
            if not waiters and not task.done():
                # Unregistered first: a new caller must not join a call that is being cancelled.
                self._forget(key, task)
                task.cancel()
                await asyncio.wait({task})

    def _forget(self, key: K, task: "asyncio.Task[T]") -> None:
        if key in self._calls and self._calls[key][0] is task:
            del self._calls[key]
        if task.done() and not task.cancelled():
            task.exception()  # retrieved: else asyncio would log it, because no caller is left

    def __iter__(self) -> Iterator[K]:
        return (key for key, (task, _) in self._calls.items() if not task.done())

    async def aclose(self) -> None:
        """Cancel every call."""
        tasks = [task for task, _ in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Clock(Protocol):
    """What tells the time and lets it pass; tests pass in one of their own."""

    def now(self) -> float:
        """Return seconds that never run backwards, from any beginning."""

    def wall(self) -> datetime:
        """Return the time of day, with time zone."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


Clock.__module__ = "aiossmenv"


class LoopClock:
    """The time of this machine."""

    now = staticmethod(time.monotonic)

    def wall(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """
    How long to wait after a failure.

    *base*: ceiling of the first wait, in seconds. *cap*: the highest ceiling, in seconds.
    """

    base: float = 0.1
    cap: float = 60.0

    def ceiling(self, failures: int) -> float:
        """Return the longest wait in seconds after this many failures in a row (1 or more)."""
        # The exponent is bounded first: 2.0 ** 1024 is an OverflowError, and a long outage gets there.
        return min(self.cap, self.base * 2.0 ** min(failures - 1, 60))

    def delay(self, failures: int, draw: float) -> float:
        """Return a wait in seconds; *draw* is a random number from 0 to 1."""
        return draw * self.ceiling(failures)

    def delay_within(self, failures: int, draw: float, remaining: float) -> float | None:
        """
        Return a wait in seconds that ends before *remaining* seconds are over, or `None` if it is time to give up.

        A ceiling beyond the deadline is lowered to it instead of giving up early; what is left at the very end is
        not worth a try, and would be sliced ever thinner.
        """
        if remaining <= self.base:
            return None
        return draw * min(self.ceiling(failures), remaining)


async def wait_for(task: "asyncio.Task[object]", clock: Clock, seconds: float) -> bool:
    """Wait until *task* has ended, at most so many *seconds* of *clock*; return whether it has."""
    alarm = asyncio.create_task(clock.sleep(seconds), name="aiossmenv alarm")
    try:
        await asyncio.wait({task, alarm}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        alarm.cancel()
    return task.done()


async def cancel_and_wait(task: "asyncio.Task[object]") -> None:
    """
    Cancel *task*, and wait until it has ended.

    It may end with an error all the same, when its deadline and that of its caller come together. That error is
    retrieved here: else asyncio would log it, with its traceback, as one that was never retrieved.
    """
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def for_each(items: Iterable[V], do: Callable[[V], Awaitable[None]], *, at_once: int) -> None:
    """
    Call *do* with each of *items*, *at_once* at a time, and wait for all.

    The items are taken as there is room for them. The first error cancels the others, and is raised as it is.
    """
    left = iter(items)

    async def work(first: V) -> None:
        await do(first)
        for item in left:
            await do(item)

    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for first in itertools.islice(left, at_once):
                group.create_task(work(first), name="aiossmenv request")
    except BaseExceptionGroup as errors:
        failure = errors
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    # Not raised above, where it would get the group as its context.
    if failure:
        raise failure
