"""
A fleet that starts at once: `tests/benchmarks/run fleet`.

10,000 processes begin in the same moment to load one path of 20 parameters, two pages, from an account that allows 40
calls a second. Time is virtual: a heap of events, and nobody sleeps. Our processes run the library's own `Scan`,
`Pace` and `Backoff`, as `ParameterStore` drives them, with a deadline of 15 minutes; beside them stand models of the
SDK's two modes of retrying, with their default numbers of attempts. An answer, good or throttled, comes 20 ms after
the request; the quota is a bucket of 40 tokens that fills at 40 a second.

Printed for each: how many processes failed, how long the others took, and how many calls were sent. No way of waiting
can beat 20,000 calls / 40 a second = 500 s for the last of them.
"""

import argparse
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from aiossmenv._concurrency import Backoff
from aiossmenv._errors import Throttled
from aiossmenv._models import Parameter
from aiossmenv._ssm.limiter import AdaptiveRateLimiter
from aiossmenv._ssm.reader import Job, PermissionCache, Scan
from aiossmenv._ssm.transport import GetParametersByPath, Page, Query

# Calls a second, and so many at once; seconds; and seconds.
QUOTA = 40.0
LATENCY = 0.02
DEADLINE = 900.0
PAGES = 2
# ParameterStore's max_concurrency.
WIDTH = 20

_PARAMETERS = [
    Parameter(name=f"/app/{n:02d}", value="value", type="SecureString", version=1) for n in range(10 * PAGES)
]
_ANSWERS = [
    Page(tuple(_PARAMETERS[10 * page : 10 * page + 10]), str(page + 1) if page + 1 < PAGES else None)
    for page in range(PAGES)
]


class Process(Protocol):
    """One of the fleet."""

    failed: bool

    def act(self, now: float) -> tuple[list[object], float | None]:
        """Return the calls to send now, and the seconds until it wants to act again whatever comes; `None`: over."""

    def answered(self, call: object, granted: bool, now: float) -> None:
        """Take in an answer."""


class Ours:
    """A process that loads with aiossmenv."""

    def __init__(self, rng: Callable[[], float], backoff: Backoff) -> None:
        self.failed = False
        self._scan = Scan(
            [Query(path="/app")],
            pace=AdaptiveRateLimiter(WIDTH),
            denials=PermissionCache(),
            deadline=DEADLINE,
            random=rng,
            backoff=backoff,
        )

    def act(self, now: float) -> tuple[list[object], float | None]:
        """Do what `ParameterStore.drive()` does between two waits."""
        scan = self._scan
        scan.expire(now)
        calls: list[object] = []
        while job := scan.next(now):
            calls.append(job)
        if scan.done:
            self.failed = scan.error is not None
            assert self.failed or len(scan.found) == len(_PARAMETERS)
            return calls, None
        return calls, scan.wait(now)

    def answered(self, call: object, granted: bool, now: float) -> None:
        """Hand the answer to the scan."""
        assert isinstance(call, Job)
        assert isinstance(call.request, GetParametersByPath)
        if granted:
            self._scan.answered(call, _ANSWERS[int(call.request.token or 0)], now)
        else:
            self._scan.failed(call, Throttled("Rate exceeded"), now)


class Botocore:
    """A process that pages with the SDK: so many *attempts* for each page, *ceiling* seconds at most between two."""

    def __init__(self, rng: Callable[[], float], attempts: int, ceiling: float) -> None:
        self.failed = False
        self._dice = rng
        self._attempts = attempts
        self._ceiling = ceiling
        self._page = self._failures = 0
        self._at: float | None = 0.0

    def act(self, now: float) -> tuple[list[object], float | None]:
        """Send the page's request when its time has come."""
        if self.failed or self._page == PAGES:
            return [], None
        if self._at is None or self._at > now:
            return [], float("inf") if self._at is None else self._at - now
        self._at = None
        return [self._page], float("inf")

    def answered(self, call: object, granted: bool, now: float) -> None:
        """Go on to the next page, wait as botocore does, or give up."""
        assert call == self._page
        if granted:
            self._page, self._failures, self._at = self._page + 1, 0, now
            return
        self._failures += 1
        self.failed = self._failures >= self._attempts
        self._at = now + self._dice() * min(2.0 ** (self._failures - 1), self._ceiling)


@dataclass(slots=True)
class Outcome:
    """What became of a fleet. *took*: seconds, of those that did not fail."""

    failed: int = 0
    sent: int = 0
    took: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        took = sorted(self.took) or [0.0]
        p50, p99, last = (took[int(part * (len(took) - 1))] for part in (0.5, 0.99, 1))
        return f"| {self.failed:6,} | {p50:7.1f} s | {p99:7.1f} s | {last:7.1f} s | {self.sent:9,} |"


def run(fleet: list[Process]) -> Outcome:
    """Let a fleet start at once, and return what became of it."""
    outcome = Outcome()
    turn = itertools.count()
    # When, a number that keeps the order of what comes at the same time, who, the call that is answered, and how.
    # Without a call it is a process that wanted to wake up, unless it was heard of since: then its number is stale.
    events: list[tuple[float, int, int, object, bool]] = [
        (0.0, next(turn), number, None, True) for number in range(len(fleet))
    ]
    alarms = [event[1] for event in events]
    tokens, filled = QUOTA, 0.0
    while events:
        now, order, number, call, granted = heapq.heappop(events)
        if call is None and order != alarms[number]:
            continue
        process = fleet[number]
        if call is not None:
            process.answered(call, granted, now)
        calls, wait = process.act(now)
        for sent in calls:
            tokens, filled = min(QUOTA, tokens + (now - filled) * QUOTA), now
            grant = tokens >= 1
            tokens -= grant
            outcome.sent += 1
            heapq.heappush(events, (now + LATENCY, next(turn), number, sent, grant))
        alarms[number] = next(turn)
        if wait is None:
            outcome.failed += process.failed
            outcome.took += [] if process.failed else [now]
        elif wait < float("inf"):
            heapq.heappush(events, (now + wait, alarms[number], number, None, True))
    return outcome


def main() -> None:
    """Run each fleet and print what became of it."""
    parser = argparse.ArgumentParser(description="10,000 processes that start at once against 40 calls a second.")
    parser.add_argument("--size", type=int, default=10_000, help="processes (default: %(default)s)")
    parser.add_argument("--cap", type=float, nargs="*", default=[], help="also with these Backoff(cap=...), in seconds")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (default: %(default)s)")
    options = parser.parse_args()
    caps = {f"aiossmenv, cap {Backoff().cap:g} s (default)": Backoff()}
    caps |= {f"aiossmenv, cap {cap:g} s": Backoff(cap=cap) for cap in options.cap}
    fleets: dict[str, Callable[[Callable[[], float]], Process]] = {
        **{name: partial(Ours, backoff=backoff) for name, backoff in caps.items()},
        "SDK, legacy: 5 attempts (default)": lambda rng: Botocore(rng, 5, float("inf")),
        "SDK, standard: 3 attempts": lambda rng: Botocore(rng, 3, 20.0),
    }
    print(f"| {options.size:,} processes, 40 calls a second | failed |       p50 |       p99 |      last | calls     |")
    print("| -------------------------------------- | ------ | --------- | --------- | --------- | --------- |")
    for name, make in fleets.items():
        rng = random.Random(options.seed).random
        outcome = run([make(rng) for _ in range(options.size)])
        print(f"| {name.ljust(38)} {outcome}", flush=True)


if __name__ == "__main__":
    main()
