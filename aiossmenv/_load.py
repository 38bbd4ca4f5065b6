"""`load_env`: its options, looked at before anything is read."""

import os
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import TracebackType
from typing import Literal, cast, get_args

from aiossmenv._env import Env
from aiossmenv._environ import PROTECTED
from aiossmenv._errors import InvalidPath
from aiossmenv._expand import Format, require_dotenv
from aiossmenv._naming import is_reference, normal_key, normal_path, split_names, upper_snake
from aiossmenv._publisher import Publisher
from aiossmenv._refresher import Refresher
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
class _Target:
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
    expand: Literal["json", "dotenv"] | Mapping[str, Literal["json", "dotenv"]] | None = None,
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

    With *ttl* and `await`, end it with `await env.aclose()`. Region, identity, endpoint, proxies and certificates are
    those of the first request of *store*, for its life: a parameter that becomes `AWS_REGION` changes the environment,
    and not where the next refresh goes.

    Args:
        paths: With or without a final slash, the same. Of two paths that give one key, the later wins. Default:
            `$SSM_PATH`, comma separated; none is needed if all *keys* are secrets of Secrets Manager.
        ttl: Seconds for which a snapshot is fresh; it is refreshed before they are over. Default: `None`, no refreshes.
        keys: Names that are known up front, relative to the paths or in full, with `:3` or `:label` for a version: no
            listing. What is not there is left out, and named in a warning of the log. Default: `None`, everything.
        required: Keys that must be there, spelled as they are in the environment. Default: none.
        recursive: All levels, or direct children only. Default: `True`.
        to_key: Relative name -> key. Default: `/ . -` become `_`, in upper case; `str` keeps the name as it is.
        expand: For parameters and secrets that hold several variables: `"json"`, one object, whose levels are joined
            with `/`, so that `{"db": {"host": "x"}}` gives DB_HOST; or `"dotenv"`, lines `KEY=VALUE`, read by
            python-dotenv (`pip install 'aiossmenv[dotenv]'`) without `${}`. One format for everything that is read, or
            a mapping from keys, or names as in *keys*, to formats. Numbers stay as they are written, a list becomes
            the text of JSON, and `null` is left out. Default: `None`, a parameter is one variable.
        environ: The mapping to fill; `None`: none. Default: `os.environ`.
        override: Whether a variable that was there before is replaced. Default: `True`.
        protected: Keys, as patterns like `LD_*`, that are refused with `InvalidVariable`, by a refresh too. Default:
            variables that make programs run other code, such as `PATH` and `PYTHONPATH`; `()`: none.
        allow_empty: Whether a path may hold nothing. Default: `False`.
        deadline: Seconds for the first load, and for each refresh, retries and all. Default: the store's, 30.
        max_stale: Seconds, *ttl* at least, after which `env[key]` raises `StaleEnv`; `env.parameters` and
            `env.snapshot` do not. Default: `None`, never.
        list_interval: Seconds between two listings, which find what was added; between them the known names are read,
            and decrypted when they changed. Default: five times *ttl*.
        revalidate_interval: Seconds after which everything is decrypted again, changed or not, which notices a right
            that was taken away; `None`: never. Default: 43,200, 12 hours.
        store: A `ParameterStore` to share. Default: a new one.

    Returns:
        What to await for an `Env`, or to enter with `async with`.

    Raises:
        InvalidPath: A path or a name cannot exist, or there is none.
        EmptyPath: There is nothing under a path.
        MissingParameters: *required* keys are missing.
        KeyCollision: Two parameters of one path, or two names in parameters that are expanded, have one key.
        ExpansionFailed: A value is not what *expand* says that it is.
        InvalidVariable: The environment cannot hold a key or a value, or the key is protected.
        AccessDenied: There are no usable credentials, or the role may not read this.
        DecryptionFailed: KMS does not decrypt a value.
        Throttled: Requests were throttled until *deadline*.
        StoreUnavailable: There was no usable answer until *deadline*.
        TypeError: An option is of another type; at once.
        ValueError: An option cannot be; at once.
        ImportError: *expand* needs python-dotenv, which is not installed; at once.
    """
    target = _Target(os.environ if environ is _OS_ENVIRON else environ)
    del environ  # a traceback may show the variables of these frames
    texts = None if keys is None else _texts("keys", keys)
    keys_needed = _texts("required", required)
    keys_refused = PROTECTED if protected is PROTECTED else _texts("protected", protected)
    for option, seconds in (
        ("ttl", ttl),
        ("max_stale", max_stale),
        ("deadline", deadline),
        ("list_interval", list_interval),
        ("revalidate_interval", revalidate_interval),
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
        paths, source = default_paths(), "SSM_PATH"
    # Of a path that is given twice, the later one counts.
    normal = tuple(reversed(dict.fromkeys(reversed([normal_path(path, source) for path in paths]))))
    spec = EnvSpec(
        paths=normal,
        names=None if texts is None else tuple(dict.fromkeys(normal_key(key, normal) for key in texts)),
        optional=isinstance(keys, MayBeAbsent),
        required=frozenset(keys_needed),
        protected=keys_refused,
        recursive=recursive,
        to_key=to_key,
        allow_empty=allow_empty,
        expand=_formats(expand),
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
        publisher = Publisher(
            spec,
            opened,
            environ=target.environ,
            override=override,
            deadline=deadline,
            holds_store=ttl is not None,
        )
        refresher = Refresher(
            publisher, schedule, opened.clock, background=ttl is not None, needs_check=max_stale is not None
        )
        await refresher.start()
        return Env(publisher, refresher)

    load_env.__qualname__ = "load_env"
    return _LoadEnvContextManager(load_env())


def _refuse_text(option: str, seconds: object) -> None:
    # It probably comes from an environment variable; which one is not known here.
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


def _formats(expand: Format | Mapping[str, Format] | None) -> Format | Mapping[str, Format] | None:
    known = get_args(Format)
    neither = f"neither {' nor '.join(map(repr, known))}"
    # What was given is not quoted: a mapping that was passed by mistake may hold values.
    if not isinstance(expand, str | Mapping | None):
        raise TypeError(f"expand is {neither}, nor a mapping of keys to these, but of type {type(expand).__name__}")
    formats: list[Format] = []
    if isinstance(expand, str):
        if expand not in known:
            raise ValueError(f"expand is {neither}, nor a mapping of keys to these")
        formats = [expand]
    elif expand is not None:
        expand = dict(expand)
        for name, form in expand.items():
            _refuse_other("a name in expand", name)
            if form not in known:
                raise ValueError(f"expand[{name!r}] is {neither}")
        formats = list(expand.values())
    if "dotenv" in formats:
        require_dotenv()
    return expand or None


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


def default_paths() -> tuple[str, ...]:
    """Return the paths that `SSM_PATH` names."""
    paths = split_names(os.environ.get("SSM_PATH", ""))
    if not paths:
        raise InvalidPath(
            "no path was given and SSM_PATH is not set",
            remedy="Set SSM_PATH to a path such as /FAKEBOOK/TEST/, or pass one: load_env('/FAKEBOOK/TEST/').",
        )
    return paths


load_env.__module__ = "aiossmenv"
