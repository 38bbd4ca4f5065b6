"""Pauses after failures: exponential backoff with full jitter, bounded by a deadline."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv._concurrency import Backoff

BACKOFFS = st.builds(
    lambda base, doublings: Backoff(base=base, cap=base * 2.0**doublings), st.floats(0.001, 10.0), st.floats(0.0, 20.0)
)
FAILURES = st.integers(1, 10**6)
DRAWS = st.floats(0.0, 1.0, exclude_max=True)
SECONDS = st.floats(0.0, 100.0)


def test_ceilings_double_from_base_to_cap() -> None:
    """The ceiling is *base* after one failure, doubles with each further one, and stays at *cap*."""
    backoff = Backoff(base=0.1, cap=1.0)

    assert [0.1, 0.2, 0.4, 0.8, 1.0, 1.0] == [backoff.ceiling(failures) for failures in range(1, 7)]


def test_default_ceilings() -> None:
    """By default, the first ceiling is below 0.1 seconds and the last one below a minute."""
    assert [0.1, 0.2, 60.0] == [Backoff().ceiling(failures) for failures in (1, 2, 100)]


@given(BACKOFFS, FAILURES, FAILURES)
def test_ceiling_never_falls(backoff: Backoff, failures: int, more: int) -> None:
    """More failures never make the ceiling lower, and it stays between *base* and *cap*."""
    assert backoff.base <= backoff.ceiling(failures) <= backoff.ceiling(failures + more) <= backoff.cap


def test_a_million_failures_do_not_overflow() -> None:
    """After 10**6 failures the ceiling is still *cap* seconds, and nothing overflows."""
    assert 20.0 == Backoff(base=0.1, cap=20.0).ceiling(10**6)


@given(BACKOFFS, FAILURES, DRAWS)
def test_delay_is_uniform_below_the_ceiling(backoff: Backoff, failures: int, draw: float) -> None:
    """A delay is the random fraction of the ceiling and may be zero: full jitter."""
    ceiling = backoff.ceiling(failures)

    assert 0.0 <= backoff.delay(failures, draw) <= ceiling
    assert math.isclose(draw, backoff.delay(failures, draw) / ceiling, rel_tol=1e-9, abs_tol=1e-9)


@given(BACKOFFS, FAILURES, DRAWS, SECONDS)
def test_delay_within_never_ends_after_the_deadline(
    backoff: Backoff, failures: int, draw: float, remaining: float
) -> None:
    """A delay ends before the deadline; if *base* seconds or less remain, the result is None."""
    delay = backoff.delay_within(failures, draw, remaining)

    assert (remaining <= backoff.base) == (delay is None)
    assert delay is None or 0.0 <= delay <= min(remaining, backoff.ceiling(failures))


def test_delay_within_lowers_the_ceiling_to_the_deadline() -> None:
    """A ceiling beyond the deadline is lowered to it; a ceiling before the deadline stays."""
    backoff = Backoff(base=1.0, cap=20.0)

    assert 2.0 == backoff.delay_within(5, 0.5, 4.0)
    assert 1.0 == backoff.delay_within(2, 0.5, 4.0)


def test_backoff_is_frozen() -> None:
    """A `Backoff` is immutable, because it is shared."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Backoff().base = 1.0  # type: ignore[misc]
