"""Fixtures of the database tests: an account on the server, its credentials in memory, and a relay that can be cut."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from embedded import Server, find_mysql, mysql
from postgres import PostgreSQL, postgres
from relay import Relay
from rotations import Account, Source, new_account
from timing import our_tasks


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Server]:
    """Run one private MySQL for all tests."""
    if not find_mysql():
        pytest.skip("no MySQL found: set MYSQL_ROOT to the directory where Debian's mysql-server-core is unpacked")
    with asyncio.Runner() as runner:
        running = mysql()
        database = runner.run(running.__aenter__())
        yield database
        runner.run(running.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgreSQL]:
    """Run one private PostgreSQL for all tests."""
    with asyncio.Runner() as runner:
        running = postgres()
        database = runner.run(running.__aenter__())
        yield database
        runner.run(running.__aexit__(None, None, None))


@pytest.fixture(params=["mariadb", "mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    """Run each test on MariaDB and on MySQL."""
    chosen = request.getfixturevalue(f"{request.param}_server")
    assert isinstance(chosen, Server)
    return chosen


@pytest.fixture
async def account(server: Server) -> AsyncIterator[Account]:
    """Give a new user with the password "first"; fail if the test leaves a connection or a task."""
    async with new_account(server) as account:
        yield account
    assert 0 == await account.remaining_connections()
    assert set() == await our_tasks()


@pytest.fixture
def source(server: Server, account: Account) -> Source:
    """Give an in-memory source of the account's credentials."""
    return Source(DB_URL=server.address, DB_USER=account.name, DB_PASSWORD="first")


@pytest.fixture(params=["127.0.0.1", "::1"])
async def relay(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    """Give a relay to the server that the test can cut."""
    async with Relay(request.param, server.port).running() as running:
        yield running
