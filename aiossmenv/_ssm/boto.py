"""The `Transport` that talks to AWS through aioboto3. No type of the SDK gets out of here."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from typing import Any, get_args

from aiossmenv._errors import AiossmenvError, InvalidVariable, StoreUnavailable
from aiossmenv._models import Parameter, ParameterHistory, ParameterMetadata, ParameterType
from aiossmenv._naming import is_reference
from aiossmenv._ssm.boto_errors import (
    check_region,
    check_session,
    detached,
    error_of,
    is_region,
    is_unsent,
    source_of,
    step,
    unreadable,
)
from aiossmenv._ssm.boto_session import Pins, new_client, new_session, region_of, reopened, timestamp
from aiossmenv._ssm.boto_surroundings import Surroundings
from aiossmenv._ssm.service_errors import locate
from aiossmenv._ssm.transport import (
    BATCH,
    LONG_PAGE,
    AddTagsToResource,
    AddTagsToResourceResult,
    Answer,
    DeleteParameters,
    DeleteParametersResult,
    DescribeParameters,
    DescribeParametersResult,
    EncryptedParameter,
    FetchedParameter,
    GetParameter,
    GetParameterHistory,
    GetParameterHistoryResult,
    GetParameters,
    GetParametersByPath,
    Page,
    PutParameter,
    PutParameterResult,
    ReadRequest,
    Request,
)

_TYPES = frozenset(get_args(ParameterType))

# The loggers of the SDK that show, at level DEBUG, what is sent and answered, credentials and tokens, and that show
# tracebacks whose frames hold them.
_LOGGERS = (
    *("botocore.auth", "botocore.credentials", "botocore.endpoint", "botocore.httpsession", "botocore.parsers"),
    *("botocore.retryhandler", "botocore.session", "botocore.tokens", "botocore.utils"),
    *("aiobotocore.credentials", "aiobotocore.tokens", "aiobotocore.utils", "aiobotocore.retries.standard"),
)


def _withhold(record: logging.LogRecord) -> bool:
    """Drop what the SDK logs at level DEBUG for our requests, and tracebacks; other clients' records are left alone."""
    if step.get() is None:
        return True
    record.exc_info = record.exc_text = None
    return record.levelno > logging.DEBUG


