"""`aiossmenv doctor`."""

import json
import os
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aiossmenv import AiossmenvError, ParameterStore, load_env
from aiossmenv.cli._doctor_reads import within
from aiossmenv.cli._findings import Finding
from command import Done, invoke_in_thread
from embedded import Store
from faults import Call, Fault, FaultProxy, Forward, Server, changed, error, hang, http, passed_on, throttled
from sources import no_keys, sts_error, token_of, web_identity

HERE = "eu-central-1:123456789012"
MINE = f"arn:aws:ssm:{HERE}:parameter/APP"
KEY = f"arn:aws:kms:{HERE}:key/1234abcd"
Found = dict[str, Any]


@pytest.fixture(autouse=True)
def credentials(ssm: Store) -> None:
    """Let the secret key be a text of its own, so that a test sees it where it must not be."""
    os.environ["AWS_ACCESS_KEY_ID"] = "AKIAIOSFODNN7EXAMPLE"
    os.environ["AWS_SECRET_ACCESS_KEY"] = "not-shown-key"
    os.environ["AWS_ENDPOINT_URL_STS"] = ssm.endpoint_url


async def ask(*arguments: str) -> Done:
    """Run `doctor`, and see that it shows no secret."""
    done = await invoke_in_thread("doctor", *arguments)
    assert "not-shown" not in done.out + done.err
    assert "AKIA" not in done.out + done.err
    return done


async def find(*arguments: str) -> list[Found]:
    """Return what `doctor` finds; its exit status says what its findings say."""
    done = await ask(*arguments, "--json")
    assert "" == done.err
    read = json.loads(done.out)
    errors = [each for each in read["findings"] if each["level"] == "error"]
    assert (not errors, 1 if errors else 0) == (read["would_load"], done.status)
    findings: list[Found] = read["findings"]
    return findings


def about(findings: list[Found], subject: str) -> Found:
    """Return the one finding about *subject*."""
    (found,) = (each for each in findings if each["subject"] == subject)
    return found


def errors(findings: list[Found]) -> list[str]:
    """Return what the errors are about."""
    return [each["subject"] for each in findings if each["level"] == "error"]


def denied(operation: str, resource: str = MINE) -> Fault:
    """Answer as Parameter Store does to a role without this right."""
    text = f"User: U is not authorized to perform: ssm:{operation} on resource: {resource}"
    return error("AccessDeniedException", text)


def kms_denied(name: str, key: str = KEY) -> tuple[Fault, Callable[[Call], bool]]:
    """Deny the decryption of one parameter, which fails each request that has it."""
    text = (
        f"User: U is not authorized to perform: kms:Decrypt on resource: {key} (Service: AWSKMS; Status Code: 400;"
        " Error Code: AccessDeniedException)"
    )

    def concerns(call: Call) -> bool:
        asked = call.body.get("Names") or [call.body.get("Name")]
        return bool(call.body.get("WithDecryption")) and (name in asked or name.startswith(f"{call.body.get('Path')}/"))

    return error("AccessDeniedException", text), concerns


