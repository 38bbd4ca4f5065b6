"""Errors reference no value, key or token: not in a frame, an attribute, a cause or a log record."""

import asyncio
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiossmenv import AiossmenvError, ParameterStore, load_env
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import Call, Fault, FaultProxy, Forward, Server, changed, cut, error, http, raw, reset, throttled, truncated
from reach import holds
from timing import passing

# A value with characters that JSON escapes around a part that is always found.
CORE = secrets.token_hex(12)
VALUE = f'"\\\n{CORE}\n{CORE}ü'
QUOTED = json.dumps({"Parameters": [{"Name": "/R/A", "Type": "String", "Value": VALUE, "Version": 1}]}).encode()

FAULTS: dict[str, Fault] = {
    **{
        f"cut at {part:.0%}, {'chunked' if chunked else 'with a length'}, {'RST' if rst else 'FIN'}": cut(
            part, chunked=chunked, rst=rst
        )
        for part in (0.0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.97, 1.0)
        for chunked in (False, True)
        for rst in (False, True)
        if chunked or part < 1
    },
    "truncated": truncated(0.9),
    "no JSON": raw(CORE.encode()),
    "no UTF-8": raw(b"\xff" + QUOTED),
    "a list": raw(b"[" + QUOTED + b"]"),
    "400 with the parameters": raw(QUOTED[:-2], 400),
    "400 with a page": raw(b"<html>" + QUOTED, 400),
    "403 with a page": raw(b"<html>" + QUOTED, 403),
    "502 with a page": raw(b"<html>" + QUOTED, 502),
    "503 with the parameters": raw(QUOTED, 503),
    "a redirect": raw(QUOTED, 302),
    "an invalid version": changed(lambda _, page: {"Parameters": [p | {"Version": VALUE} for p in items(page)]}),
    "an invalid date": changed(lambda _, page: {"Parameters": [p | {"LastModifiedDate": VALUE} for p in items(page)]}),
    "an invalid name": changed(lambda _, page: {"Parameters": [p | {"Name": [VALUE]} for p in items(page)]}),
    "an invalid type": changed(lambda _, page: {"Parameters": [p | {"Type": VALUE} for p in items(page)]}),
    "an invalid token": changed(lambda _, page: page | {"NextToken": [VALUE]}),
    "FIN": reset(),
    "RST": reset(rst=True),
    "throttled": throttled(),
    "500": error("InternalServerError", status=500),
    "denied": error("AccessDeniedException", "not authorized to perform: ssm:GetParametersByPath"),
    "kms": error("AccessDeniedException", "not authorized to perform: kms:Decrypt"),
}


