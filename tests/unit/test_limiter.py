"""The rate limiter: as fast as the account's quota allows, without knowing the quota."""

import heapq
import itertools
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv._ssm.limiter import AdaptiveRateLimiter

CALL = 0.02  # seconds that a request takes in these tests


def send(
    limiter: AdaptiveRateLimiter, now: float, outcome: Literal["good", "throttled", "failed"], took: float = CALL
) -> float:
    """Send one request as soon as the limiter allows it and answer it; return the time of the answer."""
    request = object()
    now += limiter.seconds_to_wait(now)
    limiter.sent(request, now)
    limiter.answered(request, now + took, outcome)
    return now + took


@dataclass
class Outcome:
    """The results of one simulation."""

    seconds: float
    sent: int
    throttled: int
    last_rate: float

    @property
    def share(self) -> float:
        """The share of requests that were throttled."""
        return self.throttled / self.sent


def simulate(
    limiter: AdaptiveRateLimiter,
    *,
    requests: int,
    rate: float,
    burst: float,
    filled: float = 1.0,
    more: tuple[float, float] = (1e9, 0),
) -> Outcome:
    """
    Send requests of 20 ms to an account that allows *rate* a second, and repeat those that are throttled.

    *burst*: the size of the token bucket. *filled*: the share of it that is full at the start. *more*: a time, and the
    rate from then on.
    """
    now, last, tokens, good, throttled, sent = 0.0, 0.0, burst * filled, list[float](), 0, 0
    left, in_flight, turn = requests, list[tuple[float, int, bool]](), itertools.count()
    while len(good) < requests:
        wait = limiter.seconds_to_wait(now)
        if left and not wait:
            tokens = min(burst, tokens + (now - last) * (rate if now < more[0] else more[1]))
            last = now
            number = next(turn)
            limiter.sent(number, now)
            heapq.heappush(in_flight, (now + CALL, number, tokens >= 1))
            tokens -= tokens >= 1
            left, sent = left - 1, sent + 1
        elif in_flight and (not left or in_flight[0][0] <= now + wait):
            now, number, is_good = heapq.heappop(in_flight)
            limiter.answered(number, now, "good" if is_good else "throttled")
            if is_good:
                good.append(now)
            else:
                throttled, left = throttled + 1, left + 1
        else:
            now += wait * (1 + 1e-9)
    return Outcome(now, sent, throttled, sum(when > now - 2 for when in good) / 2)


# --- Concurrency


def test_full_concurrency_at_the_start() -> None:
    """At first, as many requests as the maximum allows may be in flight, without an interval."""
    limiter = AdaptiveRateLimiter(3)

    for number in range(3):
        assert 0.0 == limiter.seconds_to_wait(0.0)
        limiter.sent(number, 0.0)

    assert 3 == limiter.limit
    assert 0 < limiter.seconds_to_wait(0.0) <= 1
    limiter.answered(0, 0.1, "good")
    assert 0.0 == limiter.seconds_to_wait(0.1)


def test_concurrency_narrows_near_the_default_quota() -> None:
    """Concurrency is full up to the default quota, narrow near its end, and full again once those requests succeed."""
    limiter, widest = AdaptiveRateLimiter(20), dict[int, int]()
    for sent in range(100):
        while not limiter.seconds_to_wait(0.0):
            limiter.sent(object(), 0.0)
        widest[sent] = len(limiter._sent)
        limiter.answered(next(iter(limiter._sent)), 0.0, "good")

    assert {20} == {widest[sent] for sent in (0, 20, 60, 99)}
    assert 8 == widest[39]
    # After a second the quota is available again.
    limiter.forget(next(iter(limiter._sent)))
    assert 0.0 == limiter.seconds_to_wait(1.0)


