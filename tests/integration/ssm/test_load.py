"""Loads over the wire: what is set in the environment, and what is not."""

import asyncio
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path

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
from faults import FaultProxy, changed, error, hang, ragged_pages
from timing import our_tasks


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Run the tests that use `proxy` without TLS and with it."""
    return str(request.param)


async def write(store: Store, values: Mapping[str, str], kind: str = "SecureString") -> None:
    """Write parameters, several at once."""
    async with asyncio.TaskGroup() as group:
        for name, value in values.items():
            group.create_task(asyncio.to_thread(store.put, name, value, kind))


async def test_ragged_pages(ssm: Store, proxy: FaultProxy) -> None:
    """237 parameters on short and empty pages load completely."""
    wanted = {f"KEY_{n:03d}": f"value {n}" for n in range(237)}
    await write(ssm, {f"/FAKEBOOK/TEST/{key}": value for key, value in wanted.items()})
    proxy.add(ragged_pages(random.Random(237).random))

    env = await load_env("/FAKEBOOK/TEST/")

    assert wanted == dict(env)
    assert wanted == {key: os.environ[key] for key in wanted}
    assert proxy.count("GetParametersByPath") > 40


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20])
async def test_every_page_boundary(ssm: Store, count: int) -> None:
    """A full page, and the empty page that may follow it, lose nothing."""
    await write(ssm, {f"/P/K{n}": str(n) for n in range(count)})

    assert {f"K{n}": str(n) for n in range(count)} == dict(await load_env("/P"))


async def test_trailing_slash_and_boundary(ssm: Store, proxy: FaultProxy) -> None:
    """
    A final slash makes no difference, and it is not sent; a path that only starts with the same text is another path.
    """
    await write(ssm, {"/FAKEBOOK/TEST/DB_URL": "here", "/FAKEBOOK/TESTING/DB_URL": "there"})

    bare, slashed = await load_env("/FAKEBOOK/TEST"), await load_env("/FAKEBOOK/TEST/")

    assert {"DB_URL": "here"} == dict(bare) == dict(slashed)
    assert {"/FAKEBOOK/TEST"} == {call.body["Path"] for call in proxy.calls}


async def test_prefix_is_removed_only_at_the_start(ssm: Store) -> None:
    """If the path's text occurs again inside a name, it stays."""
    await write(ssm, {"/A/A/X": "1", "/A/B/A/X": "2"})

    assert {"A_X": "1", "B_A_X": "2"} == dict(await load_env("/A/"))


async def test_types_are_kept(ssm: Store) -> None:
    """`String`, `StringList` and `SecureString` all load, and keep their type."""
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
    """Of several paths the later one wins for each key, in whatever order the answers arrive."""
    await write(ssm, {"/COMMON/LOG": "info", "/COMMON/ONLY": "c", "/APP/LOG": "debug"})

    assert {"LOG": "debug", "ONLY": "c"} == dict(await load_env("/COMMON/", "/APP/"))
    assert {"LOG": "info", "ONLY": "c"} == dict(await load_env("/APP/", "/COMMON/"))
    assert {"LOG": "debug", "ONLY": "c"} == dict(await load_env("/APP/", "/COMMON/", "/APP"))


async def test_paths_come_from_the_environment(ssm: Store) -> None:
    """Without a path argument, `SSM_PATH` names one or several paths."""
    await write(ssm, {"/A/X": "1", "/B/Y": "2"})
    os.environ["SSM_PATH"] = "/A/, /B/"

    assert {"X": "1", "Y": "2"} == dict(await load_env())


async def test_no_path_at_all() -> None:
    """If `SSM_PATH` is unset too, the error says what to set, before anything is sent."""
    with pytest.raises(InvalidPath, match=r"SSM_PATH is not set.*Set SSM_PATH to a path such as /FAKEBOOK/TEST/"):
        await load_env()


