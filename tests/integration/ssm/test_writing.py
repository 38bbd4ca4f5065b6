"""Writes, deletions, histories and descriptions: one contract in memory and over HTTP, and faults on the wire."""

import asyncio
import socket
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from aiossmenv import (
    AccessDenied,
    AddTagsToResource,
    AiossmenvError,
    DecryptionFailed,
    InvalidParameter,
    InvalidPath,
    ParameterAlreadyExists,
    ParameterNotFound,
    ParameterStore,
    PutParameter,
    ServiceError,
    StoreUnavailable,
    Throttled,
    Written,
    load_env,
)
from aiossmenv.testing import ManualClock, MemoryStore
from backends import Backend, InMemory, Wire
from embedded import REGION, Store
from faults import Call, Fault, FaultProxy, Forward, changed, error, raw, reset, throttled
from timing import passing

if TYPE_CHECKING:
    from aiossmenv._models import ParameterType

A = "/W/A"


async def put_all(store: ParameterStore, parameters: Mapping[str, str], *, overwrite: bool = True) -> list[Written]:
    """Write parameters and return what was written."""
    return [written async for written in store.put_many(parameters, overwrite=overwrite)]


async def value_of(store: ParameterStore, name: str) -> str:
    """Return the value that is in the store."""
    return (await store.get(name)).value


# --- Writes


async def test_put(backend: Backend) -> None:
    """A write makes a parameter or a new version of it, and says which version there was before."""
    store = backend.store
    first = await store.put(A, "pässwörd 🔑\n")
    second = await store.put(A, "second")

    assert Written(name=A, version=1, previous_version=0, tier="Standard") == first
    assert Written(name=A, version=2, previous_version=1, tier="Standard") == second
    assert ["pässwörd 🔑\n", "second"] == [await value_of(store, name) for name in (f"{A}:1", A)]
    assert "SecureString" == (await store.get(A)).type
    assert 4 == backend.operations().count("GetParameters")


async def test_put_with_every_option(backend: Backend) -> None:
    """Type, tier and description are kept; spaces around a name are not."""
    store = backend.store
    written = await store.put(
        f" {A} ", "a,b", type="StringList", tier="Advanced", description="what it is for", data_type="text"
    )
    await store.put("/W/KEY", "x", key_id="alias/mine")

    assert (A, "Advanced") == (written.name, written.tier)
    assert "a,b" == await value_of(store, A)
    found = {metadata.name: metadata for metadata in [metadata async for metadata in store.describe("/W")]}
    assert ("StringList", "Advanced", "what it is for") == (found[A].type, found[A].tier, found[A].description)
    assert ("SecureString", "alias/mine") == (found["/W/KEY"].type, found["/W/KEY"].key_id)


async def test_existing_parameter_is_not_overwritten(backend: Backend) -> None:
    """With `overwrite=False` a new parameter is written, and an existing one is an error that changes nothing."""
    store = backend.store
    await store.put(A, "first", overwrite=False)

    with pytest.raises(ParameterAlreadyExists, match="Pass overwrite=True") as caught:
        await store.put(A, "second", overwrite=False)

    assert (A, REGION) == (caught.value.parameter, caught.value.region)
    assert "first" == await value_of(store, A)
    with pytest.raises(ParameterAlreadyExists, match="0 of 1 parameters are written"):
        await put_all(store, {A: "third"}, overwrite=False)


async def test_tags(backend: Backend) -> None:
    """A new parameter gets its tags with its value; one that is there keeps its tags, and gets more."""
    store = backend.store
    await store.put(A, "1", tags={"team": "payments"})
    assert ["GetParameters", "PutParameter"] == backend.operations()
    await store.put(A, "2", tags={"team": "books", "tier": "1"})
    await store.put(A, "3")

    assert ["GetParameters", "PutParameter", "AddTagsToResource"] == backend.operations()[2:5]
    assert {"team": "books", "tier": "1"} == backend.tags_of(A)
    assert "3" == await value_of(store, A)
    with pytest.raises(ParameterAlreadyExists):
        await store.put(A, "4", tags={"team": "x"}, overwrite=False)


