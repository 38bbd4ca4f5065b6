"""What you ask for is newer than your question: which refreshes are shared, and how long one waits for its turn."""

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
    "a key that is not there": lambda env: env.refresh("A", "NONE"),
    "a gap": lambda env: env.refresh("A", min_gap=0.001),
}


def held_back() -> tuple[Fault, asyncio.Event]:
    """Return a fault that reads at once and answers when the event is set."""
    answer = asyncio.Event()

    async def fault(call: Call, forward: Any) -> web.StreamResponse:
        response = await passed_on(call, forward)
        await answer.wait()
        return response

    return fault, answer


@pytest.mark.parametrize("second", REFRESHES)
@pytest.mark.parametrize("first", REFRESHES)
async def test_refresh_is_newer_than_the_question(ssm: Store, proxy: FaultProxy, first: str, second: str) -> None:
    """A value that was written before a refresh was asked for is in what it gives, whatever is under way meanwhile."""
    for key in "AB":
        ssm.put(f"/R/{key}", "old")
    async with ParameterStore() as store:
        env = await load_env("/R", environ=None, store=store)
        await asyncio.sleep(0.002)
        fault, answer = held_back()
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


async def test_callers_since_share_one_more(ssm: Store, proxy: FaultProxy) -> None:
    """Callers before the first request share a refresh; all who come while it is under way share exactly one more."""
    ssm.put("/R/A", "1")
    async with ParameterStore() as store:
        env = await load_env("/R", environ=None, store=store)
        fault, answer = held_back()
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


async def test_one_of_those_who_share_is_cancelled(ssm: Store, proxy: FaultProxy) -> None:
    """The refresh that waits for its turn stays for the others when the one who began it is cancelled."""
    ssm.put("/R/A", "1")
    async with ParameterStore() as store:
        env = await load_env("/R", environ=None, store=store)
        fault, answer = held_back()
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


async def test_failure_is_of_those_who_asked_before(ssm: Store, proxy: FaultProxy, clock: ManualClock) -> None:
    """A refresh that fails is not the error of those who asked while it was under way."""
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
async def test_polls_do_not_put_off_who_waits(
    clock: ManualClock, ttl: float, list_interval: float | None, keys: tuple[str, ...], gap: float
) -> None:
    """Who keeps a distance waits no longer than that, however often there are refreshes in the background."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    async with load_env("/R", ttl=ttl, list_interval=list_interval, environ=None, store=store) as env:
        await clock.advance(17)
        store.put("/R/A", "2")
        waiting = asyncio.create_task(env.refresh(*keys, min_gap=gap))
        await clock.advance(gap)
        assert waiting.done()
        await waiting
        assert "2" == env["A"]


@pytest.mark.parametrize("keys", [(), ("A",)])
async def test_distance_is_kept(clock: ManualClock, keys: tuple[str, ...]) -> None:
    """Forced refreshes of any number of callers begin `min_gap` apart."""
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
async def test_key_that_went_meanwhile(clock: ManualClock, gap: float) -> None:
    """A key that goes while its refresh waits leads to a listing, as one does that is not there."""
    store = MemoryStore({"/R/A": "1", "/R/B": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    store.delete("/R/A")
    await env.refresh()
    store.hang(1)
    other = asyncio.create_task(env.refresh())
    await clock.advance(1)
    waiting = asyncio.create_task(env.refresh("A", min_gap=gap))
    store.put("/R/C", "found by a listing")
    await clock.advance(60)

    await other
    await waiting
    assert {"B": "1", "C": "found by a listing"} == dict(env)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("how", ["closed", "cancelled", "closed before"])
async def test_get_that_was_cut_off(ssm: Store, proxy: FaultProxy, store: ParameterStore, how: str, turns: int) -> None:
    """
    A name whose read was cut off, by closing or cancelling, at any moment, is not asked for with those of the next one.
    """
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
