"""Sources of credentials that fail: how each is set up, what it answers, and what the error must say."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aioboto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aiossmenv import AccessDenied, AiossmenvError, StoreUnavailable
from faults import http

# Part of every value that must not be shown: tokens, keys, outputs, answers, passwords.
SECRET = "Zx81QmPq7r"
ROLE = "arn:aws:iam::111122223333:role/app"
Setup = Callable[[Path, str], object]


def web_identity(path: object) -> object:
    """Make the SDK assume a role with the token in this file."""
    no_keys()
    os.environ |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(path), "AWS_ROLE_ARN": ROLE}
    return path


def token_of(folder: Path, content: bytes = SECRET.encode()) -> Path:
    """Write a token file and return its path."""
    path = folder / "token"
    path.write_bytes(content)
    return path


def no_keys() -> None:
    """Remove the keys from the environment, so that the SDK looks elsewhere."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.pop(name, None)


def config(folder: Path, text: str | bytes, variable: str = "AWS_CONFIG_FILE") -> None:
    """Write an AWS configuration file, and remove the keys from the environment."""
    no_keys()
    path = folder / "config"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.environ[variable] = str(path)


def process(folder: Path, script: str | None) -> None:
    """Configure a credential process that runs this script, or with None a program that does not exist."""
    path = folder / "credentials.sh"
    if script is not None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    config(folder, f"[default]\ncredential_process = {path}\n")


def printed(**keys: object) -> str:
    """Return a script that prints this JSON."""
    return f"echo '{json.dumps(keys)}'"


def container(url: str) -> object:
    """Configure a container credentials endpoint."""
    no_keys()
    os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{url}/credentials"
    return url


def assumed(folder: Path) -> None:
    """Configure a profile that assumes a role."""
    config(
        folder,
        f"[default]\nrole_arn = {ROLE}\nsource_profile = base\n"
        f"[profile base]\naws_access_key_id = BASE\naws_secret_access_key = {SECRET}\n",
    )


def sso(folder: Path, cached: str | None = None) -> None:
    """Configure a profile of IAM Identity Center, with its token in the cache."""
    config(
        folder,
        "[default]\nsso_start_url = https://login.test/start\nsso_region = eu-central-1\n"
        "sso_account_id = 111122223333\nsso_role_name = app\n",
    )
    os.environ["HOME"] = str(folder)
    if cached is not None:
        cache = folder / ".aws/sso/cache"
        cache.mkdir(parents=True)
        # The SHA-1 of the start URL.
        (cache / "b1d7d8d2c9ea2d9ee9b6fd8c1ebf2e1d5e1f7c6e.json").write_text(cached)


def variables(**values: str) -> Setup:
    """Return a setup that sets these variables."""
    return lambda _, __: os.environ.update(values)


def sts_error(code: str, status: int, message: str = "No.") -> bytes:
    """Return an STS error answer."""
    text = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    return http(text, status)


OK_KEYS = {"Version": 1, "AccessKeyId": SECRET, "SecretAccessKey": SECRET, "SessionToken": SECRET}
WEB, FILE = "STS (AssumeRoleWithWebIdentity)", "AWS_WEB_IDENTITY_TOKEN_FILE"
PROCESS, ENDPOINT = "credential_process", "container credentials endpoint"
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"

