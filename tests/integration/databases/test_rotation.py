"""Rotation under load on a real MariaDB: no transaction fails, whatever the order in which credentials change."""

import pytest

from embedded import Server, Store
from rotations import Kind, rotate_under_load
from timing import our_tasks

ROTATIONS = 20
KINDS = [
    Kind(name="database first", rotate="db_first"),
    Kind(name="store first", rotate="store_first"),
    Kind(name="two users", rotate="two_user"),
    Kind(name="two users, the old one dropped at once", rotate="two_user_at_once"),
    Kind(name="torn", rotate="torn"),
    Kind(name="burst", rotate="burst"),
    Kind(name="garbage in the store", rotate="bad_put"),
    Kind(name="two passwords", rotate="dual"),
    Kind(name="database first, forced refresh only", rotate="db_first", reading="forced"),
    Kind(name="store first, forced refresh only", rotate="store_first", reading="forced"),
    Kind(name="two users, forced refresh only", rotate="two_user", reading="forced"),
    Kind(name="one URL", rotate="mixed", form="url"),
    Kind(name="one JSON object, forced refresh only", rotate="mixed", form="json", reading="forced"),
    Kind(name="mixed, every tenth transaction takes 0.2 s", rotate="mixed", long=0.1),
    Kind(name="mixed, every tenth connection dropped", rotate="mixed", maxsize=5, churn=0.1),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_no_transaction_fails(server: Server, kind: Kind) -> None:
    """Credentials change again and again under load, and every transaction is committed, once."""
    least = 0 if kind.rotate == "bad_put" else 3

    outcome = await rotate_under_load(server, kind, ROTATIONS, least=least)

    assert {} == outcome.failed
    assert outcome.committed == outcome.rows
    assert 0 == outcome.left
    assert set() == await our_tasks()
    # One pool serves and one is retiring; on a busy machine the next is warm before that one is closed. A transaction
    # that
    # outlives several swaps keeps more of them open.
    assert kind.long or 3 * kind.maxsize >= outcome.most
    assert 0 == outcome.swaps if kind.rotate == "bad_put" else least <= outcome.swaps + 1


# aiomysql's: a connection whose login was cancelled is left to the garbage collector, which warns and closes it.
@pytest.mark.filterwarnings(
    "ignore:Unclosed connection:ResourceWarning",
    "ignore:Exception ignored in.*Connection.__del__:pytest.PytestUnraisableExceptionWarning",
)
async def test_no_transaction_fails_because_others_are_cancelled(server: Server) -> None:
    """
    Wherever a fifth of all transactions are cancelled while credentials change, no other one fails, and nothing is
    left.
    """
    kind = Kind(name="mixed, a fifth cancelled", rotate="mixed", maxsize=5, churn=0.1, cancelled=0.2)

    outcome = await rotate_under_load(server, kind, ROTATIONS, least=3)

    assert {} == outcome.failed
    assert 100 < outcome.cancelled
    # One that is cancelled may have been committed just before.
    assert outcome.committed <= outcome.rows <= outcome.committed + outcome.cancelled
    assert 0 == outcome.left
    assert set() == await our_tasks()


async def test_the_whole_chain(server: Server, ssm: Store) -> None:
    """
    With an `Env` that reads Parameter Store over HTTP, in time and when a login is refused, no transaction fails
    either.
    """
    kind = Kind(name="whole chain", rotate="mixed", reading="HTTP")

    outcome = await rotate_under_load(server, kind, ROTATIONS, least=3, store=ssm)

    assert {} == outcome.failed
    assert outcome.committed == outcome.rows
    assert 0 == outcome.left
    assert 3 <= outcome.swaps + 1
