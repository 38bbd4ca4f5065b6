"""A refresh returns values that are newer than its call: which calls share a read, and how long a call waits."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from aiossmenv import Env, ParameterStore, load_env
from aiossmenv.testing import ManualClock, MemoryStore
from embedded import Store
from faults import Call, Fault, FaultProxy, passed_on
from timing import eventually, settle

REFRESHES: dict[str, Callable[[Env], Awaitable[object]]] = {
    "everything": lambda env: env.refresh(),
    "one key": lambda env: env.refresh("A"),
    "two keys": lambda env: env.refresh("A", "B"),
    "a missing key": lambda env: env.refresh("A", "NONE"),
    "a gap": lambda env: env.refresh("A", min_gap=0.001),
}


def delayed() -> tuple[Fault, asyncio.Event]:
    """Return a fault that reads at once and answers when the event is set."""
    answer = asyncio.Event()

    async def fault(call: Call, forward: Any) -> web.StreamResponse:
        response = await passed_on(call, forward)
        await answer.wait()
        return response

    return fault, answer


@pytest.mark.parametrize("second", REFRESHES)
@pytest.mark.parametrize("first", REFRESHES)
async def test_refresh_is_newer_than_its_call(ssm: Store, proxy: FaultProxy, first: str, second: str) -> None:
    """A refresh returns every value that was written before its call, whatever else is in flight."""
    for key in "AB":
        ssm.put(f"/R/{key}", "old")
    async with ParameterStore() as store:
        env = await load_env("/R", environ=None, store=store)
        await asyncio.sleep(0.002)
        fault, answer = delayed()
        proxy.add(fault, times=1)
        proxy.calls.clear()
        under_way = asyncio.ensure_future(REFRESHES[first](env))
        await eventually(proxy.count)
        await asyncio.sleep(0.05)

        await asyncio.to_thread(ssm.put, "/R/A", "new")
        asked = asyncio.ensure_future(REFRESHES[second](env))
        await asyncio.sleep(0.01)
        answer.set()
        await asked
        assert "new" == env["A"]
        await under_way


async def test_later_callers_share_one_more_refresh(ssm: Store, proxy: FaultProxy) -> None:
    """Callers before the first request share a refresh; all callers during it share exactly one more."""
    ssm.put("/R/A", "1")
    async with ParameterStore() as store:
        env = await load_env("/R", environ=None, store=store)
        fault, answer = delayed()
        proxy.add(fault, times=1)
        proxy.calls.clear()
        first = [asyncio.create_task(env.refresh()) for _ in range(10)]
        await eventually(proxy.count)
        second = [asyncio.create_task(env.refresh()) for _ in range(10)]
        await asyncio.sleep(0.05)
        second += [asyncio.create_task(env.refresh("A")) for _ in range(10)]
        await asyncio.sleep(0.05)
        assert 1 == proxy.count()
        answer.set()
        await asyncio.gather(*first, *second)
        assert 2 == proxy.count()


async def test_cancelled_caller_of_a_shared_refresh(ssm: Store, proxy: FaultProxy) -> None:
    """A refresh that waits for its turn continues for the others if the caller that started it is cancelled."""
    ssm.put("/R/A", "1")
    async with ParameterStore() as store:
        env = await load_env("/R", environ=None, store=store)
        fault, answer = delayed()
        proxy.add(fault, times=1)
        proxy.calls.clear()
        first = asyncio.create_task(env.refresh())
        await eventually(proxy.count)
        second = [asyncio.create_task(env.refresh()) for _ in range(3)]
        await settle()
        await asyncio.to_thread(ssm.put, "/R/A", "2")
        second[0].cancel()
        first.cancel()
        answer.set()
        assert ["A"] == [change.key for change in await second[1]]
        assert "2" == env["A"]


async def test_failure_belongs_to_earlier_callers(ssm: Store, proxy: FaultProxy, clock: ManualClock) -> None:
    """The error of a failed refresh is not raised to callers that called while it was in flight."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, deadline=5, store=store)
    store.hang(1)
    first = asyncio.create_task(env.refresh())
    await clock.advance(1)
    second = asyncio.create_task(env.refresh())
    await clock.advance(10)
    with pytest.raises(Exception, match="deadline"):
        await first
    assert () == await second


