"""
A FastAPI app whose environment comes from Parameter Store, and stays current: `pip install 'aiossmenv[fastapi]'`.

    from fastapi import FastAPI

    from aiossmenv.fastapi import EnvDep, health, lifespan

    app = FastAPI(lifespan=lifespan("/FAKEBOOK/TEST/", ttl=60))
    app.get("/health")(health)


    @app.get("/database")
    async def database(env: EnvDep) -> str:
        return env["DB_URL"]

`lifespan` takes the options of `load_env`. Each worker process loads the environment before it accepts the first
request, and closes it after the last one. An app that cannot load it does not start: the server exits, and one line of
the log at level CRITICAL says why. `EnvDep` works in routes, WebSockets and other dependencies, and adds nothing to the
OpenAPI schema.

To open more than the environment, enter `lifespan` in a lifespan of your own. There `get_env` works at once:

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan("/FAKEBOOK/TEST/", ttl=60)(app), RotatingPool(get_env(app), db="app") as pool:
            app.state.pool = pool
            yield

To call `load_env` yourself, put the `Env` where `EnvDep` looks for it. Do the same in a test that makes an `Env`, and
for an app that is mounted in another, because it has a state of its own:

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:
            app.state.aiossmenv = env
            yield
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ParamSpec

from aiossmenv._env import Env
from aiossmenv._errors import AiossmenvError
from aiossmenv._load import _LoadEnvContextManager, load_env

try:
    from fastapi import Depends, FastAPI
    from fastapi.requests import HTTPConnection
except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no fastapi
    raise ImportError("aiossmenv.fastapi needs fastapi: pip install 'aiossmenv[fastapi]'") from error

__all__ = ["EnvDep", "Health", "get_env", "health", "lifespan"]

logger = logging.getLogger("aiossmenv")

P = ParamSpec("P")


def _lifespan(
    load: Callable[P, _LoadEnvContextManager],
) -> Callable[P, Callable[[FastAPI], AbstractAsyncContextManager[None]]]:
    # The signature is that of load_env, so that the options are written in one place.
    def lifespan(*paths: P.args, **options: P.kwargs) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
        """
        Return a lifespan that loads the environment when the app starts, and closes it when the app ends.

        To add to it, enter it in a lifespan of your own: `async with lifespan(...)(app):`.

        Args:
            *paths: As for `load_env`.
            **options: As for `load_env`.

        Raises:
            AiossmenvError: When the app starts: what `load_env` raises. One line of the log says so.
            RuntimeError: When the app starts: it has an `Env` already.
        """
        # An app may start several times, and an iterator gives its items only once.
        options.update({option: tuple(value) for option, value in options.items() if isinstance(value, Iterator)})
        # A method of an object in C: neither its repr nor a frame in a traceback shows the options. environ may hold
        # values.
        begin = partial(load, *paths, **options).__call__

        @asynccontextmanager
        async def loaded(app: FastAPI) -> AsyncIterator[None]:
            if getattr(app.state, "aiossmenv", None) is not None:
                # The lifespan of a router gets the app that includes it, and would replace that app's Env.
                raise RuntimeError(f"the app {app.title!r} has an Env: give all paths to one lifespan()")
            try:
                env = await begin()
            except AiossmenvError as error:
                logger.critical("the app does not start: %s", _line(error))
                raise
            app.state.aiossmenv = env
            try:
                yield
            finally:
                app.state.aiossmenv = None
                await env.aclose()

        return loaded

    return lifespan


lifespan = _lifespan(load_env)


def get_env(app: FastAPI) -> Env:
    """
    Return the `Env` of a running app.

    Args:
        app: The app.

    Raises:
        LookupError: It has none, or does not run.
    """
    env = getattr(app.state, "aiossmenv", None)
    if isinstance(env, Env):
        return env
    raise LookupError(
        f"the app {app.title!r} has no Env, or does not run: make it with FastAPI(lifespan=lifespan(PATH, ttl=60)),"
        " enter that lifespan in your own, or set app.state.aiossmenv to the Env, as for an app mounted in another"
    )


async def _of_connection(connection: HTTPConnection) -> Env:
    return get_env(connection.app)


EnvDep = Annotated[Env, Depends(_of_connection)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    How current the environment of an app is. It holds no value.

    Attributes:
        fresh: As in `Status`.
        age: As in `Status`, in seconds.
        failures: As in `Status`.
        last_error: Type and text of the error if the last refresh failed, else `None`. Like the log it may name
            parameters, ARNs and endpoints.
    """

    fresh: bool
    age: float
    failures: int
    last_error: str | None


async def health(env: EnvDep) -> Health:
    """
    Return how current the environment is.

    Make it a route with `app.get("/health")(health)`, or await it in a probe of your own. The route always answers 200,
    because a service with its last good values works. If an orchestrator restarted it because Parameter Store is down,
    the new process could not load. Alert on `fresh` instead.

    Args:
        env: The `Env` of the app.
    """
    status = env.status
    return Health(
        fresh=status.fresh,
        age=round(status.age, 3),
        failures=status.failures,
        last_error=_line(status.last_error) if status.last_error else None,
    )


def _line(error: AiossmenvError) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
