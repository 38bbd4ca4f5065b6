"""`Env` without a wire: cancellation at every await, and many parameters without a stall."""

import asyncio
import threading
from collections.abc import Callable, Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import InvalidVariable, load_env
from aiossmenv.testing import ManualClock, MemoryStore
from timing import our_tasks

COUNT = 25
MANY = 1_700


def filled(count: int) -> MemoryStore:
    """Return a store with so many secrets under /R."""
    return MemoryStore({f"/R/K{number:05d}": "old" for number in range(count)})


async def cancelled_after(turns: int, work: Coroutine[object, None, object]) -> bool:
    """Cancel *work* after so many turns of the loop; whether it had not ended by then."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    in_time = task.cancel()
    await asyncio.wait({task})
    assert set() == await our_tasks() - {"aiossmenv refresher", "aiossmenv sleep"}
    return in_time and task.cancelled()


@pytest.mark.parametrize("count", [COUNT, MANY])
@pytest.mark.parametrize("keys", [None, [f"K{number:05d}" for number in range(COUNT)]])
async def test_cancelled_load(count: int, keys: list[str] | None) -> None:
    """A load that is cancelled at any await has set nothing and left nothing, and the next one works."""
    store = filled(count)
    turns = 0
    environ: dict[str, str] = {"OTHER": "stays"}
    step = 1 if count == COUNT else 31
    while await cancelled_after(turns, load_env("/R", keys=keys, environ=environ, store=store)):
        assert {"OTHER": "stays"} == environ
        turns += step
    assert turns > 4
    assert len(keys or range(count)) + 1 == len(environ)


@pytest.mark.parametrize("which", ["all", "some", "poll"])
async def test_cancelled_refresh(which: str) -> None:
    """A refresh that is cancelled at any await has changed all or nothing, and the next one works."""
    store = filled(COUNT)
    environ: dict[str, str] = {}
    async with load_env("/R", ttl=3600, environ=environ, store=store) as env:
        refresh: dict[str, Callable[[], Coroutine[object, None, object]]] = {
            "all": env.refresh,
            "some": lambda: env.refresh("K00003", "K00004"),
            "poll": lambda: env.refresh(*env),
        }
        store.put("/R/K00003", "new")
        turns = 0
        values = []
        while await cancelled_after(turns, refresh[which]()):
            assert env["K00003"] == environ["K00003"]
            assert 0 == env.status.failures
            values.append(env["K00003"])
            turns += 1
        # Who is cancelled in the very turn in which it was published is told so, and finds it published.
        assert ["old"] * 4 == values[:4]
        assert "old" not in values[values.index("new") :]
        assert "new" == env["K00003"] == environ["K00003"]


async def test_who_waits_and_is_cancelled_lets_nobody_past(manual_clock: ManualClock) -> None:
    """A refresh that was waiting for another and is cancelled lets no third one run beside it and be overwritten."""
    store = MemoryStore({"/R/PW": "old", "/R/USER": "u"}, clock=manual_clock)
    async with load_env("/R", ttl=3600, environ=None, store=store) as env:
        store.hang(1)
        first = asyncio.create_task(env.refresh("USER"))
        await manual_clock.advance(1)
        second = asyncio.create_task(env.refresh())
        await manual_clock.advance(1)
        second.cancel()
        store.put("/R/PW", "new")
        third = asyncio.create_task(env.refresh())
        await manual_clock.advance(30)

        assert ["PW"] == [change.key for change in (*await first, *await third)]
        assert "new" == env["PW"]


async def test_many_parameters_do_not_hold_the_loop() -> None:
    """Many parameters are worked out in a thread, and put into the environment in slices between which others run."""
    store = filled(10_000)
    environ: dict[str, str] = {}
    sizes: set[int] = set()
    threads: set[int] = set()

    async def neighbour() -> None:
        while True:
            sizes.add(len(environ))
            await asyncio.sleep(0)

    def to_key(name: str) -> str:
        threads.add(threading.get_ident())
        return name

    watching = asyncio.create_task(neighbour())
    env = await load_env("/R", environ=environ, to_key=to_key, store=store)

    assert 10_000 == len(env) == len(environ)
    assert set(range(0, 10_000, 500)) <= sizes
    assert threading.get_ident() not in threads

    # A refresh writes what changed, and few changes in one piece.
    for number in range(400):
        store.put(f"/R/K{number:05d}", "new")
    seen: set[int] = set()
    sizes.clear()
    env.on_change(lambda _: seen.add(sum(value == "new" for value in environ.values())))
    assert 400 == len(await env.refresh())
    assert {400} == seen
    watching.cancel()


async def test_refused_in_the_middle_of_slices() -> None:
    """An environment that refuses a variable far behind the first slice keeps none of them."""

    class Picky(dict[str, str]):
        def __setitem__(self, key: str, value: str) -> None:
            if key == "K01600":
                raise OSError
            super().__setitem__(key, value)

    store = filled(MANY)
    environ = Picky(K00001="before")
    with pytest.raises(InvalidVariable, match="refused 'K01600'"):
        await load_env("/R", environ=environ, store=store)

    assert {"K00001": "before"} == environ


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["put", "drop", "poll", "all", "some"])), max_size=12)
)
def test_any_history_ends_in_the_store(history: list[tuple[str, str]]) -> None:
    """After any history of writes and refreshes, two complete ones show what the store holds, here and in the environment."""

    async def play() -> None:
        store = filled(0)
        held = {"ALWAYS": "x"}
        store.put("/R/ALWAYS", "x")
        environ: dict[str, str] = {}
        env = await load_env("/R", environ=environ, store=store)
        for number, (key, action) in enumerate(history):
            match action:
                case "put":
                    store.put(f"/R/{key}", str(number))
                    held[key] = str(number)
                case "drop" if held.pop(key, None):
                    store.delete(f"/R/{key}")
                case "poll":
                    await env.refresh(*env)
                case "all":
                    await env.refresh()
                case "some":
                    await env.refresh(key)
        for _ in range(2):
            await env.refresh()
        assert held == dict(env) == environ

    asyncio.run(play())
