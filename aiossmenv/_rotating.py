# One owner: the task that builds the next generation of one resource.
"""
A resource that follows its keys.

A *generation* is what was built from one set of values. Exactly one is current; entering takes a lease on it. A
follower task builds the first and, when the values change, the next one, and proves it with a probe; then it becomes
current by one assignment. The old one is retired: it is disposed of when its last lease ends, or after
`drain_timeout`. A build that fails changes nothing: the old generation serves on, and values are asked for anew.

Refused credentials are news: whoever is refused on entering makes the generation suspect, the follower asks for a
refresh (which ends early if the values change meanwhile), and the entering is tried again, on a newer generation at
once, else with full jitter, until `retry_deadline`. A body is never tried again. All that changes a generation is in
`Generations`, which has no await.
"""

import asyncio
import json
import logging
import os
import random as rng
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, overload
from urllib.parse import unquote
from weakref import WeakSet

from aiossmenv._concurrency import Backoff, Clock, LoopClock
from aiossmenv._errors import RotationFailed
from aiossmenv._generations import Generation, Generations, Values

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("aiossmenv")

Verdict = Literal["refused", "transient"] | None
State = Literal["NEW", "READY", "DEGRADED", "CLOSED"]

# Seconds from a build to the next one of the same values, where nobody said that it may go better then: a login too
# many may be what blocks the account.
_RARELY = 60.0
# Seconds between two forced refreshes, whatever is asked for: without any, values that do not work would be a hot loop.
_AT_LEAST = 0.01
# Seconds for which a task that is called off is cancelled again and again.
_INSISTS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatingStatus:
    """
    What a `Rotating` is doing and has been through.

    *failures*: builds in a row that failed, *last_error* the type and number of the last one's error; of an error
    without a number its text too, if that holds no part of a value. Since the beginning: *refused* logins, of users and
    of builds; forced *refreshes*; leases *cut* by `drain_timeout`.
    """

    state: State
    generation: int
    retiring: int
    failures: int
    last_error: str | None
    refused: int
    refreshes: int
    cut: int


class Superseded(RotationFailed):
    """A login that was not made, because newer credentials were read; it is made with these once they are proved."""


class Source(Protocol):
    """What a `Rotating` needs of an `Env`."""

    @property
    def snapshot(self) -> Mapping[str, str]:
        """The newest complete values."""

    def on_change(self, callback: Callable[[object], None], *keys: str) -> Callable[[], None]:
        """Call *callback* when one of *keys* changes; returns what ends that."""

    def group(self, *keys: str) -> Callable[[], None]:
        """Read *keys* together from now on; returns what ends that."""

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> object:
        """Read *keys* anew."""