@pytest.mark.parametrize(
    ("good", "now", "waits"), [(30, 0.0, False), (31, 0.0, True), (46, 0.0, True), (47, 0.0, False), (31, 1.0, False)]
)
def test_limit_near_the_default_quota(good: int, now: float, waits: bool) -> None:
    """From the 40th to the 56th request within one second, at most eight requests are in flight."""
    limiter = AdaptiveRateLimiter(100)
    for number in range(good):
        limiter.sent(number, 0.0)
        limiter.answered(number, 0.0, "good")
    for number in range(9):
        limiter.sent(f"in flight {number}", 0.0)

    assert waits == (limiter.seconds_to_wait(now) > 0)


def test_interval_is_a_second_at_most() -> None:
    """However often requests are throttled, one request a second is sent."""
    limiter, now = AdaptiveRateLimiter(5), 0.0
    for _ in range(100):
        now = send(limiter, now, "throttled")

    assert 1.0 == pytest.approx(limiter.seconds_to_wait(now))


def test_a_thousand_parameters_under_the_default_quota() -> None:
    """
    Of a hundred calls at full concurrency less than a tenth is throttled; without a quota nothing slows them down.
    """
    assert simulate(AdaptiveRateLimiter(20), requests=100, rate=40.0, burst=40.0).share < 0.1
    assert simulate(AdaptiveRateLimiter(20), requests=100, rate=1e6, burst=1e6).seconds < 8 * CALL


def test_forgotten_requests_free_their_slot() -> None:
    """A forgotten request frees its slot; forgetting one that was never sent changes nothing."""
    limiter = AdaptiveRateLimiter(1)
    limiter.sent("a", 0.0)

    limiter.forget("b")
    assert 0 < limiter.seconds_to_wait(0.0)
    limiter.forget("a")
    assert 0.0 == limiter.seconds_to_wait(0.0)


def test_throttling_halves_the_limit_once() -> None:
    """Throttled requests that were in flight together halve the limit once; one that was sent later halves it again."""
    limiter = AdaptiveRateLimiter(8)
    for number in range(8):
        limiter.sent(number, 0.0)

    for number in range(7):
        limiter.answered(number, 0.1 + number / 100, "throttled")
        assert 4 == limiter.limit

    limiter.sent("later", 5.0)
    limiter.answered("later", 5.1, "throttled")
    assert 2 == limiter.limit
    limiter.answered(7, 5.2, "throttled")
    assert 2 == limiter.limit


def test_limit_is_at_least_one() -> None:
    """However often requests are throttled, one may be in flight."""
    limiter, now = AdaptiveRateLimiter(5), 0.0

    for width in (2, 1, 1, 1, 1):
        now = send(limiter, now, "throttled")
        assert width == limiter.limit


def test_limit_grows_back_to_the_maximum() -> None:
    """Good answers raise the limit, by about one per full round of requests in flight, up to the maximum."""
    limiter = AdaptiveRateLimiter(4)
    now = send(limiter, 0.0, "throttled")
    assert 2 == limiter.limit

    widths = []
    for _ in range(20):
        now = send(limiter, now, "good")
        widths.append(limiter.limit)

    assert [2, 2, 3, 3, 3, 4] == widths[:6]
    assert {4} == set(widths[6:])


def test_other_failures_do_not_change_the_rate() -> None:
    """Another failure frees its slot, and changes neither the limit nor the interval."""
    limiter = AdaptiveRateLimiter(4)

    now = send(limiter, 0.0, "failed")

    assert (4, 0.0) == (limiter.limit, limiter.seconds_to_wait(now))
    now = send(limiter, now, "throttled")
    assert 2 == limiter.limit
    wait = limiter.seconds_to_wait(now)
    limiter.answered("unsent", now, "failed")
    assert (2, wait) == (limiter.limit, limiter.seconds_to_wait(now))


@given(st.integers(1, 20), st.lists(st.tuples(st.sampled_from(["good", "throttled", "failed"]), st.floats(0, 2))))
def test_limit_stays_in_its_bounds(
    most: int, outcomes: list[tuple[Literal["good", "throttled", "failed"], float]]
) -> None:
    """Whatever happens, the limit is between one and the maximum, and no wait is longer than a second."""
    limiter, now = AdaptiveRateLimiter(most), 0.0

    for outcome, seconds in outcomes:
        now = send(limiter, now, outcome, seconds)
        assert 1 <= limiter.limit <= most
        assert 0.0 <= limiter.seconds_to_wait(now) <= 1.0 + 1e-9


