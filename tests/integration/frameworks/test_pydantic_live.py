"""Settings that stay current, what they tell of changes, and what belongs together."""

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
from settings_models import MARK, Database, Held, Settings, Strict, assert_hidden, database, refused
from timing import our_tasks, settle

# --- Following


def refusals(live: LiveSettings[Any]) -> list[str]:
    """Return what is said to be wrong with the newest values, without where and what to do."""
    return [live.error.args[0]] if live.error else []


async def test_last_valid_settings_stay(caplog: pytest.LogCaptureFixture) -> None:
    """New values that do not fit are logged and reported, and change nothing; the next ones that do fit are taken."""
    held = database()
    told: list[tuple[str, str]] = []
    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
        live.on_change(lambda old, new: told.append((old.db.host, new.db.host)))
        first = live.current
        held.put("/app/db/port", MARK)
        held.put("/app/db/host", "new")
        with caplog.at_level(logging.DEBUG):
            await live.env.refresh()

        assert first is live.current
        assert [] == told
        assert isinstance(live.error, InvalidSettings)
        assert_hidden(live.error)
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert [f"the last valid Settings stay: InvalidSettings: {live.error}"] == said
        assert "<LiveSettings of Settings, newer ones are not valid>" == repr(live)

        held.put("/app/db/port", "1")
        await live.env.refresh()
        assert not refusals(live)
        assert [("h", "new")] == told
        assert ("new", 1) == (live.current.db.host, live.current.db.port)
        assert "h" == first.db.host
        assert "<LiveSettings of Settings, valid>" == repr(live)

        # What is removed for good is missing.
        held.delete("/app/db/host")
        for _ in range(2):
            await live.env.refresh()
        assert ["required, and not there: /app/db/host"] == refusals(live)
        assert "new" == live.current.db.host
    assert MARK not in caplog.text


async def test_follows_by_itself(ssm: Store, store: ParameterStore, clock: Any) -> None:
    """A change is there after the TTL, over HTTP, without anybody's asking."""
    for name, value in (("db/host", "old"), ("db/password", MARK)):
        await asyncio.to_thread(ssm.put, f"/app/{name}", value)
    async with live_settings(Settings, "/app", ttl=60, store=store) as live:
        changed = asyncio.Event()
        live.on_change(lambda *_: changed.set())
        await asyncio.to_thread(ssm.put, "/app/db/host", "new")
        await clock.advance(60)
        await asyncio.wait_for(changed.wait(), 10)
        assert "new" == live.current.db.host


async def test_one_validation_for_one_refresh() -> None:
    """However many parameters a refresh changed, the settings are built once, and each callback called once."""
    built: list[int] = []

    class Counted(Settings):
        @model_validator(mode="after")
        def _count(self) -> "Counted":
            built.append(1)
            return self

    held = database()
    told: list[str] = []
    async with live_settings(Counted, "/app", ttl=60, store=held.store) as live:
        live.on_change(lambda _, new: told.append(new.db.host))
        for name, value in (("db/host", "new"), ("db/port", "1"), ("debug", "true")):
            held.put(f"/app/{name}", value)
        assert 3 == len(await live.env.refresh())
    assert [1, 1] == built
    assert ["new"] == told


async def test_same_values_are_no_change() -> None:
    """A parameter that was written again with its value leaves the settings the object they were, and calls nobody."""
    held = database()
    told: list[str] = []
    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
        first = live.current
        live.on_change(lambda _, new: told.append(new.db.host))
        held.put("/app/db/host", "h")
        assert 1 == len(await live.env.refresh())
        assert first is live.current
    assert [] == told


async def test_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    """One that raises is logged by name and type and hurts nobody; one that has unsubscribed is not called."""
    held = database()
    told: list[str] = []
    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:

        def quits(old: Settings, new: Settings) -> None:
            told.append(f"quits {old.db.host}")
            unsubscribe()

        def raises(old: Settings, new: Settings) -> None:
            raise ValueError(new.db.password.get_secret_value())

        async def raises_later(old: Settings, new: Settings) -> None:
            raise ValueError(new.db.password.get_secret_value())

        unsubscribe = live.on_change(quits)
        for callback in (raises, raises_later):
            live.on_change(callback)
        live.on_change(lambda old, new: told.append(f"{old.db.host} {new.db.host}"))
        for host in ("i", "j"):
            held.put("/app/db/host", host)
            await live.env.refresh()
        await settle()
    assert ["quits h", "h i", "i j"] == told
    assert 2 == caplog.text.count("raises failed on the change of db/host with ValueError")
    assert 2 == caplog.text.count("raises_later failed on the change of db/host with ValueError")
    assert MARK not in caplog.text


async def test_slow_callback() -> None:
    """A coroutine function is called once at a time, and then once for all that happened meanwhile."""
    held = database()
    told: list[tuple[str, str]] = []
    go = asyncio.Event()

    async def slow(old: Settings, new: Settings) -> None:
        told.append((old.db.host, new.db.host))
        await go.wait()

    async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
        live.on_change(slow)
        for host in ("i", "j", "k"):
            held.put("/app/db/host", host)
            await live.env.refresh()
            await settle()
        assert [("h", "i")] == told
        go.set()
        await settle()
        held.put("/app/db/port", "x")
        await live.env.refresh()
        await settle()
    assert [("h", "i"), ("i", "k")] == told


