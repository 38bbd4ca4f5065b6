"""A store that closes while it connects or reads leaves nothing open."""

import asyncio
import gc
import os
import warnings

import pytest

from aiossmenv import ParameterStore, load_env
from embedded import Store


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("how", ["closed", "cancelled", "closed twice", "read by an Env"])
def test_close_while_connecting(moto: Store, how: str, seconds: float) -> None:
    """If a store closes or its reader is cancelled, at any moment of the connect, nothing stays open."""
    os.environ |= moto.environment
    moto.put("/CLOSING/A", "1")

    async def main() -> None:
        store = ParameterStore()
        reading: asyncio.Future[object] = asyncio.ensure_future(
            load_env("/CLOSING", environ=None, store=store) if how == "read by an Env" else store.get("/CLOSING/A")
        )
        await asyncio.sleep(seconds)
        if how == "cancelled":
            reading.cancel()
        else:
            await store.aclose()
        if how == "closed twice":
            await store.aclose()
        await asyncio.gather(reading, return_exceptions=True)
        if how in {"cancelled", "closed twice"}:
            await store.aclose()

    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    moto.delete("/CLOSING/A")
    assert [] == [str(warning.message) for warning in reported]


async def test_load_continues_after_another_task_closes_the_store(ssm: Store) -> None:
    """If another task closes the store of a load, the load connects again and succeeds."""
    ssm.put("/R/A", "1")
    store = ParameterStore()
    loading = asyncio.ensure_future(load_env("/R", environ=None, store=store))
    await asyncio.sleep(0.01)
    await store.aclose()

    assert {"A": "1"} == dict(await loading)
