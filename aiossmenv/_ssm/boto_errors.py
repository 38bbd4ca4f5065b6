"""
The SDK's exceptions, as errors of ours.

A request goes through four steps, and an exception belongs to the one in which it was raised: the *configuration* (the
session and the client are made), the *credentials* (found, or fetched from STS and the like), the *request* (signed and
sent) and the *answer* (parsed). What fails before an answer is there is not Parameter Store's answer.

The SDK's exceptions, their frames and their attributes hold plaintext, tokens and keys. So none of them is chained:
`detached()` makes a copy with the type, and with a text that is known to hold no secret.
"""

import inspect
import os
import re
import socket
import ssl
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from aiossmenv._errors import (
    AccessDenied,
    AiossmenvError,
    StoreUnavailable,
)
from aiossmenv._ssm.service_errors import (
    CONFIG_REMEDY,
    PROXY_REMEDY,
    RETRY_REMEDY,
    THROTTLED,
    WAIT_REMEDY,
    error_of_answer,
    may_pass,
    message_of,
    proxy_refusal,
)
from aiossmenv._ssm.transport import Request, ServiceError

# The step in which the request of the running task is; `None` in tasks that are not ours.
step: ContextVar[Literal["configuration", "credentials", "request", "answer"] | None] = ContextVar(
    "aiossmenv step", default=None
)


class Source(NamedTuple):
    """Where credentials come from: its name in a sentence, and what to check."""

    name: str
    check: str


def source_of(method: str | None) -> Source:
    """Return the source of the credentials that the SDK calls *method*."""
    return _SOURCES.get(method or "", _UNKNOWN)


def unreadable(whose: str, kind: str = "") -> StoreUnavailable:
    """Return the error for an answer that is none."""
    return StoreUnavailable(f"{whose} sent an answer that cannot be read{kind and f' ({kind})'}", remedy=WAIT_REMEDY)


def check_session(session: object) -> None:
    """Refuse what is not a session of the SDK for asyncio, before its methods are called."""
    from aiobotocore.session import AioSession

    inner = getattr(session, "_session", session)
    if isinstance(inner, AioSession) or inspect.iscoroutinefunction(getattr(inner, "get_credentials", None)):
        return
    kind = type(session)
    raise StoreUnavailable(
        f"session= is a {kind.__module__.partition('.')[0]} {kind.__qualname__}, which is not a session for asyncio",
        remedy="Pass an aioboto3.Session or an aiobotocore session.",
        transient=False,
    )


def check_region(region: str | None, session: Any) -> None:
    """Refuse the name of a region that cannot be one; the SDK sends some of them, with a line break in a header."""
    if region is None:
        find = getattr(session, "get_config_variable", None)
        region = find("region") if find else session.region_name
    if region is not None and not is_region(region):
        raise _invalid_region(region)


def is_region(name: str) -> bool:
    """Whether a region may be called so."""
    return bool(re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", name))


def error_of(error: Exception, request: Request) -> AiossmenvError:  # noqa: C901, PLR0911 - a table, and it reads as one
    """Return what *error*, which ended *request*, means."""
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError

    now = step.get()
    if isinstance(error, AiossmenvError):
        return error
    method = _method(error)
    # They may expire when they were just found to be good, and are fetched by the SDK as it signs the request.
    source = source_of(method) if now == "credentials" or (method and now == "request") else None
    whose = source.name if source else "Parameter Store"
    if isinstance(error, sdk.ClientError):
        if not source and error.operation_name in _OPERATIONS:
            return error_of_answer(_answer(error.response), request)
        return _source_refusal(error, source)
    if now == "answer" or isinstance(error, ResponseParserError):
        return unreadable(whose, type(error).__name__)
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError):
        return _network(error, whose)
    for kinds, kind, remedy in (
        (
            (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.ProfileNotFound),
            AccessDenied,
            _NO_CREDENTIALS,
        ),
        ((sdk.NoRegionError,), StoreUnavailable, _NO_REGION),
        ((sdk.ConfigNotFound, sdk.ConfigParseError), StoreUnavailable, CONFIG_REMEDY),
    ):
        if isinstance(error, kinds):
            return kind(_text(error), remedy=remedy, transient=False)
    if isinstance(error, sdk.InvalidRegionError):
        return _invalid_region(str(error.kwargs.get("region_name")))
    if source:
        return _no_credentials(error, source)
    if now == "request" and (unread := _unread_file(error)):
        return _certificates(unread)
    if isinstance(error, sdk.BotoCoreError) or (now == "configuration" and isinstance(error, OSError | ValueError)):
        text = f"the client of Parameter Store cannot be made: {_kind_and_text(error)}"
        return StoreUnavailable(text, remedy=CONFIG_REMEDY, transient=False)
    if isinstance(error, ValueError):
        return _not_sendable(error, whose)
    return _unexpected(error)


