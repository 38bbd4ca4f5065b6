"""`Env` without a wire: cancellation at every await, and many parameters without a stall."""

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
    """
    After any history of writes and refreshes, two complete ones show what the store holds, here and in the environment.
    """

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


async def test_nested_paths_are_read_once() -> None:
    """A path within another needs no reads of its own, and no listing at each refresh."""
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
    A key is looked for directly below each path, and what is below one by way of another is none that was asked for.
    """
    store = MemoryStore({"/P/X": "1", "/P/B/X": "2"})

    assert {"X": "2"} == dict(await load_env("/P", "/P/B", store=store, environ={}, keys=["X"]))


@pytest.mark.parametrize("paths", [(), ("/P",)])
async def test_secrets_alone(paths: tuple[str, ...]) -> None:
    """Secrets of Secrets Manager need no path, nor anything below one; a stage is no part of the key."""
    name = "/aws/reference/secretsmanager/prod/db"
    store = MemoryStore({name: "secret"})
    store.label(name, "AWSPREVIOUS")
    env = await load_env(*paths, store=store, environ={}, keys=[name])

    assert {"PROD_DB": "secret"} == dict(env)
    assert "prod" not in repr(env)


async def test_a_refresh_of_some_keys_may_list() -> None:
    """A role that may list only reads some keys by listing their path, each time, and learns so once."""
    store = MemoryStore({"/P/A": "1", "/Q/B": "1"})
    store.deny("ssm:GetParameter")
    store.deny("ssm:GetParameters")
    env = await load_env("/P", "/Q", store=store, environ={})
    for value in ("2", "3"):
        store.put("/P/A", value)
        store.put("/Q/B", value)
        store.calls.clear()
        assert ["A", "B"] == [change.key for change in await env.refresh("A", "B")]
        assert {"A": value, "B": value} == dict(env)
    assert {"ssm:GetParametersByPath"} == {call.action for call in store.calls}

    with pytest.raises(AccessDenied):
        await load_env("/P", keys=["A"], store=store, environ={})


async def test_a_name_that_is_forbidden_is_no_denial_of_the_others() -> None:
    """Ten names are denied for one that is forbidden; those that are not are read together ever after."""
    store = MemoryStore({"/P/A": "1", "/P/SECRET": "1"})
    store.deny("ssm:GetParameter*", "/P/SECRET")
    store.deny("ssm:GetParameter", "/P/A")

    for _ in range(2):
        with pytest.raises(AccessDenied):
            await load_env("/P", keys=["A", "SECRET"], store=store, environ={})
        assert {"A": "1"} == dict(await load_env("/P", keys=["A"], store=store, environ={}))


async def test_a_waiter_is_not_served_by_a_refresh_that_failed() -> None:
    """Who waits for the gap reads by themselves, if what somebody else began meanwhile failed."""
    clock = ManualClock()
    store = MemoryStore({"/P/A": "1"}, clock=clock)
    env = await load_env("/P", store=store, environ={})
    await env.refresh("A")
    store.put("/P/A", "2")
    waiter = asyncio.ensure_future(env.refresh("A", min_gap=10))
    await clock.advance(5)
    store.deny("ssm:*")
    with pytest.raises(AccessDenied):
        await env.refresh("A")
    store.heal()

    await clock.advance(20)

    assert ["A"] == [change.key for change in await waiter]


async def test_a_waiter_ends_with_the_env() -> None:
    """Who waits for the gap when the `Env` is closed is told so, and reads nothing."""
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


async def test_some_keys_bring_what_belongs_to_them() -> None:
    """A refresh of one key reads with it what somebody follows together with it, in the same call."""
    store = MemoryStore({"/P/USER": "a", "/P/PASSWORD": "a", "/P/OTHER": "a"})
    env = await load_env("/P", store=store, environ={})
    env.group("USER", "PASSWORD")
    for name in ("/P/USER", "/P/PASSWORD", "/P/OTHER"):
        store.put(name, "b")
    store.calls.clear()

    await env.refresh("PASSWORD")

    assert {"USER": "b", "PASSWORD": "b", "OTHER": "a"} == dict(env)
    assert 1 == len(store.calls)


async def test_forced_refreshes_that_fail_put_nothing_off() -> None:
    """
    What fails for some keys, throttled too, is told to who asked; refreshes of everything come when they would have.
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
        store.put("/P/B", "2")
        assert (0, None) == (env.status.failures, env.status.last_error)

        await clock.advance(60)
        assert "2" == env["B"]


