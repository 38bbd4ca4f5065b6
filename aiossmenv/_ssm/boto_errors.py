# One owner: what an exception of the SDK means.
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
import ssl
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from aiossmenv._errors import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    InvalidPath,
    ParameterNotFound,
    StoreUnavailable,
    Throttled,
)
from aiossmenv._naming import base_name, is_reference
from aiossmenv._ssm.transport import GetParameter, GetParameters, GetParametersByPath, Request

# The step in which the request of the running task is; `None` in tasks that are not ours.
step: ContextVar[Literal["configuration", "credentials", "request", "answer"] | None] = ContextVar(
    "aiossmenv step", default=None
)


class InvalidToken(AiossmenvError):
    """Parameter Store does not continue a listing from this token."""


class Source(NamedTuple):
    """Where credentials come from: its name in a sentence, and what to check."""

    name: str
    check: str


def source_of(method: str | None) -> Source:
    """Return the source of the credentials that the SDK calls *method*."""
    return _SOURCES.get(method or "", _UNKNOWN)


def unreadable(whose: str, kind: str = "") -> StoreUnavailable:
    """Return the error for an answer that is none."""
    return StoreUnavailable(f"{whose} sent an answer that cannot be read{kind and f' ({kind})'}", remedy=_WAIT)


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
            return _refusal(error.response, request)
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
        ((sdk.ConfigNotFound, sdk.ConfigParseError), StoreUnavailable, _CONFIG),
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
        return StoreUnavailable(text, remedy=_CONFIG, transient=False)
    if isinstance(error, ValueError):
        return _not_sendable(error, whose)
    return _unexpected(error)


def detached(error: Exception) -> Exception | None:
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
    if isinstance(origin, Exception) and origin is not error and (copy := detached(origin)):
        return copy
    kind = type(error)
    try:
        if isinstance(error, ClientError):
            response = error.response
            detail = {"Code": _code(response)} | ({} if _quotes_body(response) else {"Message": _message(response)})
            status = {"HTTPStatusCode": _status(response)}
            return kind({"Error": detail, "ResponseMetadata": status}, error.operation_name)
        text = _text(error)
        copy = kind.__new__(kind, text)
        copy.args = (text,) if text else ()
        str(copy)
    except Exception:
        return None
    return copy


_OPERATIONS = frozenset({"GetParametersByPath", "GetParameters", "GetParameter"})

_WAIT = "It is tried again until the deadline; if it lasts, look at the AWS health dashboard and at any proxy between."
_LATER = "It is tried again until the deadline."
_NETWORK = "Check the network, the VPC endpoint or NAT, the region, and AWS_ENDPOINT_URL_SSM if it is set."
_SOURCE_NETWORK = "Check the network, the region, and AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL if they are set."
_CONFIG = "Check AWS_REGION, AWS_ENDPOINT_URL_SSM, AWS_ENDPOINT_URL and the files of the AWS configuration."
_CHECK_NAME = "Check how the path or the name is written."
_NO_CREDENTIALS = (
    "Run where a role is attached, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;"
    " on a workstation, `aws sso login` may be all."
)
_UNKNOWN = Source("their source (a credential_process, the endpoint of a container, IMDS)", _NO_CREDENTIALS)
_BUG = (
    "It was raised by the SDK, by something that patches it (mocks for boto3 do not work with the SDK for asyncio), by a"
    " session of your own, or by aiossmenv."
)
_CERTIFICATES = (
    "Check AWS_CA_BUNDLE, or ca_bundle in the AWS configuration, and the files of any client certificate: they must"
    " exist, be readable, and hold PEM."
)
_TRUST = (
    "Check the host of the endpoint and the machine's clock; where a proxy inspects TLS, AWS_CA_BUNDLE must name a file"
    " with the proxy's CA."
)
_PROXY = "Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY, and the user and password in the URL of the proxy."
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
_RENEW = "Renew the credentials (on a workstation: `aws sso login`) and check the machine's clock."
_NO_REGION = "Set AWS_REGION, or pass store=ParameterStore(region=...)."
_KEY = "Check that the KMS key is enabled and in this region, and that the role may kms:Decrypt with it."