class Rotating(Generic[T]):
    """
    A resource that is rebuilt when its keys change, while it is in use.

    *env*: an `Env`. *keys*: its keys that the resource is made of. *create*: from a mapping of these keys to a new
    resource; *probe*: proves that it works, a real login where there is one; *dispose*: closes it. *classify* says of
    an error on entering or building whether it is `"refused"` (the credentials; refresh, try again), `"transient"`
    (try again) or `None` (raise it, and build nothing of the same values for a minute); by default all are `None`, but
    a `TimeoutError` is always transient.

    Seconds: *start_deadline* 10 for the first build, which is tried again as *classify* says; *build_timeout* 5 for
    each create and probe, and for each try to enter; *drain_timeout* 30 for leases on an old generation, more than your
    longest use; *dispose_timeout* 3; *retry_deadline* 10 for entering, after which the original error comes out;
    *min_gap* 0.25 between forced refreshes, doubling while they bring no news: to 5 while users are refused, else to
    60.

    Use it with `async with`, which raises `RotationFailed` when nothing could be built; then `async with
    rotating.use() as resource`.
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
        start_deadline: float = 10.0,
        build_timeout: float = 5.0,
        drain_timeout: float = 30.0,
        dispose_timeout: float = 3.0,
        retry_deadline: float = 10.0,
        min_gap: float = 0.25,
        clock: Clock | None = None,
        random: Callable[[], float] = rng.random,
    ) -> None:
        self._env = env
        self._keys = tuple(keys)
        self._create = create
        self._probe = probe
        self._dispose = dispose
        self._classify = classify
        self._start_deadline = start_deadline
        self._build_timeout = build_timeout
        self._drain_timeout = drain_timeout
        self._dispose_timeout = dispose_timeout
        self._retry_deadline = retry_deadline
        self._clock: Clock = clock or getattr(env, "_clock", None) or LoopClock()
        self._random = random
        self._entering = Backoff(base=0.02, cap=1.0)
        min_gap = max(min_gap, _AT_LEAST)
        self._asking = Backoff(base=min_gap, cap=max(min_gap, 5.0))
        self._idling = Backoff(base=min_gap, cap=max(min_gap, _RARELY))
        self._generations: Generations[T] = Generations()
        self._state: State = "NEW"
        self._failures = self._refused = self._refreshes = self._cut = 0
        self._last_error: str | None = None
        self._first_error: Exception | None = None
        self._tried: Mapping[str, str] = {}
        # Values that were tried and did not work, and the newest ones that did, if only for a part of a build.
        self._unusable: Mapping[str, str] | None = None
        self._worked: Mapping[str, str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._changed = asyncio.Event()
        self._suspect = False
        self._wake = asyncio.Event()  # changed or suspect
        self._swapped: asyncio.Future[None] | None = None
        self._subscriptions = ExitStack()
        self._follower: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()
        # Last, so that a traceback which shows variables finds one that has a repr.
        if isinstance(keys, str):
            raise TypeError(f"keys takes several names: write keys=[{keys!r}]")

    @property
    def state(self) -> State:
        """`NEW` before entering; `READY`; `DEGRADED`: the newest values do not work, older ones serve; `CLOSED`."""
        return self._state

    @property
    def generation(self) -> int:
        """How many generations there have been."""
        return self._generations.number

    @property
    def status(self) -> RotatingStatus:
        """What it is doing and has been through, at the moment of asking."""
        return RotatingStatus(
            state=self._state,
            generation=self.generation,
            retiring=len(self._generations.retiring),
            failures=self._failures,
            last_error=self._last_error,
            refused=self._refused,
            refreshes=self._refreshes,
            cut=self._cut,
        )

    def __repr__(self) -> str:
        failed = f", {self._failures} failed: {self._last_error}" if self._failures else ""
        now = f"{self._state}, generation {self.generation}, {len(self._generations.retiring)} retiring{failed}"
        return f"<{type(self).__name__} {', '.join(self._keys)}: {now}>"

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
        if self._pid not in {0, os.getpid()}:
            return  # the sockets are the parent's
        if self._closing is None:
            self._check_place()
            self._state = "CLOSED"
            self._subscriptions.close()
            if self._follower:
                self._follower.cancel()  # now, so that what it is building cannot become current any more
            self._retire(self._generations.close())
            self._tell_of_swap()
            self._closing = asyncio.create_task(self._close(), name="aiossmenv close")
        # A closer that is cancelled leaves the closing to go on, and to be waited for by the next.
        await asyncio.shield(self._closing)
        await self._chores_done()

    async def __aenter__(self) -> Self:
        if self._follower or self._state != "NEW":
            raise RotationFailed(f"{self!r} was entered before", remedy="Make a new one.")
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        _open.add(self)
        self._subscriptions.callback(self._env.on_change(self._on_change, *self._keys))
        self._subscriptions.callback(self._env.group(*self._keys))
        swapped = self._swapped = asyncio.get_running_loop().create_future()
        self._follower = asyncio.create_task(self._follow(), name="aiossmenv follower")
        try:
            await self._pause(self._start_deadline, swapped, self._follower)
        except BaseException:
            await self.aclose()
            raise
        if not self._generations.current:
            silence = "it was closed" if self._closing else f"no answer within {self._start_deadline:g} s"
            await self.aclose()
            raise RotationFailed(
                f"nothing could be built from {', '.join(self._keys)}: {self._last_error or silence}",
                remedy=(self._first_error.remedy if isinstance(self._first_error, RotationFailed) else None)
                or "Check these parameters, the options, and that what they lead to is up.",
                transient=self._first_error is not None and self._verdict(self._first_error) == "transient",
            ) from _without_frames(self._first_error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_place(self) -> None:
        """Raise where this cannot work: in a forked child, where sockets are the parent's, and on another loop."""
        if self._pid not in {0, os.getpid()}:
            raise RotationFailed(
                f"{self!r} was opened before a fork, and its connections belong to the parent process",
                remedy="Open one in each worker: in the app's lifespan, gunicorn's post_fork, or its own function.",
            )
        if self._loop not in {None, asyncio.get_running_loop()}:
            raise RotationFailed(
                f"{self!r} was opened on another event loop, and works on no other",
                remedy="Make and open a new one in each asyncio.run().",
            )

    def _may_log_in(self, resource: T) -> bool:
        """
        Return whether *resource* may log in again: its credentials are not known to be old.

        They are when it was replaced, and when newer values were read, unless these were tried and do not work.
        """
        current = self._generations.current
        if current is None or current.resource is not resource:
            return False
        try:
            newest = self._values()
        except RotationFailed:
            return True  # a key is gone for now
        # If newer ones have logged in, even in a build that failed later, these are void.
        is_superseded = self._worked not in (None, current.values)
        return newest == current.values or (newest == self._unusable and not is_superseded)

    async def _enter(self, enter: Callable[[T], AbstractAsyncContextManager[R]], stack: AsyncExitStack) -> R:
        self._check_place()
        deadline = self._clock.now() + self._retry_deadline
        failures, last = 0, _Last()
        while True:
            generation, swapped = self._generations.acquire(), self._swapped
            if generation is None or swapped is None:
                raise RotationFailed(f"{self!r} is not open", remedy="Use it inside its `async with` block.")
            try:
                context = enter(generation.resource)
                # A login that hangs shall not outlive the deadline; it is another one that may go well.
                async with asyncio.timeout(min(self._build_timeout, max(0.0, deadline - self._clock.now()))):
                    entered = await context.__aenter__()
            except BaseException as error:
                self._generations.release(generation)
                verdict = self._verdict(error)
                self._refused += verdict == "refused"
                # Who is refused is woken by news, and each further try with the same password may block the account.
                failures += 3 if verdict == "refused" and not failures else 1
                delay = self._entering.delay_within(failures, self._random(), deadline - self._clock.now())
                if isinstance(error, Exception) and self._generations.current not in {None, generation}:
                    # It was replaced meanwhile, which may be why this failed. Past the deadline the newer one is still
                    # entered if that needs no wait.
                    last.keep(error)
                    continue
                if verdict is None or (delay is None and not isinstance(error, TimeoutError | Superseded)):
                    raise
                if delay is None:
                    # What the driver said before the last try ran out of time, or was not made, says more.
                    late = TimeoutError(f"no answer within {self._retry_deadline:g} s")
                    raise last.error or (error if isinstance(error, Superseded) else late) from None
                last.keep(error)
            else:
                stack.callback(self._generations.release, generation)
                stack.push_async_exit(context)
                return entered
            if self._generations.current is generation:
                if verdict == "refused":
                    self._suspect = True
                    self._wake.set()
                await self._pause(delay, swapped)

    def _on_change(self, _: object) -> None:
        self._changed.set()
        self._wake.set()

    def _verdict(self, error: BaseException) -> Verdict:
        if not isinstance(error, Exception):
            return None
        try:
            return "transient" if isinstance(error, TimeoutError | Superseded) else self._classify(error)
        except Exception as fault:
            logger.error("classify failed on %s: %s", self._named(error), self._named(fault))  # noqa: TRY400 - texts quote secrets
            return None

    async def _follow(self) -> None:
        try:
            await self._keep_up()
        except asyncio.CancelledError:
            if self._generations.current:
                # Cancelled from outside: the loop is going down and nobody closed this.
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            raise

    async def _keep_up(self) -> None:
        """Build what is new, and ask for news of what is refused; return if the first build cannot go well."""
        tried: Mapping[str, str] | None = None
        again, asks, asked = 0.0, 0, 0.0
        while True:
            self._changed.clear()
            self._wake.clear()
            try:
                before, tried = tried, None
                values = tried = self._tried = self._values()
                if values != before:
                    # What failed before is not held against values that are new, or whole again.
                    again, asks, self._failures = 0.0, 0, 0
                current = self._generations.current
                if current and values == current.values:
                    self._ready()
                    if not self._suspect:
                        await self._wake.wait()
                        continue
                elif self._clock.now() >= again:
                    await self._build(values)
                    asks = 0
                    continue
            except Exception as error:
                verdict = self._failed(error)
                if verdict is None and not self._generations.current:
                    return
                again = self._clock.now() + (0 if verdict else _RARELY)
                await self._pause(self._entering.delay(self._failures, self._random()), self._changed)
                if verdict == "transient" and not self._suspect:
                    continue  # nothing that news of the keys would heal
            if not self._changed.is_set():
                quiet = self._state == "READY" and self._clock.now() - asked > 2 * self._asking.cap
                asks, asked = 1 if quiet else asks + 1, self._clock.now()
                await self._ask(asks)

    async def _ask(self, asks: int) -> None:
        """Ask for news of the keys, ever more rarely while there is none; end when they come from elsewhere."""
        # While the old generation serves there is time, until a user is refused.
        backoff, news = (self._asking, self._changed) if self._suspect else (self._idling, self._wake)
        self._suspect = False
        gap = backoff.ceiling(asks)
        asking = asyncio.create_task(self._refresh(gap), name="aiossmenv forced refresh")
        try:
            await self._pause(None, asking, news)
        finally:
            asking.cancel()
        if asking.done() and not asking.cancelled() and asking.result():
            await self._pause(gap, news)

    async def _refresh(self, gap: float) -> bool:
        """Return whether it failed."""
        self._refreshes += 1
        try:
            await self._env.refresh(*self._keys, min_gap=gap)
        except Exception as error:
            logger.warning("forced refresh of %s failed: %s", ", ".join(self._keys), self._named(error))
            return True
        return False

    async def _build(self, values: Mapping[str, str]) -> None:
        """Make the next generation from *values* and let it serve, or raise and change nothing."""
        made: list[T] = []
        making = asyncio.create_task(self._make(values, made), name="aiossmenv build")
        try:
            await self._bounded(making, self._build_timeout)
        except BaseException:
            # In a task of its own: who calls off a build shall not cut short what undoes it.
            self._chore(self._undo(making, made))
            await asyncio.wait({making}, timeout=_INSISTS)
            raise
        finally:
            del making  # as in _bounded()
        self._retire(self._generations.swap(values, made.pop()))
        self._suspect = False
        self._ready()
        self._tell_of_swap()
        if self.generation > 1:
            logger.info("generation %d of %s serves", self.generation, ", ".join(self._keys))

    def _ready(self) -> None:
        self._state, self._failures, self._last_error, self._first_error = "READY", 0, None, None
        self._unusable = None

    def _failed(self, error: Exception) -> Verdict:
        """Take note of a build that failed, and return what helps."""
        verdict = self._verdict(error)
        self._refused += verdict == "refused"
        self._failures += 1
        self._unusable = self._tried
        self._last_error = self._named(error)
        if self._generations.current:
            self._state = "DEGRADED"
        else:
            self._first_error = error
        if self._failures & (self._failures - 1) == 0:  # the first, second, fourth, eighth ...
            logger.warning(
                "generation %d of %s cannot be built%s: %s",
                self.generation + 1,
                ", ".join(self._keys),
                ", the one before serves on" if self._generations.current else "",
                self._last_error,
            )
        return verdict

    def _named(self, error: BaseException) -> str:
        """Name an error for a log, with its text where that holds no part of a value of the keys."""
        held = [self._tried, *(generation.values for generation in self._generations.all())]
        return _named(error, [value for values in held for value in values.values()])

    async def _make(self, values: Mapping[str, str], made: list[T]) -> None:
        made.append(await self._create(values))
        if self._probe:
            await self._probe(made[0])

    def _values(self) -> Mapping[str, str]:
        snapshot = self._env.snapshot
        missing = [key for key in self._keys if key not in snapshot]
        if missing:
            raise RotationFailed(
                f"there is no {', '.join(missing)}", remedy="Create the parameters, or pass other keys."
            )
        return Values(snapshot, self._keys)

    def _tell_of_swap(self) -> None:
        # A future for each swap and not one event: who begins to wait between a set and a clear would miss it.
        swapped, self._swapped = self._swapped, asyncio.get_running_loop().create_future()
        if swapped:
            swapped.set_result(None)

    def _retire(self, generation: Generation[T] | None) -> None:
        if generation:
            self._chore(self._drain(generation))

    def _chore(self, work: Coroutine[object, None, None]) -> None:
        chore = asyncio.create_task(work, name="aiossmenv drain")
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _close(self) -> None:
        if self._follower:
            await asyncio.wait({self._follower})
        await self._chores_done()

    async def _chores_done(self) -> None:
        while self._chores:
            await asyncio.wait(set(self._chores))

    async def _drain(self, generation: Generation[T]) -> None:
        await self._pause(self._drain_timeout, generation.idle)
        if generation.leases:
            self._cut += generation.leases
            logger.warning(
                "generation %d of %s is closed under %d users after %g s: drain_timeout must be longer than any use",
                generation.number,
                ", ".join(self._keys),
                generation.leases,
                self._drain_timeout,
            )
        await self._dispose_of(generation.resource)
        self._generations.retiring.discard(generation)

    async def _dispose_of(self, resource: T) -> None:
        if self._dispose:
            disposal = asyncio.create_task(_run(self._dispose, resource), name="aiossmenv disposal")
            try:
                await self._bounded(disposal, self._dispose_timeout)
            except Exception as error:
                logger.warning("an old generation of %s was not closed: %s", ", ".join(self._keys), self._named(error))
            finally:
                await _insist(disposal)

    async def _undo(self, making: "asyncio.Task[None]", made: list[T]) -> None:
        await _insist(making)
        while made:
            await self._dispose_of(made.pop())

    async def _bounded(self, task: "asyncio.Task[None]", seconds: float) -> None:
        """Wait for *task*, at most so many seconds, and raise what it raises."""
        try:
            await self._pause(seconds, task)
            if not task.done():
                raise TimeoutError(f"not done within {seconds:g} s")
            if task.cancelled():
                raise RotationFailed("it cancelled itself")
            task.result()
        finally:
            # Its repr quotes its error, and that quotes user names.
            del task

    async def _pause(self, seconds: float | None, *until: "asyncio.Event | asyncio.Future[Any]") -> None:
        """Wait for one of *until*, at most so many seconds."""
        ours = [asyncio.create_task(event.wait()) for event in until if isinstance(event, asyncio.Event)]
        if seconds is not None:
            ours.append(asyncio.create_task(self._clock.sleep(seconds)))  # type: ignore[arg-type] # nobody looks
        try:
            theirs = [future for future in until if isinstance(future, asyncio.Future)]
            await asyncio.wait([*ours, *theirs], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ours:
                task.cancel()


class _Last:
    """An error that was not raised yet; unlike it, its repr quotes nothing in a traceback's local variables."""

    error: BaseException | None = None

    def keep(self, error: BaseException) -> None:
        if not isinstance(error, TimeoutError | Superseded):
            self.error = error


async def _run(call: Callable[[T], Awaitable[object]], argument: T) -> None:
    await call(argument)


async def _insist(task: "asyncio.Task[Any]") -> None:
    """Cancel until it has ended: on Python 3.11 `asyncio.wait_for`, which drivers use, can swallow a cancellation."""
    for _ in range(int(_INSISTS / 0.1)):
        if task.done():
            break
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    if task.done() and not task.cancelled():
        task.exception()  # seen: asyncio would print it, and it quotes user names


def _without_frames(error: Exception | None) -> Exception | None:
    """Strip an error, and those it came from, of their frames: a driver's hold the password."""
    stripped: set[BaseException] = set()
    found: list[BaseException | None] = [error]
    while found:
        one = found.pop()
        if one and one not in stripped:
            stripped.add(one.with_traceback(None))
            found += [one.__cause__, one.__context__]
    return error


def _named(error: BaseException, values: Iterable[str]) -> str:
    """
    Name an error: ours by their text, which holds no value, and others by their type.

    An error with a number is a driver's or the system's: the number says what it is, and the text quotes user names or
    addresses. Any other gives its text too, unless that holds a part of one of *values*.
    """
    if isinstance(error, RotationFailed):
        return str(error.args[0])
    name = type(error).__name__
    if error.args and isinstance(error.args[0], int):
        return f"{name} {error.args[0]}"
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:
        return name
    # A UnicodeError quotes characters of what could not be encoded.
    if not text or isinstance(error, UnicodeError) or _holds_part(text, values):
        return name
    return f"{name}: {text}"


def _holds_part(text: str, values: Iterable[str]) -> bool:
    """Return whether *text* holds one of *values*, a word of it, or eight characters of it in a row."""
    text = text.casefold()
    for value in (spelling.casefold() for whole in values for spelling in _spellings(whole)):
        words = re.findall(r"[^\W_]{3,}", value)
        if any(part in text for part in (value, *words, *(value[at : at + 8] for at in range(len(value) - 7)))):
            return True
    return False


def _spellings(value: str) -> Iterator[str]:
    """Yield a value as a text may quote it: of a JSON object each value in it, and percent-encoding undone."""
    inside: list[Any] = [value]
    with suppress(ValueError, RecursionError):
        found = json.loads(value)
        if isinstance(found, dict | list):
            inside = [found]
    while inside:
        one = inside.pop()
        inside += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
        if isinstance(one, str) and one:
            yield from (one, unquote(one), repr(one)[1:-1])


# Those that are open. A child process keeps its copies until it ends: to collect them would close the parent's sockets.
_open: "WeakSet[Rotating[Any]]" = WeakSet()
_inherited: "list[Rotating[Any]]" = []


def _after_fork() -> None:
    _inherited.extend(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

Rotating.__module__ = RotatingStatus.__module__ = "aiossmenv"