async def test_tags_of_a_parameter_that_cannot_be_read(backend: Backend) -> None:
    """Without a right to read, the tags are first sent with the value, and then by themselves."""
    await backend.store.put(A, "1")
    backend.deny("ssm:GetParameter*")
    if isinstance(backend, Wire):
        backend.deny("ssm:GetParameters")
        backend.deny("ssm:GetParameter")

    written = await backend.store.put(A, "2", tags={"team": "books"})

    assert (2, None) == (written.version, written.previous_version)
    assert ["PutParameter", "PutParameter", "AddTagsToResource"] == backend.operations()[-3:]
    assert {"team": "books"} == backend.tags_of(A)


async def test_tags_that_are_denied(backend: Backend) -> None:
    """An error that comes after the value was written says so."""
    await backend.store.put(A, "1")
    backend.deny("ssm:AddTagsToResource")

    with pytest.raises(AccessDenied, match=r"version 2 is written, but not its tags: .*Allow ssm:AddTagsToResource"):
        await backend.store.put(A, "2", tags={"team": "books"})

    assert "2" == await value_of(backend.store, A)


async def test_put_many(backend: Backend, clock: ManualClock) -> None:
    """Each parameter is written once and yielded, and what was there before is read ten at a time."""
    await backend.store.put("/W/07", "old")
    before = Counter(backend.operations())
    values = {f"/W/{number:02d}": f"value {number}" for number in range(25)}

    written = await passing(clock, put_all(backend.store, values))

    assert sorted(values) == sorted(one.name for one in written)
    assert {1: 24, 2: 1} == Counter(one.version for one in written)
    assert {0: 24, 1: 1} == Counter(one.previous_version for one in written)
    assert {"PutParameter": 25, "GetParameters": 3} == Counter(backend.operations()) - before
    assert values == {parameter.name: parameter.value async for parameter in backend.store.scan("/W")}
    assert [] == await put_all(backend.store, {})


async def test_put_many_stops_at_an_error(backend: Backend, clock: ManualClock) -> None:
    """After an error no more writes begin, those in flight end, and the error says how many there are."""
    backend.deny("ssm:PutParameter", "/W/03")
    values = {f"/W/{number:02d}": f"value {number}" for number in range(25)}
    written: list[str] = []

    async def put() -> None:
        async for one in backend.store.put_many(values):
            written.append(one.name)  # noqa: PERF401 - an error ends it, and what came before counts

    with pytest.raises(AccessDenied, match="of 25 parameters are written") as caught:
        await passing(clock, put())

    assert "/W/03" == caught.value.parameter
    assert f"{len(written)} of 25" in str(caught.value)
    assert "Allow ssm:PutParameter on" in str(caught.value)
    assert 3 <= len(written) <= 7
    assert sorted(written) == [parameter.name async for parameter in backend.store.scan("/W")]


async def test_abandoned_put_many(memory: InMemory) -> None:
    """A caller that stops early leaves no task behind."""
    writing = memory.put_many({f"/W/{number}": "x" for number in range(9)})
    async for _ in writing:
        break
    await writing.aclose()  # type: ignore[attr-defined] # an async generator, as `scan()` is

    assert not [task for task in asyncio.all_tasks() if task.get_name() == "aiossmenv write"]


async def test_reads_are_forgotten(backend: Backend) -> None:
    """After a write or a deletion, a single read of the name, with any selector, is no older."""
    store = backend.store
    await store.put(A, "1")
    arn = (await store.get(A)).arn
    for name in (A, f"{A}:1", arn):
        assert "1" == await value_of(store, name)
    await store.put(A, "2")
    assert ["2", "1", "2"] == [await value_of(store, name) for name in (A, f"{A}:1", arn)]
    await put_all(store, {A: "3"})
    assert "3" == await value_of(store, A)
    await store.delete(A)
    for name in (A, f"{A}:1", arn):
        with pytest.raises(ParameterNotFound):
            await store.get(name)