async def test_an_undone_publication_leaves_what_others_wrote() -> None:
    """A load that is cancelled while it writes puts back what it wrote, and not what somebody wrote over it."""
    store = filled(200)
    environ = {"K00000": "before", "K00001": "before"}
    loading = asyncio.ensure_future(load_env("/R", environ=environ, store=store))
    while "K00002" not in environ:
        await asyncio.sleep(0)
    environ["K00001"] = environ["K00002"] = "theirs"

    loading.cancel()
    await asyncio.wait({loading})

    assert {"K00000": "before", "K00001": "theirs", "K00002": "theirs"} == environ


async def test_a_denial_of_one_env_leaves_the_others_their_way() -> None:
    """What an `Env` learned of its own path is asked for once more where another one of the store has no other way."""
    store = MemoryStore({"/A/X": "1", "/B/Y": "1", "/B/Z": "1"})
    store.deny("ssm:GetParameters", "/A/*")
    store.deny("ssm:GetParameter")
    store.deny("ssm:GetParametersByPath", "/B")
    one = await load_env("/A", store=store, environ={})
    two = await load_env("/B", keys=["Y", "Z"], store=store, environ={})
    for value in ("2", "3"):
        store.put("/A/X", value)
        store.put("/B/Y", value)
        await one.refresh("X")
        await two.refresh()
        assert (value, value) == (one["X"], two["Y"])
    assert "3" == (await store.get("/B/Y")).value


async def test_an_optional_key_does_not_keep_a_denial_from_being_learned() -> None:
    """A role that may read singly only is refused ten names once, whether or not all names are there."""
    store = MemoryStore({"/P/A": "1"})
    store.deny("ssm:GetParameters")
    env = await load_env("/P", keys=["A", "OPTIONAL"], store=store, environ={})
    store.calls.clear()

    await env.refresh()

    assert {"ssm:GetParameter"} == {call.action for call in store.calls}


class Stripped(dict[str, str]):
    """An environment that strips what it is given, and refuses one key."""

    def __setitem__(self, key: str, value: str) -> None:
        if key == "Z":
            raise ValueError
        super().__setitem__(key, value.strip())


async def test_an_environment_that_changes_what_it_is_given_is_put_back() -> None:
    """What was written is undone, whatever an environment made of it."""
    environ = Stripped(A="before")
    store = MemoryStore({"/R/A": "secret\n", "/R/B": "new\n", "/R/Z": "refused"})

    with pytest.raises(InvalidVariable, match="refused 'Z'"):
        await load_env("/R", environ=environ, store=store)

    assert {"A": "before"} == environ


async def test_a_read_of_some_keys_makes_no_snapshot_younger() -> None:
    """`taken_at` is of the last read of everything, as `status.last_success` is."""
    clock = ManualClock()
    store = MemoryStore({"/P/A": "1", "/P/B": "1"}, clock=clock)
    env = await load_env("/P", store=store, environ={})
    taken = env.snapshot.taken_at
    for value in ("1", "2"):
        store.put("/P/A", value)
        await clock.advance(60)
        await env.refresh("A")
        assert taken == env.snapshot.taken_at == env.status.last_success
    await env.refresh()
    assert taken < env.snapshot.taken_at == env.status.last_success


def test_a_store_that_was_entered_before_a_fork() -> None:
    """In a child the block that a parent entered keeps no connection open, for it would be of a loop that is over."""
    store = MemoryStore({"/P/A": "1"})

    async def begin() -> Env:
        """Enter, load, and do not leave."""
        await store.__aenter__()
        return await load_env("/P", store=store, environ={})

    env = asyncio.run(begin())
    for home in (store._home, env._refresher.home):
        home._pid += 1  # as a child sees them
    for _ in range(2):
        asyncio.run(env.refresh())
        assert store._transport is None
    asyncio.run(store.__aexit__(None, None, None))
    assert not store._users