# --- Interval


def test_interval_after_throttling_follows_the_good_rate() -> None:
    """After throttling, the rate is 0.8 times that of the good answers in the last second."""
    limiter, now = AdaptiveRateLimiter(10), 0.0
    for _ in range(100):
        now = send(limiter, now, "good")

    now = send(limiter, now, "throttled")

    # 50 answers a second were good, so 49 of them lie within the last second.
    assert 1 / (49 * 0.8) == pytest.approx(limiter.seconds_to_wait(now), rel=0.03)
    limiter.sent("one", now + 1.0)
    assert 1 / (49 * 0.8) == pytest.approx(limiter.seconds_to_wait(now + 1.0), rel=0.03)


def test_good_answers_shorten_the_interval_to_nothing() -> None:
    """Each good answer shortens the interval a little; in the end there is none."""
    limiter, now = AdaptiveRateLimiter(1), 0.0
    for _ in range(50):
        now = send(limiter, now, "good")
    now = send(limiter, now, "throttled")

    waits = []
    for _ in range(1000):
        now = send(limiter, now, "good", 0.0)
        waits.append(limiter.seconds_to_wait(now))

    assert sorted(waits, reverse=True) == waits
    assert 0.0 < waits[0]
    assert 0.0 == waits[-1]


def test_unused_time_is_not_saved() -> None:
    """After a pause one request may be sent at once, and the next one only after an interval."""
    limiter = AdaptiveRateLimiter(4)
    now = send(limiter, 0.0, "throttled") + 100.0

    assert 0.0 == limiter.seconds_to_wait(now)
    limiter.sent("a", now)
    assert 0.0 < limiter.seconds_to_wait(now)


# --- Quotas


@pytest.mark.parametrize("burst", [40.0, 1.0])
@pytest.mark.parametrize("rate", [10.0, 40.0, 100.0])
def test_throttled_share_is_small(rate: float, burst: float) -> None:
    """With any quota all requests succeed in the end, and at most a tenth of them is throttled."""
    outcome = simulate(AdaptiveRateLimiter(10), requests=400, rate=rate, burst=burst)

    assert outcome.sent == 400 + outcome.throttled
    assert outcome.share <= 0.1


def test_quota_is_used() -> None:
    """
    With a bucket of 40, 400 requests take little longer than 40 a second allow, and the final rate is the quota's.
    """
    outcome = simulate(AdaptiveRateLimiter(10), requests=400, rate=40.0, burst=40.0)

    assert outcome.seconds <= 1.1 * 400 / 40
    assert 36.0 <= outcome.last_rate <= 44.0


@pytest.mark.parametrize(("burst", "filled"), [(1.0, 1.0), (40.0, 0.0)], ids=["no burst", "empty at first"])
def test_quota_is_used_without_a_burst(burst: float, filled: float) -> None:
    """If the bucket holds one request, or starts empty, 400 requests take less than 30 seconds."""
    assert simulate(AdaptiveRateLimiter(10), requests=400, rate=40.0, burst=burst, filled=filled).seconds <= 30.0


def test_rate_recovers_when_the_quota_rises() -> None:
    """When the quota rises, the limit returns to the maximum within seconds."""
    outcome = simulate(AdaptiveRateLimiter(10), requests=2000, rate=40.0, burst=40.0, more=(5.0, 1000.0))

    assert outcome.seconds <= 15.0
    assert 400.0 <= outcome.last_rate


@pytest.mark.parametrize(("rate", "seconds"), [(3.0, 67.0), (10.0, 20.0)])
def test_quota_of_writes(rate: float, seconds: float) -> None:
    """With the quota of writes as its own, 200 requests take the time of the account's quota, whatever that is."""
    outcome = simulate(AdaptiveRateLimiter(4, quota=3.0, careful=1), requests=200, rate=rate, burst=rate)

    assert seconds == pytest.approx(outcome.seconds, rel=0.1)
    assert outcome.throttled <= 20
