"""Whose fault it is: what fails before Parameter Store answers, with real sources of credentials, proxies and files."""

import asyncio
import logging
import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiobotocore.session
import boto3
import pytest

from aiossmenv import AccessDenied, AiossmenvError, ParameterStore, StoreUnavailable, load_env
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import FaultProxy, Server, error, http
from sources import (
    AT_ONCE,
    MAY_PASS,
    MOCKED,
    REFUSED,
    SECRET,
    WEB,
    Patched,
    certificate,
    check,
    granted,
    process,
    sts_error,
    token_of,
    web_identity,
)
from timing import passing


@pytest.fixture(autouse=True)
def no_proxies(environment: None) -> Iterator[None]:
    """Use no proxy but that of the test, and put back the variables that are not AWS's."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    before = {name: os.environ.pop(name) for name in [*names, "HOME"]}
    yield
    os.environ.update(before)


@pytest.fixture
def before(proxy: FaultProxy) -> FaultProxy:
    """Give the proxy before Parameter Store, which no request is to reach."""
    return proxy


@pytest.mark.parametrize("name", AT_ONCE)
async def test_what_no_retry_heals_fails_at_once(before: FaultProxy, tmp_path: Path, name: str) -> None:
    """
    What is wrong before anything is sent is said at once, with the file or the variable, and without what is in it.
    """
    setup, kind, texts, cause = AT_ONCE[name]
    setup(tmp_path, "http://127.0.0.1:9")
    began = time.monotonic()

    with pytest.raises(kind) as caught:
        await load_env("/A", environ={}, deadline=30)

    assert time.monotonic() - began < 10
    assert kind is type(caught.value)
    assert not caught.value.transient
    check(caught.value, texts, cause)
    assert 0 == before.count()


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_is_its_owners(before: FaultProxy, tmp_path: Path, name: str) -> None:
    """Who refuses is named, at once, and no right of Parameter Store is asked for."""
    setup, answer, kind, texts, cause = REFUSED[name]
    began = time.monotonic()
    async with Server(lambda _: answer).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        setup(tmp_path, server.url)

        with pytest.raises(kind) as caught:
            await load_env("/A", environ={}, deadline=30)

    assert time.monotonic() - began < 10
    assert not caught.value.transient
    check(caught.value, texts, cause)
    assert "ssm:" not in str(caught.value)
    assert None is getattr(caught.value, "action", None)
    assert server.requests
    assert 0 == before.count()


@pytest.mark.parametrize("name", MAY_PASS)
async def test_what_may_pass_is_tried_until_the_deadline(before: FaultProxy, tmp_path: Path, name: str) -> None:
    """A source of credentials, or a proxy, that fails is asked again, and named when the deadline is over."""
    setup, answer, texts, cause = MAY_PASS[name]
    # The SDK asks a container's endpoint three times, and waits a second after each.
    seconds = 4.5 if "container" in name else 2.0
    began = time.monotonic()
    async with Server(lambda _: answer).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        setup(tmp_path, server.url)

        with pytest.raises(StoreUnavailable) as caught:
            await load_env("/A", environ={}, deadline=seconds)

    assert time.monotonic() - began > seconds - 1
    assert caught.value.transient
    check(caught.value, texts, cause)
    assert 0 == before.count()


async def test_a_process_that_hangs_is_killed(before: FaultProxy, tmp_path: Path) -> None:
    """A credential_process whose answer is given up at the deadline does not run on."""
    process(tmp_path, f"echo $$ > {tmp_path / 'pid'}; exec sleep 60")

    with pytest.raises(StoreUnavailable, match="did not arrive"):
        await load_env("/A", environ={}, deadline=1)

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert 0 == before.count()


async def test_sts_that_recovers(before: FaultProxy, ssm: Store, tmp_path: Path) -> None:
    """A load that STS held up for a while succeeds."""
    await asyncio.to_thread(ssm.put, "/A/B", "1")
    answers = iter([sts_error("Throttling", 400), sts_error("InternalFailure", 500)])
    async with Server(lambda _: next(answers, granted())).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        web_identity(token_of(tmp_path))

        assert {"B": "1"} == dict(await load_env("/A", environ={}))

    assert 3 == len(server.requests)
    assert before.calls[0].request.headers["X-Amz-Security-Token"] == SECRET


async def test_nothing_is_learned_from_sts(before: FaultProxy, ssm: Store, tmp_path: Path) -> None:
    """A refusal of STS is not taken for a denial of a request, which another request would make up for."""
    await asyncio.to_thread(ssm.put, "/A/B", "1")
    refuses = True
    async with Server(lambda _: sts_error("AccessDenied", 403) if refuses else granted()).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        web_identity(token_of(tmp_path))
        async with ParameterStore() as store:
            with pytest.raises(AccessDenied):
                await store.get("/A/B")
            assert 1 == len(server.requests)
            refuses = False

            assert "1" == (await store.get("/A/B")).value

    assert ["GetParameters"] == [call.operation for call in before.calls]


async def test_what_was_learned_outlives_a_refusal_of_sts(
    before: FaultProxy, ssm: Store, clock: ManualClock, tmp_path: Path
) -> None:
    """A role that may not read names together is not tried for that right again because STS refused it meanwhile."""
    await asyncio.to_thread(ssm.put, "/A/B", "1")
    before.add(
        error("AccessDeniedException", "not authorized to perform: ssm:GetParameters"), operation="GetParameters"
    )
    answer = granted(601)
    async with Server(lambda _: answer).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        web_identity(token_of(tmp_path))
        async with ParameterStore(clock=clock, random=lambda: 0.5) as store:
            env = await load_env("/A", keys=["B"], environ={}, store=store)
            assert 1 == before.count("GetParameters")
            answer = sts_error("AccessDenied", 403)
            await asyncio.sleep(1.5)

            with pytest.raises(AccessDenied, match="STS"):
                await env.refresh("B")

            answer = granted()
            await env.refresh("B")

    assert 1 == before.count("GetParameters")
    assert 2 == before.count("GetParameter")


# --- Credentials that stop working later


@pytest.mark.parametrize("ends", ["token removed", "token emptied", "STS refuses", "STS throttles"])
async def test_credentials_that_stop_working(  # noqa: PLR0917 - fixtures
    before: FaultProxy, ssm: Store, clock: ManualClock, tmp_path: Path, ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A refresh that finds no credentials any more keeps the last good values, and says whose fault it is."""
    await asyncio.to_thread(ssm.put, "/A/B", "1")
    token, answer = token_of(tmp_path), granted(1)
    caplog.set_level(logging.DEBUG)
    async with Server(lambda _: answer).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        web_identity(token)
        # Credentials of a second would count as expired: the SDK renews them ten minutes before.
        answer = granted(601)
        async with (
            ParameterStore(clock=clock, random=lambda: 0.5, deadline=5) as store,
            load_env("/A", environ={}, ttl=60, store=store) as env,
        ):
            count = before.count()
            match ends:
                case "token removed":
                    token.unlink()
                case "token emptied":
                    token.write_text("")
                case "STS refuses":
                    answer = sts_error("AccessDenied", 403)
                case "STS throttles":
                    answer = sts_error("Throttling", 400)
            await asyncio.sleep(1.5)

            with pytest.raises(AiossmenvError) as caught:
                await passing(clock, env.refresh())

            error = env.status.last_error
            assert type(caught.value) is type(error)
            assert WEB in str(error)
            assert isinstance(error, StoreUnavailable if ends == "STS throttles" else AccessDenied)
            assert (ends == "STS throttles") == error.transient
            assert {"B": "1"} == dict(env)
            assert count == before.count()
    assert SECRET not in caplog.text
    assert all(record.exc_info is None for record in caplog.records if record.name.startswith(("botocore", "aioboto")))


