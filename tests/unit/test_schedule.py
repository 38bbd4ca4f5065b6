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
from aiossmenv._schedule import Kind, Schedule

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TTLS = st.floats(0.1, 86_400.0)
DRAWS = st.floats(0.0, 1.0, exclude_max=True)
TIMES = st.floats(0.0, 1e6)
# What happens to a schedule: so many seconds later a refresh brings so many changes, or fails.
EVENTS = st.lists(st.tuples(st.floats(0.0, 1000.0), st.none() | st.integers(0, 3)), max_size=12)


def scheduled(
    ttl: float | None,
    *,
    list_interval: float | None = None,
    revalidate_interval: float | None = None,
    max_stale: float | None = None,
    now: float = 0.0,
    random: Callable[[], float] = lambda: 0.5,
) -> Schedule:
    """Return the schedule of an `Env` that was first read at *now*, which is noon."""
    schedule = Schedule(
        ttl=ttl,
        list_interval=list_interval,
        revalidate_interval=revalidate_interval,
        max_stale=max_stale,
        random=random,
    )
    schedule.loaded(now=now, wall=NOON)
    return schedule


def succeed(
    schedule: Schedule, kind: Kind = "poll", *, now: float = 0.0, changes: int = 0, missing: bool = False
) -> None:
    """Note a success."""
    schedule.succeeded(kind, now=now, wall=NOON, changes=changes, missing=missing)


DOWN, FULL = StoreUnavailable("no answer"), Throttled("slow down")


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

    succeed(schedule, now=now)

    assert math.isclose((0.8 + 0.15 * draw) * ttl, schedule.seconds_left(now), abs_tol=1e-6)


def test_seconds_left_are_counted_down_to_nothing() -> None:
    """What is left until the next refresh falls with time, and is 0 when it is overdue."""
    schedule = scheduled(100.0, random=lambda: 0.0)
    succeed(schedule, now=1000.0)

    assert [80.0, 30.0, 0.0, 0.0] == [schedule.seconds_left(now) for now in (1000.0, 1050.0, 1080.0, 2000.0)]


@given(DRAWS, st.integers(1, 2000))
def test_failures_back_off_with_full_jitter(draw: float, failures: int) -> None:
    """After each failure the next try is drawn below a ceiling that doubles from 1 second to the TTL."""
    schedule = scheduled(60.0, random=lambda: draw)

    for _ in range(failures):
        schedule.failed(DOWN, now=0.0)

    assert math.isclose(draw * min(60.0, 2.0 ** min(failures - 1, 6)), schedule.seconds_left(0.0))


@pytest.mark.parametrize(
    ("ttl", "first", "last"), [(0.5, 0.5, 30.0), (10.0, 1.0, 30.0), (90.0, 1.0, 90.0), (3600.0, 1.0, 300.0)]
)
def test_ceilings_of_failures_suit_the_ttl(ttl: float, first: float, last: float) -> None:
    """The first ceiling is 1 second or a shorter TTL, the last one 30 seconds or a longer TTL, up to five minutes."""
    schedule = scheduled(ttl, random=lambda: 1.0)

    schedule.failed(DOWN, now=0.0)
    assert first == schedule.seconds_left(0.0)

    for _ in range(100):
        schedule.failed(DOWN, now=0.0)
    assert last == schedule.seconds_left(0.0)


def test_success_ends_backing_off() -> None:
    """A success forgets the failures: the next refresh is due as usual, and the next failure is a first one."""
    schedule = scheduled(60.0)
    for _ in range(5):
        schedule.failed(DOWN, now=0.0)

    succeed(schedule)
    assert math.isclose(0.875 * 60.0, schedule.seconds_left(0.0))

    schedule.failed(DOWN, now=0.0)
    assert 0.5 == schedule.seconds_left(0.0)


# --- Throttled refreshes


@given(DRAWS, st.floats(1.0, 900.0), st.integers(1, 30))
def test_throttling_doubles_the_interval_to_an_hour(draw: float, ttl: float, times: int) -> None:
    """Each throttled refresh doubles the interval, to an hour at most, with the jitter of any refresh."""
    schedule = scheduled(ttl, random=lambda: draw)

    for _ in range(times):
        schedule.failed(FULL, now=0.0)

    assert math.isclose((0.8 + 0.15 * draw) * min(ttl * 2.0**times, 3600.0), schedule.seconds_left(0.0))


@pytest.mark.parametrize("ttl", [3600.0, 7200.0])
def test_throttling_never_makes_an_interval_shorter(ttl: float) -> None:
    """A TTL of an hour or more stays as it is."""
    schedule = scheduled(ttl, random=lambda: 1.0)

    schedule.failed(FULL, now=0.0)

    assert math.isclose(0.95 * ttl, schedule.seconds_left(0.0))


