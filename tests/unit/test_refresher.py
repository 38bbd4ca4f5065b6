"""The refresher on a manual clock, with random orders of callers, reads, failures and closing."""

import asyncio
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiossmenv import Change, StaleEnv, StoreUnavailable
from aiossmenv._refresher import Refresh, Refreshed, Refresher, Scope
from aiossmenv._schedule import Schedule
from aiossmenv.testing import ManualClock
from timing import run_scenario, settle

EXAMPLES = settings().max_examples


@dataclass(frozen=True)
class Read:
    """One read: its scope, when its requests were sent, and when it ended; `None` if it failed."""

    refresh: Refresh
    began: float
    ended: float | None


class Source:
    """A source whose reads take a random time and fail with probability *failing*."""

    where = "/P"
    region = None

    def __init__(self, clock: ManualClock, rng: random.Random, failing: float = 0.0) -> None:
        self.clock = clock
        self.rng = rng
        self.failing = failing
        self.reads: list[Read] = []
        self.reading = 0
        self.released = 0

    def __repr__(self) -> str:
        return "<Env /P>"

    def has(self, keys: frozenset[str]) -> bool:
        """See `Source`; the keys are A and B."""
        return keys <= {"A", "B"}

    async def read(self, refresh: Refresh) -> Refreshed:
        """See `Source`."""
        assert not self.reading, "two reads overlap"
        self.reading += 1
        began = self.clock.now()
        ended: float | None = None
        try:
            await self.clock.sleep(self.rng.uniform(0, 0.2))
            refresh.sending()
            began = self.clock.now()
            await self.clock.sleep(self.rng.uniform(0, 1))
            if self.rng.random() < self.failing:
                raise StoreUnavailable("no answer")
            ended = self.clock.now()
            return Refreshed((), self.clock.wall())
        finally:
            self.reading -= 1
            self.reads.append(Read(refresh, began, ended))

    def deliver(self, changes: tuple[Change, ...]) -> None:
        """See `Source`."""

    def forget_callbacks(self) -> None:
        """See `Source`."""

    async def release(self) -> None:
        """See `Source`."""
        self.released += 1


def refresher_of(source: Source, *, ttl: float | None = None, max_stale: float | None = None) -> Refresher:
    """Return a refresher of *source*."""
    schedule = Schedule(
        ttl=ttl,
        list_interval=None if ttl is None else 5 * ttl,
        revalidate_interval=None,
        max_stale=max_stale,
        random=source.rng.random,
    )
    return Refresher(source, schedule, source.clock, background=ttl is not None, needs_check=max_stale is not None)


CALLS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from([frozenset[str](), frozenset("A"), frozenset("AB"), frozenset("GONE")]),
        st.sampled_from([0.0, 0.0, 0.5]),
        st.one_of(st.none(), st.floats(0, 2)),
    ),
    max_size=12,
)


@settings(max_examples=14 * EXAMPLES)
@given(st.integers(0, 10**6), CALLS, st.sampled_from([None, 3.0]), st.sampled_from([0.0, 0.3]))
def test_refresh_reads_after_its_call(
    seed: int, calls: list[tuple[float, frozenset[str], float, float | None]], ttl: float | None, failing: float
) -> None:
    """Reads never overlap; a successful refresh was sent after its call; a cancelled call does not cancel another."""

    async def scenario() -> None:
        clock = ManualClock()
        source = Source(clock, random.Random(seed))
        refresher = refresher_of(source, ttl=ttl)
        starting = asyncio.create_task(refresher.start())
        await clock.advance(2)
        await starting
        source.failing = failing

        async def call(keys: frozenset[str], min_gap: float) -> None:
            called = clock.now()
            try:
                await refresher.refresh(keys, min_gap)
            except StoreUnavailable:
                return
            scope: Scope = keys if keys and source.has(keys) else "list"
            after = [read for read in source.reads if read.ended is not None and read.began >= called]
            covering = [read for read in after if read.refresh.covers(scope)]
            assert covering

        running = []
        for pause, keys, min_gap, cancelled in calls:
            await clock.advance(pause)
            task = asyncio.create_task(call(keys, min_gap), name="caller")
            running.append(task)
            if cancelled is not None:
                asyncio.get_running_loop().call_soon(task.cancel)
        while not all(task.done() for task in running):
            await clock.advance(0.5)
        for task in running:
            if not task.cancelled():
                task.result()
        await refresher.aclose(in_callback=False)
        assert 1 == source.released

    run_scenario(scenario)


