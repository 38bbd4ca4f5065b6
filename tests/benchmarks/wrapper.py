"""
`RotatingEngine` beside aws-advanced-python-wrapper's plugin for Secrets Manager: `python tests/benchmarks/wrapper.py`.

Both are SQLAlchemy engines, which get the same load and rotations in turn: 20 tasks on a pool of 10. A rotation writes
the secret to Secrets Manager and to Parameter Store, which moto serves over HTTP. The plugin reads it from the one, and
`load_env` from the other. The plugin's engine has `pool_pre_ping=True`. It takes about four minutes, and needs MariaDB
and PostgreSQL. Where the wrapper is not installed, it says so and ends. The wrapper needs a newer boto3 than aioboto3
allows, and SQLAlchemy 2.0 for PostgreSQL, so give it an environment of its own; pip reports the conflict and installs:

    python -m venv .venv/wrapper
    .venv/wrapper/bin/pip install --upgrade pip
    .venv/wrapper/bin/pip install '.[mysql,sqlalchemy]' --group test
    .venv/wrapper/bin/pip install --upgrade aws-advanced-python-wrapper 'sqlalchemy<2.1' aiobotocore boto3
    .venv/wrapper/bin/python tests/benchmarks/wrapper.py
"""

import argparse
import asyncio
import importlib.util
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A script's own folder is where modules are looked for; these are two up.
sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "examples")]

import boto3
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

from embedded import REGION, Store, embedded_store, mariadb
from outcomes import quantiles
from postgres import PostgreSQL, postgres
from rotations import AnyServer, Outcome, Scenario, rotate_under_load
from targets import EngineTarget, Target

if TYPE_CHECKING:
    from aiossmenv._rotating import Source as EnvLike

# Drivers of ours, and of theirs.
DRIVERS = {"mysql+aiomysql": "mysql+aws_wrapper_aiomysql", "postgresql+psycopg": "postgresql+aws_wrapper_psycopg"}
_COMMON: dict[str, Any] = {"form": "json", "churn": 0.02, "pause": 0.3}
SCENARIOS = [
    Scenario(name="database first", rotate="db_first", **_COMMON),
    Scenario(name="store first", rotate="store_first", **_COMMON),
    Scenario(name="two users", rotate="two_user", **_COMMON),
    Scenario(name="two users, old one dropped at once", rotate="two_user_at_once", **_COMMON),
    # Five writes over HTTP take longer than 0.3 s. Without a pause no password would be valid long enough to be read.
    Scenario(name="burst of five", rotate="burst", **_COMMON | {"pause": 2.0}),
    Scenario(name="garbage in the store", rotate="bad_put", **_COMMON),
    Scenario(name="all sessions killed between two transactions", rotate="killed", **_COMMON),
]


class Secrets(Store):
    """A Parameter Store whose parameters are secrets of Secrets Manager too."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.endpoint_url)
        self._secrets: Any = boto3.client("secretsmanager", region_name=REGION, endpoint_url=store.endpoint_url)
        self._names: set[str] = set()

    def put(self, name: str, value: str, kind: str = "SecureString") -> None:
        """Create or overwrite a secret and then a parameter."""
        secret = name.rpartition("/")[2]
        if secret in self._names:
            self._secrets.put_secret_value(SecretId=secret, SecretString=value)
        else:
            self._secrets.create_secret(Name=secret, SecretString=value)
            self._names.add(secret)
        super().put(name, value, kind)


def wrapped(server: AnyServer, driver: str, endpoint: str) -> Callable[["EnvLike", Scenario], Any]:
    """Return what opens the engine of the wrapper."""

    @asynccontextmanager
    async def opened(_: "EnvLike", scenario: Scenario) -> AsyncIterator[Target]:
        plugin = {"wrapper_plugins": "aws_secrets_manager"}
        url = URL.create(driver, host="127.0.0.1", port=server.port, database="app", query=plugin)
        options = {
            "secrets_manager_secret_id": "DATABASE_URL",
            "secrets_manager_region": REGION,
            "secrets_manager_endpoint": endpoint,
            "wrapper_dialect": "pg" if isinstance(server, PostgreSQL) else "mysql",
        }
        engine = create_async_engine(
            url, connect_args=options, pool_pre_ping=True, pool_size=scenario.maxsize, max_overflow=0
        )
        try:
            yield EngineTarget(engine)
        finally:
            await engine.dispose()
            _forget_secrets()

    return opened


def _forget_secrets() -> None:
    # Each scenario has a user of its own, and the wrapper's cache is one for the process.
    services = importlib.import_module("aws_advanced_python_wrapper.utils.services_container")
    services.get_storage_service().clear_all()


def line(name: str, scenario: Scenario, outcome: Outcome) -> str:
    """Return a line of the table."""
    failed, p99 = sum(outcome.failed.values()), quantiles([*outcome.steady, *outcome.near])
    worst = "; ".join(f"{count} {error[:90]}".replace("\n", " ") for error, count in outcome.failed.most_common(2))
    latency = f"{p99[0]:.1f} / {p99[1]:.1f}" if p99 else ""
    lost = outcome.committed - outcome.rows
    return (
        f"| {scenario.name} | {name} | {outcome.rotations} | {outcome.committed:,} | **{failed}** | {lost} |"
        f" {latency} | {outcome.refused} | {worst} |"
    )


async def measure(options: argparse.Namespace, store: Store) -> int:
    """Measure each driver, and print each line when it is there; returns how many transactions of ours failed."""
    print("| scenario | engine | rotations | transactions | failed | lost | p50 / p99, ms | rejected logins | errors |")
    print("| --- | --- |" + " ---: |" * 6 + " --- |")
    servers: dict[str, Callable[[], AbstractAsyncContextManager[AnyServer]]] = {
        "mysql": mariadb,
        "postgresql": postgres,
    }
    sums = {"ours": 0, "wrapper": 0}
    for driver, theirs in DRIVERS.items():
        async with servers[driver.partition("+")[0]]() as server:
            for scenario in [scenario for scenario in SCENARIOS if options.only in scenario.name]:
                engines: dict[str, Any] = {"ours": driver, "wrapper": wrapped(server, theirs, store.endpoint_url)}
                for name, engine in engines.items():
                    outcome = await rotate_under_load(server, scenario, options.rotations, engine, store=store)
                    sums[name] += sum(outcome.failed.values())
                    print(line(f"{name}, {driver}", scenario, outcome), flush=True)
    print(f"\nfailed transactions: {sums}")
    return sums["ours"]


def main() -> int:
    """Measure everything, and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description="RotatingEngine beside aws-advanced-python-wrapper.")
    parser.add_argument("--rotations", type=int, default=12, help="of each scenario (default: %(default)s)")
    parser.add_argument("--only", default="", help="scenarios whose name has this in it (default: all)")
    options = parser.parse_args()
    if importlib.util.find_spec("aws_advanced_python_wrapper") is None:
        print("aws-advanced-python-wrapper is not installed: the docstring of this file says how")
        return 0
    # aiomysql leaves a connection whose login was cancelled to the garbage collector, which warns.
    warnings.filterwarnings("ignore", "Unclosed connection", ResourceWarning)
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSM_"))]:
        del os.environ[name]
    with embedded_store() as store:
        os.environ |= store.environment
        return bool(asyncio.run(measure(options, Secrets(store))))


if __name__ == "__main__":
    sys.exit(main())
