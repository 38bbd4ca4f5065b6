# One owner: what the SDK's answers and errors mean. No type and no exception of it gets out of here.
"""One request to Parameter Store through aioboto3: a page comes back, or one of our errors."""

import asyncio
import json
import logging
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Any, get_args

from aiossmenv._errors import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    InvalidPath,
    InvalidVariable,
    ParameterNotFound,
    StoreUnavailable,
    Throttled,
)
from aiossmenv._parameter import Parameter, ParameterType, Reading, Sealed, base_name, is_reference
from aiossmenv._request import BATCH, Answer, ByName, ByPath, One, Page, Request, TokenRefused
from aiossmenv._sdk import Pins, Surroundings, new_client, new_session, region_of, reopened

_TYPES = frozenset(get_args(ParameterType))

# Whether an answer that is parsed now is one of ours.
_ours: ContextVar[bool] = ContextVar("aiossmenv", default=False)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not _ours.get()


class Client:
    """A connection to Parameter Store that opens itself; a `Caller`."""

    def __init__(
        self,
        *,
        session: object | None,
        region: str | None,
        endpoint_url: str | None,
        connections: int,
        pins: Pins | None = None,
    ) -> None:
        self.region = region
        # Those of the store, so that each of its connections is made of what the first one was made of.
        self._pins = pins or Pins()
        self._session: Any = session
        self._endpoint_url = endpoint_url
        self._connections = connections
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def call(self, request: Request) -> Answer:
        """Send one request; see `Caller`."""
        fault: AiossmenvError
        cause: Exception | None = None
        try:
            # The response holds plaintext. It lives in a frame below this one, which no traceback of ours shows.
            answer = await self._send(request)
        except Exception as error:
            fault, cause = self._translated(error, request)
        else:
            if not isinstance(answer, AiossmenvError | None):
                return answer
            fault = answer or StoreUnavailable("Parameter Store sent an answer that cannot be read", remedy=_WAIT)
        if isinstance(fault, _RefusedToken):
            if isinstance(request, ByPath):
                return TokenRefused()
            fault = StoreUnavailable(str(fault), remedy=_WAIT)
        fault.region = self.region
        fault.path = request.path if isinstance(request, ByPath) else None
        fault.parameter = fault.parameter or _names(request)
        raise fault from cause

    async def aclose(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client:
            await client.__aexit__(None, None, None)

    async def _send(self, request: Request) -> Answer | AiossmenvError | None:
        client = await self._opened()
        _ours.set(True)  # for this task, which sends nothing else
        match request:
            case ByPath(path, recursive, decrypt, token):
                more = {} if token is None else {"NextToken": token}
                response = await client.get_parameters_by_path(
                    Path=path, Recursive=recursive, WithDecryption=decrypt, MaxResults=BATCH, **more
                )
                return _page(response.get("Parameters"), response, decrypt=decrypt)
            case ByName(names, decrypt):
                response = await client.get_parameters(Names=list(names), WithDecryption=decrypt)
                return _page(response.get("Parameters"), response, decrypt=decrypt)
            case One(name, decrypt):
                response = await client.get_parameter(Name=name, WithDecryption=decrypt)
                item = response.get("Parameter")
                if is_reference(name) and isinstance(item, dict) and "Value" not in item:
                    return InvalidVariable("the secret is binary, and no text", remedy="Store it as a secret string.")
                return _page([item], response, decrypt=decrypt, name=name)

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                # Importing the SDK and reading its models takes the processor for a third of a second, so that is
                # done in a thread. Finding credentials may wait for a network, so that is done on the loop.
                # At level DEBUG the SDK's parser logs whole answers, with every value in them, and its HTTP session
                # errors that quote them; nobody else's are withheld.
                for name in ("botocore.parsers", "botocore.httpsession"):
                    logging.getLogger(name).addFilter(_is_not_ours)
                client = await (self._of_session(self._session) if self._session else self._of_surroundings())
                self._client, self.region = client, client.meta.region_name
            return self._client

    async def _of_surroundings(self) -> Any:
        surroundings = self._pins.surroundings or Surroundings()
        session = await asyncio.to_thread(new_session, surroundings)
        await session.get_credentials()
        client = await asyncio.to_thread(new_client, session, self.region, self._endpoint_url, self._connections)
        # Not before there is a client: where none could be made, nothing was read that may have changed anything.
        self._pins.surroundings = surroundings
        return client

    async def _of_session(self, session: Any) -> Any:
        if self._pins.client:
            return await reopened(self._pins.client)
        await session.get_credentials()
        region = self.region or region_of(session, os.environ)
        self._pins.client = await asyncio.to_thread(new_client, session, region, self._endpoint_url, self._connections)
        return self._pins.client

    def _translated(self, error: Exception, request: Request) -> tuple[AiossmenvError, Exception | None]:
        from botocore import exceptions as sdk
        from botocore.parsers import ResponseParserError

        if isinstance(error, ResponseParserError) or type(error) is sdk.HTTPClientError:
            # What the parser and aiohttp (whose errors that the SDK does not expect come as this) say of an answer may
            # quote it, so it is neither repeated nor chained.
            text = f"Parameter Store sent an answer that cannot be read ({type(error.__context__ or error).__name__})"
            return StoreUnavailable(text, remedy=_WAIT), None
        for kinds, kind, remedy, transient in (
            ((sdk.NoCredentialsError, sdk.PartialCredentialsError), AccessDenied, _NO_CREDENTIALS, False),
            (
                (sdk.CredentialRetrievalError, sdk.TokenRetrievalError, sdk.SSOError, sdk.ProfileNotFound),
                AccessDenied,
                _NO_CREDENTIALS,
                False,
            ),
            ((sdk.NoRegionError,), StoreUnavailable, _NO_REGION, False),
            ((sdk.ParamValidationError,), InvalidPath, _CHECK_NAME, False),
            (
                (sdk.InvalidRegionError, sdk.ConfigNotFound, sdk.ConfigParseError, sdk.SSLError),
                StoreUnavailable,
                _CONFIG,
                False,
            ),
            ((sdk.HTTPClientError, sdk.ConnectionError), StoreUnavailable, _NETWORK, True),
            ((sdk.BotoCoreError,), StoreUnavailable, _CONFIG, False),
        ):
            if isinstance(error, kinds):
                return kind(str(error), remedy=remedy, transient=transient), error
        if isinstance(error, sdk.ClientError):
            return _refusal(error.response, request), None if _quotes_body(error.response) else error
        if self._client is None:
            # Nothing was asked yet, so it is no answer that was wrong.
            return StoreUnavailable(str(error), remedy=_CONFIG, transient=False), error
        return StoreUnavailable("Parameter Store sent an answer that cannot be read", remedy=_WAIT), None


class _RefusedToken(AiossmenvError):
    pass


_WAIT = "It is tried again until the deadline; if it lasts, look at the AWS health dashboard and at any proxy between."
_NETWORK = "Check the network, the VPC endpoint or NAT, and AWS_ENDPOINT_URL_SSM if it is set."
_CONFIG = "Check the region, the endpoint and the AWS configuration."
_CHECK_NAME = "Check how the path or the name is written."
_NO_CREDENTIALS = (
    "Run where a role is attached, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;"
    " on a workstation, `aws sso login` may be all."
)
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


def _refusal(response: Mapping[str, Any], request: Request) -> AiossmenvError:  # noqa: C901, PLR0911 - a table, and it reads as one
    """Translate an error answer, the most specific first. Throttling and denials are not in the service's model."""
    detail = response.get("Error", {})
    code, text = str(detail.get("Code", "")), "" if _quotes_body(response) else str(detail.get("Message", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{code}: {text}" if text else code
    if code == "InvalidNextToken":
        return _RefusedToken(said)
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
    if code == "403":
        # Parameter Store would have said which right is missing, and this says nothing of that.
        return AccessDenied(said, remedy="Check any proxy or gateway between: Parameter Store itself says more.")
    if isinstance(request, One) and is_reference(request.name) and "dependency service" in text:
        # What a role without the right on the secret is told, whether or not there is one.
        return AccessDenied(
            said, remedy="Allow secretsmanager:GetSecretValue on the secret, and kms:Decrypt on its key."
        )
    if code in _INVALID:
        return InvalidPath(said, remedy=_CHECK_NAME)
    return StoreUnavailable(said, remedy=_CONFIG, transient=False)


def _quotes_body(response: Mapping[str, Any]) -> bool:
    """Whether this comes from a body that is none of the service's: the SDK makes its status the code, and all of it the text."""
    return str(response.get("Error", {}).get("Code", "")).isdecimal()


def _denial(said: str, text: str, request: Request) -> AiossmenvError:
    if "kms:Decrypt" in text or re.search(r"\(Service: (AWSKMS|Kms)", text) or "customer master key" in text:
        key = re.search(r"on resource: (arn:\S+:kms:\S+)", text)
        grant = f"Allow kms:Decrypt on {key[1]} for this role." if key else f"Allow kms:Decrypt for this role. {_KEY}"
        return DecryptionFailed(said, remedy=grant)
    resource = re.search(r"on resource: (arn:(\S+?):ssm:(\S*?):(\d*):\S*)", text)
    action = {ByPath: "ssm:GetParametersByPath", ByName: "ssm:GetParameters", One: "ssm:GetParameter"}[type(request)]
    stem = f"arn:{resource[2]}:ssm:{resource[3]}:{resource[4]}" if resource else "arn:aws:ssm:REGION:ACCOUNT"
    if isinstance(request, ByPath):
        # The service checks the path that was asked for, not what is under it.
        name = f"{stem}:parameter{request.path}"
        grant = f"Allow {action} on both {name} and {name.rstrip('/')}/*."
    else:
        names = request.names if isinstance(request, ByName) else (request.name,)
        grant = f"Allow {action} on {', '.join(stem + ':parameter/' + base_name(name).lstrip('/') for name in names)}."
    if resource and resource[1].endswith(":*"):
        grant += " Or the name is mistyped: a role without a broad grant is told so of a parameter that does not exist."
    return AccessDenied(said, action=action, remedy=grant)


def _page(parameters: Any, response: Mapping[str, Any], *, decrypt: bool, name: str = "") -> Page | None:
    """Read an answer, or return `None` if it is not one: a smaller set would pass for deletions."""
    token = response.get("NextToken") or None
    if not isinstance(parameters, list) or not isinstance(token, str | None):
        return None
    read = tuple(_reading(item, decrypt=decrypt, asked=name) for item in parameters)
    whole = tuple(item for item in read if item)
    if len(whole) < len(read):
        return None
    return Page(whole, token, tuple(response.get("InvalidParameters") or ()))


def _reading(item: Any, *, decrypt: bool, asked: str) -> Reading | None:
    if not isinstance(item, dict) or item.get("Type") not in _TYPES:
        return None
    name, value, number, modified = (item.get(key) for key in ("Name", "Value", "Version", "LastModifiedDate"))
    if not (isinstance(name, str) and isinstance(value, str) and isinstance(number, int)):
        return None
    # In UTC: the SDK gives each a time zone object of its own.
    last_modified = modified.astimezone(UTC) if isinstance(modified, datetime) else None
    if item["Type"] == "SecureString" and not decrypt:
        return Sealed(
            name=name,
            type=item["Type"],
            version=number,
            last_modified=last_modified,
            arn=item.get("ARN", ""),
            digest=sha256(value.encode()).digest(),
            selector=item.get("Selector") or "",
        )
    return Parameter(
        # A secret of Secrets Manager may come under its own name; only what it was asked by leads to it again.
        name=asked if is_reference(asked) else name,
        value=value,
        type=item["Type"],
        version=number,
        last_modified=last_modified,
        arn=item.get("ARN", ""),
        data_type=item.get("DataType", "text"),
        selector=item.get("Selector") or "",
        version_id=_version_id(item.get("SourceResult")),
    )


def _version_id(source: Any) -> str:
    """Find the version id of a secret in the JSON that comes with it; both spellings are in AWS's own texts."""
    if not isinstance(source, str):
        return ""
    try:
        result = json.loads(source)
    except ValueError:
        return ""
    found = (result.get("versionId") or result.get("VersionId")) if isinstance(result, dict) else None
    return found if isinstance(found, str) else ""


def _names(request: Request) -> str | None:
    match request:
        case ByName(names):
            return ", ".join(names)
        case One(name):
            return name
    return None