# Errors that no retry fixes: the setup, the error, a part of its text, the type of its cause.
AT_ONCE: dict[str, tuple[Setup, type[AiossmenvError], list[str], str | None]] = {
    "token missing": (lambda at, _: web_identity(at / "gone"), AccessDenied, [WEB, FILE, "gone"], "FileNotFoundError"),
    "token directory": (lambda at, _: web_identity(at), AccessDenied, [WEB, FILE], "IsADirectoryError"),
    "token empty": (lambda at, _: web_identity(token_of(at, b"")), AccessDenied, [WEB, FILE], "ParamValidationError"),
    "token unreadable": (
        lambda at, _: web_identity(token_of(at, b"\xff\xfe" + SECRET.encode())),
        AccessDenied,
        [WEB, FILE, "UnicodeDecodeError"],
        "UnicodeDecodeError",
    ),
    "token in place of its file": (
        lambda _, __: web_identity(SECRET),
        AccessDenied,
        [WEB, FILE],
        "FileNotFoundError",
    ),
    "no role": (
        lambda at, _: (web_identity(token_of(at)), os.environ.pop("AWS_ROLE_ARN")),
        AccessDenied,
        ["AWS_ROLE_ARN"],
        "InvalidConfigError",
    ),
    "STS and no certificates": (
        lambda at, _: (
            web_identity(token_of(at)),
            os.environ.update(AWS_CA_BUNDLE="/gone.pem", AWS_ENDPOINT_URL_STS="https://127.0.0.1:9"),
        ),
        StoreUnavailable,
        ["certificates", "AWS_CA_BUNDLE"],
        "FileNotFoundError",
    ),
    "process without JSON": (
        lambda at, _: process(at, f"echo {SECRET}"),
        AccessDenied,
        [PROCESS, "JSONDecodeError"],
        "JSONDecodeError",
    ),
    "process that fails": (
        lambda at, _: process(at, f"echo {SECRET} >&2; exit 1"),
        AccessDenied,
        [PROCESS],
        "CredentialRetrievalError",
    ),
    "process missing": (
        lambda at, _: process(at, None),
        AccessDenied,
        [PROCESS, "credentials.sh"],
        "FileNotFoundError",
    ),
    "process without a key": (
        lambda at, _: process(at, printed(Version=1, AccessKeyId=SECRET)),
        AccessDenied,
        [PROCESS, "SecretAccessKey"],
        "CredentialRetrievalError",
    ),
    "process of another version": (
        lambda at, _: process(at, printed(Version=SECRET)),
        AccessDenied,
        [PROCESS, "Version 1"],
        "CredentialRetrievalError",
    ),
    "process that prints a list": (
        lambda at, _: process(at, f"echo '[\"{SECRET}\"]'"),
        AccessDenied,
        [PROCESS],
        "AttributeError",
    ),
    "process with expired keys": (
        lambda at, _: process(at, printed(**OK_KEYS, Expiration="2001-01-01T00:00:00Z")),
        AccessDenied,
        [PROCESS, "expired"],
        "RuntimeError",
    ),
    "container's host": (
        lambda _, __: container("http://192.0.2.1"),
        AccessDenied,
        [ENDPOINT, "AWS_CONTAINER_CREDENTIALS_FULL_URI"],
        "ValueError",
    ),
    "container's token missing": (
        lambda at, url: (container(url), os.environ.update({TOKEN_FILE: str(at / "gone")})),
        AccessDenied,
        [ENDPOINT, TOKEN_FILE, "gone"],
        "FileNotFoundError",
    ),
    "container's token with a line break": (
        lambda at, url: (container(url), os.environ.update({TOKEN_FILE: str(token_of(at, SECRET.encode() + b"\n"))})),
        AccessDenied,
        [ENDPOINT, TOKEN_FILE],
        "ValueError",
    ),
    "no SSO token": (lambda at, _: sso(at), AccessDenied, ["SSO", "aws sso login"], "SSOTokenLoadError"),
    "keys expired": (
        variables(AWS_CREDENTIAL_EXPIRATION="2001-01-01T00:00:00Z"),
        AccessDenied,
        ["AWS_CREDENTIAL_EXPIRATION", "expired"],
        "RuntimeError",
    ),
    "keys with an invalid date": (
        variables(AWS_CREDENTIAL_EXPIRATION=SECRET),
        AccessDenied,
        ["AWS_CREDENTIAL_EXPIRATION"],
        "ParserError",
    ),
    "half of the keys": (
        lambda _, __: os.environ.pop("AWS_SECRET_ACCESS_KEY"),
        AccessDenied,
        ["AWS_SECRET_ACCESS_KEY"],
        "PartialCredentialsError",
    ),
    "profile missing": (variables(AWS_PROFILE="night"), AccessDenied, ["night", "AWS_PROFILE"], "ProfileNotFound"),
    "configuration broken": (
        lambda at, _: config(at, f"aws_secret_access_key = {SECRET}\n"),
        StoreUnavailable,
        ["config", "parse"],
        "ConfigParseError",
    ),
    "configuration binary": (
        lambda at, _: config(at, b"\xff[default]\n"),
        StoreUnavailable,
        ["config", "parse"],
        "ConfigParseError",
    ),
    "shared file broken": (
        lambda at, _: config(at, f"aws_secret_access_key = {SECRET}\n", "AWS_SHARED_CREDENTIALS_FILE"),
        StoreUnavailable,
        ["config", "parse"],
        "ConfigParseError",
    ),
    "certificates missing": (
        variables(AWS_CA_BUNDLE="/gone.pem", AWS_ENDPOINT_URL_SSM="https://127.0.0.1:9"),
        StoreUnavailable,
        ["certificates", "AWS_CA_BUNDLE"],
        "FileNotFoundError",
    ),
    "certificates a directory": (
        lambda at, _: os.environ.update(AWS_CA_BUNDLE=str(at), AWS_ENDPOINT_URL_SSM="https://127.0.0.1:9"),
        StoreUnavailable,
        ["certificates", "AWS_CA_BUNDLE"],
        "IsADirectoryError",
    ),
    "invalid certificates": (
        lambda at, _: os.environ.update(AWS_CA_BUNDLE=str(token_of(at)), AWS_ENDPOINT_URL_SSM="https://127.0.0.1:9"),
        StoreUnavailable,
        ["certificates", "AWS_CA_BUNDLE"],
        "SSLError",
    ),
    "region with a line break": (variables(AWS_REGION="eu-central-1\n"), StoreUnavailable, ["AWS_REGION"], None),
    "region with a space": (variables(AWS_REGION="eu central 1"), StoreUnavailable, ["AWS_REGION"], None),
    "region with a slash": (variables(AWS_REGION=f"{SECRET}/"), StoreUnavailable, ["AWS_REGION"], None),
    "default region with a line break": (
        lambda _, __: (os.environ.update(AWS_DEFAULT_REGION="\neu-central-1"), os.environ.pop("AWS_REGION")),
        StoreUnavailable,
        ["AWS_DEFAULT_REGION"],
        None,
    ),
    "endpoint without a scheme": (
        variables(AWS_ENDPOINT_URL_SSM="localhost:1"),
        StoreUnavailable,
        ["localhost:1", "AWS_ENDPOINT_URL_SSM"],
        "ValueError",
    ),
    "endpoint of another scheme": (
        variables(AWS_ENDPOINT_URL_SSM="ftp://localhost"),
        StoreUnavailable,
        ["AWS_ENDPOINT_URL_SSM"],
        "NonHttpUrlClientError",
    ),
    "endpoint without a host": (
        variables(AWS_ENDPOINT_URL_SSM=f"http://user:{SECRET}@"),
        StoreUnavailable,
        ["AWS_ENDPOINT_URL_SSM"],
        "ValueError",
    ),
    "endpoint with an invalid port": (
        variables(AWS_ENDPOINT_URL_SSM="http://127.0.0.1:99999"),
        StoreUnavailable,
        ["AWS_ENDPOINT_URL_SSM"],
        "ValueError",
    ),
    "proxy with an invalid port": (
        variables(HTTPS_PROXY=f"http://user:{SECRET}@proxy.test:99999", AWS_ENDPOINT_URL_SSM="https://ssm.test"),
        StoreUnavailable,
        ["HTTPS_PROXY"],
        "HTTPClientError",
    ),
}

