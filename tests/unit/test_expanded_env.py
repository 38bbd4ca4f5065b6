"""An `Env` whose parameters hold several variables: all that it does is done with the keys that come out of them."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from aiossmenv import (
    Change,
    Env,
    ExpansionFailed,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    Rotating,
    Snapshot,
    diff,
    load_env,
)
from aiossmenv.pydantic import live_settings
from aiossmenv.testing import ManualClock, MemoryStore

SECRET = "/aws/reference/secretsmanager/prod/db"
Format = Literal["json", "dotenv"]


def text(form: Format, **values: str) -> str:
    """Return a text that holds those values."""
    return json.dumps(values) if form == "json" else "".join(f"{name}='{value}'\n" for name, value in values.items())


def names_read(store: MemoryStore) -> list[tuple[str, ...]]:
    """Return the names of the requests since this was last asked."""
    names = [call.names for call in store.calls]
    store.calls.clear()
    return names


both = pytest.mark.parametrize("form", ["json", "dotenv"])


@both
async def test_all_that_is_read(form: Format) -> None:
    """One format applies to everything under a path, and to a secret of Secrets Manager; names in it become keys."""
    store = MemoryStore({"/P/db": text(form, host="db.test", user="app"), SECRET: text(form, password="x")})
    environ: dict[str, str] = {}

    listed = await load_env("/P", expand=form, environ=environ, store=store)
    named = await load_env("/P", keys=["db", SECRET], expand=form, environ={}, store=store)

    assert {"HOST": "db.test", "USER": "app"} == dict(listed) == environ
    assert {"HOST": "db.test", "USER": "app", "PASSWORD": "x"} == dict(named)
    assert (SECRET, "password") == (named.parameters["PASSWORD"].name, named.parameters["PASSWORD"].inner_name)


async def test_what_a_mapping_names(caplog: pytest.LogCaptureFixture) -> None:
    """A mapping has a format for each key; what it does not name stays one variable, and what is not there is said."""
    store = MemoryStore({"/P/db": '{"user": "app"}', "/P/more": "A=1\nB=2", "/P/raw": '{"x": 1}'})

    env = await load_env("/P", expand={"DB": "json", "more": "dotenv", "NOT": "json"}, environ=None, store=store)
    store.set("/P/raw", "2")
    await env.refresh()

    assert {"USER": "app", "A": "1", "B": "2", "RAW": "2"} == dict(env)
    assert ["not in Parameter Store: NOT"] == [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


async def test_what_keys_and_expand_name_is_missed_once(caplog: pytest.LogCaptureFixture) -> None:
    """A name that both name is missed in one warning."""
    store = MemoryStore({"/P/A": "1"})

    await load_env("/P", keys=["A", "DB"], expand={"DB": "json"}, environ=None, store=store)

    assert ["not in Parameter Store: /P/DB"] == [r.getMessage() for r in caplog.records]


@both
async def test_one_inner_value_changes(form: Format) -> None:
    """A refresh that finds one value changed in a parameter tells of that key alone; all have the new version."""
    store = MemoryStore({"/P/db": text(form, host="a", user="b", gone="c"), "/P/other": text(form, x="1")})
    environ: dict[str, str] = {}
    env = await load_env("/P", expand=form, environ=environ, store=store)
    heard: list[Change] = []
    env.on_change(heard.append, "HOST", "NEW")
    reader = env.changes()
    before = env.snapshot

    store.set("/P/db", text(form, host="A", user="b", new="d"))
    changes = await env.refresh()

    kinds = [("GONE", "removed"), ("HOST", "updated"), ("NEW", "added")]
    assert kinds == [(change.key, change.kind) for change in changes]
    assert changes == diff(before, env.snapshot)
    assert list(changes) == [await anext(reader) for _ in changes]
    assert ["HOST", "NEW"] == [change.key for change in heard]
    assert {"HOST": "A", "USER": "b", "NEW": "d", "X": "1"} == dict(env) == environ
    assert [2, 2, 2, 1] == [env.parameters[key].version for key in ("HOST", "USER", "NEW", "X")]
    assert () == await env.refresh()


async def test_a_key_that_moves_between_a_parameter_and_a_name_in_one() -> None:
    """What was a parameter and is a name in another one now is a change, though its value is the same."""
    one = await load_env("/P", environ=None, store=MemoryStore({"/P/A": "1"}))
    two = await load_env("/P", expand="json", environ=None, store=MemoryStore({"/P/IT": '{"A": 1}'}))
    empty = Snapshot({}, one.snapshot.taken_at)

    assert ["updated"] == [change.kind for change in diff(one.snapshot, two.snapshot)]
    assert [["removed"], ["added"]] == [
        [change.kind for change in diff(*pair)] for pair in ((two.snapshot, empty), (empty, two.snapshot))
    ]


@both
async def test_refresh_of_keys_reads_their_parameters(form: Format) -> None:
    """Keys are read by the parameters that hold them, each once, in one call if these are ten at most."""
    many = {f"k{number}": "1" for number in range(30)}
    store = MemoryStore({"/P/one": text(form, **many), "/P/two": text(form, x="1"), "/P/three": text(form, y="1")})
    env = await load_env("/P", expand=form, environ=None, store=store)
    names_read(store)
    store.set("/P/one", text(form, **many | {"k7": "2"}))

    assert ["K7"] == [change.key for change in await env.refresh(*(name.upper() for name in many))]
    assert [("/P/one",)] == names_read(store)

    env.group("K1", "K2")
    env.group("K3", "X")
    await env.refresh("K9")
    assert [("/P/one", "/P/two")] == names_read(store)


async def test_groups_are_of_parameters() -> None:
    """When one value of a group changed, the parameters of all its keys are decrypted together."""
    store = MemoryStore({"/P/one": '{"user": "a", "x": 1}', "/P/two": '{"password": "a"}', "/P/three": '{"z": 1}'})
    env = await load_env("/P", expand="json", environ=None, store=store)
    env.group("USER", "PASSWORD")
    for name, value in {"/P/one": '{"user": "b", "x": 1}', "/P/three": '{"z": 2}'}.items():
        store.set(name, value)
    store.calls.clear()

    await env.refresh()

    assert [("/P/one", "/P/two", "/P/three")] == [call.names for call in store.calls if call.decrypt]
    assert ("b", "2") == (env["USER"], env["Z"])


async def test_a_steady_refresh_costs_nothing() -> None:
    """While nothing changes no value is decrypted, and the snapshot holds the very same parameters."""
    clock = ManualClock()
    store = MemoryStore({"/P/one": '{"user": "a"}'}, clock=clock)
    calls: list[str] = []

    def to_key(name: str) -> str:
        calls.append(name)
        return name

    async with load_env("/P", ttl=60, expand="json", to_key=to_key, environ=None, store=store) as env:
        before, decrypted = env.parameters["user"], store.decrypted
        calls.clear()
        await clock.advance(600)

        assert env.status.refreshes
        assert env.parameters["user"] is before
        assert decrypted == store.decrypted
        assert [] == calls


async def test_what_did_not_change_is_not_expanded_again() -> None:
    """A refresh that brings one other parameter keeps what the rest was expanded to."""
    store = MemoryStore({"/P/one": '{"user": "a"}', "/P/two": '{"x": 1}'})
    env = await load_env("/P", expand="json", environ={}, store=store)
    before = env.parameters["USER"]
    store.set("/P/two", '{"x": 2}')

    await env.refresh()

    assert "2" == env["X"]
    assert env.parameters["USER"] is before


@both
async def test_a_wrong_value_keeps_the_last_good_snapshot(form: Format, caplog: pytest.LogCaptureFixture) -> None:
    """A refresh that meets a value that cannot be expanded changes nothing and says why; the next good one is taken."""
    clock = ManualClock()
    store = MemoryStore({"/P/db": text(form, host="a"), "/P/other": text(form, x="1")}, clock=clock)
    environ: dict[str, str] = {}
    async with load_env("/P", ttl=60, expand={"DB": form, "OTHER": form}, environ=environ, store=store) as env:
        store.set("/P/other", text(form, x="2"))
        store.set("/P/db", "hunter2hunter2 hunter2hunter2")
        await clock.advance(60)

        assert isinstance(env.status.last_error, ExpansionFailed)
        assert ("/P/db", "/P", 1, 1) == (
            env.status.last_error.parameter,
            env.status.last_error.path,
            env.status.last_error.line,
            env.status.last_error.column,
        )
        assert "take DB out of expand=" in str(env.status.last_error)
        assert {"HOST": "a", "X": "1"} == dict(env) == environ
        assert "ExpansionFailed: the value cannot be expanded" in caplog.text
        assert "hunter2" not in caplog.text

        store.set("/P/db", text(form, host="b"))
        await clock.advance(600)
        assert {"HOST": "b", "X": "2"} == dict(env) == environ


async def test_a_wrong_value_in_the_first_load_sets_nothing() -> None:
    """A load that cannot expand a value leaves the environment as it was."""
    environ = {"A": "before"}

    with pytest.raises(ExpansionFailed):
        await load_env("/P", expand="json", environ=environ, store=MemoryStore({"/P/A": '{"A": 1}', "/P/B": "{"}))

    assert {"A": "before"} == environ


async def test_between_paths_the_later_wins() -> None:
    """Of two paths that give one key by whatever parameter, the later one wins; within one it is a collision."""
    store = MemoryStore({"/P/db": '{"host": "p", "a": 1}', "/Q/other": '{"host": "q"}', "/Q/raw": "1"})
    env = await load_env("/P", "/Q", expand={"DB": "json", "OTHER": "json"}, environ=None, store=store)
    assert {"HOST": "q", "A": "1", "RAW": "1"} == dict(env)

    store.set("/Q/HOST", "x")
    with pytest.raises(KeyCollision) as caught:
        await env.refresh()
    assert {"HOST": ("/Q/HOST", "host in /Q/other")} == caught.value.collisions


async def test_nested_paths() -> None:
    """A parameter under two paths is expanded for both, as each of them names it."""
    store = MemoryStore({"/P/b/db": '{"host": 1}'})

    assert {"HOST": "1", "DB": '{"host": 1}'} == dict(
        await load_env("/P", "/P/b", expand={"B_DB": "json"}, environ=None, store=store)
    )
    assert {"HOST": "1"} == dict(await load_env("/P", "/P/b", expand="json", environ=None, store=store))


async def test_required_keys_are_those_that_come_out() -> None:
    """`required` is of the resulting keys, in a refresh too."""
    store = MemoryStore({"/P/db": '{"host": 1}'})
    with pytest.raises(MissingParameters) as caught:
        await load_env("/P", expand="json", required=["DB", "HOST"], environ=None, store=store)
    assert ("DB",) == caught.value.keys

    env = await load_env("/P", expand="json", required=["HOST"], environ=None, store=store)
    store.set("/P/db", '{"user": 1}')
    with pytest.raises(MissingParameters):
        await env.refresh()
    assert {"HOST": "1"} == dict(env)


async def test_an_object_without_names_is_no_empty_path() -> None:
    """A path whose only parameter holds nothing is not empty."""
    env = await load_env("/P", expand="json", environ=None, store=MemoryStore({"/P/db": "{}"}))
    assert {} == dict(env)


@pytest.mark.parametrize("value", ['{"ld": {"preload": "x"}}', '{"a=b": 1}', '{"": 1}', '{"a": "\\u0000"}'])
async def test_names_are_refused_as_keys_are(value: str) -> None:
    """What no variable may be called or hold is refused, by the parameter that holds it."""
    environ = {"A": "before"}

    with pytest.raises(InvalidVariable, match="/P/db"):
        await load_env("/P", expand="json", environ=environ, store=MemoryStore({"/P/db": value}))

    assert {"A": "before"} == environ


async def test_variables_that_were_there_stay() -> None:
    """With `override=False` each resulting key that was there stays, and is named."""
    environ = {"HOST": "mine"}
    store = MemoryStore({"/P/db": '{"host": "theirs", "user": "a"}'})

    env = await load_env("/P", expand="json", override=False, environ=environ, store=store)

    assert {"HOST": "mine", "USER": "a"} == environ
    assert (frozenset({"HOST"}), "theirs") == (env.shadowed, env["HOST"])
    store.set("/P/db", '{"host": "theirs", "user": "b"}')
    await env.refresh()
    assert {"HOST": "mine", "USER": "b"} == environ


async def test_a_parameter_that_goes_takes_its_keys() -> None:
    """When a parameter counts as gone, all its keys are, and their variables are unset."""
    store = MemoryStore({"/P/db": '{"host": 1, "user": 2}', "/P/x": '{"x": 1}'})
    environ: dict[str, str] = {}
    env = await load_env("/P", expand="json", environ=environ, store=store)
    store.remove("/P/db")

    await env.refresh()
    assert {"HOST", "USER", "X"} == env.keys()
    assert ["HOST", "USER"] == [change.key for change in await env.refresh()]
    assert {"X": "1"} == dict(env) == environ


async def test_large_values_are_expanded_in_a_thread() -> None:
    """A large value does not hold the loop while it is expanded; a small one is not worth a thread."""
    threads: list[int] = []

    def to_key(name: str) -> str:
        threads.append(threading.get_ident())
        return name

    store = MemoryStore({"/P/db": json.dumps({f"k{number}": "x" * 20 for number in range(100)})})
    env = await load_env("/P", expand="json", to_key=to_key, environ=None, store=store)
    assert threading.get_ident() not in threads
    threads.clear()

    store.set("/P/db", '{"a": 1}')
    await env.refresh()
    assert {threading.get_ident()} == set(threads)


async def test_a_resource_follows_a_name_in_a_parameter() -> None:
    """What is rotated by keys in one parameter is built anew when they change, and not when another one does."""
    clock = ManualClock()
    store = MemoryStore({"/P/db": '{"user": "a", "password": "1", "x": 1}'}, clock=clock)

    async def create(values: object) -> str:
        return str(dict(values))  # type: ignore[call-overload] # a mapping

    async with (
        load_env("/P", ttl=60, expand="json", environ=None, store=store) as env,
        Rotating(env, ["USER", "PASSWORD"], create) as session,
    ):
        store.set("/P/db", '{"user": "a", "password": "1", "x": 2}')
        await clock.advance(60)
        assert ("2", 1) == (env["X"], session.generation)
        store.set("/P/db", '{"user": "a", "password": "2", "x": 2}')
        await clock.advance(60)
        async with session.use() as current:
            assert ("{'USER': 'a', 'PASSWORD': '2'}", 2) == (current, session.generation)


class Database(BaseModel):
    """A level."""

    host: str
    port: int


class Settings(BaseSettings):
    """Typed settings."""

    db: Database
    debug: bool = False


async def test_typed_settings_are_filled_by_inner_names() -> None:
    """Fields are filled by the names in a parameter that is expanded, whatever that is called, and follow them."""
    store = MemoryStore({SECRET: '{"db": {"host": "a", "port": 1}, "debug": true}'})

    async with live_settings(Settings, keys=[SECRET], expand="json", store=store) as live:
        assert ("a", 1, True) == (live.current.db.host, live.current.db.port, live.current.debug)
        store.set(SECRET, '{"db": {"host": "b", "port": 1}}')
        await live.env.refresh()
        assert ("b", 1, False) == (live.current.db.host, live.current.db.port, live.current.debug)


# --- What cannot be


@pytest.mark.parametrize(
    ("expand", "kind"),
    [("yaml", ValueError), ("", ValueError), (3, TypeError), (["json"], TypeError), (b"", TypeError)],
)
def test_formats_that_there_are_not(expand: object, kind: type[Exception]) -> None:
    """What is no format is refused at once."""
    with pytest.raises(kind, match="expand is neither 'json' nor 'dotenv', nor a mapping of keys to these"):
        load_env("/P", expand=expand)  # type: ignore[arg-type,unused-awaitable] # that is what fails


def test_mappings_that_cannot_be() -> None:
    """A mapping that has other values or names is refused by the name at once, and what it holds is not quoted."""
    with pytest.raises(ValueError, match="^expand\\['DB'\\] is neither 'json' nor 'dotenv'$"):
        load_env("/P", expand={"X": "json", "DB": "hunter2"})  # type: ignore[dict-item,unused-awaitable] # that is what fails
    with pytest.raises(ValueError, match="^expand\\['DB'\\] is neither"):
        load_env("/P", expand={"DB": ["json"]})  # type: ignore[dict-item,unused-awaitable] # that is what fails
    with pytest.raises(TypeError, match="a name in expand is of type int"):
        load_env("/P", expand={3: "json"})  # type: ignore[dict-item,unused-awaitable] # that is what fails


async def test_an_empty_mapping_is_none() -> None:
    """A mapping that names nothing expands nothing."""
    env = await load_env("/P", expand={}, environ=None, store=MemoryStore({"/P/A": "{}"}))
    assert {"A": "{}"} == dict(env)


_WITHOUT = """
import asyncio, sys

