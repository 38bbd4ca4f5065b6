"""Live settings: how they stay current, what callbacks get, and which parameters form a group."""

import asyncio
import json
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest
from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from aiossmenv import MissingParameters, ParameterStore, load_env
from aiossmenv.pydantic import InvalidSettings, LiveSettings, ParameterSource, live_settings, load_settings
from aiossmenv.testing import MemoryStore
from embedded import Store
from settings_models import MARK, Database, Held, Settings, Strict, assert_hidden, database, load_error
from timing import our_tasks, settle

# --- Updates


def problems(live: LiveSettings[Any]) -> list[str]:
    """Return the message about the newest values, without place and remedy."""
    return [live.error.args[0]] if live.error else []


async def test_last_valid_settings_stay(caplog: pytest.LogCaptureFixture) -> None:
    """Invalid new values are logged and reported, and change nothing; the next valid values are used."""
    held = database()
    received: list[tuple[str, str]] = []
    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
        live.on_change(lambda old, new: received.append((old.db.host, new.db.host)))
        first = live.current
        held.set("/app/db/port", MARK)
        held.set("/app/db/host", "new")
        with caplog.at_level(logging.DEBUG):
            await live.env.refresh()

        assert first is live.current
        assert [] == received
        assert isinstance(live.error, InvalidSettings)
        assert_hidden(live.error)
        errors_logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert [f"the last valid Settings stay: InvalidSettings: {live.error}"] == errors_logged
        assert "<LiveSettings of Settings, newer ones are not valid>" == repr(live)

        held.set("/app/db/port", "1")
        await live.env.refresh()
        assert not problems(live)
        assert [("h", "new")] == received
        assert ("new", 1) == (live.current.db.host, live.current.db.port)
        assert "h" == first.db.host
        assert "<LiveSettings of Settings, valid>" == repr(live)

        # The second miss in a row removes a parameter, and then it is missing.
        held.remove("/app/db/host")
        for _ in range(2):
            await live.env.refresh()
        assert ["required, and not there: /app/db/host"] == problems(live)
        assert "new" == live.current.db.host
    assert MARK not in caplog.text


async def test_updates_without_a_call(ssm: Store, store: ParameterStore, clock: Any) -> None:
    """A change is applied within the TTL, over HTTP, without any call."""
    for name, value in (("db/host", "old"), ("db/password", MARK)):
        await asyncio.to_thread(ssm.put, f"/app/{name}", value)
    async with live_settings(Settings, "/app", ttl=60, store=store) as live:
        changed = asyncio.Event()
        live.on_change(lambda *_: changed.set())
        await asyncio.to_thread(ssm.put, "/app/db/host", "new")
        await clock.advance(60)
        await asyncio.wait_for(changed.wait(), 10)
        assert "new" == live.current.db.host


async def test_one_validation_per_refresh() -> None:
    """However many parameters a refresh changed, the settings are built once and each callback is called once."""
    built: list[int] = []

    class Counted(Settings):
        @model_validator(mode="after")
        def _count(self) -> "Counted":
            built.append(1)
            return self

    held = database()
    received: list[str] = []
    async with live_settings(Counted, "/app", ttl=60, store=held.store) as live:
        live.on_change(lambda _, new: received.append(new.db.host))
        for name, value in (("db/host", "new"), ("db/port", "1"), ("debug", "true")):
            held.set(f"/app/{name}", value)
        assert 3 == len(await live.env.refresh())
    assert [1, 1] == built
    assert ["new"] == received


async def test_same_values_cause_no_change() -> None:
    """A parameter that is written again with its old value keeps the settings object, and calls no callback."""
    held = database()
    received: list[str] = []
    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
        first = live.current
        live.on_change(lambda _, new: received.append(new.db.host))
        held.set("/app/db/host", "h")
        assert 1 == len(await live.env.refresh())
        assert first is live.current
    assert [] == received


async def test_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    """
    A callback that raises is logged by name and type, and others still run; one that has unsubscribed is not called.
    """
    held = database()
    received: list[str] = []
    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:

        def quits(old: Settings, new: Settings) -> None:
            received.append(f"quits {old.db.host}")
            unsubscribe()

        def raises(old: Settings, new: Settings) -> None:
            raise ValueError(new.db.password.get_secret_value())

        async def raises_later(old: Settings, new: Settings) -> None:
            raise ValueError(new.db.password.get_secret_value())

        unsubscribe = live.on_change(quits)
        for callback in (raises, raises_later):
            live.on_change(callback)
        live.on_change(lambda old, new: received.append(f"{old.db.host} {new.db.host}"))
        for host in ("i", "j"):
            held.set("/app/db/host", host)
            await live.env.refresh()
        await settle()
    assert ["quits h", "h i", "i j"] == received
    assert 2 == caplog.text.count("raises failed on the change of db/host with ValueError")
    assert 2 == caplog.text.count("raises_later failed on the change of db/host with ValueError")
    assert MARK not in caplog.text


async def test_slow_callback() -> None:
    """A coroutine callback runs once at a time, and once more for all changes meanwhile."""
    held = database()
    received: list[tuple[str, str]] = []
    go = asyncio.Event()

    async def slow(old: Settings, new: Settings) -> None:
        received.append((old.db.host, new.db.host))
        await go.wait()

    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
        live.on_change(slow)
        for host in ("i", "j", "k"):
            held.set("/app/db/host", host)
            await live.env.refresh()
            await settle()
        assert [("h", "i")] == received
        go.set()
        await settle()
        held.set("/app/db/port", "x")
        await live.env.refresh()
        await settle()
    assert [("h", "i"), ("i", "k")] == received