class BotoTransport:
    """A connection to Parameter Store that opens itself; a `Transport`."""

    def __init__(
        self,
        *,
        session: object | None,
        region: str | None,
        endpoint_url: str | None,
        connections: int,
        pins: Pins | None = None,
    ) -> None:
        self.region = region if region and is_region(region) else None
        self._region = region
        # Those of the store, so that each of its connections is made of what the first one was made of.
        self._pins = pins or Pins()
        self._session: Any = session
        self._endpoint_url = endpoint_url
        self._connections = connections
        self._client: Any = None
        self._credentials: Any = None
        self._fetching = 0
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def waiting_for(self) -> str:
        """What requests wait for before they are sent, or nothing."""
        if not self._fetching:
            return ""
        method = getattr(self._credentials, "method", None)
        return f"the credentials did not arrive from {source_of(method).name}"

    async def send(self, request: Request) -> Answer:
        """Send one request; see `Transport`."""
        fault: AiossmenvError
        cause: Exception | None = None
        try:
            # The response holds plaintext. It is in a frame below this one, which no traceback of ours shows.
            answer = await self._send(request)
        except Exception as error:
            fault, cause = error_of(error, request), detached(error, request)
            fault._not_carried_out |= is_unsent(error)
        else:
            if answer is not None and not isinstance(answer, AiossmenvError):
                return answer
            fault = answer or unreadable("Parameter Store")
        locate(fault, request, self.region)
        raise fault from cause

    async def aclose(self) -> None:
        """Close all connections, also those that are opened now."""
        self._closed = True
        client, self._client = self._client, None
        if client:
            await client.__aexit__(None, None, None)

    async def _have_credentials(self) -> None:
        """
        Have credentials that have not expired.

        The SDK would fetch them when it signs a request. Fetched before, their errors are not taken for those of the
        request.
        """
        step.set("credentials")
        self._fetching += 1
        try:
            if self._credentials is not None:
                await self._credentials.get_frozen_credentials()
        finally:
            self._fetching -= 1

    async def _send(self, request: Request) -> Answer | AiossmenvError | None:
        step.set("configuration")  # for this task, which sends nothing else
        client = await self._opened()
        if self._closed:
            # Closed by another task while this one connected; nothing closes this client a second time.
            self._client = None
            await client.__aexit__(None, None, None)
            closed = StoreUnavailable("the store was closed while it connected", remedy="It is connected again.")
            closed._not_carried_out = True
            return closed
        await self._have_credentials()
        step.set("request")
        if isinstance(request, ReadRequest):
            return await _read(client, request)
        return await _sent(client, request)

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                # Importing the SDK and reading its models takes the processor for a third of a second, so that is
                # done in a thread. Finding credentials may wait for a network, so that is done on the loop.
                for name in _LOGGERS:
                    logging.getLogger(name).addFilter(_withhold)
                client = await (self._of_session(self._session) if self._session else self._of_surroundings())
                client.meta.events.register("before-parse.ssm", _answered, unique_id="aiossmenv")
                self._client, self.region = client, client.meta.region_name
            return self._client

    async def _of_surroundings(self) -> Any:
        surroundings = self._pins.surroundings or Surroundings()
        session = await asyncio.to_thread(new_session, surroundings)
        client = await self._made(session, self._region)
        # Not before there is a client: where none could be made, nothing was read that may have changed anything.
        self._pins.surroundings = surroundings
        return client

    async def _of_session(self, session: Any) -> Any:
        if self._pins.client and (client := await reopened(self._pins.client)):
            self._credentials = self._pins.credentials
            return client
        check_session(session)
        self._pins.client = await self._made(session, self._region or region_of(session, os.environ))
        self._pins.credentials = self._credentials
        return self._pins.client

    async def _made(self, session: Any, region: str | None) -> Any:
        """Return a new client of *session*, after its credentials were found."""
        step.set("credentials")
        self._fetching += 1
        try:
            self._credentials = await session.get_credentials()
        finally:
            self._fetching -= 1
        step.set("configuration")
        check_region(region, session)
        making = asyncio.ensure_future(
            asyncio.to_thread(new_client, session, region, self._endpoint_url, self._connections)
        )
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # The thread goes on, and what it opens is to be closed.
            await asyncio.wait({making})
            if not making.exception():
                await making.result().__aexit__(None, None, None)
            raise


async def _read(client: Any, request: ReadRequest) -> Page | AiossmenvError | None:
    match request:
        case GetParametersByPath(path, recursive, decrypt, token):
            response = await client.get_parameters_by_path(
                Path=path, Recursive=recursive, WithDecryption=decrypt, MaxResults=BATCH, **_after(token)
            )
            return _page(response.get("Parameters"), response, decrypt=decrypt)
        case GetParameters(names, decrypt):
            response = await client.get_parameters(Names=list(names), WithDecryption=decrypt)
            return _page(response.get("Parameters"), response, decrypt=decrypt)
        case GetParameter(name, decrypt):
            response = await client.get_parameter(Name=name, WithDecryption=decrypt)
            item = response.get("Parameter")
            if is_reference(name) and isinstance(item, dict) and "Value" not in item:
                return InvalidVariable("the secret is binary, and no text", remedy="Store it as a secret string.")
            return _page([item], response, decrypt=decrypt, name=name)


async def _sent(
    client: Any, request: PutParameter | DeleteParameters | GetParameterHistory | DescribeParameters | AddTagsToResource
) -> Answer | None:
    match request:
        case PutParameter():
            return _put(await client.put_parameter(**_arguments(request)))
        case DeleteParameters(names):
            return _deleted(await client.delete_parameters(Names=list(names)))
        case GetParameterHistory(name, token):
            return _history(
                await client.get_parameter_history(
                    Name=name, WithDecryption=True, MaxResults=LONG_PAGE, **_after(token)
                )
            )
        case DescribeParameters(path, recursive, token):
            below = [{"Key": "Path", "Option": "Recursive" if recursive else "OneLevel", "Values": [path]}]
            return _described(
                await client.describe_parameters(ParameterFilters=below, MaxResults=LONG_PAGE, **_after(token))
            )
        case AddTagsToResource(name, tags):
            await client.add_tags_to_resource(ResourceType="Parameter", ResourceId=name, Tags=_tags(tags))
            return AddTagsToResourceResult()


