"""Parameters and secrets that hold several variables, over the wire, loaded with and without an event loop."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import boto3
import pytest

from aiossmenv import Env, ExpansionFailed, ParameterStore, load_env, load_env_sync
from embedded import REGION, Store

NAME = "expanded/db"
REFERENCE = f"/aws/reference/secretsmanager/{NAME}"
EXPAND: dict[str, Literal["json", "dotenv"]] = {REFERENCE: "json", "LINES": "dotenv"}


class Aws:
    """A Parameter Store with two parameters, and a Secrets Manager with one secret."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._secrets: Any = boto3.client(
            "secretsmanager",
            region_name=REGION,
            endpoint_url=store.endpoint_url,
            aws_access_key_id="embedded",
            aws_secret_access_key="embedded",
        )

    def put(self, name: str, value: str) -> None:
        """Write a parameter."""
        self._store.put(f"/EXPANDED/{name}", value)

    def secret(self, **values: object) -> None:
        """Write the secret."""
        text = json.dumps({"db": values})
        try:
            self._secrets.create_secret(Name=NAME, SecretString=text)
        except self._secrets.exceptions.ResourceExistsException:
            self._secrets.put_secret_value(SecretId=NAME, SecretString=text)

    def clear(self) -> None:
        """Remove all of it."""
        for name in ("LINES", "PLAIN"):
            self._store.delete(f"/EXPANDED/{name}")
        self._secrets.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)


@pytest.fixture
def aws(moto: Store) -> Iterator[Aws]:
    """Give both, filled, and check that a test leaves nothing open."""
    os.environ |= moto.environment
    written = Aws(moto)
    written.put("LINES", "TOKEN='first'\nexport api.url=https://api.test # ours\n")
    written.put("PLAIN", "{}")
    written.secret(user="app", password="first", port=3306)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield written
        gc.collect()
    written.clear()


VALUES = {
    "API_URL": "https://api.test",
    "DB_PASSWORD": "first",
    "DB_PORT": "3306",
    "DB_USER": "app",
    "PLAIN": "{}",
    "TOKEN": "first",
}


def test_slice(aws: Aws) -> None:
    """A secret of Secrets Manager and a parameter are expanded, and followed value by value."""

    async def main() -> None:
        environ: dict[str, str] = {}
        keys = ["LINES", "PLAIN", REFERENCE]
        async with load_env("/EXPANDED", ttl=60, keys=keys, expand=EXPAND, environ=environ) as env:
            env.group("TOKEN", "DB_PASSWORD")
            assert VALUES == dict(env) == environ
            assert (REFERENCE, "db/password") == (
                env.parameters["DB_PASSWORD"].name,
                env.parameters["DB_PASSWORD"].inner_name,
            )

            aws.secret(user="app", password="second", port=3306)
            assert ["DB_PASSWORD"] == [change.key for change in await env.refresh("DB_USER")]
            aws.put("LINES", "TOKEN=second\nMORE=1")
            changes = {change.key: change.kind for change in await env.refresh()}
            assert {"TOKEN": "updated", "MORE": "added", "API_URL": "removed"} == changes
            assert ("second", "second", "1") == (environ["DB_PASSWORD"], environ["TOKEN"], environ["MORE"])

            aws.put("LINES", "TOKEN=third\nhunter2 hunter2")
            with pytest.raises(ExpansionFailed, match="line 2 column 1") as caught:
                await env.refresh()
            assert ("/EXPANDED/LINES", "/EXPANDED", REGION) == (
                caught.value.parameter,
                caught.value.path,
                caught.value.region,
            )
            assert "second" == env["TOKEN"] == environ["TOKEN"]

    asyncio.run(main())


def test_without_a_loop(aws: Aws) -> None:
    """A load on a loop of its own expands too, and is refreshed on later ones, with a store of one's own or without."""
    for given in (None, ParameterStore()):
        environ: dict[str, str] = {}
        env = load_env_sync("/EXPANDED", expand={"LINES": "dotenv"}, environ=environ, store=given)
        assert {"API_URL", "PLAIN", "TOKEN"} == environ.keys()
        for value in ("second", "third"):
            aws.put("LINES", f"TOKEN={value}")
            asyncio.run(env.refresh())
            assert value == env["TOKEN"] == environ["TOKEN"]
        aws.put("LINES", "TOKEN='first'\napi.url=https://api.test")


# It prints what is open more than before, after loads that go well and badly, and after a refresh.
_PROGRAM = """
import asyncio, os, threading
from pathlib import Path
from aiossmenv import ExpansionFailed, load_env_sync


def opened():
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # that of the folder
    return {*links, *threading.enumerate()}


load_env_sync("/EXPANDED", environ=None)  # what the SDK imports
before = opened()
env = load_env_sync("/EXPANDED", environ=None)
print(len(env), opened() - before)
try:
    load_env_sync("/EXPANDED", expand="dotenv", environ=None)
except ExpansionFailed as error:
    print(error.parameter, opened() - before)
asyncio.run(env.refresh())
print(env.status.refreshes, opened() - before)
"""


def test_nothing_is_left_open(aws: Aws, tmp_path: Path) -> None:
    """Over real connections a load leaves no socket, no loop and no thread, whether it goes well or badly."""
    (tmp_path / "program.py").write_text(_PROGRAM)

    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "" == done.stderr
    assert ["2 set()", "/EXPANDED/PLAIN set()", "1 set()"] == done.stdout.splitlines()
    assert 0 == done.returncode


async def test_within_a_loop(aws: Aws) -> None:
    """Where a loop runs, with connections of its own, the load has others."""
    async with load_env("/EXPANDED", ttl=60, environ=None) as theirs:
        env: Env = load_env_sync("/EXPANDED", environ=None)
        await theirs.refresh()
        assert dict(theirs) == dict(env)
