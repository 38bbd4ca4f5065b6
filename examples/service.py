"""
A service that queries MySQL all the time; no query fails when its password changes.

Run it until an interrupt: `SSM_PATH=/FAKEBOOK/TEST/ python service.py`.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from aiossmenv import Change, load_env
from aiossmenv.mysql import RotatingPool

log = logging.getLogger("service")


@dataclass
class Tally:
    """What the workers did. *longest*: seconds of the slowest query, with its wait for a connection."""

    queries: int = 0
    failed: int = 0
    longest: float = 0.0
    generations: int = 0


def report(change: Change) -> None:
    """Log that a parameter changed, without its value."""
    version = f"version {change.new.version}" if change.new else "gone"
    log.info("%s is %s: now %s", change.key, change.kind, version)


async def work(pool: RotatingPool, tally: Tally) -> None:
    """Send queries until cancelled."""
    while True:
        began = time.perf_counter()
        try:
            async with pool.cursor() as cursor:
                await cursor.execute("SELECT 6 * 7")
                await cursor.fetchone()
        except Exception:
            tally.failed += 1
            log.exception("a query failed")
        tally.queries += 1
        tally.longest = max(tally.longest, time.perf_counter() - began)
        tally.generations = pool.generation
        await asyncio.sleep(0.01)


async def serve(tally: Tally, *, ttl: float = 60.0, workers: int = 8) -> None:
    """Run the service until cancelled."""
    async with load_env(ttl=ttl) as env, RotatingPool(env, maxsize=5, minsize=2) as pool:
        env.on_change(report)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work(pool, tally))


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("aiossmenv").setLevel(logging.INFO)
    log.setLevel(logging.INFO)
    asyncio.run(serve(Tally()))
