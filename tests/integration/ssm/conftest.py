"""Fixtures of the contract suites: the same store in memory and over HTTP."""

import pytest

from aiossmenv import ParameterStore
from aiossmenv.testing import ManualClock
from backends import Backend, InMemory, Wire
from embedded import Store
from faults import FaultProxy


@pytest.fixture
def memory(clock: ManualClock) -> InMemory:
    """Give an empty in-memory store."""
    return InMemory(clock=clock)


@pytest.fixture
def wire(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> Wire:
    """Give an empty store over HTTP, on the same clock."""
    return Wire(ssm, proxy, store)


@pytest.fixture(params=["memory", "wire"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Run each test on both stores."""
    given: Backend = request.getfixturevalue(request.param)
    return given
