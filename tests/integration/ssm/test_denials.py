"""A right that is missing has a fallback, and a denial is remembered until the next listing, never for ever."""

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

LIST, TENS, SINGLY = "ssm:GetParametersByPath", "ssm:GetParameters", "ssm:GetParameter"


def filled(clock: ManualClock, count: int = 25) -> MemoryStore:
    """Return a store with so many secrets under /R, on *clock*."""
    return MemoryStore({f"/R/K{number:04d}": "1" for number in range(count)}, clock=clock)


def actions(store: MemoryStore) -> Counter[str]:
    """Return how often each action was asked for since this was last called."""
    asked = Counter(call.action for call in store.calls)
    store.calls.clear()
    return asked


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says of rights: `lost` and `back`."""
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    return ["lost" if "lacks a right" in text else "back" for text in texts if "right" in text or "again" in text]


@pytest.mark.parametrize("denied", [(TENS,), (TENS, SINGLY)])
@pytest.mark.parametrize("list_interval", [300, 3600])
async def test_passing_denial_is_forgotten_by_the_next_listing(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, denied: tuple[str, ...], list_interval: float
) -> None:
    """
    A right that is back is used again after the next planned listing, and the log says once that it went and came.
    """
    caplog.set_level(logging.INFO, "aiossmenv")
    store = filled(clock)
    async with load_env("/R", ttl=60, list_interval=list_interval, environ=None, store=store) as env:
        for action in denied:
            store.deny(action)
        await clock.advance(120)
        assert ["lost"] == told(caplog)
        assert LIST in actions(store)

        store.heal()
        store.put("/R/K0000", "2")
        await clock.advance(list_interval + 120)
        assert "2" == env["K0000"]
        actions(store)

        await clock.advance(180)
        assert actions(store)[TENS]
    assert ["lost", "back"] == told(caplog)


async def test_passing_denial_of_single_reads_is_forgotten(clock: ManualClock) -> None:
    """A denial of GetParameter is forgotten as one of GetParameters is, though both are denied when it is met."""
    store = filled(clock)
    async with load_env("/R", ttl=60, environ=None, store=store):
        store.deny(TENS)
        store.deny(SINGLY)
        await clock.advance(60)
        store.put("/R/K0001", "2")
        await clock.advance(60)
        store.heal()
        store.deny(TENS)
        await clock.advance(420)
        actions(store)

        store.put("/R/K0001", "3")
        await clock.advance(60)
        assert 1 == actions(store)[SINGLY]


@pytest.mark.parametrize(("count", "ttl", "list_interval"), [(450, 60, None), (25, 60, 3600), (25, 600, 1800)])
async def test_lasting_denial_costs_one_request_for_each_listing(
    clock: ManualClock, count: int, ttl: float, list_interval: float | None
) -> None:
    """However many names there are, a right that stays away is asked for once in each listing interval."""
    store = filled(clock, count)
    async with load_env("/R", ttl=ttl, list_interval=list_interval, environ=None, store=store) as env:
        store.deny(TENS)
        # The first time nobody knows, and as many are under way as the pace allows.
        await clock.advance(2 * ttl)
        assert actions(store)[TENS] <= 20

        interval = list_interval or 5 * ttl
        await clock.advance(10 * interval)
        assert 1 <= actions(store)[TENS] <= ceil(10 / 0.8)
        assert 0 == env.status.failures


@pytest.mark.parametrize("list_interval", [None, 300])
async def test_total_denial_teaches_nothing(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, list_interval: float | None
) -> None:
    """When everything is denied, the credentials are what is wrong: the first refresh that is allowed goes by name."""
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
        assert {TENS} == actions(store).keys()
    assert [] == told(caplog)


async def test_denial_in_a_listing_that_fails_teaches_nothing(clock: ManualClock) -> None:
    """A fallback that does not come through confirms no denial."""
    store = filled(clock)
    async with load_env("/R", ttl=60, environ=None, deadline=1, store=store) as env:
        store.deny(TENS)
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
        assert actions(store)[TENS]


@pytest.mark.parametrize("keys", [["K0000", "K0001", "K0002"], [f"K{number:04d}" for number in range(25)]])
async def test_known_keys_are_read_together_again(clock: ManualClock, keys: list[str]) -> None:
    """With `keys`, too, a denial that was met in the first load is forgotten, and costs one request until then."""
    store = filled(clock)
    store.deny(TENS)
    async with load_env("/R", keys=keys, ttl=60, environ=None, store=store):
        actions(store)
        await clock.advance(1500)
        assert 1 <= actions(store)[TENS] <= ceil(5 / 0.8)

        store.heal()
        await clock.advance(420)
        actions(store)
        await clock.advance(60)
        assert {TENS} == actions(store).keys()


async def test_store_of_its_own_forgets_too(clock: ManualClock) -> None:
    """Single reads of a store that no `Env` uses go together again some minutes after the right is back."""
    store = filled(clock)
    names = [f"/R/K{number:04d}" for number in range(3)]
    store.deny(TENS)
    for _ in range(8):
        await store.get_many(names)
        await clock.advance(61)
    assert {TENS: 2, SINGLY: 24} == actions(store)

    store.heal()
    await clock.advance(300)
    await store.get_many(names)
    assert {TENS: 1} == actions(store)
    await store.aclose()


async def test_env_without_intervals_forgets_too(clock: ManualClock) -> None:
    """An `Env` that plans no listing forgets a denial after some minutes."""
    store = filled(clock)
    env = await load_env("/R", environ=None, store=store)
    store.deny(TENS)
    await clock.advance(60)
    await env.ensure_fresh(60)
    store.heal()
    await clock.advance(600)
    actions(store)

    await env.ensure_fresh(60)
    assert {TENS} == actions(store).keys()


async def test_two_envs_share_what_is_denied(clock: ManualClock) -> None:
    """Several `Env`s of one store ask for a missing right no more often than each of them lists."""
    store = filled(clock)
    async with (
        load_env("/R", ttl=60, list_interval=300, environ=None, store=store),
        load_env("/R", ttl=60, list_interval=3600, environ=None, store=store),
    ):
        store.deny(TENS)
        await clock.advance(120)
        actions(store)
        await clock.advance(3600)
        assert 1 <= actions(store)[TENS] <= ceil(12 / 0.8) + ceil(1 / 0.8)


async def test_over_http(ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock) -> None:
    """One denial of GetParameters that passes costs listings until the next planned one; then polls go by name."""
    for number in range(12):
        ssm.put(f"/R/S{number:02d}", "1")

    async def refreshed(env: Env) -> None:
        """Let the next refresh pass."""
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


async def test_denials_of_concurrent_reads(clock: ManualClock) -> None:
    """Reads that run beside each other when a right is tried again all come to their end."""
    store = filled(clock, 100)
    async with load_env("/R", ttl=3600, environ=None, store=store) as env:
        store.deny(TENS)
        await env.refresh(*env)
        await clock.advance(20_000)
        reads = [env.refresh(*[f"K{number:04d}" for number in range(first, first + 12)]) for first in range(0, 96, 12)]
        gets = [store.get(f"/R/K{number:04d}") for number in range(0, 100, 7)]
        assert all(parameter.value == "1" for parameter in await asyncio.gather(*gets))
        assert [()] * len(reads) == await asyncio.gather(*reads)