def test_interval_comes_back_by_halves() -> None:
    """Each success halves what throttling made of the interval, down to the TTL; failures of other kinds do not."""
    schedule = scheduled(100.0, random=lambda: 0.0)
    for _ in range(3):
        schedule.failed(FULL, now=0.0)
    schedule.failed(DOWN, now=0.0)

    left = []
    for _ in range(5):
        succeed(schedule)
        left.append(schedule.seconds_left(0.0))

    assert [320.0, 160.0, 80.0, 80.0, 80.0] == left


# --- Kinds


def test_only_polls_without_other_intervals() -> None:
    """Where nothing is to be listed or decrypted again, every refresh is a poll."""
    assert "poll" == scheduled(60.0).next_kind(1e12)


@given(DRAWS, st.floats(1.0, 1e5), st.floats(1.0, 1e5), TIMES)
def test_kinds_are_due_late_in_their_intervals(
    draw: float, list_interval: float, revalidate_interval: float, now: float
) -> None:
    """A listing, and a decryption of all, is due between 0.8 and 0.95 of its interval; the latter goes first."""
    schedule = scheduled(
        60.0, list_interval=list_interval, revalidate_interval=revalidate_interval, now=now, random=lambda: draw
    )
    part = 0.8 + 0.15 * draw
    listing, decryption = now + part * list_interval, now + part * revalidate_interval

    for when in (now, listing - 0.01, listing + 0.01, decryption - 0.01, decryption + 0.01):
        expected = "revalidate" if when >= decryption else "list" if when >= listing else "poll"
        assert expected == schedule.next_kind(when) or min(abs(when - listing), abs(when - decryption)) < 1e-6


def test_kinds_are_due_at_their_time() -> None:
    """A listing, and a decryption of all, is due from its very time on."""
    schedule = scheduled(10.0, list_interval=100.0, revalidate_interval=1000.0, random=lambda: 0.0)

    assert ["poll", "list", "list", "revalidate"] == [schedule.next_kind(now) for now in (79.9, 80.0, 799.9, 800.0)]


@pytest.mark.parametrize(
    ("done", "then"),
    [("poll", ["revalidate", "revalidate"]), ("list", ["revalidate", "revalidate"]), ("revalidate", ["poll", "list"])],
)
def test_each_kind_puts_off_what_it_covers(done: Kind, then: list[Kind]) -> None:
    """A listing puts off the next listing; a decryption of all puts off both; a poll neither."""
    schedule = scheduled(10.0, list_interval=100.0, revalidate_interval=1000.0, random=lambda: 0.0)

    succeed(schedule, done, now=800.0)

    assert then == [schedule.next_kind(now) for now in (800.0, 880.0)]
    if done == "list":
        early = scheduled(10.0, list_interval=100.0, revalidate_interval=1000.0, random=lambda: 0.0)
        succeed(early, "list", now=100.0)
        assert ["poll", "list"] == [early.next_kind(now) for now in (179.0, 180.0)]


def test_poll_does_not_put_off_a_listing() -> None:
    """A poll that succeeds, and any refresh that fails, leaves a listing due."""
    schedule = scheduled(10.0, list_interval=100.0, random=lambda: 0.0)

    succeed(schedule, "poll", now=90.0)
    schedule.failed(DOWN, now=95.0)

    assert "list" == schedule.next_kind(95.0)


def test_jitter_differs_from_one_refresh_to_the_next() -> None:
    """The dice are thrown for each interval anew."""
    draws = iter([0.0, 0.0, 0.0, 1.0, 0.0, 0.5])
    schedule = scheduled(100.0, list_interval=100.0, revalidate_interval=100.0, random=lambda: next(draws))

    succeed(schedule, "revalidate")

    assert 95.0 == pytest.approx(schedule.seconds_left(0.0))
    assert ["poll", "list", "revalidate"] == [schedule.next_kind(now) for now in (79.9, 80.1, 87.6)]


# --- Status


def test_costs_are_added_up() -> None:
    """What each read cost is added to the counters, the first load's and that of reads that failed, too."""
    schedule = scheduled(60.0)

    schedule.count(requests=5, throttled=2, decrypted=40)
    schedule.count(requests=1, throttled=1, decrypted=0)
    status = schedule.status(0.0)

    assert (6, 3, 40) == (status.requests, status.throttled, status.decrypted)


