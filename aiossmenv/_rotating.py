"""
A resource that follows its keys.

A *generation* is what was built from one set of values. Exactly one is current; entering takes a lease on it. A
supervisor task builds the first one and, when the values change, the next one, and proves it with a probe. Then it
becomes current by one assignment. The old one retires: it is disposed of when its last lease ends, or after
`drain_timeout`. A build that fails changes nothing: the old generation serves, and the keys are read again.

A rejected login means that the credentials may have changed. It makes the supervisor refresh the keys, and entering is
tried again: on a newer generation at once, else with full jitter, until `retry_deadline`. A body is never tried again.
All that changes a generation is in `Generations`, which has no await.
"""

import asyncio
import logging
import math
import os
import random as rng
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, overload
from weakref import WeakSet

from aiossmenv._concurrency import Backoff, Clock, Home, LoopClock
from aiossmenv._errors import RotationFailed
from aiossmenv._generations import Generation, Generations, Values
from aiossmenv._redaction import describe, without_frames

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("aiossmenv")

ErrorKind = Literal["auth_failed", "transient"] | None
State = Literal["NEW", "READY", "DEGRADED", "CLOSED"]

# Seconds from a build to the next one of the same values, if nothing says that it may succeed then: one login too many
# may block the account.
_REBUILD_DELAY = 60.0
# Seconds between two forced refreshes, at least: without a gap, values that do not work would cause a busy loop.
_MIN_GAP = 0.01
# Seconds for which a login that succeeded proves the credentials: others need not wait for one that goes first.
_PROVED_FOR = 0.01
# Seconds for which others wait for the login that goes first, at most: it may hang.
_TRIAL_TIMEOUT = 0.25
# Seconds for which a task is cancelled again and again until it has ended.
_CANCEL_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatingStatus:
    """
    What a `Rotating` does, and what has happened to it.

    Attributes:
        state: `NEW` before entering; `READY`; `DEGRADED`: the newest values do not work, older ones serve; `CLOSED`.
        generation: How many generations there have been.
        retiring: Generations whose leases have not ended.
        failures: Builds in a row that failed.
        last_error: The type and number of the last build's error; of an error without a number its text too, if that
            holds no part of a value. `None` after a build that went well.
        auth_failures: Rejected logins, of users and of builds.
        refreshes: Forced refreshes.
        force_closed: Leases that `drain_timeout` ended.
    """

    state: State
    generation: int
    retiring: int
    failures: int
    last_error: str | None
    auth_failures: int
    refreshes: int
    force_closed: int


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

    Use it with `async with`, which raises `RotationFailed` when nothing could be built; then `async with
    rotating.use() as resource`.

    Args:
        env: An `Env`; its clock is used.
        keys: The keys of *env* that the resource is made of.
        create: From a mapping of these keys to a new resource.
        probe: Proves that it works, by a real login where there is one. Default: no proof.
        dispose: Closes it. Default: nothing.
        classify: Says of an error of entering or building whether it is `"auth_failed"` (the credentials: refresh, and
            try again), `"transient"` (try again) or `None` (raise it, and build nothing of the same values for a
            minute). Default: always `None`; a `TimeoutError` is always transient.
        start_deadline: Seconds for the first build, which is tried again as *classify* says. Default: 10.
        build_timeout: Seconds for each create and probe, and for each try to enter. Default: 5.
        drain_timeout: Seconds for leases on an old generation; more than your longest use. Default: 30.
        dispose_timeout: Seconds for closing one. Default: 3.
        retry_deadline: Seconds for entering, after which the original error is raised. Default: 10.
        min_gap: Seconds between forced refreshes. They double while a refresh changes nothing: to 5 while logins are
            rejected, else to 60. Default: 0.25.
        random: For tests: returns numbers from 0 to 1, for the jitter of waits.

    Raises:
        TypeError: *keys* is one text.
    """

    def __init__(
        self,
        env: Source,
        keys: Iterable[str],
        create: Callable[[Mapping[str, str]], Awaitable[T]],
        probe: Callable[[T], Awaitable[object]] | None = None,
        dispose: Callable[[T], Awaitable[object]] | None = None,
        *,
        classify: Callable[[Exception], ErrorKind] = lambda _: None,
        start_deadline: float = 10.0,
        build_timeout: float = 5.0,
        drain_timeout: float = 30.0,
        dispose_timeout: float = 3.0,
        retry_deadline: float = 10.0,
        min_gap: float = 0.25,
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
        self._clock: Clock = getattr(env, "_clock", None) or LoopClock()
        self._random = random
        self._entry_backoff = Backoff(base=0.02, cap=1.0)
        min_gap = max(min_gap, _MIN_GAP)
        self._urgent_backoff = Backoff(base=min_gap, cap=max(min_gap, 5.0))
        self._idle_backoff = Backoff(base=min_gap, cap=max(min_gap, _REBUILD_DELAY))
        self._generations: Generations[T] = Generations()
        self._state: State = "NEW"
        self._failures = self._auth_failures = self._refreshes = self._force_closed = 0
        self._last_error: str | None = None
        self._first_error: Exception | None = None
        self._tried: Mapping[str, str] = {}
        # Values from which nothing could be built, and the newest that logged in, even if their build failed later.
        self._unusable: Mapping[str, str] | None = None
        self._logged_in: Mapping[str, str] | None = None
        self._home = Home()
        self._changed = asyncio.Event()
        self._credentials_rejected = False
        # Values of a rejected login, until a refresh has said whether they are the newest.
        self._rejected: Mapping[str, str] | None = None
        self._rejection = ""
        # The login that goes first, and when the last one succeeded.
        self._trial: asyncio.Future[None] | None = None
        self._proved_at = -math.inf
        self._wake = asyncio.Event()  # the keys changed, or a login was rejected
        self._swapped: asyncio.Future[None] | None = None
        self._subscriptions = ExitStack()
        self._supervisor: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        # Last, so that a traceback that shows variables finds a repr that works.
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
        """What it does, and what has happened to it, at the moment of asking."""
        return RotatingStatus(
            state=self._state,
            generation=self.generation,
            retiring=len(self._generations.retiring),
            failures=self._failures,
            last_error=self._last_error,
            auth_failures=self._auth_failures,
            refreshes=self._refreshes,
            force_closed=self._force_closed,
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

        Entering is tried again as `classify` says; the block never is.

        Args:
            enter: From the resource to an async context manager that is entered. Default: the resource itself.

        Yields:
            What *enter* gives, or the resource.

        Raises:
            RotationFailed: This is closed, or does not belong to this process or event loop.
        """
        async with AsyncExitStack() as stack:
            yield await self._enter(enter, stack)

    async def aclose(self) -> None:
        """Let leases end, for at most `drain_timeout` seconds, and dispose of everything; idempotent."""
        if self._home.is_forked():
            return  # the sockets are the parent's
        if self._closing is None:
            self._check_place()
            self._state = "CLOSED"
            self._subscriptions.close()
            if self._supervisor:
                self._supervisor.cancel()  # now, so that what it is building cannot become current any more
            self._retire(self._generations.close())
            self._announce_swap()
            self._closing = asyncio.create_task(self._close(), name="aiossmenv close")
        # Shielded: if this caller is cancelled, closing continues, and the next caller waits for it.
        await asyncio.shield(self._closing)
        await self._background_done()

    async def __aenter__(self) -> Self:
        if self._supervisor or self._state != "NEW":
            raise RotationFailed(f"{self!r} was entered before", remedy="Make a new one.")
        self._home.moved(self)
        _open.add(self)
        self._subscriptions.callback(self._env.on_change(self._on_change, *self._keys))
        self._subscriptions.callback(self._env.group(*self._keys))
        swapped = self._swapped = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="aiossmenv supervisor")
        try:
            await self._wait_for_any(self._start_deadline, swapped, self._supervisor)
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
                transient=self._first_error is not None and self._kind_of(self._first_error) == "transient",
            ) from without_frames(self._first_error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_place(self) -> None:
        """Raise where this cannot work: in a forked child, where sockets are the parent's, and on another loop."""
        if self._home.is_forked():
            raise RotationFailed(
                f"{self!r} was opened before a fork, and its connections belong to the parent process",
                remedy="Open one in each worker: in the app's lifespan, gunicorn's post_fork, or its own function.",
            )
        if self._home.is_elsewhere():
            raise RotationFailed(
                f"{self!r} was opened on another event loop, and works on no other",
                remedy="Make and open a new one in each asyncio.run().",
            )

    def _is_current(self, resource: object) -> bool:
        """Return whether *resource* is that of the current generation."""
        current = self._generations.current
        return current is not None and current.resource is resource

    def _may_log_in(self, resource: T) -> bool:
        """
        Return whether *resource* may log in again: its credentials are not known to be old.

        They are known to be old when the resource was replaced, and when newer values were read: unless these were
        tried, and neither worked nor logged in. After a rejected login a refresh comes first, so that many tasks do not
        have the same credentials rejected, which may block the account.
        """
        current = self._generations.current
        if current is None or current.resource is not resource or current.values == self._rejected:
            return False
        try:
            newest = self._values()
        except RotationFailed:
            return True  # a key is gone for now
        # If newer values have logged in, the current ones are old, even if that build failed later.
        is_superseded = self._logged_in not in (None, current.values)
        return newest == current.values or (newest == self._unusable and not is_superseded)

    @asynccontextmanager
    async def _login(self, resource: T) -> AsyncIterator[None]:
        """
        Surround a login of *resource*, for entering.

        If none has succeeded just now, one goes first and the others wait for it: when credentials have changed, one
        login is rejected and not one of each task.

        Raises:
            Superseded: The credentials are known to be old, or were just rejected.
        """
        while (trial := self._trial) and not trial.done() and not self._is_proved():
            ended, _ = await asyncio.wait({trial}, timeout=_TRIAL_TIMEOUT)
            if not ended:
                break
        if not self._may_log_in(resource):
            why = f"these were rejected with {self._rejection}" if self._rejected else "newer ones are not proved yet"
            raise Superseded(f"no login was made with credentials that are probably old: {why}")
        mine: asyncio.Future[None] | None = None
        if not self._is_proved():
            mine = self._trial = asyncio.get_running_loop().create_future()
        try:
            yield
            self._proved_at = self._clock.now()
        finally:
            if mine:
                mine.set_result(None)

    def _is_proved(self) -> bool:
        return self._clock.now() - self._proved_at < _PROVED_FOR

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
                # A login that hangs must not outlive the deadline; another one may succeed.
                async with asyncio.timeout(min(self._build_timeout, max(0.0, deadline - self._clock.now()))):
                    entered = await context.__aenter__()
            except BaseException as error:
                self._generations.release(generation)
                kind = self._entry_failed(error)
                # A rejected login waits for new credentials, so it starts at the third step of the backoff: a try may
                # block the account.
                failures += 3 if kind == "auth_failed" and not failures else 1
                delay = self._entry_backoff.delay_within(failures, self._random(), deadline - self._clock.now())
                if isinstance(error, Exception) and self._generations.current not in {None, generation}:
                    # It was replaced meanwhile, which may be why this failed. The newer one gets a try even past the
                    # deadline, with a timeout of 0: it succeeds only if entering does not wait.
                    last.keep(error)
                    continue
                if kind is None or (delay is None and not isinstance(error, TimeoutError | Superseded)):
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
                if kind == "auth_failed":
                    self._credentials_rejected, self._rejected = True, generation.values
                    self._proved_at = -math.inf
                    self._wake.set()
                await self._wait_for_any(delay, swapped)

    def _entry_failed(self, error: BaseException) -> ErrorKind:
        """Note an error of entering, and return its kind."""
        kind = self._kind_of(error)
        if kind == "auth_failed":
            self._auth_failures += 1
            self._rejection = self._describe(error)
        return kind

    def _on_change(self, _: object) -> None:
        self._changed.set()
        self._wake.set()

    def _kind_of(self, error: BaseException) -> ErrorKind:
        if not isinstance(error, Exception):
            return None
        try:
            return "transient" if isinstance(error, TimeoutError | Superseded) else self._classify(error)
        except Exception as fault:
            logger.error("classify failed on %s: %s", self._describe(error), self._describe(fault))  # noqa: TRY400 - texts quote secrets
            return None

    async def _supervise(self) -> None:
        try:
            await self._run()
        except asyncio.CancelledError:
            if self._generations.current:
                # Cancelled from outside: the loop is going down, and this was left open.
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            raise

    async def _run(self) -> None:
        """Build what is new, and refresh what was rejected; return if the first build cannot succeed."""
        tried: Mapping[str, str] | None = None
        rebuild_at, attempts, requested_at = 0.0, 0, 0.0
        while True:
            self._changed.clear()
            self._wake.clear()
            try:
                previous, tried = tried, None
                values = tried = self._tried = self._values()
                if values != previous:
                    # Failures of other values say nothing about these.
                    rebuild_at, attempts, self._failures = 0.0, 0, 0
                current = self._generations.current
                if current and values == current.values:
                    self._ready()
                    if not self._credentials_rejected:
                        await self._wake.wait()
                        continue
                elif self._clock.now() >= rebuild_at:
                    await self._build(values)
                    attempts = 0
                    continue
            except Exception as error:
                kind = self._failed(error)
                if kind is None and not self._generations.current:
                    return
                rebuild_at = self._clock.now() + (0 if kind else _REBUILD_DELAY)
                await self._wait_for_any(self._entry_backoff.delay(self._failures, self._random()), self._changed)
                if kind == "transient" and not self._credentials_rejected:
                    continue  # a refresh of the keys would not help
            if not self._changed.is_set():
                starts_over = self._state == "READY" and self._clock.now() - requested_at > 2 * self._urgent_backoff.cap
                attempts, requested_at = 1 if starts_over else attempts + 1, self._clock.now()
                await self._request_refresh(attempts)

    async def _request_refresh(self, attempts: int) -> None:
        """Refresh the keys, less often while nothing changes; end when they change for another reason."""
        # While the old generation serves there is time, until a login is rejected.
        urgent = self._credentials_rejected
        backoff = self._urgent_backoff if urgent else self._idle_backoff
        wakeup = self._changed if urgent else self._wake
        self._credentials_rejected = False
        gap = backoff.ceiling(attempts)
        asking = asyncio.create_task(self._refresh_keys(gap), name="aiossmenv forced refresh")
        try:
            await self._wait_for_any(None, asking, wakeup)
        finally:
            asking.cancel()
            self._rejected = None
        if asking.done() and not asking.cancelled() and not asking.result():
            await self._wait_for_any(gap, wakeup)

    async def _refresh_keys(self, gap: float) -> bool:
        """Let the `Env` refresh the keys; return whether it did."""
        self._refreshes += 1
        try:
            await self._env.refresh(*self._keys, min_gap=gap)
        except Exception as error:
            logger.warning("forced refresh of %s failed: %s", ", ".join(self._keys), self._describe(error))
            return False
        return True

    async def _build(self, values: Mapping[str, str]) -> None:
        """Make the next generation from *values* and let it serve, or raise and change nothing."""
        made: list[T] = []
        making = asyncio.create_task(self._make(values, made), name="aiossmenv build")
        try:
            await self._bounded(making, self._build_timeout)
        except BaseException:
            # In a task of its own: a cancelled build must not cut short what undoes it.
            self._spawn(self._undo(making, made))
            await asyncio.wait({making}, timeout=_CANCEL_TIMEOUT)
            raise
        finally:
            del making  # as in _bounded()
        self._retire(self._generations.swap(values, made.pop()))
        # What was rejected before may be valid again: this build has just logged in.
        self._credentials_rejected, self._rejected = False, None
        self._ready()
        self._announce_swap()
        if self.generation > 1:
            logger.info("generation %d of %s serves", self.generation, ", ".join(self._keys))

    def _ready(self) -> None:
        self._state, self._failures, self._last_error, self._first_error = "READY", 0, None, None
        self._unusable = None

    def _failed(self, error: Exception) -> ErrorKind:
        """Note a build that failed, and return the kind of its error."""
        kind = self._kind_of(error)
        self._auth_failures += kind == "auth_failed"
        self._failures += 1
        self._unusable = self._tried
        self._last_error = self._describe(error)
        if self._generations.current:
            self._state = "DEGRADED"
        else:
            self._first_error = error
        if self._failures & (self._failures - 1) == 0:  # the first, second, fourth, eighth ...
            logger.warning(
                "generation %d of %s cannot be built%s: %s",
                self.generation + 1,
                ", ".join(self._keys),
                ", the one before still serves" if self._generations.current else "",
                self._last_error,
            )
        return kind

    def _describe(self, error: BaseException) -> str:
        """Name an error for a log, with its text where that holds no part of a value of the keys."""
        held = [self._tried, *(generation.values for generation in self._generations.all())]
        return describe(error, [value for values in held for value in values.values()])

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

    def _announce_swap(self) -> None:
        # A future for each swap and not one event: a wait that begins between a set and a clear would miss it.
        swapped, self._swapped = self._swapped, asyncio.get_running_loop().create_future()
        if swapped:
            swapped.set_result(None)

    def _retire(self, generation: Generation[T] | None) -> None:
        if generation:
            self._spawn(self._drain(generation))

    def _spawn(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.create_task(work, name="aiossmenv drain")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _close(self) -> None:
        if self._supervisor:
            await asyncio.wait({self._supervisor})
        await self._background_done()

    async def _background_done(self) -> None:
        while self._background:
            await asyncio.wait(set(self._background))

    async def _drain(self, generation: Generation[T]) -> None:
        await self._wait_for_any(self._drain_timeout, generation.idle)
        if generation.leases:
            self._force_closed += generation.leases
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
            disposal = asyncio.create_task(_call(self._dispose, resource), name="aiossmenv disposal")
            try:
                await self._bounded(disposal, self._dispose_timeout)
            except Exception as error:
                keys = ", ".join(self._keys)
                logger.warning("an old generation of %s was not closed: %s", keys, self._describe(error))
            finally:
                await _cancel_until_done(disposal)

    async def _undo(self, making: "asyncio.Task[None]", made: list[T]) -> None:
        await _cancel_until_done(making)
        while made:
            await self._dispose_of(made.pop())

    async def _bounded(self, task: "asyncio.Task[None]", seconds: float) -> None:
        """Wait for *task*, at most so many seconds, and raise what it raises."""
        try:
            await self._wait_for_any(seconds, task)
            if not task.done():
                raise TimeoutError(f"not done within {seconds:g} s")
            if task.cancelled():
                raise RotationFailed("it cancelled itself")
            task.result()
        finally:
            # Its repr quotes its error, and that quotes user names.
            del task

    async def _wait_for_any(self, seconds: float | None, *until: "asyncio.Event | asyncio.Future[Any]") -> None:
        """Wait for one of *until*, at most so many seconds."""
        ours = [asyncio.create_task(event.wait()) for event in until if isinstance(event, asyncio.Event)]
        if seconds is not None:
            ours.append(asyncio.create_task(self._clock.sleep(seconds)))  # type: ignore[arg-type] # its result is not used
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


async def _call(call: Callable[[T], Awaitable[object]], argument: T) -> None:
    await call(argument)


async def _cancel_until_done(task: "asyncio.Task[Any]") -> None:
    """Cancel until it has ended: on Python 3.11 `asyncio.wait_for`, which drivers use, can swallow a cancellation."""
    for _ in range(int(_CANCEL_TIMEOUT / 0.1)):
        if task.done():
            break
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    if task.done() and not task.cancelled():
        task.exception()  # seen: asyncio would print it, and it quotes user names


# Those that are open. A child process keeps its copies until it ends: to collect them would close the parent's sockets.
_open: "WeakSet[Rotating[Any]]" = WeakSet()
_inherited: "list[Rotating[Any]]" = []


def _after_fork() -> None:
    _inherited.extend(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

Rotating.__module__ = RotatingStatus.__module__ = "aiossmenv"
