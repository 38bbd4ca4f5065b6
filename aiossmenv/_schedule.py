"""When next, and why."""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from aiossmenv._concurrency import Backoff
from aiossmenv._errors import AiossmenvError, DecryptionFailed, Throttled
from aiossmenv._models import Status

# A refresh starts within this part of the TTL, so that a snapshot is replaced before it stops being fresh, and
# processes that started together drift apart.
_EARLIEST, _LATEST = 0.8, 0.95
# A refresh that is throttled doubles the interval, to an hour at most (seconds); each that is not halves it again.
_LONGEST = 3600.0

# Of two clocks that differ by less than this (seconds), one is being set right, or was read a little later.
_SLEPT = 1.0

# By name; or all paths are listed as well; or everything is decrypted again as well.
Kind = Literal["poll", "list", "revalidate"]


class Schedule:
    """
    The refreshes of one `Env`.

    In seconds: *ttl*: how long a snapshot is fresh, `None` for no refreshes. *list_interval*: between two listings,
    *revalidate_interval*: between two decryptions of everything; `None` for never. *max_stale*: after which reads are
    refused, `None` for never. *random* gives numbers from 0 to 1.
    """

    def __init__(
        self,
        *,
        ttl: float | None,
        list_interval: float | None,
        revalidate_interval: float | None,
        max_stale: float | None,
        random: Callable[[], float],
    ) -> None:
        self._ttl = ttl
        self._list_interval = list_interval
        self._revalidate_interval = revalidate_interval
        self._max_stale = max_stale
        self._random = random
        # Soon at first; in a long outage about as often as the TTL would have it, and no later than five minutes.
        self._backoff = Backoff(base=min(1.0, ttl or 1.0), cap=min(max(ttl or 0.0, 30.0), 300.0))
        self._throttle_factor = 1.0
        self._read_at = self._list_due = self._revalidate_due = math.inf
        self._last_success: datetime
        self._last_error: AiossmenvError | None = None
        self._failures = 0
        self._due: float | None = None
        # When a refresh may be tried after one that failed, and how far the time of day was ahead at that failure.
        self._retry_at, self._ahead_then = -math.inf, 0.0
        # Seconds that the time of day is ahead of the monotonic clock since the last complete read.
        self._ahead = self._told_of = 0.0
        self._stopped = False
        self._refreshes = self._changes = self._requests = self._throttled = self._decrypted = 0

    def loaded(self, *, now: float, wall: datetime) -> None:
        """Note the first load, and plan the first refresh."""
        self._read_at = now
        self._last_success = wall
        # Anywhere in the TTL: a fleet that was deployed in one second must not poll in one.
        self._due = None if self._ttl is None else now + self._ttl * _LATEST * self._random()
        self._list_due = self._after(self._list_interval, now)
        self._revalidate_due = self._after(self._revalidate_interval, now)

    def account_for_suspend(self, *, now: float, wall: datetime) -> None:
        """
        Note the time of day *wall*, which may say that *now* stood still for a while.

        It does while a machine is suspended, or frozen between two calls as AWS Lambda does: no clock that never runs
        backwards is sure to go on there. So the age is the larger of the monotonic and the wall-clock time elapsed. A
        time of day that is wrong makes a snapshot look old for as long as it is wrong.
        """
        ahead = (wall - self._last_success).total_seconds() - (now - self._read_at)
        self._ahead = ahead if ahead > _SLEPT else 0.0

    def next_kind(self, now: float) -> Kind:
        """Return what the next refresh is to be."""
        now += self._ahead
        if now >= self._revalidate_due:
            return "revalidate"
        return "list" if now >= self._list_due else "poll"

    def until_listing(self, now: float) -> float | None:
        """Return the seconds until the listing that is planned after this refresh, `None` if there is none."""
        now += self._ahead
        if self._list_interval is None:
            return None
        revalidate = self._revalidate_interval or math.inf
        dues = ((self._list_due, self._list_interval), (self._revalidate_due, revalidate))
        return min(due - now if now < due < math.inf else interval for due, interval in dues)

    def newly_suspended(self) -> float:
        """Return the seconds that the process slept since the last complete read, without those returned before."""
        slept, self._told_of = max(0.0, self._ahead - self._told_of), self._ahead
        return slept

    def count(self, *, requests: int, throttled: int, decrypted: int) -> None:
        """Add what a read, successful or not, has cost."""
        self._requests += requests
        self._throttled += throttled
        self._decrypted += decrypted

    def succeeded(self, kind: Kind, *, now: float, wall: datetime, changes: int, missing: bool = False) -> None:
        """Note a complete read that brought so many changes, and plan the next; *missing*: it did not find all."""
        self.account_for_suspend(now=now, wall=wall)
        # What the process slept since the last read counts for the intervals, too.
        self._list_due -= self._ahead
        self._revalidate_due -= self._ahead
        self._ahead = self._told_of = 0.0
        self._retry_at = -math.inf
        self._read_at = now
        self._last_success = wall
        self._last_error = None
        self._failures = 0
        self._refreshes += 1
        self._changes += changes
        self._throttle_factor = max(1.0, self._throttle_factor / 2)
        if self._ttl is not None:
            self._due = self._after(self._ttl * self._throttle_factor, now)
        if missing:
            self._list_due = now  # they may have been renamed, and then a listing finds what they are called now
        elif kind != "poll":
            self._list_due = self._after(self._list_interval, now)
        if kind == "revalidate":
            self._revalidate_due = self._after(self._revalidate_interval, now)

    def partly_succeeded(self, *, changes: int) -> None:
        """Note a read of some keys: it says nothing of the others' age."""
        self._changes += changes

    def failed(self, error: AiossmenvError, *, now: float, kind: Kind = "poll") -> None:
        """Note a refresh that failed, and plan the next try: with full jitter, or later if we are too many."""
        if kind == "revalidate" and isinstance(error, DecryptionFailed):
            # One key that was revoked must not have every try decrypt everything.
            self._revalidate_due = self._after(self._list_interval or self._revalidate_interval, now)
        self._failures += 1
        self._last_error = error
        if self._ttl is not None and isinstance(error, Throttled):
            self._throttle_factor = min(self._throttle_factor * 2, max(1.0, _LONGEST / self._ttl))
            self._retry_at = self._after(self._ttl * self._throttle_factor, now)
        else:
            self._retry_at = now + self._backoff.delay(self._failures, self._random())
        self._ahead_then = self._ahead
        if self._ttl is not None:
            self._due = self._retry_at

    def retry_left(self, now: float) -> float:
        """Return the seconds until a refresh may be tried again after one that failed, 0 if none did."""
        return max(0.0, self._retry_at - now - max(0.0, self._ahead - self._ahead_then))

    def _after(self, seconds: float | None, now: float) -> float:
        return math.inf if seconds is None else now + seconds * (_EARLIEST + (_LATEST - _EARLIEST) * self._random())

    def seconds_left(self, now: float) -> float:
        """Return the seconds until the next refresh is due, infinity if none is planned."""
        return math.inf if self._stopped or self._due is None else max(0.0, self._due - now)

    def stop(self) -> None:
        """Plan no more refreshes."""
        self._stopped = True

    def too_stale(self, now: float) -> bool:
        """Whether the snapshot is older than *max_stale*."""
        return self._max_stale is not None and self._age(now) > self._max_stale

    def _age(self, now: float) -> float:
        return now - self._read_at + self._ahead

    def status(self, now: float) -> Status:
        """Return how things are at *now*."""
        age, left = self._age(now), self.seconds_left(now)
        if self._ttl is None:
            left = self.retry_left(now) or math.inf
        return Status(
            fresh=self._ttl is None or age <= self._ttl,
            age=age,
            last_success=self._last_success,
            last_error=self._last_error,
            failures=self._failures,
            next_refresh=None if math.isinf(left) else left,
            refreshes=self._refreshes,
            changes=self._changes,
            requests=self._requests,
            throttled=self._throttled,
            decrypted=self._decrypted,
        )
