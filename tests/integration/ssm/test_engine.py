"""The requests of a refresh: it decrypts nothing that did not change, and needs no permission that it can avoid."""

import asyncio
import json
import logging
import os
from collections import Counter
from typing import Any

import pytest

from aiossmenv import AccessDenied, DecryptionFailed, Env, InvalidVariable, Parameter, ParameterStore, load_env
from aiossmenv._refresher import Refresh
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import Call, FaultProxy, Json, changed, error, hang, raw, throttled
from timing import eventually

LIST, TENS, SINGLY = "GetParametersByPath", "GetParameters", "GetParameter"
ACCOUNT = "arn:aws:ssm:eu-central-1:111122223333"


def deny(proxy: FaultProxy, *operations: str) -> None:
    """Deny these operations."""
    for operation in operations:
        resource = f"{ACCOUNT}:parameter/R/A"
        text = f"User: arn:aws:iam::1:user/u is not authorized to perform: ssm:{operation} on resource: {resource}"
        proxy.add(error("AccessDeniedException", text), operation=operation)


def operations(proxy: FaultProxy) -> dict[str, int]:
    """Return how often each operation was called."""
    return dict(Counter(call.operation for call in proxy.calls))


def decrypting(proxy: FaultProxy) -> list[list[str]]:
    """Return the names in each decrypting call, or the path of a listing."""
    return [
        sorted(call.body.get("Names", [call.body.get("Name", call.body.get("Path"))]))
        for call in proxy.calls
        if call.body.get("WithDecryption")
    ]


async def poll(env: Env) -> None:
    """Refresh as the background does: by name and without decryption."""
    await env._refresher._join_or_start(Refresh("poll"))


@pytest.fixture
def twelve(ssm: Store) -> Store:
    """Write twelve secrets and one plain parameter."""
    for n in range(12):
        ssm.put(f"/R/S{n:02d}", f"secret {n}")
    ssm.put("/R/PLAIN", "plain", "String")
    return ssm


