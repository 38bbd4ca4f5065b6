"""The schedule: when the next refresh is due, and what the status says about the earlier ones."""

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
# Events of a schedule: the seconds until the next refresh, and its number of changes, or None if it fails.
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
    """Return the schedule of an `Env` whose first read is at *now*; the wall clock says noon."""
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
    """Record a success."""
    schedule.succeeded(kind, now=now, wall=NOON, changes=changes, missing=missing)


DOWN, FULL = StoreUnavailable("no answer"), Throttled("slow down")


@given(TTLS, TIMES, DRAWS)
def test_first_refresh_is_anywhere_in_the_ttl(ttl: float, now: float, draw: float) -> None:
    """The first refresh is due at a random time within 0.95 of the TTL, so that the processes of a fleet spread out."""
    seconds = scheduled(ttl, now=now, random=lambda: draw).seconds_left(now)

    assert 0.0 <= seconds < ttl
    assert math.isclose(0.95 * draw * ttl, seconds, abs_tol=1e-6)


@given(TTLS, TIMES, DRAWS)
def test_later_refreshes_are_due_late_in_the_ttl(ttl: float, now: float, draw: float) -> None:
    """Each later refresh is due between 0.8 and 0.95 of the TTL after the one before."""
    schedule = scheduled(ttl, random=lambda: draw)

    succeed(schedule, now=now)

    assert math.isclose((0.8 + 0.15 * draw) * ttl, schedule.seconds_left(now), abs_tol=1e-6)


def test_seconds_left_count_down_to_zero() -> None:
    """The time until the next refresh decreases, and is 0 when the refresh is overdue."""
    schedule = scheduled(100.0, random=lambda: 0.0)
    succeed(schedule, now=1000.0)

    assert [80.0, 30.0, 0.0, 0.0] == [schedule.seconds_left(now) for now in (1000.0, 1050.0, 1080.0, 2000.0)]


@given(DRAWS, st.integers(1, 2000))
def test_failures_back_off_with_full_jitter(draw: float, failures: int) -> None:
    """After each failure the delay is random below a ceiling that doubles from 1 second up to the TTL."""
    schedule = scheduled(60.0, random=lambda: draw)

    for _ in range(failures):
        schedule.failed(DOWN, now=0.0)

    assert math.isclose(draw * min(60.0, 2.0 ** min(failures - 1, 6)), schedule.seconds_left(0.0))


@pytest.mark.parametrize(
    ("ttl", "first", "last"), [(0.5, 0.5, 30.0), (10.0, 1.0, 30.0), (90.0, 1.0, 90.0), (3600.0, 1.0, 300.0)]
)
def test_failure_ceilings_depend_on_the_ttl(ttl: float, first: float, last: float) -> None:
    """
    The first ceiling is 1 second or a shorter TTL; the last one is 30 seconds or a longer TTL, up to five minutes.
    """
    schedule = scheduled(ttl, random=lambda: 1.0)

    schedule.failed(DOWN, now=0.0)
    assert first == schedule.seconds_left(0.0)

    for _ in range(100):
        schedule.failed(DOWN, now=0.0)
    assert last == schedule.seconds_left(0.0)


def test_success_ends_the_backoff() -> None:
    """A success resets the failures: the next refresh is due as usual, and the next failure counts as the first."""
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
    """Each throttled refresh doubles the interval, up to an hour, with the usual jitter."""
    schedule = scheduled(ttl, random=lambda: draw)

    for _ in range(times):
        schedule.failed(FULL, now=0.0)

    assert math.isclose((0.8 + 0.15 * draw) * min(ttl * 2.0**times, 3600.0), schedule.seconds_left(0.0))


@pytest.mark.parametrize("ttl", [3600.0, 7200.0])
def test_throttling_never_shortens_an_interval(ttl: float) -> None:
    """A TTL of an hour or more is not changed."""
    schedule = scheduled(ttl, random=lambda: 1.0)

    schedule.failed(FULL, now=0.0)

    assert math.isclose(0.95 * ttl, schedule.seconds_left(0.0))


def test_interval_recovers_by_halves() -> None:
    """Each success halves the increase of the interval, down to the TTL; failures of other kinds do not change it."""
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
    """Without a list or revalidate interval, every refresh is a poll."""
    assert "poll" == scheduled(60.0).next_kind(1e12)


@given(DRAWS, st.floats(1.0, 1e5), st.floats(1.0, 1e5), TIMES)
def test_kinds_are_due_late_in_their_intervals(
    draw: float, list_interval: float, revalidate_interval: float, now: float
) -> None:
    """A listing or a full decryption is due between 0.8 and 0.95 of its interval; the decryption has priority."""
    schedule = scheduled(
        60.0, list_interval=list_interval, revalidate_interval=revalidate_interval, now=now, random=lambda: draw
    )
    part = 0.8 + 0.15 * draw
    listing, decryption = now + part * list_interval, now + part * revalidate_interval

    for when in (now, listing - 0.01, listing + 0.01, decryption - 0.01, decryption + 0.01):
        expected = "revalidate" if when >= decryption else "list" if when >= listing else "poll"
        assert expected == schedule.next_kind(when) or min(abs(when - listing), abs(when - decryption)) < 1e-6


def test_kinds_are_due_at_their_time() -> None:
    """A listing or a full decryption is due from exactly its time on."""
    schedule = scheduled(10.0, list_interval=100.0, revalidate_interval=1000.0, random=lambda: 0.0)

    assert ["poll", "list", "list", "revalidate"] == [schedule.next_kind(now) for now in (79.9, 80.0, 799.9, 800.0)]


