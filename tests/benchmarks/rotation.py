"""
Whether queries fail while credentials rotate: `tests/benchmarks/run rotation`.

It runs for about eight minutes for each server on two cores, prints a table for each, saves them as JSON, and exits
with 1 if anything failed. Needs the programs of a MariaDB server, or those of a MySQL server
(`tests/run` unpacks one into .venv/mysql; set MYSQL_ROOT to it).

20 tasks commit transactions (`BEGIN`, `INSERT`, `SELECT`, `COMMIT`) on a pool of 10 connections, while a rotator
changes credentials 5 to 15 times a second, a million times as often as anybody does it; so p99 mostly shows the time
in which no valid credentials can be read. *Calm* is another load: each task thinks for 30 ms, no connection is dropped,
and credentials change five times a second; it shows what a swap itself costs.

*Failed* counts errors out of any transaction, and committed rows that differ from the transactions that succeeded.
*Near a swap* are transactions that overlap with the 20 ms before it, when the new pool logs in, or the 20 ms after it.
*Known to be old* are logins with credentials that the server did not accept any more, although the process had read
newer ones 50 ms before that it had not tried, or with which the relay had seen a login succeed. *Connections* are the
most that the server saw at a time. Rotations exceed swaps where a password was replaced before it was ever used.
Server, load, rotator and, in the *whole chain*, the emulated Parameter Store share the machine.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

# A script's own folder is where modules are looked for; these are two up.
sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "examples")]

from embedded import Server, Store, embedded_store, find_mariadb, find_mysql, mariadb, mysql
from rotations import Kind, Outcome, rotate_under_load

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

KINDS = [
    Kind(name="database first", rotate="db_first"),
    Kind(name="store first", rotate="store_first"),
    Kind(name="two users", rotate="two_user"),
    Kind(name="two users, old one dropped at once", rotate="two_user_at_once"),
    Kind(name="torn: user before password", rotate="torn"),
    Kind(name="burst of five", rotate="burst"),
    Kind(name="garbage in the store", rotate="bad_put"),
    Kind(name="two passwords at a time", rotate="dual"),
    Kind(name="database first, forced refresh only", rotate="db_first", reading="forced"),
    Kind(name="two users, forced refresh only", rotate="two_user", reading="forced"),
    Kind(name="mixed, one JSON parameter", rotate="mixed", form="json"),
    Kind(name="mixed, one URL, forced refresh only", rotate="mixed", form="url", reading="forced"),
    Kind(name="mixed, 10 % take 0.2 s", rotate="mixed", long=0.1),
    Kind(name="mixed, pool of 5, 10 % dropped", rotate="mixed", maxsize=5, churn=0.1),
    Kind(name="mixed, pool of 5, 10 % dropped, 20 % cancelled", rotate="mixed", maxsize=5, churn=0.1, cancelled=0.2),
    Kind(name="calm, database first", rotate="db_first", warm=10, churn=0, think=0.03, pause=0.2),
    Kind(name="calm, two users", rotate="two_user", warm=10, churn=0, think=0.03, pause=0.2),
    Kind(name="whole chain over HTTP", rotate="mixed", reading="HTTP", pause=0.2),
]


def failures(kind: Kind, outcome: Outcome) -> int:
    """Count what is not as promised; who is cancelled may have been committed just before."""
    lost = max(outcome.committed - outcome.rows, outcome.rows - outcome.committed - outcome.cancelled, 0)
    idle = kind.rotate != "bad_put" and outcome.swaps < 3
    return sum(outcome.failed.values()) + lost + outcome.left + idle


def quantiles(seconds: list[float]) -> tuple[float, float] | None:
    """Return median and 99th percentile in milliseconds, or nothing where there was no swap to be near."""
    if len(seconds) < 2:
        return None
    cuts = statistics.quantiles(seconds, n=100)
    return 1000 * cuts[49], 1000 * cuts[98]


def row(kind: Kind, outcome: Outcome) -> str:
    """Return a line of the table."""
    steady, near = quantiles(outcome.steady), quantiles(outcome.near)
    cells = (
        kind.name,
        outcome.rotations,
        outcome.swaps,
        f"{outcome.committed:,}",
        f"**{failures(kind, outcome)}**",
        f"{steady[0]:.1f} / {steady[1]:.1f}" if steady else "",
        f"{near[0]:.1f} / {near[1]:.1f}" if near else "",
        f"{near[1] / steady[1]:.2f}" if steady and near else "",
        outcome.most,
        outcome.refused,
        outcome.known_to_be_old,
    )
    return f"| {' | '.join(map(str, cells))} |"


def total(outcomes: dict[Kind, Outcome]) -> str:
    """Return the last line of the table."""
    rotations, swaps, committed, refused, old = (
        sum(getattr(outcome, name) for outcome in outcomes.values())
        for name in ("rotations", "swaps", "committed", "refused", "known_to_be_old")
    )
    failed = sum(failures(kind, outcome) for kind, outcome in outcomes.items())
    return f"| all | {rotations:,} | {swaps:,} | {committed:,} | **{failed}** | | | | | {refused:,} | {old:,} |"


_COLUMNS = (
    *("kind", "rotations", "swaps", "transactions", "failed", "steady p50 / p99, ms", "near a swap", "ratio of p99"),
    *("connections", "refused logins", "of them known to be old"),
)
HEAD = f"| {' | '.join(_COLUMNS)} |\n| --- |{' ---: |' * (len(_COLUMNS) - 1)}"


async def measure(server: Server, store: Store, kinds: list[Kind], rotations: int) -> dict[Kind, Outcome]:
    """Run one kind after the other, and print each line when it is there."""
    outcomes: dict[Kind, Outcome] = {}
    print(HEAD, flush=True)
    for kind in kinds:
        http = kind.reading == "HTTP"
        outcomes[kind] = await rotate_under_load(
            server,
            kind,
            min(rotations, 100) if http else rotations,
            least=1 if kind.rotate == "bad_put" else 3,
            store=store if http else None,
            # Not where latencies count.
            relayed=not kind.think,
        )
        print(row(kind, outcomes[kind]), flush=True)
    print(total(outcomes), flush=True)
    return outcomes


def main() -> int:
    """Measure everything, print the table and save it; returns the exit status."""
    parser = argparse.ArgumentParser(description="Whether queries fail while credentials rotate.")
    default = Path(tempfile.gettempdir()) / "aiossmenv-rotation.json"
    parser.add_argument("--json", type=Path, default=default, help="where to save the figures (default: %(default)s)")
    parser.add_argument("--rotations", type=int, default=200, help="of each kind (default: %(default)s; 100 over HTTP)")
    parser.add_argument("--only", default="", help="kinds whose name has this in it (default: all)")
    parser.add_argument("--server", choices=["mariadb", "mysql"], help="default: both, where they are there")
    options = parser.parse_args()
    servers: dict[str, Callable[[], AbstractAsyncContextManager[Server]]] = {}
    if options.server != "mysql" and find_mariadb():
        servers["MariaDB"] = mariadb
    if options.server != "mariadb" and find_mysql():
        servers["MySQL"] = mysql
    if not servers:
        parser.error("there is no server: install mariadb-server-core, or set MYSQL_ROOT")
    kinds = [kind for kind in KINDS if options.only in kind.name]
    # aiomysql leaves a connection whose login was cancelled to the garbage collector, which warns.
    warnings.filterwarnings("ignore", "Unclosed connection", ResourceWarning)
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSM_"))]:
        del os.environ[name]
    begun = time.monotonic()

    async def run(store: Store) -> list[tuple[str, Kind, Outcome]]:
        found: list[tuple[str, Kind, Outcome]] = []
        for name, serve in servers.items():
            print(f"\n{name}", flush=True)
            async with serve() as server:
                outcomes = await measure(server, store, kinds, options.rotations)
            found += [(name, kind, outcome) for kind, outcome in outcomes.items()]
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
            | asdict(kind)
            | {field: value for field, value in asdict(outcome).items() if field not in ("steady", "near")}
            | {"steady ms": quantiles(outcome.steady), "near ms": quantiles(outcome.near)}
            for name, kind, outcome in outcomes
        ],
    }
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{figures['seconds']:.0f} s; all figures in {options.json}")
    return any(failures(kind, outcome) for _, kind, outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