sys.modules["dotenv"] = None
from aiossmenv import load_env
from aiossmenv.testing import MemoryStore

store = MemoryStore({"/P/A": '{"b": 1}'})


async def main():
    print(dict(await load_env("/P", expand="json", environ=None, store=store)))
    for expand in ("dotenv", {"X": "dotenv"}):
        try:
            load_env("/P", expand=expand, environ=None, store=store)
        except ImportError as error:
            print(error)


asyncio.run(main())
"""


def test_a_missing_package_is_named_at_once(tmp_path: Path) -> None:
    """Without python-dotenv JSON is expanded, and the other format says at once what to install."""
    (tmp_path / "without.py").write_text(_WITHOUT)

    done = subprocess.run(
        [sys.executable, str(tmp_path / "without.py")], capture_output=True, text=True, timeout=60, check=False
    )

    assert "" == done.stderr
    said = "expand='dotenv' needs python-dotenv: pip install 'aiossmenv[dotenv]'"
    assert ["{'B': '1'}", said, said] == done.stdout.splitlines()


@pytest.mark.parametrize(("expand", "loaded"), [("json", False), ("dotenv", True)])
def test_the_package_is_imported_when_needed(expand: str, *, loaded: bool) -> None:
    """Only a load that needs python-dotenv imports it."""
    program = f"""
import sys
from aiossmenv import load_env
load_env("/P", expand={expand!r}).close()
print("dotenv" in sys.modules)"""

    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert str(loaded) == printed.strip()


async def test_cancelled_while_it_expands() -> None:
    """A load that is cancelled at any await has set nothing."""
    store = MemoryStore({"/P/db": json.dumps({f"k{number}": "x" * 20 for number in range(100)})})
    for turns in range(30):
        environ: dict[str, str] = {}
        task: asyncio.Task[Env] = asyncio.create_task(load_env("/P", expand="json", environ=environ, store=store))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert len(environ) == (0 if task.cancelled() else 100)
