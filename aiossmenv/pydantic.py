"""
Typed settings from Parameter Store, validated again on each change: `pip install 'aiossmenv[pydantic]'`.

    from pydantic import BaseModel, SecretStr
    from pydantic_settings import BaseSettings

    from aiossmenv.pydantic import live_settings


    class Database(BaseModel):
        host: str
        port: int = 3306
        password: SecretStr


    class Settings(BaseSettings):
        db: Database
        regions: list[str] = []


    async with live_settings(Settings, "/FAKEBOOK/TEST/", ttl=60) as live:
        live.on_change(lambda old, new: print("from", old.db.host, "to", new.db.host))
        print(live.current.db.host)

`/FAKEBOOK/TEST/db/host` fills `db.host`, `/FAKEBOOK/TEST/regions` fills `regions`. `live.current` is always the last
set that was valid. If a refresh brings values that are not valid, it stays, and `live.error` and the log name the
fields and parameters with pydantic's types of error, without values. `await load_settings(Settings, path)` loads once.
Both take the options of `load_env`; `environ` is `None` unless you pass one. `LiveSettings(Settings, env)` uses an
`Env` that you have already; the `Env` of `live_settings` is `live.env`. More than ten parameters take several calls.
The parameters of one nested model are read in one call, if it holds them (ten): make what changes together a nested
model.

**Names.** The parameter of a field has the name of its alias, else that of the field. A nested model is a level of the
hierarchy, or one parameter that holds it as JSON. Only these names are read, spelled as in the code: in one round trip,
without a right to list. For names in upper case set `alias_generator=str.upper` in the model's config. With `keys=None`
the path is listed instead, and `DB-Url` fills `db_url` too: case is ignored, and `-`, `.` and `_` are equal. An exact
name wins; two others that fit are a `KeyCollision`. A `dict` may then be a level of the hierarchy, too. An alias of the
outermost model may have slashes, or be a secret of Secrets Manager: `/aws/reference/secretsmanager/ID`.

**Values.** For a field that is a list, a dict or a model, a `StringList` is split at its commas and stripped, and other
text is read as JSON. All other fields get the text as it is. Use `SecretStr` for what must not be printed.

**Precedence.** Parameters come last, after what pydantic-settings documents: arguments, environment, dotenv, files of
secrets. For another order, put `ParameterSource` in its place. Without a load it is empty, so `Settings()` in a test
needs no store:

    @classmethod
    def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **others):
        return init_settings, ParameterSource(settings_cls), env_settings
"""

import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import wraps
from inspect import isawaitable, isclass
from types import UnionType
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, Union, get_args, get_origin

from aiossmenv._env import Env
from aiossmenv._errors import AiossmenvError, KeyCollision, MissingParameters
from aiossmenv._events import is_async
from aiossmenv._load import _LoadEnvContextManager, load_env
from aiossmenv._models import Change, Parameter, asked_name
from aiossmenv._naming import REFERENCE, is_reference, relative_name
from aiossmenv._spec import MayBeAbsent

try:
    from pydantic import AliasChoices, AliasPath, BaseModel, RootModel, ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource
except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no pydantic-settings
    raise ImportError("aiossmenv.pydantic needs pydantic-settings: pip install 'aiossmenv[pydantic]'") from error

__all__ = ["InvalidSettings", "LiveSettings", "ParameterSource", "live_settings", "load_settings"]

logger = logging.getLogger("aiossmenv")

P = ParamSpec("P")
S = TypeVar("S", bound=BaseSettings)

# Where a field is, as pydantic's errors have it: ("db", "host").
_Location = tuple[int | str, ...]


class InvalidSettings(AiossmenvError):
    """Parameters, or what overrides them, do not fit the class of the settings."""


class _StringList(str):
    """The text of a `StringList`."""

    __slots__ = ()