@pytest.mark.parametrize("ttl", [1, 10, 60, 3600])
@pytest.mark.parametrize("list_interval", [None, 1e6])
@pytest.mark.parametrize("keys", [(), ("A",), ("NONE",)])
@pytest.mark.parametrize("gap", [0.25, 30])
async def test_polls_do_not_delay_waiting_callers(
    clock: ManualClock, ttl: float, list_interval: float | None, keys: tuple[str, ...], gap: float
) -> None:
    """A caller with `min_gap` waits no longer than the gap, however often the background refreshes."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    async with load_env("/R", ttl=ttl, list_interval=list_interval, environ=None, store=store) as env:
        await clock.advance(17)
        store.set("/R/A", "2")
        waiting = asyncio.create_task(env.refresh(*keys, min_gap=gap))
        await clock.advance(gap)
        assert waiting.done()
        await waiting
        assert "2" == env["A"]


@pytest.mark.parametrize("keys", [(), ("A",)])
async def test_min_gap_is_kept(clock: ManualClock, keys: tuple[str, ...]) -> None:
    """Forced refreshes of any number of callers start `min_gap` apart."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    await clock.advance(100)
    store.calls.clear()
    began: list[float] = []

    async def insist() -> None:
        for _ in range(5):
            await env.refresh(*keys, min_gap=2)
            began.append(clock.now())
            await clock.sleep(0.3)

    callers = [asyncio.create_task(insist()) for _ in range(4)]
    await clock.advance(60)
    await asyncio.gather(*callers)
    times = sorted(set(began))
    assert all(later - earlier >= 2 for earlier, later in pairwise(times))
    assert len(store.calls) == len(times) <= 6


@pytest.mark.parametrize("gap", [0, 5, 30])
async def test_key_removed_meanwhile(clock: ManualClock, gap: float) -> None:
    """A key that disappears while its refresh waits causes a listing, like a key that does not exist."""
    store = MemoryStore({"/R/A": "1", "/R/B": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    store.remove("/R/A")
    await env.refresh()
    store.hang(1)
    other = asyncio.create_task(env.refresh())
    await clock.advance(1)
    waiting = asyncio.create_task(env.refresh("A", min_gap=gap))
    store.set("/R/C", "found by a listing")
    await clock.advance(60)

    await other
    await waiting
    assert {"B": "1", "C": "found by a listing"} == dict(env)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("how", ["closed", "cancelled", "closed before"])
async def test_interrupted_get(ssm: Store, proxy: FaultProxy, store: ParameterStore, how: str, turns: int) -> None:
    """If a read of a name was closed or cancelled at any moment, the next read does not request that name."""
    ssm.put("/G/A", "1")
    ssm.put("/G/B", "1")
    under_way = asyncio.create_task(store.get("/G/A"))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(store.aclose()) if how == "closed before" else None
    for _ in range(turns if closing else 0):
        await asyncio.sleep(0)
    cut_off = asyncio.create_task(store.get("/G/NONE"))
    for _ in range(0 if closing else turns):
        await asyncio.sleep(0)
    if how == "cancelled":
        cut_off.cancel()
    await (closing or store.aclose())
    await asyncio.gather(under_way, cut_off, return_exceptions=True)
    proxy.calls.clear()

    assert ["1", "1"] == [parameter.value for parameter in (await store.get_many(["/G/A:1", "/G/B"])).values()]
    assert [["/G/A:1", "/G/B"]] == [sorted(call.body["Names"]) for call in proxy.calls]
