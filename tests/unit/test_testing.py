"""`aiossmenv.testing` as users use it; `integration/ssm/test_contract.py` compares its store with a real one."""

import asyncio
import gc
import os
import re
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aiossmenv.testing
from aiossmenv import (
    AccessDenied,
    InvalidPath,
    ParameterNotFound,
    ParameterStore,
    load_env,
)
from aiossmenv._concurrency import LoopClock
from aiossmenv._ssm.sender import ReadStats
from aiossmenv._ssm.transport import EncryptedParameter, GetParameter, GetParameters, Page
from aiossmenv.testing import Call, ManualClock, MemoryStore

if TYPE_CHECKING:
    from aiossmenv._models import ParameterType

A = "/M/A"
REFERENCE = "/aws/reference/secretsmanager/db/main"


@pytest.fixture
def memory(clock: ManualClock) -> MemoryStore:
    """Give a store with one secret."""
    return MemoryStore({A: "first"}, clock=clock)


# --- The documented examples


def recipes() -> list[str]:
    """Return the example programs of the module's docstring."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", aiossmenv.testing.__doc__ or "", re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in blocks if block.strip()]


AFTERWARDS = """
import os

def test_nothing_is_left(memory_store):
    assert "DB_PASSWORD" not in os.environ
    assert os.environ["STAYS"] == "here"
    assert memory_store.calls == []
"""
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


def test_recipes(tmp_path: Path) -> None:
    """
    The documented examples are short, and work unchanged, with warnings as errors and a conftest that imports the
    module.
    """
    (tmp_path / "conftest.py").write_text(
        'from aiossmenv.testing import MemoryStore\n\npytest_plugins = ["aiossmenv.testing"]\n'
    )
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    for number, recipe in enumerate(recipes()):
        assert len(recipe.splitlines()) < 15
        (tmp_path / f"test_{number}.py").write_text(recipe)
    (tmp_path / "test_afterwards.py").write_text(AFTERWARDS)

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "test_0.py", "test_1.py", "test_afterwards.py"],
        cwd=tmp_path,
        env=os.environ | {"STAYS": "here"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_without_pytest_and_the_sdk() -> None:
    """The module works without the SDK, and without pytest, in which case it has no fixtures."""
    program = """
import sys
sys.modules["pytest"] = None
import asyncio
from aiossmenv import AccessDenied, load_env
from aiossmenv import testing
async def main():
    store = testing.MemoryStore({"/M/A": "first"})
    with store.patch_default():
        await load_env("/M")
    store.deny("ssm:*")
    try:
        await load_env("/M", store=store)
    except AccessDenied as error:
        print(error.action)
