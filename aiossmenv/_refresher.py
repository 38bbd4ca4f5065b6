"""
When an `Env` is refreshed, and for whom: the one owner of all that is about refreshing.

One refresh runs at a time, because one that reads less must not overwrite one that reads more. Callers share a refresh
that has sent no request yet. One that has is followed by one more for all later callers, so what a caller gets was
read after its question.
"""

import asyncio
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from aiossmenv._concurrency import Clock, Home, SingleFlight, cancel_and_wait, process, wait_for
from aiossmenv._errors import AiossmenvError, StaleEnv, StoreUnavailable
from aiossmenv._models import Change, Status
from aiossmenv._schedule import Kind, Schedule
from aiossmenv._ssm.sender import ReadStats

logger = logging.getLogger("aiossmenv")

# The deadline of the read is this part of the deadline of `ensure_fresh()`, so that the read's own error comes first.
_READ_PART = 0.9

# Everything, in one way or another, or some keys.
Scope = Kind | frozenset[str]


@dataclass(eq=False, slots=True)
class Refresh:
    """
    One refresh.

    *deadline*: seconds for its read; `None`: the source's own deadline. *until_listing*: seconds until the listing that
    is planned after it, `None` if none is. *suspended*: seconds that the process was suspended since the previous
    refresh. *sequence*: its number; infinite until its requests are sent, so that any caller may still join it.
    """

    scope: Scope
    deadline: float | None = None
    until_listing: float | None = None
    suspended: float = 0.0
    stats: ReadStats = field(default_factory=ReadStats)
    sequence: float = math.inf
    sending: Callable[[], None] = lambda: None

    def covers(self, scope: Scope) -> bool:
        """Return whether this reads all that a refresh of *scope* would."""
        if isinstance(scope, frozenset):
            return not isinstance(self.scope, frozenset) or self.scope >= scope
        return self.scope in (scope, "revalidate") or (self.scope, scope) == ("list", "poll")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh led to: *changes*, when it was *taken_at*, and whether some parameters were missing in it."""

    changes: tuple[Change, ...]
    taken_at: datetime
    any_missing: bool = False


class Source(Protocol):
    """What is refreshed."""

    @property
    def where(self) -> str:
        """Its paths, for a text."""

    @property
    def region(self) -> str | None:
        """The region that it was read from."""

    def has(self, keys: frozenset[str]) -> bool:
        """Return whether all *keys* are there."""

    async def read(self, refresh: Refresh) -> Refreshed:
        """Read what *refresh* covers and publish it; calls its `sending()` before the first request is sent."""

    def deliver(self, changes: tuple[Change, ...]) -> None:
        """Tell readers of changes, after the schedule of the next refresh is made."""

    def forget_callbacks(self) -> None:
        """Forget callbacks under way, which are of the parent process or of another event loop."""

    async def release(self) -> None:
        """Release what refreshes need, and end the readers of changes."""


class Refresher:
    """Refreshes one *source*; *background*: whether it does so by itself, as *schedule* says."""

    def __init__(
        self, source: Source, schedule: Schedule, clock: Clock, *, background: bool, needs_check: bool
    ) -> None:
        self.home = Home()
        self.closed = False
        # Whether each lookup in the Env must call `check()`; one flag, so that a lookup stays fast without it.
        self.needs_check = needs_check
        self.pid = process.id
        self._source = source
        self._schedule = schedule
        self.clock = clock
        self._background = background
        self._refreshes: SingleFlight[Refresh, Refreshed] = SingleFlight()
        self._active: asyncio.Task[object] | None = None
        # The last refresh of each kind that succeeded; the number of the last one that sent requests, and when it
        # began.
        self._done: dict[Kind | None, Refresh] = {}
        self._last_sequence = 0
        self._began = -math.inf
        # The kind of error that `ensure_fresh()` warned of in this outage.
        self._warned: type[Exception] | None = None
        self._task: asyncio.Task[None] | None = None
        self._sleep: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._released = False

    async def start(self) -> None:
        """Make the first load and, if this works in the background, begin to."""
        self.home.moved(self._source)
        try:
            self._schedule.loaded(now=self.clock.now(), wall=(await self._read(Refresh("revalidate"))).taken_at)
        except BaseException:
            self.closed = True
            await self._release()
            raise
        if self._background:
            self._task = asyncio.create_task(self._keep_fresh(), name="aiossmenv refresher")

    @property
    def status(self) -> Status:
        """How current the source is, at the moment of asking."""
        if self._is_inherited():
            self._schedule.stop()
        return self._schedule.status(self._now())

    async def refresh(self, keys: frozenset[str], min_gap: float) -> tuple[Change, ...]:
        """Refresh *keys*, or everything; at the soonest *min_gap* seconds after the last refresh began."""
        self.use_running_loop()
        asked = self._last_sequence
        gap = self._began + min_gap - self.clock.now()
        if gap > 0:
            await self.clock.sleep(gap)
            self.refuse_closed()
        # Only after the wait, because a key may be removed during it.
        scope: Scope = keys if keys and self._source.has(keys) else "list"
        # A poll covers no listing, else frequent polls would delay this listing for ever.
        if any(done.sequence > asked and done.covers(scope) for done in self._done.values()):
            return ()
        return (await self._join_or_start(Refresh(scope), asked)).changes

    async def ensure_fresh(self, max_age: float, deadline: float) -> tuple[Change, ...]:
        """Refresh if the last complete read is *max_age* seconds old; see `Env.ensure_fresh()`."""
        self.refuse_closed()
        if not max_age >= 0:
            raise ValueError(f"max_age is a number of seconds, not {max_age!r}")
        if not deadline > 0:
            raise ValueError(f"deadline is a number of seconds above 0, not {deadline!r}")
        now = self._now()
        if self._schedule.status(now).age < max_age:
            return ()
        self.use_running_loop()
        changes: tuple[Change, ...] = ()
        if not self._schedule.retry_left(now):
            changes = await self._try(self._schedule.next_kind(now), deadline)
        self.check()
        return changes

    async def aclose(self, *, in_callback: bool) -> None:
        """End the refreshes, and release the source; *in_callback*: whether a callback of the source asks for it."""
        if self._is_inherited():
            return  # its tasks run in the parent process
        if self.home.moved(self._source):
            self._leave_loop()
        first, self.closed = not self.closed, True
        if first:
            self._closing = asyncio.create_task(self._close(), name="aiossmenv close")
        # A second closer that is a callback must not wait: the closing waits for the callback.
        if self._closing and not self._closing.done() and (first or not in_callback):
            # Shielded: if this caller is cancelled, closing continues, and the next caller waits for it.
            await asyncio.shield(self._closing)

    def warn_unclosed(self) -> None:
        """Warn if this was left open."""
        if self._task and not self.closed and not self._is_inherited():
            warnings.warn(
                f"unclosed {self._source!r}: call aclose() or use async with",
                ResourceWarning,
                source=self._source,
                stacklevel=3,
            )

    def use_running_loop(self) -> None:
        """Refuse what cannot be refreshed any more, or not here; else make the running loop the home."""
        self.refuse_closed()
        if self.home.moved(self._source):
            self._leave_loop()

    def refuse_closed(self) -> None:
        """Raise where no refresh is possible any more."""
        self.refuse_if_abandoned()
        if self.closed:
            raise RuntimeError("this Env is closed")

    def refuse_elsewhere(self) -> None:
        """Raise where nothing refreshes this any more, or where it is in use in another thread."""
        self.refuse_if_abandoned()
        self.home.refuse_other_thread(self._source)

    def refuse_if_abandoned(self) -> None:
        """Raise `StaleEnv` in a child process, and after the loop of the refreshes has ended."""
        if not self._task:
            return
        if self._is_inherited():
            self._refuse(
                "was made before a fork, and nothing refreshes it in this process",
                "Load in each worker: in the app's lifespan, gunicorn's post_fork, or the process's own function.",
            )
        if not self.closed:
            home = self.home.loop
            ended = self._task.done() or not home or home.is_closed() or self.home.is_elsewhere()
            if ended and not (home and home.is_running()):
                self._refuse(
                    "was loaded on another event loop, which does not run any more, and nothing refreshes it",
                    "Load within each asyncio.run(), or without ttl and call ensure_fresh().",
                )

    def check(self) -> None:
        """Raise `StaleEnv` where the values are too old, or where nothing refreshes them any more."""
        self.refuse_if_abandoned()
        if self._schedule.too_stale(self._now()):
            status = self.status
            raise StaleEnv(
                f"the values are {status.age:.0f} s old",
                transient=True,
                path=self._source.where,
                region=self._source.region,
                remedy=f"The last refresh failed: {status.last_error}"
                if status.last_error
                else "Refresh, or pass a ttl below max_stale.",
            )

    def _refuse(self, text: str, remedy: str) -> None:
        raise StaleEnv(f"this Env {text}", path=self._source.where, region=self._source.region, remedy=remedy)

    async def _join_or_start(self, mine: Refresh, asked: float = -math.inf) -> Refreshed:
        """Join a refresh that covers *mine* and sends its requests after *asked*, or start *mine*."""
        fitting = (other for other in self._refreshes if other.sequence > asked and other.covers(mine.scope))
        return await self._refreshes.do(next(fitting, mine), lambda: self._refresh(mine))

    async def _try(self, kind: Kind, deadline: float) -> tuple[Change, ...]:
        """Refresh, for at most *deadline* seconds; a failure is left to `status` and the log."""
        refresh = Refresh(kind, deadline * _READ_PART)
        trying = asyncio.create_task(self._join_or_start(refresh), name="aiossmenv ensure_fresh")
        try:
            if await wait_for(trying, self.clock, deadline):
                return trying.result().changes
            # It waited for a refresh of others, which has a deadline of its own.
            late = StoreUnavailable(
                f"no refresh ended within {deadline:g} s",
                path=self._source.where,
                region=self._source.region,
                remedy="Check the network and the endpoint, or pass a longer deadline.",
            )
            if not self._schedule.retry_left(self.clock.now()):  # not yet noted by another caller
                self._schedule.failed(late, now=self.clock.now())
            self._warn_once(late)
        except Exception as error:
            self._warn_once(error)
        finally:
            await cancel_and_wait(trying)
        return ()

    def _warn_once(self, error: Exception) -> None:
        """Say that `ensure_fresh()` answers from the last good values; once in an outage, for each kind of error."""
        self.refuse_closed()
        if self._warned is not type(error):
            self._warned = type(error)
            self._warn(error)

    async def _refresh(self, refresh: Refresh) -> Refreshed:
        # Looked at again after each wait: of several that wait, one goes first, and one may be cancelled.
        while self._active and not self._active.done():
            await asyncio.wait({self._active})
        self._active = asyncio.current_task()
        if isinstance(refresh.scope, frozenset) and not self._source.has(refresh.scope):
            refresh.scope = "list"  # one of the keys went while this waited for another refresh
        scope = refresh.scope
        try:
            refreshed = await self._read(refresh)
        except Exception as error:
            fault = error if isinstance(error, AiossmenvError) else AiossmenvError(f"unexpected {type(error).__name__}")
            # The callers learn of an error of some keys; it delays no complete refresh.
            if not isinstance(scope, frozenset):
                self._schedule.failed(fault, now=self.clock.now(), kind=scope)
            raise
        finally:
            self._active = None
            if self._sleep:
                self._sleep.cancel()  # the background task sleeps until a time that may no longer hold
        self._done[None if isinstance(scope, frozenset) else scope] = refresh
        if isinstance(scope, frozenset):
            self._schedule.partly_succeeded(changes=len(refreshed.changes))
        else:
            self._warned = None
            self._schedule.succeeded(
                scope,
                now=self.clock.now(),
                wall=refreshed.taken_at,
                changes=len(refreshed.changes),
                missing=refreshed.any_missing,
            )
        self._source.deliver(refreshed.changes)
        return refreshed

    async def _read(self, refresh: Refresh) -> Refreshed:
        self._began = self.clock.now()
        refresh.until_listing = self._schedule.until_listing(self._began)
        refresh.suspended = self._schedule.newly_suspended()

        def sending() -> None:
            self._last_sequence += 1
            refresh.sequence = self._last_sequence

        refresh.sending = sending
        try:
            return await self._source.read(refresh)
        finally:
            stats = refresh.stats
            self._schedule.count(requests=stats.requests, throttled=stats.throttled, decrypted=stats.decrypted)

    async def _keep_fresh(self) -> None:
        try:
            while True:
                while (seconds := self._schedule.seconds_left(self.clock.now())) > 0:
                    self._sleep = asyncio.create_task(self.clock.sleep(seconds), name="aiossmenv sleep")
                    await asyncio.wait({self._sleep})
                try:
                    await self._join_or_start(Refresh(self._schedule.next_kind(self._now())))
                except Exception as error:
                    self._warn(error)
        except asyncio.CancelledError:
            # Not raised: its traceback would keep the Env from being reported when the last reference to it goes.
            if not self.closed:
                # Cancelled from outside, because the loop ends. It is not closed: an `async with` block may still close
                # it. From now on nothing refreshes the values, so each lookup must check that.
                self.needs_check = True
                await self._release()
        finally:
            if self._sleep:
                self._sleep.cancel()

    def _warn(self, error: Exception) -> None:
        status = self.status
        logger.warning(
            "refresh of %s failed, %d in a row; the values of %.0f s ago stay, next try in %.1f s: %s: %s",
            self._source.where,
            status.failures,
            status.age,
            status.next_refresh or 0.0,
            type(error).__name__,
            error if isinstance(error, AiossmenvError) else "",
        )

    async def _close(self) -> None:
        try:
            if self._task:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self._release()

    async def _release(self) -> None:
        self._schedule.stop()
        released, self._released = self._released, True
        if not released:
            try:
                await self._refreshes.aclose()
            finally:
                await self._source.release()

    def _now(self) -> float:
        now = self.clock.now()
        self._schedule.account_for_suspend(now=now, wall=self.clock.wall())
        return now

    def _is_inherited(self) -> bool:
        """Return whether this is the copy, in a child process, of one that is refreshed in the parent."""
        return self._task is not None and self.pid != process.id

    def _leave_loop(self) -> None:
        """Begin anew on the running loop: nothing that was begun on another one can be waited for here."""
        self._refreshes, self._active, self._closing = SingleFlight(), None, None
        self._source.forget_callbacks()
        task, self._task = self._task, None
        if task and not task.get_loop().is_closed():
            task.cancel()