def is_unsent(error: Exception) -> bool:
    """Return whether *error* was raised before a connection was open, so that the service cannot have got a request."""
    import aiohttp
    from botocore import exceptions as sdk

    if step.get() != "request":
        return step.get() in {"configuration", "credentials"}
    if _method(error):
        # The SDK fetched credentials as it signed the request.
        return True
    if isinstance(error, sdk.EndpointConnectionError):
        # The SDK raises this for a reset as well, which may come after the request was sent.
        return isinstance(_origin(error), aiohttp.ClientConnectorError | socket.gaierror)
    return isinstance(error, sdk.ConnectTimeoutError | sdk.ProxyConnectionError | sdk.SSLError)


def detached(error: Exception, request: Request | None = None) -> Exception | None:
    """
    Return a copy of *error* that has its type and its text, or `None` if it cannot be copied.

    It has no traceback and no context, and none of the attributes, for these lead to plaintext, credentials and tokens.
    The text is left out where it may quote them.
    """
    from botocore.exceptions import ClientError, HTTPClientError

    if isinstance(error, AiossmenvError):
        return None
    unread = _unread_file(error)
    origin = unread or (_origin(error) if type(error) is HTTPClientError else None)
    if isinstance(origin, Exception) and origin is not error and (copy := detached(origin, request)):
        return copy
    kind = type(error)
    try:
        if isinstance(error, ClientError):
            answer = _answer(error.response)
            message = message_of(answer, request)
            detail = {"Code": answer.code} | ({"Message": message} if message else {})
            status = {"HTTPStatusCode": answer.status}
            return kind({"Error": detail, "ResponseMetadata": status}, error.operation_name)
        text = _text(error)
        copy = kind.__new__(kind, text)
        copy.args = (text,) if text else ()
        str(copy)
    except Exception:
        return None
    return copy


_OPERATIONS = frozenset(operation.__name__ for operation in get_args(Request))

_NETWORK = "Check the network, the VPC endpoint or NAT, the region, and AWS_ENDPOINT_URL_SSM if it is set."
_SOURCE_NETWORK = "Check the network, the region, and AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL if they are set."
_NO_CREDENTIALS = (
    "Run where a role is attached, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;"
    " on a workstation, `aws sso login` may be all."
)
_UNKNOWN = Source("their source (a credential_process, the endpoint of a container, IMDS)", _NO_CREDENTIALS)
_BUG = (
    "It was raised by the SDK, by something that patches it (mocks for boto3 do not work with the SDK for asyncio), by"
    " a session of your own, or by aiossmenv."
)
_CERTIFICATES = (
    "Check AWS_CA_BUNDLE, or ca_bundle in the AWS configuration, and the files of any client certificate: they must"
    " exist, be readable, and hold PEM."
)
_TRUST = (
    "Check the host of the endpoint and the machine's clock; where a proxy inspects TLS, AWS_CA_BUNDLE must name a file"
    " with the proxy's CA."
)
_SOURCES = {
    "env": Source(
        "the environment",
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_CREDENTIAL_EXPIRATION.",
    ),
    "assume-role": Source(
        "STS (AssumeRole)",
        "Check role_arn, source_profile and credential_source of the profile, and the trust policy of the role.",
    ),
    "assume-role-with-web-identity": Source(
        "STS (AssumeRoleWithWebIdentity)",
        "Check that the file in AWS_WEB_IDENTITY_TOKEN_FILE (or web_identity_token_file of the profile) is there and"
        " holds a token, and check AWS_ROLE_ARN and the trust policy of the role.",
    ),
    "sso": Source(
        "IAM Identity Center (SSO)", "Run `aws sso login`, and check the settings of the profile that begin with sso_."
    ),
    "login": Source("`aws login`", "Run `aws login`."),
    "custom-process": Source(
        "credential_process",
        "Run the credential_process of the profile by hand: it must end with status 0, and print JSON with Version 1,"
        " AccessKeyId, SecretAccessKey and, if they expire, SessionToken and an Expiration that is not over.",
    ),
    "container-role": Source(
        "the container credentials endpoint",
        "Check AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI,"
        " AWS_CONTAINER_AUTHORIZATION_TOKEN, and the file in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE.",
    ),
    "iam-role": Source(
        "the instance metadata service (IMDS)",
        "Check that a role is attached to the instance, and that its metadata options let this process reach IMDS.",
    ),
    "shared-credentials-file": Source(
        "the shared credentials file", "Check AWS_SHARED_CREDENTIALS_FILE, and its profile."
    ),
    "config-file": Source("the AWS configuration file", "Check AWS_CONFIG_FILE, and its profile."),
}
_NO_REGION = "Set AWS_REGION, or pass store=ParameterStore(region=...)."


