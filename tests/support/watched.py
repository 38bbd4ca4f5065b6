"""`aiossmenv exec --watch` as a program, and what its command writes."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from command import aiossmenv
from embedded import Store


class Watched:
    """A running `aiossmenv exec --watch`, whose output goes to files."""

    def __init__(self, folder: Path, *arguments: str, before: Sequence[str] = ()) -> None:
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            command = aiossmenv("exec", "--watch", *arguments)
            self.process = subprocess.Popen([*before, *command], stdout=out, stderr=err)

    @property
    def lines(self) -> list[str]:
        """What the command has written."""
        return self.out.read_text().splitlines()

    async def until(self, condition: Callable[[list[str]], bool], seconds: float = 20) -> list[str]:
        """Wait until *condition* holds for what the command has written."""
        end = time.monotonic() + seconds
        while not condition(self.lines):
            assert self.process.poll() is None, (self.lines, self.err.read_text())
            assert time.monotonic() < end, (self.lines, self.err.read_text())
            await asyncio.sleep(0.01)
        return self.lines

    async def ended(self) -> int:
        """Wait until it ends, and return its status."""
        return await asyncio.to_thread(self.process.wait, 20)


@contextlib.asynccontextmanager
async def watched(folder: Path, *arguments: str, before: Sequence[str] = ()) -> AsyncIterator[Watched]:
    """Run `aiossmenv exec --watch` for as long as the block runs; *before*: a program that executes it."""
    running = Watched(folder, *arguments, before=before)
    try:
        yield running
    finally:
        running.process.terminate()
        await running.ended()


async def put(ssm: Store, **values: str) -> None:
    """Write parameters below /APP one after the other."""
    for name, value in values.items():
        await asyncio.to_thread(ssm.put, f"/APP/{name}", value)


async def rotate(ssm: Store, folder: Path, rotations: int) -> list[str]:
    """
    Rotate two parameters under a service in sh, and return what each of its starts says: `A B`.

    Between the two writes the first one is read by itself.
    """
    service = 'trap "exit 0" TERM; echo "$A $B"; while :; do sleep 0.01; done'
    await put(ssm, A="0", B="0")
    async with watched(folder, "--ttl", "0.03", "--quiet", "0.06", "/APP", "--", "sh", "-c", service) as running:
        for number in map(str, range(rotations + 1)):
            if number != "0":
                await put(ssm, A=number)
                await asyncio.sleep(0.03)
                await put(ssm, B=number)
            last = f"{number} {number}"
            await running.until(lambda lines, last=last: lines[-1:] == [last])  # type: ignore[misc] # a loop variable
        return running.lines
