"""The environment that the SDK reads, as it was at the first request of a store."""

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib import request
from urllib.parse import urlsplit


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


def surround(provider: Any, surroundings: Surroundings) -> None:
    """Let a provider of credentials read *surroundings* wherever the SDK would read the environment."""
    # The SDK's classes take an environment, but the SDK's function that makes these objects does not pass one.
    for name in ("environ", "_environ"):
        if hasattr(provider, name):
            setattr(provider, name, surroundings)
    if hasattr(provider, "_get_env_config") and not provider._disable_env_vars:
        variables = provider._CONFIG_TO_ENV_VAR
        provider._get_env_config = lambda key: surroundings.get(variables.get(key, ""))
    if hasattr(provider, "_popen"):
        provider._popen = partial(_popen, provider._popen, surroundings)
    if hasattr(provider, "_role_fetcher"):
        fetcher = provider._role_fetcher
        fetcher._disabled = surroundings.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        _set_proxies(fetcher._session, surroundings)
    if hasattr(provider, "_profile_provider_builder"):
        builder = provider._profile_provider_builder
        builder.providers = partial(_surrounded, builder.providers, surroundings)


async def _popen(start: Any, surroundings: Surroundings, *arguments: Any, **options: Any) -> Any:
    """Start a process that gives credentials; one that is still running when its answer is given up is killed."""
    process = await start(*arguments, env=surroundings, **options)
    communicate = process.communicate

    async def communicate_or_kill() -> Any:
        try:
            return await communicate()
        except asyncio.CancelledError:
            # Left alone, it would run on without a reader, and outlive the event loop.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise

    process.communicate = communicate_or_kill
    return process


def _surrounded(build: Any, surroundings: Surroundings, *arguments: Any, **options: Any) -> Any:
    providers = build(*arguments, **options)
    for provider in providers:
        surround(provider, surroundings)
    return providers


def in_surroundings(http_session_class: Any, surroundings: Surroundings) -> Any:
    """Return a subclass of *http_session_class* that finds its proxies in *surroundings*."""

    class Surrounded(http_session_class):  # type: ignore[misc] # untyped base
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            _set_proxies(self, surroundings)

    return Surrounded


def _set_proxies(http_session: Any, surroundings: Surroundings) -> None:
    from botocore.httpsession import ProxyConfiguration

    class Proxies(ProxyConfiguration):  # type: ignore[misc] # untyped base
        # The SDK decides when it makes a client whether its endpoint needs a proxy; this decides for each request.
        def proxy_url_for(self, url: str) -> Any:
            self._proxies = surroundings.proxies_for(url)
            return super().proxy_url_for(url)

    http_session._proxy_config = Proxies(proxies_settings=http_session._proxy_config.settings)
