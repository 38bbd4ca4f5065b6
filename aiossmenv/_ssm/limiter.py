# One owner: how many requests of one store are under way, and how soon the next may go. No I/O, no clock.
"""
As fast as the account allows, without knowing how fast that is.

Throttling halves the width and sets an interval between requests from the rate that went well before; each good answer
widens and quickens it a little (additive increase, multiplicative decrease, as TCP does). An interval is needed because
even one request at a time, 20 ms each, is 50 a second, and an account has 40 by default. All that are under way when
such an account's second is used up are throttled at once, so that is when few should be.
"""

from collections import deque
from typing import Literal

# Seconds over which the rate of good answers is measured.
_WINDOW = 1.0
# Of the rate that was throttled, this part is tried next; each good answer makes the interval shorter by a little.
_BACK, _FORTH = 0.8, 0.99
# Calls a second that an account may make by default: no reason to be slower at first, whatever little was measured.
_QUOTA = 40.0
# Once so many went well in a second, no more than this are under way until it has shown that the account has more.
_CAREFUL = 8
# Seconds: the longest interval, and one that is none.
_LONGEST, _NONE = 1.0, 0.0001
# When width is taken by other reads of this store, whose answers we do not see, look again so soon.
_LOOK_AGAIN = 0.01


class AdaptiveRateLimiter:
    """*most*: requests under way at once, at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = float(most)
        self._interval = 0.0
        self._next = float("-inf")
        self._cut = float("-inf")
        self._sent: dict[object, float] = {}
        self._good: deque[float] = deque()

    @property
    def width(self) -> int:
        """How many may be under way now."""
        return int(self._width)

    def wait(self, now: float) -> float:
        """Return the seconds until one more may be sent; 0 for now."""
        spent = self._went_well(now) + len(self._sent)
        careful = _QUOTA <= spent < _QUOTA + 2 * _CAREFUL
        if len(self._sent) >= (min(self.width, _CAREFUL) if careful else self.width):
            return _LOOK_AGAIN
        return max(0.0, self._next - now)

    def sent(self, request: object, now: float) -> None:
        """Note a request that goes out."""
        self._sent[request] = now
        self._next = max(now, self._next) + self._interval

    def forget(self, request: object) -> None:
        """Note that nobody waits for a request any more."""
        self._sent.pop(request, None)

    def answered(self, request: object, now: float, outcome: Literal["good", "throttled", "failed"]) -> None:
        """Note an answer, or a failure that came instead; one that is not throttling says nothing of the pace."""
        sent = self._sent.pop(request, now)
        if outcome == "good":
            self._good.append(now)
            self._width = min(float(self._most), self._width + 1 / self._width)
            self._interval *= _FORTH
            if self._interval < _NONE:
                self._interval = 0.0
        elif outcome == "throttled" and sent > self._cut:
            # Those that were under way with it tell nothing new.
            self._cut = now
            self._width = max(1.0, self._width / 2)
            fits = self._interval or _WINDOW / max(_QUOTA, self._went_well(now))
            self._interval = min(_LONGEST, fits / _BACK)
            self._next = now + self._interval

    def _went_well(self, now: float) -> int:
        while self._good and self._good[0] <= now - _WINDOW:
            self._good.popleft()
        return len(self._good)
