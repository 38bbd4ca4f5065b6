"""`ParameterStore`: single reads, and their cache."""

import asyncio

import pytest

from aiossmenv import (
    AccessDenied,
    EncryptedParameter,
    InvalidPath,
    Parameter,
    ParameterNotFound,
    ParameterStore,
    StoreUnavailable,
    load_env,
)
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import FaultProxy, error, hang
from timing import eventually


async def test_get(ssm: Store, store: ParameterStore) -> None:
    """One parameter is returned decrypted, with all its metadata."""
    ssm.put("/G/A", "secret")

    parameter = await store.get("/G/A")

    assert ("/G/A", "secret", "SecureString", 1) == (parameter.name, parameter.value, parameter.type, parameter.version)
    assert "secret" not in repr(parameter)
    assert "<ParameterStore eu-central-1>" == repr(store)


async def test_get_is_cached(ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock) -> None:
    """A value is cached for the TTL, by default 60 seconds, and then read again."""
    ssm.put("/G/A", "1")
    await store.get("/G/A")
    ssm.put("/G/A", "2")
    await clock.advance(59)
    assert "1" == (await store.get("/G/A")).value
    assert 1 == proxy.count()

    await clock.advance(1)
    assert "2" == (await store.get("/G/A")).value
    assert 2 == proxy.count()