def _answer(response: Mapping[str, Any]) -> ServiceError:
    """Return an error answer as the SDK parsed it."""
    error = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return ServiceError(str(error.get("Code", "")), str(error.get("Message", "")), status)


# Codes with which STS and the like answer what may pass by itself, beside throttling and 5xx.
_SOURCE_UNAVAILABLE = frozenset({"IDPCommunicationError", "RequestTimeout", "RequestTimeoutException"})


def _source_refusal(error: Any, source: Source | None) -> AiossmenvError:
    """Translate an error answer of STS or SSO; it has no *action*, because no other request makes up for it."""
    answer = _answer(error.response)
    code, text, status = answer.code, message_of(answer), answer.status
    source = source or _UNKNOWN
    said = f"{code}{text and f': {text}'}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return proxy_refusal(status)
    if code in THROTTLED or status == HTTPStatus.TOO_MANY_REQUESTS:
        return StoreUnavailable(f"{source.name} throttled the request for credentials: {said}", remedy=RETRY_REMEDY)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _SOURCE_UNAVAILABLE:
        return StoreUnavailable(f"{source.name} failed to give credentials: {said}", remedy=RETRY_REMEDY)
    return AccessDenied(f"{source.name} refused credentials: {said}", remedy=source.check)


def _network(error: Any, whose: str) -> AiossmenvError:  # noqa: PLR0911 - a table, and it reads as one
    """Translate what the SDK's HTTP session raises."""
    import aiohttp
    from botocore import exceptions as sdk

    origin = _origin(error)
    network = _NETWORK if whose == "Parameter Store" else _SOURCE_NETWORK
    if isinstance(error, sdk.ProxyConnectionError):
        status = getattr(origin, "status", 0)
        if isinstance(origin, aiohttp.ClientHttpProxyError) and not may_pass(status):
            return proxy_refusal(status)
        answered = f"the proxy answered {status}" if status else "the proxy cannot be reached"
        return StoreUnavailable(f"{answered}, on the way to {whose}: {_text(error)}", remedy=PROXY_REMEDY)
    if unread := _unread_file(error):
        return _certificates(unread)
    if isinstance(error, sdk.SSLError):
        if isinstance(getattr(origin, "os_error", origin), ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return StoreUnavailable(f"{whose} cannot be reached: {_text(error)}", remedy=network)
        return StoreUnavailable(f"the TLS of {whose} is not trusted: {_text(error)}", remedy=_TRUST, transient=False)
    if getattr(origin, "host", None) not in (None, urlsplit(str(error.kwargs.get("endpoint_url"))).hostname):
        # The HTTP client says so of a name that DNS does not know.
        return StoreUnavailable(f"the proxy cannot be reached, on the way to {whose}", remedy=PROXY_REMEDY)
    if type(error) is not sdk.HTTPClientError:
        return StoreUnavailable(f"{whose} cannot be reached: {_text(error)}", remedy=network)
    # What the SDK does not expect of its HTTP client.
    kind = type(origin).__name__
    if isinstance(
        origin, aiohttp.ClientResponseError | aiohttp.http_exceptions.HttpProcessingError | UnicodeDecodeError
    ):
        return unreadable(whose, kind)
    if isinstance(origin, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | ValueError):
        return _not_sendable(origin, whose)
    return _unexpected(origin if isinstance(origin, Exception) else error)


def _not_sendable(error: Exception, whose: str) -> StoreUnavailable:
    kind = type(error).__name__
    text = (
        f"no request can be sent to {whose} ({kind}): the URL of the endpoint or of the proxy, or a header, is invalid"
    )
    return StoreUnavailable(text, remedy=f"{CONFIG_REMEDY} {PROXY_REMEDY}", transient=False)


def _origin(error: Any) -> object:
    """Return the exception for which the SDK raised one of its own."""
    return error.kwargs.get("error")


def _unread_file(error: Exception) -> OSError | None:
    """
    Return what was raised while a file of certificates was read, if *error* comes of that.

    Of the network nothing else is an `OSError`: the HTTP client and the SDK have errors of their own for it.
    """
    import aiohttp
    from botocore import exceptions as sdk

    wrapped = type(error) is sdk.HTTPClientError or isinstance(error, sdk.SSLError)
    origin = _origin(error) if wrapped else error
    if not isinstance(origin, OSError) or isinstance(origin, sdk.BotoCoreError | aiohttp.ClientError):
        return None
    return origin.__cause__ if isinstance(origin.__cause__, OSError) else origin


def _certificates(error: OSError) -> StoreUnavailable:
    text = f"the certificates for TLS cannot be read: {_kind_and_text(error)}"
    return StoreUnavailable(text, remedy=_CERTIFICATES, transient=False)


def _no_credentials(error: Exception, source: Source) -> AiossmenvError:
    """Translate what went wrong where credentials come from, before or after it was asked."""
    from botocore import exceptions as sdk

    said = str(error.kwargs.get("error_msg")) if isinstance(error, sdk.CredentialRetrievalError) else ""
    said = said.removeprefix("Error retrieving metadata: ")
    refused = re.match(r"Received non 200 response (\d+)", said)
    silent = said.startswith(("Received error", "Unable to parse JSON", "Credential refresh failed"))
    if (refused and may_pass(int(refused[1]))) or silent:
        answer = f"answered {refused[1]}" if refused else "gave no usable answer"
        return StoreUnavailable(
            f"{source.name} {answer}, so there are no credentials", remedy=RETRY_REMEDY + " " + source.check
        )
    if isinstance(error, KeyError):
        # Something is missing in an answer.
        return unreadable(source.name, "KeyError")
    if refused:
        return AccessDenied(f"{source.name} refused credentials: it answered {refused[1]}", remedy=source.check)
    return AccessDenied(f"there are no credentials from {source.name}: {_kind_and_text(error)}", remedy=source.check)


def _unexpected(error: Exception) -> StoreUnavailable:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}" if frames else ""
    text = f"unexpected {_kind_and_text(error)}{place}; Parameter Store had not answered yet"
    return StoreUnavailable(text, remedy=_BUG, transient=False)