# Answers of a service or a proxy that no retry fixes.
REFUSED: dict[str, tuple[Setup, bytes, type[AiossmenvError], list[str], str]] = {
    "STS rejects": (
        lambda at, _: web_identity(token_of(at)),
        sts_error("AccessDenied", 403, "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
        AccessDenied,
        [WEB, "Not authorized to perform", FILE, "AWS_ROLE_ARN"],
        "ClientError",
    ),
    "STS rejects the token": (
        lambda at, _: web_identity(token_of(at)),
        sts_error("InvalidIdentityToken", 400, "No OpenIDConnect provider found in your account"),
        AccessDenied,
        [WEB, "InvalidIdentityToken"],
        "InvalidIdentityTokenException",
    ),
    "STS rejects the role": (
        lambda at, _: assumed(at),
        sts_error("AccessDenied", 403, "not authorized to perform: sts:AssumeRole"),
        AccessDenied,
        ["STS (AssumeRole)", "role_arn", "source_profile"],
        "ClientError",
    ),
    "STS rejects the keys": (
        lambda at, _: assumed(at),
        sts_error("ExpiredToken", 403),
        AccessDenied,
        ["STS (AssumeRole)", "ExpiredToken"],
        "ClientError",
    ),
    "a page in front of STS": (
        lambda at, _: web_identity(token_of(at)),
        http(f"<html>{SECRET}</html>", 403),
        AccessDenied,
        [WEB],
        "ClientError",
    ),
    "container rejects": (
        lambda _, url: container(url),
        http(SECRET, 403),
        AccessDenied,
        [ENDPOINT, "403"],
        "CredentialRetrievalError",
    ),
    "proxy requires a login": (
        lambda _, url: os.environ.update(HTTPS_PROXY=with_login(url), AWS_ENDPOINT_URL_SSM="https://ssm.test"),
        http(SECRET, 407),
        StoreUnavailable,
        ["proxy", "407", "login", "HTTPS_PROXY"],
        "ProxyConnectionError",
    ),
    "proxy requires a login without TLS": (
        lambda _, url: os.environ.update(HTTP_PROXY=with_login(url), AWS_ENDPOINT_URL_SSM="http://ssm.test"),
        http(SECRET, 407),
        StoreUnavailable,
        ["proxy", "407", "login", "HTTP_PROXY"],
        "ClientError",
    ),
    "proxy requires a login on the way to STS": (
        lambda at, url: (
            web_identity(token_of(at)),
            os.environ.update(HTTPS_PROXY=with_login(url), AWS_ENDPOINT_URL_STS="https://sts.test"),
        ),
        http(SECRET, 407),
        StoreUnavailable,
        ["proxy", "407", "login", "HTTPS_PROXY"],
        "ProxyConnectionError",
    ),
    "proxy rejects": (
        lambda _, url: os.environ.update(HTTPS_PROXY=with_login(url), AWS_ENDPOINT_URL_SSM="https://ssm.test"),
        http(SECRET, 403),
        StoreUnavailable,
        ["proxy", "403", "HTTPS_PROXY"],
        "ProxyConnectionError",
    ),
}

# Failures that may pass: the answer (None hangs), a part of the text, the type of the cause.
MAY_PASS: dict[str, tuple[Setup, bytes | None, list[str], str | None]] = {
    "STS throttles": (
        lambda at, _: web_identity(token_of(at)),
        sts_error("Throttling", 400, "Rate exceeded"),
        [WEB, "throttled", "Rate exceeded"],
        "ClientError",
    ),
    "STS is down": (
        lambda at, _: assumed(at),
        sts_error("InternalFailure", 500),
        ["STS (AssumeRole)", "InternalFailure"],
        "ClientError",
    ),
    "a gateway in front of STS is down": (
        lambda at, _: web_identity(token_of(at)),
        http(f"<html>{SECRET}</html>", 502),
        [WEB, "502"],
        "ClientError",
    ),
    "STS sends an invalid answer": (
        lambda at, _: web_identity(token_of(at)),
        http(f"<AssumeRoleWithWebIdentityResponse>{SECRET}"),
        [WEB, "answer that cannot be read"],
        "ResponseParserError",
    ),
    "STS sends another document": (
        lambda at, _: web_identity(token_of(at)),
        http(f"<html><body>{SECRET}</body></html>"),
        [WEB, "answer that cannot be read"],
        "KeyError",
    ),
    "STS closes the connection": (
        lambda at, _: web_identity(token_of(at)),
        b"",
        [WEB, "reached"],
        "ConnectionClosedError",
    ),
    "STS hangs": (lambda at, _: web_identity(token_of(at)), None, [WEB, "did not arrive"], None),
    "STS unreachable": (
        lambda at, _: (
            web_identity(token_of(at)),
            os.environ.update(AWS_ENDPOINT_URL_STS="http://127.0.0.1:9"),
        ),
        b"",
        [WEB, "127.0.0.1:9", "AWS_ENDPOINT_URL_STS"],
        "EndpointConnectionError",
    ),
    "process hangs": (lambda at, _: process(at, "exec sleep 60"), b"", [PROCESS, "did not arrive"], None),
    "container is down": (
        lambda _, url: container(url),
        http(SECRET, 500),
        [ENDPOINT, "500", "AWS_CONTAINER_CREDENTIALS_FULL_URI"],
        "CredentialRetrievalError",
    ),
    "container sends an invalid answer": (
        lambda _, url: container(url),
        http(SECRET),
        [ENDPOINT],
        "CredentialRetrievalError",
    ),
    "container sends another document": (
        lambda _, url: container(url),
        http(json.dumps({"AccessKeyId": SECRET})),
        [ENDPOINT, "answer that cannot be read"],
        "KeyError",
    ),
    "container unreachable": (
        lambda _, __: container("http://127.0.0.1:9"),
        b"",
        [ENDPOINT],
        "CredentialRetrievalError",
    ),
    "proxy is down": (
        lambda _, url: os.environ.update(HTTPS_PROXY=with_login(url), AWS_ENDPOINT_URL_SSM="https://ssm.test"),
        http(SECRET, 503),
        ["proxy", "503", "HTTPS_PROXY"],
        "ProxyConnectionError",
    ),
    "proxy unreachable": (
        variables(HTTPS_PROXY=f"http://user:{SECRET}@127.0.0.1:9", AWS_ENDPOINT_URL_SSM="https://ssm.test"),
        b"",
        ["proxy", "HTTPS_PROXY", "127.0.0.1:9"],
        "ProxyConnectionError",
    ),
    "proxy has no address": (
        variables(HTTPS_PROXY=f"http://user:{SECRET}@proxy.invalid:9", AWS_ENDPOINT_URL_SSM="https://ssm.test"),
        b"",
        ["proxy", "HTTPS_PROXY"],
        "EndpointConnectionError",
    ),
}


def with_login(url: str) -> str:
    """Return the URL of a proxy with a user and a password."""
    return url.replace("//", f"//user:{SECRET}@")


def check(error: AiossmenvError, texts: list[str], cause: str | None) -> None:
    """
    Check what holds for every error: its text, that no secret is in it, and that its cause has no chain of its own.
    """
    for text in texts:
        assert text in str(error)
    assert "path /A" in str(error)
    assert "health dashboard" not in str(error) or "answer that cannot be read" in texts
    assert cause == (type(error.__cause__).__name__ if error.__cause__ else None)
    assert error.__context__ is None
    if error.__cause__:
        assert error.__cause__.__traceback__ is None
        assert error.__cause__.__context__ is None
    for shown in (error, error.__cause__):
        assert SECRET not in f"{shown} {shown!r} {vars(shown) if shown else ''}"


def granted(seconds: float = 3600) -> bytes:
    """Return credentials in an STS answer."""
    until = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    fields = {"AccessKeyId": "ASIA", "SecretAccessKey": SECRET, "SessionToken": SECRET, "Expiration": until}
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    role = f"<AssumedRoleUser><AssumedRoleId>A:b</AssumedRoleId><Arn>{ROLE}</Arn></AssumedRoleUser>"
    result = f"<Credentials>{inner}</Credentials>{role}"
    text = f"<R><AssumeRoleWithWebIdentityResult>{result}</AssumeRoleWithWebIdentityResult></R>"
    return http(text)


class Patched(aioboto3.Session):  # type: ignore[misc] # untyped base
    """A session whose clients are broken, as if something had patched the SDK."""

    where = ""

    def client(self, *args: Any, **options: Any) -> Any:
        """Return a client with a method that raises, or raise at once."""
        if self.where == "client":
            raise TypeError("patched at client")
        return BrokenClient(super().client(*args, **options))


class BrokenClient:
    """A context manager that opens a client and breaks it."""

    def __init__(self, opening: Any) -> None:
        self.opening = opening

    async def __aenter__(self) -> Any:
        """Open the client."""
        client = await self.opening.__aenter__()

        async def method(**_: object) -> None:
            raise TypeError("patched at method")

        client.get_parameters_by_path = method
        return client


MOCKED = """
import asyncio, sys
from moto import mock_aws
from aiossmenv import StoreUnavailable, load_env

async def main():
    try:
        await load_env("/A", environ={})
    except StoreUnavailable as error:
        assert not error.transient
        assert isinstance(error.__cause__, TypeError)
        print(error)

with mock_aws():
    asyncio.run(main())
"""


# --- TLS


def certificate(folder: Path, name: str, *, days: int = 1) -> tuple[Path, Path]:
    """Return the files of a self-signed certificate and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    san: x509.GeneralName = x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(
            subject, subject, key.public_key(), 1, now - timedelta(days=9), now + timedelta(days=days)
        )
        .add_extension(x509.SubjectAlternativeName([san]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
