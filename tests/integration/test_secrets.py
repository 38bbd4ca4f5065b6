"""
A secret that would be found, through every public path, well and badly; then all that was said is searched for it.

Each scene is played once, with the loggers of everybody at DEBUG and asyncio in debug mode. Heard is what is logged,
printed and warned of, the repr of what the scene has in its hands, and each exception with the variables of our frames.
Left out are exceptions that a user's own functions raise: their text is the user's, our frames in them are not.
"""

import asyncio
import base64
import json
import logging
import os
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from urllib.parse import quote

import aioboto3
import pytest

from aiossmenv import (
    Env,
    ParameterStore,
    Rotating,
    Snapshot,
    load_env,
)
from aiossmenv._generations import Values
from aiossmenv.testing import MemoryStore
from embedded import MariaDB, Store
from face import code_of, public
from hearing import SCENES, SECRET, Ear, Stage

# Each registers its scenes.
for module in ("scenes", "integration_scenes"):
    import_module(module)


# --- What was heard


@pytest.fixture(scope="module")
def heard(moto: Store, server: MariaDB) -> dict[str, Ear]:
    """Play every scene, and give what was heard in each."""
    ears = {}
    for name, play in SCENES.items():
        before = dict(os.environ)
        for variable in [variable for variable in os.environ if variable.startswith(("AWS_", "SSM_"))]:
            del os.environ[variable]
        os.environ |= moto.environment
        ears[name] = ear = Ear()
        try:
            with ear.listening(), asyncio.Runner(debug=True) as runner:
                runner.run(play(Stage(ear, moto, server)))
        except (Exception, pytest.fail.Exception) as error:
            ear.failure = error
        for variable in os.environ.keys() - before.keys():
            del os.environ[variable]
        os.environ.update(before)
    return ears


@pytest.mark.parametrize("name", SCENES)
def test_no_secret_is_heard(heard: dict[str, Ear], name: str) -> None:
    """Nothing that is said in a scene, by whomever, holds a secret in any shape."""
    if failure := heard[name].failure:
        raise failure
    assert [] == heard[name].found


def test_every_public_name_is_driven(heard: dict[str, Ear]) -> None:
    """
    The scenes run every public function and method, raise every error and show every kind of object that there is.
    """
    ran = set[types.CodeType]().union(*(ear.ran for ear in heard.values()))
    seen = set[type]().union(*(ear.seen for ear in heard.values()))
    undriven = [
        name
        for name, thing in public()
        # When an object goes is the collector's business, and a protocol is what others are like.
        if not name.endswith("__del__") and not name.startswith(("aiossmenv.Clock", "aiossmenv.Transport"))
        if ((code := code_of(thing)) and code not in ran)
        or (isinstance(thing, type) and not any(issubclass(one, thing) for one in seen))
    ]
    assert [] == undriven


# --- That it would be heard


SAID: dict[str, Callable[[Ear, str], object]] = {
    "printed": lambda _, text: print(repr(text)),  # noqa: T201 - that is what is tried
    "written": lambda _, text: sys.stderr.write(json.dumps(text)),
    "warned": lambda _, text: warnings.warn(quote(text), ResourceWarning, stacklevel=1),
    "logged": lambda _, text: logging.getLogger("some.library").debug("%r", {"body": text.encode()}),
    "logged in an argument": lambda _, text: logging.getLogger("some.library").debug("%.0s", text),
    "encoded": lambda ear, text: ear.shown(base64.b64encode(b"user:" + text.encode())),
    "encoded otherwise": lambda ear, text: ear.shown(text.encode().hex().upper()),
    "shown": lambda ear, text: ear.shown({"a": [text]}),
    "raised": lambda ear, text: ear.caught(ValueError(text)),
    "raised before": lambda ear, text: ear.caught(chained(ValueError(), KeyError(text))),
    "raised together": lambda ear, text: ear.caught(ExceptionGroup("", [KeyError(text)])),
}


def chained(error: Exception, cause: Exception) -> Exception:
    """Return *error* with a cause."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("way", SAID)
def test_it_would_be_heard(way: str) -> None:
    """A secret that is said in any of these ways is found."""
    ear = Ear()
    with ear.listening():
        SAID[way](ear, SECRET)
    assert ear.found


def test_variables_would_be_heard() -> None:
    """
    A secret in a variable of a frame of ours is found, each way of showing it by itself, whatever the exception says.
    """
    ear = Ear()
    with ear.failing(TypeError):
        load_env("/A", ttl=SECRET)  # type: ignore[arg-type,unused-awaitable] # that is what fails
    assert {"ttl", "seconds", "traceback"} <= {piece.split()[0] for piece in ear.found}


async def test_another_logger_of_the_sdk_would_be_heard(ssm: Store) -> None:
    """An SDK that logged what it reads through a logger that nobody thought of would be found."""
    ssm.put("/V/A", SECRET)
    session = aioboto3.Session()
    session._session.register("after-call.ssm", lambda parsed, **_: logging.getLogger("sdk.new").debug("%s", parsed))
    ear = Ear()
    with ear.listening():
        async with ParameterStore(session=session) as store:
            await store.get("/V/A")
    assert ["log of sdk.new"] == sorted({piece.partition(":")[0] for piece in ear.found})


async def test_logs_of_other_clients_are_left_alone(ssm: Store, caplog: pytest.LogCaptureFixture) -> None:
    """What the SDK logs for clients of the user's, beside ours and after it in the same task, is all there."""
    ssm.put("/V/OURS", "value-of-ours")
    ssm.put("/V/THEIRS", "value-of-theirs")
    caplog.set_level(logging.DEBUG)
    async with ParameterStore(ttl=0.001) as store, aioboto3.Session().client("ssm") as client:
        await store.get("/V/OURS")
        read = partial(client.get_parameter, Name="/V/THEIRS", WithDecryption=True)
        await asyncio.gather(read(), store.get("/V/OURS"), read())
        await read()
    bodies = [record.getMessage() for record in caplog.records if record.name == "botocore.parsers"]
    assert 3 == sum("value-of-theirs" in body for body in bodies)
    assert "value-of-ours" not in caplog.text


async def test_mappings_are_not_unfolded() -> None:
    """
    What unfolds mappings among a frame's variables, as Sentry does before it sends them, is given their repr instead.
    """
    env = await load_env("/A", environ={}, store=MemoryStore({"/A/X": SECRET}))
    assert repr(env) == Env.__sentry_repr__(env)
    assert repr(env.snapshot) == Snapshot.__sentry_repr__(env.snapshot)
    seen: list[Mapping[str, str]] = []

    async def create(values: Mapping[str, str]) -> None:
        """Keep what was given."""
        seen.append(values)

    async with Rotating(env, ["X"], create):
        assert isinstance(seen[0], Values)
        assert repr(seen[0]) == Values.__sentry_repr__(seen[0])
