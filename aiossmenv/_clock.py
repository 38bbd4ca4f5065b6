"""Time, as the rest of the library sees it."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What tells the time and lets it pass; tests pass in one of their own."""

    def now(self) -> float:
        """Return seconds that never run backwards, from any beginning."""

    def wall(self) -> datetime:
        """Return the time of day, with time zone."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class LoopClock:
    """The time of this machine."""

    now = staticmethod(time.monotonic)

    def wall(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)
