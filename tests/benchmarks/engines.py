"""
Whether transactions fail while credentials rotate under SQLAlchemy: `tests/benchmarks/run engines`.

It runs for about five minutes, prints a table for each driver and saves all figures as JSON; it exits with 1 if a
transaction of ours failed. Needs MariaDB and PostgreSQL. The load is that of `rotation`: 20 tasks on a pool of 10, and
credentials that change 5 to 15 times a second.

Beside ours runs what users have today: an engine with `pool_pre_ping=True` whose URL holds the first credentials. At
the end: what a checkout and `SELECT 1` cost through a plain engine and through ours, in turn on one server.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A script's own folder is where modules are looked for; these are two up.
sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "examples")]

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from aiossmenv.sqlalchemy import RotatingEngine
from embedded import mariadb
from outcomes import HEAD, failures, quantiles, row, total
from postgres import postgres
from rotations import AnyServer, Outcome, Scenario, Source, new_account, rotate_under_load
from targets import EngineTarget

if TYPE_CHECKING:
    from collections.abc import Callable

DRIVERS = ["mysql+aiomysql", "mysql+asyncmy", "postgresql+asyncpg", "postgresql+psycopg"]
SCENARIOS = [
    Scenario(name="database first", rotate="db_first"),
    Scenario(name="store first", rotate="store_first"),
    Scenario(name="two users", rotate="two_user"),
    Scenario(name="two users, old one dropped at once", rotate="two_user_at_once"),
    Scenario(name="torn: user before password", rotate="torn"),
    Scenario(name="burst of five", rotate="burst"),
    Scenario(name="garbage in the store", rotate="bad_put"),
    Scenario(name="two passwords at a time", rotate="dual"),
    Scenario(name="all sessions killed between two transactions", rotate="killed"),
    Scenario(name="database first, forced refresh only", rotate="db_first", reading="forced"),
    Scenario(name="mixed, one URL, pool of 5, 10 % dropped", rotate="mixed", form="url", maxsize=5, churn=0.1),
    # A new connection of asyncpg takes SQLAlchemy 50 ms here, and ten of them must be made between two rotations.
    Scenario(name="calm, database first", rotate="db_first", minsize=10, churn=0, think=0.03, pause=1.5),
    Scenario(name="calm, two users", rotate="two_user", minsize=10, churn=0, think=0.03, pause=1.5),
]


async def of_driver(driver: str, server: AnyServer, rotations: int, only: str) -> dict[Scenario, Outcome]:
    """Run one scenario after the other, and print each line when it is there."""
    print(f"\n{driver}\n{HEAD}", flush=True)
    outcomes: dict[Scenario, Outcome] = {}
    for scenario in SCENARIOS:
        if only not in scenario.name or (scenario.rotate == "dual" and driver.startswith("postgresql")):
            continue
        least = 1 if scenario.rotate == "bad_put" else 3
        outcomes[scenario] = await rotate_under_load(server, scenario, rotations, driver, least=least)
        print(row(scenario, outcomes[scenario]), flush=True)
    print(total(outcomes), flush=True)
    return outcomes


async def plain(driver: str, server: AnyServer) -> dict[str, int]:
    """Rotate twice under an engine of SQLAlchemy's own, with a ping and the first credentials."""
    async with new_account(server) as account:
        await server.execute(f"CREATE TABLE app.{account.name} (n INT)")
        async with made(driver, server, account.name, pool_pre_ping=True, pool_size=10) as engine:
            target = EngineTarget(engine)
            counts = {"rotations": 2, "committed": 0, "failed": 0}
            for number in range(2 * 100):
                if number % 100 == 50:
                    await account.set_password(f"p{number}")
                try:
                    await target.transaction(f"app.{account.name}", 0, drop=number % 10 == 0)
                    counts["committed"] += 1
                except Exception:
                    counts["failed"] += 1
        await server.execute(f"DROP TABLE app.{account.name}")
    return counts


