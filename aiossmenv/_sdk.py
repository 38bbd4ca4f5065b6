# One owner: how the SDK is set up, so that it starts quickly and holds the loop for no time.
"""The SDK's session, client and HTTP session, as we make them."""

import asyncio
import gzip
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Seconds. The SDK's own (60 and 60) are longer than anybody waits for a service to start; a request that is lost is
# better sent again.
_CONNECT_TIMEOUT = 3.0
_READ_TIMEOUT = 10.0

_OPERATIONS = ("GetParametersByPath", "GetParameters", "GetParameter")


def new_session() -> Any:
    """Return a session with all that the SDK honours; imports it."""
    import aioboto3
    from aiobotocore.session import get_session

    session = get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    if not session.get_config_variable("data_path"):
        session.register_component("data_loader", _quick_loader())
    return aioboto3.Session(botocore_session=session)


def new_client(session: Any, region: str | None, endpoint_url: str | None, connections: int) -> Any:
    """Return a client of Parameter Store, open; *session* has its credentials."""
    import aiobotocore
    from aiobotocore.config import AioConfig

    # Retries are ours: they last until a deadline, and the SDK's count to five.
    config = AioConfig(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # A fixed one: the SDK's own is put together anew for each request, which takes it a tenth of a millisecond.
        user_agent=f"aiobotocore/{aiobotocore.__version__} aiossmenv",
        # Ten names or one path: the service checks them itself, and says more.
        parameter_validation=False,
        http_session_cls=_http_session_class(),
    )
    create = getattr(session, "create_client", None) or session.client
    client: AbstractAsyncContextManager[Any] = create(
        "ssm", region_name=region, endpoint_url=endpoint_url, config=config
    )
    # With credentials at hand nothing in here waits for anything, so no loop is remembered by the client.
    return asyncio.run(_enter(client))


def ask_once(session: Any) -> None:
    """
    Have a session of `new_session()` ask STS and SSO for credentials once, with our timeouts: retries are ours.

    The SDK would ask five times, for up to a minute each, and the deadline would be over before it says what is wrong.
    Call this after `new_client()`: an SDK with a default configuration drops the HTTP session of ours.
    """
    from aiobotocore.config import AioConfig

    session._session.set_default_client_config(
        AioConfig(connect_timeout=_CONNECT_TIMEOUT, read_timeout=_READ_TIMEOUT, retries={"total_max_attempts": 1})
    )


def region_of(session: Any, *, ours: bool) -> str | None:
    """Return the region that *session* is to talk to, or `None` if its own is meant. *ours*: it is of `new_session()`."""
    # The SDK for Python knows AWS_DEFAULT_REGION only; ECS, Lambda and the other SDKs say AWS_REGION, which comes
    # first there. What a user's own session was told comes before both.
    named = os.environ.get("AWS_REGION") or None
    if ours:
        return named
    find = getattr(session, "get_config_variable", None)
    return (find("region") if find else session.region_name) or named