def _invalid_region(region: str) -> StoreUnavailable:
    """Say where the region comes from, and not what it is: it may be something else that was put there by mistake."""
    names = [name for name in ("AWS_REGION", "AWS_DEFAULT_REGION") if os.environ.get(name) == region]
    where = names[0] if names else "the region that was passed, or that the AWS configuration has,"
    text = f"{where} is not the name of a region: it may hold letters, digits and hyphens, and no space or line break"
    return StoreUnavailable(text, remedy="Set it to a name like eu-central-1.", transient=False)


def _method(error: Exception) -> str | None:
    """Return what the SDK calls the source of credentials that raised *error*; the innermost of several."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        owner = frame.f_locals.get("self")
        for name in ("METHOD", "method"):
            method = getattr(owner, name, None)
            if isinstance(method, str) and method in _SOURCES:
                return method
    return None


def _kind_and_text(error: Exception) -> str:
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: Exception) -> str:
    """Return the text of *error* if it cannot quote an answer, an output, a token or a setting; or nothing."""
    from botocore import exceptions as sdk

    text = ""
    if isinstance(error, sdk.CredentialRetrievalError):
        # It may quote an answer, or what a process wrote.
        said = re.fullmatch(_KNOWN, str(error.kwargs.get("error_msg")))
        text = said[0] if said else ""
    elif isinstance(error, sdk.BotoCoreError):
        text = "" if type(error) in _quoting() else str(error)
    elif isinstance(error, OSError):
        path = str(error.filename or "")
        # What is no path may be a token that was put where the path of its file belongs.
        text = f"{error.strerror or ''}{f': {path}' if path.startswith('/') else ''}"
    elif isinstance(error, TypeError | AttributeError | NameError | ImportError | RuntimeError) or (
        isinstance(error, ValueError) and str(error).startswith("Invalid endpoint: ")
    ):
        text = str(error)
    return re.sub(r"//[^/@]*@", "//***@", text)


_KNOWN = (
    r"Missing required key in response: '\w+'|Credential refresh failed, response did not contain: [\w, ]+"
    r"|No credentials found in credential_source referenced in profile .*"
)


def _quoting() -> frozenset[type[Exception]]:
    """Return the SDK's errors whose texts quote what they are about."""
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError

    return frozenset({
        *(ResponseParserError, sdk.HTTPClientError, sdk.ConnectionError, sdk.ResponseStreamingError),
        *(sdk.InvalidRegionError, sdk.MetadataRetrievalError, sdk.ParamValidationError, sdk.ValidationError),
    })  # fmt: skip