def items(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of an answer."""
    parameters: list[dict[str, Any]] = page["Parameters"]
    return parameters


def garbled(head: bytes) -> Fault:
    """Answer with this head, and with values where a head or a chunk belongs."""

    async def fault(call: Call, _: Forward) -> Any:
        assert call.request.transport is not None
        call.request.transport.write(head + QUOTED + b"\r\n\r\n")
        await asyncio.sleep(0.05)
        call.request.transport.close()
        return reset()

    return fault


FAULTS |= {
    "a length that is too short": garbled(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"),
    "invalid chunks": garbled(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "an invalid header": garbled(b"HTTP/1.1 200 OK\r\n"),
    "an invalid status": garbled(b"HTTP/1.1 "),
    "no status": garbled(b""),
    "zipped": garbled(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 40\r\n\r\n"),
}


@pytest.fixture(params=["http"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Return the proxy's scheme; the fixture below adds a TLS proxy."""
    speaks: str = request.param
    return speaks


@pytest.fixture
def filled(proxy: FaultProxy, ssm: Store, scheme: str) -> FaultProxy:
    """Fill the store with values of two kilobytes, and give the proxy."""
    assert proxy.url.startswith(scheme)
    for name in "ABCD":
        ssm.put(f"/R/{name}", VALUE * 40)
    return proxy


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Collect all log records of all loggers and levels from now on."""
    heard: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        emit = staticmethod(heard.append)  # type: ignore[assignment] # only called with a record

    root, handler, level = logging.getLogger(), Handler(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield heard
    root.removeHandler(handler)
    root.setLevel(level)


def in_records(records: list[logging.LogRecord], secret: str) -> list[str]:
    """Return where the log's texts and tracebacks contain *secret*."""
    found = [f"{record.name}: {record.getMessage()[:200]}" for record in records if secret in record.getMessage()]
    for record in records:
        if record.exc_info and record.exc_info[1]:
            found += [f"{record.name}: {place}" for place in holds(record.exc_info[1], secret)]
    return found


@pytest.mark.parametrize("name", FAULTS)
async def test_failed_load_references_no_value(
    filled: FaultProxy, store: ParameterStore, clock: ManualClock, records: list[logging.LogRecord], name: str
) -> None:
    """The error of a failed load and the log reference no value, however the answer was broken."""
    filled.add(FAULTS[name])
    del records[:]

    with pytest.raises(AiossmenvError) as caught:
        await passing(clock, load_env("/R", environ={}, store=store, deadline=0.5))

    assert filled.answered
    assert [] == holds(caught.value, CORE)
    assert [] == in_records(records, CORE)


# A few cuts are enough here, and an answer by name has no token.
REFRESHED = [
    name
    for name in FAULTS
    if (not name.startswith("cut") or "55%" in name or "97%" in name) and name != "an invalid token"
]


@pytest.mark.parametrize("name", REFRESHED)
async def test_failed_refresh_references_no_value(
    filled: FaultProxy, ssm: Store, clock: ManualClock, records: list[logging.LogRecord], name: str
) -> None:
    """The error of a refresh, which the status keeps, and the log reference no value, old or new."""
    async with ParameterStore(clock=clock, random=lambda: 0.5) as store:
        env = await load_env("/R", environ={}, store=store, deadline=0.5)
        await asyncio.to_thread(ssm.put, "/R/B", VALUE * 41)
        # Changed parameters are read with decryption: in batches, singly or by listing.
        filled.add(FAULTS[name], when=lambda call: bool(call.body["WithDecryption"]))
        del records[:]

        with pytest.raises(AiossmenvError) as caught:
            await passing(clock, env.refresh())

    assert filled.answered
    assert env.status.last_error is caught.value
    assert VALUE * 40 == env["B"]
    assert [] == holds(caught.value, CORE)
    assert [] == in_records(records, CORE)


async def executed(call: Call, forward: Forward) -> Any:
    """Carry a write out, and close the connection without an answer."""
    await forward(call.body)
    return await reset()(call, forward)


WRITE_FAULTS: dict[str, Fault] = {
    **{name: FAULTS[name] for name in ("FIN", "RST", "throttled", "500", "no UTF-8", "400 with a page", "a redirect")},
    "lost": executed,
    "denied": error("AccessDeniedException", "not authorized to perform: ssm:PutParameter"),
    "kms": error("AccessDeniedException", "not authorized to perform: kms:Encrypt"),
    "quoted": error("ValidationException", f"1 validation error detected: Value '{VALUE * 40}' at 'value' failed"),
    "quoted in part": error("ValidationException", f"1 validation error detected: Value '{CORE}...' at 'value' failed"),
    "quoted with another code": error("ParameterPatternMismatchException", f"{VALUE * 40} is no name"),
    "quoted and new": error("SomethingNew", f"I know of no {VALUE * 40}."),
    "there": error("ParameterAlreadyExists", "The parameter already exists."),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", WRITE_FAULTS)
async def test_failed_write_references_no_value(
    ssm: Store,
    proxy: FaultProxy,
    clock: ManualClock,
    records: list[logging.LogRecord],
    name: str,
    *,
    several: bool,
) -> None:
    """The error of a failed write and the log reference no value, neither ours nor another writer's."""
    ssm.put("/R/A", f"{VALUE} before")
    proxy.add(WRITE_FAULTS[name], operation="PutParameter")
    store = ParameterStore(clock=clock, random=lambda: 0.5, deadline=0.5)

    async def put() -> None:
        if not several:
            await store.put("/R/A", VALUE * 40)
        else:
            async for _ in store.put_many({"/R/A": VALUE * 40, "/R/B": VALUE}):
                pass

    del records[:]
    async with store:
        if name == "lost":
            await passing(clock, put())
            proxy.add(FAULTS["denied"], operation="GetParameters", when=lambda call: bool(call.body["WithDecryption"]))
            proxy.add(FAULTS["denied"], operation="GetParameter")
        with pytest.raises(AiossmenvError) as caught:
            await passing(clock, put())
        for wrong in ({"/R/A": VALUE, "/R/B": f"{VALUE}\0"}, [("/R/A", VALUE)], {"/R/A": VALUE, 7: VALUE}):
            with pytest.raises(AiossmenvError) as wrongly:
                await anext(store.put_many(wrong))  # type: ignore[arg-type] # wrong on purpose
            assert [] == holds(wrongly.value, CORE)
        for options in ({"type": "Secret"}, {"tags": ["team"]}, {"value": VALUE * 200}, {"value": VALUE.encode()}):
            with pytest.raises(AiossmenvError) as wrongly:
                await store.put("/R/A", **{"value": VALUE, **options})  # type: ignore[arg-type] # wrong on purpose
            assert [] == holds(wrongly.value, CORE)

    assert proxy.answered
    assert [] == holds(caught.value, CORE)
    assert [] == in_records(records, CORE)


async def test_written_values_are_in_no_log(
    ssm: Store, store: ParameterStore, records: list[logging.LogRecord]
) -> None:
    """What is sent with a write, and what a history gives, is in no log of any level."""
    del records[:]
    await store.put("/R/A", VALUE, tags={"team": "books"})
    await store.put("/R/A", VALUE)
    assert [VALUE, VALUE] == [version.parameter.value for version in await store.history("/R/A")]

    assert records
    assert [] == in_records(records, CORE)


def web_identity(folder: Path, _: str) -> None:
    """Assume a role with a secret token."""
    token = folder / "token"
    token.write_text(CORE)
    os.environ |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/app"}


def assumed(folder: Path, _: str) -> None:
    """Assume a role with a secret key."""
    path = folder / "config"
    path.write_text(
        "[default]\nrole_arn = arn:aws:iam::111122223333:role/app\nsource_profile = base\n"
        f"[profile base]\naws_access_key_id = BASE\naws_secret_access_key = {CORE}\n"
    )
    os.environ["AWS_CONFIG_FILE"] = str(path)


def container(_: Path, url: str) -> None:
    """Use a credentials endpoint with a secret token."""
    os.environ |= {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": CORE}


def process(folder: Path, _: str) -> None:
    """Run a credential process that prints its keys, and fails."""
    script = folder / "credentials.sh"
    script.write_text(f'#!/bin/sh\necho \'{{"SecretAccessKey": "{CORE}"\'; echo {CORE} >&2; exit 3\n')
    script.chmod(0o755)
    (folder / "config").write_text(f"[default]\ncredential_process = {script}\n")
    os.environ["AWS_CONFIG_FILE"] = str(folder / "config")


def given(*, until: str, whole: bool = True) -> bytes:
    """Return credentials in an STS answer, complete or not."""
    keys = f"<AccessKeyId>A</AccessKeyId><SecretAccessKey>{CORE}</SecretAccessKey><SessionToken>{CORE}</SessionToken>"
    body = f"<Credentials>{keys}<Expiration>{until}</Expiration></Credentials>"
    text = "".join(f"<{name}Result>{body}</{name}Result>" for name in ("AssumeRole", "AssumeRoleWithWebIdentity"))
    answer = f"<R>{text}</R>"
    return http(answer if whole else answer[:-40])


ANSWERS: dict[str, bytes] = {
    "refuses": http("<E><Error><Code>AccessDenied</Code><Message>No.</Message></Error></E>", 403),
    "is down": http(f"<html>{CORE}</html>", 500),
    "answers with half of it": given(until="2100-01-01T00:00:00Z", whole=False),
    "answers with an invalid date": given(until="soon"),
    "answers with expired keys": given(until="2001-01-01T00:00:00Z"),
    "sends no answer": b"",
    "answers with JSON": http(json.dumps({"SecretAccessKey": CORE, "AccessKeyId": CORE})),
    "answers with an invalid date in JSON": http(
        json.dumps({"AccessKeyId": "A", "SecretAccessKey": CORE, "Token": CORE, "Expiration": CORE})
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("setup", [web_identity, assumed, container, process])
async def test_credential_errors_reference_no_secret(
    proxy: FaultProxy,
    records: list[logging.LogRecord],
    tmp_path: Path,
    setup: Callable[[Path, str], None],
    answer: str,
) -> None:
    """The error of a load without credentials, and the log, reference no key and no token."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del os.environ[name]
    async with Server(lambda _: ANSWERS[answer]).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        setup(tmp_path, server.url)

        with pytest.raises(AiossmenvError) as caught:
            # The SDK tries a container's endpoint three times, with a pause of a second after each.
            await load_env("/R", environ={}, deadline=4 if setup is container else 0.7)

    assert [] == holds(caught.value, CORE)
    assert [] == in_records(records, CORE)
    assert 0 == proxy.count()


# --- The search itself


def failing(held: object) -> Exception:
    """Return an exception with a frame of the standard library that holds *thing*."""
    try:
        json.loads("{", object_hook=held)  # type: ignore[arg-type] # never called
    except ValueError as found:
        return found
    raise AssertionError


def caused(by: Exception) -> Exception:
    """Return an exception with this cause."""
    made = KeyError()
    made.__cause__ = by
    return made


def within(context: Exception) -> Exception:
    """Return an exception with this context, which tracebacks hide."""
    made = KeyError()
    made.__context__, made.__suppress_context__ = context, True
    return made


def with_attribute(value: object) -> Exception:
    """Return an exception with this attribute."""
    made = KeyError()
    made.attribute = value  # type: ignore[attr-defined] # the tested place
    return made


@pytest.mark.parametrize(
    "error",
    [
        failing(CORE),
        failing([CORE.encode()]),
        failing({"a": bytearray(CORE.encode())}),
        failing(CORE.encode().hex()),
        caused(ValueError(CORE)),
        caused(failing(CORE)),
        within(failing(CORE)),
        ExceptionGroup("", [failing(CORE)]),
        with_attribute([failing(CORE)]),
        with_attribute(memoryview(CORE.encode())),
    ],
)
def test_search_finds_each_place(error: Exception) -> None:
    """A value in any of these places is found."""
    assert holds(error, CORE)
