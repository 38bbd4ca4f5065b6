"""
A FastAPI app whose environment comes from Parameter Store, and stays current: `pip install 'aiossmenv[fastapi]'`.

    from fastapi import FastAPI

    from aiossmenv.fastapi import EnvDep, health, lifespan

    app = FastAPI(lifespan=lifespan("/FAKEBOOK/TEST/", ttl=60))
    app.get("/health")(health)


    @app.get("/database")
    async def database(env: EnvDep) -> str:
        return env["DB_URL"]

`lifespan` takes what `load_env` takes. The environment is loaded before the first request is accepted, in each worker
process for itself, and closed after the last. An app that cannot load it does not start: the server exits, and one line
of the log at level CRITICAL says why. `EnvDep` works in routes, WebSockets and other dependencies, and shows nothing in
the OpenAPI schema.

An app that opens more than this has a lifespan of its own, inside which `get_env` works at once:

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan("/FAKEBOOK/TEST/", ttl=60)(app), RotatingPool(get_env(app), db="app") as pool:
            app.state.pool = pool
            yield

One that would rather call `load_env` itself says where the `Env` is, so that `EnvDep` finds it; so does a test that makes
one, and an app that is mounted in another, which has a state of its own:

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
    # Around load_env and not beside it, so that its options are written in one place.
    def lifespan(*paths: P.args, **options: P.kwargs) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
        """
        Return a lifespan that loads the environment when the app starts, and closes it when the app ends.

        It takes *paths* and *options* of `load_env`, raises when the app starts what that raises, and then says so in one
        line of the log. To add to it, enter it in a lifespan of your own: `async with lifespan(...)(app):`.
        """

        # The app may start several times, and an iterator gives its items once.
        options.update({option: tuple(value) for option, value in options.items() if isinstance(value, Iterator)})
        # A method of something in C: a traceback that shows its repr, or the variables where it raises, shows no options,
        # of which environ may be full.
        begin = partial(load, *paths, **options).__call__

        @asynccontextmanager
        async def loaded(app: FastAPI) -> AsyncIterator[None]:
            if getattr(app.state, "aiossmenv", None) is not None:
                # A router's lifespan is given the app that includes it, and would take its place.
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
    """Return the `Env` of a running *app*; raises `LookupError` if it has none."""
    env = getattr(app.state, "aiossmenv", None)
    if isinstance(env, Env):
        return env
    raise LookupError(
        f"the app {app.title!r} has no Env, or does not run: make it with FastAPI(lifespan=lifespan(PATH, ttl=60)), enter"
        " that lifespan in your own, or set app.state.aiossmenv to the Env, as for an app that is mounted in another"
    )


async def _of_connection(connection: HTTPConnection) -> Env:
    return get_env(connection.app)


EnvDep = Annotated[Env, Depends(_of_connection)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    How current an app's environment is, without any value of it.

    *fresh*, *age* (seconds), *failures*: as in `Status`. *last_error*: type and text of the last refresh's error, in one
    line, if it failed; it may name parameters, ARNs and endpoints, as the log does.
    """

    fresh: bool
    age: float
    failures: int
    last_error: str | None


async def health(env: EnvDep) -> Health:
    """
    Say how current the environment is: `app.get("/health")(health)`, or `await health(env)` in a probe of your own.

    As a route it answers 200 whatever it says. A service that runs on its last good values works, and an orchestrator
    that restarted it because Parameter Store is down would end it: a new process cannot load. Alert on `fresh` instead.
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