@asynccontextmanager
async def made(driver: str, server: AnyServer, user: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Make an engine of SQLAlchemy's own."""
    url = URL.create(driver, user, "first", "127.0.0.1", server.port, "app")
    engine = create_async_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


async def overhead(driver: str, server: AnyServer, rounds: int) -> dict[str, float]:
    """Return the ratio of what a checkout, and a checkout with `SELECT 1`, cost through ours and a plain engine."""
    async with new_account(server) as account:
        source = Source(DB_URL=server.address, DB_USER=account.name, DB_PASSWORD="first")
        async with (
            made(driver, server, account.name) as theirs,
            RotatingEngine(source, f"{driver}:///app") as ours,
        ):
            spent: dict[tuple[str, str], list[float]] = {}
            for number in range(rounds):
                engines: list[tuple[str, AsyncEngine]] = [("ours", ours), ("plain", theirs)]
                for name, engine in engines if number % 2 else engines[::-1]:
                    for work, statement in (("checkout", None), ("SELECT 1", text("SELECT 1"))):
                        began = time.perf_counter()
                        for _ in range(50):
                            async with engine.connect() as connection:
                                if statement is not None:
                                    await connection.execute(statement)
                        spent.setdefault((name, work), []).append(time.perf_counter() - began)
    return {
        work: statistics.median(a / b for a, b in zip(spent["ours", work], spent["plain", work], strict=True))
        for work in ("checkout", "SELECT 1")
    }


async def measure(options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """Measure each driver; returns the figures, and how much failed."""
    figures: list[dict[str, Any]] = []
    failed = 0
    servers: dict[str, Callable[[], AbstractAsyncContextManager[AnyServer]]] = {
        "mysql": mariadb,
        "postgresql": postgres,
    }
    for driver in [options.driver] if options.driver else DRIVERS:
        async with servers[driver.partition("+")[0]]() as server:
            outcomes = await of_driver(driver, server, options.rotations, options.only)
            failed += sum(failures(scenario, outcome) for scenario, outcome in outcomes.items())
            rotations = sum(outcome.rotations for outcome in outcomes.values())
            refused = sum(outcome.refused for outcome in outcomes.values())
            beside = await plain(driver, server)
            ratio = await overhead(driver, server, options.rounds)
        print(f"refused logins for each rotation: {refused / max(rotations, 1):.2f}")
        print(f"a plain engine with pool_pre_ping and the first credentials: {beside}")
        print("ours / plain:", ", ".join(f"{work} {value:.3f}" for work, value in ratio.items()), flush=True)
        figures += [
            {"driver": driver, "plain": beside, "overhead": ratio}
            | asdict(scenario)
            | {name: value for name, value in asdict(outcome).items() if name not in ("steady", "near")}
            | {"steady ms": quantiles(outcome.steady), "near ms": quantiles(outcome.near)}
            for scenario, outcome in outcomes.items()
        ]
    return figures, failed


def main() -> int:
    """Measure everything, print the tables and save them; returns the exit status."""
    parser = argparse.ArgumentParser(description="Whether transactions fail while credentials rotate.")
    default = Path(tempfile.gettempdir()) / "aiossmenv-engines.json"
    parser.add_argument("--json", type=Path, default=default, help="where to save the figures (default: %(default)s)")
    parser.add_argument("--rotations", type=int, default=25, help="of each scenario (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=60, help="of 50 checkouts (default: %(default)s)")
    parser.add_argument("--only", default="", help="scenarios whose name has this in it (default: all)")
    parser.add_argument("--driver", choices=DRIVERS, help="default: all")
    options = parser.parse_args()
    # aiomysql leaves a connection whose login was cancelled to the garbage collector, which warns.
    warnings.filterwarnings("ignore", "Unclosed connection", ResourceWarning)
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSM_"))]:
        del os.environ[name]
    figures, failed = asyncio.run(measure(options))
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{failed} failed; all figures in {options.json}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