async def test_read_in_flight_during_a_write(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """What a read that began before a write returns is not cached, and a read after the write does not join it."""
    ssm.put(A, "1")
    let_go = asyncio.Event()

    async def hold(call: Call, forward: Forward) -> web.Response:
        answer = await forward(call.body)
        await let_go.wait()
        return web.json_response(answer["body"])

    proxy.add(hold, operation="GetParameters", when=lambda call: bool(call.body["WithDecryption"]), times=1)
    early = asyncio.create_task(store.get(A))
    while not proxy.answered:
        await asyncio.sleep(0.001)
    await store.put(A, "2")
    assert "2" == await value_of(store, A)
    let_go.set()

    assert "1" == (await early).value
    assert "2" == await value_of(store, A)


# --- What is refused

BAD_NAMES = {
    "": "empty",
    "W/A": "begins with a slash",
    "/W//A": "single slashes",
    "/W/A/": "final slash",
    "/W/A B": "single slashes",
    "/W/Ä": "single slashes",
    "/W/A:3": "version or a label",
    "/aws/x": "prefixed",
    "/SSM/x": "prefixed",
    "arn:aws:ssm:eu-central-1:999999999999:parameter/W/A": "Write the name in it: /W/A",
    "/" + "x/" * 15 + "y": "15 levels",
    "/" + "x" * 1011: "1,011 characters",
}
BAD_OPTIONS: dict[str, tuple[dict[str, object], str]] = {
    "empty": ({"value": ""}, "is empty"),
    "a NUL": ({"value": "a\0b"}, "NUL"),
    "a surrogate": ({"value": "a\ud800"}, "half a character"),
    "bytes": ({"value": b"hunter2"}, "are texts"),
    "too long": ({"value": "x" * 8193}, "8,193 characters, and 8,192"),
    "too long for standard": ({"value": "x" * 4097, "tier": "Standard", "type": "String"}, "4,097 characters"),
    "too many bytes for KMS": ({"value": "ü" * 2049, "tier": "Standard"}, "4,098 bytes, and 4,096"),
    "type": ({"type": "Secret"}, "no such type"),
    "tier": ({"tier": "Gold"}, "no such tier"),
    "key of a plain text": ({"type": "String", "key_id": "alias/x"}, "only a SecureString"),
    "tags": ({"tags": ["team"]}, "no mapping"),
}


async def test_bad_names_are_refused_before_a_request(backend: Backend) -> None:
    """A name that cannot be is refused in each method that writes, and nothing is sent."""
    for name, text in BAD_NAMES.items():
        for work in (
            backend.store.put(name, "hunter2"),
            put_all(backend.store, {"/W/GOOD": "hunter2", name: "hunter2"}),
            backend.store.delete("/W/GOOD", name),
        ):
            with pytest.raises(InvalidPath, match=text) as caught:
                await work
            assert name == caught.value.parameter
            assert caught.value.remedy
    assert 0 == backend.request_count()


async def test_bad_values_are_refused_before_a_request(backend: Backend) -> None:
    """A value that Parameter Store would not take is refused, without a quote of it."""
    for options, text in BAD_OPTIONS.values():
        given: dict[str, object] = {"value": "hunter2"} | options
        with pytest.raises(InvalidParameter, match=text) as caught:
            await backend.store.put(A, **given)  # type: ignore[arg-type] # wrong on purpose
        assert caught.value.remedy
        assert "hunter2" not in f"{caught.value}"
    assert 0 == backend.request_count()


async def test_values_that_just_fit(backend: Backend) -> None:
    """The longest value of each tier is written; the account may have advanced parameters by default."""
    for number, (value, options) in enumerate(
        [
            ("x" * 4096, {"tier": "Standard"}),
            ("ü" * 4096, {"tier": "Standard", "type": "String"}),
            ("x" * 8192, {"tier": "Advanced"}),
            ("x" * 8192, {"tier": "Intelligent-Tiering"}),
        ]
    ):
        await backend.store.put(f"/W/{number}", value, **options)  # type: ignore[arg-type] # each is right
        assert value == await value_of(backend.store, f"/W/{number}")


async def test_put_many_checks_all_before_it_writes(backend: Backend) -> None:
    """One bad value, one name that is given twice, or what is no mapping, and nothing is written."""
    store = backend.store
    with pytest.raises(InvalidParameter, match="empty"):
        await put_all(store, {"/W/GOOD": "x", A: ""})
    with pytest.raises(InvalidPath, match="twice"):
        await put_all(store, {A: "x", f"{A} ": "y"})
    with pytest.raises(InvalidParameter, match="no mapping"):
        await put_all(store, [(A, "x")])  # type: ignore[arg-type] # wrong on purpose
    assert 0 == backend.request_count()


async def test_memory_refuses_what_aws_refuses(memory: InMemory) -> None:
    """The in-memory store refuses what the emulator does not: another type, a smaller tier, a labelled old version."""
    await memory.put(A, "x", type="String", tier="Advanced")
    with pytest.raises(InvalidParameter, match="HierarchyTypeMismatchException"):
        await memory.put(A, "x")
    with pytest.raises(InvalidParameter, match="ValidationException"):
        await memory.put(A, "x", type="String", tier="Standard")
    with pytest.raises(InvalidParameter, match="4096 characters"):
        await memory.put("/W/B", "x" * 5000)
    memory.label(A, "first")
    for _ in range(99):
        await memory.put(A, "x", type="String")
    with pytest.raises(InvalidParameter, match="Move the label"):
        await memory.put(A, "x", type="String")
    memory.label(A, "first", 2)
    assert 101 == (await memory.put(A, "x", type="String")).version
    assert 100 == len(await memory.history(A))


# --- Deletions


async def test_delete(backend: Backend) -> None:
    """The names that were there are returned, in their order; a request deletes ten; a new one begins at version 1."""
    store, names = backend.store, [f"/W/{number:02d}" for number in range(21)]
    for name in names:
        backend.set(name, "x")
    backend.set("/W/STAYS", "x")

    assert tuple(names) == await store.delete(*names, "/W/NOT", names[0], f" {names[1]} ")
    assert 3 == backend.operations().count("DeleteParameters")
    assert () == await store.delete("/W/NOT")
    assert () == await store.delete()
    assert ["/W/STAYS"] == [parameter.name async for parameter in store.scan("/W")]
    assert (1, 0) == ((written := await store.put(names[0], "y")).version, written.previous_version)


async def test_delete_says_what_was_done_before(backend: Backend) -> None:
    """An error in a later request says how many names were done before."""
    names = [f"/W/{number:02d}" for number in range(15)]
    for name in names:
        backend.set(name, "x")
    backend.deny("ssm:DeleteParameters", names[12])

    with pytest.raises(AccessDenied, match="10 of 15 names were done before") as caught:
        await backend.store.delete(*names)

    assert "ssm:DeleteParameters" == caught.value.action
    assert 5 == len([name async for name in backend.store.scan("/W")])


# --- Histories and descriptions


async def test_history(backend: Backend) -> None:
    """All versions are returned, oldest first, decrypted, with their labels, fifty to a page."""
    for number in range(1, 61):
        backend.set(A, f"value {number}")
    backend.label(A, "blue", 2)
    backend.label(A, "green", 60)

    versions = await backend.store.history(A)

    assert list(range(1, 61)) == [version.parameter.version for version in versions]
    assert [f"value {number}" for number in range(1, 61)] == [version.parameter.value for version in versions]
    assert {2: ("blue",), 60: ("green",)} == {v.parameter.version: v.labels for v in versions if v.labels}
    assert {("Standard", "alias/aws/ssm")} == {(version.tier, version.key_id) for version in versions}
    assert 2 == backend.operations().count("GetParameterHistory")
    assert "value" not in repr(versions)
    for name, kind in (("/W/NOT", ParameterNotFound), (" ", InvalidPath)):
        with pytest.raises(kind):
            await backend.store.history(name)


async def test_describe(backend: Backend) -> None:
    """A path is described at all levels or at one, fifty to a page, without values and without KMS."""
    names = [f"/W/{number:02d}" for number in range(55)]
    for name in (*names, "/W/DEEP/A", "/WX/A"):
        backend.set(name, "hunter2", "SecureString" if name < "/W/3" else "String")
    if isinstance(backend, InMemory):
        backend.deny("kms:*")

    found = [metadata async for metadata in backend.store.describe("/W/")]

    assert [*names, "/W/DEEP/A"] == sorted(metadata.name for metadata in found)
    if isinstance(backend, InMemory):
        assert 2 == backend.operations().count("DescribeParameters")
    else:  # the emulator gives ten to a page, whatever it is asked for
        assert 50 == backend.proxy.calls[0].body["MaxResults"]
    assert sorted(names) == sorted([one.name async for one in backend.store.describe("/W", recursive=False)])
    assert {1} == {metadata.version for metadata in found}
    assert all(metadata.last_modified for metadata in found)
    assert "hunter2" not in repr(found)
    assert [] == [metadata async for metadata in backend.store.describe("/NOT")]
    assert 57 == len([metadata async for metadata in backend.store.describe("/")])
    with pytest.raises(InvalidPath, match="begins with a slash"):
        [metadata async for metadata in backend.store.describe("W")]


# --- Rights


async def test_denied(backend: Backend) -> None:
    """A denied request names the right and the resource, and is sent once."""
    backend.set(A, "x")
    store = backend.store

    async def describe() -> None:
        _ = [metadata async for metadata in store.describe("/W")]

    for operation, work in {
        "PutParameter": lambda: store.put(A, "y"),
        "DeleteParameters": lambda: store.delete(A),
        "GetParameterHistory": lambda: store.history(A),
        "DescribeParameters": describe,
    }.items():
        backend.deny(f"ssm:{operation}")
        with pytest.raises(AccessDenied, match=f"Allow ssm:{operation} on ") as caught:
            await work()
        assert f"ssm:{operation}" == caught.value.action
        assert 1 == backend.operations().count(operation)
        if operation == "DescribeParameters":
            assert ("/W", None) == (caught.value.path, caught.value.parameter)
        else:
            assert A == caught.value.parameter


async def test_denied_key(backend: Backend) -> None:
    """A key that the role may not use for a write is named, and a history that cannot be decrypted too."""
    backend.set(A, "x")
    backend.deny("kms:Encrypt")
    with pytest.raises(DecryptionFailed, match="Allow kms:Encrypt"):
        await backend.store.put(A, "y")
    backend.heal()
    backend.deny("kms:Decrypt")
    with pytest.raises(DecryptionFailed, match="Allow kms:Decrypt"):
        await backend.store.history(A)
    assert (2, 1) == ((written := await backend.store.put(A, "z")).version, written.previous_version)


async def test_role_that_may_not_read(backend: Backend) -> None:
    """A role that may not read several names at once reads them one by one; one that may not read writes as well."""
    names = ["/W/A", "/W/B"]
    backend.deny("ssm:GetParameters")
    await backend.store.put(A, "1")
    written = await put_all(backend.store, dict.fromkeys(names, "2"))
    assert {A: 1, "/W/B": 0} == {one.name: one.previous_version for one in written}

    backend.deny("ssm:GetParameter")
    written = await put_all(backend.store, dict.fromkeys(names, "3"))
    assert {None} == {one.previous_version for one in written}


# --- Passing faults


async def test_passing_faults(backend: Backend, clock: ManualClock) -> None:
    """What was throttled or got a server's error is sent again, and a write is carried out once."""
    for begin in (backend.throttle, backend.fail):
        for version, times in enumerate((1, 2, 3), 1):
            begin(times)
            assert version == (await passing(clock, backend.store.put(A, "x"))).version
        begin(2)
        assert 3 == len(await passing(clock, backend.store.history(A)))
        begin(2)
        assert (A,) == await passing(clock, backend.store.delete(A))


async def test_lasting_faults_end_at_the_deadline(backend: Backend, clock: ManualClock) -> None:
    """A lasting fault ends each call at its deadline of 30 seconds."""
    backend.set(A, "x")
    for begin, kind in ((backend.throttle, Throttled), (backend.fail, StoreUnavailable)):
        begin()
        for work in (backend.store.put(A, "y"), backend.store.delete(A), backend.store.history(A)):
            began = clock.now()
            with pytest.raises(kind) as caught:
                await passing(clock, work)
            assert 30 == pytest.approx(clock.now() - began, abs=0.2)
            assert (A, REGION) == (caught.value.parameter, caught.value.region)
        backend.heal()
    assert "x" == await value_of(backend.store, A)


# --- Faults on the wire


def executed(then: Fault) -> Fault:
    """Carry the request out, and then answer with a fault."""

    async def fault(call: Call, forward: Forward) -> web.StreamResponse:
        await forward(call.body)
        return await then(call, forward)

    return fault


LOST: dict[str, Fault] = {
    "FIN": reset(),
    "RST": reset(rst=True),
    "500": error("InternalServerError", status=500),
    "503": raw(b"<html>", 503),
    "no JSON": raw(b"<html>"),
    "no version": raw(b"{}"),
}


@pytest.mark.parametrize("name", LOST)
async def test_lost_answer_of_a_write(wire: Wire, clock: ManualClock, name: str) -> None:
    """A write that was carried out, and whose answer was lost, is found by a read, and not sent again."""
    wire.proxy.add(executed(LOST[name]), operation="PutParameter")
    for number, overwrite in enumerate((True, False), 1):
        written = await passing(clock, wire.store.put(f"/W/{number}", "ours", overwrite=overwrite))

        assert Written(name=f"/W/{number}", version=1, previous_version=0) == written
        assert number == wire.proxy.count("PutParameter")
        assert "ours" == await value_of(wire.store, f"/W/{number}")


@pytest.mark.parametrize("name", LOST)
async def test_write_that_was_not_carried_out(wire: Wire, clock: ManualClock, name: str) -> None:
    """A write that did not arrive is sent again, and nothing is decrypted for it."""
    kinds: tuple[ParameterType, ...] = ("String", "SecureString")
    for number, kind in enumerate(kinds, 1):
        wire.ssm.put(f"/W/{number}", "before", kind)
        wire.proxy.add(LOST[name], operation="PutParameter", times=2)

        written = await passing(clock, wire.store.put(f"/W/{number}", "ours", type=kind))

        assert (2, 1) == (written.version, written.previous_version)
        assert 3 * number == wire.proxy.count("PutParameter")
    assert not any(call.body["WithDecryption"] for call in wire.proxy.calls if call.operation == "GetParameters")


@pytest.mark.parametrize("first", [True, False])
async def test_another_writer(wire: Wire, clock: ManualClock, *, first: bool) -> None:
    """What another writer wrote meanwhile is not overwritten, and the error says which version is there."""
    wire.ssm.put(A, "before")

    async def fault(call: Call, forward: Forward) -> web.StreamResponse:
        if first:
            await forward(call.body)
        await asyncio.to_thread(wire.ssm.put, A, "theirs")
        return await reset()(call, forward)

    wire.proxy.add(fault, operation="PutParameter")
    there = 3 if first else 2

    with pytest.raises(
        StoreUnavailable, match=f"unknown: version {there} is in the store now, and .*version 1"
    ) as caught:
        await passing(clock, wire.store.put(A, "ours"))

    assert not caught.value.transient
    assert (A, REGION) == (caught.value.parameter, caught.value.region)
    assert "theirs" == await value_of(wire.store, A)
    assert 1 == wire.proxy.count("PutParameter")


async def test_parameter_that_is_deleted_meanwhile(wire: Wire, clock: ManualClock) -> None:
    """A parameter that is gone after a lost answer is not written again."""
    wire.ssm.put(A, "before")

    async def fault(call: Call, forward: Forward) -> web.StreamResponse:
        await asyncio.to_thread(wire.ssm.delete, A)
        return await reset()(call, forward)

    wire.proxy.add(fault, operation="PutParameter")

    with pytest.raises(StoreUnavailable, match="not in the store now"):
        await passing(clock, wire.store.put(A, "ours"))


async def test_lost_answer_for_a_role_that_may_not_read(wire: Wire, clock: ManualClock) -> None:
    """Without a right to read, or to decrypt what changed, nothing is known of a write whose answer was lost."""
    wire.proxy.add(executed(reset()), operation="PutParameter")
    wire.deny("kms:Decrypt")
    with pytest.raises(StoreUnavailable, match="unknown: version 1 is in the store now, and before it was not there"):
        await passing(clock, wire.store.put(A, "ours"))
    wire.deny("ssm:GetParameters")
    wire.deny("ssm:GetParameter")
    with pytest.raises(StoreUnavailable, match="unknown: what is in the store cannot be read"):
        await passing(clock, wire.store.put(A, "ours"))
    assert 2 == wire.proxy.count("PutParameter")


async def test_single_reads_that_fail(wire: Wire, clock: ManualClock) -> None:
    """If what is there can only be read one by one, and those reads fail until the deadline, nothing is written."""
    wire.deny("ssm:GetParameters")
    wire.proxy.add(throttled(), operation="GetParameter")

    with pytest.raises(Throttled):
        await passing(clock, wire.store.put(A, "ours"))

    assert 0 == wire.proxy.count("PutParameter")


async def test_tags_of_a_parameter_that_is_gone(memory: InMemory) -> None:
    """The in-memory store does not tag what is not there."""
    with pytest.raises(ServiceError, match="InvalidResourceId"):
        await memory._service.send(AddTagsToResource(A, (("team", "books"),)))


async def test_lost_answer_in_an_outage(wire: Wire, clock: ManualClock) -> None:
    """If no read is answered until the deadline either, whether it was written stays unknown."""
    wire.proxy.add(executed(reset()), operation="PutParameter")
    wire.proxy.add(error("InternalServerError", status=500), when=lambda call: call.number > 0)

    with pytest.raises(StoreUnavailable, match="whether it was written is unknown"):
        await passing(clock, wire.store.put(A, "ours"))


async def test_replica_that_lags(wire: Wire, clock: ManualClock) -> None:
    """If a read does not show a write yet, "it already exists" is taken as a reason to read again."""
    wire.proxy.add(executed(reset()), operation="PutParameter", times=1)
    absent = changed(lambda body, _: {"Parameters": [], "InvalidParameters": body["Names"]})
    wire.proxy.add(absent, operation="GetParameters", times=3)

    written = await passing(clock, wire.store.put(A, "ours", overwrite=False))

    assert (1, 0) == (written.version, written.previous_version)
    assert 3 == wire.proxy.count("PutParameter")


async def test_lost_answer_with_tags(wire: Wire, clock: ManualClock) -> None:
    """A write with tags whose answer was lost is not sent a second time, and tags are added if they were not in it."""
    wire.proxy.add(executed(reset()), operation="PutParameter")
    wire.proxy.add(executed(reset()), operation="AddTagsToResource", times=2)
    for version in (1, 2):
        assert version == (await passing(clock, wire.store.put(A, "x" * version, tags={"v": f"{version}"}))).version
        assert {"v": f"{version}"} == wire.tags_of(A)
    assert (2, 3) == (wire.proxy.count("PutParameter"), wire.proxy.count("AddTagsToResource"))


async def test_tags_that_fail_until_the_deadline(wire: Wire, clock: ManualClock) -> None:
    """Tags that cannot be added until the deadline end in an error that says what is written."""
    wire.ssm.put(A, "1")
    wire.proxy.add(throttled(), operation="AddTagsToResource")
    with pytest.raises(Throttled, match="version 2 is written, but not its tags: ThrottlingException"):
        await passing(clock, wire.store.put(A, "2", tags={"v": "2"}))


@pytest.mark.parametrize("code", ["ThrottlingException", "TooManyUpdates"])
async def test_throttled_writes(wire: Wire, clock: ManualClock, code: str) -> None:
    """A write that was throttled, or that came together with another one, is sent again without a read."""
    wire.proxy.add(error(code), operation="PutParameter", times=3)

    assert 1 == (await passing(clock, wire.store.put(A, "x"))).version
    assert {"PutParameter": 4, "GetParameters": 1} == Counter(wire.operations())


REFUSED: dict[str, tuple[Fault, type[AiossmenvError]]] = {
    "expired": (error("ExpiredTokenException", "The security token is expired"), AccessDenied),
    "too many": (error("ParameterLimitExceeded", "You have reached the maximum"), InvalidParameter),
    "key": (error("InvalidKeyId", "(Service: AWSKMS; NotFoundException)"), DecryptionFailed),
    "pattern": (error("ParameterPatternMismatchException", "cannot be validated"), InvalidParameter),
    "levels": (error("HierarchyLevelLimitExceededException", "15"), InvalidPath),
    "name": (error("ValidationException", "Parameter name must be a fully qualified name."), InvalidPath),
    "data type": (error("ValidationException", "The following data type is not supported: x"), InvalidParameter),
    "new": (error("SomethingNew", "of next year"), StoreUnavailable),
}


async def test_refused_writes(wire: Wire) -> None:
    """A write that Parameter Store refuses is sent once, and the error has its text and a remedy."""
    for number, (fault, kind) in enumerate(REFUSED.values(), 1):
        wire.proxy.add(fault, operation="PutParameter", times=1)

        with pytest.raises(kind) as caught:
            await wire.store.put(A, "hunter2")

        assert caught.value.remedy
        assert caught.value.__cause__
        assert {"PutParameter": number, "GetParameters": number} == Counter(wire.operations())


async def test_lost_answer_of_a_deletion(wire: Wire, clock: ManualClock) -> None:
    """A deletion is sent again after a lost answer, and what is gone by then counts as deleted."""
    wire.ssm.put(A, "x")
    wire.proxy.add(raw(b"{}"), operation="DeleteParameters", times=1)
    wire.proxy.add(executed(reset()), operation="DeleteParameters", times=1)

    assert (A,) == await passing(clock, wire.store.delete(A))
    assert 3 == wire.proxy.count("DeleteParameters")


@pytest.mark.parametrize("operation", ["GetParameterHistory", "DescribeParameters"])
async def test_broken_pages(wire: Wire, clock: ManualClock, operation: str) -> None:
    """A page that is not one is asked for again, and pages that go in circles are an error."""
    wire.ssm.put(A, "x")

    async def read() -> list[str]:
        if operation == "DescribeParameters":
            return [metadata.name async for metadata in wire.store.describe("/W")]
        return [version.parameter.name for version in await wire.store.history(A)]

    broken = (b"{}", b'{"Parameters": [1]}', b'{"Parameters": "x"}', b'{"Parameters": [{"Name": "/W/A"}]}')
    for fault in (reset(), *map(raw, broken)):
        wire.proxy.add(fault, operation=operation, times=2)
        assert [A] == await passing(clock, read())
    wire.proxy.add(changed(lambda _, page: page | {"NextToken": "0"}), operation=operation)
    with pytest.raises(StoreUnavailable, match="does not continue a listing"):
        await passing(clock, read())


async def test_unsent_writes_are_known(wire: Wire, clock: ManualClock) -> None:
    """A refused connection is known to have carried nothing out, and a reset is not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    wire.proxy.add(reset(), times=1)
    wire.proxy.add(reset(rst=True))
    found = []
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid", wire.proxy.url, wire.proxy.url):
        async with ParameterStore(endpoint_url=url, clock=clock) as store:
            transport = await store._connected()
            with pytest.raises(StoreUnavailable) as caught:
                await transport.send(PutParameter(name=A, value="x"))
            found.append(caught.value._not_carried_out)

    assert [True, True, False, False] == found


async def test_loads_never_write(memory_store: MemoryStore, clock: ManualClock) -> None:
    """An `Env` sends nothing but reads, whatever happens to it."""
    memory_store.set(A, "1")
    async with load_env("/W", ttl=60) as env:
        memory_store.set(A, "2")
        await clock.advance(600)
        memory_store.fail(5)
        await clock.advance(600)
        assert "2" == env["A"]

    assert {"ssm:GetParametersByPath", "ssm:GetParameters"} == {call.action for call in memory_store.calls}
