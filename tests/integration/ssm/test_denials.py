"""A denied operation has a fallback, and the denial is remembered until the next listing, never forever."""

import asyncio
import logging
from collections import Counter
from math import ceil

import pytest

from aiossmenv import AccessDenied, Env, ParameterStore, load_env
from aiossmenv.testing import ManualClock, MemoryStore
from embedded import Store
from faults import FaultProxy, error
from timing import eventually

LIST, BATCH, SINGLE = "ssm:GetParametersByPath", "ssm:GetParameters", "ssm:GetParameter"


def filled(clock: ManualClock, count: int = 25) -> MemoryStore:
    """Return a store with this many secrets under /R, on *clock*."""
    return MemoryStore({f"/R/K{number:04d}": "1" for number in range(count)}, clock=clock)


def actions(store: MemoryStore) -> Counter[str]:
    """Return how often each action was requested since the last call."""
    asked = Counter(call.action for call in store.calls)
    store.calls.clear()
    return asked


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says about permissions: `lost` and `back`."""
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    return ["lost" if "lacks a right" in text else "back" for text in texts if "right" in text or "again" in text]


@pytest.mark.parametrize("denied", [(BATCH,), (BATCH, SINGLE)])
@pytest.mark.parametrize("list_interval", [300, 3600])
async def test_temporary_denial_ends_with_the_next_listing(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, denied: tuple[str, ...], list_interval: float
) -> None:
    """
    A permission that returns is used again after the next scheduled listing; its loss and its return are logged once.
    """
    caplog.set_level(logging.INFO, "aiossmenv")
    store = filled(clock)
    async with load_env("/R", ttl=60, list_interval=list_interval, environ=None, store=store) as env:
        for action in denied:
            store.deny(action)
        await clock.advance(120)
        assert ["lost"] == logged(caplog)
        assert LIST in actions(store)

        store.heal()
        store.set("/R/K0000", "2")
        await clock.advance(list_interval + 120)
        assert "2" == env["K0000"]
        actions(store)

        await clock.advance(180)
        assert actions(store)[BATCH]
    assert ["lost", "back"] == logged(caplog)


async def test_temporary_denial_of_single_reads_ends(clock: ManualClock) -> None:
    """A denial of GetParameter ends like one of GetParameters, even if both were denied together."""
    store = filled(clock)
    async with load_env("/R", ttl=60, environ=None, store=store):
        store.deny(BATCH)
        store.deny(SINGLE)
        await clock.advance(60)
        store.set("/R/K0001", "2")
        await clock.advance(60)
        store.heal()
        store.deny(BATCH)
        await clock.advance(420)
        actions(store)

        store.set("/R/K0001", "3")
        await clock.advance(60)
        assert 1 == actions(store)[SINGLE]


@pytest.mark.parametrize(("count", "ttl", "list_interval"), [(450, 60, None), (25, 60, 3600), (25, 600, 1800)])
async def test_lasting_denial_costs_one_request_per_listing(
    clock: ManualClock, count: int, ttl: float, list_interval: float | None
) -> None:
    """However many names there are, a missing permission is requested once in each listing interval."""
    store = filled(clock, count)
    async with load_env("/R", ttl=ttl, list_interval=list_interval, environ=None, store=store) as env:
        store.deny(BATCH)
        # The first denied poll already has as many requests in flight as the limiter allows.
        await clock.advance(2 * ttl)
        assert actions(store)[BATCH] <= 20

        interval = list_interval or 5 * ttl
        await clock.advance(10 * interval)
        assert 1 <= actions(store)[BATCH] <= ceil(10 / 0.8)
        assert 0 == env.status.failures


@pytest.mark.parametrize("list_interval", [None, 300])
async def test_total_denial_is_not_recorded(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, list_interval: float | None
) -> None:
    """If every operation is denied, the credentials are wrong: the next allowed refresh reads by name."""
    caplog.set_level(logging.INFO, "aiossmenv")
    store = filled(clock)
    async with load_env("/R", ttl=60, list_interval=list_interval, environ=None, store=store) as env:
        store.deny("ssm:*")
        await clock.advance(150)
        assert isinstance(env.status.last_error, AccessDenied)
        store.heal()
        actions(store)

        await clock.advance(env.status.next_refresh or 0)
        assert 0 == env.status.failures
        assert {BATCH} == actions(store).keys()
    assert [] == logged(caplog)


async def test_denial_in_a_failed_read_is_not_recorded(clock: ManualClock) -> None:
    """A denial is recorded only if the fallback succeeds."""
    store = filled(clock)
    async with load_env("/R", ttl=60, environ=None, deadline=1, store=store) as env:
        store.deny(BATCH)
        await clock.advance(50)
        actions(store)
        store.fail()
        await clock.advance(60)
        assert env.status.failures
        store.heal()
        actions(store)

        await clock.advance(400)
        actions(store)
        await clock.advance(120)
        assert actions(store)[BATCH]


@pytest.mark.parametrize("keys", [["K0000", "K0001", "K0002"], [f"K{number:04d}" for number in range(25)]])
async def test_known_keys_return_to_batches(clock: ManualClock, keys: list[str]) -> None:
    """With `keys` too, a denial in the first load expires, and costs one request until then."""
    store = filled(clock)
    store.deny(BATCH)
    async with load_env("/R", keys=keys, ttl=60, environ=None, store=store):
        actions(store)
        await clock.advance(1500)
        assert 1 <= actions(store)[BATCH] <= ceil(5 / 0.8)

        store.heal()
        await clock.advance(420)
        actions(store)
        await clock.advance(60)
        assert {BATCH} == actions(store).keys()


async def test_denials_of_a_store_without_env_expire(clock: ManualClock) -> None:
    """Single reads of a store without an `Env` are batched again some minutes after the permission returns."""
    store = filled(clock)
    names = [f"/R/K{number:04d}" for number in range(3)]
    store.deny(BATCH)
    for _ in range(8):
        await store.get_many(names)
        await clock.advance(61)
    assert {BATCH: 2, SINGLE: 24} == actions(store)

    store.heal()
    await clock.advance(300)
    await store.get_many(names)
    assert {BATCH: 1} == actions(store)
    await store.aclose()


async def test_denials_of_an_env_without_intervals_expire(clock: ManualClock) -> None:
    """An `Env` without scheduled listings forgets a denial after some minutes."""
    store = filled(clock)
    env = await load_env("/R", environ=None, store=store)
    store.deny(BATCH)
    await clock.advance(60)
    await env.ensure_fresh(60)
    store.heal()
    await clock.advance(600)
    actions(store)

    await env.ensure_fresh(60)
    assert {BATCH} == actions(store).keys()


async def test_envs_share_denials(clock: ManualClock) -> None:
    """Several `Env`s of one store request a missing permission no more often than each of them lists."""
    store = filled(clock)
    async with (
        load_env("/R", ttl=60, list_interval=300, environ=None, store=store),
        load_env("/R", ttl=60, list_interval=3600, environ=None, store=store),
    ):
        store.deny(BATCH)
        await clock.advance(120)
        actions(store)
        await clock.advance(3600)
        assert 1 <= actions(store)[BATCH] <= ceil(12 / 0.8) + ceil(1 / 0.8)


async def test_over_http(ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock) -> None:
    """
    A temporary denial of GetParameters causes listings until the next scheduled one; after that polls read by name.
    """
    for number in range(12):
        ssm.put(f"/R/S{number:02d}", "1")

    async def refreshed(env: Env) -> None:
        """Wait for the next refresh."""
        done = env.status.refreshes
        await clock.advance(env.status.next_refresh or 0)
        await eventually(lambda: env.status.refreshes > done)

    async with load_env("/R", ttl=60, list_interval=150, environ=None, store=store) as env:
        text = "User: arn:aws:iam::1:user/u is not authorized to perform: ssm:GetParameters on resource: *"
        proxy.add(error("AccessDeniedException", text), operation="GetParameters", times=2)
        for _ in range(6):
            await refreshed(env)
        proxy.clear()
        await refreshed(env)
        await refreshed(env)
        assert 0 == env.status.failures
        assert proxy.count("GetParameters")


async def test_concurrent_reads_after_a_denial_expires(clock: ManualClock) -> None:
    """Concurrent reads that try a denied operation again all complete."""
    store = filled(clock, 100)
    async with load_env("/R", ttl=3600, environ=None, store=store) as env:
        store.deny(BATCH)
        await env.refresh(*env)
        await clock.advance(20_000)
        reads = [env.refresh(*[f"K{number:04d}" for number in range(first, first + 12)]) for first in range(0, 96, 12)]
        gets = [store.get(f"/R/K{number:04d}") for number in range(0, 100, 7)]
        assert all(parameter.value == "1" for parameter in await asyncio.gather(*gets))
        assert [()] * len(reads) == await asyncio.gather(*reads)
