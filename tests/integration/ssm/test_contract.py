"""The in-memory store answers as one over HTTP, in everything that AWS documents and the emulator supports."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    InvalidPath,
    Parameter,
    ParameterNotFound,
    StoreUnavailable,
    Throttled,
    load_env,
)
from aiossmenv._ssm.sender import ReadStats
from aiossmenv._ssm.transport import (
    EncryptedParameter,
    FetchedParameter,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    ReadRequest,
)
from aiossmenv.testing import ManualClock
from backends import REFERENCE, Backend, InMemory, Wire
from embedded import REGION
from timing import eventually, passing

if TYPE_CHECKING:
    from aiossmenv._models import ParameterType


async def ask(backend: Backend, request: ReadRequest) -> Page:
    """Send one request through the transport that every read uses."""
    answer = await backend.store._reader.send_once(request, ReadStats())
    if isinstance(answer, AiossmenvError):
        raise answer
    return answer


async def walk(backend: Backend, path: str, *, recursive: bool = True, decrypt: bool = True) -> list[FetchedParameter]:
    """Return the parameters on all pages of a path."""
    items: list[FetchedParameter] = []
    token: str | None = None
    while True:
        page = await ask(backend, GetParametersByPath(path, recursive, decrypt, token))
        assert len(page.parameters) <= 10
        assert () == page.invalid_parameters
        items += page.parameters
        token = page.next_token
        if token is None:
            return items


def names(items: list[FetchedParameter]) -> list[str]:
    """Return the sorted names, because a listing has no guaranteed order."""
    return sorted(item.name for item in items)


# --- Answers


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25])
async def test_pages(backend: Backend, count: int) -> None:
    """The pages of a path contain each parameter once, however many there are."""
    written = {f"/C/K{number:02d}": f"value {number}" for number in range(count)}
    for name, value in written.items():
        backend.set(name, value)

    items = await walk(backend, "/C")

    assert sorted(written) == names(items)
    assert written == {item.name: item.value for item in items if isinstance(item, Parameter)}


async def test_path_contains_children_only(backend: Backend) -> None:
    """
    A path contains its children, or all descendants with `recursive`; not itself, and no name with the same beginning.
    """
    for name in ("/C", "/C/A", "/C/DEEP/B", "/CX/A", "/c/A"):
        backend.set(name, "value")

    assert ["/C/A", "/C/DEEP/B"] == names(await walk(backend, "/C"))
    assert ["/C/A"] == names(await walk(backend, "/C", recursive=False))
    assert ["/C", "/C/A", "/C/DEEP/B", "/CX/A", "/c/A"] == names(await walk(backend, "/"))
    assert ["/C"] == names(await walk(backend, "/", recursive=False))
    assert [] == await walk(backend, "/C/A")
    assert [] == await walk(backend, "/NOT")


async def test_by_name(backend: Backend) -> None:
    """Names that exist are returned, unknown ones are listed as invalid, and an unknown single name is an error."""
    backend.set("/C/A", "a")
    backend.set("/C/B", "b")

    page = await ask(backend, GetParameters(("/C/B", "/C/NOT", "/C/A", "/C/NEITHER")))

    assert ["/C/A", "/C/B"] == names(list(page.parameters))
    assert {"/C/NOT", "/C/NEITHER"} == set(page.invalid_parameters)
    assert None is page.next_token
    assert ["/C/A"] == names(list((await ask(backend, GetParameter("/C/A"))).parameters))
    with pytest.raises(ParameterNotFound) as caught:
        await ask(backend, GetParameter("/C/NOT"))
    assert ("/C/NOT", REGION) == (caught.value.parameter, caught.value.region)


async def test_names_given_twice(backend: Backend) -> None:
    """A name that is requested twice gives one parameter."""
    backend.set("/C/A", "a")

    assert {"/C/A": "a"} == {n: p.value for n, p in (await backend.store.get_many(["/C/A", "/C/A"])).items()}


async def test_parameter_types(backend: Backend) -> None:
    """A String and a StringList are returned in clear, a SecureString only with decryption; all characters are kept."""
    written: dict[str, tuple[ParameterType, str]] = {
        "/C/PLAIN": ("String", "a=b\nc"),
        "/C/LIST": ("StringList", "a,b,c"),
        "/C/SECRET": ("SecureString", "pässwörd 🔑"),
    }
    for name, (kind, value) in written.items():
        backend.set(name, value, kind)

    for page in (await walk(backend, "/C"), list((await ask(backend, GetParameters(tuple(written)))).parameters)):
        assert written == {item.name: (item.type, item.value) for item in page if isinstance(item, Parameter)}
    for page in (
        await walk(backend, "/C", decrypt=False),
        list((await ask(backend, GetParameters(tuple(written), with_decryption=False))).parameters),
        [(await ask(backend, GetParameter(name, with_decryption=False))).parameters[0] for name in written],
    ):
        assert {"/C/SECRET"} == {item.name for item in page if isinstance(item, EncryptedParameter)}
        assert {"/C/PLAIN", "/C/LIST"} == {item.name for item in page if isinstance(item, Parameter)}


async def test_encrypted_parameters_match(backend: Backend) -> None:
    """An encrypted parameter matches its decrypted version, until the value changes."""
    backend.set("/C/A", "first")
    (encrypted,) = (await ask(backend, GetParameter("/C/A", with_decryption=False))).parameters
    (decrypted,) = (await ask(backend, GetParameter("/C/A"))).parameters
    backend.set("/C/A", "second")
    (later,) = (await ask(backend, GetParameter("/C/A", with_decryption=False))).parameters
    (anew,) = (await ask(backend, GetParameter("/C/A"))).parameters

    assert isinstance(decrypted, Parameter)
    assert isinstance(encrypted, EncryptedParameter)
    assert isinstance(later, EncryptedParameter)
    assert isinstance(anew, Parameter)
    assert encrypted.matches(decrypted, encrypted.digest)
    assert later.matches(anew, None)
    assert not later.matches(decrypted, None)
    assert encrypted.digest != later.digest


async def test_versions(backend: Backend) -> None:
    """Each write is a new version, also of the same value; a recreated parameter starts at version 1."""
    seen = []
    for value in ("a", "b", "b"):
        backend.set("/C/A", value)
        seen.append((await ask(backend, GetParameter("/C/A"))).parameters[0])
    backend.remove("/C/A")
    assert ("/C/A",) == (await ask(backend, GetParameters(("/C/A",)))).invalid_parameters
    assert [] == await walk(backend, "/C")
    backend.set("/C/A", "b")
    seen.append((await ask(backend, GetParameter("/C/A"))).parameters[0])

    assert [1, 2, 3, 1] == [item.version for item in seen]
    dates = [item.last_modified or datetime.min.replace(tzinfo=UTC) for item in seen]
    assert sorted(dates) == dates
    assert all(date.year > 1 for date in dates)


async def test_selectors(backend: Backend) -> None:
    """A number selects a version, a label the version that has it now, and an ARN works like its name."""
    for value in ("1", "2", "3"):
        backend.set("/C/A", value)
    backend.label("/C/A", "blue", 1)
    backend.label("/C/A", "green")
    arn = (await ask(backend, GetParameter("/C/A"))).parameters[0].arn

    async def read(*names: str) -> list[str]:
        return [parameter.value for parameter in (await backend.store.get_many(names)).values()]

    assert ["3", "1", "2", "1", "3"] == await read("/C/A", "/C/A:1", "/C/A:2", "/C/A:blue", "/C/A:green")
    assert ["3", "2", "1"] == await read(arn, f"{arn}:2", f"{arn}:blue")
    assert {"/C/A:9", "/C/A:red"} == set(
        (await ask(backend, GetParameters(("/C/A:9",)))).invalid_parameters
        + (await ask(backend, GetParameters(("/C/A:red",)))).invalid_parameters
    )
    for missing in ("/C/A:9", "/C/A:red", "/C/B:1"):
        with pytest.raises(ParameterNotFound):
            await ask(backend, GetParameter(missing))
    backend.label("/C/A", "blue", 2)
    assert "2" == (await ask(backend, GetParameter("/C/A:blue"))).parameters[0].value  # type: ignore[union-attr] # decrypted


async def test_references(backend: Backend) -> None:
    """A secret of Secrets Manager is read by its reference, only with decryption, and is in no listing."""
    backend.secret("first")
    backend.set("/C/A", "a")
    (first,) = (await ask(backend, GetParameter(REFERENCE))).parameters
    backend.secret("second")
    (second,) = (await ask(backend, GetParameter(REFERENCE))).parameters

    assert isinstance(first, Parameter)
    assert isinstance(second, Parameter)
    assert [(REFERENCE, "first", "SecureString", 0), (REFERENCE, "second", "SecureString", 0)] == [
        (item.name, item.value, item.type, item.version) for item in (first, second)
    ]
    with pytest.raises(InvalidPath):
        await ask(backend, GetParameter(REFERENCE, with_decryption=False))
    with pytest.raises(ParameterNotFound):
        await ask(backend, GetParameter(REFERENCE + "/not"))
    assert ["/C/A"] == names(await walk(backend, "/"))
    assert [] == await walk(backend, "/aws/reference/secretsmanager")
    assert {"A": "a", "DB_MAIN": "second"} == dict(await load_env("/C", keys=["A", REFERENCE], store=backend.store))


async def test_life_of_an_environment(backend: Backend) -> None:
    """An `Env` loads, follows a write, a deletion and a recreated parameter, and sets variables."""
    backend.set("/C/A", "first")
    backend.set("/C/B", "stays", "String")
    env = await load_env("/C/", store=backend.store)
    assert {"A": "first", "B": "stays"} == dict(env)

    backend.set("/C/A", "second")
    assert [("A", "updated")] == [(change.key, change.kind) for change in await env.refresh()]
    assert ("second", "second") == (env["A"], os.environ["A"])

    backend.remove("/C/A")
    await env.refresh()
    assert "second" == env["A"]
    await env.refresh()
    assert {"B": "stays"} == dict(env)
    assert "A" not in os.environ

    backend.set("/C/A", "third")
    assert [("A", "added")] == [(change.key, change.kind) for change in await env.refresh()]
    assert (1, "third") == (env.parameters["A"].version, os.environ["A"])
    assert () == await env.refresh()


async def test_environment_of_named_keys(backend: Backend) -> None:
    """Keys that are known in advance need one request."""
    backend.set("/C/A", "a")
    backend.set("/C/B", "b")

    assert {"A": "a", "B": "b"} == dict(await load_env("/C", keys=["A", "B"], store=backend.store))
    assert 1 == backend.request_count()


# --- Failures


def details(fault: AiossmenvError) -> dict[str, object]:
    """Return everything that an error says, except the service's own words."""
    return {"type": type(fault), "transient": fault.transient} | {
        name: getattr(fault, name, None) for name in ("action", "parameter", "path", "region", "remedy")
    }


