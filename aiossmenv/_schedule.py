# One owner: when the next refresh is due and how the last ones went. No I/O: the time and the dice are passed in.
"""When next, and why."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aiossmenv._backoff import Backoff
from aiossmenv._errors import AiossmenvError

# A refresh starts within this part of the TTL, so that a snapshot is replaced before it stops being fresh, and
# processes that started together drift apart.
_EARLIEST, _LATEST = 0.8, 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """
    How current an `Env` is, at the moment of asking.

    *fresh*: the snapshot is younger than `ttl`; without a `ttl`, always. *age*: seconds since the last successful
    read ended. *last_success*: when that was, with time zone. *last_error*: the error of the last refresh if it
    failed, else `None`. *failures*: failed refreshes in a row. *next_refresh*: seconds until the next one begins, 0
    while it runs, `None` if none is planned. *refreshes*, *changes*: successful refreshes, and changes they brought,
    since the first load.
    """

    fresh: bool
    age: float
    last_success: datetime
    last_error: AiossmenvError | None
    failures: int
    next_refresh: float | None
    refreshes: int
    changes: int


Status.__module__ = "aiossmenv"


class Schedule:
    """
    The refreshes of one `Env`, from its first successful load on.

    *ttl*: seconds a snapshot is fresh, `None` for no refreshes. *max_stale*: seconds after which reads are refused,
    `None` for never. *random* gives numbers from 0 to 1.
    """

    def __init__(
        self, *, ttl: float | None, max_stale: float | None, now: float, wall: datetime, random: Callable[[], float]
    ) -> None:
        self._ttl = ttl
        self._max_stale = max_stale
        self._random = random
        # A failed refresh comes back sooner than a TTL, but never more often than the TTL itself would have it.
        self._backoff = Backoff(base=min(1.0, ttl or 1.0), cap=max(ttl or 0.0, 30.0))
        self._read_at = now
        self._last_success = wall
        self._last_error: AiossmenvError | None = None
        self._failures = 0
        self._refreshes = 0
        self._changes = 0
        # The first phase is anywhere in the TTL: a fleet that was deployed in one second shall not poll in one.
        self._due: float | None = None if ttl is None else now + ttl * _LATEST * random()

    def succeeded(self, *, now: float, wall: datetime, changes: int) -> None:
        """Note a complete read that brought so many changes, and plan the next."""
        self._read_at = now
        self._last_success = wall
        self._last_error = None
        self._failures = 0
        self._refreshes += 1
        self._changes += changes
        if self._ttl is not None:
            self._due = now + self._ttl * (_EARLIEST + (_LATEST - _EARLIEST) * self._random())

    def failed(self, error: AiossmenvError, *, now: float) -> None:
        """Note a refresh that failed, and plan the next try with full jitter."""
        self._failures += 1
        self._last_error = error
        if self._ttl is not None:
            self._due = now + self._backoff.delay(self._failures, self._random())

    def seconds_left(self, now: float) -> float:
        """Return the seconds until the next refresh is due, infinity if none is planned."""
        return math.inf if self._due is None else max(0.0, self._due - now)

    def too_stale(self, now: float) -> bool:
        """Whether the snapshot is older than *max_stale*."""
        return self._max_stale is not None and now - self._read_at > self._max_stale

    def status(self, now: float) -> Status:
        """Return how things are at *now*."""
        age = now - self._read_at
        return Status(
            fresh=self._ttl is None or age <= self._ttl,
            age=age,
            last_success=self._last_success,
            last_error=self._last_error,
            failures=self._failures,
            next_refresh=None if self._due is None else self.seconds_left(now),
            refreshes=self._refreshes,
            changes=self._changes,
        )