_THROTTLED = frozenset({
    "ThrottlingException", "Throttling", "ThrottledException", "RequestThrottledException", "RequestThrottled",
    "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "LimitExceededException",
    "SlowDown", "PriorRequestNotComplete", "ProvisionedThroughputExceededException", "EC2ThrottledException",
    "TransactionInProgressException", "429",
})  # fmt: skip
_NOT_FOUND = frozenset({"ParameterNotFound", "ParameterVersionNotFound"})
_BAD_CREDENTIALS = frozenset({
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "UnrecognizedClientException",
    "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "AuthFailure", "401",
})  # fmt: skip
_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"})
_INVALID = frozenset({"ValidationException", "InvalidFilterKey", "InvalidFilterOption", "InvalidFilterValue"})
_KMS_RATE = "exceeded the rate at which you may call KMS"


def _code(response: Mapping[str, Any]) -> str:
    return str(response.get("Error", {}).get("Code", ""))


def _message(response: Mapping[str, Any]) -> str:
    return "" if _quotes_body(response) else str(response.get("Error", {}).get("Message", ""))


def _status(response: Mapping[str, Any]) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refusal(response: Mapping[str, Any], request: Request) -> AiossmenvError:  # noqa: C901, PLR0911 - a table, and it reads as one
    """Translate an error answer, the most specific first. Throttling and denials are not in the service's model."""
    code, text, status = _code(response), _message(response), _status(response)
    said = f"{code}: {text}" if text else code
    if _quotes_body(response):
        said = f"an answer with status {code} that is not Parameter Store's own"
    if code == "InvalidNextToken":
        return InvalidToken(said, remedy=_WAIT)
    if code in _THROTTLED or status == HTTPStatus.TOO_MANY_REQUESTS or _KMS_RATE in text:
        return Throttled(said, remedy="Wait, spread the callers, or raise the account's Parameter Store throughput.")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code.startswith(("InternalServer", "RequestTimeout", "408")):
        return StoreUnavailable(said, remedy=_WAIT)
    if code in _NOT_FOUND:
        return ParameterNotFound(
            "there is no such parameter, version or label", remedy="Check the name and the region."
        )
    if code in {"InvalidKeyId", "KMSInvalidStateException"}:
        return DecryptionFailed(said, remedy=_KEY)
    if code in _BAD_CREDENTIALS:
        return AccessDenied(said, remedy=_RENEW)
    if code in _DENIED:
        return _denial(said, text, request)
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return _proxy_refusal(status)
    if code == "403":
        # Parameter Store would have said which right is missing, and this says nothing of that.
        return AccessDenied(said, remedy="Check any proxy or gateway between: Parameter Store itself says more.")
    if isinstance(request, GetParameter) and is_reference(request.name) and "dependency service" in text:
        # What a role without the right on the secret is told, whether or not there is one.
        return AccessDenied(
            said, remedy="Allow secretsmanager:GetSecretValue on the secret, and kms:Decrypt on its key."
        )
    if code in _INVALID:
        return InvalidPath(said, remedy=_CHECK_NAME)
    return StoreUnavailable(said, remedy=_CONFIG, transient=False)


def _quotes_body(response: Mapping[str, Any]) -> bool:
    """Whether this comes from a body that is none of the service's: the SDK makes its status the code, and all of it the text."""
    return _code(response).isdecimal()


