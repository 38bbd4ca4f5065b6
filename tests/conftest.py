"""Fixtures of every test: a clean environment, a Parameter Store, a proxy that injects faults, a MariaDB."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from hypothesis import settings

from aiossmenv import ParameterStore
from aiossmenv.testing import ManualClock
from certificates import Authority
from embedded import MariaDB, Store, embedded_store, mariadb
from faults import FaultProxy
from timing import our_tasks

pytest_plugins = ["aiossmenv.testing"]

# No deadline: on two cores that also run MariaDB, the time of one example says nothing.
settings.register_profile("tests", max_examples=100, deadline=None)
settings.register_profile("fast", max_examples=20, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))

if os.environ.get("TEST_LOOP") == "uvloop":
    import uvloop

    def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        """Run the tests on uvloop (a hook of pytest-asyncio)."""
        return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove every AWS variable from the environment, and restore the environment after the test."""
    before = dict(os.environ)
    nowhere = str(tmp_path_factory.getbasetemp() / "nowhere")
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSM_"))]:
        del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def first_refreshes() -> Iterator[None]:
    """Let no first refresh begin at once, as one in fifty would: the time of it is random."""
    with ParameterStore.override_defaults(random=lambda: 0.5):
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[Store]:
    """Run one Parameter Store for all tests, because all moto servers of a process share their state."""
    with embedded_store() as store:
        store.put("/WARM/UP", "the first request imports the backend")
        yield store


@pytest.fixture
async def ssm(moto: Store) -> AsyncIterator[Store]:
    """
    Give an empty Parameter Store that the environment points to; fail if the test leaves one of our tasks running.
    """
    async with aiohttp.ClientSession() as session, session.post(f"{moto.endpoint_url}/moto-api/reset") as response:
        assert response.status == 200
    os.environ |= moto.environment
    yield moto
    assert set() == await our_tasks()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give a certificate authority for all tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def tls(authority: Authority) -> ssl.SSLContext:
    """Give the TLS context of a server on loopback."""
    return authority.server()


@pytest.fixture
def scheme() -> str:
    """Return the scheme of `proxy`; a module that also tests TLS overrides this with `http` and `https`."""
    return "http"


@pytest.fixture
async def proxy(ssm: Store, scheme: str, authority: Authority, tls: ssl.SSLContext) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of the Parameter Store, and point the environment to it."""
    if scheme == "https":
        os.environ["AWS_CA_BUNDLE"] = str(authority.bundle)
    async with FaultProxy(ssm.endpoint_url).running(tls if scheme == "https" else None) as running:
        os.environ["AWS_ENDPOINT_URL_SSM"] = running.url
        yield running


@pytest.fixture
def clock(manual_clock: ManualClock) -> ManualClock:
    """Give the manual clock of `aiossmenv.testing`, under a short name."""
    return manual_clock


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[ParameterStore]:
    """Give a `ParameterStore` on the manual clock, whose random numbers are always 0.5."""
    async with ParameterStore(clock=clock, random=lambda: 0.5) as opened:
        yield opened


@pytest.fixture(scope="session")
def server(mariadb_server: MariaDB) -> MariaDB:
    """Give a MariaDB; tests/integration/databases overrides this with MariaDB and MySQL."""
    return mariadb_server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB]:
    """Run one private MariaDB for all tests."""
    with asyncio.Runner() as runner:
        running = mariadb()
        database = runner.run(running.__aenter__())
        yield database
        runner.run(running.__aexit__(None, None, None))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Give the path of an AWS configuration file that the SDK reads."""
    path = tmp_path / "config"
    os.environ["AWS_CONFIG_FILE"] = str(path)
    return path
