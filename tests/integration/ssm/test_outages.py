"""`ensure_fresh` in an outage: it returns the last good values within its deadline, backs off, and does not raise."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from math import ceil
from typing import TypeVar

import pytest

from aiossmenv import AccessDenied, Env, ParameterStore, StaleEnv, StoreUnavailable, Throttled, load_env
from aiossmenv.testing import ManualClock, MemoryStore
from embedded import Store
from faults import Fault, FaultProxy, error, hang, raw, reset, throttled
from timing import our_tasks

T = TypeVar("T")

OUTAGES: dict[str, tuple[Callable[[MemoryStore], None], type[Exception]]] = {
    "down": (MemoryStore.fail, StoreUnavailable),
    "hanging": (MemoryStore.hang, StoreUnavailable),
    "throttled": (MemoryStore.throttle, Throttled),
    "denied": (lambda store: store.deny("ssm:*"), AccessDenied),
    "emptied": (lambda store: store.remove("/R/A"), Exception),
}


class WrongClock(ManualClock):
    """A clock whose wall time may be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong = timedelta()

    def wall(self) -> datetime:
        """See `Clock`."""
        return super().wall() + self.wrong


async def stepping(clock: ManualClock, work: Coroutine[object, None, T]) -> T:
    """Run *work* while the clock advances in small steps, so that sockets make progress."""
    doing = asyncio.ensure_future(work)
    await clock.advance(0)
    for _ in range(1000):
        if doing.done():
            break
        await asyncio.sleep(0.002)
        await clock.advance(0.0 if doing.done() else 0.05)
    return await doing


async def timed(clock: ManualClock, env: Env, deadline: float = 5.0) -> float:
    """Call `ensure_fresh` while the clock advances, and return how long it took on the clock."""
    began = clock.now()
    assert () == await stepping(clock, env.ensure_fresh(60, deadline))
    return clock.now() - began


@pytest.mark.parametrize("ttl", [None, 60])
@pytest.mark.parametrize("outage", OUTAGES)
async def test_outage(outage: str, ttl: float | None, caplog: pytest.LogCaptureFixture) -> None:
    """
    In any outage every call returns within its deadline, and most return at once; `status` and one warning have the
    reason.
    """
    clock = ManualClock()
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    async with load_env("/R", ttl=ttl, environ=None, store=store) as env:
        await clock.advance(3600 if ttl is None else 1)
        begin, kind = OUTAGES[outage]
        begin(store)
        for _ in range(30):
            assert await timed(clock, env) <= 5.1
            # Directly after a failed try there is no other.
            assert 0 == await timed(clock, env) or not env.status.failures
            await clock.advance(20)
        status = env.status
        assert isinstance(status.last_error, kind)
        assert "1" == env["A"]
        assert 1 <= status.failures
        if ttl is None:
            warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
            assert ["refresh of /R failed, 1 in a row"] == [text.partition(";")[0] for text in warned]

        store.heal()
        store.set("/R/A", "2")
        await clock.advance(4000)
        await stepping(clock, env.ensure_fresh(60))
        assert ("2", 0, None) == (env["A"], env.status.failures, env.status.last_error)
    assert set() == await our_tasks()


async def test_tries_back_off(clock: ManualClock) -> None:
    """In a long outage tries become rare, about as frequent as with a `ttl` of half a minute."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    store.deny("ssm:*")
    await clock.advance(60)
    store.calls.clear()
    for _ in range(3600):
        await env.ensure_fresh(60)
        await clock.advance(1)
    # If reads by name are denied, each try also lists.
    assert len(store.calls) <= 2 * (3600 / 15 + 8)
    assert env.status.failures >= 100


async def test_next_try_is_in_the_status(clock: ManualClock) -> None:
    """Without a `ttl` too, `next_refresh` says after a failure when the next try may happen."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    before = env.status
    assert before.next_refresh is None
    store.deny("ssm:*")
    await clock.advance(60)
    await env.ensure_fresh(60)
    left = env.status.next_refresh
    assert left is not None
    assert 0 < left <= 1
    store.heal()
    store.calls.clear()

    assert () == await env.ensure_fresh(60)
    assert [] == store.calls
    await clock.advance(left)
    await env.ensure_fresh(60)
    assert 0 == env.status.failures
    assert env.status.next_refresh is None


async def test_values_beyond_max_stale_raise(clock: ManualClock) -> None:
    """Values older than `max_stale` raise, in the failed try and at once until the next one."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, max_stale=600, store=store)
    store.fail()
    await clock.advance(100)
    assert () == await stepping(clock, env.ensure_fresh(60))
    await clock.advance(600)
    for _ in range(3):
        with pytest.raises(StaleEnv, match="7.. s old"):
            await stepping(clock, env.ensure_fresh(60))


@pytest.mark.parametrize("deadline", [0.5, 2, 20])
async def test_deadline_is_the_callers(clock: ManualClock, deadline: float) -> None:
    """A call waits as long as its deadline allows, and no longer than the read's own deadline."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, deadline=10, store=store)
    store.hang()
    await clock.advance(60)

    took = await timed(clock, env, deadline)

    assert 0.8 * min(deadline, 10) <= took <= min(deadline, 10) + 0.1


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
async def test_invalid_deadline(clock: ManualClock, bad: float) -> None:
    """An invalid deadline is rejected."""
    env = await load_env("/R", environ=None, store=MemoryStore({"/R/A": "1"}, clock=clock))
    with pytest.raises(ValueError, match="deadline is a number of seconds above 0"):
        await env.ensure_fresh(60, bad)


