"""Refreshes: when they run, what they publish, and how they end. The clock stands still unless a test advances it."""

import asyncio
import gc
import logging
import os
import time

import pytest

from aiossmenv import Change, Env, ParameterStore, StaleEnv, Throttled, load_env
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import FaultProxy, changed, error, hang, throttled
from timing import eventually, our_tasks, passing


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Run the tests that use `proxy` without TLS and with it."""
    return str(request.param)


async def test_values_follow_the_store(ssm: Store, store: ParameterStore, clock: ManualClock) -> None:
    """
    With a TTL, a change reaches the `Env` and the environment within the TTL, and a new parameter with the next
    listing.
    """
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=60, list_interval=100, store=store) as env:
        changes = env.changes()
        ssm.put("/R/A", "2")
        ssm.put("/R/B", "new")
        assert "1" == env["A"] == os.environ["A"]

        await clock.advance(28.5)
        first = await anext(changes)
        assert ("A", "updated") == (first.key, first.kind)
        assert first.old is not None
        assert first.new is not None
        assert ("1", "2") == (first.old.value, first.new.value)
        assert {"A": "2"} == dict(env) == {key: os.environ[key] for key in env}
        status = env.status
        assert (1, 1) == (status.refreshes, status.changes)

        for _ in range(2):
            await clock.advance(52.5)
            await eventually(lambda: env.status.age == 0)
        second = await anext(changes)
        assert ("B", "added") == (second.key, second.kind)
        assert {"A": "2", "B": "new"} == dict(env) == {key: os.environ[key] for key in env}


async def test_refreshes_are_due_within_the_ttl(ssm: Store, proxy: FaultProxy, clock: ManualClock) -> None:
    """The first refresh starts at a random time within the TTL, each later one after 80 to 95 % of it."""
    ssm.put("/R/A", "1")
    rng = iter([0.1, 0.5, 0.5, 0.0, 1.0, 0.5])
    async with (
        ParameterStore(clock=clock, random=lambda: next(rng)) as store,
        load_env("/R", ttl=100, store=store) as env,
    ):
        for seconds in (9.5, 80.0, 95.0):
            seen = proxy.count()
            await clock.advance(seconds - 0.01)
            assert seen == proxy.count()
            assert env.status.next_refresh == pytest.approx(0.01)
            await clock.advance(0.01)
            await eventually(lambda: env.status.age == 0)
            assert seen + 1 == proxy.count()


async def test_callers_share_a_refresh(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """Any number of callers share one read; they wait for a running background read, although it reads less."""
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=60, store=store) as env:
        before = proxy.count()
        proxy.add(hang(0.1))
        await clock.advance(28.5)
        await asyncio.gather(*(env.refresh() for _ in range(20)), *(env.refresh("A") for _ in range(20)))
        assert ["GetParameters", "GetParametersByPath"] == [call.operation for call in proxy.calls[before:]]


async def test_cancelled_caller_does_not_affect_others(ssm: Store, proxy: FaultProxy) -> None:
    """
    A cancelled caller does not end a shared read; when the last caller is cancelled, the read ends and the next one
    works.
    """
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=3600) as env:
        proxy.add(hang(0.2), times=1)
        ssm.put("/R/A", "2")
        one, two = asyncio.create_task(env.refresh()), asyncio.create_task(env.refresh())
        await asyncio.sleep(0.05)
        one.cancel()
        assert ["A"] == [change.key for change in await two]

        proxy.add(hang(), times=1)
        ssm.put("/R/A", "3")
        alone = asyncio.create_task(env.refresh())
        await asyncio.sleep(0.05)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
        assert not [name for name in await our_tasks() if "request" in name]
        assert "2" == env["A"]
        assert 0 == env.status.failures

        await env.refresh()
        assert "3" == env["A"]


async def test_last_good_stays(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed refresh changes only the status, and is retried with full jitter until one succeeds."""
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=60, store=store) as env:
        assert env.status.fresh
        proxy.add(error("ExpiredTokenException", "The security token is expired"), times=3)
        ssm.put("/R/A", "2")
        await clock.advance(28.5)
        waits: list[float | None] = []
        for _ in range(3):
            await eventually(lambda: env.status.failures > len(waits))
            assert "1" == env["A"] == os.environ["A"]
            assert "AccessDenied" == type(env.status.last_error).__name__
            waits.append(env.status.next_refresh)
            await clock.advance(env.status.next_refresh or 0)
        assert [0.5, 1.0, 2.0] == waits
        await eventually(lambda: not env.status.failures)

        assert "2" == env["A"] == os.environ["A"]
        assert env.status.last_error is None
        assert env.status.fresh
    failed = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 3 == len(failed)
    assert "refresh of /R failed, 3 in a row" in failed[2]
    assert "next try in 2.0 s: AccessDenied" in failed[2]


