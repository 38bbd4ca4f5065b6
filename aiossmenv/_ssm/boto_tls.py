"""The SDK's HTTP session with one TLS context for all connections, made in a thread."""

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def http_session_class() -> Any:
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


class _Contexts:
    """The TLS contexts of this process, one for each configuration: the newest few."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[Any, ...], Any] = {}
        self.renew_lock()

    def renew_lock(self) -> None:
        """Make a new lock: after a fork the thread that holds the old one is not in the child."""
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
