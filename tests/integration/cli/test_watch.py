"""`aiossmenv exec --watch`: a command that is restarted when its variables change."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from command import aiossmenv
from embedded import Store
from faults import FaultProxy, error

# A service: it says what it was started with, what signals it gets, and ends in its own way.
SERVICE = """
trap 'echo HUP' HUP; trap 'echo USR1' USR1; trap 'echo TERM; exit 3' TERM
echo "start $A $B"
while :; do sleep 0.01; done
"""
QUICK = ("--ttl", "0.05", "--quiet", "0.05")


class Watched:
    """A running `aiossmenv exec --watch`, whose output goes to a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(aiossmenv("exec", "--watch", *arguments), stdout=out, stderr=err)

    @property
    def lines(self) -> list[str]:
        """What the command has written."""
        return self.out.read_text().splitlines()

    async def until(self, condition: Callable[[list[str]], bool], seconds: float = 15) -> list[str]:
        """Wait until *condition* holds for what the command has written."""
        end = time.monotonic() + seconds
        while not condition(self.lines):
            assert self.process.poll() is None, (self.lines, self.err.read_text())
            assert time.monotonic() < end, (self.lines, self.err.read_text())
            await asyncio.sleep(0.01)
        return self.lines

    async def ended(self) -> int:
        """Wait until it ends, and return its status."""
        return await asyncio.to_thread(self.process.wait, 15)


@contextlib.asynccontextmanager
async def watched(folder: Path, *arguments: str) -> AsyncIterator[Watched]:
    """Run `aiossmenv exec --watch` for as long as the block runs."""
    running = Watched(folder, *arguments)
    try:
        yield running
    finally:
        running.process.terminate()
        await running.ended()


async def put(ssm: Store, **values: str) -> None:
    """Write parameters one after the other."""
    for name, value in values.items():
        await asyncio.to_thread(ssm.put, f"/APP/{name}", value)


async def test_a_change_restarts_the_command(ssm: Store, tmp_path: Path) -> None:
    """It is told to end, and started with the new values; a value that is written again changes nothing."""
    await put(ssm, A="1", B="1")

    async with watched(tmp_path, *QUICK, "/APP", "--", "sh", "-c", SERVICE) as running:
        await running.until(lambda lines: lines == ["start 1 1"])
        await put(ssm, A="1")
        await asyncio.sleep(0.3)
        await put(ssm, A="2")
        lines = await running.until(lambda lines: len(lines) >= 3)
        running.process.send_signal(signal.SIGTERM)
        status = await running.ended()

    assert ["start 1 1", "TERM", "start 2 1"] == lines
    assert 3 == status
    assert "" == running.err.read_text()
