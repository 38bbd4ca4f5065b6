# One owner: how the SDK is set up, so that it starts quickly and holds the loop for no time.
"""The SDK's session, client and HTTP session, as we make them."""

import asyncio
import contextlib
import copy
import gzip
import inspect
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
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
        self._bypassed: dict[str, bool] = {}

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
        host = urlsplit(url).netloc
        # Found once for each host: it takes half as long as signing a request, and more with many variables.
        if host not in self._bypassed:
            self._bypassed[host] = self._bypasses(url, host)
        return {} if self._bypassed[host] else self._proxies

    def _bypasses(self, url: str, host: str) -> bool:
        from botocore.utils import should_bypass_proxies

        if not self._named:
            return bool(should_bypass_proxies(url))
        return bool(
            request.proxy_bypass_environment(host, self._named)  # type: ignore[attr-defined] # typeshed has it not
        )


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
    environ = surroundings or Surroundings()
    _prepare_tls(environ)

    import aioboto3
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession
    from botocore.configprovider import ConfigChainFactory, ConfiguredEndpointProvider

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
        **_http_session_option(session),
    )
    if config.http_session_cls is not AioConfig().http_session_cls:
        # Where a session has a configuration of its own, releases before 3.9 merge the two and forget this one.
        vars(config).get("_user_provided_options", {})["http_session_cls"] = config.http_session_cls
    create = getattr(session, "create_client", None) or session.client
    client: AbstractAsyncContextManager[Any] = create(
        "ssm", region_name=region, endpoint_url=endpoint_url, config=config
    )
    # With credentials at hand nothing in here waits for anything, so no loop is remembered by the client.
    return asyncio.run(_enter(client))


async def reopened(client: Any) -> Any:
    """Return a copy of a client that `new_client()` made, open, with connections of its own; `None` if it has no copies."""
    make_session = getattr(client._endpoint.http_session, "again", None)
    if make_session is None:
        return None
    again = copy.copy(client)
    again._endpoint = copy.copy(client._endpoint)
    again._endpoint.http_session = make_session()
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