def _timestamp(value: Any) -> datetime:
    """Read a date: seconds since 1970, as Parameter Store has them, for which the SDK tries each time zone it knows."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    from botocore.utils import parse_timestamp

    parsed: datetime = parse_timestamp(value)
    return parsed


def _quick_loader() -> Any:
    """
    Return a loader of the SDK's models that does not look at what nobody asks for.

    The SDK's own lists 400 directories and all in them to learn whether there is an "ssm", parses two megabytes of
    legacy endpoints although it finds endpoints by rules, and one megabyte of a model with 146 operations, of which we
    call three; that is most of the time to make a client, and the parser holds the loop from its thread.
    """
    from botocore.loaders import JSONFileLoader, Loader

    class FileLoader(JSONFileLoader):  # type: ignore[misc] # untyped base
        def load_file(self, file_path: str) -> Any:
            packed = Path(f"{file_path}.json.gz")
            part = None
            if "ssm" in packed.parts and packed.name.startswith("service-2.") and packed.is_file():
                part = _part(gzip.decompress(packed.read_bytes()).decode())
            return part or super().load_file(file_path)

    class QuickLoader(Loader):  # type: ignore[misc] # untyped base
        def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - the base's signature
            folders = [Path(path) for path in self.search_paths if Path(path).is_dir()]
            return sorted({service.name for folder in folders for service in folder.iterdir()})

        def load_data_with_path(self, name: str) -> Any:
            if name != "endpoints":
                return super().load_data_with_path(name)
            # The same partitions as the rules have, without exceptions for single services: the rules have those.
            partitions, path = super().load_data_with_path("partitions")
            return {"version": 3, "partitions": [_partition(partition) for partition in partitions["partitions"]]}, path

    return QuickLoader(file_loader=FileLoader())


def _part(text: str) -> dict[str, Any] | None:
    """
    Return what our operations need of a service's model, without parsing the rest.

    The SDK's models are written with a member to a line and two spaces to a level; `None` for one that is not.
    """
    version, _, rest = text.partition('\n  "operations":{')
    parts = (dict(_members(part)) for part in rest.partition('\n  "shapes":{')[::2])
    try:
        packed_operations, packed_shapes = parts
        operations = {name: _parsed(packed_operations[name]) for name in _OPERATIONS}
        shapes: dict[str, Any] = {}
        left: list[Any] = [operations]
        while left:
            match left.pop():
                case dict() as members:
                    left += members.values()
                    name = members.get("shape")
                    if isinstance(name, str) and name not in shapes:
                        shapes[name] = _parsed(packed_shapes[name])
                        left.append(shapes[name])
                case list() as items:
                    left += items
        head: dict[str, Any] = json.loads(version.rstrip(" \n,") + "}")
    except (KeyError, ValueError):
        return None
    return head | {"operations": operations, "shapes": shapes}


def _members(part: str) -> Iterator[tuple[str, str]]:
    """Yield the members of the second level: their names, and what begins with their values."""
    for member in part.split('\n    "')[1:]:
        name, _, value = member.partition('":')
        yield name, value


def _parsed(begun: str) -> Any:
    return json.JSONDecoder().raw_decode(begun)[0]


def _partition(partition: Mapping[str, Any]) -> dict[str, Any]:
    plain, dual = partition["outputs"]["dnsSuffix"], partition["outputs"]["dualStackDnsSuffix"]
    return {
        "partition": partition["id"],
        "partitionName": partition["id"],
        "dnsSuffix": plain,
        "regionRegex": partition["regionRegex"],
        "regions": {region: {} for region in partition["regions"]},
        "services": {},
        "defaults": {
            "hostname": "{service}.{region}.{dnsSuffix}",
            "protocols": ["https"],
            "signatureVersions": ["v4"],
            "variants": [
                {"hostname": "{service}-fips.{region}.{dnsSuffix}", "dnsSuffix": plain, "tags": ["fips"]},
                {"hostname": "{service}.{region}.{dnsSuffix}", "dnsSuffix": dual, "tags": ["dualstack"]},
                {"hostname": "{service}-fips.{region}.{dnsSuffix}", "dnsSuffix": dual, "tags": ["dualstack", "fips"]},
            ],
        },
    }


def _http_session_class() -> Any:
    """
    Return the SDK's HTTP session, but for this: a thread reads what it trusts, which takes 20 ms, before it connects.

    The SDK does so on the loop.
    """
    import aiohttp
    from aiobotocore.httpsession import AIOHTTPSession
    from botocore.httpsession import get_cert_path

    class HTTPSession(AIOHTTPSession):  # type: ignore[misc] # untyped base
        _trusted: Any = None

        async def send(self, request: Any) -> Any:
            if self._verify and not self._trusted and request.url.startswith("https:"):
                self._trusted = await asyncio.to_thread(self._trust)
            return await super().send(request)

        def _trust(self) -> Any:
            context = self._get_ssl_context()
            # The SDK's function turns it off, for urllib3 compares host names itself; aiohttp does not.
            context.check_hostname = True
            if self._cert_file:
                context.load_cert_chain(self._cert_file, self._key_file)
            context.load_verify_locations(get_cert_path(self._verify))
            return context

        def _create_connector(self, proxy_url: str | None) -> Any:
            if proxy_url:
                return super()._create_connector(proxy_url)
            return aiohttp.TCPConnector(
                limit=self._max_pool_connections, ssl=self._trusted or False, **self._connector_args
            )

    return HTTPSession


async def _enter(client: AbstractAsyncContextManager[Any]) -> Any:
    return await client.__aenter__()
