"""Rotation under load through SQLAlchemy: no transaction fails, whatever the driver and the order of the changes."""

import pytest

from embedded import MySQL, Store
from postgres import PostgreSQL
from rotations import AnyServer, Scenario, rotate_under_load
from timing import our_tasks

ROTATIONS = 6
DRIVERS = ["mysql+aiomysql", "mysql+asyncmy", "postgresql+asyncpg", "postgresql+psycopg"]
SCENARIOS = [
    Scenario(name="database first", rotate="db_first"),
    Scenario(name="store first", rotate="store_first"),
    Scenario(name="two users", rotate="two_user"),
    Scenario(name="two users, the old one dropped at once", rotate="two_user_at_once"),
    Scenario(name="torn", rotate="torn"),
    Scenario(name="burst", rotate="burst"),
    Scenario(name="garbage in the store", rotate="bad_put"),
    Scenario(name="two passwords", rotate="dual"),
    Scenario(name="idle sessions killed", rotate="killed"),
    Scenario(name="database first, forced refresh only", rotate="db_first", reading="forced"),
    Scenario(name="one URL, a tenth dropped", rotate="mixed", form="url", maxsize=5, churn=0.1),
]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Give each driver."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def server(driver: str, request: pytest.FixtureRequest) -> AnyServer:
    """Give the server of the driver."""
    name = "postgres_server" if driver.startswith("postgresql") else "mariadb_server"
    return request.getfixturevalue(name)  # type: ignore[no-any-return] # pytest does not know its type


@pytest.mark.parametrize("name", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("scenario", SCENARIOS[:7], ids=lambda scenario: scenario.name)
async def test_examples_without_sqlalchemy(
    postgres_server: PostgreSQL, ssm: Store, name: str, scenario: Scenario
) -> None:
    """The pools of the examples commit every transaction too, exactly once, with an `Env` over HTTP."""
    outcome = await rotate_under_load(postgres_server, scenario, ROTATIONS, name, store=ssm)

    assert {} == outcome.failed
    assert outcome.committed == outcome.rows
    assert 0 == outcome.left
    assert set() == await our_tasks()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_no_transaction_fails(server: AnyServer, driver: str, scenario: Scenario) -> None:
    """Credentials change many times under load, and every transaction is committed exactly once."""
    if scenario.rotate == "dual" and isinstance(server, PostgreSQL):
        pytest.skip("a user of PostgreSQL has one password")
    least = 0 if scenario.rotate == "bad_put" else 3

    outcome = await rotate_under_load(server, scenario, ROTATIONS, driver, least=least)

    assert {} == outcome.failed
    assert outcome.committed == outcome.rows
    assert 0 == outcome.left
    assert set() == await our_tasks()
    # The connection that proves the newest credentials is not yet in the pool.
    assert scenario.maxsize + 2 >= outcome.most
    assert 0 == outcome.swaps if scenario.rotate == "bad_put" else least <= outcome.swaps + 1


@pytest.mark.parametrize("driver", ["mysql+aiomysql", "mysql+asyncmy"])
async def test_no_transaction_fails_on_mysql(mysql_server: MySQL, driver: str) -> None:
    """MySQL's own logins take longer than MariaDB's, and no transaction fails either."""
    scenario = Scenario(name="mixed, a tenth dropped", rotate="mixed", churn=0.1)

    outcome = await rotate_under_load(mysql_server, scenario, ROTATIONS, driver)

    assert {} == outcome.failed
    assert outcome.committed == outcome.rows
    assert 0 == outcome.left
    assert set() == await our_tasks()
