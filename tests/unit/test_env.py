"""`Env` on the in-memory store: cancellation at every await, and large paths that do not block the loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import AccessDenied, Env, InvalidVariable, Throttled, load_env
from aiossmenv.testing import ManualClock, MemoryStore
from timing import our_tasks

COUNT = 25
MANY = 1_700


def filled(count: int) -> MemoryStore:
    """Return a store with this many secrets under /R."""
    return MemoryStore({f"/R/K{number:05d}": "old" for number in range(count)})


async def cancelled_after(turns: int, work: Coroutine[object, None, object]) -> bool:
    """Cancel *work* after this many turns of the loop; return whether it was still running."""
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
    """A load that is cancelled at any await sets no variable and leaves no task, and the next load works."""
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
    """A refresh that is cancelled at any await publishes everything or nothing, and the next refresh works."""
    store = filled(COUNT)
    environ: dict[str, str] = {}
    async with load_env("/R", ttl=3600, environ=environ, store=store) as env:
        refresh: dict[str, Callable[[], Coroutine[object, None, object]]] = {
            "all": env.refresh,
            "some": lambda: env.refresh("K00003", "K00004"),
            "poll": lambda: env.refresh(*env),
        }
        store.set("/R/K00003", "new")
        turns = 0
        values = []
        while await cancelled_after(turns, refresh[which]()):
            assert env["K00003"] == environ["K00003"]
            assert 0 == env.status.failures
            values.append(env["K00003"])
            turns += 1
        # A refresh that is cancelled in the turn of its publication raises CancelledError, but the values are
        # published.
        assert ["old"] * 4 == values[:4]
        assert "old" not in values[values.index("new") :]
        assert "new" == env["K00003"] == environ["K00003"]


async def test_cancelled_waiter_does_not_let_two_refreshes_overlap(manual_clock: ManualClock) -> None:
    """
    If a refresh is cancelled while it waits for another, a third one must not run beside the first and be overwritten.
    """
    store = MemoryStore({"/R/PW": "old", "/R/USER": "u"}, clock=manual_clock)
    async with load_env("/R", ttl=3600, environ=None, store=store) as env:
        store.hang(1)
        first = asyncio.create_task(env.refresh("USER"))
        await manual_clock.advance(1)
        second = asyncio.create_task(env.refresh())
        await manual_clock.advance(1)
        second.cancel()
        store.set("/R/PW", "new")
        third = asyncio.create_task(env.refresh())
        await manual_clock.advance(30)

        assert ["PW"] == [change.key for change in (*await first, *await third)]
        assert "new" == env["PW"]


async def test_large_loads_do_not_block_the_loop() -> None:
    """Keys are computed in a thread, and variables are set in slices between which other tasks run."""
    store = filled(10_000)
    environ: dict[str, str] = {}
    sizes: set[int] = set()
    threads: set[int] = set()

    async def other_task() -> None:
        while True:
            sizes.add(len(environ))
            await asyncio.sleep(0)

    def to_key(name: str) -> str:
        threads.add(threading.get_ident())
        return name

    watching = asyncio.create_task(other_task())
    env = await load_env("/R", environ=environ, to_key=to_key, store=store)

    assert 10_000 == len(env) == len(environ)
    assert set(range(0, 10_000, 500)) <= sizes
    assert threading.get_ident() not in threads

    # A refresh writes only the changes, and a few changes go in one slice.
    for number in range(400):
        store.set(f"/R/K{number:05d}", "new")
    seen: set[int] = set()
    sizes.clear()
    env.on_change(lambda _: seen.add(sum(value == "new" for value in environ.values())))
    assert 400 == len(await env.refresh())
    assert {400} == seen
    watching.cancel()


async def test_rejection_in_a_later_slice_undoes_all() -> None:
    """If the environment rejects a variable of a later slice, no variable of the earlier slices stays."""

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
def test_any_history_converges_on_the_store(history: list[tuple[str, str]]) -> None:
    """
    After any history of writes and refreshes, two complete refreshes make the `Env` and the environment equal the
    store.
    """

    async def run() -> None:
        store = filled(0)
        held = {"ALWAYS": "x"}
        store.set("/R/ALWAYS", "x")
        environ: dict[str, str] = {}
        env = await load_env("/R", environ=environ, store=store)
        for number, (key, action) in enumerate(history):
            match action:
                case "put":
                    store.set(f"/R/{key}", str(number))
                    held[key] = str(number)
                case "drop" if held.pop(key, None):
                    store.remove(f"/R/{key}")
                case "poll":
                    await env.refresh(*env)
                case "all":
                    await env.refresh()
                case "some":
                    await env.refresh(key)
        for _ in range(2):
            await env.refresh()
        assert held == dict(env) == environ

    asyncio.run(run())


async def test_nested_paths_are_read_once() -> None:
    """A path inside another path is not listed on its own, neither at the load nor at a refresh."""
    clock = ManualClock()
    store = MemoryStore({f"/P/B/X{number}": "1" for number in range(15)}, clock=clock)
    async with load_env("/P", "/P/B", store=store, environ={}, ttl=60, list_interval=1e6) as env:
        store.calls.clear()
        await clock.advance(100)
        assert env.status.refreshes
        assert {"ssm:GetParameters"} == {call.action for call in store.calls}
        assert 2 * env.status.refreshes == len(store.calls)


async def test_keys_below_nested_paths() -> None:
    """
    A key is looked up directly below each path; a parameter that is below one path only through another is not
    requested.
    """
    store = MemoryStore({"/P/X": "1", "/P/B/X": "2"})

    assert {"X": "2"} == dict(await load_env("/P", "/P/B", store=store, environ={}, keys=["X"]))


@pytest.mark.parametrize("paths", [(), ("/P",)])
async def test_secrets_manager_only(paths: tuple[str, ...]) -> None:
    """Secrets of Secrets Manager can be loaded without a path, and a version stage is no part of the key."""
    name = "/aws/reference/secretsmanager/prod/db"
    store = MemoryStore({name: "secret"})
    store.label(name, "AWSPREVIOUS")
    env = await load_env(*paths, store=store, environ={}, keys=[name])

    assert {"PROD_DB": "secret"} == dict(env)
    assert "prod" not in repr(env)


async def test_keyed_refresh_without_read_permission() -> None:
    """A role that may only list reads some keys by a listing each time, and `GetParameters` is denied only once."""
    store = MemoryStore({"/P/A": "1", "/Q/B": "1"})
    store.deny("ssm:GetParameter")
    store.deny("ssm:GetParameters")
    env = await load_env("/P", "/Q", store=store, environ={})
    for value in ("2", "3"):
        store.set("/P/A", value)
        store.set("/Q/B", value)
        store.calls.clear()
        assert ["A", "B"] == [change.key for change in await env.refresh("A", "B")]
        assert {"A": value, "B": value} == dict(env)
    assert {"ssm:GetParametersByPath"} == {call.action for call in store.calls}

    with pytest.raises(AccessDenied):
        await load_env("/P", keys=["A"], store=store, environ={})


async def test_one_forbidden_name_does_not_deny_the_others() -> None:
    """A batch is denied if one of its names is forbidden; the other names are read in a batch from then on."""
    store = MemoryStore({"/P/A": "1", "/P/SECRET": "1"})
    store.deny("ssm:GetParameter*", "/P/SECRET")
    store.deny("ssm:GetParameter", "/P/A")

    for _ in range(2):
        with pytest.raises(AccessDenied):
            await load_env("/P", keys=["A", "SECRET"], store=store, environ={})
        assert {"A": "1"} == dict(await load_env("/P", keys=["A"], store=store, environ={}))


async def test_waiter_reads_after_a_failed_refresh() -> None:
    """A refresh that waits for `min_gap` reads on its own if the refresh that another task started meanwhile fails."""
    clock = ManualClock()
    store = MemoryStore({"/P/A": "1"}, clock=clock)
    env = await load_env("/P", store=store, environ={})
    await env.refresh("A")
    store.set("/P/A", "2")
    waiter = asyncio.ensure_future(env.refresh("A", min_gap=10))
    await clock.advance(5)
    store.deny("ssm:*")
    with pytest.raises(AccessDenied):
        await env.refresh("A")
    store.heal()

    await clock.advance(20)

    assert ["A"] == [change.key for change in await waiter]


async def test_waiter_fails_when_the_env_closes() -> None:
    """A refresh that waits for `min_gap` raises when the `Env` is closed, and sends no request."""
    clock = ManualClock()
    store = MemoryStore({"/P/A": "1"}, clock=clock)
    env = await load_env("/P", store=store, environ={})
    await env.refresh()
    waiter = asyncio.ensure_future(env.refresh(min_gap=10))
    await clock.advance(5)
    await env.aclose()
    store.calls.clear()

    await clock.advance(20)

    with pytest.raises(RuntimeError, match="closed"):
        await waiter
    assert [] == store.calls


async def test_grouped_keys_are_read_together() -> None:
    """A refresh of one key reads the other keys of its group in the same call."""
    store = MemoryStore({"/P/USER": "a", "/P/PASSWORD": "a", "/P/OTHER": "a"})
    env = await load_env("/P", store=store, environ={})
    env.group("USER", "PASSWORD")
    for name in ("/P/USER", "/P/PASSWORD", "/P/OTHER"):
        store.set(name, "b")
    store.calls.clear()

    await env.refresh("PASSWORD")

    assert {"USER": "b", "PASSWORD": "b", "OTHER": "a"} == dict(env)
    assert 1 == len(store.calls)


async def test_failed_keyed_refreshes_do_not_delay_the_schedule() -> None:
    """
    A refresh of some keys that fails, even by throttling, raises to its caller and does not delay the scheduled
    refreshes.
    """
    clock = ManualClock()
    store = MemoryStore({"/P/A": "1", "/P/B": "1"}, clock=clock)
    async with load_env("/P", store=store, environ={}, ttl=60, deadline=1) as env:
        await clock.advance(30)
        store.throttle()
        for _ in range(8):
            forced = asyncio.ensure_future(env.refresh("A"))
            await clock.advance(2)
            with pytest.raises(Throttled):
                await forced
        store.heal()
        store.set("/P/B", "2")
        assert (0, None) == (env.status.failures, env.status.last_error)

        await clock.advance(60)
        assert "2" == env["B"]


async def test_undo_keeps_what_others_wrote() -> None:
    """
    A load that is cancelled while it sets variables restores them, except those that another writer has changed since.
    """
    store = filled(200)
    environ = {"K00000": "before", "K00001": "before"}
    loading = asyncio.ensure_future(load_env("/R", environ=environ, store=store))
    while "K00002" not in environ:
        await asyncio.sleep(0)
    environ["K00001"] = environ["K00002"] = "theirs"

    loading.cancel()
    await asyncio.wait({loading})

    assert {"K00000": "before", "K00001": "theirs", "K00002": "theirs"} == environ


async def test_denial_of_one_env_does_not_block_another() -> None:
    """A denial that one `Env` recorded is tried again for another `Env` of the store that has no other operation."""
    store = MemoryStore({"/A/X": "1", "/B/Y": "1", "/B/Z": "1"})
    store.deny("ssm:GetParameters", "/A/*")
    store.deny("ssm:GetParameter")
    store.deny("ssm:GetParametersByPath", "/B")
    one = await load_env("/A", store=store, environ={})
    two = await load_env("/B", keys=["Y", "Z"], store=store, environ={})
    for value in ("2", "3"):
        store.set("/A/X", value)
        store.set("/B/Y", value)
        await one.refresh("X")
        await two.refresh()
        assert (value, value) == (one["X"], two["Y"])
    assert "3" == (await store.get("/B/Y")).value


async def test_denial_is_recorded_despite_an_optional_key() -> None:
    """A role that may only read single names gets one denial for a batch, even if an optional name does not exist."""
    store = MemoryStore({"/P/A": "1"})
    store.deny("ssm:GetParameters")
    env = await load_env("/P", keys=["A", "OPTIONAL"], store=store, environ={})
    store.calls.clear()

    await env.refresh()

    assert {"ssm:GetParameter"} == {call.action for call in store.calls}


class Stripped(dict[str, str]):
    """An environment that strips each value, and rejects one key."""

    def __setitem__(self, key: str, value: str) -> None:
        if key == "Z":
            raise ValueError
        super().__setitem__(key, value.strip())


async def test_changed_values_are_restored() -> None:
    """An undo restores the old values even if the environment changed the values that were written."""
    environ = Stripped(A="before")
    store = MemoryStore({"/R/A": "secret\n", "/R/B": "new\n", "/R/Z": "refused"})

    with pytest.raises(InvalidVariable, match="refused 'Z'"):
        await load_env("/R", environ=environ, store=store)

    assert {"A": "before"} == environ


async def test_partial_read_keeps_the_time_of_the_snapshot() -> None:
    """`taken_at` is the time of the last complete read, like `status.last_success`."""
    clock = ManualClock()
    store = MemoryStore({"/P/A": "1", "/P/B": "1"}, clock=clock)
    env = await load_env("/P", store=store, environ={})
    taken = env.snapshot.taken_at
    for value in ("1", "2"):
        store.set("/P/A", value)
        await clock.advance(60)
        await env.refresh("A")
        assert taken == env.snapshot.taken_at == env.status.last_success
    await env.refresh()
    assert taken < env.snapshot.taken_at == env.status.last_success


def test_store_entered_before_a_fork() -> None:
    """
    A store that the parent entered keeps no connection open in a child, because the parent's loop does not run there.
    """
    store = MemoryStore({"/P/A": "1"})

    async def begin() -> Env:
        """Enter the store, load, and do not leave it."""
        await store.__aenter__()
        return await load_env("/P", store=store, environ={})

    env = asyncio.run(begin())
    for home in (store._home, env._refresher.home):
        home._pid += 1  # the view of a child
    for _ in range(2):
        asyncio.run(env.refresh())
        assert store._transport is None
    asyncio.run(store.__aexit__(None, None, None))
    assert not store._users