async def test_empty_path(ssm: Store) -> None:
    """A path without parameters is an error that names it and the region, unless `allow_empty` is set."""
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
    """`to_key=str` keeps relative names, and any other function works too."""
    await write(ssm, {"/C/db/url": "1"})

    assert {"db/url": "1"} == dict(await load_env("/C", to_key=str))
    assert {"lru/bd": "1"} == dict(await load_env("/C", to_key=lambda name: name[::-1]))


@pytest.mark.parametrize("key", ["A=B", "A\0B", ""])
async def test_invalid_variable_name(ssm: Store, key: str) -> None:
    """A key that is no valid variable name is an error that names the parameter; without an environment it is valid."""
    await write(ssm, {"/C/one": "1", "/C/two": "2"})

    def to_key(name: str) -> str:
        return key if name == "two" else name

    before = dict(os.environ)
    with pytest.raises(InvalidVariable) as caught:
        await load_env("/C", to_key=to_key)

    assert "/C/two" == caught.value.parameter
    assert before == dict(os.environ)
    assert {"one": "1", key: "2"} == dict(await load_env("/C", to_key=to_key, environ=None))


async def test_invalid_variable_value(ssm: Store, proxy: FaultProxy) -> None:
    """A value with a NUL is an error that names the parameter and does not show the value."""
    await write(ssm, {"/C/one": "1", "/C/two": "marker"})
    proxy.add(
        changed(
            lambda _, page: page | {"Parameters": [p | {"Value": f"{p['Value']}\0"} for p in page["Parameters"]]},
        )
    )

    with pytest.raises(InvalidVariable, match="NUL") as caught:
        await load_env("/C")

    assert "/C/one, /C/two" == caught.value.parameter
    assert "marker" not in str(caught.value)


async def test_known_keys_need_no_listing(ssm: Store, proxy: FaultProxy) -> None:
    """With `keys`, one call by name loads them, at any depth."""
    await write(ssm, {"/K/DB_URL": "here", "/K/db/user": "me", "/K/OTHER": "no"})

    env = await load_env("/K/", keys=["DB_URL", "db/user", "NOT_THERE"])

    assert {"DB_URL": "here", "DB_USER": "me"} == dict(env)
    assert ["GetParameters"] == [call.operation for call in proxy.calls]


async def test_more_than_ten_keys(ssm: Store, proxy: FaultProxy) -> None:
    """Names go ten to a call, each once."""
    await write(ssm, {f"/K/K{n}": str(n) for n in range(23)})

    env = await load_env("/K/", keys=[f"K{n}" for n in range(23)] * 2)

    assert 23 == len(env)
    assert [3, 10, 10] == sorted(len(call.body["Names"]) for call in proxy.calls)


async def test_keys_of_several_paths(ssm: Store) -> None:
    """Each key is requested under each path, and the later path wins."""
    await write(ssm, {"/COMMON/LOG": "info", "/COMMON/URL": "u", "/APP/LOG": "debug"})

    assert {"LOG": "debug", "URL": "u"} == dict(await load_env("/COMMON", "/APP", keys=["LOG", "URL"]))


async def test_full_names_are_keys(ssm: Store, proxy: FaultProxy) -> None:
    """
    A full name below a path is that parameter, also with a version or a label, and belongs only to its nearest path.
    """
    for value in ("1", "2"):
        await write(ssm, {"/P/mysql/password": value})
    ssm.client.label_parameter_version(Name="/P/mysql/password", ParameterVersion=1, Labels=["old"])
    await write(ssm, {"/P/mysql/user": "u", "/Q/mysql/password": "q", "/Q/x": "x", "/P/x": "p"})

    for key, value in (("", "2"), (":1", "1"), (":old", "1")):
        env = await load_env("/P", keys=[f"/P/mysql/password{key}", "mysql/user"])
        assert {"MYSQL_PASSWORD": value, "MYSQL_USER": "u"} == dict(env)
    proxy.calls.clear()
    env = await load_env("/P", "/Q/mysql", "/Q", keys=["/P/x", "/Q/mysql/password", "/P/x", "x"])
    assert {"X": "x", "PASSWORD": "q"} == dict(env)
    names = sorted(name for call in proxy.calls for name in call.body["Names"])
    assert ["/P/x", "/Q/mysql/password", "/Q/mysql/x", "/Q/x"] == names
    await write(ssm, {"/Q/mysql/password": "q2"})
    assert ["PASSWORD"] == [change.key for change in await env.refresh()]
    await write(ssm, {"/Q/mysql/password": "q3"})
    assert ["PASSWORD"] == [change.key for change in await env.refresh("PASSWORD")]


