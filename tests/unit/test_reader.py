"""Reads from a simulated store on a manual clock, with random orders of answers, faults, writes and cancellations."""

import asyncio
import random
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    StoreUnavailable,
    Transport,
)
from aiossmenv._ssm.merge import Results, StoreState
from aiossmenv._ssm.permissions import PermissionCache
from aiossmenv._ssm.reader import Reader
from aiossmenv._ssm.sender import ReadStats
from aiossmenv._ssm.transport import Query
from aiossmenv.testing import ManualClock
from simulated import PASSING, Simulated
from timing import passing, run_scenario

# From the chosen profile: 100, or 20 in the fast profile.
EXAMPLES = settings().max_examples

Decrypt = Literal["all", "changed"]


def reader_of(store: Simulated, max_in_flight: int = 20) -> Reader:
    """Return a reader of *store*."""

    async def connect() -> Transport:
        return store

    return Reader(
        connect,
        permissions=PermissionCache(),
        max_in_flight=max_in_flight,
        clock=store.clock,
        random=store.rng.random,
    )


@dataclass(frozen=True)
class Case:
    """A store with *count* parameters under each of *paths*, and the way in which a test reads it."""

    seed: int
    count: int
    paths: int
    decrypt: Decrypt
    by_name: bool
    changed: frozenset[int]
    faults: tuple[str, ...]
    empty: float
    max_in_flight: int
    page: int

    def names(self) -> list[str]:
        """Return the names of all parameters."""
        return [f"/P{path}/K{number:03d}" for path in range(self.paths) for number in range(self.count)]

    def queries(self) -> list[Query]:
        """Return queries for all parameters."""
        if not self.by_name:
            return [Query(path=f"/P{path}") for path in range(self.paths)]
        return [
            Query(path=f"/P{path}", names=tuple(name for name in self.names() if name.startswith(f"/P{path}/")))
            for path in range(self.paths)
        ]

    def store(self) -> Simulated:
        """Return the store with its first values."""
        store = Simulated(ManualClock(), random.Random(self.seed), empty=self.empty, page=self.page)
        for number, name in enumerate(self.names()):
            store.put(name, f"{name} first", "String" if number % 7 == 6 else "SecureString")
        return store

    def change(self, store: Simulated) -> None:
        """Write new values to some parameters."""
        for number, name in enumerate(self.names()):
            if number in self.changed:
                store.put(name, f"{name} second", "String" if number % 7 == 6 else "SecureString")


CASES = st.builds(
    Case,
    seed=st.integers(0, 10**6),
    count=st.integers(1, 35),
    paths=st.integers(1, 3),
    decrypt=st.sampled_from(["all", "changed"]),
    by_name=st.booleans(),
    changed=st.frozensets(st.integers(0, 60), max_size=25),
    faults=st.lists(st.sampled_from(PASSING), unique=True, max_size=4).map(tuple),
    empty=st.sampled_from([0.0, 0.3]),
    max_in_flight=st.integers(1, 20),
    page=st.integers(1, 10),
)


async def read(reader: Reader, case: Case, known: StoreState, decrypt: Decrypt, **options: object) -> Results:
    """Read all parameters of *case* while the clock advances."""
    clock = reader.clock
    assert isinstance(clock, ManualClock)
    reading = reader.read(case.queries(), known, decrypt=decrypt, **{"deadline": 900.0, **options})  # type: ignore[arg-type] # passes options through
    return await passing(clock, reading)


@settings(max_examples=7 * EXAMPLES)
@given(CASES)
def test_read_returns_the_stored_values(case: Case) -> None:
    """Despite temporary faults, a read after a change returns the current values and decrypts no more than it must."""

    async def scenario() -> None:
        store = case.store()
        reader = reader_of(store, case.max_in_flight)
        first = await read(reader, case, StoreState(), "all")
        known = StoreState().merge(first)
        await store.clock.advance(60)
        case.change(store)
        store.faults, stats = case.faults, ReadStats()

        second = await read(reader, case, known, case.decrypt, stats=stats)

        assert store.held() == second.parameters
        assert {} == second.encrypted
        secrets = [name for name, parameter in store.held().items() if parameter.type == "SecureString"]
        if case.decrypt == "changed" and not case.faults:
            changed = [name for name in secrets if store.held()[name] != known.parameters[name]]
            assert len(changed) == stats.decrypted
        assert store.most_in_flight <= case.max_in_flight
        assert not reader._limiter._sent

    run_scenario(scenario)


@settings(max_examples=5 * EXAMPLES)
@given(
    CASES,
    st.lists(st.tuples(st.integers(0, 99), st.floats(0, 0.4)), max_size=12),
    st.floats(0, 0.3),
    st.integers(2, 10),
    st.lists(st.frozensets(st.integers(0, 34), max_size=14), max_size=4),
)
def test_values_of_a_group_are_consistent(
    case: Case, writes: list[tuple[int, float]], lag: float, size: int, others: list[frozenset[int]]
) -> None:
    """
    While a writer writes, each value that is read once existed, and the values of a group existed at one moment
    together.
    """

    async def scenario() -> None:
        store = case.store()
        reader, names = reader_of(store, case.max_in_flight), case.names()
        state = StoreState().merge(await read(reader, case, StoreState(), "all"))
        await store.clock.advance(60)
        store.lag, store.faults = lag, case.faults
        group = frozenset(name for name in names[:size] if name.startswith("/P0/"))
        # These groups may overlap each other, and some have more members than a call holds.
        apart = [frozenset(names[number] for number in numbers if size <= number < len(names)) for numbers in others]

        async def write() -> None:
            for number, pause in writes:
                await store.clock.sleep(pause)
                store.put(names[number % len(names)], f"written {number}", "SecureString")

        writing = asyncio.create_task(write(), name="writer")
        results = await read(reader, case, state, "changed", groups=[group, *apart])
        writing.cancel()
        await asyncio.wait({writing})

        for name, parameter in results.parameters.items():
            assert any(parameter == held for _, held in store.history[name])
        seen = {name: results.parameters[name] for name in group}
        if any(value != state.parameters[name] for name, value in seen.items()):
            assert any(seen.items() <= store.held(moment).items() for moment in store.moments())

    run_scenario(scenario)


