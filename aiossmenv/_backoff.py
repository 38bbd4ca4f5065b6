"""
Full jitter to a deadline.

Full jitter (a wait drawn evenly between nothing and a doubling ceiling) is what clears a crowd of callers fastest:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from dataclasses import dataclass


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