@settings(max_examples=3 * EXAMPLES)
@given(st.integers(0, 10**6), st.floats(0, 5))
def test_close_at_any_moment_ends_everything(seed: int, when: float) -> None:
    """`aclose()` ends the running read, the waiting calls and the schedule, and releases the source once."""

    async def scenario() -> None:
        clock = ManualClock()
        source = Source(clock, random.Random(seed), failing=0.2)
        source.failing = 0.0
        refresher = refresher_of(source, ttl=1.0)
        starting = asyncio.create_task(refresher.start())
        await clock.advance(2)
        await starting
        waiting = [asyncio.create_task(refresher.refresh(frozenset(), 0.0), name="caller") for _ in range(3)]
        await clock.advance(when)

        await asyncio.gather(*(refresher.aclose(in_callback=False) for _ in range(2)))
        await asyncio.gather(*waiting, return_exceptions=True)

        assert (1, 0) == (source.released, source.reading)
        with pytest.raises(RuntimeError, match="closed"):
            await refresher.refresh(frozenset(), 0.0)

    run_scenario(scenario)


def test_failures_back_off_for_every_caller() -> None:
    """
    In an outage of an hour, `ensure_fresh()` every second reads rarely, returns within its deadline, and recovers.
    """

    async def scenario() -> None:
        clock = ManualClock()
        source = Source(clock, random.Random(1))
        refresher = refresher_of(source)
        starting = asyncio.create_task(refresher.start())
        await clock.advance(2)
        await starting
        source.failing = 1.0
        before = len(source.reads)
        for _ in range(3600):
            began = clock.now()
            waiting_call = asyncio.create_task(refresher.ensure_fresh(60, 5.0))
            await clock.advance(1)
            while not waiting_call.done():
                await clock.advance(0.5)
            assert () == waiting_call.result()
            assert clock.now() - began <= 6
        assert 5 < len(source.reads) - before < 500
        assert refresher.status.failures == len(source.reads) - before

        source.failing = 0.0
        await clock.advance(300)
        waiting_call = asyncio.create_task(refresher.ensure_fresh(60, 5.0))
        await clock.advance(5)
        await waiting_call
        assert 0 == refresher.status.failures
        await refresher.aclose(in_callback=False)

    run_scenario(scenario)


async def test_stale_values_are_rejected() -> None:
    """Beyond `max_stale`, `StaleEnv` says how old the values are and why."""
    clock = ManualClock()
    source = Source(clock, random.Random(1))
    refresher = refresher_of(source, max_stale=100)
    starting = asyncio.create_task(refresher.start())
    await clock.advance(2)
    await starting
    source.failing = 1.0
    await clock.advance(101)

    waiting_call = asyncio.create_task(refresher.ensure_fresh(60, 5.0))
    await clock.advance(6)
    with pytest.raises(StaleEnv, match=r"10\d s old.*no answer"):
        await waiting_call
    await refresher.aclose(in_callback=False)


async def test_min_gap_counts_from_the_start_of_a_refresh() -> None:
    """A call with `min_gap` waits, and background refreshes do not extend its wait."""
    clock = ManualClock()
    source = Source(clock, random.Random(1))
    refresher = refresher_of(source, ttl=2.0)
    starting = asyncio.create_task(refresher.start())
    await clock.advance(2)
    await starting
    began = source.reads[-1].began
    waiting_call = asyncio.create_task(refresher.refresh(frozenset("A"), 30.0))
    await clock.advance(25)
    assert not waiting_call.done()
    await clock.advance(8)
    await settle()
    assert waiting_call.done()
    assert source.reads[-1].began >= began + 25
    await refresher.aclose(in_callback=False)
