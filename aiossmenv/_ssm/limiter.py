"""
How many requests of one store are in flight, and how soon the next may be sent.

As fast as the account allows, without knowing how fast that is. Throttling halves the limit of requests in flight, and
sets an interval between two requests from the rate that went well before. Each good answer raises the limit and
shortens the interval a little (additive increase, multiplicative decrease, as TCP does). An interval is needed because
even one request at a time, 20 ms each, is 50 a second, and an account has 40 by default. All requests that are in
flight when an account has used up its second are throttled at once, so few should be in flight then.
"""

from collections import deque
from typing import Literal

# Seconds over which the rate of good answers is measured.
_WINDOW = 1.0
# This part of the rate that was throttled is tried next.
_SLOW_DOWN = 0.8
# Each good answer multiplies the interval by this.
_SPEED_UP = 0.99
# Reads a second that an account may make by default: no reason to be slower at first, however little was measured.
_QUOTA = 40.0
# Once so many went well in a second, no more than this are in flight until it has shown that the account has more.
_CAREFUL = 8
# Seconds: the longest interval, and the shortest that counts as one.
_LONGEST, _SHORTEST = 1.0, 0.0001


class AdaptiveRateLimiter:
    """
    Tells when the next request may be sent; *max_in_flight* is the most that are ever in flight at once.

    *quota*: requests a second that an account may send by default. *careful*: requests in flight near that quota.
    """

    def __init__(self, max_in_flight: int, *, quota: float = _QUOTA, careful: int = _CAREFUL) -> None:
        self._max_in_flight = max_in_flight
        self._quota = quota
        self._careful = careful
        self._limit = float(max_in_flight)
        self._interval = 0.0
        self._next = float("-inf")
        self._slowed_at = float("-inf")
        self._sent: dict[object, float] = {}
        self._good: deque[float] = deque()

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return int(self._limit)

    def seconds_to_wait(self, now: float) -> float:
        """Return the seconds until one more may be sent, 0 for now; an answer that comes before may shorten them."""
        in_flight = len(self._sent)
        if in_flight >= self.limit:
            return _WINDOW
        spent = self._recently_good(now) + in_flight
        if self._quota <= spent < self._quota + 2 * self._careful and in_flight >= self._careful:
            return self._good[0] + _WINDOW - now if self._good else _WINDOW
        return max(0.0, self._next - now)

    def sent(self, request: object, now: float) -> None:
        """Note a request that goes out."""
        self._sent[request] = now
        self._next = max(now, self._next) + self._interval

    def forget(self, request: object) -> None:
        """Note that the answer of a request is not waited for any more."""
        self._sent.pop(request, None)

    def answered(self, request: object, now: float, outcome: Literal["good", "throttled", "failed"]) -> None:
        """Note an answer, or a failure that came instead; one that is not throttling says nothing of the rate."""
        sent = self._sent.pop(request, now)
        if outcome == "good":
            self._good.append(now)
            self._limit = min(float(self._max_in_flight), self._limit + 1 / self._limit)
            self._interval *= _SPEED_UP
            if self._interval < _SHORTEST:
                self._interval = 0.0
        elif outcome == "throttled" and sent > self._slowed_at:
            # Those that were in flight with it tell nothing new.
            self._slowed_at = now
            self._limit = max(1.0, self._limit / 2)
            fits = self._interval or _WINDOW / max(self._quota, self._recently_good(now))
            self._interval = min(_LONGEST, fits / _SLOW_DOWN)
            self._next = now + self._interval

    def _recently_good(self, now: float) -> int:
        while self._good and self._good[0] <= now - _WINDOW:
            self._good.popleft()
        return len(self._good)
