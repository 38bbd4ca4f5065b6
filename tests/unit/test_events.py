"""Callbacks: they get every change, can be removed, and cannot break a refresh or each other."""

import asyncio

import pytest

from aiossmenv import Change, Env, load_env
from aiossmenv.testing import MemoryStore


async def turns() -> None:
    """Run whatever is ready."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_cancellation_inside_an_async_callback_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine callback that awaits a cancelled task is logged, and is called again for the next change."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", store=store, environ={})
    heard: list[str] = []

    async def callback(change: Change) -> None:
        """Await a cancelled task."""
        assert change.new
        heard.append(change.new.value)
        errand = asyncio.ensure_future(asyncio.sleep(5))
        errand.cancel()
        await errand

    env.on_change(callback)
    for value in ("2", "3"):
        store.set("/P/A", value)
        await env.refresh()
        await turns()

    assert ["2", "3"] == heard
    assert 2 == caplog.text.count("CancelledError")


async def test_function_that_raises_cancelled_error_is_isolated(caplog: pytest.LogCaptureFixture) -> None:
    """If a function raises `CancelledError`, the refresh still succeeds, and the next callback is called."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", store=store, environ={})
    heard: list[Change] = []

    def callback(_: Change) -> None:
        """Read the result of a cancelled future."""
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        future.result()

    env.on_change(callback)
    env.on_change(heard.append)
    store.set("/P/A", "2")

    assert 1 == len(await env.refresh())
    assert ["A"] == [change.key for change in heard]
    assert "CancelledError" in caplog.text


def test_async_callbacks_of_several_loops() -> None:
    """An `Env` without a TTL may be refreshed from several loops in turn, and its callbacks run on each of them."""
    store = MemoryStore({"/P/A": "1"})
    heard: list[str] = []

    async def callback(change: Change) -> None:
        """Record the value."""
        assert change.new
        heard.append(change.new.value)

    async def load() -> Env:
        """Load, and register the callback."""
        env = await load_env("/P", store=store, environ={})
        env.on_change(callback)
        return env

    async def refresh(value: str) -> None:
        """Change the parameter, and refresh."""
        store.set("/P/A", value)
        await env.refresh()
        await turns()

    env = asyncio.run(load())
    for value in ("2", "3"):
        asyncio.run(refresh(value))

    assert ["2", "3"] == heard


async def test_callback_removes_itself() -> None:
    """
    A function or coroutine that unsubscribes during its own call is not called again, however many changes follow.
    """
    store = MemoryStore({"/P/A": "1", "/P/B": "1"})
    env = await load_env("/P", store=store, environ={})
    heard: list[str] = []

    def once(change: Change) -> None:
        """Unsubscribe in the first call."""
        heard.append(f"function {change.key}")
        end()

    async def once_async(change: Change) -> None:
        """Unsubscribe in the first call."""
        heard.append(f"coroutine {change.key}")
        end_async()

    end, end_async = env.on_change(once), env.on_change(once_async)
    for name in ("/P/A", "/P/B"):
        store.set(name, "2")
    await env.refresh()
    await turns()
    end()

    assert ["function A", "coroutine A"] == heard


async def test_refresh_in_a_callback_is_a_new_one() -> None:
    """A refresh that a callback requests is a new read, not the one that delivered the change."""
    store = MemoryStore({"/P/A": "1", "/P/B": "1"})
    env = await load_env("/P", store=store, environ={})
    found: list[str] = []

    async def callback(_: Change) -> None:
        """Change another parameter, and refresh it."""
        store.set("/P/B", "new")
        found.extend(change.key for change in await env.refresh("B"))

    env.on_change(callback, "A")
    store.set("/P/A", "2")
    await env.refresh("A", "B")
    await turns()

    assert ["B"] == found
    assert "new" == env["B"]


async def test_cancelled_close_continues() -> None:
    """
    A cancelled `aclose()` continues in the background; the store is released, and the next `aclose()` waits for that.
    """
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", ttl=60, store=store, environ={})
    tidied = asyncio.Event()

    async def callback(_: Change) -> None:
        """Take several turns to end."""
        try:
            await asyncio.sleep(100)
        finally:
            await tidied.wait()

    env.on_change(callback)
    store.set("/P/A", "2")
    await env.refresh()
    await turns()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await env.aclose()
    assert store._transport is not None

    tidied.set()
    await env.aclose()
    assert store._transport is None


@pytest.mark.parametrize("way", ["itself", "gather", "wait_for", "group"])
async def test_a_callback_closes_its_env(way: str) -> None:
    """A callback may close the `Env`, also from a task of its own, and continues after that."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", ttl=60, store=store, environ={})
    ended = asyncio.Event()

    async def callback(_: Change) -> None:
        """Close the `Env`, and record it."""
        match way:
            case "itself":
                await env.aclose()
            case "gather":
                await asyncio.gather(env.aclose())
            case "wait_for":
                await asyncio.wait_for(env.aclose(), 5)
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(env.aclose())
        ended.set()

    env.on_change(callback)
    store.set("/P/A", "2")
    await env.refresh()
    async with asyncio.timeout(5):
        await ended.wait()
        await env.aclose()

    assert store._transport is None


async def test_callbacks_that_close_when_cancelled() -> None:
    """Callbacks that call `aclose()` when they are cancelled do not deadlock the `aclose()` that cancelled them."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", ttl=60, store=store, environ={})

    async def callback(_: Change) -> None:
        """Close the `Env` at the end."""
        try:
            await asyncio.sleep(100)
        finally:
            await env.aclose()

    env.on_change(callback)
    env.on_change(callback)
    store.set("/P/A", "2")
    await env.refresh()
    await turns()

    async with asyncio.timeout(5):
        await env.aclose()
    assert store._transport is None


def test_close_that_the_loop_interrupted() -> None:
    """If the loop ends during `aclose()`, the store is still released, and a later `aclose()` is not cancelled."""
    store = MemoryStore({"/P/A": "1"})

    async def begin() -> Env:
        """Start to close, and let the loop end."""
        env = await load_env("/P", ttl=60, store=store, environ={})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await env.aclose()
        return env

    env = asyncio.run(begin())
    assert store._transport is None
    asyncio.run(env.aclose())