async def test_explicit_refresh_raises(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """`refresh()` raises the error of the read, and the status has the same error."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", store=store, deadline=5)
    proxy.add(error("AccessDeniedException", "no"))

    with pytest.raises(Exception, match="AccessDeniedException: no") as caught:
        await env.refresh()

    assert caught.value is env.status.last_error
    assert 1 == env.status.failures


async def test_status_ages(ssm: Store, store: ParameterStore, clock: ManualClock, proxy: FaultProxy) -> None:
    """The status is correct at any moment: the age grows, and a snapshot older than its TTL is not fresh."""
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=60, store=store) as env:
        proxy.add(hang())
        await clock.advance(60)
        status = env.status
        assert (True, 60, 0) == (status.fresh, status.age, status.next_refresh)
        await clock.advance(1)
        status = env.status
        assert (False, 61, 0) == (status.fresh, status.age, status.next_refresh)


async def test_hanging_refresh_ends_at_its_deadline(
    ssm: Store, store: ParameterStore, clock: ManualClock, proxy: FaultProxy
) -> None:
    """A background read without an answer fails at its deadline, and the next one follows."""
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=60, store=store, deadline=10) as env:
        proxy.add(hang(), times=1)
        await clock.advance(28.5)
        await asyncio.sleep(0.05)
        await clock.advance(10)
        assert 1 == env.status.failures
        assert "deadline" in str(env.status.last_error)
        await clock.advance(1)
        await eventually(lambda: not env.status.failures)


async def test_missing_once_is_not_removed(ssm: Store, store: ParameterStore) -> None:
    """A parameter is removed when two consecutive complete reads miss it; then its variable is unset."""
    ssm.put("/R/A", "1")
    ssm.put("/R/B", "1")
    env = await load_env("/R", store=store)

    ssm.delete("/R/B")
    assert () == await env.refresh()
    assert "1" == env["B"] == os.environ["B"]

    ssm.put("/R/B", "1")
    await env.refresh()
    ssm.delete("/R/B")
    await env.refresh()
    assert "1" == env["B"]
    assert [("B", "removed")] == [(change.key, change.kind) for change in await env.refresh()]
    assert "B" not in env
    assert "B" not in os.environ


async def test_only_own_variables_are_unset(ssm: Store, store: ParameterStore) -> None:
    """A variable that another writer changed stays when its parameter disappears."""
    ssm.put("/R/A", "1")
    ssm.put("/R/B", "1")
    env = await load_env("/R", store=store)
    os.environ["B"] = "theirs"

    ssm.delete("/R/B")
    await env.refresh()
    await env.refresh()

    assert "B" not in env
    assert "theirs" == os.environ["B"]


async def test_empty_path_is_a_failed_refresh(ssm: Store, store: ParameterStore) -> None:
    """A path that becomes empty keeps the last good values and raises, unless `allow_empty` is set."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", store=store)
    loose = await load_env("/R", store=store, allow_empty=True, environ=None)
    ssm.delete("/R/A")

    for _ in range(2):
        await loose.refresh()
    assert {} == dict(loose)

    await env.refresh()
    with pytest.raises(Exception, match="no parameter under this path"):
        await env.refresh()
    assert "1" == env["A"] == os.environ["A"]


async def test_the_only_parameter_is_renamed(ssm: Store, store: ParameterStore, clock: ManualClock) -> None:
    """If a refresh by name misses a parameter, a listing follows, which finds the new name."""
    ssm.put("/R/OLD", "1")
    async with load_env("/R", ttl=60, list_interval=1e6, store=store) as env:
        ssm.put("/R/NEW", "1")
        ssm.delete("/R/OLD")
        for _ in range(2):
            await clock.advance(env.status.next_refresh or 0)
            await eventually(lambda: env.status.age == 0)
        assert {"NEW": "1"} == dict(env) == {key: os.environ[key] for key in env}
        assert 0 == env.status.failures


async def test_collision_in_a_refresh_keeps_the_old_values(ssm: Store, store: ParameterStore) -> None:
    """If a new parameter collides with another, the refresh fails; if it replaces the other one, it succeeds."""
    ssm.put("/R/a-b", "1")
    env = await load_env("/R", store=store)

    ssm.put("/R/a.b", "2")
    with pytest.raises(Exception, match="A_B from /R/a-b and /R/a.b"):
        await env.refresh()
    assert "1" == env["A_B"] == os.environ["A_B"]

    ssm.delete("/R/a-b")
    await env.refresh()
    assert "2" == env["A_B"] == os.environ["A_B"]