async def test_no_keys_at_all(proxy: FaultProxy) -> None:
    """An empty list of keys has its own error, different from missing keys."""
    with pytest.raises(EmptyPath, match="keys= is empty"):
        await load_env("/P", keys=[])
    with pytest.raises(EmptyPath, match="none of the keys is there: /P/x, /P/y"):
        await load_env("/P", keys=["x", "/P/y"])


async def test_invalid_keys(proxy: FaultProxy) -> None:
    """A full name outside the paths, a wildcard, and other invalid names are rejected before anything is sent."""
    for keys in (["/Q/x"], ["x", "*"], [""], ["x", "'y'"]):
        with pytest.raises(InvalidPath) as caught:
            await load_env("/P", keys=keys)
        assert keys[-1] == caught.value.parameter
    assert 0 == proxy.count()


async def test_missing_keys_warn(ssm: Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    """A warning lists keys that no path contains, by full name: at the first load, and whenever the list changes."""
    await write(ssm, {"/P/a": "1", "/Q/b": "1"})

    def warnings_logged() -> list[str]:
        records = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return [text.removeprefix("not in Parameter Store: ") for level, text in records if level == "WARNING"]

    env = await load_env("/P", "/Q", keys=["a", "b", "c", "/Q/d"])
    assert ["/P/c, /Q/c, /Q/d"] == warnings_logged()
    await env.refresh()
    await env.refresh("A")
    assert [] == warnings_logged()
    await write(ssm, {"/P/c": "1"})
    await env.refresh()
    assert ["/Q/d"] == warnings_logged()
    ssm.delete("/P/a")
    for _ in range(3):
        await env.refresh()
    assert ["/P/a, /Q/a, /Q/d"] == warnings_logged()
    await write(ssm, {"/P/a": "1", "/Q/d": "1"})
    await env.refresh()
    await env.refresh()
    assert [] == warnings_logged()


async def test_path_that_is_a_parameter(ssm: Store, proxy: FaultProxy) -> None:
    """If a path is the name of one parameter, the error says so and how to read it; that costs one request."""
    with pytest.raises(EmptyPath, match="there is no parameter under this path"):
        await load_env("/")
    assert 1 == proxy.count()
    proxy.calls.clear()
    await write(ssm, {"/P/a/b": "1", "/TOP": "1"})

    with pytest.raises(EmptyPath, match=r"name of a parameter.*\(path /P/a/b.*load_env\('/P/a'\).*keys=\['b'\]"):
        await load_env("/P/a/b/")
    assert ["GetParametersByPath", "GetParameters"] == [call.operation for call in proxy.calls]
    assert not proxy.calls[1].body["WithDecryption"]
    with pytest.raises(EmptyPath, match=r"load_env\('/', keys=\['TOP'\]"):
        await load_env("/TOP")
    with pytest.raises(EmptyPath, match="there is no parameter under this path"):
        await load_env("/P/NOT")
    assert [] == list(await load_env("/P/a/b", allow_empty=True))


@pytest.mark.parametrize("fault", ["denied", "hangs"])
async def test_path_whose_parameter_cannot_be_checked(ssm: Store, proxy: FaultProxy, fault: str) -> None:
    """If that request is denied or times out, the error stays the same, and no denial is recorded."""
    await write(ssm, {"/P/b": "1", "/R/x": "1"})
    text = (
        "User: x is not authorized to perform: ssm:GetParameters on resource: arn:aws:ssm:eu-central-1:1:parameter/P/b"
    )
    proxy.add(error("AccessDeniedException", text) if fault == "denied" else hang(), operation="GetParameters", times=1)

    async with ParameterStore(deadline=1) as store:
        with pytest.raises(EmptyPath, match="there is no parameter under this path"):
            await load_env("/P/b", store=store)
        proxy.calls.clear()
        await load_env("/R", keys=["x"], store=store)
    assert ["GetParameters"] == [call.operation for call in proxy.calls]
    assert set() == await our_tasks()


async def test_protected_keys(ssm: Store, proxy: FaultProxy) -> None:
    """Parameters that would run code are all rejected, and nothing is set; without an environment they are loaded."""
    await write(ssm, {"/P/PATH": "/evil", "/P/ld/preload": "/evil.so", "/P/PYTHONPATH": "/evil", "/P/DB_URL": "x"})
    before = dict(os.environ)

    for environ in (None, {"DB_URL": "mine"}):
        options = {} if environ is None else {"environ": environ}
        with pytest.raises(InvalidVariable, match="'LD_PRELOAD'.*'PATH'.*'PYTHONPATH'.*Rename") as caught:
            await load_env("/P", **options)  # type: ignore[arg-type]
        assert "/P/ld/preload, /P/PATH, /P/PYTHONPATH" == caught.value.parameter
        assert environ in (None, {"DB_URL": "mine"})
    assert before == dict(os.environ)
    assert 4 == len(await load_env("/P", environ=None))
    filled: dict[str, str] = {}
    await load_env("/P", environ=filled, protected=())
    assert {"PATH", "LD_PRELOAD", "PYTHONPATH", "DB_URL"} == set(filled)
    with pytest.raises(InvalidVariable, match="'DB_URL'"):
        await load_env("/P", environ={}, protected=(name for name in ["DB_*"]))


async def test_refresh_that_finds_a_protected_key(ssm: Store, proxy: FaultProxy) -> None:
    """
    A refresh that finds a protected key fails and keeps the last good values; without the key the next one succeeds.
    """
    await write(ssm, {"/P/DB_URL": "old"})
    filled: dict[str, str] = {}
    env = await load_env("/P", environ=filled)
    await write(ssm, {"/P/DB_URL": "new", "/P/LD_PRELOAD": "/evil.so"})

    for _ in range(2):
        with pytest.raises(InvalidVariable, match="'LD_PRELOAD' of /P/LD_PRELOAD"):
            await env.refresh()
    assert ({"DB_URL": "old"}, {"DB_URL": "old"}, 2) == (dict(env), filled, env.status.failures)
    ssm.delete("/P/LD_PRELOAD")
    await env.refresh()
    assert {"DB_URL": "new"} == dict(env) == filled


async def test_variables_of_the_sdk_warn(ssm: Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    """A load that sets or a refresh that unsets variables of the SDK warns once, and the warning shows no value."""
    await write(ssm, {"/P/AWS_REGION": "eu-west-9", "/P/https-proxy": "http://marker", "/P/DB_URL": "x"})

    def warnings_logged() -> list[str]:
        texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return texts

    await load_env("/P", environ={})
    assert [] == warnings_logged()
    env = await load_env("/P")
    (text,) = warnings_logged()
    assert text.startswith("/P sets variables that AWS SDKs read: AWS_REGION, HTTPS_PROXY;")
    await write(ssm, {"/P/AWS_REGION": "eu-west-8", "/P/DB_URL": "y"})
    await env.refresh()
    assert [] == warnings_logged()
    await write(ssm, {"/P/NO_PROXY": "marker"})
    await env.refresh()
    assert [True] == [text.startswith("/P sets variables that AWS SDKs read: NO_PROXY;") for text in warnings_logged()]
    ssm.delete("/P/AWS_REGION")
    await env.refresh()
    await env.refresh()
    assert [True] == [
        text.startswith("/P unsets variables that AWS SDKs read: AWS_REGION;") for text in warnings_logged()
    ]
    assert "AWS_REGION" not in os.environ


IN_ANOTHER_LOCALE = """
import asyncio
from aiossmenv import InvalidVariable, load_env
try:
    asyncio.run(load_env("/P"))
except InvalidVariable as error:
    print(ascii(error.parameter), ascii(str(error)))
print(ascii(dict(asyncio.run(load_env("/P", environ={})))))
"""


async def test_locale_without_a_character(ssm: Store) -> None:
    """
    If the locale cannot encode a value, the error names the parameter and the locale; another mapping accepts the
    value.
    """
    await write(ssm, {"/P/GREETING": "grün", "/P/PLAIN": "x"})
    variables = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", IN_ANOTHER_LOCALE), env={**os.environ, **variables}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()

    first, second = out.decode().splitlines()
    assert first.startswith(
        "'/P/GREETING' \"'GREETING' of /P/GREETING holds a character that the locale's encoding, ascii,"
    )
    assert "PYTHONUTF8=1" in first
    assert "gr\\xfcn" not in first
    assert "{'GREETING': 'gr\\xfcn', 'PLAIN': 'x'}" == second


ON_WHICH_THREAD = """
import asyncio, sys, threading
from aiossmenv import load_env
imported = set()
def note(event, arguments):
    if event == "import" and threading.current_thread() is threading.main_thread():
        imported.add(arguments[0])
async def main():
    sys.addaudithook(note)
    await load_env("/P", environ=None)
asyncio.run(main())
print(*sorted(imported & {"aiossmenv._client", "urllib.request", "http.client", "aioboto3", "botocore", "aiohttp"}))
"""


async def test_imports_do_not_block_the_loop(ssm: Store) -> None:
    """What the first request of a process needs is imported in threads, so that the event loop keeps running."""
    await write(ssm, {"/P/PLAIN": "x"})

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ON_WHICH_THREAD), env=os.environ, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()

    assert (0, "") == (process.returncode, out.decode().strip())


async def test_required_keys(ssm: Store) -> None:
    """Every missing required key is named, sorted, and nothing is set."""
    await write(ssm, {"/R/DB_URL": "here"})

    with pytest.raises(MissingParameters, match="DB_PASSWORD, DB_USER") as caught:
        await load_env("/R", required=["DB_USER", "DB_URL", "DB_PASSWORD"])

    assert ("DB_PASSWORD", "DB_USER") == caught.value.keys
    assert "/R" == caught.value.path
    assert "DB_URL" not in os.environ
    assert 1 == len(await load_env("/R", required=["DB_URL"]))


async def test_direct_children_only(ssm: Store) -> None:
    """`recursive=False` excludes deeper levels."""
    await write(ssm, {"/R/X": "1", "/R/DEEP/X": "2"})

    assert {"X": "1"} == dict(await load_env("/R", recursive=False))
    assert {"X": "1", "DEEP_X": "2"} == dict(await load_env("/R"))


async def test_root_path(ssm: Store) -> None:
    """`/` loads all parameters."""
    await write(ssm, {"/X": "1", "/DEEP/X": "2"})

    assert {"X": "1", "DEEP_X": "2"} == dict(await load_env("/"))


async def test_other_environments(ssm: Store) -> None:
    """`environ` may be any mapping, or None."""
    await write(ssm, {"/R/MINE": "1"})
    mine: dict[str, str] = {"OTHER": "stays"}

    await load_env("/R", environ=mine)
    await load_env("/R", environ=None)

    assert {"MINE": "1", "OTHER": "stays"} == mine
    assert "MINE" not in os.environ


async def test_existing_variables(ssm: Store) -> None:
    """An existing variable is replaced; with `override=False` it stays and is listed as shadowed."""
    await write(ssm, {"/R/X": "store", "/R/Y": "store"})
    os.environ["X"] = "mine"

    gentle = await load_env("/R", override=False)
    assert ("mine", "store") == (os.environ["X"], os.environ["Y"])
    assert {"X"} == gentle.shadowed
    assert "store" == gentle["X"]

    firm = await load_env("/R")
    assert "store" == os.environ["X"]
    assert frozenset() == firm.shadowed


async def test_environment_that_rejects_a_variable(ssm: Store) -> None:
    """A mapping that rejects one variable keeps none of the others."""
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


async def test_load_is_awaited_once(ssm: Store) -> None:
    """The same object cannot be awaited twice."""
    await write(ssm, {"/R/A": "1"})
    loading = load_env("/R")
    await loading

    with pytest.raises(RuntimeError, match="already awaited"):
        await loading


async def test_load_is_a_coroutine(ssm: Store) -> None:
    """It can become a task, alone or in a group, and can be closed without an await."""
    await write(ssm, {"/R/A": "1"})
    async with asyncio.TaskGroup() as group:
        task = group.create_task(load_env("/R"))
    assert {"A": "1"} == dict(task.result())

    load_env("/R").close()


async def test_cancelled_load_leaves_nothing(ssm: Store, proxy: FaultProxy) -> None:
    """A load that is cancelled at any moment sets nothing, and leaves no task and no connection."""
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


async def test_forgotten_await_warns() -> None:
    """Without an `await`, Python warns about a coroutine `load_env`."""
    with pytest.warns(RuntimeWarning, match="coroutine 'load_env' was never awaited"):
        load_env("/R")  # type: ignore[unused-awaitable] # mypy reports it too


async def test_nothing_stays_open_without_a_ttl(ssm: Store) -> None:
    """After a load or a refresh no client and no task is left; `refresh()` opens what it needs."""
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


async def test_invalid_options(ssm: Store) -> None:
    """Mistakes that a type checker may miss are raised where they are made."""
    with pytest.raises(TypeError, match=r"keys=\['DB_URL'\]"):
        await load_env("/R", keys="DB_URL")
    with pytest.raises(TypeError, match="required"):
        await load_env("/R", required="DB_URL")
    with pytest.raises(ValueError, match="ttl"):
        await load_env("/R", ttl=0)
    with pytest.raises(ValueError, match="deadline"):
        await load_env("/R", deadline=-1)
    with pytest.raises(TypeError, match="ttl is a number of seconds, not a str"):
        await load_env("/R", ttl="60")  # type: ignore[arg-type] # as read from a variable
    with pytest.raises(ValueError, match=r"max_stale is at least ttl \(60\)"):
        await load_env("/R", ttl=60, max_stale=10)
    with pytest.raises(TypeError, match="several arguments"):
        await load_env(["/A", "/B"])  # type: ignore[arg-type] # a common mistake
    with pytest.raises(InvalidPath, match="begins with a slash"):
        await load_env("R/")
    for path, says in (
        (None, r"path 2 is None, not a str: os.environ.get\(\) returns None"),
        (Path("/A"), "path 2 is of type PosixPath, not a str: .*write '/A'"),
        (b"/A", "path 2 is of type bytes, not a str: decode"),
        (5, "path 2 is of type int, not a str"),
        (["/A"], "path 2 is of type list, not a str: several paths are several arguments"),
    ):
        with pytest.raises(TypeError, match=says):
            await load_env("/R", path)  # type: ignore[arg-type]
    for option in ("keys", "required", "protected"):
        for names, says in (
            ("A", rf"{option} takes several names: write {option}=\['A'\]"),
            (b"A", rf"{option} takes several names"),
            (5, f"{option} takes several names, as a list, not int"),
            (["A", None], rf"{option}\[1\] is None, not a str"),
            ([Path("A")], rf"{option}\[0\] is of type PosixPath, not a str"),
            ([b"A"], rf"{option}\[0\] is of type bytes, not a str"),
            ([["A"]], rf"{option}\[0\] is of type list, not a str: give each name by itself"),
            ((key for key in (1,)), rf"{option}\[0\] is of type int, not a str"),
        ):
            with pytest.raises(TypeError, match=says):
                await load_env("/R", **{option: names})  # type: ignore[arg-type]
    os.environ["SSM_PATH"] = "'/R'"
    with pytest.raises(InvalidPath, match="^SSM_PATH: there are quotes"):
        await load_env()
    async with ParameterStore() as store:
        with pytest.raises(TypeError, match=r"get_many\(\['/R/A'\]\)"):
            await store.get_many("/R/A")
    with pytest.raises(ValueError, match="max_concurrency"):
        ParameterStore(max_concurrency=0)
