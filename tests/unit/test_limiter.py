"""How fast: as fast as the account allows, without knowing how fast that is."""

import heapq
import itertools
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv._ssm.limiter import AdaptiveRateLimiter

CALL = 0.02  # seconds that a request takes in these tests


def ask(
    pace: AdaptiveRateLimiter, now: float, outcome: Literal["good", "throttled", "failed"], took: float = CALL
) -> float:
    """Send one request as soon as may be, and answer it; returns when."""
    request = object()
    now += pace.seconds_to_wait(now)
    pace.sent(request, now)
    pace.answered(request, now + took, outcome)
    return now + took


@dataclass
class Outcome:
    """How a crowd of requests fared."""

    seconds: float
    sent: int
    throttled: int
    last_rate: float

    @property
    def share(self) -> float:
        """The part of the requests that was throttled."""
        return self.throttled / self.sent


def quota(
    pace: AdaptiveRateLimiter,
    *,
    requests: int,
    rate: float,
    burst: float,
    filled: float = 1.0,
    more: tuple[float, float] = (1e9, 0),
) -> Outcome:
    """
    Send so many requests of 20 ms to an account of *rate* a second, and those that are throttled again.

    *burst*: what its bucket holds, *filled*: which part of it at first; *more*: from when on there is another rate.
    """
    now, last, tokens, good, throttled, sent = 0.0, 0.0, burst * filled, list[float](), 0, 0
    left, under_way, turn = requests, list[tuple[float, int, bool]](), itertools.count()
    while len(good) < requests:
        wait = pace.seconds_to_wait(now)
        if left and not wait:
            tokens = min(burst, tokens + (now - last) * (rate if now < more[0] else more[1]))
            last = now
            number = next(turn)
            pace.sent(number, now)
            heapq.heappush(under_way, (now + CALL, number, tokens >= 1))
            tokens -= tokens >= 1
            left, sent = left - 1, sent + 1
        elif under_way and (not left or under_way[0][0] <= now + wait):
            now, number, is_good = heapq.heappop(under_way)
            pace.answered(number, now, "good" if is_good else "throttled")
            if is_good:
                good.append(now)
            else:
                throttled, left = throttled + 1, left + 1
        else:
            now += wait * (1 + 1e-9)
    return Outcome(now, sent, throttled, sum(when > now - 2 for when in good) / 2)


# --- Width


def test_most_are_under_way_at_first() -> None:
    """At first as many may be sent at once as were allowed, without an interval."""
    pace = AdaptiveRateLimiter(3)

    for number in range(3):
        assert 0.0 == pace.seconds_to_wait(0.0)
        pace.sent(number, 0.0)

    assert 3 == pace.limit
    assert 0 < pace.seconds_to_wait(0.0) <= 1
    pace.answered(0, 0.1, "good")
    assert 0.0 == pace.seconds_to_wait(0.1)


def test_few_are_under_way_when_the_default_quota_may_end() -> None:
    """
    What an account may send in a second by default is sent wide, what follows narrow, and wide again if that goes well.
    """
    pace, widest = AdaptiveRateLimiter(20), dict[int, int]()
    for sent in range(100):
        while not pace.seconds_to_wait(0.0):
            pace.sent(object(), 0.0)
        widest[sent] = len(pace._sent)
        pace.answered(next(iter(pace._sent)), 0.0, "good")

    assert {20} == {widest[sent] for sent in (0, 20, 60, 99)}
    assert 8 == widest[39]
    # A second later the account may send as much again.
    pace.forget(next(iter(pace._sent)))
    assert 0.0 == pace.seconds_to_wait(1.0)


@pytest.mark.parametrize(
    ("good", "now", "waits"), [(30, 0.0, False), (31, 0.0, True), (46, 0.0, True), (47, 0.0, False), (31, 1.0, False)]
)
def test_where_the_default_quota_may_end(good: int, now: float, waits: bool) -> None:
    """
    With the fortieth request in a second, and until the fifty-sixth, a ninth one that is under way is one too many.
    """
    pace = AdaptiveRateLimiter(100)
    for number in range(good):
        pace.sent(number, 0.0)
        pace.answered(number, 0.0, "good")
    for number in range(9):
        pace.sent(f"under way {number}", 0.0)

    assert waits == (pace.seconds_to_wait(now) > 0)


def test_intervals_are_a_second_at_most() -> None:
    """However often it is throttled, one request a second goes out."""
    pace, now = AdaptiveRateLimiter(5), 0.0
    for _ in range(100):
        now = ask(pace, now, "throttled")

    assert 1.0 == pytest.approx(pace.seconds_to_wait(now))


def test_a_thousand_parameters_under_the_default_quota() -> None:
    """
    A hundred calls, as wide as may be, have less than a tenth of them throttled, and without a quota take no time.
    """
    assert quota(AdaptiveRateLimiter(20), requests=100, rate=40.0, burst=40.0).share < 0.1
    assert quota(AdaptiveRateLimiter(20), requests=100, rate=1e6, burst=1e6).seconds < 8 * CALL


def test_forgotten_requests_leave_room() -> None:
    """A request that nobody waits for counts no longer, and one that was never sent changes nothing."""
    pace = AdaptiveRateLimiter(1)
    pace.sent("a", 0.0)

    pace.forget("b")
    assert 0 < pace.seconds_to_wait(0.0)
    pace.forget("a")
    assert 0.0 == pace.seconds_to_wait(0.0)


def test_throttling_halves_the_width_once() -> None:
    """Those that were under way with a throttled one tell nothing new; one that was sent later does."""
    pace = AdaptiveRateLimiter(8)
    for number in range(8):
        pace.sent(number, 0.0)

    for number in range(7):
        pace.answered(number, 0.1 + number / 100, "throttled")
        assert 4 == pace.limit

    pace.sent("later", 5.0)
    pace.answered("later", 5.1, "throttled")
    assert 2 == pace.limit
    pace.answered(7, 5.2, "throttled")
    assert 2 == pace.limit


