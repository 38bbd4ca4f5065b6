"""The SDK's session and client, set up to start quickly and to hold the event loop for no time."""

import asyncio
import contextlib
import copy
import threading
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any

from aiossmenv._ssm.boto_loader import quick_loader
from aiossmenv._ssm.boto_surroundings import Surroundings, in_surroundings, surround
from aiossmenv._ssm.boto_tls import http_session_class, tls_context

# Seconds. The SDK's own (60 and 60) are longer than anybody waits for a service to start; a request that is lost is
# better sent again.
_CONNECT_TIMEOUT = 3.0
_READ_TIMEOUT = 10.0


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

    own_http_session_class = in_surroundings(http_session_class(), environ)

    class Session(AioSession):  # type: ignore[misc] # untyped base
        # Clients of STS and SSO, which renew credentials during the life of a store, are made here as well.
        def create_client(
            self, service_name: str, *, config: Any = None, verify: Any = None, **options: Any
        ) -> AbstractAsyncContextManager[Any]:
            # Retries are ours: the SDK would ask STS five times, for up to a minute each, and the deadline would be
            # over
            # before it says what is wrong.
            config = AioConfig(
                connect_timeout=_CONNECT_TIMEOUT, read_timeout=_READ_TIMEOUT, retries={"total_max_attempts": 1}
            ).merge(config or AioConfig())
            config.http_session_cls = own_http_session_class
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
        surround(provider, environ)
    if not session.get_config_variable("data_path"):
        session.register_component("data_loader", quick_loader())
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
    """Return an open copy, with its own connections, of a client of `new_client()`; `None` if it has no copies."""
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


def _repeatable(http_session_class: Any) -> Any:
    """Return a subclass of *http_session_class* whose objects make others with the same options."""

    class Repeatable(http_session_class):  # type: ignore[misc] # untyped base
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.again = partial(type(self), **options)

    return Repeatable


def timestamp(value: Any) -> datetime:
    """Read a date, in UTC: seconds since 1970, as Parameter Store has them, or a text."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    from botocore.utils import parse_timestamp

    parsed: datetime = parse_timestamp(value)
    return parsed.astimezone(UTC)


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
    return {"http_session_cls": _repeatable(http_session_class() if chosen is default else chosen)}


async def _enter(client: AbstractAsyncContextManager[Any]) -> Any:
    return await client.__aenter__()


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
