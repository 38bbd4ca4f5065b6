"""
Failures before Parameter Store answers, with real sources of credentials, proxies and files: the error names the cause.
"""

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
    """Use only the proxy of the test, and restore the variables that are not AWS's."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    before = {name: os.environ.pop(name) for name in [*names, "HOME"]}
    yield
    os.environ.update(before)


@pytest.fixture
def before(proxy: FaultProxy) -> FaultProxy:
    """Give the proxy in front of Parameter Store; no request may reach it."""
    return proxy


@pytest.mark.parametrize("name", AT_ONCE)
async def test_lasting_errors_fail_at_once(before: FaultProxy, tmp_path: Path, name: str) -> None:
    """An error before the first request is raised at once; it names the file or the variable, and shows no content."""
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
async def test_rejections_name_their_service(before: FaultProxy, tmp_path: Path, name: str) -> None:
    """
    The error names the service that rejected the request, at once, and does not suggest a Parameter Store permission.
    """
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
async def test_temporary_errors_are_retried_until_the_deadline(before: FaultProxy, tmp_path: Path, name: str) -> None:
    """A source of credentials or a proxy that fails is retried, and the error at the deadline names it."""
    setup, answer, texts, cause = MAY_PASS[name]
    # The SDK tries a container's endpoint three times, with a pause of a second after each.
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


async def test_hanging_process_is_killed(before: FaultProxy, tmp_path: Path) -> None:
    """A credential process that gives no answer until the deadline is killed."""
    process(tmp_path, f"echo $$ > {tmp_path / 'pid'}; exec sleep 60")

    with pytest.raises(StoreUnavailable, match="did not arrive"):
        await load_env("/A", environ={}, deadline=1)

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert 0 == before.count()


async def test_sts_that_recovers(before: FaultProxy, ssm: Store, tmp_path: Path) -> None:
    """A load succeeds once STS has recovered."""
    await asyncio.to_thread(ssm.put, "/A/B", "1")
    answers = iter([sts_error("Throttling", 400), sts_error("InternalFailure", 500)])
    async with Server(lambda _: next(answers, granted())).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        web_identity(token_of(tmp_path))

        assert {"B": "1"} == dict(await load_env("/A", environ={}))

    assert 3 == len(server.requests)
    assert before.calls[0].request.headers["X-Amz-Security-Token"] == SECRET


async def test_denial_by_sts_is_not_recorded(before: FaultProxy, ssm: Store, tmp_path: Path) -> None:
    """A denial by STS is not recorded as a denial of an operation, and causes no fallback."""
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


async def test_recorded_denial_survives_a_denial_by_sts(
    before: FaultProxy, ssm: Store, clock: ManualClock, tmp_path: Path
) -> None:
    """A recorded denial of batches stays after a denial by STS, and batches are not tried again."""
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


# --- Credentials that stop working


@pytest.mark.parametrize("ends", ["token removed", "token emptied", "STS rejects", "STS throttles"])
async def test_credentials_that_stop_working(  # noqa: PLR0917 - fixtures
    before: FaultProxy, ssm: Store, clock: ManualClock, tmp_path: Path, ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A refresh without usable credentials keeps the last good values, and the error names the source."""
    await asyncio.to_thread(ssm.put, "/A/B", "1")
    token, answer = token_of(tmp_path), granted(1)
    caplog.set_level(logging.DEBUG)
    async with Server(lambda _: answer).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        web_identity(token)
        # With a shorter lifetime they would count as expired: the SDK renews them ten minutes before the end.
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
                case "STS rejects":
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


# --- A session of the user


@pytest.mark.parametrize("kind", ["boto3", "text", "client"])
async def test_invalid_session(before: FaultProxy, kind: str) -> None:
    """
    An object that is no asyncio session is rejected; the error says what to pass instead, and does not show the object.
    """
    session: object = {"boto3": boto3.Session, "text": lambda: SECRET, "client": lambda: boto3.client("ssm")}[kind]()
    async with ParameterStore(session=session) as store:
        with pytest.raises(StoreUnavailable, match=r"session= .*Pass an aioboto3\.Session") as caught:
            await load_env("/A", environ={}, store=store)

    assert not caught.value.transient
    check(caught.value, [type(session).__name__], None)
    assert 0 == before.count()


@pytest.mark.parametrize("where", ["client", "method"])
async def test_programming_errors_are_raised_at_once(before: FaultProxy, where: str) -> None:
    """A programming error in the SDK or a session fails at once, with its type, its text and its place."""
    session = Patched()
    session.where = where
    async with ParameterStore(session=session) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await load_env("/A", environ={}, store=store)

    assert not caught.value.transient
    check(caught.value, ["unexpected TypeError", f"patched at {where}", "support/sources.py:"], "TypeError")
    assert 0 == before.count()


def test_moto_mocks_for_boto3() -> None:
    """Under moto's `mock_aws()`, which patches the SDK for boto3, the error has the SDK's error type and the cause."""
    environment = os.environ | {"AWS_REGION": "eu-central-1"}
    done = subprocess.run(
        [sys.executable, "-c", MOCKED], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert "" == done.stderr
    assert "unexpected TypeError: object bytes can't be used in 'await' expression" in done.stdout
    assert "mock" in done.stdout


async def test_invalid_region_argument() -> None:
    """A region with a line break is rejected, and the error does not show it."""
    async with ParameterStore(region="eu-central-1\n") as store:
        with pytest.raises(StoreUnavailable, match="the region that was passed") as caught:
            await load_env("/A", environ={}, store=store)

    assert None is caught.value.region is store.region


async def test_invalid_region_of_a_session() -> None:
    """A session's region with a space is rejected."""
    session = aiobotocore.session.get_session()
    session.set_config_variable("region", "eu central 1")
    session.set_credentials("MINE", SECRET)
    async with ParameterStore(session=session) as store:
        with pytest.raises(StoreUnavailable, match="not the name of a region"):
            await load_env("/A", environ={}, store=store)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Give a function that serves TLS with a certificate, and points the environment to it."""
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
async def test_untrusted_certificates(
    before: FaultProxy, served: Callable[..., Any], options: dict[str, Any], text: str
) -> None:
    """The error says at once that a certificate has an unknown CA, has expired or is for another host."""
    await served(**options)

    with pytest.raises(StoreUnavailable) as caught:
        await load_env("/A", environ={}, deadline=30)

    assert not caught.value.transient
    check(caught.value, ["TLS", text, "AWS_CA_BUNDLE"], "SSLError")
    assert 0 == before.count()


async def test_plain_text_in_place_of_tls(before: FaultProxy) -> None:
    """A TLS endpoint that answers in plain text fails at once, and the error says that it is no TLS."""

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http("plain"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        os.environ["AWS_ENDPOINT_URL_SSM"] = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        with pytest.raises(StoreUnavailable) as caught:
            await load_env("/A", environ={}, deadline=30)

    assert not caught.value.transient
    check(caught.value, ["TLS"], "SSLError")
