"""The loop that tests run on."""

import asyncio
import os


async def test_loop() -> None:
    """The loop is of the kind that the run was told to use."""
    expected = os.environ.get("TEST_LOOP", "asyncio")

    assert expected == type(asyncio.get_running_loop()).__module__.partition(".")[0]
