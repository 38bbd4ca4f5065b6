"""Loading over the wire: what ends up in the environment, and what does not."""

import asyncio
import os
import random

from aiossmenv import load_env
from embedded import Store
from faults import FaultProxy, ragged_pages


async def test_ragged_pages_load_exactly(ssm: Store, proxy: FaultProxy) -> None:
    """237 parameters over short and empty pages load exactly."""
    wanted = {f"KEY_{n:03d}": f"value {n}" for n in range(237)}
    async with asyncio.TaskGroup() as group:
        for key, value in wanted.items():
            group.create_task(asyncio.to_thread(ssm.put, f"/FAKEBOOK/TEST/{key}", value))
    proxy.add(ragged_pages(random.Random(237).random))

    env = await load_env("/FAKEBOOK/TEST/")

    assert wanted == dict(env)
    assert wanted == {key: os.environ[key] for key in wanted}
    assert proxy.count("GetParametersByPath") > 40