def timestamp(value: Any) -> datetime:
    """Read a date, in UTC: seconds since 1970, as Parameter Store has them, or a text."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    from botocore.utils import parse_timestamp

    parsed: datetime = parse_timestamp(value)
    return parsed.astimezone(UTC)


def _quick_loader() -> Any:
    """
    Return a loader of the SDK's models that does not look at what nobody asks for.

    The SDK's own lists 400 directories and all in them to learn whether there is an "ssm", parses two megabytes of
    legacy endpoints although it finds endpoints by rules, and one megabyte of a model with 146 operations, of which we
    call three; that is most of the time to make a client, and the parser holds the loop from its thread. Whatever is not
    as expected is left to the SDK's own loader.
    """
    from botocore.loaders import JSONFileLoader, Loader

    class FileLoader(JSONFileLoader):  # type: ignore[misc] # untyped base
        def load_file(self, file_path: str) -> Any:
            packed = Path(f"{file_path}.json.gz")
            part = None
            if "ssm" in packed.parts and packed.name.startswith("service-2.") and packed.is_file():
                with contextlib.suppress(Exception):
                    part = _part(gzip.decompress(packed.read_bytes()).decode())
            return part or super().load_file(file_path)

    class QuickLoader(Loader):  # type: ignore[misc] # untyped base
        def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - the base's signature
            folders = [Path(path) for path in self.search_paths if Path(path).is_dir()]
            return sorted({service.name for folder in folders for service in folder.iterdir()})

        def load_data_with_path(self, name: str) -> Any:
            if name == "endpoints":
                with contextlib.suppress(Exception):
                    # The same partitions as the rules have, without exceptions for single services: the rules have
                    # those.
                    partitions, path = super().load_data_with_path("partitions")
                    return {"version": 3, "partitions": list(map(_partition, partitions["partitions"]))}, path
            return super().load_data_with_path(name)

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


def _prepare_tls(surroundings: Mapping[str, str]) -> None:
    """
    Begin to make the TLS context that a client will want, in a thread.

    Reading certificates takes as long as making the session, and OpenSSL does not need the interpreter for it. So this
    comes before the SDK's other modules are imported. A guess that is wrong, because a file of the SDK's configuration
    names other certificates, costs only time: the HTTP session asks for the context by what it was really made with.
    """
    urls = (surroundings.get(name) for name in ("AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL"))
    if next((url for url in urls if url), "https:").startswith("http:"):
        return
    # Here, because two threads that import modules which import each other may find them half made.
    import_module("botocore.httpsession")
    verify = surroundings.get("AWS_CA_BUNDLE") or surroundings.get("REQUESTS_CA_BUNDLE") or True
    with contextlib.suppress(RuntimeError):  # no thread can be started: the first request makes the context
        threading.Thread(target=_try, args=(verify,), name="aiossmenv certificates", daemon=True).start()


def _try(verify: Any) -> None:
    with contextlib.suppress(Exception):
        tls_context(verify, None)


def _http_session_option(session: Any) -> dict[str, Any]:
    """
    Return the option that names the class of HTTP sessions: the one of the configuration of *session*, else ours.

    There is none where that configuration is of botocore's kind, which the SDK could not merge with this option.
    """
    from aiobotocore.config import AioConfig

    find_config = getattr(getattr(session, "_session", session), "get_default_client_config", None)
    own = find_config() if find_config else None
    if own is not None and not isinstance(own, AioConfig):
        return {}
    default = AioConfig().http_session_cls
    chosen = default if own is None else own.http_session_cls
    return {"http_session_cls": _repeatable(_http_session_class() if chosen is default else chosen)}


def _http_session_class() -> Any:
    """
    Return the SDK's HTTP session, with a TLS context that is made once, in a thread, for all connections.

    To make a context takes 20 to 40 ms, for it reads all certificates that are trusted. The SDK does that for each
    client, before aiobotocore 3.9 on the event loop; those releases do not compare host names either, and check no
    certificate at all through a proxy. No release accepts a ready context: `connector_args={"ssl_context": ...}` passes
    aiohttp two contexts, which it refuses.
    """
    import aiohttp
    from aiobotocore.httpsession import AIOHTTPSession

    # The one private name of the SDK here. Where it is not what we know, the SDK goes its own way.
    create: Any = getattr(AIOHTTPSession, "_create_connector", None)
    if create is None or list(inspect.signature(create).parameters) != ["self", "proxy_url"]:
        return AIOHTTPSession
    is_coroutine = inspect.iscoroutinefunction(create)

    class HTTPSession(AIOHTTPSession):  # type: ignore[misc] # untyped base
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            # Where the SDK makes its sessions in another way than we know, it makes the contexts, too.
            self.__options: Mapping[str, Any] = options if options.keys() >= _HTTP_OPTIONS else {"verify": False}
            self.__context: Any = None
            self.__making = asyncio.Lock()

        async def send(self, request: Any) -> Any:
            options = self.__options
            is_encrypted = request.url.startswith("https:") or options.get("proxies")
            if options["verify"] and is_encrypted:
                async with self.__making:
                    self.__context = self.__context or await _tls_context_for(request, options)
            return await super().send(request)

        def _create_connector(self, proxy_url: str | None) -> Any:
            options = self.__options
            if not _is_for_us(options, proxy_url, keeps_apart=is_coroutine):
                return super()._create_connector(proxy_url)
            # Without a context nothing is encrypted. If it ever were, aiohttp's own context checks certificates.
            context = self.__context or True
            connector = aiohttp.TCPConnector(
                limit=options["max_pool_connections"], ssl=context, **options["connector_args"]
            )
            return _given(connector) if is_coroutine else connector

    return HTTPSession


# What the SDK makes its HTTP sessions with, and which settings of a proxy its own contexts are made for.
_HTTP_OPTIONS = {"verify", "proxies", "max_pool_connections", "client_cert", "proxies_config", "connector_args"}
_OF_PROXY = {"proxy_ca_bundle", "proxy_client_cert"}


def _is_for_us(options: Mapping[str, Any], proxy_url: str | None, *, keeps_apart: bool) -> bool:
    """Whether our context is the right one; *keeps_apart*: the SDK's shows no client's certificate to a proxy."""
    if proxy_url and ((options["proxies_config"] or {}).keys() & _OF_PROXY or (options["client_cert"] and keeps_apart)):
        return False
    return bool(options["verify"])


async def _tls_context_for(request: Any, options: Mapping[str, Any]) -> Any:
    from botocore.exceptions import SSLError

    try:
        return await asyncio.to_thread(tls_context, options["verify"], options["client_cert"])
    except OSError as error:
        raise SSLError(endpoint_url=request.url, error=error) from error


async def _given(connector: Any) -> Any:
    return connector


async def _enter(client: AbstractAsyncContextManager[Any]) -> Any:
    return await client.__aenter__()


class _Contexts:
    """The TLS contexts of this process, one for each configuration: the newest few."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[Any, ...], Any] = {}
        self.renew_lock()

    def renew_lock(self) -> None:
        """Forget who holds the lock: after a fork that thread is not in the child."""
        self._lock = threading.Lock()

    def get(self, verify: Any, client_cert: Any) -> Any:
        """Return the context of this configuration; the first caller makes it, others wait."""
        from botocore.httpsession import create_urllib3_context, get_cert_path

        certificate, key = client_cert if isinstance(client_cert, tuple) else (client_cert, None)
        # A file that was replaced is read again by the next connection.
        configuration = tuple(map(_identity, (get_cert_path(verify), certificate, key)))
        with self._lock:
            context = self._contexts.pop(configuration, None)
            if context is None:
                context = create_urllib3_context()
                # The SDK's function turns it off, for urllib3 compares host names itself. aiohttp does not.
                context.check_hostname = True
                if certificate:
                    _load(certificate, context.load_cert_chain, certificate, key)
                trusted = get_cert_path(verify)
                _load(trusted, context.load_verify_locations, trusted)
            self._contexts[configuration] = context
            while len(self._contexts) > _CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            return context


# Of a process that talks to several accounts or endpoints, each with certificates of its own.
_CONTEXTS = 4


def _identity(path: Any) -> Any:
    try:
        status = Path(path).stat() if path else None
    except OSError:
        status = None
    return path, status and (status.st_mtime_ns, status.st_size, status.st_ino)


def _load(path: Any, load: Callable[..., None], *arguments: Any) -> None:
    """Call *load*, whose own errors do not say which file cannot be read."""
    try:
        load(*arguments)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


_contexts = _Contexts()
tls_context = _contexts.get
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_contexts.renew_lock)