def test_reading_some_keys_changes_no_age() -> None:
    """A read of some keys adds its changes, and leaves age, success and plan as they were."""
    schedule = scheduled(60.0)
    schedule.failed(DOWN, now=10.0)
    before = schedule.status(20.0)

    schedule.partly_succeeded(changes=3)

    assert dataclasses.replace(before, changes=3) == schedule.status(20.0)


def test_first_load_is_no_refresh() -> None:
    """The first load begins the age, and counts as no refresh."""
    status = scheduled(60.0, now=7.0).status(9.0)

    assert (2.0, NOON, 0, 0, 0) == (status.age, status.last_success, status.refreshes, status.changes, status.failures)
    assert status.last_error is None


def test_stopped_schedule_still_knows_what_is_fresh() -> None:
    """After the end a snapshot grows old as before."""
    schedule = scheduled(60.0)

    schedule.stop()

    assert [True, False] == [schedule.status(now).fresh for now in (60.0, 60.5)]


def test_stopped_schedule_plans_nothing() -> None:
    """After the end nothing is due, whatever still comes in."""
    schedule = scheduled(60.0)

    schedule.stop()
    assert (math.inf, None) == (schedule.seconds_left(0.0), schedule.status(0.0).next_refresh)
    succeed(schedule)
    schedule.failed(FULL, now=0.0)
    schedule.failed(DOWN, now=0.0)
    assert (math.inf, None) == (schedule.seconds_left(0.0), schedule.status(0.0).next_refresh)


@given(EVENTS, st.none() | TTLS, st.none() | st.floats(0.1, 1000.0), st.randoms(use_true_random=False), DRAWS)
def test_status_is_true_at_any_time(
    events: list[tuple[float, int | None]],
    ttl: float | None,
    max_stale: float | None,
    rng: Random,
    later: float,
) -> None:
    """Whatever happened, and however long ago: the status says it, and a snapshot is due within its TTL."""
    now, read_at, wall, failures, refreshes, changes = 5.0, 5.0, NOON, 0, 0, 0
    error: AiossmenvError | None = None
    schedule = scheduled(ttl, max_stale=max_stale, now=now, random=rng.random)

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
            schedule.succeeded("poll", now=now, wall=wall, changes=brought)
            assert schedule.seconds_left(now) <= (math.inf if ttl is None else 0.95 * ttl + 1e-6)
    now += 1000.0 * later
    status = schedule.status(now)

    assert (ttl is None or now - read_at <= ttl) == status.fresh
    assert now - read_at == status.age
    assert (wall, error, failures) == (status.last_success, status.last_error, status.failures)
    assert (refreshes, changes) == (status.refreshes, status.changes)
    left = schedule.seconds_left(now) if ttl is not None else schedule.retry_left(now) or None
    assert left == status.next_refresh
    assert (max_stale is not None and now - read_at > max_stale) == schedule.too_stale(now)


def test_without_a_ttl_nothing_is_ever_due() -> None:
    """Without a TTL no refresh is planned, after successes and failures neither, and the snapshot is always fresh."""
    schedule = scheduled(None)

    for happened in ("loaded", "succeeded", "failed"):
        if happened == "succeeded":
            succeed(schedule, now=1.0, changes=1)
        elif happened == "failed":
            schedule.failed(DOWN, now=2.0)
            schedule.failed(FULL, now=2.0)
        assert math.inf == schedule.seconds_left(1e9)
        assert schedule.status(1e9).next_refresh is None
        assert schedule.status(1e9).fresh


def test_fresh_and_stale_at_their_limits() -> None:
    """A snapshot is fresh until just its TTL, and not too stale until just `max_stale`; a failure changes neither."""
    schedule = scheduled(60.0, max_stale=90.0)
    schedule.failed(DOWN, now=60.0)

    assert [True, False] == [schedule.status(now).fresh for now in (60.0, 60.5)]
    assert [False, True] == [schedule.too_stale(now) for now in (90.0, 90.5)]
    assert not scheduled(60.0).too_stale(1e9)


def test_status_is_frozen() -> None:
    """A status is of the moment of asking, and does not change."""
    status = scheduled(60.0).status(0.0)

    with pytest.raises(dataclasses.FrozenInstanceError):
        status.failures = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["poll", "list", "revalidate"])
def test_what_is_missed_is_looked_for_by_a_listing(kind: Kind) -> None:
    """When a read misses what was there, the next one is a listing, once."""
    schedule = scheduled(60.0, list_interval=300.0)

    succeed(schedule, kind, now=50.0, missing=True)
    assert "list" == schedule.next_kind(100.0)
    succeed(schedule, "list", now=100.0)
    assert "poll" == schedule.next_kind(150.0)
