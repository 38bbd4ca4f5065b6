"""Callbacks: they hear of every change, end when they are told to, and hurt nobody."""

import asyncio

import pytest

from aiossmenv import Change, Env, load_env
from aiossmenv.testing import MemoryStore


async def turns() -> None:
    """Let what is ready run."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_a_cancelled_errand_does_not_end_an_async_callback(caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine that awaits what was cancelled is called again for the next change, and the log names it."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", store=store, environ={})
    heard: list[str] = []

    async def callback(change: Change) -> None:
        """Await something that is cancelled."""
        assert change.new
        heard.append(change.new.value)
        errand = asyncio.ensure_future(asyncio.sleep(5))
        errand.cancel()
        await errand

    env.on_change(callback)
    for value in ("2", "3"):
        store.put("/P/A", value)
        await env.refresh()
        await turns()

    assert ["2", "3"] == heard
    assert 2 == caplog.text.count("CancelledError")


async def test_a_function_that_raises_cancellation_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """
    What a function raises is its own, `CancelledError` too: the refresh goes well, and the next callback hears of it.
    """
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", store=store, environ={})
    heard: list[Change] = []

    def callback(_: Change) -> None:
        """Ask a future that was cancelled for its result."""
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        future.result()

    env.on_change(callback)
    env.on_change(heard.append)
    store.put("/P/A", "2")

    assert 1 == len(await env.refresh())
    assert ["A"] == [change.key for change in heard]
    assert "CancelledError" in caplog.text


def test_async_callbacks_of_several_loops() -> None:
    """An `Env` without a TTL may be refreshed from one loop after the other, and its callbacks run on each."""
    store = MemoryStore({"/P/A": "1"})
    heard: list[str] = []

    async def callback(change: Change) -> None:
        """Keep the value."""
        assert change.new
        heard.append(change.new.value)

    async def load() -> Env:
        """Load and follow."""
        env = await load_env("/P", store=store, environ={})
        env.on_change(callback)
        return env

    async def refresh(value: str) -> None:
        """Change it and read again."""
        store.put("/P/A", value)
        await env.refresh()
        await turns()

    env = asyncio.run(load())
    for value in ("2", "3"):
        asyncio.run(refresh(value))

    assert ["2", "3"] == heard


async def test_a_callback_ends_itself() -> None:
    """Who unsubscribes in its own call gets no other, whether function or coroutine, however many changes there are."""
    store = MemoryStore({"/P/A": "1", "/P/B": "1"})
    env = await load_env("/P", store=store, environ={})
    heard: list[str] = []

    def once(change: Change) -> None:
        """End after one call."""
        heard.append(f"function {change.key}")
        end()

    async def once_async(change: Change) -> None:
        """End after one call."""
        heard.append(f"coroutine {change.key}")
        end_async()

    end, end_async = env.on_change(once), env.on_change(once_async)
    for name in ("/P/A", "/P/B"):
        store.put(name, "2")
    await env.refresh()
    await turns()
    end()

    assert ["function A", "coroutine A"] == heard


async def test_a_refresh_in_a_callback_is_one_of_its_own() -> None:
    """A refresh that a callback asks for reads what is there now, and is not the one that told it of the change."""
    store = MemoryStore({"/P/A": "1", "/P/B": "1"})
    env = await load_env("/P", store=store, environ={})
    found: list[str] = []

    async def callback(_: Change) -> None:
        """Change another one, and read it."""
        store.put("/P/B", "new")
        found.extend(change.key for change in await env.refresh("B"))

    env.on_change(callback, "A")
    store.put("/P/A", "2")
    await env.refresh("A", "B")
    await turns()

    assert ["B"] == found
    assert "new" == env["B"]


async def test_closing_that_is_called_off_goes_on() -> None:
    """Who is cancelled while closing leaves it to go on; the store is let go of, and the next closer waits for that."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", ttl=60, store=store, environ={})
    tidied = asyncio.Event()

    async def callback(_: Change) -> None:
        """Take a while to end."""
        try:
            await asyncio.sleep(100)
        finally:
            await tidied.wait()

    env.on_change(callback)
    store.put("/P/A", "2")
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
    """A callback may close the `Env`, in a task of its own too, and goes on behind that."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", ttl=60, store=store, environ={})
    ended = asyncio.Event()

    async def callback(_: Change) -> None:
        """Close, and say so."""
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
    store.put("/P/A", "2")
    await env.refresh()
    async with asyncio.timeout(5):
        await ended.wait()
        await env.aclose()

    assert store._transport is None


async def test_callbacks_that_close_on_their_way_out() -> None:
    """Callbacks that close the `Env` when they are cancelled do not keep the closing that cancelled them."""
    store = MemoryStore({"/P/A": "1"})
    env = await load_env("/P", ttl=60, store=store, environ={})

    async def callback(_: Change) -> None:
        """Close when it ends."""
        try:
            await asyncio.sleep(100)
        finally:
            await env.aclose()

    env.on_change(callback)
    env.on_change(callback)
    store.put("/P/A", "2")
    await env.refresh()
    await turns()

    async with asyncio.timeout(5):
        await env.aclose()
    assert store._transport is None


def test_a_closing_that_the_loop_cut_short_is_none_to_wait_for() -> None:
    """A loop that ends while it closes lets go of the store all the same, and whoever closes again is not cancelled."""
    store = MemoryStore({"/P/A": "1"})

    async def begin() -> Env:
        """Begin to close, and end."""
        env = await load_env("/P", ttl=60, store=store, environ={})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await env.aclose()
        return env

    env = asyncio.run(begin())
    assert store._transport is None
    asyncio.run(env.aclose())