asyncio.run(main())
sdk = ("botocore", "aiobotocore", "aiohttp")
print(hasattr(testing, "memory_store"), [name for name in sdk if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert "ssm:GetParametersByPath\nFalse []\n" == done.stdout, done.stderr


# --- The default store


async def test_fixtures(memory_store: MemoryStore, manual_clock: ManualClock) -> None:
    """`memory_store` is an empty store that is installed as the default, and its clock is `manual_clock`."""
    assert "<MemoryStore 0 parameters>" == repr(memory_store)
    memory_store.set(A, "first")
    assert "first" == (await load_env("/M"))["A"]
    assert manual_clock is memory_store.clock


async def test_patch_default(memory: MemoryStore, clock: ManualClock) -> None:
    """While the store is patched in, `load_env()` and `ParameterStore()` read it, on its clock."""
    with memory.patch_default() as installed:
        assert installed is memory
        async with load_env("/M/", ttl=60) as env, ParameterStore(region="eu-west-1") as store:
            assert "first" == env["A"] == os.environ["A"] == (await store.get(A)).value
            assert memory is not store
            memory.set(A, "second")
            await clock.advance(60)
            assert "second" == env["A"] == (await store.get(A)).value


def test_nested_patch_default(memory: MemoryStore) -> None:
    """The innermost store is used, and after all blocks have ended, in any way, stores are real again."""
    inner, own = MemoryStore(), ManualClock()
    with suppress(KeyError), memory.patch_default():
        with inner.patch_default():
            assert inner._service is ParameterStore()._connect()
        assert memory._service is ParameterStore()._connect()
        assert own is ParameterStore(clock=own).clock
        assert memory.clock is MemoryStore().clock
        raise KeyError

    after = ParameterStore()
    assert isinstance(after.clock, LoopClock)
    assert memory._service is not after._connect()


async def test_unclosed_stores_warn(memory: MemoryStore) -> None:
    """A service's store that is left open warns as in production; the in-memory store itself needs no close."""
    with memory.patch_default():
        forgotten = ParameterStore()
        await forgotten.get(A)
        with pytest.warns(ResourceWarning, match="unclosed <ParameterStore eu-central-1>"):
            del forgotten
    alone = MemoryStore({A: "first"})
    await alone.get(A)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del alone
        gc.collect()


# --- The store


async def read_encrypted(memory: MemoryStore, name: str) -> EncryptedParameter:
    """Read without decryption."""
    answer = await memory._reader.send_once(GetParameter(name, with_decryption=False), ReadStats())
    assert isinstance(answer, Page)
    (item,) = answer.parameters
    assert isinstance(item, EncryptedParameter)
    return item


async def test_every_write_changes_the_digest(memory: MemoryStore) -> None:
    """Two writes never have the same digest, even of the same value at one moment and with the same version."""
    looks = [await read_encrypted(memory, A)]
    memory.set(A, "first")
    looks.append(await read_encrypted(memory, A))
    memory.remove(A)
    memory.set(A, "first")
    looks.append(await read_encrypted(memory, A))

    assert [1, 2, 1] == [look.version for look in looks]
    assert 3 == len({look.digest for look in looks}) == len({look.last_modified for look in looks})


async def test_counters(memory: MemoryStore, clock: ManualClock) -> None:
    """The store counts requests and decryptions; a refresh without changes decrypts nothing."""
    async with load_env("/M", ttl=60, list_interval=3600, store=memory):
        assert ([Call("ssm:GetParametersByPath", ("/M",), decrypt=True)], 1) == (memory.calls, memory.decrypted)
        memory.calls.clear()
        await clock.advance(600)
        assert {Call("ssm:GetParameters", (A,), decrypt=False)} == set(memory.calls)
        assert 1 == memory.decrypted
        memory.set(A, "second")
        await clock.advance(60)
        assert 2 == memory.decrypted


async def test_secrets_of_secrets_manager(memory: MemoryStore, clock: ManualClock) -> None:
    """A secret has a new id after each write and no version, and its name cannot be read without decryption."""
    memory.set(REFERENCE, "a")
    first = await memory.get(REFERENCE)
    memory.set(REFERENCE, "b")
    assert first is await memory.get(REFERENCE)
    await clock.advance(60)
    second = await memory.get(REFERENCE)

    assert ("a", 0, "b", 0) == (first.value, first.version, second.value, second.version)
    assert "" != first.version_id != second.version_id != ""
    answer = await memory._reader.send_once(GetParameters((REFERENCE,), with_decryption=False), ReadStats())
    assert Page((), invalid_parameters=(REFERENCE,)) == answer


async def test_fault_counts(memory: MemoryStore) -> None:
    """A fault answers as many requests as its count says, in the order in which the faults were added."""
    memory.fail(1)
    memory.throttle(2)
    codes = []
    for _ in range(4):
        try:
            await memory._service.send(GetParameter(A))
        except aiossmenv.ServiceError as error:
            codes.append(error.code)

    assert ["InternalServerError", "ThrottlingException", "ThrottlingException"] == codes


async def test_hanging_request_is_retried(memory: MemoryStore, clock: ManualClock) -> None:
    """A request that hangs is cancelled after ten seconds and retried, as on a network."""
    memory.hang(1)
    reading = asyncio.ensure_future(memory.get(A))
    await clock.advance(9.9)
    assert not reading.done()
    await clock.advance(2)

    assert "first" == (await reading).value
    assert 2 == len(memory.calls)


async def test_heal(memory: MemoryStore) -> None:
    """`heal()` removes every fault and every denial."""
    for breaks in (memory.throttle, memory.fail, memory.hang):
        breaks()
    memory.deny("*")
    memory.heal()

    assert "first" == (await memory.get(A)).value


@pytest.mark.parametrize(
    ("resource", "denied"),
    [("*", True), (A, True), ("/M/*", True), (A + "/", True), ("/M", False), ("/M/AB", False), ("/m/A", False)],
)
async def test_denied_resources(memory: MemoryStore, resource: str, *, denied: bool) -> None:
    """A denial applies to a name or to a pattern of names, with or without a final slash."""
    memory.deny("ssm:GetParameter", resource)
    if denied:
        with pytest.raises(aiossmenv.ServiceError, match=f"parameter{A}"):
            await memory._service.send(GetParameter(A))
    else:
        await memory._service.send(GetParameter(A))


MISUSE: dict[str, tuple[Callable[[MemoryStore], None], type[Exception], str]] = {
    "no such right": (lambda store: store.deny("ssm:GetParamters"), ValueError, "is none of ssm:GetParametersByPath"),
    "no value": (lambda store: store.set(A, ""), ValueError, "/M/A: a value is not empty"),
    "no slash": (lambda store: store.set("M/A", "x"), InvalidPath, "begins with a slash"),
    "a label like a version": (lambda store: store.label(A, "2b"), ValueError, "does not begin with a digit"),
    "nothing to delete": (lambda store: store.remove("/M/B"), ParameterNotFound, "parameter /M/B"),
    "nothing to label": (lambda store: store.label(A, "blue", 2), ParameterNotFound, "parameter /M/A:2"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(memory: MemoryStore, name: str) -> None:
    """Calls that cannot be meant are rejected, because a test that relies on them would test nothing."""
    misuse, kind, text = MISUSE[name]
    with pytest.raises(kind, match=text):
        misuse(memory)


def test_unknown_type(memory: MemoryStore) -> None:
    """A parameter type that Parameter Store does not have is rejected."""
    kind: ParameterType = "Secret"  # type: ignore[assignment] # wrong on purpose
    with pytest.raises(ValueError, match="of type String, StringList, SecureString"):
        memory.set(A, "x", kind)


def test_repr(memory: MemoryStore) -> None:
    """The repr shows the number of parameters and no value."""
    assert "<MemoryStore 1 parameters>" == repr(memory)


@pytest.mark.parametrize("right", ["ssm:*", "kms:Decrypt"])
async def test_errors_show_no_value(memory: MemoryStore, right: str) -> None:
    """An error of the store shows no value, even rendered with local variables and its whole chain."""
    memory.set(A, "marker-of-a-secret")
    memory.deny(right)
    with pytest.raises(aiossmenv.AiossmenvError) as caught:
        await load_env("/M", store=memory)

    rendered = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "MemoryStore 1 parameters" in rendered
    assert "marker-of-a-secret" not in rendered


# --- The clock


async def test_sleepers_wake_in_order(clock: ManualClock) -> None:
    """Sleepers wake in the order of their times, including those that another sleeper starts."""
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *seconds: float) -> None:
        for each in seconds:
            await clock.sleep(each)
            woken.append((name, clock.now()))

    tasks = [asyncio.ensure_future(sleeper("a", 3, 1, 9)), asyncio.ensure_future(sleeper("b", 2, 1.5))]
    began = clock.wall()
    await clock.advance(5)
    assert [("b", 2), ("a", 3), ("b", 3.5), ("a", 4)] == woken
    assert (5, 5) == (clock.now(), (clock.wall() - began).total_seconds())

    tasks[0].cancel()
    await clock.advance(100)
    assert 4 == len(woken)


async def test_zero_sleep(clock: ManualClock) -> None:
    """A sleep of zero seconds returns without an advance of the clock, as on a real clock."""
    await clock.sleep(0)
    await clock.sleep(-1)
    assert 0 == clock.now()


async def test_advance_runs_all_follow_up_work(clock: ManualClock) -> None:
    """`advance()` returns only when everything that became due is done, even after hundreds of turns of the loop."""
    done = []

    async def work() -> None:
        await clock.sleep(1)
        for _ in range(900):
            await asyncio.sleep(0)
        done.append(clock.now())

    task = asyncio.ensure_future(work())
    await clock.advance(1)
    assert [1] == done
    await task


async def test_busy_task_does_not_stop_the_clock(clock: ManualClock) -> None:
    """A task that never waits does not keep the clock from advancing."""

    async def busy() -> None:
        while True:
            await asyncio.sleep(0)

    task = asyncio.ensure_future(busy())
    await clock.advance(1)
    assert 1 == clock.now()
    task.cancel()


async def test_missing_permission_hides_whether_a_secret_exists() -> None:
    """As in AWS, the permission is checked before the existence of the secret."""
    store = MemoryStore({"/aws/reference/secretsmanager/there": "1"})
    store.deny("secretsmanager:GetSecretValue")
    for name in ("there", "nowhere"):
        with pytest.raises(AccessDenied):
            await store.get(f"/aws/reference/secretsmanager/{name}")


@pytest.mark.parametrize("label", ["", ":x", "1st", "a b"])
def test_invalid_labels(label: str) -> None:
    """A label that Parameter Store would reject is rejected."""
    store = MemoryStore({"/P/A": "1"})
    with pytest.raises(ValueError, match="label"):
        store.label("/P/A", label)


async def test_time_never_runs_backwards() -> None:
    """The clock only moves forward."""
    with pytest.raises(ValueError, match="backwards"):
        await ManualClock().advance(-1)