async def test_an_env_of_ones_own() -> None:
    """Settings follow an `Env` that is there already, and leave it open."""
    held = database()
    async with load_env("/app", ttl=60, environ=None, store=held.store) as env:
        live = LiveSettings(Settings, env)
        held.put("/app/db/host", "new")
        await env.refresh()
        assert "new" == live.current.db.host
        assert env is live.env


async def test_settings_are_of_their_class() -> None:
    """What is loaded is of the class that was asked for, and compares, pickles and shows as such."""

    class Frozen(Settings):
        model_config = SettingsConfigDict(frozen=True)

    settings = await load_settings(Settings, "/app", store=database().store)
    assert Settings is type(settings)
    assert Settings(db=Database(host="h", password=SecretStr(MARK))) == settings
    assert settings == pickle.loads(pickle.dumps(settings))
    assert repr(settings).startswith("Settings(db=Database(host='h', port=3306, password=SecretStr('**********')")
    assert Frozen is type(await load_settings(Frozen, "/app", store=database().store))


async def test_nothing_stays_open() -> None:
    """A load with a TTL ends what that began; so does one that does not fit."""
    await load_settings(Settings, "/app", ttl=60, store=database().store)
    with pytest.raises(MissingParameters):
        async with live_settings(Settings, "/app", ttl=60, store=Held().store):
            pass  # pragma: no cover - entering is what fails
    assert set() == await our_tasks()


async def test_what_load_env_raises() -> None:
    """Options are those of `load_env`, and so are their errors."""
    load: Any = load_settings
    with pytest.raises(TypeError, match="unexpected keyword argument 'tll'"):
        await load(Settings, "/app", tll=60)
    with pytest.raises(ValueError, match="ttl is a number of seconds above 0"):
        await load_settings(Settings, "/app", ttl=0)


# --- Secrets


async def test_nothing_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """No repr of ours, no line of the log at any level and no variable of a frame shows a value."""
    held = database(port=MARK, token=f"{MARK} broken")
    held.put("/app/db", json.dumps({"host": MARK, "password": MARK}))
    with caplog.at_level(logging.DEBUG):
        source = ParameterSource(Strict, await load_env("/app", environ=None, store=held.store))
        assert MARK in repr(source())
        async with live_settings(Settings, "/app", ttl=60, store=held.store) as live:
            held.put("/app/debug", MARK)
            await live.env.refresh()
            shown = f"{source!r} {live!r} {live.error!r} {live.error} {live.env!r} {live.current.db.password!r}"
        error = await refused(Strict, held)
    assert MARK not in f"{caplog.text} {shown} {error}"
    assert "parameter /app/debug" in caplog.text


def test_without_pydantic_settings() -> None:
    """Where pydantic-settings is missing the import says how to install it."""
    script = "import sys; sys.modules['pydantic_settings'] = None; import aiossmenv.pydantic"
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    expected = "ImportError: aiossmenv.pydantic needs pydantic-settings: pip install 'aiossmenv[pydantic]'"
    assert expected in run.stderr


# --- Secrets, and what belongs together

SECRET_ID = "/aws/reference/secretsmanager/prod/db"


async def test_a_model_behind_a_secret() -> None:
    """A model may be one JSON secret: it alone is asked for, no path is needed, and what it lacks is said of it."""

    class Login(BaseModel):
        username: str
        password: SecretStr

    class Secrets(BaseSettings):
        db: Login = Field(alias="/aws/reference/secretsmanager/prod/db")

    store = MemoryStore({SECRET_ID: f'{{"username": "u", "password": "{MARK}"}}'})
    settings = await load_settings(Secrets, store=store)
    assert ("u", MARK) == (settings.db.username, settings.db.password.get_secret_value())
    assert [(SECRET_ID,)] == [call.names for call in store.calls]

    store.put(SECRET_ID, '{"username": "u"}')
    with pytest.raises(InvalidSettings, match=f"missing .parameter {SECRET_ID}"):
        await load_settings(Secrets, "/app", store=store)
    store.delete(SECRET_ID)
    with pytest.raises(MissingParameters, match=SECRET_ID):
        await load_settings(Secrets, store=store)


async def test_a_label_in_an_alias() -> None:
    """An alias may say which version is read, by its number or a label."""

    class Labelled(BaseSettings):
        password: str = Field(alias="password:live")

    held = Held(password="live")
    held.label("/app/password", "live")
    held.put("/app/password", "next")

    assert "live" == (await load_settings(Labelled, "/app", store=held.store)).password


async def test_names_that_would_be_one_variable() -> None:
    """Where no variables are filled, names that would be one key are two fields."""

    class Alike(BaseSettings):
        db: Database
        db_host: str

    held = database(db_host="other")
    settings = await load_settings(Alike, "/app", store=held.store)

    assert ("h", "other") == (settings.db.host, settings.db_host)


async def test_a_model_is_read_in_one_moment() -> None:
    """What belongs to one model is followed as a group: a refresh in several calls reads it again in one."""

    class Many(BaseSettings):
        db: Database
        fields: dict[str, str] = {}

    held = database(**{f"a{number}": "1" for number in range(20)})
    async with live_settings(Many, "/app", ttl=60, keys=None, store=held.store) as live:
        assert [frozenset({"db/host", "db/password"})] == live.env._publisher.groups


async def test_callable_objects_are_called_one_at_a_time() -> None:
    """An object that is called like a coroutine function is one."""
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
            held.put("/app/db/host", host)
            await live.env.refresh()
            await settle()
        assert ["i"] == calls
        go.set()
        await settle()
    assert ["i", "k"] == calls