class ParameterSource(EnvSettingsSource):
    """
    The parameters of an `Env`, by their names below its paths, as a source for `settings_customise_sources`.

    Args:
        settings_cls: The class of the settings.
        env: The `Env`. Default: none; then it marks the place of what `live_settings`, `load_settings` and
            `LiveSettings` read.

    Raises:
        KeyCollision: When it is called: two parameters fill one field, and neither has exactly its name.
    """

    # It is an environment source whose names are those of the fields, with slashes between levels. So a field has the
    # same key here as in the environment, which pydantic-settings needs to let the environment win.

    def __init__(self, settings_cls: type[BaseSettings], env: Env | None = None) -> None:
        super().__init__(
            settings_cls, case_sensitive=True, env_prefix="", env_nested_delimiter="/", env_nested_max_split=0
        )
        self._env = env
        self._fields = dict(_fields(settings_cls))
        self._found: dict[str, Parameter] = {}

    def __call__(self) -> dict[str, Any]:
        """Return what fills the fields; pydantic-settings calls this."""
        parameters = _by_spelling(self._env) if self._env is not None else {}
        self._found = {name: one for name in self.names() if (one := _pick(name, parameters.get(_fold(name), {})))}
        for name in self._found:
            parameters.pop(_fold(name), None)
        others = {name: one for alike in parameters.values() for name, one in alike.items()}
        self.env_vars = {
            name: _StringList(one.value) if one.type == "StringList" else one.value
            for name, one in (others | self._found).items()
        }
        return super().__call__()

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return the items of a `StringList`, the content of JSON, or the text itself, which pydantic refuses."""
        if isinstance(value, _StringList):
            return [item.strip() for item in value.split(",")]
        try:
            decoded = super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return value
        return decoded if isinstance(decoded, (list, dict)) else value

    def names(self) -> list[str]:
        """Return the names, relative to a path, that fields are filled from."""
        return [_name(location) for location in self._fields]


class LiveSettings(Generic[S]):
    """
    Settings that follow an `Env`: built as a whole, once for each refresh that changes something.

    Args:
        settings: A class derived from `BaseSettings`.
        env: An `Env`, which you close.

    Attributes:
        env: The `Env`.
        error: What is wrong with the newest parameters, or `None`.

    Raises:
        MissingParameters: Required parameters are missing, and nothing else is wrong.
        InvalidSettings: The first parameters are not valid.
        KeyCollision: Two parameters fill one field, and neither has exactly its name.
    """

    def __init__(self, settings: type[S], env: Env) -> None:
        self.env = env
        self.error: AiossmenvError | None = None
        self._settings = settings
        self._source = ParameterSource(settings, env)
        self._placed = self._place(settings)
        self._seen = env.snapshot
        first = self._build()
        if isinstance(first, AiossmenvError):
            raise first
        self._current = first
        env.on_change(self._update)
        for keys in self._models():
            env.group(*keys)

    @property
    def current(self) -> S:
        """The last settings that were valid. It is another object only if they differ."""
        return self._current

    def on_change(self, callback: Callable[[S, S], object]) -> Callable[[], None]:
        """
        Call a function with the old and the new settings when they differ.

        A function is called on the event loop. A coroutine function runs in a task, one call at a time; the next call
        covers all changes since. What they raise is logged with type and place, and not raised.

        Args:
            callback: Takes the old and the new settings.

        Returns:
            A function that ends the calls.
        """
        seen = self._current

        @wraps(callback)
        def tell(_: Change) -> object:
            nonlocal seen
            old, seen = seen, self._current
            return None if seen == old else callback(old, seen)

        @wraps(callback)
        async def tell_in_turn(change: Change) -> None:
            if isawaitable(told := tell(change)):
                await told

        return self.env.on_change(tell_in_turn if is_async(callback) else tell)

    def __repr__(self) -> str:
        return f"<LiveSettings of {self._settings.__name__}, {'newer ones are not valid' if self.error else 'valid'}>"

    def _models(self) -> list[list[str]]:
        """Return the keys of each model within the settings."""
        key_of = {id(parameter): key for key, parameter in self.env.parameters.items()}
        models: dict[str, list[str]] = {}
        for name, parameter in self._source._found.items():
            if id(parameter) in key_of:  # a source that was marked may be of another Env
                models.setdefault(name.partition("/")[0], []).append(key_of[id(parameter)])
        return [keys for keys in models.values() if len(keys) > 1]

    def _update(self, _: Change) -> None:
        if self.env.snapshot is self._seen:
            return  # a refresh is validated once, and there is a call for each of its changes
        self._seen = self.env.snapshot
        built = self._build()
        self.error = built if isinstance(built, AiossmenvError) else None
        if isinstance(built, AiossmenvError):
            logger.error("the last valid %s stay: %s: %s", self._settings.__name__, type(built).__name__, built)
        elif built != self._current:
            self._current = built

    def _place(self, settings: type[S]) -> type[S]:
        """Return *settings* with our source among theirs: where they marked its place, else last."""

        class Placed(settings):  # type: ignore[valid-type,misc] # a class that is known at run time only
            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                chosen = super().settings_customise_sources(settings_cls, **sources)
                marked = next((source for source in chosen if isinstance(source, ParameterSource)), None)
                self._source = marked or ParameterSource(settings_cls)
                if self._source._env is None:
                    self._source._env = self.env
                return chosen if marked else (*chosen, self._source)

        return Placed

    def _build(self) -> S | AiossmenvError:
        # The error is returned and not raised: pydantic's error and its frames hold values, and the messages of
        # validators may hold some.
        try:
            built = self._placed()
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            problems = [(problem["loc"], problem["type"]) for problem in found]
        except AiossmenvError as error:
            return error.with_traceback(None)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            problems = [((), f"{type(error).__name__} at {place.filename}:{place.lineno}")]
        else:
            # Users compare, pickle and match settings by their own class.
            object.__setattr__(built, "__class__", self._settings)
            return built
        return self._fault(problems)

    def _fault(self, problems: list[tuple[_Location, str]]) -> AiossmenvError:
        fields, found, wanted = self._source._fields, self._source._found, self.env._publisher.spec
        missing: set[str] = set()
        wrong: set[str] = set()
        for location, kind in problems:
            if kind == "missing" and location in fields:
                # For a model that is missing as a whole, name all that it needs.
                inner = [other for other, needed in fields.items() if needed and other[: len(location)] == location]
                names = [_name(other) for other in inner or [location]]
                missing |= {
                    name if is_reference(name) else f"{(wanted.paths or ('',))[-1].rstrip('/')}/{name}"
                    for name in names
                }
                continue
            # The location ends at the field, because the keys of JSON within it may be secret.
            heads = [location[:length] for length in range(len(location), 0, -1)]
            at = next((head for head in heads if head in fields), location[:1])
            parameter = next((found[_name(head)] for head in heads if _name(head) in found), None)
            field = ".".join(map(str, at)) or self._settings.__name__
            wrong.add(f"{field}: {kind}" + (f" (parameter {parameter.name})" if parameter else ""))
        path, region = wanted.where, self.env._publisher.region
        if wrong:
            faults = "; ".join([*sorted(wrong), *(f"missing: {name}" for name in sorted(missing))])
            remedy = "Correct the parameters, or what overrides them."
            return InvalidSettings(faults, path=path, region=region, remedy=remedy)
        return MissingParameters(
            f"required, and not there: {', '.join(sorted(missing))}",
            keys=tuple(sorted(missing)),
            path=path,
            region=region,
            remedy="Create them, or check the path and the region; keys=None finds them if they are spelled otherwise.",
        )


class _Around(Generic[P]):
    """Gives its methods the options of *load*, so that they are written in one place."""

    def __init__(self, load: Callable[P, _LoadEnvContextManager]) -> None:
        self._load = load

    @asynccontextmanager
    async def live_settings(
        self, settings: type[S], *paths: P.args, **options: P.kwargs
    ) -> AsyncIterator[LiveSettings[S]]:
        """
        Load settings and keep them current until the block ends.

        Args:
            settings: A class derived from `BaseSettings`.
            *paths: As for `load_env`.
            **options: As for `load_env`, with three other defaults. *environ* is `None`; one that you pass is filled
                with what is read, valid or not. Without it *to_key* is `str`. *keys* are the names of the fields.

        Yields:
            The `LiveSettings`.

        Raises:
            AiossmenvError: What `load_env` and `LiveSettings` raise.
        """
        if options.setdefault("environ", None) is None:
            # No variables are set, so a key may be the name itself.
            options.setdefault("to_key", str)
        options.setdefault("keys", MayBeAbsent(ParameterSource(settings).names()))
        # For an empty path, the names that are missing say more than EmptyPath.
        options.setdefault("allow_empty", any(field.is_required() for field in settings.model_fields.values()))
        try:
            loading = self._load(*paths, **options)
        finally:
            del options  # environ may hold values, and a traceback may show this frame
        async with loading as env:
            yield LiveSettings(settings, env)

    async def load_settings(self, settings: type[S], *paths: P.args, **options: P.kwargs) -> S:
        """
        Load settings once, and leave nothing open.

        Args:
            settings: A class derived from `BaseSettings`.
            *paths: As for `load_env`.
            **options: As for `live_settings`.

        Returns:
            The settings.

        Raises:
            AiossmenvError: What `live_settings` raises.
        """
        loading = self.live_settings(settings, *paths, **options)
        del options
        async with loading as live:
            return live.current


_around = _Around(load_env)
live_settings, load_settings = _around.live_settings, _around.load_settings


def _by_spelling(env: Env) -> dict[str, dict[str, Parameter]]:
    """Return the parameters by their names below the paths, those together that differ in spelling only."""
    alike: dict[str, dict[str, Parameter]] = {}
    for path in env._publisher.spec.paths or (REFERENCE,):
        for parameter in env.parameters.values():
            # A parameter that is not below this path keeps its full name, and no field has that.
            asked = asked_name(parameter)
            name = parameter.inner_name or (asked if is_reference(asked) else relative_name(path, asked))
            alike.setdefault(_fold(name), {})[name] = parameter
    return alike


def _pick(name: str, alike: dict[str, Parameter]) -> Parameter | None:
    if len(alike) > 1 and name not in alike:
        names = tuple(parameter.name for parameter in alike.values())
        raise KeyCollision(
            f"several parameters fill {name}: {' and '.join(names)}",
            collisions={name: names},
            remedy="Remove all but one, or give the field the name of one as its alias.",
        )
    return alike.get(name) or next(iter(alike.values()), None)


def _fields(
    model: type[BaseModel], at: _Location = (), *, needed: bool = True, within: tuple[type[BaseModel], ...] = ()
) -> Iterator[tuple[_Location, bool]]:
    """Yield each place of a value, and whether a value is needed there: not with a default, nor for a model."""
    config = model.model_config
    for name, field in model.model_fields.items():
        alias = field.validation_alias if config.get("validate_by_alias", True) else None
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        by_name = [name] if config.get("validate_by_name") or config.get("populate_by_name") else []
        keys = [str(key.path[0]) if isinstance(key, AliasPath) else key for key in (*choices, *by_name)]
        # A model that contains itself is followed no further; it may be written as JSON, to any depth.
        models = [kind for kind in _models(field.annotation) if kind not in (model, *within)]
        for key in dict.fromkeys(keys):
            is_needed = needed and field.is_required() and key == keys[0]
            # A secret of Secrets Manager is one text, and has no levels.
            levels = [] if is_reference(key) else models
            yield (*at, key), is_needed and not levels
            for kind in levels:
                yield from _fields(kind, (*at, key), needed=is_needed, within=(model, *within))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that *annotation* allows by itself, not as items of something."""
    annotation = getattr(annotation, "__value__", annotation)  # what a `type` statement says
    if get_origin(annotation) in (Union, UnionType, Annotated):
        for member in get_args(annotation):
            yield from _models(member)
    elif isclass(annotation) and issubclass(annotation, BaseModel) and not issubclass(annotation, RootModel):
        yield annotation


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_").replace(".", "_")


def _name(location: _Location) -> str:
    return "/".join(map(str, location))
