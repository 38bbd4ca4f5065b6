"""The event loop on which the tests run."""

import asyncio
import os


async def test_loop() -> None:
    """The loop is of the type that TEST_LOOP names."""
    expected = os.environ.get("TEST_LOOP", "asyncio")

    assert expected == type(asyncio.get_running_loop()).__module__.partition(".")[0]