def test_width_is_one_at_least() -> None:
    """However often it is throttled, one request may be under way."""
    pace, now = AdaptiveRateLimiter(5), 0.0

    for width in (2, 1, 1, 1, 1):
        now = ask(pace, now, "throttled")
        assert width == pace.limit


def test_width_grows_back_to_what_is_allowed() -> None:
    """Good answers widen it, by about one for as many as are under way, and never beyond what is allowed."""
    pace = AdaptiveRateLimiter(4)
    now = ask(pace, 0.0, "throttled")
    assert 2 == pace.limit

    widths = []
    for _ in range(20):
        now = ask(pace, now, "good")
        widths.append(pace.limit)

    assert [2, 2, 3, 3, 3, 4] == widths[:6]
    assert {4} == set(widths[6:])


def test_other_failures_say_nothing_of_the_pace() -> None:
    """What failed otherwise leaves room, and changes neither the width nor the interval."""
    pace = AdaptiveRateLimiter(4)

    now = ask(pace, 0.0, "failed")

    assert (4, 0.0) == (pace.limit, pace.seconds_to_wait(now))
    now = ask(pace, now, "throttled")
    assert 2 == pace.limit
    wait = pace.seconds_to_wait(now)
    pace.answered("unsent", now, "failed")
    assert (2, wait) == (pace.limit, pace.seconds_to_wait(now))


@given(st.integers(1, 20), st.lists(st.tuples(st.sampled_from(["good", "throttled", "failed"]), st.floats(0, 2))))
def test_width_stays_in_its_bounds(
    most: int, outcomes: list[tuple[Literal["good", "throttled", "failed"], float]]
) -> None:
    """Whatever happens, the width is between one and what is allowed, and no wait is longer than a second."""
    pace, now = AdaptiveRateLimiter(most), 0.0

    for outcome, seconds in outcomes:
        now = ask(pace, now, outcome, seconds)
        assert 1 <= pace.limit <= most
        assert 0.0 <= pace.seconds_to_wait(now) <= 1.0 + 1e-9


# --- Interval


def test_interval_after_throttling_follows_the_rate_that_went_well() -> None:
    """After throttling, requests go at 0.8 of the rate of the last second's good answers."""
    pace, now = AdaptiveRateLimiter(10), 0.0
    for _ in range(100):
        now = ask(pace, now, "good")

    now = ask(pace, now, "throttled")

    # 50 a second went well, and 49 of them in the second before.
    assert 1 / (49 * 0.8) == pytest.approx(pace.seconds_to_wait(now), rel=0.03)
    pace.sent("one", now + 1.0)
    assert 1 / (49 * 0.8) == pytest.approx(pace.seconds_to_wait(now + 1.0), rel=0.03)


def test_interval_is_shortened_by_good_answers_until_there_is_none() -> None:
    """Each good answer makes the pace a little quicker; in the end nothing is in the way."""
    pace, now = AdaptiveRateLimiter(1), 0.0
    for _ in range(50):
        now = ask(pace, now, "good")
    now = ask(pace, now, "throttled")

    waits = []
    for _ in range(1000):
        now = ask(pace, now, "good", 0.0)
        waits.append(pace.seconds_to_wait(now))

    assert sorted(waits, reverse=True) == waits
    assert 0.0 < waits[0]
    assert 0.0 == waits[-1]


def test_unused_time_is_not_saved_up() -> None:
    """After a pause one may go at once, and the next one after an interval: not all that might have gone."""
    pace = AdaptiveRateLimiter(4)
    now = ask(pace, 0.0, "throttled") + 100.0

    assert 0.0 == pace.seconds_to_wait(now)
    pace.sent("a", now)
    assert 0.0 < pace.seconds_to_wait(now)


# --- An account's quota


@pytest.mark.parametrize("burst", [40.0, 1.0])
@pytest.mark.parametrize("rate", [10.0, 40.0, 100.0])
def test_few_are_throttled(rate: float, burst: float) -> None:
    """With any quota all requests get through in the end, and at most a tenth of them is throttled."""
    outcome = quota(AdaptiveRateLimiter(10), requests=400, rate=rate, burst=burst)

    assert outcome.sent == 400 + outcome.throttled
    assert outcome.share <= 0.1


def test_quota_is_made_use_of() -> None:
    """With a bucket of 40, 400 requests take hardly longer than 40 a second need, and go at that rate in the end."""
    outcome = quota(AdaptiveRateLimiter(10), requests=400, rate=40.0, burst=40.0)

    assert outcome.seconds <= 1.1 * 400 / 40
    assert 36.0 <= outcome.last_rate <= 44.0


@pytest.mark.parametrize(("burst", "filled"), [(1.0, 1.0), (40.0, 0.0)], ids=["no burst", "empty at first"])
def test_quota_is_made_use_of_without_a_burst(burst: float, filled: float) -> None:
    """Where the bucket holds one request, or others have emptied it, 400 requests are done within 30 seconds."""
    assert quota(AdaptiveRateLimiter(10), requests=400, rate=40.0, burst=burst, filled=filled).seconds <= 30.0


def test_pace_recovers_when_the_quota_goes_up() -> None:
    """When the account gets more, so do we: to the full width within seconds."""
    outcome = quota(AdaptiveRateLimiter(10), requests=2000, rate=40.0, burst=40.0, more=(5.0, 1000.0))

    assert outcome.seconds <= 15.0
    assert 400.0 <= outcome.last_rate
