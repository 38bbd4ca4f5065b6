"""Loading over the wire: what ends up in the environment, and what does not."""

import asyncio
import os
import random
from collections.abc import Mapping

import pytest

from aiossmenv import (
    EmptyPath,
    InvalidPath,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    ParameterStore,
    load_env,
)
from embedded import Store
from faults import FaultProxy, changed, hang, ragged_pages
from timing import our_tasks


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Run the tests that have a `proxy` without TLS and with it."""
    return str(request.param)


async def write(store: Store, values: Mapping[str, str], kind: str = "SecureString") -> None:
    """Write parameters, several at once."""
    async with asyncio.TaskGroup() as group:
        for name, value in values.items():
            group.create_task(asyncio.to_thread(store.put, name, value, kind))


async def test_ragged_pages_load_exactly(ssm: Store, proxy: FaultProxy) -> None:
    """237 parameters over short and empty pages load exactly."""
    wanted = {f"KEY_{n:03d}": f"value {n}" for n in range(237)}
    await write(ssm, {f"/FAKEBOOK/TEST/{key}": value for key, value in wanted.items()})
    proxy.add(ragged_pages(random.Random(237).random))

    env = await load_env("/FAKEBOOK/TEST/")

    assert wanted == dict(env)
    assert wanted == {key: os.environ[key] for key in wanted}
    assert proxy.count("GetParametersByPath") > 40


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20])
async def test_every_page_boundary(ssm: Store, count: int) -> None:
    """A page that is exactly full, and the empty one that may follow it, lose nothing."""
    await write(ssm, {f"/P/K{n}": str(n) for n in range(count)})

    assert {f"K{n}": str(n) for n in range(count)} == dict(await load_env("/P"))


async def test_trailing_slash_and_boundary(ssm: Store, proxy: FaultProxy) -> None:
    """A final slash makes no difference, to the service neither, and a path that begins alike is another one."""
    await write(ssm, {"/FAKEBOOK/TEST/DB_URL": "here", "/FAKEBOOK/TESTING/DB_URL": "there"})

    bare, slashed = await load_env("/FAKEBOOK/TEST"), await load_env("/FAKEBOOK/TEST/")

    assert {"DB_URL": "here"} == dict(bare) == dict(slashed)
    assert {"/FAKEBOOK/TEST"} == {call.body["Path"] for call in proxy.calls}


async def test_prefix_is_taken_off_at_the_front_only(ssm: Store) -> None:
    """The path's name within a parameter's name stays."""
    await write(ssm, {"/A/A/X": "1", "/A/B/A/X": "2"})

    assert {"A_X": "1", "B_A_X": "2"} == dict(await load_env("/A/"))


async def test_types_are_kept_and_plain_values_come_too(ssm: Store) -> None:
    """`String`, `StringList` and `SecureString` all load, and say which they are."""
    await write(ssm, {"/T/PLAIN": "a"}, "String")
    await write(ssm, {"/T/LIST": "a,b"}, "StringList")
    await write(ssm, {"/T/SECRET": "s"})

    env = await load_env("/T")

    assert {"LIST": "a,b", "PLAIN": "a", "SECRET": "s"} == dict(env)
    assert {"LIST": "StringList", "PLAIN": "String", "SECRET": "SecureString"} == {
        key: parameter.type for key, parameter in env.parameters.items()
    }
    assert env.parameters["SECRET"].name == "/T/SECRET"
    assert env.parameters["SECRET"].version == 1
    assert env.parameters["SECRET"].last_modified is not None
    assert env.parameters["SECRET"].arn.endswith(":parameter/T/SECRET")


async def test_later_paths_win(ssm: Store) -> None:
    """Of several paths the later one wins, key by key, in whatever order their answers come."""
    await write(ssm, {"/COMMON/LOG": "info", "/COMMON/ONLY": "c", "/APP/LOG": "debug"})

    assert {"LOG": "debug", "ONLY": "c"} == dict(await load_env("/COMMON/", "/APP/"))
    assert {"LOG": "info", "ONLY": "c"} == dict(await load_env("/APP/", "/COMMON/"))
    assert {"LOG": "debug", "ONLY": "c"} == dict(await load_env("/APP/", "/COMMON/", "/APP"))


async def test_paths_come_from_the_environment(ssm: Store) -> None:
    """Without a path, `SSM_PATH` names one or several."""
    await write(ssm, {"/A/X": "1", "/B/Y": "2"})
    os.environ["SSM_PATH"] = "/A/, /B/"

    assert {"X": "1", "Y": "2"} == dict(await load_env())


async def test_no_path_at_all() -> None:
    """An unset `SSM_PATH` says what to set, before anything is sent."""
    with pytest.raises(InvalidPath, match=r"SSM_PATH is not set.*Set SSM_PATH to a path such as /FAKEBOOK/TEST/"):
        await load_env()


async def test_empty_path(ssm: Store) -> None:
    """A path that holds nothing is an error that names it and the region, unless it may be empty."""
    await write(ssm, {"/FAKEBOOK/TEST/X": "1"})

    with pytest.raises(EmptyPath, match=r"path /FAKEBOOK/TSET, region eu-central-1.*spelling") as caught:
        await load_env("/FAKEBOOK/TEST/", "/FAKEBOOK/TSET/")

    assert "/FAKEBOOK/TSET" == caught.value.path
    assert "eu-central-1" == caught.value.region
    assert "X" not in os.environ
    assert {"X": "1"} == dict(await load_env("/FAKEBOOK/TEST/", "/FAKEBOOK/TSET/", allow_empty=True))


async def test_collision_names_all_pairs(ssm: Store) -> None:
    """Parameters that map to one key are all named, and nothing is set."""
    await write(ssm, {"/C/db/url": "1", "/C/DB_URL": "2", "/C/a-b": "3", "/C/a.b": "4", "/C/FINE": "5"})

    with pytest.raises(KeyCollision) as caught:
        await load_env("/C")

    assert {"A_B": ("/C/a-b", "/C/a.b"), "DB_URL": ("/C/DB_URL", "/C/db/url")} == caught.value.collisions
    for name in ("/C/a-b", "/C/a.b", "/C/DB_URL", "/C/db/url"):
        assert name in str(caught.value)
    assert "FINE" not in os.environ


async def test_names_as_they_are(ssm: Store) -> None:
    """`to_key=str` keeps relative names; any function will do."""
    await write(ssm, {"/C/db/url": "1"})

    assert {"db/url": "1"} == dict(await load_env("/C", to_key=str))
    assert {"lru/bd": "1"} == dict(await load_env("/C", to_key=lambda name: name[::-1]))


@pytest.mark.parametrize("key", ["A=B", "A\0B", ""])
async def test_key_that_is_no_variable(ssm: Store, key: str) -> None:
    """A key that no environment takes is an error that names the parameter; without an environment it is fine."""
    await write(ssm, {"/C/one": "1", "/C/two": "2"})

    def to_key(name: str) -> str:
        return key if name == "two" else name

    before = dict(os.environ)
    with pytest.raises(InvalidVariable) as caught:
        await load_env("/C", to_key=to_key)

    assert "/C/two" == caught.value.parameter
    assert before == dict(os.environ)
    assert {"one": "1", key: "2"} == dict(await load_env("/C", to_key=to_key, environ=None))


async def test_value_that_is_no_variable(ssm: Store, proxy: FaultProxy) -> None:
    """A value with a NUL is an error that names the parameter and not the value."""
    await write(ssm, {"/C/one": "1", "/C/two": "marker"})
    proxy.add(
        changed(
            lambda _, page: page | {"Parameters": [p | {"Value": f"{p['Value']}\0"} for p in page["Parameters"]]},
        )
    )

    with pytest.raises(InvalidVariable, match="NUL") as caught:
        await load_env("/C")

    assert "/C/one" == caught.value.parameter
    assert "marker" not in str(caught.value)


async def test_known_keys_need_no_listing(ssm: Store, proxy: FaultProxy) -> None:
    """With `keys` one call by name does it, at any depth, and names that are not there are told of in the log."""
    await write(ssm, {"/K/DB_URL": "here", "/K/db/user": "me", "/K/OTHER": "no"})

    env = await load_env("/K/", keys=["DB_URL", "/db/user", "NOT_THERE"])

    assert {"DB_URL": "here", "DB_USER": "me"} == dict(env)
    assert ["GetParameters"] == [call.operation for call in proxy.calls]


async def test_more_than_ten_keys(ssm: Store, proxy: FaultProxy) -> None:
    """Names go ten to a call, each once."""
    await write(ssm, {f"/K/K{n}": str(n) for n in range(23)})

    env = await load_env("/K/", keys=[f"K{n}" for n in range(23)] * 2)

    assert 23 == len(env)
    assert [3, 10, 10] == sorted(len(call.body["Names"]) for call in proxy.calls)


async def test_keys_of_several_paths(ssm: Store) -> None:
    """Each name is looked for under each path, and the later path wins."""
    await write(ssm, {"/COMMON/LOG": "info", "/COMMON/URL": "u", "/APP/LOG": "debug"})

    assert {"LOG": "debug", "URL": "u"} == dict(await load_env("/COMMON", "/APP", keys=["LOG", "URL"]))


async def test_required_keys(ssm: Store) -> None:
    """What is required and missing is named all at once, sorted, and nothing is set."""
    await write(ssm, {"/R/DB_URL": "here"})

    with pytest.raises(MissingParameters, match="DB_PASSWORD, DB_USER") as caught:
        await load_env("/R", required=["DB_USER", "DB_URL", "DB_PASSWORD"])

    assert ("DB_PASSWORD", "DB_USER") == caught.value.keys
    assert "/R" == caught.value.path
    assert "DB_URL" not in os.environ
    assert 1 == len(await load_env("/R", required=["DB_URL"]))


async def test_direct_children_only(ssm: Store) -> None:
    """`recursive=False` leaves deeper levels out."""
    await write(ssm, {"/R/X": "1", "/R/DEEP/X": "2"})

    assert {"X": "1"} == dict(await load_env("/R", recursive=False))
    assert {"X": "1", "DEEP_X": "2"} == dict(await load_env("/R"))


async def test_root_path(ssm: Store) -> None:
    """`/` is everything."""
    await write(ssm, {"/X": "1", "/DEEP/X": "2"})

    assert {"X": "1", "DEEP_X": "2"} == dict(await load_env("/"))


async def test_other_environments(ssm: Store) -> None:
    """Any mapping can be filled, or none."""
    await write(ssm, {"/R/MINE": "1"})
    mine: dict[str, str] = {"OTHER": "stays"}

    await load_env("/R", environ=mine)
    await load_env("/R", environ=None)

    assert {"MINE": "1", "OTHER": "stays"} == mine
    assert "MINE" not in os.environ


async def test_variables_that_were_there(ssm: Store) -> None:
    """A variable that was there is replaced, or with `override=False` wins and is listed."""
    await write(ssm, {"/R/X": "store", "/R/Y": "store"})
    os.environ["X"] = "mine"

    gentle = await load_env("/R", override=False)
    assert ("mine", "store") == (os.environ["X"], os.environ["Y"])
    assert {"X"} == gentle.shadowed
    assert "store" == gentle["X"]

    firm = await load_env("/R")
    assert "store" == os.environ["X"]
    assert frozenset() == firm.shadowed


async def test_environment_that_refuses_a_variable(ssm: Store) -> None:
    """A mapping that refuses one variable keeps none of them."""
    await write(ssm, {"/R/A": "1", "/R/B": "2", "/R/C": "3"})

    class Picky(dict[str, str]):
        def __setitem__(self, key: str, value: str) -> None:
            if key == "C":
                raise OSError(f"no room for {value}")
            super().__setitem__(key, value)

    picky = Picky(A="before")
    with pytest.raises(InvalidVariable, match="refused 'C'"):
        await load_env("/R", environ=picky)

    assert {"A": "before"} == picky


async def test_a_load_is_awaited_once(ssm: Store) -> None:
    """The same object cannot be awaited twice."""
    await write(ssm, {"/R/A": "1"})
    loading = load_env("/R")
    await loading

    with pytest.raises(RuntimeError, match="already awaited"):
        await loading


async def test_a_load_is_a_coroutine(ssm: Store) -> None:
    """It can be made a task, alone and in a group, and be closed unawaited."""
    await write(ssm, {"/R/A": "1"})
    async with asyncio.TaskGroup() as group:
        task = group.create_task(load_env("/R"))
    assert {"A": "1"} == dict(task.result())

    load_env("/R").close()


async def test_cancelled_load_leaves_nothing(ssm: Store, proxy: FaultProxy) -> None:
    """A load that is cancelled, at whichever moment, has set nothing and leaves no task and no connection."""
    await write(ssm, {f"/R/A{n}": "1" for n in range(25)})
    proxy.add(hang(0.02))
    for turns in [*range(20), *range(20, 1000, 49)]:
        task = asyncio.create_task(load_env("/R"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set() == await our_tasks()
        assert "A1" not in os.environ
    assert 25 == len(await load_env("/R"))


async def test_forgotten_await_is_reported() -> None:
    """Who forgets the `await` is told of a coroutine `load_env`."""
    with pytest.warns(RuntimeWarning, match="coroutine 'load_env' was never awaited"):
        load_env("/R")  # type: ignore[unused-awaitable] # which is the other way to be told


async def test_nothing_stays_open_without_a_ttl(ssm: Store) -> None:
    """After a load and after a refresh there is no client and no task; `refresh()` opens what it needs."""
    await write(ssm, {"/R/A": "1"})
    outer = ParameterStore()

    env = await load_env("/R", store=outer)
    assert outer.region is None
    assert set() == await our_tasks()

    await write(ssm, {"/R/A": "2"})
    assert ["A"] == [change.key for change in await env.refresh()]
    assert "2" == os.environ["A"]
    assert outer.region is None
    assert set() == await our_tasks()


async def test_options_that_cannot_be(ssm: Store) -> None:
    """Mistakes that a type checker may miss are caught where they are made."""
    with pytest.raises(TypeError, match=r"keys=\['DB_URL'\]"):
        await load_env("/R", keys="DB_URL")
    with pytest.raises(TypeError, match="required"):
        await load_env("/R", required="DB_URL")
    with pytest.raises(ValueError, match="ttl"):
        await load_env("/R", ttl=0)
    with pytest.raises(ValueError, match="deadline"):
        await load_env("/R", deadline=-1)
    with pytest.raises(TypeError, match="ttl is a number of seconds, not a str"):
        await load_env("/R", ttl="60")  # type: ignore[arg-type] # as from an environment variable
    with pytest.raises(ValueError, match=r"max_stale is at least ttl \(60\)"):
        await load_env("/R", ttl=60, max_stale=10)
    with pytest.raises(TypeError, match="several arguments"):
        await load_env(["/A", "/B"])  # type: ignore[arg-type] # what one tries first
    with pytest.raises(InvalidPath, match="begins with a slash"):
        await load_env("R/")
    async with ParameterStore() as store:
        with pytest.raises(TypeError, match=r"get_many\(\['/R/A'\]\)"):
            await store.get_many("/R/A")
    with pytest.raises(ValueError, match="max_concurrency"):
        ParameterStore(max_concurrency=0)
