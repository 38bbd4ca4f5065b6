"""Faults of Parameter Store: which are retried, which are not, and what the errors say."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime

import pytest

from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    ParameterStore,
    StoreUnavailable,
    Throttled,
    load_env,
)
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import Call, Fault, FaultProxy, changed, error, hang, raw, reset, throttled, truncated
from timing import eventually, our_tasks, passing

PAGES = 3
# A separate path: the store is filled once, so other tests must not clear it.
PATH = "/FAULTS/TEST"
NAMES = {f"KEY_{n:02d}": f"value {n}" for n in range(PAGES * 10 - 5)}

TRANSIENT: dict[str, Fault] = {
    "throttled": throttled(),
    "throttled by KMS": error("ThrottlingException", "You have exceeded the rate at which you may call KMS."),
    "too many requests": error("", status=429),
    "500": error("InternalServerError", status=500),
    "503": error("ServiceUnavailable", status=503),
    "FIN": reset(),
    "RST": reset(rst=True),
    "truncated": truncated(),
    "empty body": raw(b""),
    "no parameters": raw(b"{}"),
    "HTML": raw(b"<html>Bad Gateway</html>"),
    "HTML 502": raw(b"<html>Bad Gateway</html>", 502),
    "broken UTF-8": raw(b'{"Parameters": [{"Name": "\xff\xfe"}]}'),
    "a list": raw(b"[]"),
    "parameters of another type": changed(lambda _, page: page | {"Parameters": "many"}),
    "a parameter without a value": changed(
        lambda _, page: page | {"Parameters": [*page["Parameters"], {"Name": "/X"}]}
    ),
    "an unknown type": changed(
        lambda _, page: page | {"Parameters": [p | {"Type": "Hologram"} for p in page["Parameters"]]}
    ),
    "a date of another type": changed(
        lambda _, page: page | {"Parameters": [p | {"LastModifiedDate": ["now"]} for p in page["Parameters"]]}
    ),
    "bad token": error("InvalidNextToken"),
    "a token that repeats": changed(lambda _, page: page | {"NextToken": "10"}),
}


# TLS changes how a connection ends, and not what an answer says.
ENDINGS = ("FIN", "RST", "truncated", "hang")


@pytest.fixture
def scheme(request: pytest.FixtureRequest) -> str:
    """Use TLS, where a test asks for nothing else."""
    return str(getattr(request, "param", "https"))


def each(faults: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test with each fault over TLS, and with the endings of a connection without TLS, too."""
    names = list(faults)
    cases = [*((name, "https") for name in names), *((name, "http") for name in names if name in ENDINGS)]
    return pytest.mark.parametrize(("name", "scheme"), cases, indirect=["scheme"])


@pytest.fixture(scope="module")
def filled(moto: Store) -> Store:
    """Fill the path once for all tests of this module."""
    for key, value in NAMES.items():
        moto.put(f"{PATH}/{key}", value)
    return moto


@pytest.fixture
async def ssm(filled: Store) -> AsyncIterator[Store]:
    """Give the store without clearing it."""
    os.environ |= filled.environment
    yield filled
    assert set() == await our_tasks()


def page(number: int) -> Callable[[Call], bool]:
    """Return a function that tells whether a call requests this page of the path."""

    def is_it(call: Call) -> bool:
        return str(call.body.get("NextToken", "")) == ("" if number == 0 else str(number * 10))

    return is_it


def places(name: str) -> list[int]:
    """Return the pages on which a fault has an effect; on the first page a correct answer has the repeated token."""
    return list(range(PAGES))[name == "a token that repeats" :]


