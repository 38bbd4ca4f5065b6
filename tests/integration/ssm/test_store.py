"""`ParameterStore`: single reads, cached."""

import asyncio

import pytest

from aiossmenv import AccessDenied, InvalidPath, ParameterNotFound, ParameterStore, StoreUnavailable, load_env
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import FaultProxy, error, hang
from timing import eventually


async def test_get(ssm: Store, store: ParameterStore) -> None:
    """One parameter comes decrypted, with all that the store says of it."""
    ssm.put("/G/A", "secret")

    parameter = await store.get("/G/A")

    assert ("/G/A", "secret", "SecureString", 1) == (parameter.name, parameter.value, parameter.type, parameter.version)
    assert "secret" not in repr(parameter)
    assert "<ParameterStore eu-central-1>" == repr(store)


async def test_get_is_cached(ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock) -> None:
    """What was read is kept for the TTL, which is 60 seconds, and then read again."""
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
    """Callers that want one name at once share one request, and one that is cancelled takes it from nobody."""
    ssm.put("/G/A", "1")
    proxy.add(hang(0.1))
    tasks = [asyncio.create_task(store.get("/G/A")) for _ in range(10)]
    await asyncio.sleep(0.05)
    tasks[0].cancel()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert {"1"} == {parameter.value for parameter in results[1:] if not isinstance(parameter, BaseException)}
    assert 1 == proxy.count()


async def test_who_comes_while_a_read_is_called_off(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """The last waiter's cancellation ends the read; who asks in that moment gets one of its own."""
    ssm.put("/G/A", "1")
    proxy.add(hang(), times=1)
    first = asyncio.create_task(store.get("/G/A"))
    await eventually(proxy.count)
    first.cancel()
    await asyncio.sleep(0)

    assert "1" == (await store.get("/G/A")).value
    assert first.cancelled()


async def test_not_found(ssm: Store, store: ParameterStore) -> None:
    """A parameter that is not there is named, with the region and what to check."""
    with pytest.raises(ParameterNotFound, match=r"parameter /G/NOT, region eu-central-1.*Check the name") as caught:
        await store.get("/G/NOT")

    assert "/G/NOT" == caught.value.parameter


async def test_failures_are_not_cached(ssm: Store, store: ParameterStore) -> None:
    """A name that was not there can be read once it is."""
    with pytest.raises(ParameterNotFound):
        await store.get("/G/A")
    ssm.put("/G/A", "1")

    assert "1" == (await store.get("/G/A")).value


async def test_versions_and_arns(ssm: Store, store: ParameterStore) -> None:
    """A selector names a version or a label, and an ARN works as a name does."""
    ssm.put("/G/A", "1")
    ssm.put("/G/A", "2")
    ssm.client.label_parameter_version(Name="/G/A", ParameterVersion=1, Labels=["blue"])
    arn = (await store.get("/G/A")).arn

    assert ["1", "2", "1", "2"] == [(await store.get(name)).value for name in ("/G/A:1", "/G/A:2", "/G/A:blue", arn)]
    with pytest.raises(ParameterNotFound, match="/G/A:7"):
        await store.get("/G/A:7")


async def test_get_many(ssm: Store, store: ParameterStore) -> None:
    """Several come by the names they were asked by; one that is missing is an error."""
    ssm.put("/G/A", "1")
    ssm.put("/G/B", "2")

    assert {"/G/B": "2", "/G/A": "1"} == {
        n: p.value for n, p in (await store.get_many(["/G/B", "/G/A", "/G/B"])).items()
    }
    with pytest.raises(ParameterNotFound, match="/G/NOT"):
        await store.get_many(["/G/A", "/G/NOT"])


async def test_names_that_cannot_be(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """An empty name is refused here, one that the service refuses is quoted with its text."""
    with pytest.raises(InvalidPath, match="empty"):
        await store.get(" ")
    assert 0 == proxy.count()
    proxy.add(error("ValidationException", "Parameter name must be a fully qualified name."))
    with pytest.raises(InvalidPath, match="fully qualified"):
        await store.get("a/b")


async def test_denied(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A denied read names the ARN to allow; a resource that ends in `:*` is perhaps only mistyped."""
    who = "User: arn:aws:iam::111122223333:user/u is not authorized to perform: ssm:GetParameters on resource:"
    proxy.add(error("AccessDeniedException", f"{who} arn:aws:ssm:eu-central-1:111122223333:*"))

    with pytest.raises(AccessDenied) as caught:
        await store.get("/G/A")

    assert "Allow ssm:GetParameters on arn:aws:ssm:eu-central-1:111122223333:parameter/G/A" in str(caught.value)
    assert "mistyped" in str(caught.value)


async def test_scan(ssm: Store, store: ParameterStore) -> None:
    """All under a path come, sorted by name, at all levels or at one."""
    for name in ("/S/B", "/S/A", "/S/DEEP/C", "/SX/D"):
        ssm.put(name, name[-1])

    assert ["/S/A", "/S/B", "/S/DEEP/C"] == [parameter.name async for parameter in store.scan("/S/")]
    assert ["/S/A", "/S/B"] == [parameter.name async for parameter in store.scan("/S", recursive=False)]


async def test_closing(ssm: Store, proxy: FaultProxy) -> None:
    """Closing ends what is under way, can be done twice, and a store that is used again connects again."""
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


async def test_a_forbidden_name_is_no_forbidden_action(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """One name that the role may not read costs the others nothing; an action that it may not use is learned."""
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


async def test_an_env_leaves_single_reads_alone(ssm: Store, proxy: FaultProxy) -> None:
    """An `Env` that read through a store, and is done with it, ends nobody's single read; one of its own it closes."""
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


async def test_forgotten_close_is_reported(ssm: Store) -> None:
    """A store that goes away connected says that it was not closed."""
    ssm.put("/G/A", "1")
    store = ParameterStore()
    await store.get("/G/A")
    client = store._transport

    with pytest.warns(ResourceWarning, match="unclosed <ParameterStore eu-central-1>"):
        del store
    assert client is not None
    await client.aclose()
