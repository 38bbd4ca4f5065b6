# One owner: the generations of one resource, who holds a lease on which, and the task that builds the next.
"""
A resource that follows its keys.

A *generation* is what was built from one set of values. Exactly one is current; entering takes a lease on it. When
the values change, a follower task builds the next generation and proves it with a probe; then it becomes current by
one assignment. The old one is retired: it is disposed of when its last lease ends, or after `drain_timeout`. A build
that fails changes nothing: the old generation serves on, and values are asked for anew.

Refused credentials are news: whoever is refused on entering sets `_refused`, the follower asks for a refresh, and the
entering is tried again, on a newer generation at once, else with full jitter, until `retry_deadline`. A body is never
tried again. All that changes a generation is in `_Generations`, which has no await.
"""

import asyncio
import logging
import random as dice
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, overload

from aiossmenv._backoff import Backoff
from aiossmenv._clock import Clock, LoopClock
from aiossmenv._errors import RotationFailed

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("aiossmenv")

Verdict = Literal["refused", "transient"] | None
State = Literal["NEW", "READY", "DEGRADED", "CLOSED"]


class Source(Protocol):
    """What a `Rotating` needs of an `Env`."""

    @property
    def snapshot(self) -> Mapping[str, str]:
        """The newest complete values."""

    def on_change(self, callback: Callable[[object], None], *keys: str) -> Callable[[], None]:
        """Call *callback* when one of *keys* changes; returns what ends that."""

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> object:
        """Read *keys* anew."""


@dataclass(eq=False, slots=True)
class _Generation(Generic[T]):
    number: int
    values: Mapping[str, str] = field(repr=False)
    resource: T
    leases: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class _Generations(Generic[T]):
    """Which generation is current and which are retiring; no method waits for anything."""

    def __init__(self) -> None:
        self.current: _Generation[T] | None = None
        self.retiring: set[_Generation[T]] = set()
        self.number = 0

    def acquire(self) -> _Generation[T] | None:
        """Take a lease on the current generation."""
        if self.current:
            self.current.leases += 1
        return self.current

    def release(self, generation: _Generation[T]) -> None:
        """Give a lease back, to the generation that it was taken on."""
        generation.leases -= 1
        if not generation.leases and generation in self.retiring:
            generation.idle.set()

    def swap(self, values: Mapping[str, str], resource: T) -> _Generation[T] | None:
        """Make a new generation current; returns the old one, which is to be disposed of when it is idle."""
        old = self.close()
        self.number += 1
        self.current = _Generation(self.number, values, resource)
        return old

    def close(self) -> _Generation[T] | None:
        """Leave none current; returns the one that was, which is to be disposed of when it is idle."""
        old, self.current = self.current, None
        if old:
            self.retiring.add(old)
            if not old.leases:
                old.idle.set()
        return old


