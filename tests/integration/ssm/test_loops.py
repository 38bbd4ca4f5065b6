"""Several event loops, in turn or at once: each object works on the loop where it is used, or fails at once."""

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import TypeVar

import pytest

from aiossmenv import Change, Env, ParameterStore, StaleEnv, load_env
from aiossmenv.testing import MemoryStore
from embedded import Store

T = TypeVar("T")
LEFT = "was loaded on another event loop, which does not run any more, and nothing refreshes it"


@pytest.fixture
def aws(moto: Store) -> Iterator[Store]:
    """Give a Parameter Store on a real socket; fail if the test leaves something open or is slow."""
    os.environ |= moto.environment
    for name in ("/LOOPS/A", "/LOOPS/B"):
        moto.put(name, "1")
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield moto
        gc.collect()
    for name in ("/LOOPS/A", "/LOOPS/B"):
        moto.delete(name)
    # A request through a closed loop would be retried for 30 seconds.
    assert time.monotonic() - began < 25


def in_thread(work: Callable[[], T]) -> T:
    """Run *work* in another thread, and return its result."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def on_a_new_loop(work: Coroutine[object, None, T]) -> T:
    """Run *work* on a new loop, and close the loop without the cleanup of `asyncio.run()`."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def test_store_on_several_loops(aws: Store) -> None:
    """A store with open connections works on each next loop, and each loop closes what it opened."""
    store = ParameterStore(ttl=0.0001)

    async def read() -> list[str]:
        found = await store.get_many(["/LOOPS/A", "/LOOPS/B"])
        listed = [parameter.value async for parameter in store.scan("/LOOPS")]
        return [*(parameter.value for parameter in found.values()), *listed]

    for number in range(4):
        aws.put("/LOOPS/A", str(number))
        aws.put("/LOOPS/B", str(number))
        assert [str(number)] * 4 == asyncio.run(read())
    asyncio.run(store.aclose())
    asyncio.run(store.aclose())


def test_store_without_a_close(aws: Store) -> None:
    """
    When the loop on which a store was used has ended, the store has nothing open and causes no warning.
    """
    store = ParameterStore()

    async def read() -> str:
        return (await store.get("/LOOPS/A")).value

    assert "1" == asyncio.run(read())
    assert "<ParameterStore not connected>" == repr(store)


def test_store_entered_on_a_loop_that_ended(aws: Store) -> None:
    """A block that entered a store may end on another loop, and keeps nothing open there."""
    store = ParameterStore()

    async def begin() -> None:
        await store.__aenter__()
        await store.get("/LOOPS/A")

    async def load() -> str:
        env = await load_env("/LOOPS", environ=None, store=store)
        return env["A"]

    asyncio.run(begin())
    assert "1" == asyncio.run(load())
    asyncio.run(store.__aexit__(None, None, None))
    assert "1" == asyncio.run(load())