async def test_two_envs_are_independent(ssm: Store, store: ParameterStore) -> None:
    """Two `Env`s with one store and one environment refresh, remove and close independently."""
    ssm.put("/ONE/A", "1")
    ssm.put("/ONE/SHARED", "one")
    ssm.put("/TWO/B", "2")
    ssm.put("/TWO/SHARED", "two")
    one = await load_env("/ONE", ttl=60, store=store)
    two = await load_env("/TWO", ttl=60, store=store)
    assert "two" == os.environ["SHARED"]

    for name in ("/ONE/A", "/ONE/SHARED"):
        ssm.delete(name)
    ssm.put("/ONE/C", "3")
    for _ in range(2):
        await one.refresh()
    assert "A" not in os.environ
    assert "two" == os.environ["SHARED"]

    await one.aclose()
    ssm.put("/TWO/B", "22")
    await two.refresh()
    assert "22" == os.environ["B"] == two["B"]
    assert "3" == os.environ["C"]
    await two.aclose()


async def test_closing_is_prompt_while_a_request_hangs(ssm: Store, proxy: FaultProxy) -> None:
    """Leaving the block ends a running refresh at once, even during a request; the variables stay."""
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=0.05) as env:
        proxy.add(hang())
        await eventually(lambda: proxy.count() >= 2)
        began = time.monotonic()
    assert time.monotonic() - began < 0.5
    assert set() == await our_tasks()
    assert "1" == os.environ["A"] == env["A"]
    await env.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await env.refresh()


async def test_callback_errors_are_logged(ssm: Store, store: ParameterStore, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged by name, type and place, without the value; the other callbacks are called."""
    ssm.put("/R/A", "1")
    seen: list[Change] = []

    def broken(change: Change) -> None:
        int(change.new.value if change.new else "")

    async def broken_too(change: Change) -> None:
        broken(change)

    async with load_env("/R", ttl=60, store=store) as env:
        env.on_change(broken)
        env.on_change(broken_too)
        env.on_change(seen.append)
        ssm.put("/R/A", "marker-secret")
        await env.refresh()
        await asyncio.sleep(0)

    assert ["A"] == [change.key for change in seen]
    for name in ("broken ", "broken_too"):
        assert f"{name.strip()} failed on the change of A with ValueError" in caplog.text
    assert __file__ in caplog.text
    assert "marker-secret" not in caplog.text


async def test_callbacks_for_some_keys(ssm: Store, store: ParameterStore) -> None:
    """A callback for some keys gets changes of only those keys, until it is unsubscribed."""
    ssm.put("/R/A", "1")
    ssm.put("/R/B", "1")
    env = await load_env("/R", store=store)
    seen: list[str] = []
    unsubscribe = env.on_change(lambda change: seen.append(change.key), "B")

    ssm.put("/R/A", "2")
    ssm.put("/R/B", "2")
    await env.refresh()
    assert ["B"] == seen

    unsubscribe()
    unsubscribe()
    ssm.put("/R/B", "3")
    await env.refresh()
    assert ["B"] == seen


async def test_slow_reader_gets_one_change_per_key(ssm: Store, store: ParameterStore) -> None:
    """Unread changes of one key are combined, from the oldest to the newest; if they cancel out, there is none."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", store=store)
    changes = env.changes()
    for value in ("2", "3", "4"):
        ssm.put("/R/A", value)
        await env.refresh()
    ssm.put("/R/B", "short-lived")
    await env.refresh()
    ssm.delete("/R/B")
    await env.refresh()
    await env.refresh()
    await env.aclose()

    unread = [change async for change in changes]

    assert [("A", "1", "4")] == [(c.key, c.old and c.old.value, c.new and c.new.value) for c in unread]
    assert [] == [change async for change in env.changes()]


async def test_slow_callback_gets_fewer_calls(ssm: Store, store: ParameterStore) -> None:
    """A coroutine callback runs once at a time; the changes meanwhile are combined into one call."""
    ssm.put("/R/A", "0")
    gate = asyncio.Event()
    seen: list[str] = []

    async def slow(change: Change) -> None:
        seen.append(change.new.value if change.new else "")
        await gate.wait()

    async with load_env("/R", ttl=60, store=store) as env:
        env.on_change(slow)
        for value in ("1", "2", "3"):
            ssm.put("/R/A", value)
            await env.refresh()
            await asyncio.sleep(0)
        assert ["1"] == seen
        gate.set()
        await asyncio.sleep(0.01)
        assert ["1", "3"] == seen