class Rotating(Generic[T]):
    """
    A resource that is rebuilt when its keys change, while it is in use.

    *env*: an `Env`. *keys*: its keys that the resource is made of. *create*: from a mapping of these keys to a new
    resource; *probe*: proves that it works, a real login where there is one; *dispose*: closes it. *classify* says of
    an error on entering whether it is `"refused"` (the credentials; refresh, try again), `"transient"` (try again) or
    `None` (raise it); by default all are raised.

    Seconds: *build_timeout* 5 for create and probe; *drain_timeout* 30 for leases on an old generation, more than
    your longest use; *dispose_timeout* 3; *retry_deadline* 10 for entering, after which the original error comes out;
    *min_gap* 0.25 between forced refreshes, doubling to 5 while they bring no news.

    Use it with `async with`; then `async with rotating.use() as resource`.
    """

    def __init__(
        self,
        env: Source,
        keys: Iterable[str],
        create: Callable[[Mapping[str, str]], Awaitable[T]],
        probe: Callable[[T], Awaitable[object]] | None = None,
        dispose: Callable[[T], Awaitable[object]] | None = None,
        *,
        classify: Callable[[Exception], Verdict] = lambda _: None,
        build_timeout: float = 5.0,
        drain_timeout: float = 30.0,
        dispose_timeout: float = 3.0,
        retry_deadline: float = 10.0,
        min_gap: float = 0.25,
        clock: Clock | None = None,
        random: Callable[[], float] = dice.random,
    ) -> None:
        self._env = env
        self._keys = tuple(keys)
        self._create = create
        self._probe = probe
        self._dispose = dispose
        self._classify = classify
        self._build_timeout = build_timeout
        self._drain_timeout = drain_timeout
        self._dispose_timeout = dispose_timeout
        self._retry_deadline = retry_deadline
        self._clock: Clock = clock or LoopClock()
        self._random = random
        self._entering = Backoff(base=0.02, cap=1.0)
        self._asking = Backoff(base=min_gap, cap=max(min_gap, 5.0))
        self._generations: _Generations[T] = _Generations()
        self._state: State = "NEW"
        self._refused = False
        self._news = asyncio.Event()
        self._swapped = asyncio.Event()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._follower: asyncio.Task[None] | None = None
        self._retirements: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> State:
        """`READY`; `DEGRADED`: the newest values do not work, the ones before serve; `CLOSED`; `NEW` before entering."""
        return self._state

    @property
    def generation(self) -> int:
        """How many generations there have been."""
        return self._generations.number

    def __repr__(self) -> str:
        retiring = len(self._generations.retiring)
        return f"<{type(self).__name__} {', '.join(self._keys)}: {self._state}, generation {self.generation}, {retiring} retiring>"

    @overload
    def use(self) -> AbstractAsyncContextManager[T]: ...
    @overload
    def use(self, enter: Callable[[T], AbstractAsyncContextManager[R]]) -> AbstractAsyncContextManager[R]: ...
    @asynccontextmanager
    async def use(self, enter: Callable[[T], AbstractAsyncContextManager[Any]] = nullcontext) -> AsyncIterator[Any]:
        """
        Lease the current generation's resource, or what *enter* makes of it, until the block ends.

        Entering is tried again as `classify` says; the block never is. Raises `RotationFailed` when closed.
        """
        async with AsyncExitStack() as stack:
            yield await self._enter(enter, stack)

    async def aclose(self) -> None:
        """Let leases end, for at most `drain_timeout` seconds, and dispose of everything; idempotent."""
        if self._state == "CLOSED":
            return
        self._state = "CLOSED"
        self._unsubscribe()
        self._swapped.set()
        if self._follower:
            await _insist(self._follower)
        self._retire(self._generations.close())
        while self._retirements:
            await asyncio.wait(set(self._retirements))

    async def __aenter__(self) -> Self:
        self._unsubscribe = self._env.on_change(lambda _: self._news.set(), *self._keys)
        try:
            await self._build(self._values())
        except BaseException as error:
            await self.aclose()
            if not isinstance(error, Exception):
                raise
            raise RotationFailed(
                f"nothing could be built from {', '.join(self._keys)}: {_named(error)}",
                remedy="Check these parameters, and that what they lead to is up.",
            ) from error
        self._follower = asyncio.create_task(self._follow(), name=f"aiossmenv follower of {', '.join(self._keys)}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _enter(self, enter: Callable[[T], AbstractAsyncContextManager[R]], stack: AsyncExitStack) -> R:
        deadline = self._clock.now() + self._retry_deadline
        failures = 0
        while True:
            generation = self._generations.acquire()
            if generation is None:
                raise RotationFailed(f"{self!r} is not open", remedy="Use it inside its `async with` block.")
            try:
                context = enter(generation.resource)
                entered = await context.__aenter__()
            except BaseException as error:
                self._generations.release(generation)
                verdict = self._classify(error) if isinstance(error, Exception) else None
                failures += 1
                delay = self._entering.delay_within(failures, self._random(), deadline - self._clock.now())
                if verdict is None or delay is None:
                    raise
            else:
                stack.callback(self._generations.release, generation)
                stack.push_async_exit(context)
                return entered
            if self._generations.current is generation:
                if verdict == "refused":
                    self._refused = True
                    self._news.set()
                await self._pause(delay, self._swapped)

    async def _follow(self) -> None:
        failures, tried, asked = 0, None, self._clock.now()
        while True:
            self._news.clear()
            try:
                values = self._values()
                current = self._generations.current
                if not current or values != current.values:
                    # What failed before is not held against values that are new.
                    failures, tried = (failures if values == tried else 0), values
                    await self._build(values)
                    failures = 0
                    continue
                self._state, tried = "READY", None
                if not self._refused:
                    await self._news.wait()
                    if self._clock.now() - asked > 2 * self._asking.cap:
                        failures = 0
                    continue
                self._refused = False
                failures += 1
            except Exception as error:
                self._state = "DEGRADED"
                failures += 1
                logger.warning("generation %d serves on, the next cannot be built: %s", self.generation, _named(error))
                if self._classify(error) != "refused":
                    await self._pause(self._entering.delay(failures, self._random()), self._news)
                    continue
            asked = self._clock.now()
            await self._ask(failures)

    async def _ask(self, failures: int) -> None:
        """Ask for news of the keys; ever more rarely while there is none."""
        gap = self._asking.ceiling(failures)
        try:
            await self._env.refresh(*self._keys, min_gap=gap)
        except Exception as error:
            logger.warning("forced refresh of %s failed: %s", ", ".join(self._keys), _named(error))
            await self._pause(gap, self._news)

    async def _build(self, values: Mapping[str, str]) -> None:
        """Make the next generation from *values* and let it serve, or raise and change nothing."""
        resource = await self._bounded(self._built(values), self._build_timeout, undo=self._close)
        if self._state == "CLOSED":
            await self._close(resource)
            raise RotationFailed(f"{self!r} was closed while it was built")
        self._retire(self._generations.swap(values, resource))
        self._state, self._refused = "READY", False
        self._swapped.set()
        self._swapped.clear()
        if self.generation > 1:
            logger.info("generation %d of %s serves", self.generation, ", ".join(self._keys))

    async def _built(self, values: Mapping[str, str]) -> T:
        resource = await self._create(values)
        try:
            if self._probe:
                await self._probe(resource)
        except BaseException:
            await self._close(resource)
            raise
        return resource

    def _values(self) -> Mapping[str, str]:
        snapshot = self._env.snapshot
        missing = [key for key in self._keys if key not in snapshot]
        if missing:
            raise RotationFailed(
                f"there is no {', '.join(missing)}", remedy="Create the parameters, or pass other keys."
            )
        return _Values(snapshot, self._keys)

    def _retire(self, generation: _Generation[T] | None) -> None:
        if generation:
            retirement = asyncio.create_task(self._drain(generation), name="aiossmenv drain")
            self._retirements.add(retirement)
            retirement.add_done_callback(self._retirements.discard)

    async def _drain(self, generation: _Generation[T]) -> None:
        await self._pause(self._drain_timeout, generation.idle)
        if generation.leases:
            logger.warning(
                "generation %d of %s is closed under %d users after %g s: make drain_timeout longer than their longest use",
                generation.number,
                ", ".join(self._keys),
                generation.leases,
                self._drain_timeout,
            )
        await self._close(generation.resource)
        self._generations.retiring.discard(generation)

    async def _close(self, resource: T) -> None:
        if self._dispose:
            try:
                await self._bounded(self._disposed(resource), self._dispose_timeout)
            except Exception as error:
                logger.warning("an old generation of %s was not closed: %s", ", ".join(self._keys), _named(error))

    async def _disposed(self, resource: T) -> None:
        assert self._dispose
        await self._dispose(resource)

    async def _bounded(
        self, work: Coroutine[object, None, R], seconds: float, undo: Callable[[R], Awaitable[None]] | None = None
    ) -> R:
        """Run *work* in a task that has ended when this returns; *undo* what it gives when nobody will have it."""
        task = asyncio.create_task(work)
        in_time = False
        try:
            await self._pause(seconds, task)
            in_time = task.done()
        finally:
            await _insist(task)
            if undo and not in_time and task.done() and not task.cancelled() and not task.exception():
                await undo(task.result())
        if not in_time:
            raise TimeoutError(f"not done within {seconds:g} s")
        return task.result()

    async def _pause(self, seconds: float, until: "asyncio.Event | asyncio.Task[Any]") -> None:
        what = asyncio.create_task(until.wait()) if isinstance(until, asyncio.Event) else until
        alarm = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait({what, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            if what is not until:
                what.cancel()


class _Values(Mapping[str, str]):
    """Values of some keys, compared by value; its repr, which a traceback may show, has none of them."""

    def __init__(self, snapshot: Mapping[str, str], keys: Iterable[str]) -> None:
        self._values = {key: snapshot[key] for key in keys}

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<values of {', '.join(self)}>"


async def _insist(task: "asyncio.Task[Any]") -> None:
    """Cancel until it has ended: on Python 3.11 `asyncio.wait_for`, which drivers use, can swallow a cancellation."""
    for _ in range(50):
        if task.done():
            return
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)


def _named(error: BaseException) -> str:
    """Name an error for a log: its type and number. Drivers write user names into the text, and those are secrets."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else ""
    return f"{type(error).__name__} {number}".strip()


Rotating.__module__ = "aiossmenv"
