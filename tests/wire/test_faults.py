"""A Parameter Store that fails: what is tried again, what is not, and what is said."""

import os
import time
from collections.abc import AsyncIterator, Callable

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
from embedded import Store
from faults import Call, Fault, FaultProxy, changed, error, hang, raw, reset, throttled, truncated
from timing import our_tasks

PAGES = 3
# Its own: what other tests leave under theirs is not cleared for a store that is filled once.
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
    "bad token": error("InvalidNextToken"),
    "a token that repeats": changed(lambda _, page: page | {"NextToken": "10"}),
}


# The right answer of the first page has this token.
CASES = [(name, at) for name in TRANSIENT for at in range(PAGES) if (name, at) != ("a token that repeats", 0)]


@pytest.fixture(scope="module")
def filled(moto: Store) -> Store:
    """Fill the path, once for all tests here."""
    for key, value in NAMES.items():
        moto.put(f"{PATH}/{key}", value)
    return moto


@pytest.fixture
async def ssm(filled: Store) -> AsyncIterator[Store]:
    """Give the store as it is, instead of an empty one."""
    os.environ |= filled.environment
    yield filled
    assert set() == await our_tasks()


def page(number: int) -> Callable[[Call], bool]:
    """Tell whether a call asks for this page of the path."""

    def is_it(call: Call) -> bool:
        return str(call.body.get("NextToken", "")) == ("" if number == 0 else str(number * 10))

    return is_it


@pytest.mark.parametrize(("name", "at"), CASES)
async def test_what_passes_is_tried_again(proxy: FaultProxy, name: str, at: int) -> None:
    """A fault that passes, at the first, a middle and the last page, costs time and nothing else."""
    proxy.add(TRANSIENT[name], when=page(at), times=2)

    assert NAMES == dict(await load_env(PATH))


@pytest.mark.parametrize(("name", "at"), CASES)
async def test_what_lasts_ends_at_the_deadline(proxy: FaultProxy, name: str, at: int) -> None:
    """A fault that lasts ends the load within a second of its deadline, and the environment is as it was."""
    proxy.add(TRANSIENT[name], when=page(at))
    before = dict(os.environ)
    began = time.monotonic()

    with pytest.raises((Throttled, StoreUnavailable)) as caught:
        await load_env(PATH, deadline=0.5)

    assert time.monotonic() - began < 1.5
    assert caught.value.transient
    assert PATH == caught.value.path
    assert before == dict(os.environ)


async def test_a_hang_ends_at_the_deadline(proxy: FaultProxy) -> None:
    """A request that is never answered does not outlive the deadline."""
    proxy.add(hang(), when=page(2))
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match="did not answer before the deadline") as caught:
        await load_env(PATH, deadline=0.5)

    assert 0.5 <= time.monotonic() - began < 1.5
    assert PATH == caught.value.path
    assert "KEY_00" not in os.environ
    assert set() == await our_tasks()


async def test_duplicates_across_pages_are_one(proxy: FaultProxy) -> None:
    """A parameter that comes twice, since the listing moved meanwhile, is there once."""
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
    "key denied": (
        error(
            "AccessDeniedException",
            f"{PRINCIPAL} is not authorized to perform: kms:Decrypt on resource: {KMS_KEY} because no identity-based "
            "policy allows the kms:Decrypt action (Service: AWSKMS; Status Code: 400; Error Code: AccessDeniedException)",
        ),
        DecryptionFailed,
        [f"Allow kms:Decrypt on {KMS_KEY} for this role"],
    ),
    "key disabled": (
        error("InvalidKeyId", f"{KMS_KEY} is disabled. (Service: AWSKMS; Status Code: 400)"),
        DecryptionFailed,
        ["is disabled", "Check that the KMS key is enabled"],
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
async def test_refusals_fail_at_once(proxy: FaultProxy, name: str, at: int) -> None:
    """What waiting cannot heal is raised on the first answer, with the place and the remedy, and nothing is set."""
    fault, kind, texts = REFUSALS[name]
    proxy.add(fault, when=page(at))

    with pytest.raises(kind) as caught:
        await load_env(PATH)

    for text in [*texts, f"path {PATH}", "region eu-central-1"]:
        assert text in str(caught.value)
    assert not caught.value.transient
    assert at + 1 == proxy.count()
    assert "KEY_00" not in os.environ


async def test_missing_credentials_say_what_to_do(proxy: FaultProxy) -> None:
    """Without credentials nothing is sent, and the error says where they may come from."""
    del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]

    with pytest.raises(AccessDenied, match=r"credentials.*Run where a role is attached, or set AWS_PROFILE"):
        await load_env(PATH)

    assert 0 == proxy.count()


async def test_missing_region_says_what_to_do(proxy: FaultProxy) -> None:
    """Without a region nothing is sent, and the error names the variable."""
    del os.environ["AWS_REGION"], os.environ["AWS_DEFAULT_REGION"]

    with pytest.raises(StoreUnavailable, match="Set AWS_REGION") as caught:
        await load_env(PATH)

    assert not caught.value.transient
    assert 0 == proxy.count()


async def test_profile_that_is_not_there(proxy: FaultProxy) -> None:
    """A profile that no configuration has is named."""
    os.environ["AWS_PROFILE"] = "nobody"

    with pytest.raises(AccessDenied, match="nobody"):
        await load_env(PATH)


async def test_endpoint_that_is_no_url() -> None:
    """An endpoint that cannot be one is quoted at once."""
    async with ParameterStore(endpoint_url="no url", region="eu-central-1") as store:
        with pytest.raises(StoreUnavailable, match="no url") as caught:
            await load_env(PATH, store=store)

    assert not caught.value.transient


async def test_nobody_listens(ssm: Store) -> None:
    """A port where nobody listens is tried until the deadline, and is in the error."""
    os.environ["AWS_ENDPOINT_URL_SSM"] = "http://127.0.0.1:9"

    with pytest.raises(StoreUnavailable, match="127.0.0.1:9"):
        await load_env(PATH, deadline=0.5)


async def test_no_secret_in_an_error(ssm: Store, proxy: FaultProxy) -> None:
    """A body that cannot be read is not quoted anywhere in the error, its causes and their text."""
    ssm.put("/SECRET/KEY", "marker-secret")
    proxy.add(truncated(0.99))

    with pytest.raises(StoreUnavailable) as caught:
        await load_env("/SECRET", deadline=0.5)

    link: BaseException | None = caught.value
    while link:
        assert "marker-secret" not in repr(link)
        link = link.__cause__ or link.__context__