async def test_callback_may_close(ssm: Store, store: ParameterStore) -> None:
    """A callback may close its own `Env`; another callback that hangs is cancelled by that."""
    ssm.put("/R/A", "0")
    closed = asyncio.Event()

    async def last(_: Change) -> None:
        await env.aclose()
        closed.set()

    async def never(_: Change) -> None:
        await asyncio.Event().wait()

    env = await load_env("/R", ttl=60, store=store)
    env.on_change(never)
    env.on_change(last)
    ssm.put("/R/A", "1")
    await env.refresh()
    async with asyncio.timeout(1):
        await closed.wait()


async def test_values_beyond_max_stale_cannot_be_read(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """With `max_stale`, reading older values raises, and the error has the reason."""
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=60, max_stale=300, deadline=5, store=store) as env:
        proxy.add(error("AccessDeniedException", "the role is gone"))
        await clock.advance(28.5)
        await eventually(lambda: env.status.failures)
        assert "1" == env["A"]
        await passing(clock, clock.sleep(271.8))
        with pytest.raises(StaleEnv, match=r"300 s old.*the role is gone"):
            env["A"]
        assert ["A"] == list(env)


async def test_min_gap_between_refreshes(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """`min_gap` counts between the starts of two refreshes, and the callers that wait share the next one."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", store=store)
    waiting = [asyncio.create_task(env.refresh(min_gap=5)) for _ in range(3)]
    await clock.advance(4.9)
    assert 1 == proxy.count()
    await clock.advance(0.2)
    await asyncio.gather(*waiting)
    assert 2 == proxy.count()


async def test_throttled_refresh_names_the_cause(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """A refresh that is throttled until its deadline raises `Throttled`."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", store=store)
    proxy.add(throttled())

    with pytest.raises(Throttled, match="Rate exceeded"):
        await passing(clock, env.refresh())


async def test_lagging_answer_is_ignored(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """An older answer after a newer one changes nothing; a parameter that was recreated at version 1 does."""
    ssm.put("/R/A", "1")
    old = ssm.client.get_parameters_by_path(Path="/R", WithDecryption=True)["Parameters"][0]
    await asyncio.sleep(0.01)
    ssm.put("/R/A", "2")
    env = await load_env("/R", store=store)

    stale = {key: value for key, value in old.items() if key != "LastModifiedDate"}
    stale["LastModifiedDate"] = old["LastModifiedDate"].timestamp()
    proxy.add(changed(lambda _, page: page | {"Parameters": [stale]}), times=1)
    assert () == await env.refresh()
    assert "2" == env["A"]

    ssm.delete("/R/A")
    await asyncio.sleep(0.01)
    ssm.put("/R/A", "anew")
    await env.refresh()
    assert "anew" == env["A"]
    assert 1 == env.parameters["A"].version


def test_missing_close_warns(moto: Store) -> None:
    """An `Env` without a close does not keep the loop from ending, and a warning names it."""
    os.environ |= moto.environment
    moto.put("/LEFT/OPEN", "1")

    async def main() -> None:
        env = await load_env("/LEFT", ttl=0.05)
        await asyncio.sleep(0.1)
        del env

    began = time.monotonic()
    with pytest.warns(ResourceWarning, match=r"unclosed <Env /LEFT: 1 keys"):
        asyncio.run(main())
    assert time.monotonic() - began < 3
    gc.collect()


def test_one_env_in_several_loops(moto: Store) -> None:
    """Without a TTL an `Env` is not bound to the loop on which it was loaded."""
    os.environ |= moto.environment
    moto.put("/LOOPS/A", "1")

    async def load() -> Env:
        return await load_env("/LOOPS")

    env = asyncio.run(load())
    moto.put("/LOOPS/A", "2")

    assert ["A"] == [change.key for change in asyncio.run(env.refresh())]


async def test_each_caller_has_its_own_gap(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """
    A caller with a short gap does not wait for a longer one; a waiting caller needs no read if one happened meanwhile.
    """
    ssm.put("/R/A", "1")
    env = await load_env("/R", store=store)
    slow = asyncio.create_task(env.refresh(min_gap=5))
    quick = asyncio.create_task(env.refresh(min_gap=0.25))
    await clock.advance(0.25)
    await quick
    assert 2 == proxy.count()

    await clock.advance(4.75)
    await slow
    assert 2 == proxy.count()