async def test_existing_env() -> None:
    """Settings can follow an existing `Env`, and leave it open."""
    held = database()
    async with load_env("/app", ttl=60, environ=None, store=held.store) as env:
        live = LiveSettings(Settings, env)
        held.set("/app/db/host", "new")
        await env.refresh()
        assert "new" == live.current.db.host
        assert env is live.env


async def test_settings_are_of_their_class() -> None:
    """The loaded settings are an instance of the class, and compare, pickle and print like one."""

    class Frozen(Settings):
        model_config = SettingsConfigDict(frozen=True)

    settings = await load_settings(Settings, "/app", store=database().store)
    assert Settings is type(settings)
    assert Settings(db=Database(host="h", password=SecretStr(MARK))) == settings
    assert settings == pickle.loads(pickle.dumps(settings))
    assert repr(settings).startswith("Settings(db=Database(host='h', port=3306, password=SecretStr('**********')")
    assert Frozen is type(await load_settings(Frozen, "/app", store=database().store))


async def test_nothing_stays_open() -> None:
    """A load with a TTL closes everything that it opened, also if the values are invalid."""
    await load_settings(Settings, "/app", ttl=60, store=database().store)
    with pytest.raises(MissingParameters):
        async with live_settings(Settings, "/app", ttl=60, store=Held().store):
            pass  # pragma: no cover - entering is what fails
    assert set() == await our_tasks()


async def test_options_of_load_env() -> None:
    """The options are those of `load_env`, with the same errors."""
    load: Any = load_settings
    with pytest.raises(TypeError, match="unexpected keyword argument 'tll'"):
        await load(Settings, "/app", tll=60)
    with pytest.raises(ValueError, match="ttl is a number of seconds above 0"):
        await load_settings(Settings, "/app", ttl=0)


# --- Secrets


async def test_nothing_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """No repr of ours, no log line at any level and no variable of a frame shows a value."""
    held = database(port=MARK, token=f"{MARK} broken")
    held.set("/app/db", json.dumps({"host": MARK, "password": MARK}))
    with caplog.at_level(logging.DEBUG):
        source = ParameterSource(Strict, await load_env("/app", environ=None, store=held.store))
        assert MARK in repr(source())
        async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
            held.set("/app/debug", MARK)
            await live.env.refresh()
            shown = f"{source!r} {live!r} {live.error!r} {live.error} {live.env!r} {live.current.db.password!r}"
        error = await load_error(Strict, held)
    assert MARK not in f"{caplog.text} {shown} {error}"
    assert "parameter /app/debug" in caplog.text


def test_without_pydantic_settings() -> None:
    """Without pydantic-settings, the import says how to install it."""
    script = "import sys; sys.modules['pydantic_settings'] = None; import aiossmenv.pydantic"
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    expected = "ImportError: aiossmenv.pydantic needs pydantic-settings: pip install 'aiossmenv[pydantic]'"
    assert expected in run.stderr


# --- Secrets and groups

SECRET_ID = "/aws/reference/secretsmanager/prod/db"


async def test_model_from_one_secret() -> None:
    """
    A model may be one JSON secret: only the secret is read, no path is needed, and missing fields are errors of it.
    """

    class Login(BaseModel):
        username: str
        password: SecretStr

    class Secrets(BaseSettings):
        db: Login = Field(alias="/aws/reference/secretsmanager/prod/db")

    store = MemoryStore({SECRET_ID: f'{{"username": "u", "password": "{MARK}"}}'})
    settings = await load_settings(Secrets, store=store)
    assert ("u", MARK) == (settings.db.username, settings.db.password.get_secret_value())
    assert [(SECRET_ID,)] == [call.names for call in store.calls]

    store.set(SECRET_ID, '{"username": "u"}')
    with pytest.raises(InvalidSettings, match=f"missing .parameter {SECRET_ID}"):
        await load_settings(Secrets, "/app", store=store)
    store.remove(SECRET_ID)
    with pytest.raises(MissingParameters, match=SECRET_ID):
        await load_settings(Secrets, store=store)


async def test_label_in_an_alias() -> None:
    """An alias may contain a version number or a label."""

    class Labelled(BaseSettings):
        password: str = Field(alias="password:live")

    held = Held(password="live")
    held.label("/app/password", "live")
    held.set("/app/password", "next")

    assert "live" == (await load_settings(Labelled, "/app", store=held.store)).password


async def test_names_that_collide_as_variables() -> None:
    """If no environment is filled, two names that would be one variable may be two fields."""

    class Alike(BaseSettings):
        db: Database
        db_host: str

    held = database(db_host="other")
    settings = await load_settings(Alike, "/app", store=held.store)

    assert ("h", "other") == (settings.db.host, settings.db_host)


async def test_model_is_read_as_a_group() -> None:
    """The parameters of one model are a group: a refresh of several calls reads them again in one call."""

    class Many(BaseSettings):
        db: Database
        fields: dict[str, str] = {}

    held = database(**{f"a{number}": "1" for number in range(20)})
    async with live_settings(Many, "/app", ttl=60, keys=None, store=held.store) as live:
        assert [frozenset({"db/host", "db/password"})] == live.env._publisher.groups


async def test_callable_objects_run_one_at_a_time() -> None:
    """A callable object with an async `__call__` is treated like a coroutine function."""
    held = database()
    calls: list[str] = []
    go = asyncio.Event()

    class Slow:
        async def __call__(self, _old: Settings, new: Settings) -> None:
            calls.append(new.db.host)
            await go.wait()

    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
        live.on_change(Slow())
        for host in ("i", "j", "k"):
            held.set("/app/db/host", host)
            await live.env.refresh()
            await settle()
        assert ["i"] == calls
        go.set()
        await settle()
    assert ["i", "k"] == calls