LISTING = "ssm:GetParametersByPath"
NAMED = "ssm:GetParameters"
SINGLE = "ssm:GetParameter"
EVERY_KEY = {"keys": ["A", "B"]}
FAULTS: dict[str, tuple[Callable[[Backend], object], dict[str, Any], type[AiossmenvError], str | None]] = {
    "throttled": (lambda it: it.throttle(), {}, Throttled, None),
    "throttled, by name": (lambda it: it.throttle(), EVERY_KEY, Throttled, None),
    "failing": (lambda it: it.fail(), {}, StoreUnavailable, None),
    "listing denied": (lambda it: it.deny(LISTING), {}, AccessDenied, LISTING),
    "this listing denied": (lambda it: it.deny(LISTING, "/C"), {}, AccessDenied, LISTING),
    "one name denied": (lambda it: [it.deny(each, "/C/B") for each in (NAMED, SINGLE)], EVERY_KEY, AccessDenied, NAMED),
    "key denied": (lambda it: it.deny("kms:Decrypt"), {}, DecryptionFailed, None),
    "key denied of one name": (lambda it: it.deny("kms:Decrypt", "/C/B"), EVERY_KEY, DecryptionFailed, None),
    "secret denied": (
        lambda it: it.deny("secretsmanager:GetSecretValue"),
        {"keys": [REFERENCE]},
        AccessDenied,
        None,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_failures_are_equal(memory: InMemory, wire: Wire, clock: ManualClock, name: str) -> None:
    """A fault in memory gives the same error as that fault over HTTP, except for the service's words."""
    breaks, options, kind, action = FAULTS[name]
    before = dict(os.environ)
    errors = []
    backends: tuple[Backend, ...] = memory, wire
    for backend in backends:
        backend.set("/C/A", "a")
        backend.set("/C/B", "b")
        backend.secret("s")
        breaks(backend)
        with pytest.raises(kind) as caught:
            await passing(clock, load_env("/C", store=backend.store, **options))
        errors.append(details(caught.value))

    assert errors[0] == errors[1]
    assert action == errors[0]["action"]
    assert before == dict(os.environ)
    # Of two single reads, the second may already be sent when the answer of the first ends the load.
    assert 0 <= wire.request_count() - memory.request_count() <= (name == "key denied")


async def test_hanging_requests_are_equal(memory: InMemory, wire: Wire, clock: ManualClock) -> None:
    """A request without an answer ends the load at its deadline, in memory and over HTTP."""
    before = dict(os.environ)
    errors = []
    backends: tuple[Backend, ...] = memory, wire
    for backend in backends:
        backend.set("/C/A", "a")
        backend.hang()
        loading = asyncio.ensure_future(load_env("/C", deadline=5, store=backend.store))
        await eventually(backend.request_count)
        await clock.advance(5)
        with pytest.raises(StoreUnavailable, match="did not answer before the deadline") as caught:
            await loading
        errors.append(details(caught.value))

    assert errors[0] == errors[1]
    assert before == dict(os.environ)


@pytest.mark.parametrize("breaks", ["throttle", "fail"])
async def test_temporary_faults(backend: Backend, clock: ManualClock, breaks: str) -> None:
    """A fault of a few requests only costs time."""
    backend.set("/C/A", "a")
    getattr(backend, breaks)(2)

    assert {"A": "a"} == dict(await passing(clock, load_env("/C", store=backend.store)))
    assert 3 == backend.request_count()


async def test_fallback_after_a_denial(backend: Backend) -> None:
    """If batches are denied, names are read singly, as a role with only that permission requires."""
    backend.set("/C/A", "a")
    backend.set("/C/B", "b")
    backend.deny(NAMED)

    assert {"A": "a", "B": "b"} == dict(await load_env("/C", keys=["A", "B"], store=backend.store))
    assert 3 == backend.request_count()


async def test_last_good_values_stay(backend: Backend) -> None:
    """A failed refresh changes nothing, and the next successful one returns the changes."""
    backend.set("/C/A", "first")
    env = await load_env("/C", store=backend.store)
    backend.set("/C/A", "second")
    backend.deny("kms:Decrypt")
    with pytest.raises(DecryptionFailed):
        await env.refresh()
    assert ("first", "first", 1) == (env["A"], os.environ["A"], env.status.failures)

    backend.heal()
    await env.refresh()
    assert ("second", "second", 0) == (env["A"], os.environ["A"], env.status.failures)