def _after(token: str | None) -> dict[str, str]:
    return {} if token is None else {"NextToken": token}


def _answered(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """
    Note, for the task that is running, that an answer is here, and read it; a handler of the SDK's events.

    The SDK would compare each member of it with a model, which takes a tenth of all the time that a request takes; we
    look at each member ourselves. It still reads errors, and says what is wrong with what is not JSON.
    """
    step.set("answer")
    if response_dict["status_code"] != HTTPStatus.OK:
        return
    with contextlib.suppress(ValueError):
        answer = json.loads(response_dict["body"])
        if isinstance(answer, dict):
            customized_response_dict.update(answer)
            response_dict["body"] = b"{}"


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


def _arguments(request: PutParameter) -> dict[str, Any]:
    """Return what PutParameter takes, without what was not said."""
    said = {
        "Name": request.name,
        "Value": request.value,
        "Type": request.type,
        "Overwrite": request.overwrite,
        "KeyId": request.key_id,
        "Tier": request.tier,
        "Description": request.description,
        "Tags": _tags(request.tags) or None,
        "DataType": request.data_type,
    }
    return {key: value for key, value in said.items() if value is not None}


def _tags(tags: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags]


def _put(response: Mapping[str, Any]) -> PutParameterResult | None:
    version = response.get("Version")
    return PutParameterResult(version, response.get("Tier") or "") if isinstance(version, int) else None


def _deleted(response: Mapping[str, Any]) -> DeleteParametersResult | None:
    deleted, unknown = response.get("DeletedParameters") or [], response.get("InvalidParameters") or []
    if not (isinstance(deleted, list) and isinstance(unknown, list) and (deleted or unknown)):
        return None
    return DeleteParametersResult(tuple(deleted), tuple(unknown))


def _history(response: Mapping[str, Any]) -> GetParameterHistoryResult | None:
    items = response.get("Parameters")
    page = _page(items, response, decrypt=True)
    if page is None or not isinstance(items, list):
        return None
    return GetParameterHistoryResult(
        tuple(
            ParameterHistory(
                parameter=parameter,
                labels=tuple(item.get("Labels") or ()),
                last_modified_user=item.get("LastModifiedUser") or "",
                key_id=item.get("KeyId") or "",
                tier=item.get("Tier") or "",
                description=item.get("Description") or "",
            )
            for parameter, item in zip(page.parameters, items, strict=True)
            if isinstance(parameter, Parameter)
        ),
        page.next_token,
    )


def _described(response: Mapping[str, Any]) -> DescribeParametersResult | None:
    items = response.get("Parameters")
    if not isinstance(items, list):
        return None
    # What the service says of a parameter is what a read of it gives, without its value.
    page = _page([{**item, "Value": ""} if isinstance(item, dict) else item for item in items], response, decrypt=True)
    if page is None:
        return None
    return DescribeParametersResult(
        tuple(
            ParameterMetadata(
                name=parameter.name,
                type=parameter.type,
                version=parameter.version,
                last_modified=parameter.last_modified,
                last_modified_user=item.get("LastModifiedUser") or "",
                key_id=item.get("KeyId") or "",
                tier=item.get("Tier") or "",
                description=item.get("Description") or "",
                data_type=item.get("DataType") or "text",
                arn=parameter.arn,
            )
            for parameter, item in zip(page.parameters, items, strict=True)
        ),
        page.next_token,
    )


def _reading(item: Any, *, decrypt: bool, asked: str) -> FetchedParameter | None:
    if not isinstance(item, dict) or item.get("Type") not in _TYPES:
        return None
    name, value, number, modified = (item.get(key) for key in ("Name", "Value", "Version", "LastModifiedDate"))
    if not (isinstance(name, str) and isinstance(value, str) and isinstance(number, int)):
        return None
    last_modified = None if modified is None else timestamp(modified)
    if item["Type"] == "SecureString" and not decrypt:
        return EncryptedParameter(
            name=name,
            type=item["Type"],
            version=number,
            last_modified=last_modified,
            arn=item.get("ARN") or "",
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
        arn=item.get("ARN") or "",
        data_type=item.get("DataType") or "text",
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