def test_store_with_an_unfinished_read(aws: Store) -> None:
    """A read that was unfinished when its loop ended does not affect the next loop."""
    store = ParameterStore(ttl=0.0001)

    async def begin() -> None:
        task = asyncio.create_task(store.get("/LOOPS/A"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()

    async def read() -> str:
        return (await store.get("/LOOPS/A")).value

    for _ in range(3):
        asyncio.run(begin())
        assert "1" == asyncio.run(read())


def test_store_between_two_runners(aws: Store) -> None:
    """Two loops that take turns can share a store."""
    store = ParameterStore(ttl=0.0001)

    async def read() -> str:
        return (await store.get("/LOOPS/A")).value

    with asyncio.Runner() as one, asyncio.Runner() as two:
        for _ in range(3):
            assert ["1", "1"] == [one.run(read()), two.run(read())]
        two.run(store.aclose())
        one.run(asyncio.sleep(0.1))


@pytest.mark.parametrize("run", [asyncio.run, on_a_new_loop])
def test_env_without_a_ttl(aws: Store, run: Callable[[Coroutine[object, None, object]], object]) -> None:
    """Without a TTL, an `Env` reads, refreshes and ensures freshness on any loop, whatever the earlier loop left."""
    env = run(_loaded(None))
    assert isinstance(env, Env)
    for number in range(3):
        aws.put("/LOOPS/A", f"refreshed {number}")
        run(env.refresh())
        assert f"refreshed {number}" == env["A"]
        aws.put("/LOOPS/A", f"fresh {number}")
        run(env.ensure_fresh(0))
        assert f"fresh {number}" == env["A"] == env.snapshot["A"]
    run(env.aclose())


def test_refresh_unfinished_at_the_end_of_its_loop(aws: Store) -> None:
    """A refresh that was unfinished when its loop ended does not affect the next loop."""
    env = asyncio.run(_loaded(None))

    async def begin() -> None:
        task = asyncio.create_task(env.refresh())
        await asyncio.sleep(0.001)
        assert not task.done()

    for number in range(3):
        asyncio.run(begin())
        aws.put("/LOOPS/A", f"newer {number}")
        asyncio.run(env.refresh())
        assert f"newer {number}" == env["A"]


def test_callbacks_and_changes_on_several_loops(aws: Store) -> None:
    """Callbacks and readers that exist already get the changes on each next loop."""
    env = asyncio.run(_loaded(None))
    heard: list[str] = []

    async def callback(change: Change) -> None:
        await asyncio.sleep(0)
        heard.append(change.new.value if change.new else "")

    env.on_change(callback, "A")
    changes = env.changes()

    async def follow(value: str) -> str:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        aws.put("/LOOPS/A", value)
        await env.refresh()
        change = await waiting
        await asyncio.sleep(0.01)
        return change.new.value if change.new else ""

    async def wait_without_a_change() -> None:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.01)
        assert not waiting.done()

    for value in ("a", "b", "c"):
        assert value == asyncio.run(follow(value))
        asyncio.run(wait_without_a_change())
    assert ["a", "b", "c"] == heard


def test_env_with_a_ttl_fails_on_another_loop(aws: Store) -> None:
    """An `Env` with a TTL fails on another loop, also when it is read, and names the remedy; closing it there works."""

    async def load() -> Env:
        return await load_env("/LOOPS", ttl=60, environ=None)

    async def use(env: Env) -> list[str]:
        texts = []
        reads: dict[str, Callable[[], object]] = {
            "env[]": lambda: env["A"],
            "get": lambda: env.get("A"),
            "snapshot": lambda: env.snapshot,
            "parameters": lambda: env.parameters,
            "changes": env.changes,
            "on_change": lambda: env.on_change(print),
        }
        for read in reads.values():
            with pytest.raises(StaleEnv, match=LEFT) as caught:
                read()
            texts.append(str(caught.value))
        for refresh in (env.refresh(), env.ensure_fresh(0), env.refresh("A", min_gap=3)):
            with pytest.raises(StaleEnv, match=LEFT) as caught:
                await refresh
            texts.append(str(caught.value))
        assert (["A", "B"], None) == (list(env), env.status.next_refresh)
        return texts

    env = asyncio.run(load())
    with pytest.raises(StaleEnv, match=LEFT):
        env["A"]
    [text] = set(asyncio.run(use(env)))
    assert "path /LOOPS, region eu-central-1" in text
    assert text.endswith("Load within each asyncio.run(), or without ttl and call ensure_fresh().")
    asyncio.run(env.aclose())
    assert "1" == env["A"]
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(env.refresh())


def test_closed_env_with_a_ttl(aws: Store) -> None:
    """An `Env` that was closed on its own loop keeps its values on any loop."""

    async def load() -> Env:
        async with load_env("/LOOPS", ttl=60, environ=None) as env:
            return env

    async def read(env: Env) -> tuple[str, str]:
        return env["A"], env.snapshot["B"]

    env = asyncio.run(load())
    assert ("1", "1") == (env["A"], env["B"]) == asyncio.run(read(env))


@pytest.mark.filterwarnings("ignore:.*was destroyed but it is pending")
def test_env_with_a_ttl_of_an_alternating_loop(aws: Store) -> None:
    """If two loops take turns, an `Env` with a TTL keeps working on its own loop, and fails on the other."""
    with asyncio.Runner() as one, asyncio.Runner() as two:

        async def load() -> Env:
            return await load_env("/LOOPS", ttl=60, environ=None)

        env = one.run(load())
        with pytest.raises(StaleEnv, match=LEFT):
            two.run(env.refresh())
        aws.put("/LOOPS/A", "2")
        assert ["A"] == [change.key for change in one.run(env.refresh())]
        assert "2" == env["A"]
        one.run(env.aclose())


@pytest.mark.parametrize("ttl", [None, 60])
def test_loop_of_another_thread(aws: Store, ttl: float | None) -> None:
    """
    While one loop uses an `Env` or a store, another thread's loop can read its values, and anything else fails clearly.
    """

    async def main() -> None:
        async with ParameterStore() as store, load_env("/LOOPS", ttl=ttl, environ=None, store=store) as env:
            await env.refresh()

            async def elsewhere() -> tuple[str, str]:
                for whole in (env.refresh(), env.ensure_fresh(0), env.aclose()):
                    with pytest.raises(RuntimeError, match=r"<Env /LOOPS.*event loop of another thread"):
                        await whole
                for single in (store.get("/LOOPS/A"), store.aclose()):
                    with pytest.raises(RuntimeError, match=r"<ParameterStore.*event loop of another thread"):
                        await single
                with pytest.raises(RuntimeError, match="event loop of another thread"):
                    env.changes()
                return env["A"], env.snapshot["B"]

            assert ("1", "1") == await asyncio.to_thread(in_thread, lambda: asyncio.run(elsewhere()))
            aws.put("/LOOPS/A", "2")
            assert ["A"] == [change.key for change in await env.refresh()]
            assert "2" == (await store.get("/LOOPS/A")).value

    asyncio.run(main())


def test_threads_in_turn(aws: Store) -> None:
    """Loops of several threads may use an `Env` in turn, as sync views of a web framework do."""
    env = in_thread(lambda: asyncio.run(_loaded(None)))
    for number in range(3):
        aws.put("/LOOPS/A", str(number))
        in_thread(lambda: asyncio.run(env.ensure_fresh(0)))
        assert str(number) == env["A"]


def test_loop_that_ends_around_a_block() -> None:
    """If the end of the loop cancels a block, the block closes its `Env`, and nothing is reported as unclosed."""
    store = MemoryStore({"/R/A": "1"})
    ended: list[str] = []

    async def serve() -> None:
        async with load_env("/R", ttl=60, environ=None, store=store) as env:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(env["A"])

    async def main() -> None:
        serving = [asyncio.create_task(serve()) for _ in range(8)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in serving)

    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert ["1"] * 8 == ended
    assert [] == reported


async def _loaded(ttl: float | None) -> Env:
    return await load_env("/LOOPS", ttl=ttl, environ=None)
