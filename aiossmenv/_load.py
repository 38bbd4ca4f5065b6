"""`load_env`: its options, looked at before anything is read."""

import os
from collections.abc import Callable, Coroutine, Generator, Iterable, MutableMapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import TracebackType
from typing import cast

from aiossmenv._env import Env
from aiossmenv._environ import PROTECTED
from aiossmenv._errors import InvalidPath
from aiossmenv._naming import is_reference, normal_key, normal_path, split_names, upper_snake
from aiossmenv._schedule import Schedule
from aiossmenv._spec import EnvSpec, MayBeAbsent
from aiossmenv._ssm.store import ParameterStore


class _LoadEnvContextManager(Coroutine[object, None, Env]):
    """
    What `load_env()` returns: await it, or enter it with `async with`, once.

    It owns a coroutine named `load_env`, so that a forgotten `await` is reported by name.
    """

    __slots__ = ("_coroutine", "_env")

    def __init__(self, coroutine: Coroutine[object, None, Env]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[object, None, Env]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> Env:
        self._env = await self._coroutine
        return self._env

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._env.aclose()

    # With these three it is a coroutine to asyncio.create_task() and to a TaskGroup.

    def send(self, value: None) -> object:
        """Run to the next await."""
        return self._coroutine.send(value)

    def throw(self, kind: type[BaseException] | BaseException, *more: object) -> object:
        """Raise inside."""
        return self._coroutine.throw(next((value for value in more if isinstance(value, BaseException)), kind))

    def close(self) -> None:
        """Give up before it has run."""
        self._coroutine.close()


@dataclass(frozen=True, slots=True)
class _Hidden:
    environ: MutableMapping[str, str] | None = field(repr=False)


class _OsEnviron:
    """The default, because that of `os.environ` itself would show every variable in `help(load_env)`."""

    def __repr__(self) -> str:
        return "os.environ"


_OS_ENVIRON = cast("MutableMapping[str, str]", _OsEnviron())


def load_env(
    *paths: str,
    ttl: float | None = None,
    keys: Iterable[str] | None = None,
    required: Iterable[str] = (),
    recursive: bool = True,
    to_key: Callable[[str], str] = upper_snake,
    environ: MutableMapping[str, str] | None = _OS_ENVIRON,
    override: bool = True,
    protected: Iterable[str] = PROTECTED,
    allow_empty: bool = False,
    deadline: float | None = None,
    max_stale: float | None = None,
    list_interval: float | None = None,
    revalidate_interval: float | None = 43_200.0,
    store: ParameterStore | None = None,
) -> _LoadEnvContextManager:
    """
    Read everything under *paths*, decrypted, and put it into the environment: all of it, or nothing and an error.

        env = await load_env("/FAKEBOOK/TEST/")                    # once
        async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:     # kept current until the block ends

    *paths*: with or without a final slash, the same; default: `$SSM_PATH`, comma separated (secrets of Secrets Manager
    as the only *keys* need none). Of two paths that give one key, the later wins. *ttl*: seconds that a snapshot is
    fresh; `None`: it is never refreshed, and nothing stays open. *keys*: names relative to the paths, or full names
    below one of them, where they are known up front, with `:3` or `:label` for a version: no listing; what is not there
    is left out, and named in a warning of the log. *required*: keys that must be there, as they are in the environment.
    *recursive*: all levels, or direct children only. *to_key*: relative name -> key; by default `/ . -` become `_`, in
    upper case; `str` keeps it as it is. *environ*: the mapping to fill; `None`: none. *override*: whether a variable
    that was there before is replaced. *protected*: keys that are refused with `InvalidVariable`, also by a refresh,
    which then keeps the last good values; patterns like `LD_*`, in the case of the variable (on Windows in any case);
    default: variables that make programs run other code, such as `PATH`, `LD_PRELOAD` and `PYTHONPATH`; `()`: none.
    *allow_empty*: whether a path may hold nothing. *deadline*: seconds for the first load, and for each refresh,
    retries and all; default: the store's, 30. *max_stale*: seconds, *ttl* at least, after which `env[key]` raises
    `StaleEnv` instead (`env.parameters` and `env.snapshot` do not); `None`: never. *relist*: seconds between two
    listings, which find what was added; default: five times *ttl*. Between them names are read that are known, and
    decrypted when they changed. *revalidate*: seconds after which everything is decrypted again, changed or not, which
    notices a right that was taken away; default: 12 hours; `None`: never. *store*: a `ParameterStore` to share;
    default: a new one.

    Region, identity, endpoint, proxies and certificates are those of the first request of *store*, for its life: a
    parameter that becomes `AWS_REGION` changes the environment, and not where the next refresh goes.

    Raises, always before anything is set: `InvalidPath`, `EmptyPath`, `MissingParameters`, `KeyCollision`,
    `InvalidVariable`, `AccessDenied`, `DecryptionFailed`, and `Throttled` or `StoreUnavailable` when *deadline* is over;
    at once `TypeError` or `ValueError` for an option that cannot be.
    With *ttl* and `await`, end it with `await env.aclose()`.
    """
    target = _Hidden(os.environ if environ is _OS_ENVIRON else environ)
    del environ  # a traceback may show the variables of these frames
    texts = None if keys is None else _texts("keys", keys)
    keys_needed, keys_refused = _texts("required", required), _texts("protected", protected)
    for option, seconds in (
        ("ttl", ttl),
        ("max_stale", max_stale),
        ("deadline", deadline),
        ("relist", list_interval),
        ("revalidate", revalidate_interval),
    ):
        _refuse_text(option, seconds)
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{option} is a number of seconds above 0, not {seconds!r}")
    if ttl and max_stale and max_stale < ttl:
        raise ValueError(f"max_stale is at least ttl ({ttl:g}): values of that age are fresh")
    for number, path in enumerate(paths, 1):
        _refuse_other(f"path {number}", path)
    source = ""
    if not paths and not (texts and all(map(is_reference, texts))):
        paths, source = _default_paths(), "SSM_PATH"
    # Of a path that is given twice, the later one counts.
    normal = tuple(reversed(dict.fromkeys(reversed([normal_path(path, source) for path in paths]))))
    wanted = EnvSpec(
        paths=normal,
        names=None if texts is None else tuple(dict.fromkeys(normal_key(key, normal) for key in texts)),
        optional=isinstance(keys, MayBeAbsent),
        required=frozenset(keys_needed),
        protected=keys_refused,
        recursive=recursive,
        to_key=to_key,
        allow_empty=allow_empty,
    )

    async def load_env() -> Env:
        opened = store or ParameterStore()
        schedule = Schedule(
            ttl=ttl,
            list_interval=list_interval or (ttl and 5 * ttl),
            revalidate_interval=revalidate_interval,
            max_stale=max_stale,
            random=opened.random,
        )
        env = Env(
            wanted,
            opened,
            schedule=schedule,
            ttl=ttl,
            max_stale=max_stale,
            environ=target.environ,
            override=override,
            deadline=deadline,
        )
        await env._start()
        return env

    load_env.__qualname__ = "load_env"
    return _LoadEnvContextManager(load_env())


def _refuse_text(option: str, seconds: object) -> None:
    # What comes from an environment variable; and nobody knows from which.
    if isinstance(seconds, str):
        raise TypeError(f"{option} is a number of seconds, not a str: write {option}=float(...)")


def _texts(option: str, several: object) -> tuple[str, ...]:
    if isinstance(several, str | bytes):
        raise TypeError(f"{option} takes several names: write {option}=[{several!r}]")
    if not isinstance(several, Iterable):
        raise TypeError(f"{option} takes several names, as a list, not {type(several).__name__}")
    names = tuple(several)
    for number, name in enumerate(names):
        _refuse_other(f"{option}[{number}]", name)
    return names


def _refuse_other(argument: str, value: object) -> None:
    if isinstance(value, str):
        return
    if value is None:
        remedy = "os.environ.get() returns None for a variable that is not set"
    elif isinstance(value, bytes | bytearray):
        remedy = "decode() it"
    elif isinstance(value, PurePath):
        remedy = f"it is not the path of a file; write {value.as_posix()!r}"
    elif isinstance(value, Iterable):
        paths = argument.startswith("path")
        remedy = "several paths are several arguments: load_env('/A/', '/B/')" if paths else "give each name by itself"
    else:
        remedy = "give a name as Parameter Store or the environment spells it"
    kind = "None" if value is None else f"of type {type(value).__name__}"
    raise TypeError(f"{argument} is {kind}, not a str: {remedy}")


def _default_paths() -> tuple[str, ...]:
    paths = split_names(os.environ.get("SSM_PATH", ""))
    if not paths:
        raise InvalidPath(
            "no path was given and SSM_PATH is not set",
            remedy="Set SSM_PATH to a path such as /FAKEBOOK/TEST/, or pass one: load_env('/FAKEBOOK/TEST/').",
        )
    return paths


load_env.__module__ = "aiossmenv"
