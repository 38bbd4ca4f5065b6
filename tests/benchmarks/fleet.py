"""
A fleet that starts at once: `tests/benchmarks/run fleet`.

10,000 processes start at the same moment and load one path of 20 parameters (two pages) from an account that allows 40
calls a second. Time is virtual: the event loop does not wait. Our processes are the library's own `Reader`s, with a
deadline of 15 minutes. They are compared with models of the SDK's two retry modes, with their default numbers of
attempts. An answer, good or throttled, arrives 20 ms after the request; the quota is a bucket of 40 tokens that fills
at 40 a second.

For each fleet it prints how many processes failed, how long the others took, and how many calls were sent. No backoff
can be faster than 20,000 calls / 40 a second = 500 s for the last process.
"""

import argparse
import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiossmenv import AiossmenvError, GetParametersByPath, Page, Parameter, ServiceError, Transport
from aiossmenv._ssm.merge import StoreState
from aiossmenv._ssm.permissions import PermissionCache
from aiossmenv._ssm.reader import Reader
from aiossmenv._ssm.transport import Query, Request

# QUOTA is in calls per second and also the burst; LATENCY and DEADLINE are in seconds.
QUOTA = 40.0
LATENCY = 0.02
DEADLINE = 900.0
PAGES = 2
# The default max_concurrency of ParameterStore.
MAX_IN_FLIGHT = 20

_PARAMETERS = [
    Parameter(name=f"/app/{n:02d}", value="value", type="SecureString", version=1) for n in range(10 * PAGES)
]
_ANSWERS = [
    Page(tuple(_PARAMETERS[10 * page : 10 * page + 10]), str(page + 1) if page + 1 < PAGES else None)
    for page in range(PAGES)
]

# The work of one process; it returns `False` if the load failed.
Load = Callable[["Account", Callable[[], float]], Awaitable[bool]]


class _Selector(selectors.SelectSelector):
    """A selector that advances virtual time instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return at once."""
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        """Return the virtual time."""
        return self.selector.now


class _Clock:
    """The clock of that loop."""

    def now(self) -> float:
        """Return the virtual time."""
        return asyncio.get_running_loop().time()

    def wall(self) -> datetime:
        """Return the virtual time as a wall time."""
        return datetime.fromtimestamp(self.now(), UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the loop."""
        await asyncio.sleep(seconds)


class Account:
    """The account that all processes share: a `Transport` with a quota."""

    region: str | None = "eu-central-1"

    def __init__(self) -> None:
        self.sent = 0
        self._tokens, self._filled = QUOTA, 0.0

    async def granted(self) -> bool:
        """Count a call, and return after the latency whether it was within the quota."""
        now = asyncio.get_running_loop().time()
        self._tokens, self._filled = min(QUOTA, self._tokens + (now - self._filled) * QUOTA), now
        grant = self._tokens >= 1
        self._tokens -= grant
        self.sent += 1
        await asyncio.sleep(LATENCY)
        return grant

    async def send(self, request: Request) -> Page:
        """See `Transport`."""
        assert isinstance(request, GetParametersByPath)
        if not await self.granted():
            raise ServiceError("ThrottlingException", "Rate exceeded")
        return _ANSWERS[int(request.next_token or 0)]

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


async def ours(account: Account, rng: Callable[[], float]) -> bool:
    """Load with aiossmenv."""

    async def connect() -> Transport:
        return account

    reader = Reader(connect, permissions=PermissionCache(), max_in_flight=MAX_IN_FLIGHT, clock=_Clock(), random=rng)
    try:
        results = await reader.read([Query(path="/app")], StoreState(), deadline=DEADLINE)
    except AiossmenvError:
        return False
    return len(results.parameters) == len(_PARAMETERS)


def botocore(attempts: int, ceiling: float) -> Load:
    """
    Return a load with the SDK's paging: *attempts* for each page, and at most *ceiling* seconds between two attempts.
    """

    async def load(account: Account, rng: Callable[[], float]) -> bool:
        for _ in range(PAGES):
            for failures in range(attempts):
                if await account.granted():
                    break
                if failures + 1 < attempts:
                    await asyncio.sleep(rng() * min(2.0**failures, ceiling))
            else:
                return False
        return True

    return load


@dataclass(slots=True)
class Outcome:
    """The result of a fleet. *took*: the seconds of the processes that did not fail."""

    failed: int = 0
    sent: int = 0
    took: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        took = sorted(self.took) or [0.0]
        p50, p99, last = (took[int(part * (len(took) - 1))] for part in (0.5, 0.99, 1))
        return f"| {self.failed:6,} | {p50:7.1f} s | {p99:7.1f} s | {last:7.1f} s | {self.sent:9,} |"


async def run(load: Load, size: int, rng: Callable[[], float]) -> Outcome:
    """Start a fleet at once, and return its result."""
    account, outcome = Account(), Outcome()

    async def process() -> None:
        if await load(account, rng):
            outcome.took.append(asyncio.get_running_loop().time())
        else:
            outcome.failed += 1

    await asyncio.gather(*(process() for _ in range(size)))
    outcome.sent = account.sent
    return outcome


def main() -> None:
    """Run each fleet and print its result."""
    parser = argparse.ArgumentParser(description="10,000 processes that start at once against 40 calls a second.")
    parser.add_argument("--size", type=int, default=10_000, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    options = parser.parse_args()
    fleets: dict[str, Load] = {
        "aiossmenv": ours,
        "SDK, legacy: 5 attempts (default)": botocore(5, float("inf")),
        "SDK, standard: 3 attempts": botocore(3, 20.0),
    }
    print(f"| {options.size:,} processes, 40 calls a second | failed |       p50 |       p99 |      last | calls     |")
    print("| -------------------------------------- | ------ | --------- | --------- | --------- | --------- |")
    for name, load in fleets.items():
        loop = _Loop()
        outcome = loop.run_until_complete(run(load, options.size, random.Random(options.seed).random))
        loop.close()
        print(f"| {name.ljust(38)} {outcome}", flush=True)


if __name__ == "__main__":
    main()
