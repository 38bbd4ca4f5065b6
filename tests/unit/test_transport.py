"""Requests to Parameter Store: names are grouped into batches that one call accepts."""

from hypothesis import given
from hypothesis import strategies as st

from aiossmenv._naming import base_name
from aiossmenv._ssm.transport import BATCH, batches

NAMES = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["", ":1", ":live"])).map(lambda parts: f"/P/{parts[0]}{parts[1]}"),
    unique=True,
    max_size=60,
)


@given(NAMES)
def test_batches_are_complete_and_unambiguous(names: list[str]) -> None:
    """Each name is in one batch, no batch exceeds the limit of a call, and none has two spellings of one parameter."""
    made = list(batches(names))

    assert sorted(names) == sorted(name for batch in made for name in batch)
    assert all(1 <= len(batch) <= BATCH for batch in made)
    assert all(len({base_name(name) for name in batch}) == len(batch) for batch in made)


def test_number_of_batches_is_minimal() -> None:
    """Twenty-five names of different parameters need three calls."""
    assert [10, 10, 5] == [len(batch) for batch in batches(f"/P/{number}" for number in range(25))]
