"""
Check whether queries fail while credentials rotate: `tests/benchmarks/run rotation`.

The benchmark runs about eight minutes per server on two cores. It prints a table for each server, saves the tables as
JSON, and exits with 1 if anything failed. It needs the programs of a MariaDB server or of a MySQL server (`tests/run`
unpacks one into .venv/mysql; set MYSQL_ROOT to that directory).

20 tasks commit transactions (`BEGIN`, `INSERT`, `SELECT`, `COMMIT`) on a pool of 10 connections, while a rotator
changes the credentials 5 to 15 times a second, about a million times as often as in production. So p99 mostly shows
the time in which no valid credentials can be read. The *calm* scenarios show the cost of a swap itself: each task
pauses 30 ms between transactions, no connection is dropped, and credentials change five times a second.

*Failed* counts errors of all transactions, and committed rows that differ from the transactions that succeeded.
*Near a swap* are transactions that overlap the 20 ms before a swap, when the new pool logs in, or the 20 ms after it.
*Stale* are logins with credentials that the server no longer accepted, although 50 ms earlier the process had read
newer ones and not tried them, or the relay had seen a login with newer ones succeed. *Connections* is the highest
number that the server had open. There are more rotations than swaps if a password is replaced before it is used.
The server, the load, the rotator and, in *whole chain*, the emulated Parameter Store share one machine.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

# Python adds only the script's own directory to sys.path; these modules are in two other directories.
sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "examples")]

from embedded import Server, Store, embedded_store, find_mariadb, find_mysql, mariadb, mysql
from outcomes import HEAD, failures, quantiles, row, total
from rotations import Outcome, Scenario, rotate_under_load

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

SCENARIOS = [
    Scenario(name="database first", rotate="db_first"),
    Scenario(name="store first", rotate="store_first"),
    Scenario(name="two users", rotate="two_user"),
    Scenario(name="two users, old one dropped at once", rotate="two_user_at_once"),
    Scenario(name="torn: user before password", rotate="torn"),
    Scenario(name="burst of five", rotate="burst"),
    Scenario(name="garbage in the store", rotate="bad_put"),
    Scenario(name="two passwords at a time", rotate="dual"),
    Scenario(name="database first, forced refresh only", rotate="db_first", reading="forced"),
    Scenario(name="two users, forced refresh only", rotate="two_user", reading="forced"),
    Scenario(name="mixed, one JSON parameter", rotate="mixed", form="json"),
    Scenario(name="mixed, one URL, forced refresh only", rotate="mixed", form="url", reading="forced"),
    Scenario(name="mixed, 10 % take 0.2 s", rotate="mixed", long=0.1),
    Scenario(name="mixed, pool of 5, 10 % dropped", rotate="mixed", maxsize=5, churn=0.1),
    Scenario(
        name="mixed, pool of 5, 10 % dropped, 20 % cancelled", rotate="mixed", maxsize=5, churn=0.1, cancelled=0.2
    ),
    Scenario(name="calm, database first", rotate="db_first", minsize=10, churn=0, think=0.03, pause=0.2),
    Scenario(name="calm, two users", rotate="two_user", minsize=10, churn=0, think=0.03, pause=0.2),
    Scenario(name="whole chain over HTTP", rotate="mixed", reading="HTTP", pause=0.2),
]


async def measure(server: Server, store: Store, scenarios: list[Scenario], rotations: int) -> dict[Scenario, Outcome]:
    """Run one scenario after the other, and print each line as soon as it is complete."""
    outcomes: dict[Scenario, Outcome] = {}
    print(HEAD, flush=True)
    for scenario in scenarios:
        http = scenario.reading == "HTTP"
        outcomes[scenario] = await rotate_under_load(
            server,
            scenario,
            min(rotations, 100) if http else rotations,
            least=1 if scenario.rotate == "bad_put" else 3,
            store=store if http else None,
            # The relay adds latency, so the calm scenarios run without it.
            relayed=not scenario.think,
        )
        print(row(scenario, outcomes[scenario]), flush=True)
    print(total(outcomes), flush=True)
    return outcomes


def main() -> int:
    """Run all scenarios, print the tables and save them; return the exit status."""
    parser = argparse.ArgumentParser(description="Check whether queries fail while credentials rotate.")
    default = Path(tempfile.gettempdir()) / "aiossmenv-rotation.json"
    parser.add_argument("--json", type=Path, default=default, help="where to save the figures (default: %(default)s)")
    parser.add_argument("--rotations", type=int, default=200, help="per scenario (default: %(default)s; 100 over HTTP)")
    parser.add_argument("--only", default="", help="scenarios whose name contains this text (default: all)")
    parser.add_argument("--server", choices=["mariadb", "mysql"], help="default: every server that is installed")
    options = parser.parse_args()
    servers: dict[str, Callable[[], AbstractAsyncContextManager[Server]]] = {}
    if options.server != "mysql" and find_mariadb():
        servers["MariaDB"] = mariadb
    if options.server != "mariadb" and find_mysql():
        servers["MySQL"] = mysql
    if not servers:
        parser.error("no server found: install mariadb-server-core, or set MYSQL_ROOT")
    scenarios = [scenario for scenario in SCENARIOS if options.only in scenario.name]
    # aiomysql leaves a connection whose login was cancelled to the garbage collector, which warns.
    warnings.filterwarnings("ignore", "Unclosed connection", ResourceWarning)
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSM_"))]:
        del os.environ[name]
    begun = time.monotonic()

    async def run(store: Store) -> list[tuple[str, Scenario, Outcome]]:
        found: list[tuple[str, Scenario, Outcome]] = []
        for name, serve in servers.items():
            print(f"\n{name}", flush=True)
            async with serve() as server:
                outcomes = await measure(server, store, scenarios, options.rotations)
            found += [(name, scenario, outcome) for scenario, outcome in outcomes.items()]
        return found

    with embedded_store() as store:
        os.environ.update(store.environment)
        outcomes = asyncio.run(run(store))
    figures = {
        "machine": {"python": platform.python_version(), "system": platform.platform(), "processors": os.cpu_count()},
        "versions": {name: version(name) for name in ("aiossmenv", "aiomysql", "pymysql")},
        "seconds": time.monotonic() - begun,
        "rows": [
            {"server": name}
            | asdict(scenario)
            | {field: value for field, value in asdict(outcome).items() if field not in ("steady", "near")}
            | {"steady ms": quantiles(outcome.steady), "near ms": quantiles(outcome.near)}
            for name, scenario, outcome in outcomes
        ],
    }
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{figures['seconds']:.0f} s; all figures in {options.json}")
    return any(failures(scenario, outcome) for _, scenario, outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
