"""Rotation under load on real servers: no transaction fails, in whatever order the credentials change."""

import pytest

from embedded import Server, Store
from rotations import Scenario, rotate_under_load
from timing import our_tasks

ROTATIONS = 12
SCENARIOS = [
    Scenario(name="database first", rotate="db_first"),
    Scenario(name="store first", rotate="store_first"),
    Scenario(name="two users", rotate="two_user"),
    Scenario(name="two users, the old one dropped at once", rotate="two_user_at_once"),
    Scenario(name="torn", rotate="torn"),
    Scenario(name="burst", rotate="burst"),
    Scenario(name="garbage in the store", rotate="bad_put"),
    Scenario(name="two passwords", rotate="dual"),
    Scenario(name="database first, forced refresh only", rotate="db_first", reading="forced"),
    Scenario(name="store first, forced refresh only", rotate="store_first", reading="forced"),
    Scenario(name="two users, forced refresh only", rotate="two_user", reading="forced"),
    Scenario(name="one URL", rotate="mixed", form="url"),
    Scenario(name="one JSON object, forced refresh only", rotate="mixed", form="json", reading="forced"),
    Scenario(name="mixed, every tenth transaction takes 0.2 s", rotate="mixed", long=0.1),
    Scenario(name="mixed, every tenth connection dropped", rotate="mixed", maxsize=5, churn=0.1),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_no_transaction_fails(server: Server, scenario: Scenario) -> None:
    """Credentials change many times under load, and every transaction is committed exactly once."""
    least = 0 if scenario.rotate == "bad_put" else 3

    outcome = await rotate_under_load(server, scenario, ROTATIONS, least=least)

    assert {} == outcome.failed
    assert outcome.committed == outcome.rows
    assert 0 == outcome.left
    assert set() == await our_tasks()
    # One pool serves and one is retiring; on a busy machine the next one opens before that one is closed. A transaction
    # that outlives several swaps keeps more of them open.
    assert scenario.long or 3 * scenario.maxsize >= outcome.most
    assert 0 == outcome.swaps if scenario.rotate == "bad_put" else least <= outcome.swaps + 1


# aiomysql leaves a connection whose login was cancelled to the garbage collector, which closes it with a warning.
@pytest.mark.filterwarnings(
    "ignore:Unclosed connection:ResourceWarning",
    "ignore:Exception ignored in.*Connection.__del__:pytest.PytestUnraisableExceptionWarning",
)
async def test_no_transaction_fails_while_others_are_cancelled(server: Server) -> None:
    """If a fifth of all transactions are cancelled during rotations, no other one fails and nothing is left open."""
    scenario = Scenario(name="mixed, a fifth cancelled", rotate="mixed", maxsize=5, churn=0.1, cancelled=0.2)

    outcome = await rotate_under_load(server, scenario, ROTATIONS, least=3)

    assert {} == outcome.failed
    assert 20 < outcome.cancelled
    # A transaction that is cancelled may already be committed.
    assert outcome.committed <= outcome.rows <= outcome.committed + outcome.cancelled
    assert 0 == outcome.left
    assert set() == await our_tasks()


async def test_no_transaction_fails_with_parameter_store(server: Server, ssm: Store) -> None:
    """
    With an `Env` that reads Parameter Store over HTTP, by schedule and after rejected logins, no transaction fails.
    """
    scenario = Scenario(name="whole chain", rotate="mixed", reading="HTTP")

    outcome = await rotate_under_load(server, scenario, ROTATIONS, least=3, store=ssm)

    assert {} == outcome.failed
    assert outcome.committed == outcome.rows
    assert 0 == outcome.left
    assert 3 <= outcome.swaps + 1