async def test_callers_share_a_read(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """Concurrent callers of one name share a request, and a cancelled one does not end it for the others."""
    ssm.put("/G/A", "1")
    proxy.add(hang(0.1))
    tasks = [asyncio.create_task(store.get("/G/A")) for _ in range(10)]
    await asyncio.sleep(0.05)
    tasks[0].cancel()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert {"1"} == {parameter.value for parameter in results[1:] if not isinstance(parameter, BaseException)}
    assert 1 == proxy.count()


async def test_get_while_a_read_is_cancelled(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """The cancellation of the last caller ends the read; a call in that moment starts a new one."""
    ssm.put("/G/A", "1")
    proxy.add(hang(), times=1)
    first = asyncio.create_task(store.get("/G/A"))
    await eventually(proxy.count)
    first.cancel()
    await asyncio.sleep(0)

    assert "1" == (await store.get("/G/A")).value
    assert first.cancelled()


async def test_not_found(ssm: Store, store: ParameterStore) -> None:
    """A missing parameter is named in the error, with the region and what to check."""
    with pytest.raises(ParameterNotFound, match=r"parameter /G/NOT, region eu-central-1.*Check the name") as caught:
        await store.get("/G/NOT")

    assert "/G/NOT" == caught.value.parameter


async def test_failures_are_not_cached(ssm: Store, store: ParameterStore) -> None:
    """A name that was missing can be read once it exists."""
    with pytest.raises(ParameterNotFound):
        await store.get("/G/A")
    ssm.put("/G/A", "1")

    assert "1" == (await store.get("/G/A")).value


async def test_versions_and_arns(ssm: Store, store: ParameterStore) -> None:
    """A selector chooses a version or a label, and an ARN works like a name."""
    ssm.put("/G/A", "1")
    ssm.put("/G/A", "2")
    ssm.client.label_parameter_version(Name="/G/A", ParameterVersion=1, Labels=["blue"])
    arn = (await store.get("/G/A")).arn

    assert ["1", "2", "1", "2"] == [(await store.get(name)).value for name in ("/G/A:1", "/G/A:2", "/G/A:blue", arn)]
    with pytest.raises(ParameterNotFound, match="/G/A:7"):
        await store.get("/G/A:7")


async def test_get_many(ssm: Store, store: ParameterStore) -> None:
    """Several parameters are returned under the requested names; a missing one is an error."""
    ssm.put("/G/A", "1")
    ssm.put("/G/B", "2")

    assert {"/G/B": "2", "/G/A": "1"} == {
        n: p.value for n, p in (await store.get_many(["/G/B", "/G/A", "/G/B"])).items()
    }
    with pytest.raises(ParameterNotFound, match="/G/NOT"):
        await store.get_many(["/G/A", "/G/NOT"])


async def test_invalid_names(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """An empty name is rejected without a request; the service's rejection of a name is quoted."""
    with pytest.raises(InvalidPath, match="empty"):
        await store.get(" ")
    assert 0 == proxy.count()
    proxy.add(error("ValidationException", "Parameter name must be a fully qualified name."))
    with pytest.raises(InvalidPath, match="fully qualified"):
        await store.get("a/b")


async def test_denied(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A denied read names the ARN to allow; for a resource that ends in `:*` the name may be mistyped."""
    who = "User: arn:aws:iam::111122223333:user/u is not authorized to perform: ssm:GetParameters on resource:"
    proxy.add(error("AccessDeniedException", f"{who} arn:aws:ssm:eu-central-1:111122223333:*"))

    with pytest.raises(AccessDenied) as caught:
        await store.get("/G/A")

    assert "Allow ssm:GetParameters on arn:aws:ssm:eu-central-1:111122223333:parameter/G/A" in str(caught.value)
    assert "mistyped" in str(caught.value)


async def test_scan(ssm: Store, store: ParameterStore) -> None:
    """All parameters under a path are returned, sorted by name, at all levels or at one."""
    for name in ("/S/B", "/S/A", "/S/DEEP/C", "/SX/D"):
        ssm.put(name, name[-1])

    assert ["/S/A", "/S/B", "/S/DEEP/C"] == [parameter.name async for parameter in store.scan("/S/")]
    assert ["/S/A", "/S/B"] == [parameter.name async for parameter in store.scan("/S", recursive=False)]


async def test_scan_without_decryption(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """Without decryption a SecureString has no value, and nothing is asked of KMS."""
    ssm.put("/S/PLAIN", "1", "String")
    ssm.put("/S/SECRET", "2")

    plain, secret = [parameter async for parameter in store.scan("/S", with_decryption=False)]

    assert isinstance(plain, Parameter)
    assert "1" == plain.value
    assert isinstance(secret, EncryptedParameter)
    assert ("/S/SECRET", 1) == (secret.name, secret.version)
    assert [False] == [call.body["WithDecryption"] for call in proxy.calls]


async def test_closing(ssm: Store, proxy: FaultProxy) -> None:
    """`aclose()` ends running reads and may be called twice; a store that is used again reconnects."""
    ssm.put("/G/A", "1")
    proxy.add(hang(), times=1)
    store = ParameterStore(ttl=0.001)
    reading = asyncio.create_task(store.get("/G/A"))
    await eventually(proxy.count)
    await store.aclose()
    await store.aclose()
    assert store.region is None
    with pytest.raises(StoreUnavailable, match="closed while it was read"):
        await reading

    assert "1" == (await store.get("/G/A")).value
    await store.aclose()


async def test_forbidden_name_is_no_denied_operation(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """One forbidden name does not affect the others; a denied operation is recorded."""
    names = [f"/G/{number}" for number in range(20)]
    for name in names:
        ssm.put(name, "1")
    denied = error("AccessDeniedException", "User: x is not authorized to perform: ssm:GetParameters on resource: x")
    bad = "/OTHER/TYPO"
    proxy.add(denied, when=lambda call: bad in call.body.get("Names", [call.body.get("Name")]))
    with pytest.raises(AccessDenied):
        await store.get_many([bad, names[0]])
    proxy.calls.clear()
    await store.get_many(names[1:])
    assert {"GetParameters"} == {call.operation for call in proxy.calls}

    proxy.clear()
    proxy.add(denied, operation="GetParameters")
    async with ParameterStore() as other:
        await other.get_many(names)
        proxy.calls.clear()
        await other.get("/G/0:1")
    assert ["GetParameter"] == [call.operation for call in proxy.calls]


async def test_env_does_not_close_a_shared_store(ssm: Store, proxy: FaultProxy) -> None:
    """An `Env` that has ended does not end single reads of its store; it closes only a store of its own."""
    for name in ("/G/A", "/R/B"):
        ssm.put(name, "1")
    proxy.add(hang(0.5), operation="GetParameters", times=1)
    store = ParameterStore()
    loading = asyncio.create_task(load_env("/R", ttl=60, environ=None, store=store))
    await eventually(proxy.count)
    reading = asyncio.create_task(store.get("/G/A"))
    await (await loading).aclose()

    assert "1" == (await reading).value
    assert "eu-central-1" == store.region
    await store.aclose()

    regions = []
    await load_env("/R", environ=None, store=store)
    regions.append(store.region)
    async with store:
        await store.get("/R/B")
        await load_env("/R", environ=None, store=store)
        regions.append(store.region)
    assert [None, "eu-central-1", None] == [*regions, store.region]


async def test_missing_close_warns(ssm: Store) -> None:
    """A connected store that is garbage-collected warns that it was not closed."""
    ssm.put("/G/A", "1")
    store = ParameterStore()
    await store.get("/G/A")
    client = store._transport

    with pytest.warns(ResourceWarning, match="unclosed <ParameterStore eu-central-1>"):
        del store
    assert client is not None
    await client.aclose()