# --- A session of the user's


@pytest.mark.parametrize("kind", ["boto3", "text", "client"])
async def test_a_session_that_is_none(before: FaultProxy, kind: str) -> None:
    """What is no session for asyncio is refused with what to pass instead, and not shown."""
    session: object = {"boto3": boto3.Session, "text": lambda: SECRET, "client": lambda: boto3.client("ssm")}[kind]()
    async with ParameterStore(session=session) as store:
        with pytest.raises(StoreUnavailable, match=r"session= .*Pass an aioboto3\.Session") as caught:
            await load_env("/A", environ={}, store=store)

    assert not caught.value.transient
    check(caught.value, [type(session).__name__], None)
    assert 0 == before.count()


@pytest.mark.parametrize("where", ["client", "method"])
async def test_a_bug_is_called_one(before: FaultProxy, where: str) -> None:
    """A programming error in the SDK or a session fails at once, with its type, its text and its place."""
    session = Patched()
    session.where = where
    async with ParameterStore(session=session) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await load_env("/A", environ={}, store=store)

    assert not caught.value.transient
    check(caught.value, ["unexpected TypeError", f"patched at {where}", "support/sources.py:"], "TypeError")
    assert 0 == before.count()


def test_mocks_of_another_sdk() -> None:
    """
    Under moto's `mock_aws()`, which patches the SDK for boto3, the error has the type that the SDK raised, and the
    cause.
    """
    environment = os.environ | {"AWS_REGION": "eu-central-1"}
    done = subprocess.run(
        [sys.executable, "-c", MOCKED], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert "" == done.stderr
    assert "unexpected TypeError: object bytes can't be used in 'await' expression" in done.stdout
    assert "mock" in done.stdout


async def test_a_region_that_was_passed() -> None:
    """A region with a line break that was passed to the store is refused, and is not in the error."""
    async with ParameterStore(region="eu-central-1\n") as store:
        with pytest.raises(StoreUnavailable, match="the region that was passed") as caught:
            await load_env("/A", environ={}, store=store)

    assert None is caught.value.region is store.region


async def test_the_region_of_a_session() -> None:
    """A region with a space, of a session of the user's, is refused."""
    session = aiobotocore.session.get_session()
    session.set_config_variable("region", "eu central 1")
    session.set_credentials("MINE", SECRET)
    async with ParameterStore(session=session) as store:
        with pytest.raises(StoreUnavailable, match="not the name of a region"):
            await load_env("/A", environ={}, store=store)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Give what serves TLS with a certificate, and leads the environment's variables there."""
    async with AsyncExitStack() as stack:

        async def serve(name: str, *, days: int = 1, trusted: bool = True) -> None:
            files = certificate(tmp_path, name, days=days)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*files)
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
            await stack.enter_async_context(server)
            os.environ["AWS_ENDPOINT_URL_SSM"] = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            if trusted:
                os.environ["AWS_CA_BUNDLE"] = str(files[0])

        yield serve


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "127.0.0.1", "trusted": False}, "certificate verify failed"),
        ({"name": "127.0.0.1", "days": -1}, "expired"),
        ({"name": "other.test"}, "mismatch"),
    ],
)
async def test_certificates_that_are_not_trusted(
    before: FaultProxy, served: Callable[..., Any], options: dict[str, Any], text: str
) -> None:
    """A certificate of an unknown CA, one that is over and one of another host are said to be, at once."""
    await served(**options)

    with pytest.raises(StoreUnavailable) as caught:
        await load_env("/A", environ={}, deadline=30)

    assert not caught.value.transient
    check(caught.value, ["TLS", text, "AWS_CA_BUNDLE"], "SSLError")
    assert 0 == before.count()


async def test_plain_text_in_place_of_tls(before: FaultProxy) -> None:
    """An endpoint with TLS that talks plain text is said to be no TLS, at once."""

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http("plain"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        os.environ["AWS_ENDPOINT_URL_SSM"] = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        with pytest.raises(StoreUnavailable) as caught:
            await load_env("/A", environ={}, deadline=30)

    assert not caught.value.transient
    check(caught.value, ["TLS"], "SSLError")
