"""What tests with a database get: an account on the server, its credentials in memory, and a relay to cut."""

from collections.abc import AsyncIterator

import pytest

from embedded import MariaDB
from rotations import Account, Relay, Source, new_account
from timing import our_tasks


@pytest.fixture
async def account(server: MariaDB) -> AsyncIterator[Account]:
    """Give a user of the test's own, with the password "first"; the test leaves neither connection nor task."""
    async with new_account(server) as account:
        yield account
    assert 0 == await account.gone()
    assert set() == await our_tasks()


@pytest.fixture
def source(server: MariaDB, account: Account) -> Source:
    """Give the account's credentials, in memory."""
    return Source(DB_URL=server.address, DB_USER=account.name, DB_PASSWORD="first")


@pytest.fixture(params=["127.0.0.1", "::1"])
async def relay(server: MariaDB, request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    """Give a way to the server that can be cut."""
    async with Relay(request.param, server.port).running() as running:
        yield running