@each(TRANSIENT)
async def test_temporary_faults_are_retried(
    proxy: FaultProxy, store: ParameterStore, clock: ManualClock, name: str
) -> None:
    """A temporary fault on the first, a middle or the last page costs time and nothing else."""
    for at in places(name):
        proxy.add(TRANSIENT[name], when=page(at), times=2)

        assert NAMES == dict(await passing(clock, load_env(PATH, store=store, environ=None)))
        assert 0 == proxy._rules.pop().times


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (1_715_940_000.5, datetime(2024, 5, 17, 10, 0, 0, 500_000, UTC)),
        ("2024-05-17T12:00:00+02:00", datetime(2024, 5, 17, 10, tzinfo=UTC)),
        (None, None),
    ],
)
async def test_dates_and_null(
    proxy: FaultProxy, store: ParameterStore, clock: ManualClock, date: object, expected: datetime | None
) -> None:
    """A date may be seconds or text, always in UTC; a null member counts as absent."""
    null = {"ARN": None, "DataType": None, "LastModifiedDate": date}
    proxy.add(changed(lambda _, page: page | {"Parameters": [p | null for p in page["Parameters"]]}))

    env = await passing(clock, load_env(PATH, store=store, environ=None))

    assert NAMES == dict(env)
    parameters = env.parameters.values()
    assert {("", "text", expected)} == {(p.arn, p.data_type, p.last_modified) for p in parameters}
    assert all(p.last_modified is None or p.last_modified.tzinfo is UTC for p in parameters)


@each(TRANSIENT)
async def test_lasting_faults_end_at_the_deadline(
    proxy: FaultProxy, store: ParameterStore, clock: ManualClock, name: str
) -> None:
    """A lasting fault ends the load exactly at its deadline, and the environment is unchanged."""
    before = dict(os.environ)
    for at in places(name):
        proxy.add(TRANSIENT[name], when=page(at))
        began = clock.now()

        with pytest.raises((Throttled, StoreUnavailable)) as caught:
            await passing(clock, load_env(PATH, store=store, deadline=5))

        assert began + 5 == pytest.approx(clock.now(), abs=0.1)
        assert caught.value.transient
        assert PATH == caught.value.path
        assert before == dict(os.environ)
        proxy.clear()


PAGE_KEYS = ["KEY_03", "KEY_13", "KEY_23"]


@pytest.fixture
async def change(ssm: Store) -> AsyncIterator[Callable[[str | None], Awaitable[None]]]:
    """Give a function that writes a parameter on each page, or the old values, as it does after the test."""

    async def write(value: str | None) -> None:
        for key in PAGE_KEYS:
            await asyncio.to_thread(ssm.put, f"{PATH}/{key}", value or NAMES[key])

    yield write
    await write(None)


def fault_in_refresh(proxy: FaultProxy, fault: Fault, at: int, times: float = float("inf")) -> None:
    """Break this page of a listing, or with the page after the last one, the decryption of the changes."""
    if at < PAGES:
        proxy.add(fault, operation="GetParametersByPath", when=page(at), times=times)
    else:
        proxy.add(fault, operation="GetParameters", times=times)


@each(TRANSIENT)
async def test_refreshes_retry_temporary_faults(
    proxy: FaultProxy,
    store: ParameterStore,
    clock: ManualClock,
    change: Callable[[str | None], Awaitable[None]],
    name: str,
) -> None:
    """A temporary fault on any page of a listing, or in the decryption of the changes, only costs a refresh time."""
    environ: dict[str, str] = {}
    env = await load_env(PATH, environ=environ, store=store)
    for at in [*places(name), PAGES]:
        fault_in_refresh(proxy, TRANSIENT[name], at, times=2)
        await change(f"changed {at}")

        changes = await passing(clock, env.refresh())

        assert PAGE_KEYS == [change.key for change in changes]
        assert NAMES | dict.fromkeys(PAGE_KEYS, f"changed {at}") == dict(env) == environ
        proxy.clear()


LASTING: dict[str, Fault] = {**TRANSIENT, "hang": hang()}


