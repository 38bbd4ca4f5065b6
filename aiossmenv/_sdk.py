# One owner: how the SDK is set up, so that it starts quickly and holds the loop for no time.
"""The SDK's session, client and HTTP session, as we make them."""

import asyncio
import copy
import gzip
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib import request
from urllib.parse import urlsplit

# Seconds. The SDK's own (60 and 60) are longer than anybody waits for a service to start; a request that is lost is
# better sent again.
_CONNECT_TIMEOUT = 3.0
_READ_TIMEOUT = 10.0

_OPERATIONS = ("GetParametersByPath", "GetParameters", "GetParameter")


class Surroundings(Mapping[str, str]):
    """
    A copy of the environment, and the proxies that it names, at the moment when this is made.

    A parameter may become the variable AWS_REGION, AWS_ACCESS_KEY_ID or HTTPS_PROXY. The store that it was read from
    connects again with this copy, so it goes to the same place as the same identity. The repr shows no variable.
    """

    def __init__(self) -> None:
        self._variables = dict(os.environ)
        for name, default in _FILES.items():
            # As absolute paths: the variable HOME may change, too.
            path = self._variables.get(name, default)
            self._variables[name] = os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - keeps an empty path
        if region := self._variables.get("AWS_REGION"):
            # The SDK for Python knows AWS_DEFAULT_REGION only; ECS, Lambda and the other SDKs say AWS_REGION, which
            # comes first there.
            self._variables["AWS_DEFAULT_REGION"] = region
        self._proxies = request.getproxies()
        self._named = request.getproxies_environment()

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return "<Surroundings>"

    __sentry_repr__ = __repr__

    def proxies_for(self, url: str) -> dict[str, str]:
        """Return the proxies for *url* by scheme, as the SDK finds them in the environment or in the system."""
        from botocore.utils import should_bypass_proxies

        if not self._named:
            return {} if should_bypass_proxies(url) else self._proxies
        bypassed = request.proxy_bypass_environment(  # type: ignore[attr-defined] # for typeshed it is not there
            urlsplit(url).netloc, self._named
        )
        return {} if bypassed else self._proxies


# Where the SDK looks for these files unless a variable says otherwise.
_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}


@dataclass(slots=True)
class Pins:
    """
    What the first client of a store was made of, and each later one is.

    *surroundings*: for sessions of our own. *client*: for a session of the user's, the first client itself, because its
    session, which others may use as well, goes on to read the environment; and its *credentials*.
    """

    surroundings: Surroundings | None = None
    client: Any = None
    credentials: Any = None


def new_session(surroundings: Surroundings | None = None) -> Any:
    """Return a session with all that the SDK honours, in *surroundings*, by default those of now; imports the SDK."""
    import aioboto3
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession
    from botocore.configprovider import ConfigChainFactory, ConfiguredEndpointProvider

    environ = surroundings or Surroundings()
    http_session_class = _in_surroundings(_http_session_class(), environ)

    class Session(AioSession):  # type: ignore[misc] # untyped base
        # Clients of STS and SSO, which renew credentials during the life of a store, are made here as well.
        def create_client(
            self, service_name: str, *, config: Any = None, verify: Any = None, **options: Any
        ) -> AbstractAsyncContextManager[Any]:
            # Retries are ours: the SDK would ask STS five times, for up to a minute each, and the deadline would be over
            # before it says what is wrong.
            config = AioConfig(
                connect_timeout=_CONNECT_TIMEOUT, read_timeout=_READ_TIMEOUT, retries={"total_max_attempts": 1}
            ).merge(config or AioConfig())
            config.http_session_cls = http_session_class
            verify = _trusted(self, environ) if verify is None else verify
            created: AbstractAsyncContextManager[Any] = super().create_client(
                service_name, config=config, verify=verify, **options
            )
            return created

        def _add_configured_endpoint_provider(self, client_name: str, config_store: Any) -> None:
            found = ConfiguredEndpointProvider(self.full_config, self.get_scoped_config(), client_name, environ)
            config_store.set_config_provider("endpoint_url", found)

    session = Session()
    store, factory = session.get_component("config_store"), ConfigChainFactory(session, environ)
    for name, (in_file, in_environment, default, convert) in session.SESSION_VARIABLES.items():
        store.set_config_provider(
            name,
            factory.create_config_chain(
                instance_name=name,
                env_var_names=in_environment,
                config_property_names=in_file,
                default=default,
                conversion_func=convert,
            ),
        )
    for provider in session.get_component("credential_provider").providers:
        _surround(provider, environ)
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
        http_session_cls=(http_session_class := _repeatable(_http_session_class())),
    )
    # Older versions of the SDK forget this one where a session has a default config.
    config._user_provided_options["http_session_cls"] = http_session_class
    create = getattr(session, "create_client", None) or session.client
    client: AbstractAsyncContextManager[Any] = create(
        "ssm", region_name=region, endpoint_url=endpoint_url, config=config
    )
    # With credentials at hand nothing in here waits for anything, so no loop is remembered by the client.
    return asyncio.run(_enter(client))