def _denial(said: str, text: str, request: Request) -> AiossmenvError:
    if "kms:Decrypt" in text or re.search(r"\(Service: (AWSKMS|Kms)", text) or "customer master key" in text:
        key = re.search(r"on resource: (arn:\S+:kms:\S+)", text)
        grant = f"Allow kms:Decrypt on {key[1]} for this role." if key else f"Allow kms:Decrypt for this role. {_KEY}"
        return DecryptionFailed(said, remedy=grant)
    resource = re.search(r"on resource: (arn:(\S+?):ssm:(\S*?):(\d*):\S*)", text)
    action = {
        GetParametersByPath: "ssm:GetParametersByPath",
        GetParameters: "ssm:GetParameters",
        GetParameter: "ssm:GetParameter",
    }[type(request)]
    stem = f"arn:{resource[2]}:ssm:{resource[3]}:{resource[4]}" if resource else "arn:aws:ssm:REGION:ACCOUNT"
    if isinstance(request, GetParametersByPath):
        # The service checks the path that was asked for, not what is under it.
        name = f"{stem}:parameter{request.path}"
        grant = f"Allow {action} on both {name} and {name.rstrip('/')}/*."
    else:
        names = request.names if isinstance(request, GetParameters) else (request.name,)
        grant = f"Allow {action} on {', '.join(stem + ':parameter/' + base_name(name).lstrip('/') for name in names)}."
    if resource and resource[1].endswith(":*"):
        grant += " Or the name is mistyped: a role without a broad grant is told so of a parameter that does not exist."
    return AccessDenied(said, action=action, remedy=grant)


# Codes with which STS and the like answer what may pass by itself, beside throttling and 5xx.
_SOURCE_UNAVAILABLE = frozenset({"IDPCommunicationError", "RequestTimeout", "RequestTimeoutException"})


def _source_refusal(error: Any, source: Source | None) -> AiossmenvError:
    """Translate an error answer of STS or SSO. It has no *action*: no other request to Parameter Store makes up for it."""
    code, text, status = _code(error.response), _message(error.response), _status(error.response)
    source = source or _UNKNOWN
    said = f"{code}{text and f': {text}'}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return _proxy_refusal(status)
    if code in _THROTTLED or status == HTTPStatus.TOO_MANY_REQUESTS:
        return StoreUnavailable(f"{source.name} throttled the request for credentials: {said}", remedy=_LATER)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _SOURCE_UNAVAILABLE:
        return StoreUnavailable(f"{source.name} failed to give credentials: {said}", remedy=_LATER)
    return AccessDenied(f"{source.name} refused credentials: {said}", remedy=source.check)


def _network(error: Any, whose: str) -> AiossmenvError:  # noqa: PLR0911 - a table, and it reads as one
    """Translate what the SDK's HTTP session raises."""
    import aiohttp
    from botocore import exceptions as sdk

    origin = _origin(error)
    network = _NETWORK if whose == "Parameter Store" else _SOURCE_NETWORK
    if isinstance(error, sdk.ProxyConnectionError):
        status = getattr(origin, "status", 0)
        if isinstance(origin, aiohttp.ClientHttpProxyError) and not _may_pass(status):
            return _proxy_refusal(status)
        answered = f"the proxy answered {status}" if status else "the proxy cannot be reached"
        return StoreUnavailable(f"{answered}, on the way to {whose}: {_text(error)}", remedy=_PROXY)
    if unread := _unread_file(error):
        return _certificates(unread)
    if isinstance(error, sdk.SSLError):
        if isinstance(getattr(origin, "os_error", origin), ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return StoreUnavailable(f"{whose} cannot be reached: {_text(error)}", remedy=network)
        return StoreUnavailable(f"the TLS of {whose} is not trusted: {_text(error)}", remedy=_TRUST, transient=False)
    if getattr(origin, "host", None) not in (None, urlsplit(str(error.kwargs.get("endpoint_url"))).hostname):
        # The HTTP client says so of a name that DNS does not know.
        return StoreUnavailable(f"the proxy cannot be reached, on the way to {whose}", remedy=_PROXY)
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
    return StoreUnavailable(text, remedy=f"{_CONFIG} {_PROXY}", transient=False)


def _may_pass(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS


def _proxy_refusal(status: int) -> StoreUnavailable:
    wants = "wants a login" if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else "refuses the connection"
    return StoreUnavailable(f"the proxy {wants} (status {status})", remedy=_PROXY, transient=False)


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
    if (refused and _may_pass(int(refused[1]))) or silent:
        answer = f"answered {refused[1]}" if refused else "gave no usable answer"
        return StoreUnavailable(
            f"{source.name} {answer}, so there are no credentials", remedy=_LATER + " " + source.check
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
    """Return what the SDK calls the source of credentials that raised *error*: the innermost, if one leads to another."""
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