def dated(seconds: float) -> Fault:
    """Answer correctly, with a clock that is ahead of ours."""

    async def fault(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await passed_on(call, forward)
        answer.headers["Date"] = formatdate(time.time() + seconds, usegmt=True)
        return answer

    return fault


# --- A machine on which all is well


async def test_a_role_that_may_do_all(ssm: Store) -> None:
    """Each thing that is looked at is fine; the figures and the sources are those of this machine."""
    for number in range(11):
        ssm.put(f"/APP/k{number}", "not-shown")
    ssm.put("/APP/url", "not-shown", "String")

    findings = await find("/APP/")

    assert {"ok", "note"} == {each["level"] for each in findings}
    texts = {each["subject"]: each["text"] for each in findings}
    assert "aiobotocore" in texts["SDK"]
    assert "from the environment (env), access key id ending in MPLE" == texts["credentials"]
    assert texts["identity"].startswith("arn:aws:sts::123456789012:")
    assert "eu-central-1, from AWS_REGION" == texts["region"]
    assert ssm.endpoint_url == texts["endpoint"]
    for read in ("GetParametersByPath /APP", "GetParameters /APP/k0 and 9 more", "GetParameter /APP/k0"):
        assert texts[read].startswith("allowed, ")
    assert "GetParametersByPath; with a ttl, refreshes by GetParameters" in texts["load_env"]
    assert "decrypts 11 SecureStrings" == texts["KMS key alias/aws/ssm"]
    assert "12 parameters (12 Standard). A refresh sends 2 requests." in texts["quota"]
    assert "20 refreshes a second" in texts["quota"]
    assert "bytes" in texts["size"]
    assert "Parameter Store" in texts["clock"]
    assert "ms" in texts["latency"]


async def test_people_get_lines(ssm: Store) -> None:
    """Without `--json` each finding is a line, and the last line is the verdict."""
    ssm.put("/APP/A", "not-shown")
    os.environ["SSM_PATH"] = "/APP/"

    done = await ask()

    assert 0 == done.status
    assert any(line.startswith("ok       identity: arn:") for line in done.out.splitlines())
    assert "load_env of /APP works here: 0 errors, 0 warnings." == done.out.splitlines()[-1]


async def test_names_are_read_without_a_listing(ssm: Store, proxy: FaultProxy) -> None:
    """With `--key` only these names are read, with their versions; one that is not there is left out, and named."""
    ssm.put("/APP/A", "not-shown")

    findings = await find("/APP", "--key", "A:1", "--key", "B")

    assert 0 == proxy.count("GetParametersByPath")
    assert "reads by GetParameters, ten to a request" == about(findings, "load_env")["text"]
    assert ("warning", "not there, and left out of the environment: /APP/B") == (
        about(findings, "names")["level"],
        about(findings, "names")["text"],
    )


async def test_a_name_that_one_path_has_is_not_missing(ssm: Store) -> None:
    """A relative name may be below any of the paths."""
    for name in ("/APP/A", "/MORE/B"):
        ssm.put(name, "not-shown")

    findings = await find("/APP", "/MORE", "--key", "A", "--key", "B")

    assert {"ok", "note"} == {each["level"] for each in findings}


async def test_a_secret_is_read_alone(ssm: Store, proxy: FaultProxy) -> None:
    """A secret of Secrets Manager needs no path, and is asked for by GetParameter, decrypted."""

    async def secret(call: Call, _: Forward) -> web.StreamResponse:
        item = {"Name": call.body["Name"], "Value": "not-shown", "Type": "SecureString", "Version": 0}
        return web.json_response({"Parameter": item})

    proxy.add(secret, operation="GetParameter")

    findings = await find("--key", "/aws/reference/secretsmanager/db")

    assert [] == errors(findings)
    assert {"GetParameter"} == {call.operation for call in proxy.calls}
    assert "reads by GetParameter, one to a request" == about(findings, "load_env")["text"]


# --- Credentials, identity, region


async def test_credentials_that_expire_say_when(ssm: Store, tmp_path: Path) -> None:
    """A role that is assumed with a token is named as the source, and its credentials have an end."""
    ssm.put("/APP/A", "not-shown")
    web_identity(token_of(tmp_path, b"not-shown-token"))

    text = about(await find("/APP"), "credentials")["text"]

    assert "STS (AssumeRoleWithWebIdentity) (assume-role-with-web-identity)" in text
    assert "which expire at 20" in text


@pytest.mark.parametrize(
    ("setup", "subject", "said"),
    [
        (no_keys, "credentials", "there are no credentials"),
        (
            lambda: os.environ.update(AWS_CREDENTIAL_EXPIRATION="2001-01-01T00:00:00Z"),
            "credentials",
            "expired",
        ),
        (lambda: os.environ.update(AWS_PROFILE="night"), "configuration", "night"),
        (
            lambda: [os.environ.pop(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")],
            "region",
            "You must specify a region",
        ),
        (lambda: os.environ.update(AWS_REGION="Frankfurt am Main"), "region", "AWS_REGION is not the name of a region"),
    ],
    ids=["no credentials", "expired", "no profile", "no region", "wrong region"],
)
async def test_what_is_missing_here_is_said_once(setup: Callable[[], object], subject: str, said: str) -> None:
    """Without credentials or a region nothing is sent; the one error says what to do."""
    setup()

    findings = await find("/APP")

    assert [subject] == errors(findings)
    assert said in about(findings, subject)["text"]
    assert about(findings, subject)["remedy"]
    assert "not tried" in about(findings, "reads")["text"]


async def test_a_configuration_that_cannot_be_read(config_file: Path) -> None:
    """A broken file of the AWS configuration is an error that names the file."""
    config_file.write_text("broken")

    findings = await find("/APP")

    assert str(config_file) in about(findings, "configuration")["text"]


@pytest.mark.parametrize(
    "answer",
    [sts_error("AccessDenied", 403), b"", http("<junk"), http("<a><b/></a>")],
    ids=["denied", "reset", "unreadable", "empty"],
)
async def test_sts_is_not_needed(ssm: Store, answer: bytes) -> None:
    """An STS that is out of reach, or that the role may not ask, is no error."""
    ssm.put("/APP/A", "not-shown")
    async with Server(lambda _: answer).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        findings = await find("/APP")

    assert "note" == about(findings, "identity")["level"]
    assert [] == errors(findings)


async def test_where_region_and_certificates_come_from(ssm: Store, config_file: Path, tmp_path: Path) -> None:
    """A profile's region is said to be its own; a file of certificates is named; `--region` comes first."""
    ssm.put("/APP/A", "not-shown")
    config_file.write_text("[profile night]\nregion = eu-central-1\n")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        del os.environ[name]
    os.environ["AWS_CA_BUNDLE"] = str(tmp_path / "bundle.pem")

    of_profile = await find("/APP", "--profile", "night")
    of_option = await find("/APP", "--region", "eu-central-1")

    assert "eu-central-1, from the profile 'night' of the AWS configuration" == about(of_profile, "region")["text"]
    assert "eu-central-1, from --region" == about(of_option, "region")["text"]
    assert "bundle.pem" in about(of_profile, "certificates")["text"]


# --- Rights


async def test_without_a_listing_load_env_fails(ssm: Store, proxy: FaultProxy) -> None:
    """A role that may not list is told both ARNs, and what else it may do is said all the same."""
    ssm.put("/APP/A", "not-shown")
    proxy.add(denied("GetParametersByPath"), operation="GetParametersByPath")

    findings = await find("/APP")

    assert ["GetParametersByPath /APP"] == errors(findings)
    assert [MINE, f"{MINE}/*"] == about(findings, "GetParametersByPath /APP")["arns"]
    assert "ok" == about(findings, "GetParameters /APP/aiossmenv-doctor")["level"]


@pytest.mark.parametrize(
    ("operations", "levels", "used"),
    [
        (["GetParameters"], ["ok", "warning", "ok"], "refreshes by GetParameter, one"),
        (["GetParameter"], ["ok", "ok", "note"], "refreshes by GetParameters, ten"),
        (["GetParameters", "GetParameter"], ["ok", "warning", "note"], "by listing as well"),
    ],
)
async def test_a_read_that_another_makes_up_for(
    ssm: Store, proxy: FaultProxy, operations: list[str], levels: list[str], used: str
) -> None:
    """A load needs the listing only; without the others refreshes take another way, and that is no error."""
    ssm.put("/APP/A", "not-shown")
    for operation in operations:
        proxy.add(denied(operation, f"{MINE}/A"), operation=operation)

    findings = await find("/APP")

    reads = ("GetParametersByPath /APP", "GetParameters /APP/A", "GetParameter /APP/A")
    assert levels == [about(findings, read)["level"] for read in reads]
    assert used in about(findings, "load_env")["text"]
    assert [f"{MINE}/A"] == about(findings, f"{operations[0]} /APP/A")["arns"]


async def test_a_denial_without_an_arn_gets_one(ssm: Store, proxy: FaultProxy) -> None:
    """Where the answer does not name the resource, region and account are those of the identity."""
    ssm.put("/APP/A", "not-shown")
    proxy.add(error("AccessDeniedException", "No."), operation="GetParametersByPath")

    assert [MINE, f"{MINE}/*"] == about(await find("/APP"), "GetParametersByPath /APP")["arns"]


async def test_names_of_a_role_without_any_right(ssm: Store, proxy: FaultProxy) -> None:
    """With `--key` one of the two reads by name is needed."""
    ssm.put("/APP/A", "not-shown")
    for operation in ("GetParameters", "GetParameter"):
        proxy.add(denied(operation, f"{MINE}/A"), operation=operation)

    findings = await find("/APP", "--key", "A")

    assert [f"{MINE}/A"] == about(findings, "GetParameters /APP/A")["arns"]
    assert ["load"] == errors(findings)
    assert [] == [each for each in findings if each["subject"] == "load_env"]


async def test_a_role_that_may_not_describe(ssm: Store, proxy: FaultProxy) -> None:
    """Without DescribeParameters the keys are not known, and what is decrypted is counted."""
    ssm.put("/APP/A", "not-shown")
    proxy.add(denied("DescribeParameters", f"arn:aws:ssm:{HERE}:*"), operation="DescribeParameters")

    findings = await find("/APP")

    assert "note" == about(findings, "keys of KMS")["level"]
    assert "ssm:DescribeParameters on *" in about(findings, "keys of KMS")["remedy"]
    assert "decrypts 1 SecureString" == about(findings, "KMS")["text"]


@pytest.mark.parametrize("describes", [True, False])
async def test_a_key_that_does_not_decrypt(ssm: Store, proxy: FaultProxy, describes: bool) -> None:
    """Each key is said to decrypt or not, and for which parameters, with its ARN; all else is looked at as well."""
    other = f"{KEY}5678"
    for name in ("A", "B", "C", "PATH"):
        ssm.put(f"/APP/{name}", "not-shown")
    ssm.client.put_parameter(Name="/APP/C", Value="not-shown", Type="SecureString", KeyId=other, Overwrite=True)
    for name, key in (("A", KEY), ("B", KEY), ("C", other)):
        fault, concerns = kms_denied(f"/APP/{name}", key)
        proxy.add(fault, when=concerns)
    if not describes:
        proxy.add(denied("DescribeParameters"), operation="DescribeParameters")

    findings = await find("/APP")

    failing = [each for each in findings if each["level"] == "error" and each["subject"].startswith("KMS")]
    assert [[KEY], [other]] == [each["arns"] for each in failing]
    assert ["/APP/A, /APP/B", "/APP/C"] == [
        each["text"].removeprefix("does not decrypt ").partition(":")[0] for each in failing
    ]
    assert (["KMS key alias/aws/ssm", f"KMS key {other}"] if describes else ["KMS", "KMS"]) == [
        each["subject"] for each in failing
    ]
    assert ["decrypts 1 SecureString"] == [
        each["text"] for each in findings if each["subject"].startswith("KMS") and each["level"] == "ok"
    ]
    assert "PATH" in about(findings, "variables")["text"]
    assert "load" not in errors(findings)


async def test_a_key_that_an_error_does_not_name(ssm: Store, proxy: FaultProxy) -> None:
    """Where the answer does not name the key, the remedy does."""
    ssm.client.put_parameter(Name="/APP/A", Value="not-shown", Type="SecureString", KeyId=KEY)
    proxy.add(error("InvalidKeyId", "The key is disabled."), when=lambda call: bool(call.body.get("WithDecryption")))

    assert [KEY] == about(await find("/APP"), f"KMS key {KEY}")["arns"]


async def test_many_parameters_that_do_not_decrypt(ssm: Store, proxy: FaultProxy) -> None:
    """A few are tried one by one, and the names of a few are written."""
    for number in range(21):
        ssm.put(f"/APP/K{number:02}", "not-shown")
    fault, _ = kms_denied("")
    proxy.add(fault, when=lambda call: bool(call.body.get("WithDecryption")))

    findings = await find("/APP")

    assert "/APP/K09 and 10 more: Access" in about(findings, "KMS key alias/aws/ssm")["text"]
    assert proxy.count("GetParameter") < 50


async def test_a_decryption_that_cannot_be_tried_by_name(ssm: Store, proxy: FaultProxy) -> None:
    """Where the role may only list, the error of the load stands, and not that of the look at single names."""
    ssm.put("/APP/A", "not-shown")
    denied_names(proxy)
    denied_key(proxy)

    findings = await find("/APP")

    assert ["load"] == errors(findings)
    assert [KEY] == about(findings, "load")["arns"]


async def test_one_name_that_is_denied(ssm: Store, proxy: FaultProxy) -> None:
    """With `--key` a name that the role may not read is an error; the others are not missing."""
    ssm.put("/APP/A", "not-shown")
    ssm.put("/APP/B", "not-shown")

    def of_b(call: Call) -> bool:
        return "/APP/B" in (call.body.get("Names") or [call.body.get("Name")])

    for operation in ("GetParameters", "GetParameter"):
        proxy.add(denied(operation, f"{MINE}/B"), operation=operation, when=of_b)

    findings = await find("/APP", "--key", "A", "--key", "B")

    assert "load" in errors(findings)
    assert [] == [each for each in findings if each["subject"] in {"names", "keys"}]


async def test_a_load_that_fails_once(ssm: Store, proxy: FaultProxy) -> None:
    """A load that failed is an error, also if the next look finds nothing wrong."""
    ssm.put("/APP/A", "not-shown")
    fault, concerns = kms_denied("/APP/A")
    # The listing, ten names, one name.
    proxy.add(fault, when=concerns, times=3)

    findings = await find("/APP")

    assert ["load"] == errors(findings)
    assert "kms:Decrypt" in about(findings, "load")["remedy"]


# --- What is stored


async def test_all_that_is_wrong_with_keys_is_said(ssm: Store) -> None:
    """One path that is empty, keys that collide, and a key that is protected do not hide one another."""
    for name in ("db/url", "db.url", "LD_PRELOAD", "AWS_REGION", "HTTPS_PROXY"):
        ssm.put(f"/APP/{name}", "not-shown", "String")

    findings = await find("/NONE", "/APP")

    assert ["keys", "keys", "variables"] == errors(findings)
    texts = [each["text"] for each in findings if each["level"] == "error"]
    assert "(/NONE)" in texts[0]
    assert "/APP/db.url and /APP/db/url" in texts[1]
    assert "LD_PRELOAD" in texts[2]
    (warning,) = (each for each in findings if each["level"] == "warning")
    assert "AWS_REGION, HTTPS_PROXY" in warning["text"]


async def test_a_value_that_no_environment_holds(ssm: Store, proxy: FaultProxy) -> None:
    """A NUL in a value is an error that names the parameter."""
    ssm.put("/APP/A", "not-shown")

    def with_nul(_: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        for item in answer["Parameters"]:
            item["Value"] = "not-shown\0"
        return answer

    proxy.add(changed(with_nul), operation="GetParametersByPath")

    findings = await find("/APP")

    assert "'A' of /APP/A has a NUL in its value" in about(findings, "variables")["text"]


async def test_a_path_that_is_a_name(ssm: Store) -> None:
    """The name of a parameter, given as a path, is said to be one."""
    ssm.put("/APP/A", "not-shown")

    found = about(await find("/APP/A"), "keys")

    assert "this is the name of a parameter" in found["text"]
    assert "--key A" in found["remedy"]


async def test_an_environment_that_is_too_large(ssm: Store) -> None:
    """A set that no child process could be started with is a warning."""
    ssm.put("/APP/A", "not-shown", "String")
    os.environ["LARGE"] = "x" * os.sysconf("SC_ARG_MAX")

    found = about(await find("/APP"), "size")

    assert "warning" == found["level"]


# --- The way to Parameter Store


async def test_a_request_that_is_throttled_is_counted(ssm: Store, proxy: FaultProxy) -> None:
    """Throttling that passes is a warning, and no error."""
    ssm.put("/APP/A", "not-shown")
    proxy.add(throttled(), times=2)

    findings = await find("/APP")

    assert [] == errors(findings)
    found = about(findings, "throttling")
    assert "warning" == found["level"]
    assert found["text"].startswith("2 of ")


async def test_throttling_that_lasts_is_an_error(ssm: Store, proxy: FaultProxy) -> None:
    """What `load_env` would wait for until its deadline, and in vain, is an error, said once."""
    ssm.put("/APP/A", "not-shown")
    proxy.add(throttled())

    findings = await find("/APP", "--deadline", "1")

    assert ["reads"] == errors(findings)
    assert "Rate exceeded" in about(findings, "reads")["text"]


@pytest.mark.parametrize(
    ("seconds", "level", "way"),
    [(0, "ok", "of"), (120, "warning", "120 s behind"), (-120, "warning", "120 s ahead of"), (400, "error", "behind")],
)
async def test_a_clock_that_is_off(ssm: Store, proxy: FaultProxy, seconds: float, level: str, way: str) -> None:
    """The Date of the answers tells whether the clock here is right; AWS refuses signatures that are 300 s off."""
    ssm.put("/APP/A", "not-shown")
    # Half a second, because a Date has no fractions.
    proxy.add(dated(seconds + 0.5))

    found = about(await find("/APP"), "clock")

    assert (level, bool(seconds)) == (found["level"], bool(found["remedy"]))
    assert way in found["text"]


async def test_answers_without_a_date_tell_no_time(ssm: Store, proxy: FaultProxy) -> None:
    """A server that says no time, or none that can be read, is no reason to complain of the clock."""

    async def undated(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await passed_on(call, forward)
        answer.headers["Date"] = "yesterday"
        return answer

    ssm.put("/APP/A", "not-shown")
    proxy.add(undated)

    findings = await find("/APP")

    assert [] == [each for each in findings if each["subject"] == "clock" or each["level"] == "error"]


async def test_slow_answers_are_a_warning(ssm: Store, proxy: FaultProxy) -> None:
    """Answers of which half take more than 200 ms are slow."""
    ssm.put("/APP/A", "not-shown")
    proxy.add(hang(0.25))

    found = about(await find("/APP"), "latency")

    assert "warning" == found["level"]


async def test_answers_that_do_not_come(ssm: Store, proxy: FaultProxy) -> None:
    """What hangs is seen after the deadline, and is no error if the load does not need it; all else is looked at."""
    ssm.put("/APP/A", "not-shown")
    for operation in ("GetParameters", "DescribeParameters"):
        proxy.add(hang(), operation=operation)
    async with Server(lambda _: None).running() as sts:
        os.environ["AWS_ENDPOINT_URL_STS"] = sts.url
        began = time.monotonic()
        findings = await find("/APP", "--deadline", "1.5")

    assert time.monotonic() - began < 10
    assert [] == errors(findings)
    assert ("warning", "no answer within the deadline") == (
        about(findings, "GetParameters /APP/A")["level"],
        about(findings, "GetParameters /APP/A")["text"],
    )
    assert "those of 0 parameters came within 1.5 seconds" == about(findings, "keys of KMS")["text"]
    assert ("note", "no answer within 1.5 seconds") == (
        about(findings, "identity")["level"],
        about(findings, "identity")["text"],
    )
    assert "decrypts 1 SecureString" == about(findings, "KMS")["text"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ENDPOINT_URL_SSM": "http://127.0.0.1:9"}, "Parameter Store cannot be reached"),
        ({"AWS_ENDPOINT_URL_SSM": "http://ssm.test", "HTTP_PROXY": "{refusing}"}, "the proxy wants a login"),
        (
            {"AWS_ENDPOINT_URL_SSM": "http://ssm.test", "HTTP_PROXY": "http://127.0.0.1:9"},
            "the proxy cannot be reached",
        ),
    ],
    ids=["endpoint", "proxy refuses", "no proxy"],
)
async def test_a_store_that_is_out_of_reach(ssm: Store, variables: dict[str, str], said: str) -> None:
    """An endpoint or a proxy that lets nothing through is one error; the proxy is named without its password."""
    async with Server(lambda _: http("No.", 407)).running() as server:
        refusing = server.url.replace("//", "//user:not-shown:p@ss@")
        os.environ |= {name: value.format(refusing=refusing) for name, value in variables.items()}
        os.environ["NO_PROXY"] = "127.0.0.1"
        began = time.monotonic()
        findings = await find("/APP")

    # A load would try for 30 seconds.
    assert time.monotonic() - began < 20

    assert ["reads"] == errors(findings)
    assert said in about(findings, "reads")["text"]
    assert variables["AWS_ENDPOINT_URL_SSM"] == about(findings, "endpoint")["text"]
    if variables.get("HTTP_PROXY") == "{refusing}":
        assert server.url.replace("//", "//***@") == about(findings, "proxy")["text"]


async def test_credentials_that_the_store_rejects(ssm: Store, proxy: FaultProxy) -> None:
    """Credentials that have expired are one error for all three reads."""
    ssm.put("/APP/A", "not-shown")
    proxy.add(error("ExpiredTokenException", "The security token included in the request is expired"))

    findings = await find("/APP")

    assert ["reads"] == errors(findings)
    assert "Renew the credentials" in about(findings, "reads")["remedy"]


# --- The verdict


def denied_listing(proxy: FaultProxy) -> None:
    """Let the role not list."""
    proxy.add(denied("GetParametersByPath"), operation="GetParametersByPath")


def denied_names(proxy: FaultProxy) -> None:
    """Let the role not read by name."""
    proxy.add(denied("GetParameters"), operation="GetParameters")
    proxy.add(denied("GetParameter"), operation="GetParameter")


def denied_ten(proxy: FaultProxy) -> None:
    """Let the role not read ten names at once."""
    proxy.add(denied("GetParameters"), operation="GetParameters")


def slow_to_begin(proxy: FaultProxy) -> None:
    """Throttle longer than `doctor` tries a single request, and shorter than a load does."""
    proxy.add(throttled(), operation="GetParametersByPath", times=4)


def denied_key(proxy: FaultProxy) -> None:
    """Let KMS not decrypt."""
    fault, concerns = kms_denied("/APP/A")
    proxy.add(fault, when=concerns)


WANTED: list[tuple[list[str], list[str]]] = [
    (["/APP"], []),
    (["/APP"], ["A", "B"]),
    (["/APP", "/BAD"], []),
    (["/NONE"], []),
    (["/APP"], ["B"]),
    (["/APP", "/NONE"], ["A"]),
    (["/BAD"], ["db/url", "db.url"]),
]


@pytest.mark.parametrize(
    ("spoil", "paths", "keys"),
    [
        *((None, *wanted) for wanted in WANTED),
        *(
            (spoil, *wanted)
            for spoil in (denied_listing, denied_names, denied_ten, denied_key, slow_to_begin)
            for wanted in WANTED[:2]
        ),
    ],
)
async def test_the_verdict_is_that_of_load_env(
    ssm: Store, proxy: FaultProxy, spoil: Callable[[FaultProxy], None] | None, paths: list[str], keys: list[str]
) -> None:
    """The exit status is 0 where `load_env` of the same paths and names works, and 1 where it raises."""
    ssm.put("/APP/A", "not-shown")
    for name in ("db/url", "db.url", "PATH"):
        ssm.put(f"/BAD/{name}", "not-shown", "String")
    if spoil:
        spoil(proxy)
    works = True
    try:
        async with ParameterStore() as store:
            await load_env(*paths, keys=keys or None, environ={}, store=store)
    except AiossmenvError:
        works = False

    done = await ask(*paths, *(text for key in keys for text in ("--key", key)))

    assert (0 if works else 1) == done.status, done.out


async def test_a_bug_in_a_check_hides_no_other() -> None:
    """A check that raises what it must not raise is a finding, without the text, which may quote a value."""

    async def check() -> list[Finding]:
        raise ValueError("not-shown")

    (found,) = await within(1, "clock", check())

    assert ("error", "clock") == (found.level, found.subject)
    assert found.text.startswith("internal error: ValueError at test_doctor.py:")