async def reopened(client: Any) -> Any:
    """Return a copy of a client that `new_client()` made, open, with connections of its own."""
    again = copy.copy(client)
    again._endpoint = copy.copy(client._endpoint)
    again._endpoint.http_session = client._endpoint.http_session.again()
    return await again.__aenter__()


def region_of(session: Any, surroundings: Mapping[str, str]) -> str | None:
    """Return the region of a user's own *session*: what it was told comes before AWS_REGION, which it does not read."""
    find = getattr(session, "get_config_variable", None)
    return (find("region") if find else session.region_name) or surroundings.get("AWS_REGION") or None


def _trusted(session: Any, surroundings: Mapping[str, str]) -> Any:
    """Return the certificates that clients of *session* trust: a file, or whether to verify at all."""
    bundle = session.get_config_variable("ca_bundle")
    return surroundings.get("REQUESTS_CA_BUNDLE", True) if bundle is None else bundle


def _surround(provider: Any, surroundings: Surroundings) -> None:
    """Let a provider of credentials read *surroundings* wherever the SDK would read the environment."""
    # The SDK's classes take an environment, but the SDK's function that makes these objects does not pass one.
    for name in ("environ", "_environ"):
        if hasattr(provider, name):
            setattr(provider, name, surroundings)
    if hasattr(provider, "_get_env_config") and not provider._disable_env_vars:
        variables = provider._CONFIG_TO_ENV_VAR
        provider._get_env_config = lambda key: surroundings.get(variables.get(key, ""))
    if hasattr(provider, "_popen"):
        provider._popen = partial(provider._popen, env=surroundings)
    if hasattr(provider, "_role_fetcher"):
        fetcher = provider._role_fetcher
        fetcher._disabled = surroundings.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        _set_proxies(fetcher._session, surroundings)
    if hasattr(provider, "_profile_provider_builder"):
        builder = provider._profile_provider_builder
        builder.providers = partial(_surrounded, builder.providers, surroundings)


def _surrounded(build: Any, surroundings: Surroundings, *arguments: Any, **options: Any) -> Any:
    providers = build(*arguments, **options)
    for provider in providers:
        _surround(provider, surroundings)
    return providers


def _in_surroundings(http_session_class: Any, surroundings: Surroundings) -> Any:
    """Return a subclass of *http_session_class* that finds its proxies in *surroundings*."""

    class Surrounded(http_session_class):  # type: ignore[misc] # untyped base
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            _set_proxies(self, surroundings)

    return Surrounded


def _repeatable(http_session_class: Any) -> Any:
    """Return a subclass of *http_session_class* whose objects make others with the same options."""

    class Repeatable(http_session_class):  # type: ignore[misc] # untyped base
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.again = partial(type(self), **options)

    return Repeatable


def _set_proxies(http_session: Any, surroundings: Surroundings) -> None:
    from botocore.httpsession import ProxyConfiguration

    class Proxies(ProxyConfiguration):  # type: ignore[misc] # untyped base
        # The SDK decides when it makes a client whether its endpoint needs a proxy; this decides for each request.
        def proxy_url_for(self, url: str) -> Any:
            self._proxies = surroundings.proxies_for(url)
            return super().proxy_url_for(url)

    http_session._proxy_config = Proxies(proxies_settings=http_session._proxy_config.settings)


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