async def test_callers_share_the_outage(clock: ManualClock) -> None:
    """Many callers share one try, and one cancelled caller does not end it for the others."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    await clock.advance(60)
    store.hang(1)
    store.set("/R/A", "2")
    callers = [asyncio.create_task(env.ensure_fresh(60, 20)) for _ in range(50)]
    await clock.advance(1)
    store.calls.clear()
    for caller in callers[::2]:
        caller.cancel()
    await clock.advance(30)

    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert {"A"} == {change.key for result in results[1::2] if isinstance(result, tuple) for change in result}
    assert "2" == env["A"]
    assert 0 == env.status.failures


@pytest.mark.parametrize("keys", [(), ("A",)])
async def test_hanging_refresh_does_not_delay_callers(clock: ManualClock, keys: tuple[str, ...]) -> None:
    """If another refresh hangs, of everything or of some keys, a caller waits no longer than its deadline."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    await clock.advance(60)
    store.hang()
    other = asyncio.create_task(env.refresh(*keys))
    await clock.advance(1)

    waiting = [asyncio.create_task(env.ensure_fresh(60)) for _ in range(50)]
    assert await timed(clock, env) <= 5.1
    assert [()] * 50 == await asyncio.gather(*waiting)
    assert 1 == env.status.failures
    assert not other.done()
    other.cancel()


async def test_close_while_waiting(clock: ManualClock) -> None:
    """A call that waits when the `Env` closes raises."""
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    await clock.advance(60)
    store.hang()
    waiting = asyncio.create_task(env.ensure_fresh(60))
    await clock.advance(1)
    await env.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await waiting


async def test_long_freeze_ends_the_backing_off() -> None:
    """The time for which the process was frozen counts for the backoff: the first call after it tries again."""
    clock = WrongClock()
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, store=store)
    store.fail()
    for _ in range(10):
        await clock.advance(60)
        await stepping(clock, env.ensure_fresh(60))
    assert env.status.next_refresh
    store.heal()
    store.set("/R/A", "2")
    clock.wrong += timedelta(hours=1)

    assert ["A"] == [change.key for change in await env.ensure_fresh(60)]


@pytest.mark.parametrize("hours", [2, 24 * 365 * 10])
@pytest.mark.parametrize("ttl", [None, 600])
async def test_wrong_wall_time(hours: float, ttl: float | None) -> None:
    """A wrong wall time makes values look old only as long as it is wrong."""
    clock = WrongClock()
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    async with load_env("/R", ttl=ttl, environ=None, max_stale=1200, store=store) as env:
        await clock.advance(100)
        clock.wrong = timedelta(hours=hours)
        with pytest.raises(StaleEnv):
            env["A"]
        assert hours * 3600 + 100 == env.status.age
        clock.wrong = timedelta()
        assert "1" == env["A"]
        assert 100 == env.status.age

        clock.wrong = timedelta(hours=-hours)
        assert (100, "1") == (env.status.age, env["A"])


async def test_read_with_wrong_wall_time() -> None:
    """Values that were read under a wrong wall time age by the monotonic clock once the wall time is right."""
    clock = WrongClock()
    store = MemoryStore({"/R/A": "1"}, clock=clock)
    env = await load_env("/R", environ=None, max_stale=600, store=store)
    clock.wrong = timedelta(days=1)
    await env.ensure_fresh(60)
    assert 0 == env.status.age
    clock.wrong = timedelta()
    await clock.advance(70)
    assert (70, "1") == (env.status.age, env["A"])
    await env.ensure_fresh(60)
    assert 0 == env.status.age


async def test_revoked_key_is_not_decrypted_at_each_try(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """
    A revalidation that fails because of a revoked key is reported, and later tries do not decrypt everything again.
    """
    store = MemoryStore({f"/R/K{number}": "1" for number in range(9)}, clock=clock)
    async with load_env("/R", ttl=60, revalidate_interval=600, environ=None, store=store) as env:
        store.deny("kms:Decrypt", "/R/K3")
        await clock.advance(600)
        assert "DecryptionFailed" in caplog.text
        store.calls.clear()
        await clock.advance(3000)
        decrypting = sum(call.action == "ssm:GetParametersByPath" and call.decrypt for call in store.calls)
        assert 1 <= decrypting <= ceil(3000 / (0.8 * 300))
        assert 9 == len(env)


WIRE: dict[str, Fault] = {
    "hanging": hang(),
    "reset": reset(rst=True),
    "server errors": error("InternalServerError", status=500),
    "not json": raw(b"<html>"),
    "denied": error("AccessDeniedException", "User: x is not authorized to perform: ssm:* on resource: *"),
    "throttled": throttled(),
}


@pytest.mark.parametrize("fault", WIRE)
async def test_over_http(ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock, fault: str) -> None:
    """The same over real HTTP with open connections: the last good values in time, and new values afterwards."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", environ=None, store=store)
    await clock.advance(3600)
    proxy.add(WIRE[fault])
    for _ in range(5):
        assert await timed(clock, env) <= 5.1
    assert 1 <= env.status.failures <= 2
    assert "1" == env["A"]

    proxy.clear()
    ssm.put("/R/A", "2")
    await clock.advance(60)
    assert ["A"] == [change.key for change in await stepping(clock, env.ensure_fresh(60))]
