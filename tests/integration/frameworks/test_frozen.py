"""Processes that freeze between two calls, as on AWS Lambda, and machines that suspend: `ensure_fresh` and the age."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from aiossmenv import AccessDenied, Env, StaleEnv, load_env
from aiossmenv._schedule import Schedule
from aiossmenv.testing import Call, ManualClock, MemoryStore
from timing import our_tasks


class FreezingClock(ManualClock):
    """A clock whose monotonic time stops while the process is frozen; only its wall time advances."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen = timedelta()

    def wall(self) -> datetime:
        """See `Clock`."""
        return super().wall() + self._frozen

    def freeze(self, seconds: float) -> None:
        """Advance only the wall time; a negative value sets it back."""
        self._frozen += timedelta(seconds=seconds)


@pytest.fixture
def freezing() -> FreezingClock:
    """Give a clock that can freeze."""
    return FreezingClock()


@pytest.fixture
def memory(freezing: FreezingClock) -> MemoryStore:
    """Give a store with one secret under /R, on that clock."""
    return MemoryStore({"/R/A": "1"}, clock=freezing)


async def test_fresh_values_cost_nothing(memory: MemoryStore, freezing: FreezingClock) -> None:
    """
    Below the age there is no request; from the age on there is one, by name and undecrypted, and its changes are
    returned.
    """
    env = await load_env("/R", environ=None, store=memory)
    memory.set("/R/A", "2")
    memory.calls.clear()

    await freezing.advance(59.9)
    assert () == await env.ensure_fresh(60)
    assert [] == memory.calls

    await freezing.advance(0.1)
    assert ["A"] == [change.key for change in await env.ensure_fresh(60)]
    assert "2" == env["A"]
    assert Call("ssm:GetParameters", ("/R/A",), decrypt=False) == memory.calls[0]

    memory.calls.clear()
    assert () == await env.ensure_fresh(60)
    assert [] == memory.calls
    assert () == await env.ensure_fresh(0)
    assert 1 == len(memory.calls)
    assert set() == await our_tasks()


async def test_frozen_process_is_not_fresh(memory: MemoryStore, freezing: FreezingClock) -> None:
    """The time of a freeze counts towards the age: the values are refreshed, and too old beyond `max_stale`."""
    env = await load_env("/R", environ=None, max_stale=600, store=memory)
    memory.set("/R/A", "2")
    await freezing.advance(10)
    freezing.freeze(3600)

    with pytest.raises(StaleEnv, match="3610 s old"):
        env["A"]
    assert 3610 == env.status.age
    assert 1 == len(await env.ensure_fresh(60))
    assert ("2", 0) == (env["A"], env.status.age)


async def test_wall_time_that_is_set_back(memory: MemoryStore, freezing: FreezingClock) -> None:
    """A wall time that is set back, or adjusted by less than a second, changes no age."""
    env = await load_env("/R", environ=None, store=memory)
    freezing.freeze(0.9)
    assert 0 == env.status.age
    freezing.freeze(-86_400)
    await freezing.advance(60)
    assert 60 == env.status.age
    memory.calls.clear()
    await env.ensure_fresh(60)
    assert 1 == len(memory.calls)


async def test_callers_share(memory: MemoryStore, freezing: FreezingClock) -> None:
    """Any number of callers that find the values too old share one refresh."""
    env = await load_env("/R", environ=None, store=memory)
    freezing.freeze(3600)
    memory.calls.clear()

    await asyncio.gather(*(env.ensure_fresh(60) for _ in range(20)))
    assert 1 == len(memory.calls)


async def test_kinds_fall_due_while_frozen(memory: MemoryStore, freezing: FreezingClock) -> None:
    """
    Listings and full decryptions are due after `relist` and `revalidate` seconds, even if most of them were frozen.
    """
    env = await load_env("/R", environ=None, list_interval=3600, revalidate_interval=7200, store=memory)
    memory.set("/R/B", "new")
    kinds = []
    for _ in range(12):
        memory.calls.clear()
        freezing.freeze(590)
        await freezing.advance(10)
        await env.ensure_fresh(60)
        decrypted = [call.decrypt for call in memory.calls if call.action == "ssm:GetParametersByPath"]
        kinds.append("revalidate" if True in decrypted else "list" if decrypted else "poll")

    # 0.875 of the intervals: 3150 and 6300 seconds.
    assert ["poll"] * 5 + ["list"] + ["poll"] * 4 + ["revalidate", "poll"] == kinds
    assert {"A", "B"} == set(env)


async def test_failure_keeps_the_last_good_values(memory: MemoryStore, freezing: FreezingClock) -> None:
    """Values that cannot be refreshed stay, and `status` has the error; after a freeze the next call tries again."""
    env = await load_env("/R", environ=None, store=memory)
    memory.deny("ssm:*")
    for failures in (1, 2):
        freezing.freeze(3600)
        assert () == await env.ensure_fresh(60)
        assert ("1", failures) == (env["A"], env.status.failures)
        assert isinstance(env.status.last_error, AccessDenied)

    memory.heal()
    freezing.freeze(3600)
    await env.ensure_fresh(60)
    assert 0 == env.status.failures


async def test_ensure_fresh_with_a_ttl(memory: MemoryStore, freezing: FreezingClock) -> None:
    """With a TTL it works too, and postpones the scheduled refresh; on a closed `Env` it raises."""
    async with load_env("/R", environ=None, ttl=60, store=memory) as env:
        freezing.freeze(3600)
        before = env.status
        await env.ensure_fresh(60)
        assert (False, True) == (before.fresh, env.status.fresh)
        assert 52.5 == env.status.next_refresh
    with pytest.raises(RuntimeError, match="closed"):
        await env.ensure_fresh(60)


@pytest.mark.parametrize("max_age", [-1, float("nan")])
async def test_invalid_age(memory: MemoryStore, max_age: float) -> None:
    """An invalid age is rejected."""
    env = await load_env("/R", environ=None, store=memory)
    with pytest.raises(ValueError, match=f"max_age is a number of seconds, not {max_age}"):
        await env.ensure_fresh(max_age)


def test_one_loop_per_call(memory: MemoryStore, freezing: FreezingClock) -> None:
    """As in synchronous Lambda handlers: one loop loads, and each call has its own loop."""

    async def load() -> Env:
        return await load_env("/R", environ=None, store=memory)

    async def handle() -> str:
        await env.ensure_fresh(60)
        return env["A"]

    env = asyncio.run(load())
    for value in ("2", "3"):
        memory.set("/R/A", value)
        freezing.freeze(900)
        assert value == asyncio.run(handle())


def test_suspend_counts_once() -> None:
    """However often the age is read after a suspend, the suspended time counts once; a refresh restarts the age."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    schedule = Schedule(ttl=60, list_interval=None, revalidate_interval=None, max_stale=None, random=lambda: 0.5)
    schedule.loaded(now=5.0, wall=noon)
    for _ in range(3):
        schedule.account_for_suspend(now=15.0, wall=noon + timedelta(seconds=110))
        assert 110 == schedule.status(15.0).age

    schedule.succeeded("poll", now=15.0, wall=noon + timedelta(seconds=110), changes=0)
    schedule.account_for_suspend(now=20.0, wall=noon + timedelta(seconds=115))
    assert 5 == schedule.status(20.0).age
