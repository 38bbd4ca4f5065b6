"""Defaults that the README and the package's docstring state, through public names only."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from aiossmenv import MissingParameters, load_env
from aiossmenv.testing import ManualClock, MemoryStore

PATH = "/FAKEBOOK/TEST"
TTL = 60.0
# The longest time between two refreshes, in seconds.
LATEST = 0.95 * TTL


async def test_default_listing_interval() -> None:
    """By default the first refresh after 80 to 95 % of five TTLs is a listing."""
    clock = ManualClock()
    store = MemoryStore({f"{PATH}/DB_URL": "db.test"}, clock=clock)
    listed: list[float] = []

    async with load_env(PATH, ttl=TTL, environ=None, store=store):
        for _ in range(4000):
            before = len(store.calls)
            await clock.advance(1)
            if any(call.action == "ssm:GetParametersByPath" for call in store.calls[before:]):
                listed.append(clock.now())

    gaps = [later - earlier for earlier, later in pairwise(listed)]
    assert len(gaps) > 8
    assert all(0.8 * 5 * TTL - 1 <= gap <= 0.95 * 5 * TTL + LATEST + 1 for gap in gaps)


async def test_default_revalidation_interval() -> None:
    """By default everything is decrypted again after 80 to 95 % of 12 hours, and not earlier."""
    clock = ManualClock()
    store = MemoryStore({f"{PATH}/DB_URL": "db.test", f"{PATH}/DB_USER": "app"}, clock=clock)

    async with load_env(PATH, ttl=TTL, environ=None, store=store):
        await clock.advance(0.8 * 43_200)
        assert 2 == store.decrypted
        await clock.advance(0.15 * 43_200 + LATEST)
        assert 4 == store.decrypted


async def test_refresh_without_a_required_key_changes_nothing() -> None:
    """The second refresh in a row that misses a required key fails: all values stay, and `status` names the key."""
    clock = ManualClock()
    store = MemoryStore({f"{PATH}/DB_URL": "db.test", f"{PATH}/DB_USER": "app"}, clock=clock)
    environ: dict[str, str] = {}

    async with load_env(PATH, ttl=TTL, required=["DB_USER"], environ=environ, store=store) as env:
        store.remove(f"{PATH}/DB_USER")
        await clock.advance(LATEST)
        assert (1, None) == (env.status.refreshes, env.status.last_error)
        store.set(f"{PATH}/DB_URL", "new.test")
        await clock.advance(10 * TTL)

        assert isinstance(env.status.last_error, MissingParameters)
        assert ("DB_USER",) == env.status.last_error.keys
        assert not env.status.fresh
        assert {"DB_URL": "db.test", "DB_USER": "app"} == environ == dict(env)


# The program prints the files that it opens for writing; with -B, imports write none.
_SERVICE = """
import asyncio, os, sys

written = []


def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(str(arguments[0]))


sys.addaudithook(watch)
from aiossmenv import load_env


async def main():
    async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:
        await env.refresh()
        await env.refresh("DB_PASSWORD")


asyncio.run(main())
print(written)
"""


def test_nothing_is_written_to_a_file(tmp_path: Path) -> None:
    """A process that loads and refreshes over HTTP opens no file for writing."""
    (tmp_path / "service.py").write_text(_SERVICE)
    demo = Path(__file__).parents[3] / "examples" / "demo.py"

    done = subprocess.run(
        [sys.executable, str(demo), "--mimic", sys.executable, "-B", str(tmp_path / "service.py")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert "" == done.stderr
    assert ["[]"] == done.stdout.splitlines()[1:]