OPERATIONS = ("GetParametersByPath", "GetParameters", "GetParameter")


@settings(max_examples=4 * EXAMPLES)
@given(CASES, st.sets(st.sampled_from(OPERATIONS)), st.booleans())
def test_denied_operation_is_replaced_or_raised(case: Case, denied: set[str], passes: bool) -> None:
    """A denied operation is replaced by another one; if none is allowed, the denial is raised and not recorded."""

    async def scenario() -> None:
        store = case.store()
        reader = reader_of(store, case.max_in_flight)
        known = StoreState().merge(await read(reader, case, StoreState(), "all"))
        await store.clock.advance(60)
        case.change(store)
        store.denied = set(denied)
        # Nothing replaces a listing; parameters that a listing finds encrypted are decrypted by name or by another
        # listing.
        has_a_way = "GetParametersByPath" not in denied if not case.by_name else denied != set(OPERATIONS)
        results, error = None, None
        try:
            results = await read(reader, case, known, case.decrypt, denied_for=300.0)
        except AccessDenied as denial:
            error = denial
        if error:
            assert not has_a_way or denied >= {"GetParametersByPath", "GetParameters"}
            assert error.action
        else:
            assert results
            assert store.held() == results.parameters
        if passes:
            store.denied.clear()
            await store.clock.advance(301)
            assert store.held() == (await read(reader, case, known, case.decrypt)).parameters
            store.sent.clear()
            await read(reader, case, known, case.decrypt)
            kinds = {type(request) for request in store.sent}
            assert GetParameter not in kinds

    run_scenario(scenario)


@settings(max_examples=3 * EXAMPLES)
@given(CASES, st.floats(0, 3), st.booleans())
def test_cancelled_read_leaves_nothing(case: Case, when: float, by_deadline: bool) -> None:
    """A read that is cancelled or reaches its deadline leaves no task and no request, and the next read works."""

    async def scenario() -> None:
        store = case.store()
        store.latency, store.faults, store.left, store.fault = 1.0, ("throttled", "failed", "reset"), 10**6, 0.5
        reader = reader_of(store, case.max_in_flight)
        deadline = when + 0.001 if by_deadline else 900.0
        reading = asyncio.create_task(reader.read(case.queries(), StoreState(), deadline=deadline))
        await store.clock.advance(when + 0.002 if by_deadline else when)
        if not by_deadline:
            reading.cancel()
        done, _ = await asyncio.wait({reading}, timeout=5)
        assert done
        if not reading.cancelled():
            error = reading.exception()
            assert error is None or (isinstance(error, AiossmenvError) and error.transient)
        assert 0 == store.in_flight == len(reader._limiter._sent)

        store.left = 0
        assert store.held() == (await read(reader, case, StoreState(), "all")).parameters

    run_scenario(scenario)


@settings(max_examples=3 * EXAMPLES // 2)
@given(CASES, CASES)
def test_concurrent_reads(one: Case, other: Case) -> None:
    """Two reads on one reader share its concurrency limit, and each returns its own parameters."""

    async def scenario() -> None:
        store = one.store()
        store.faults = tuple({*one.faults, *other.faults})
        for name in other.names():
            store.put(name.replace("/P", "/Q"), "other")
        reader = reader_of(store, one.max_in_flight)
        queries = [Query(path=query.path.replace("/P", "/Q")) for query in other.queries()]
        reads = [
            reader.read(one.queries(), StoreState(), deadline=900.0),
            reader.read(queries, StoreState(), deadline=900.0),
        ]
        first, second = await passing(store.clock, asyncio.gather(*reads))

        assert set(one.names()) == first.parameters.keys()
        assert {name.replace("/P", "/Q") for name in other.names()} == second.parameters.keys()
        assert store.most_in_flight <= one.max_in_flight

    run_scenario(scenario)


async def test_listing_reads_one_page_at_a_time() -> None:
    """A listing reads pages of ten in order, each with the token of the page before."""
    store = Simulated(ManualClock())
    for number in range(25):
        store.put(f"/P/{number:02d}", "v")

    results = await passing(store.clock, reader_of(store).read([Query(path="/P")], StoreState(), deadline=30))

    assert 25 == len(results.parameters)
    assert [None, "/P/09", "/P/19"] == [
        request.next_token for request in store.sent if isinstance(request, GetParametersByPath)
    ]


@pytest.mark.parametrize("names", [None, ("/P/A", "/P/B")])
async def test_store_that_never_answers(names: tuple[str, ...] | None) -> None:
    """At the deadline the error names what was requested, and says that no answer came."""
    store = Simulated(ManualClock(), latency=10**6)
    store.rng.uniform = lambda *_: 10**6  # type: ignore[method-assign] # no answer comes in time
    reading = reader_of(store).read([Query(path="/P", names=names)], StoreState(), deadline=30)

    with pytest.raises(StoreUnavailable, match="did not answer before the deadline") as caught:
        await passing(store.clock, reading)

    assert (", ".join(names) if names else None, None if names else "/P") == (caught.value.parameter, caught.value.path)
    assert 30 == pytest.approx(store.clock.now())
    assert 1 == store.count(GetParameters if names else GetParametersByPath)