@pytest.mark.parametrize(
    ("done", "then"),
    [("poll", ["revalidate", "revalidate"]), ("list", ["revalidate", "revalidate"]), ("revalidate", ["poll", "list"])],
)
def test_each_kind_postpones_what_it_covers(done: Kind, then: list[Kind]) -> None:
    """A listing postpones the next listing, a full decryption postpones both, and a poll postpones neither."""
    schedule = scheduled(10.0, list_interval=100.0, revalidate_interval=1000.0, random=lambda: 0.0)

    succeed(schedule, done, now=800.0)

    assert then == [schedule.next_kind(now) for now in (800.0, 880.0)]
    if done == "list":
        early = scheduled(10.0, list_interval=100.0, revalidate_interval=1000.0, random=lambda: 0.0)
        succeed(early, "list", now=100.0)
        assert ["poll", "list"] == [early.next_kind(now) for now in (179.0, 180.0)]


def test_poll_does_not_postpone_a_listing() -> None:
    """A successful poll and any failed refresh leave a listing due."""
    schedule = scheduled(10.0, list_interval=100.0, random=lambda: 0.0)

    succeed(schedule, "poll", now=90.0)
    schedule.failed(DOWN, now=95.0)

    assert "list" == schedule.next_kind(95.0)


def test_jitter_is_drawn_for_each_refresh() -> None:
    """Each interval uses a new random number."""
    draws = iter([0.0, 0.0, 0.0, 1.0, 0.0, 0.5])
    schedule = scheduled(100.0, list_interval=100.0, revalidate_interval=100.0, random=lambda: next(draws))

    succeed(schedule, "revalidate")

    assert 95.0 == pytest.approx(schedule.seconds_left(0.0))
    assert ["poll", "list", "revalidate"] == [schedule.next_kind(now) for now in (79.9, 80.1, 87.6)]


# --- Status


def test_costs_are_summed() -> None:
    """The cost of each read is added to the counters, including the first load and reads that fail."""
    schedule = scheduled(60.0)

    schedule.count(requests=5, throttled=2, decrypted=40)
    schedule.count(requests=1, throttled=1, decrypted=0)
    status = schedule.status(0.0)

    assert (6, 3, 40) == (status.requests, status.throttled, status.decrypted)


def test_keyed_read_does_not_change_the_age() -> None:
    """A read of some keys adds its changes, and leaves the age, the last success and the plan as they were."""
    schedule = scheduled(60.0)
    schedule.failed(DOWN, now=10.0)
    before = schedule.status(20.0)

    schedule.partly_succeeded(changes=3)

    assert dataclasses.replace(before, changes=3) == schedule.status(20.0)


def test_first_load_does_not_count_as_a_refresh() -> None:
    """The first load starts the age, and is not counted as a refresh."""
    status = scheduled(60.0, now=7.0).status(9.0)

    assert (2.0, NOON, 0, 0, 0) == (status.age, status.last_success, status.refreshes, status.changes, status.failures)
    assert status.last_error is None


def test_stopped_schedule_still_ages() -> None:
    """After a stop a snapshot still grows old."""
    schedule = scheduled(60.0)

    schedule.stop()

    assert [True, False] == [schedule.status(now).fresh for now in (60.0, 60.5)]


def test_stopped_schedule_plans_nothing() -> None:
    """After a stop nothing is due, whatever happens later."""
    schedule = scheduled(60.0)

    schedule.stop()
    assert (math.inf, None) == (schedule.seconds_left(0.0), schedule.status(0.0).next_refresh)
    succeed(schedule)
    schedule.failed(FULL, now=0.0)
    schedule.failed(DOWN, now=0.0)
    assert (math.inf, None) == (schedule.seconds_left(0.0), schedule.status(0.0).next_refresh)


@given(EVENTS, st.none() | TTLS, st.none() | st.floats(0.1, 1000.0), st.randoms(use_true_random=False), DRAWS)
def test_status_after_any_events(
    events: list[tuple[float, int | None]],
    ttl: float | None,
    max_stale: float | None,
    rng: Random,
    later: float,
) -> None:
    """After any events and any time, the status matches them, and a refresh is due within the TTL."""
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
    """
    Without a TTL no refresh is planned, neither after successes nor after failures, and the snapshot is always fresh.
    """
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


def test_limits_of_fresh_and_stale() -> None:
    """A snapshot is fresh up to its TTL and valid up to `max_stale`; a failure changes neither limit."""
    schedule = scheduled(60.0, max_stale=90.0)
    schedule.failed(DOWN, now=60.0)

    assert [True, False] == [schedule.status(now).fresh for now in (60.0, 60.5)]
    assert [False, True] == [schedule.too_stale(now) for now in (90.0, 90.5)]
    assert not scheduled(60.0).too_stale(1e9)


def test_status_is_frozen() -> None:
    """A status is a snapshot of its moment, and does not change."""
    status = scheduled(60.0).status(0.0)

    with pytest.raises(dataclasses.FrozenInstanceError):
        status.failures = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["poll", "list", "revalidate"])
def test_missing_parameter_causes_a_listing(kind: Kind) -> None:
    """After a read that misses a known parameter, the next refresh is a listing, once."""
    schedule = scheduled(60.0, list_interval=300.0)

    succeed(schedule, kind, now=50.0, missing=True)
    assert "list" == schedule.next_kind(100.0)
    succeed(schedule, "list", now=100.0)
    assert "poll" == schedule.next_kind(150.0)
