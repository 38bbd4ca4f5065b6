"""
Scenarios use every public name while all values contain one secret; no output of theirs may contain it.

Each scenario runs once, with all loggers at DEBUG and asyncio in debug mode. The detector searches logs, output and
warnings, the repr of the scenario's objects, and each exception with the variables of our frames. If a user's own
function raises an exception, its text may quote the secret, so only our frames are searched.
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
from hearing import SCENARIOS, SECRET, Context, LeakDetector

# Importing these modules registers their scenarios.
for module in ("scenes", "integration_scenes"):
    import_module(module)


# --- The scenarios


@pytest.fixture(scope="module")
def detectors(moto: Store, server: MariaDB) -> dict[str, LeakDetector]:
    """Run every scenario, and return the detector of each."""
    found_by = {}
    for name, run in SCENARIOS.items():
        before = dict(os.environ)
        for variable in [variable for variable in os.environ if variable.startswith(("AWS_", "SSM_"))]:
            del os.environ[variable]
        os.environ |= moto.environment
        found_by[name] = detector = LeakDetector()
        try:
            with detector.recording(), asyncio.Runner(debug=True) as runner:
                runner.run(run(Context(detector, moto, server)))
        except (Exception, pytest.fail.Exception) as error:
            detector.failure = error
        for variable in os.environ.keys() - before.keys():
            del os.environ[variable]
        os.environ.update(before)
    return found_by


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_secret_is_found(detectors: dict[str, LeakDetector], name: str) -> None:
    """No output of a scenario, from any source, contains the secret in any shape."""
    if failure := detectors[name].failure:
        raise failure
    assert [] == detectors[name].found


def test_scenarios_cover_every_public_name(detectors: dict[str, LeakDetector]) -> None:
    """The scenarios run every public function and method, raise every error and show every type of object."""
    ran = set[types.CodeType]().union(*(detector.ran for detector in detectors.values()))
    seen = set[type]().union(*(detector.seen for detector in detectors.values()))
    undriven = [
        name
        for name, thing in public()
        # The collector decides when __del__ runs, and protocols have no code of their own.
        if not name.endswith("__del__") and not name.startswith(("aiossmenv.Clock", "aiossmenv.Transport"))
        if ((code := code_of(thing)) and code not in ran)
        or (isinstance(thing, type) and not any(issubclass(one, thing) for one in seen))
    ]
    assert [] == undriven


# --- The detector


LEAKS: dict[str, Callable[[LeakDetector, str], object]] = {
    "printed": lambda _, text: print(repr(text)),  # noqa: T201 - the printed case
    "written": lambda _, text: sys.stderr.write(json.dumps(text)),
    "warned": lambda _, text: warnings.warn(quote(text), ResourceWarning, stacklevel=1),
    "logged": lambda _, text: logging.getLogger("some.library").debug("%r", {"body": text.encode()}),
    "logged in an argument": lambda _, text: logging.getLogger("some.library").debug("%.0s", text),
    "encoded as base64": lambda detector, text: detector.check_repr(base64.b64encode(b"user:" + text.encode())),
    "encoded as hex": lambda detector, text: detector.check_repr(text.encode().hex().upper()),
    "shown": lambda detector, text: detector.check_repr({"a": [text]}),
    "raised": lambda detector, text: detector.check_exception(ValueError(text)),
    "raised as a cause": lambda detector, text: detector.check_exception(chained(ValueError(), KeyError(text))),
    "raised in a group": lambda detector, text: detector.check_exception(ExceptionGroup("", [KeyError(text)])),
}


def chained(error: Exception, cause: Exception) -> Exception:
    """Set the cause of *error*, and return *error*."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("way", LEAKS)
def test_detector_finds_each_kind_of_leak(way: str) -> None:
    """The detector finds a secret that leaks in any of these ways."""
    detector = LeakDetector()
    with detector.recording():
        LEAKS[way](detector, SECRET)
    assert detector.found


def test_detector_finds_secrets_in_frame_variables() -> None:
    """
    The detector finds a secret in a variable of our frames with each of its three methods, whatever the error's text
    is.
    """
    detector = LeakDetector()
    with detector.expecting(TypeError):
        load_env("/A", ttl=SECRET)  # type: ignore[arg-type,unused-awaitable] # must fail
    assert {"ttl", "seconds", "traceback"} <= {piece.split()[0] for piece in detector.found}


async def test_detector_covers_unknown_loggers_of_the_sdk(ssm: Store) -> None:
    """The detector finds a secret that the SDK logs through a logger that the package does not know."""
    ssm.put("/V/A", SECRET)
    session = aioboto3.Session()
    session._session.register("after-call.ssm", lambda parsed, **_: logging.getLogger("sdk.new").debug("%s", parsed))
    detector = LeakDetector()
    with detector.recording():
        async with ParameterStore(session=session) as store:
            await store.get("/V/A")
    assert ["log of sdk.new"] == sorted({piece.partition(":")[0] for piece in detector.found})


async def test_logs_of_other_clients_are_unchanged(ssm: Store, caplog: pytest.LogCaptureFixture) -> None:
    """What the SDK logs for a user's own clients, beside ours and after ours in the same task, stays complete."""
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


async def test_mappings_are_not_expanded() -> None:
    """Sentry expands mappings among a frame's variables, so ours give it their repr instead."""
    env = await load_env("/A", environ={}, store=MemoryStore({"/A/X": SECRET}))
    assert repr(env) == Env.__sentry_repr__(env)
    assert repr(env.snapshot) == Snapshot.__sentry_repr__(env.snapshot)
    seen: list[Mapping[str, str]] = []

    async def create(values: Mapping[str, str]) -> None:
        """Record the values."""
        seen.append(values)

    async with Rotating(env, ["X"], create):
        assert isinstance(seen[0], Values)
        assert repr(seen[0]) == Values.__sentry_repr__(seen[0])
