"""What tests of `Rotating` get: a service, a source of its credentials, and a client that follows."""

import pytest

from aiossmenv import (
    Rotating,
)
from aiossmenv.testing import ManualClock
from followed import Client, Service, Source, make


@pytest.fixture
def service() -> Service:
    """Give a service that ann may log in to with "first"."""
    return Service()


@pytest.fixture
def source(clock: ManualClock) -> Source:
    """Give a source of ann's credentials."""
    return Source(clock, USER="ann", PASSWORD="first", COLOUR="red")


@pytest.fixture
def rotating(source: Source, service: Service, clock: ManualClock) -> Rotating[Client]:
    """Give a client that follows the source; a fixture only makes it, a test enters it."""
    return make(source, service)