@each(LASTING)
async def test_failed_refreshes_change_nothing(
    proxy: FaultProxy,
    store: ParameterStore,
    clock: ManualClock,
    change: Callable[[str | None], Awaitable[None]],
    name: str,
) -> None:
    """A lasting fault ends a refresh at its deadline; the old values stay, and the next refresh succeeds."""
    environ: dict[str, str] = {}
    env = await load_env(PATH, environ=environ, store=store, deadline=5)
    held = NAMES
    # The last page, and a read by name, which has no pages.
    for at in [*places(name)[-1:], *([] if name == "a token that repeats" else [PAGES])]:
        fault_in_refresh(proxy, LASTING[name], at)
        await change(f"changed {at}")
        began = clock.now()

        refreshing = asyncio.ensure_future(env.refresh())
        if name == "hang":
            await eventually(lambda: proxy.answered)
            await clock.advance(4.95)
            assert not refreshing.done()
            await clock.advance(0.1)
        with pytest.raises((Throttled, StoreUnavailable)) as caught:
            await passing(clock, refreshing)

        assert began + 5 == pytest.approx(clock.now(), abs=0.1)
        assert env.status.last_error is caught.value
        assert held == dict(env) == environ
        proxy.clear()
        assert PAGE_KEYS == [change.key for change in await passing(clock, env.refresh())]
        held = NAMES | dict.fromkeys(PAGE_KEYS, f"changed {at}")
        assert held == dict(env) == environ


async def test_deadline_of_the_store(proxy: FaultProxy, clock: ManualClock) -> None:
    """A load uses the deadline of its store, unless it has its own."""
    proxy.add(throttled())
    async with ParameterStore(clock=clock, deadline=7) as store:
        for deadline, seconds in ((None, 7), (3.0, 3)):
            began = clock.now()
            with pytest.raises(Throttled):
                await passing(clock, load_env(PATH, store=store, deadline=deadline))
            assert began + seconds == pytest.approx(clock.now(), abs=0.1)


async def test_hanging_request_ends_at_the_deadline(proxy: FaultProxy) -> None:
    """A request without an answer ends at the deadline, by the real clock."""
    proxy.add(hang(), when=page(2))

    with pytest.raises(StoreUnavailable, match="did not answer before the deadline") as caught:
        await load_env(PATH, deadline=0.5)

    assert PATH == caught.value.path
    assert "KEY_00" not in os.environ
    assert set() == await our_tasks()


async def test_duplicates_across_pages(proxy: FaultProxy) -> None:
    """A parameter that two pages contain, because the listing moved meanwhile, is loaded once."""
    extra: list[dict[str, object]] = []

    def repeat(_: dict[str, object], answer: dict[str, list[dict[str, object]]]) -> dict[str, list[dict[str, object]]]:
        answer = answer | {"Parameters": [*extra, *answer["Parameters"]]}
        extra[:] = answer["Parameters"][-1:]
        return answer

    proxy.add(changed(repeat))

    assert NAMES == dict(await load_env(PATH))


PRINCIPAL = "User: arn:aws:sts::111122223333:assumed-role/app/i-1"
KMS_KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234"
REFUSALS: dict[str, tuple[Fault, type[AiossmenvError], list[str]]] = {
    "listing denied": (
        error(
            "AccessDeniedException",
            f"{PRINCIPAL} is not authorized to perform: ssm:GetParametersByPath on resource: "
            f"arn:aws:ssm:eu-central-1:111122223333:parameter{PATH} because no identity-based policy allows it",
        ),
        AccessDenied,
        [
            f"Allow ssm:GetParametersByPath on both arn:aws:ssm:eu-central-1:111122223333:parameter{PATH} and ",
            f" and arn:aws:ssm:eu-central-1:111122223333:parameter{PATH}/*",
            "assumed-role/app",
        ],
    ),
    "expired": (
        error("ExpiredTokenException", "The security token included in the request is expired"),
        AccessDenied,
        ["expired", "Renew the credentials"],
    ),
    "unknown key id": (
        error("UnrecognizedClientException", "The security token included in the request is invalid."),
        AccessDenied,
        ["Renew the credentials"],
    ),
}


@pytest.mark.parametrize("at", range(PAGES))
@pytest.mark.parametrize("name", REFUSALS)
async def test_lasting_errors_fail_at_once(proxy: FaultProxy, name: str, at: int) -> None:
    """
    An error that no retry can fix is raised on the first answer, with the place and the remedy, and nothing is set.
    """
    fault, kind, texts = REFUSALS[name]
    proxy.add(fault, when=page(at))

    with pytest.raises(kind) as caught:
        await load_env(PATH)

    for text in [*texts, f"path {PATH}", "region eu-central-1"]:
        assert text in str(caught.value)
    assert not caught.value.transient
    assert at + 1 == proxy.count()
    assert "KEY_00" not in os.environ


