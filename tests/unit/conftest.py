"""Fixtures of the tests of `Rotating`: a service, a source of its credentials, and a rotating client."""

import pytest

from aiossmenv import (
    Rotating,
)
from aiossmenv.testing import ManualClock
from followed import Client, Service, Source, make


@pytest.fixture
def service() -> Service:
    """Give a service that accepts the user ann with the password "first"."""
    return Service()


@pytest.fixture
def source(clock: ManualClock) -> Source:
    """Give a source that holds ann's credentials."""
    return Source(clock, USER="ann", PASSWORD="first", COLOUR="red")


@pytest.fixture
def rotating(source: Source, service: Service, clock: ManualClock) -> Rotating[Client]:
    """Give a `Rotating` client of the source; the test enters it."""
    return make(source, service)