async def test_no_decryption_without_changes(
    twelve: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """While nothing changes, ten background refreshes and two complete ones decrypt nothing and report no change."""
    async with load_env("/R", ttl=60, store=store) as env:
        first = env.snapshot
        proxy.clear()
        for _ in range(10):
            await clock.advance(env.status.next_refresh or 0)
            await eventually(lambda: env.status.age == 0)
        for _ in range(2):
            assert () == await env.refresh()

        assert [] == decrypting(proxy)
        assert {TENS, LIST} == operations(proxy).keys()
        assert 13 == len(env)
        assert dict(first) == dict(env)
        assert 12 == env.status.decrypted


async def test_only_what_changed_is_decrypted(twelve: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A changed secret is decrypted alone; a changed plain parameter arrives in clear with the poll."""
    env = await load_env("/R", store=store)
    twelve.put("/R/S07", "new")
    twelve.put("/R/PLAIN", "new too", "String")
    proxy.clear()

    await poll(env)

    assert [["/R/S07"]] == decrypting(proxy)
    assert ("new", "new too") == (env["S07"], env["PLAIN"]) == (os.environ["S07"], os.environ["PLAIN"])


async def test_ciphertext_is_never_a_value(twelve: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """No ciphertext is in an `Env`, an environment, a parameter or a change, however often it is read."""
    seen: list[Parameter | None] = []
    env = await load_env("/R", store=store)
    env.on_change(lambda change: seen.extend([change.old, change.new]))
    for number in range(3):
        twelve.put("/R/S01", f"value {number}")
        await poll(env)
        await env.refresh()

    texts = [
        *env.values(),
        *os.environ.values(),
        *(p.value for p in seen if p),
        *(p.value for p in env.parameters.values()),
    ]
    assert not [text for text in texts if text.startswith("kms:")]
    assert "value 2" == env["S01"]


async def test_recreated_at_version_one(ssm: Store, store: ParameterStore) -> None:
    """A parameter that was recreated at the same version is read, because its other fields differ."""
    ssm.put("/R/A", "old")
    ssm.put("/R/B", "stays")
    env = await load_env("/R", store=store)
    await poll(env)
    ssm.delete("/R/A")
    await asyncio.sleep(0.01)
    ssm.put("/R/A", "anew")

    await poll(env)

    assert ("anew", 1) == (env["A"], env.parameters["A"].version)


async def test_same_version_with_another_ciphertext(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """If only the ciphertext differs, the parameter has changed."""
    ssm.put("/R/A", "old")
    env = await load_env("/R", store=store)
    await poll(env)
    proxy.add(changed(lambda body, page: page if body["WithDecryption"] else _with(page, Value="kms:another")))
    proxy.calls.clear()

    await poll(env)

    assert [["/R/A"]] == decrypting(proxy)


async def test_older_answer_after_a_newer_one(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A poll that a lagging replica answers changes nothing and decrypts nothing."""
    ssm.put("/R/A", "old")
    old = ssm.client.get_parameters(Names=["/R/A"])["Parameters"][0]
    await asyncio.sleep(0.01)
    ssm.put("/R/A", "new")
    env = await load_env("/R", store=store)
    item = old | {"LastModifiedDate": old["LastModifiedDate"].timestamp()}
    proxy.add(changed(lambda _, page: page | {"Parameters": [item]}), times=1)
    proxy.calls.clear()

    await poll(env)

    assert "new" == env["A"]
    assert [] == decrypting(proxy)


async def test_decryption_at_a_lagging_replica(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """If the decrypting replica is older than the polled one, the version that the poll returned is requested."""
    ssm.put("/R/A", "old")
    old = ssm.client.get_parameters(Names=["/R/A"], WithDecryption=True)["Parameters"][0]
    env = await load_env("/R", store=ParameterStore(random=lambda: 0.0))
    await asyncio.sleep(0.01)
    ssm.put("/R/A", "new")
    item = old | {"LastModifiedDate": old["LastModifiedDate"].timestamp()}
    proxy.add(
        changed(lambda _, page: page | {"Parameters": [item]}), when=lambda call: call.body["WithDecryption"], times=1
    )
    # The next replica does not have that version yet.
    proxy.add(
        changed(lambda body, page: page | {"Parameters": [], "InvalidParameters": body["Names"]}),
        when=lambda call: call.body["WithDecryption"],
        times=1,
    )
    proxy.calls.clear()

    await poll(env)

    assert [["/R/A"], ["/R/A:2"], ["/R/A:2"]] == decrypting(proxy)
    assert ("new", 2) == (env["A"], env.parameters["A"].version)


async def test_failed_decryption(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A failed decryption keeps the old value, names the parameter, and is retried by the next refresh."""
    ssm.put("/R/A", "old")
    ssm.put("/R/B", "old")
    env = await load_env("/R", store=store)
    ssm.put("/R/A", "new")
    ssm.put("/R/B", "new")
    proxy.add(
        error("InvalidKeyId", "arn:aws:kms:x:1:key/2 is disabled."),
        when=lambda call: call.body["WithDecryption"] and "/R/B" in str(call.body),
        times=2,
    )

    with pytest.raises(DecryptionFailed, match="disabled") as caught:
        await poll(env)
    assert "/R/B" == caught.value.parameter
    assert ("old", "old") == (env["A"], env["B"]) == (os.environ["A"], os.environ["B"])

    await poll(env)
    assert ("new", "new") == (env["A"], env["B"])


async def test_missing_once_by_name(ssm: Store, store: ParameterStore) -> None:
    """A name that a poll does not find is removed if the next poll misses it too."""
    ssm.put("/R/A", "1")
    ssm.put("/R/B", "1")
    env = await load_env("/R", store=store)
    ssm.delete("/R/B")

    await poll(env)
    assert "1" == env["B"]
    await poll(env)
    assert "B" not in env
    assert "B" not in os.environ


async def test_keyed_refresh_removes_nothing(ssm: Store, store: ParameterStore) -> None:
    """A refresh of some keys reads their new values, and removes none."""
    ssm.put("/R/A", "1")
    ssm.put("/R/B", "1")
    env = await load_env("/R", store=store)
    ssm.delete("/R/B")

    for _ in range(3):
        await env.refresh("A", "B")
    assert "1" == env["B"]


async def test_label_that_moves(ssm: Store, store: ParameterStore, clock: ManualClock) -> None:
    """If a label moves to an older version, the value follows it."""
    for value in ("1", "2"):
        ssm.put("/R/A", value)
    ssm.client.label_parameter_version(Name="/R/A", ParameterVersion=2, Labels=["live"])
    assert "2" == (await store.get("/R/A:live")).value

    ssm.client.label_parameter_version(Name="/R/A", ParameterVersion=1, Labels=["live"])
    await clock.advance(61)

    assert "1" == (await store.get("/R/A:live")).value


async def test_env_of_a_label(ssm: Store, store: ParameterStore) -> None:
    """An `Env` may use versions and labels; it has the bare names as keys, and follows a label that moves."""
    for value in ("1", "2", "3"):
        ssm.put("/R/A", value)
    ssm.put("/R/B", "old")
    ssm.put("/R/B", "new")
    ssm.client.label_parameter_version(Name="/R/A", ParameterVersion=2, Labels=["live"])
    async with load_env("/R", keys=["A:live", "B:1"], ttl=3600, store=store) as env:
        assert {"A": "2", "B": "old"} == dict(env)

        ssm.client.label_parameter_version(Name="/R/A", ParameterVersion=1, Labels=["live"])
        assert ["A"] == [change.key for change in await env.refresh()]
        assert {"A": "1", "B": "old"} == dict(env)

        ssm.client.label_parameter_version(Name="/R/A", ParameterVersion=3, Labels=["live"])
        assert ["A"] == [change.key for change in await env.refresh("A")]
        assert {"A": "3", "B": "old"} == dict(env)


async def test_revalidation_decrypts_everything(
    twelve: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """After `revalidate` seconds minus jitter, one refresh decrypts everything, and notices a revoked KMS key."""
    async with load_env("/R", ttl=3600, list_interval=7200, store=store) as env:
        proxy.clear()
        while not decrypting(proxy):
            await clock.advance(env.status.next_refresh or 0)
            await eventually(lambda: env.status.age == 0)
        assert 0.8 * 43_200 <= clock.now() <= 43_200
        assert 24 == env.status.decrypted

        proxy.clear()
        proxy.add(error("InvalidKeyId", "disabled"), when=lambda call: call.body["WithDecryption"])
        while not env.status.failures:
            await clock.advance(env.status.next_refresh or 0)
            await eventually(lambda: env.status.age == 0 or env.status.failures)
        assert 2 * 0.8 * 43_200 <= clock.now() <= 2 * 43_200
        assert isinstance(env.status.last_error, DecryptionFailed)
        assert 13 == len(env)


async def test_three_keys_in_one_round_trip(twelve: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A forced refresh of up to ten keys is one decrypting call; one of more keys polls by name."""
    env = await load_env("/R", store=store)
    twelve.put("/R/S02", "new")
    proxy.clear()

    changes = await env.refresh("S01", "S02", "S03")

    assert ["S02"] == [change.key for change in changes]
    assert [["/R/S01", "/R/S02", "/R/S03"]] == decrypting(proxy)
    assert {TENS: 1} == operations(proxy)

    twelve.put("/R/S03", "new")
    proxy.clear()
    assert ["S03"] == [change.key for change in await env.refresh(*env)]
    assert [["/R/S03"]] == decrypting(proxy)
    assert {TENS: 3} == operations(proxy)


async def test_refresh_of_an_unknown_key_lists(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A refresh of a key that does not exist yet lists, and finds the key if it was created."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", store=store)
    ssm.put("/R/B", "2")
    proxy.clear()

    await env.refresh("B")

    assert "2" == env["B"]
    assert {LIST: 1, TENS: 1} == operations(proxy)


async def test_group_is_read_together(twelve: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """If one key of a group changes, the whole group is read again in one call before callbacks run."""
    env = await load_env("/R", store=store)
    env.group("S01", "S02", "PLAIN")
    seen: list[tuple[str, str]] = []
    env.on_change(lambda _: seen.append((env["S01"], env["S02"])), "S01", "S02", "PLAIN")
    twelve.put("/R/S01", "user b")
    late: list[Call] = []

    async def write_the_rest(call: Call, forward: Any) -> Any:
        # The writer writes its second half between the poll and the decryption.
        late.append(call)
        await asyncio.to_thread(twelve.put, "/R/S02", "password b")
        from faults import passed_on

        return await passed_on(call, forward)

    proxy.clear()
    proxy.add(write_the_rest, when=lambda call: call.body["WithDecryption"], times=1)
    await poll(env)

    assert [["/R/PLAIN", "/R/S01", "/R/S02"]] == decrypting(proxy)
    assert {("user b", "password b")} == set(seen)


async def test_keys_are_never_listed(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """With `keys` nothing is ever listed, not even by a complete refresh, and a missing one is found later."""
    ssm.put("/R/A", "1")
    env = await load_env("/R", keys=["A", "B"], store=store)
    ssm.put("/R/A", "2")
    ssm.put("/R/B", "2")

    await env.refresh()

    assert {"A": "2", "B": "2"} == dict(env)
    assert {TENS} == operations(proxy).keys()


@pytest.mark.parametrize("denied", [(), (TENS,), (TENS, SINGLY)])
async def test_fallbacks_for_each_role(
    twelve: Store, proxy: FaultProxy, store: ParameterStore, denied: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """
    Whatever a role may do besides listing, loads and refreshes work; a denial happens once, and its log has the remedy.
    """
    caplog.set_level(logging.INFO)
    deny(proxy, *denied)
    env = await load_env("/R", store=store)
    for number in range(3):
        twelve.put("/R/S03", f"new {number}")
        await poll(env)
        assert f"new {number}" == env["S03"]
        twelve.put("/R/S04", f"new {number}")
        await env.refresh()
        assert f"new {number}" == env["S04"]

    # The two calls of the first poll are in flight together; what waits behind them is not sent.
    assert [2, 1][: len(denied)] == [operations(proxy)[operation] for operation in denied]
    logged = [record for record in caplog.records if "faster" in record.getMessage()]
    assert len(denied) == len(logged)
    for operation, record in zip(denied, logged, strict=True):
        assert f"Allow ssm:{operation} on {ACCOUNT}:parameter/R/" in record.getMessage()
        assert logging.INFO == record.levelno
    assert 13 == len(env)


async def test_fallback_to_single_reads(twelve: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """With the policy of most tutorials (by path and singly), a few names are read singly, and a poll is a listing."""
    deny(proxy, TENS)
    env = await load_env("/R", store=store)
    await poll(env)
    twelve.put("/R/S03", "new")
    proxy.calls.clear()

    await poll(env)
    assert {LIST: 2, SINGLY: 1} == operations(proxy)
    assert [["/R/S03"]] == decrypting(proxy)

    proxy.calls.clear()
    await env.refresh("S01", "S02")
    assert {SINGLY: 2} == operations(proxy)


async def test_fallback_with_keys(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """
    With denied batches, known keys are read singly and never by a listing; if nothing is allowed, the denial is raised.
    """
    for n in range(3):
        ssm.put(f"/R/K{n}", str(n))
    keys = ["K0", "K1", "K2"]
    deny(proxy, TENS)
    assert 3 == len(await load_env("/R", keys=keys, store=store))
    assert {TENS: 1, SINGLY: 3} == operations(proxy)

    deny(proxy, SINGLY)
    with pytest.raises(AccessDenied, match="Allow ssm:GetParameters"):
        await load_env("/R", keys=keys)
    assert LIST not in operations(proxy)


async def test_denied_single_reads_share_a_listing(twelve: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """Several single reads that are denied together cause one listing."""
    deny(proxy, TENS, SINGLY)
    env = await load_env("/R", store=store)
    for n in range(5):
        twelve.put(f"/R/S0{n}", "new")
    proxy.calls.clear()

    await env.refresh()

    assert ["new"] * 5 == [env[f"S0{n}"] for n in range(5)]
    assert 5 == operations(proxy)[SINGLY]
    assert 4 == operations(proxy)[LIST]


async def test_bad_credentials_are_no_denial(twelve: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """Expired credentials say nothing about permissions: the next refresh reads by name again."""
    env = await load_env("/R", store=store)
    proxy.add(error("ExpiredTokenException", "expired"), times=1)
    with pytest.raises(AccessDenied):
        await poll(env)
    proxy.calls.clear()

    await poll(env)
    assert {TENS: 2} == operations(proxy)


async def test_throttled_refreshes_slow_down(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """A throttled background refresh doubles its interval, up to an hour, and each success halves the increase."""
    ssm.put("/R/A", "1")
    async with load_env("/R", ttl=600, list_interval=1e6, revalidate_interval=None, deadline=0.05, store=store) as env:
        proxy.add(throttled(), times=4)
        intervals: list[float] = []
        for _ in range(10):
            seen = env.status.failures
            await clock.advance(env.status.next_refresh or 0)
            await eventually(lambda: env.status.age == 0 or env.status.failures > seen)  # noqa: B023 - awaited in this iteration
            intervals.append((env.status.next_refresh or 0) / 600 / 0.875)
        assert pytest.approx([2, 4, 6, 6, 3, 1.5, 1, 1, 1, 1]) == intervals


async def test_binary_secret_of_secrets_manager(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A secret without text, whose answer has no value, is rejected at once, and the error names it."""
    reference = "/aws/reference/secretsmanager/app/key"
    item = {"Name": "app/key", "Type": "SecureString", "Version": 0, "SourceResult": '{"versionId": "v1"}'}
    proxy.add(raw(json.dumps({"Parameter": item}).encode()), operation=SINGLY)

    with pytest.raises(InvalidVariable, match=f"binary.*parameter {reference}, region eu-central-1"):
        await load_env("/R", keys=[reference], store=store)


async def test_secret_of_secrets_manager(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A reference is read singly and with decryption; a new version id is a change."""
    ssm.put("/R/A", "1")
    secret = {"id": "v1", "value": "s1"}

    async def answer(call: Call, _: Any) -> Any:
        from faults import _json

        item = {
            "Name": "app/db",
            "Type": "SecureString",
            "Value": secret["value"],
            "Version": 0,
            "ARN": "arn:aws:secretsmanager:eu-central-1:1:secret:app/db-AbCdEf",
            "LastModifiedDate": 1.7e9,
            "SourceResult": f'{{"versionId": "{secret["id"]}", "secretString": "{secret["value"]}"}}',
        }
        return _json({"Parameter": item}, 200)

    proxy.add(answer, operation=SINGLY)
    reference = "/aws/reference/secretsmanager/app/db"
    env = await load_env("/R", keys=["A", reference], store=store)

    assert {"A": "1", "APP_DB": "s1"} == dict(env)
    assert ("v1", 0, reference) == (
        env.parameters["APP_DB"].version_id,
        env.parameters["APP_DB"].version,
        env.parameters["APP_DB"].name,
    )
    assert () == await env.refresh()
    secret.update(id="v2", value="s2")
    assert ["APP_DB"] == [change.key for change in await env.refresh()]
    secret.update(id="v3")
    assert ["APP_DB"] == [change.key for change in await env.refresh("APP_DB", "A")]

    assert {"s2"} == {(await store.get(reference)).value}
    for call in proxy.calls:
        assert call.body["WithDecryption"] or "reference" not in str(call.body)
        assert call.operation == SINGLY or "reference" not in str(call.body)


async def test_secret_without_permission(proxy: FaultProxy, store: ParameterStore) -> None:
    """For a role without GetSecretValue, the error names the missing permission."""
    proxy.add(error("ValidationException", "An error occurred while calling one AWS dependency service."))

    with pytest.raises(AccessDenied, match="Allow secretsmanager:GetSecretValue"):
        await store.get("/aws/reference/secretsmanager/app/db")


async def test_concurrent_gets_are_one_call(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """Names that are requested in one turn of the loop go ten to a request, each once."""
    for n in range(12):
        ssm.put(f"/G/K{n:02d}", str(n))
    names = [f"/G/K{n:02d}" for n in range(12)]

    found = await asyncio.gather(*(store.get(name) for name in names * 3))

    assert [str(n) for n in range(12)] * 3 == [parameter.value for parameter in found]
    assert [2, 10] == sorted(len(call.body["Names"]) for call in proxy.calls)


async def test_bad_names_fail_alone(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """If some names of a call are missing, denied or undecryptable, only the callers of those names get an error."""
    ssm.put("/G/A", "1")
    ssm.put("/G/LOCKED", "2")
    proxy.add(error("InvalidKeyId", "disabled"), when=lambda call: "/G/LOCKED" in str(call.body))

    results = await asyncio.gather(
        *(store.get(name) for name in ("/G/A", "/G/LOCKED", "/G/NOT", "/G/A:1", "/G/A:9")), return_exceptions=True
    )

    kinds = ["Parameter", "DecryptionFailed", "ParameterNotFound", "Parameter", "ParameterNotFound"]
    assert kinds == [type(result).__name__ for result in results]
    assert "/G/LOCKED" == getattr(results[1], "parameter", "")
    assert "/G/A:9" == getattr(results[4], "parameter", "")


async def test_last_cancelled_waiter_ends_a_batch(ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
    """A cancelled caller does not end a shared call; when the last caller is cancelled, the call ends."""
    for name in ("/G/A", "/G/B"):
        ssm.put(name, "1")
    proxy.add(hang(0.2))
    a, b = asyncio.create_task(store.get("/G/A")), asyncio.create_task(store.get("/G/B"))
    await eventually(proxy.count)
    a.cancel()
    assert "1" == (await b).value
    assert 1 == proxy.count()

    c, d = (asyncio.create_task(store.get(name)) for name in ("/G/C", "/G/D"))
    await eventually(lambda: proxy.count() == 2)
    c.cancel()
    d.cancel()
    for task in (c, d):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "aiossmenv request"]


def _with(page: Json, **values: object) -> Json:
    return page | {"Parameters": [item | values for item in page["Parameters"]]}