KEY_REFUSALS: dict[str, tuple[Fault, list[str]]] = {
    "denied": (
        error(
            "AccessDeniedException",
            f"{PRINCIPAL} is not authorized to perform: kms:Decrypt on resource: {KMS_KEY} because no identity-based "
            "policy allows the kms:Decrypt action (Service: AWSKMS; Status Code: 400; "
            "Error Code: AccessDeniedException)",
        ),
        [f"Allow kms:Decrypt on {KMS_KEY} for this role"],
    ),
    "disabled": (
        error("InvalidKeyId", f"{KMS_KEY} is disabled. (Service: AWSKMS; Status Code: 400)"),
        ["is disabled", "Check that the KMS key is enabled"],
    ),
}


@pytest.mark.parametrize("at", range(PAGES))
@pytest.mark.parametrize("name", KEY_REFUSALS)
async def test_undecryptable_parameter_is_named(proxy: FaultProxy, name: str, at: int) -> None:
    """One undecryptable parameter fails its page; the error names the parameter at once, and nothing is set."""
    fault, texts = KEY_REFUSALS[name]
    bad = f"{PATH}/{PAGE_KEYS[at]}"
    proxy.add(fault, when=lambda call: call.body["WithDecryption"] and page(at)(call), operation="GetParametersByPath")
    for operation in ("GetParameters", "GetParameter"):
        proxy.add(fault, when=lambda call: bad in call.body.get("Names", [call.body.get("Name")]), operation=operation)

    with pytest.raises(DecryptionFailed) as caught:
        await load_env(PATH)

    for text in [*texts, f"parameter {bad}", "region eu-central-1"]:
        assert text in str(caught.value)
    assert not caught.value.transient
    assert proxy.count() < 3 * PAGES + 10 + 2
    assert "KEY_00" not in os.environ


async def test_missing_credentials_have_a_remedy(proxy: FaultProxy) -> None:
    """Without credentials nothing is sent, and the error says where they may come from."""
    del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]

    with pytest.raises(AccessDenied, match=r"credentials.*Run where a role is attached, or set AWS_PROFILE"):
        await load_env(PATH)

    assert 0 == proxy.count()


async def test_missing_region_has_a_remedy(proxy: FaultProxy) -> None:
    """Without a region nothing is sent, and the error names the variable."""
    del os.environ["AWS_REGION"], os.environ["AWS_DEFAULT_REGION"]

    with pytest.raises(StoreUnavailable, match="Set AWS_REGION") as caught:
        await load_env(PATH)

    assert not caught.value.transient
    assert 0 == proxy.count()


async def test_unknown_profile(proxy: FaultProxy) -> None:
    """A profile that is in no configuration is named."""
    os.environ["AWS_PROFILE"] = "nobody"

    with pytest.raises(AccessDenied, match="nobody"):
        await load_env(PATH)


async def test_invalid_endpoint() -> None:
    """An endpoint that is no URL is quoted, and fails at once."""
    async with ParameterStore(endpoint_url="no url", region="eu-central-1") as store:
        with pytest.raises(StoreUnavailable, match="no url") as caught:
            await load_env(PATH, store=store)

    assert not caught.value.transient


async def test_port_without_a_listener(ssm: Store, store: ParameterStore, clock: ManualClock) -> None:
    """A port where nothing listens is retried until the deadline, and the error names it."""
    os.environ["AWS_ENDPOINT_URL_SSM"] = "http://127.0.0.1:9"

    with pytest.raises(StoreUnavailable, match="127.0.0.1:9"):
        await passing(clock, load_env(PATH, store=store))

    assert 30 == pytest.approx(clock.now(), abs=0.1)


async def test_no_secret_in_an_error(ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock) -> None:
    """An unreadable body is quoted nowhere in the error, its causes and their texts."""
    ssm.put("/SECRET/KEY", "marker-secret")
    proxy.add(truncated(0.99))

    with pytest.raises(StoreUnavailable) as caught:
        await passing(clock, load_env("/SECRET", store=store))

    link: BaseException | None = caught.value
    while link:
        assert "marker-secret" not in repr(link)
        link = link.__cause__ or link.__context__
