"""When the next refresh is due, and what is said of the ones before."""

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import AiossmenvError, StoreUnavailable, Throttled
from aiossmenv._schedule import Schedule

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TTLS = st.floats(0.1, 86_400.0)
DRAWS = st.floats(0.0, 1.0, exclude_max=True)
TIMES = st.floats(0.0, 1e6)
# What happens to a schedule: so many seconds later a refresh brings so many changes, or fails.
EVENTS = st.lists(st.tuples(st.floats(0.0, 1000.0), st.none() | st.integers(0, 3)), max_size=12)


def scheduled(
    ttl: float | None,
    *,
    max_stale: float | None = None,
    now: float = 0.0,
    random: Callable[[], float] = lambda: 0.5,
) -> Schedule:
    """Return the schedule of an `Env` that was first read at *now*, which is noon."""
    return Schedule(ttl=ttl, max_stale=max_stale, now=now, wall=NOON, random=random)


@given(TTLS, TIMES, DRAWS)
def test_first_refresh_is_anywhere_in_the_ttl(ttl: float, now: float, draw: float) -> None:
    """The first refresh is due at any part of 0.95 of the TTL, so that a fleet spreads."""
    seconds = scheduled(ttl, now=now, random=lambda: draw).seconds_left(now)

    assert 0.0 <= seconds < ttl
    assert math.isclose(0.95 * draw * ttl, seconds, abs_tol=1e-6)


@given(TTLS, TIMES, DRAWS)
def test_later_refreshes_begin_late_in_the_ttl(ttl: float, now: float, draw: float) -> None:
    """Every later refresh is due between 0.8 and 0.95 of the TTL after the one before."""
    schedule = scheduled(ttl, random=lambda: draw)

    schedule.succeeded(now=now, wall=NOON, changes=0)

    assert math.isclose((0.8 + 0.15 * draw) * ttl, schedule.seconds_left(now), abs_tol=1e-6)


def test_seconds_left_are_counted_down_to_nothing() -> None:
    """What is left until the next refresh falls with time, and is 0 when it is overdue."""
    schedule = scheduled(100.0, random=lambda: 0.0)
    schedule.succeeded(now=1000.0, wall=NOON, changes=0)

    assert [80.0, 30.0, 0.0, 0.0] == [schedule.seconds_left(now) for now in (1000.0, 1050.0, 1080.0, 2000.0)]


@given(DRAWS, st.integers(1, 2000))
def test_failures_back_off_with_full_jitter(draw: float, failures: int) -> None:
    """After each failure the next try is drawn below a ceiling that doubles from 1 second to the TTL."""
    schedule = scheduled(60.0, random=lambda: draw)

    for _ in range(failures):
        schedule.failed(Throttled("slow down"), now=0.0)

    assert math.isclose(draw * min(60.0, 2.0 ** min(failures - 1, 6)), schedule.seconds_left(0.0))


@pytest.mark.parametrize(("ttl", "first", "last"), [(0.5, 0.5, 30.0), (10.0, 1.0, 30.0), (3600.0, 1.0, 3600.0)])
def test_ceilings_of_failures_suit_the_ttl(ttl: float, first: float, last: float) -> None:
    """The first ceiling is 1 second or a shorter TTL, the last one 30 seconds or a longer TTL."""
    schedule = scheduled(ttl, random=lambda: 1.0)

    schedule.failed(Throttled("slow down"), now=0.0)
    assert first == schedule.seconds_left(0.0)

    for _ in range(100):
        schedule.failed(Throttled("slow down"), now=0.0)
    assert last == schedule.seconds_left(0.0)


def test_success_ends_backing_off() -> None:
    """A success forgets the failures: the next refresh is due as usual, and the next failure is a first one."""
    schedule = scheduled(60.0)
    for _ in range(5):
        schedule.failed(Throttled("slow down"), now=0.0)

    schedule.succeeded(now=0.0, wall=NOON, changes=0)
    assert math.isclose(0.875 * 60.0, schedule.seconds_left(0.0))

    schedule.failed(Throttled("slow down"), now=0.0)
    assert 0.5 == schedule.seconds_left(0.0)


@given(EVENTS, st.none() | TTLS, st.none() | st.floats(0.1, 1000.0), st.randoms(use_true_random=False), DRAWS)
def test_status_is_true_at_any_time(
    events: list[tuple[float, int | None]],
    ttl: float | None,
    max_stale: float | None,
    dice: Random,
    later: float,
) -> None:
    """Whatever happened, and however long ago: the status says it, and a snapshot is due within its TTL."""
    now, read_at, wall, failures, refreshes, changes = 5.0, 5.0, NOON, 0, 0, 0
    error: AiossmenvError | None = None
    schedule = scheduled(ttl, max_stale=max_stale, now=now, random=dice.random)

    for seconds, brought in events:
        now += seconds
        if brought is None:
            error = StoreUnavailable("no answer")
            failures += 1
            schedule.failed(error, now=now)
        else:
            read_at, wall, error, failures = now, NOON + timedelta(seconds=now), None, 0
            refreshes += 1
            changes += brought
            schedule.succeeded(now=now, wall=wall, changes=brought)
            assert schedule.seconds_left(now) <= (math.inf if ttl is None else 0.95 * ttl + 1e-6)
    now += 1000.0 * later
    status = schedule.status(now)

    assert (ttl is None or now - read_at <= ttl) == status.fresh
    assert now - read_at == status.age
    assert (wall, error, failures) == (status.last_success, status.last_error, status.failures)
    assert (refreshes, changes) == (status.refreshes, status.changes)
    assert (None if ttl is None else schedule.seconds_left(now)) == status.next_refresh
    assert (max_stale is not None and now - read_at > max_stale) == schedule.too_stale(now)


def test_without_a_ttl_nothing_is_ever_due() -> None:
    """Without a TTL no refresh is planned, after successes and failures neither, and the snapshot is always fresh."""
    schedule = scheduled(None)

    for happened in ("loaded", "succeeded", "failed"):
        if happened == "succeeded":
            schedule.succeeded(now=1.0, wall=NOON, changes=1)
        elif happened == "failed":
            schedule.failed(Throttled("slow down"), now=2.0)
        assert math.inf == schedule.seconds_left(1e9)
        assert schedule.status(1e9).next_refresh is None
        assert schedule.status(1e9).fresh


def test_fresh_and_stale_at_their_limits() -> None:
    """A snapshot is fresh until just its TTL, and not too stale until just `max_stale`; a failure changes neither."""
    schedule = scheduled(60.0, max_stale=90.0)
    schedule.failed(Throttled("slow down"), now=60.0)

    assert [True, False] == [schedule.status(now).fresh for now in (60.0, 60.5)]
    assert [False, True] == [schedule.too_stale(now) for now in (90.0, 90.5)]
    assert not scheduled(60.0).too_stale(1e9)


def test_status_is_frozen() -> None:
    """A status is of the moment of asking, and does not change."""
    status = scheduled(60.0).status(0.0)

    with pytest.raises(dataclasses.FrozenInstanceError):
        status.failures = 1  # type: ignore[misc]
