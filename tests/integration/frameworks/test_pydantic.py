"""Typed settings: what fills them, what they follow, and what the errors of invalid values say."""

import ast
import asyncio
import inspect
import logging
import os
import re
import textwrap
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    Field,
    Json,
    RootModel,
    SecretStr,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import TypeAliasType

import aiossmenv.pydantic
import settings_models
from aiossmenv import EmptyPath, KeyCollision, MissingParameters, load_env
from aiossmenv.pydantic import InvalidSettings, LiveSettings, ParameterSource, load_settings
from embedded import Store
from faults import FaultProxy
from settings_models import MARK, Database, Held, Settings, Strict, assert_hidden, database, load_error, settings_of

# --- The documentation page


async def test_page(ssm: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of the module's docstring runs unchanged, and reports a change."""
    page = inspect.getdoc(aiossmenv.pydantic) or ""
    # Indented lines are code, and so are the empty lines between them.
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?=\n? {4}))+", page + "\n", re.MULTILINE)
    first, last = map(textwrap.dedent, blocks)
    for name, value in (("db/host", "old"), ("db/password", MARK)):
        await asyncio.to_thread(ssm.put, f"/FAKEBOOK/TEST/{name}", value)

    async def move(live: LiveSettings[Any]) -> None:
        await asyncio.to_thread(ssm.put, "/FAKEBOOK/TEST/db/host", "new")
        await live.env.refresh()

    names: dict[str, Any] = {"move": move}
    program = compile(first + "    await move(live)\n", "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(program, names)  # code with a top-level await evaluates to a coroutine

    assert "old\nfrom old to new\n" == capsys.readouterr().out
    names["ParameterSource"] = ParameterSource
    exec(f"class Marked(Settings):\n    debug: bool = False\n{textwrap.indent(last, '    ')}", names)
    os.environ["DEBUG"] = "false"
    marked = await load_settings(names["Marked"], "/app", store=database(debug="true").store)
    assert marked.model_dump()["debug"]
    assert len(page.splitlines()) < 60


# --- Names


async def test_one_request_without_listing(ssm: Store, proxy: FaultProxy) -> None:
    """Settings read exactly the names of their fields, in one call, and set no environment variable."""
    for name, value, kind in (
        ("db/host", "h", "String"),
        ("db/password", MARK, "SecureString"),
        ("regions", "eu-west-1, us-east-1", "StringList"),
        ("other", "x", "String"),
    ):
        await asyncio.to_thread(ssm.put, f"/app/{name}", value, kind)
    before = dict(os.environ)

    settings = await load_settings(Settings, "/app/")

    assert ("h", 3306, MARK) == (settings.db.host, settings.db.port, settings.db.password.get_secret_value())
    assert ["eu-west-1", "us-east-1"] == settings.regions
    assert ["GetParameters"] == [call.operation for call in proxy.calls]
    names = ["db", "db/host", "db/password", "db/port", "debug", "regions"]
    assert [f"/app/{name}" for name in names] == sorted(proxy.calls[0].body["Names"])
    assert before == dict(os.environ)


async def test_environ_is_filled_on_request() -> None:
    """With `environ` the values are set there too, under the keys of `load_env`."""
    environ: dict[str, str] = {}
    await load_settings(Settings, "/app", environ=environ, store=database().store)
    assert {"DB_HOST": "h", "DB_PASSWORD": MARK} == environ


def test_names_of_fields() -> None:
    """Names come from aliases, or else from fields, level by level; a recursive model ends at its first repetition."""

    class Node(BaseModel):
        value: int = 0
        inner: "Node | None" = None
        leaf: "Leaf | None" = None

    class Leaf(BaseModel):
        node: Node | None = None

    Node.model_rebuild()

    class Items(RootModel[list[int]]):
        pass

    class Many(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="APP_")
        plain: int = 0
        alias: int = Field(0, alias="ALIAS")
        choice: int = Field(0, validation_alias=AliasChoices("first", AliasPath("second", 0)))
        path: int = Field(0, validation_alias=AliasPath("third", "of"))
        node: Annotated[Node, "note"] | None = Field(None, validation_alias=AliasChoices("NODE", "knot"))
        items: Items = Items([])
        named: TypeAliasType("Named", Leaf | None) = None  # type: ignore[valid-type] # the `type` statement of 3.12
        listed: list[Node] = []

    names = ["plain", "ALIAS", "first", "second", "third"]
    ends = ["value", "inner", "leaf", "leaf/node"]
    nodes = [name for root in ("NODE", "knot") for name in (root, *(f"{root}/{end}" for end in ends))]
    named = ["named", "named/node", *(f"named/node/{end}" for end in ("value", "inner", "leaf"))]
    assert [*names, *nodes, "items", *named, "listed"] == ParameterSource(Many).names()


@pytest.mark.parametrize("key", ["populate_by_name", "validate_by_name", "validate_by_alias"])
async def test_names_by_config(key: Literal["populate_by_name", "validate_by_name", "validate_by_alias"]) -> None:
    """
    If the model's config allows the field name besides or instead of its alias, both names or only that name are read.
    """
    config = {"validate_by_alias": False, "validate_by_name": True} if key == "validate_by_alias" else {key: True}

    class Named(BaseSettings):
        model_config = SettingsConfigDict(**config)  # type: ignore[typeddict-item] # mypy knows only literal keys
        x: int = Field(alias="Y")

    held = Held(x="1")
    assert 1 == (await load_settings(Named, "/app", store=held.store)).x
    assert (["x"] if key == "validate_by_alias" else ["Y", "x"]) == [
        name.removeprefix("/app/") for name in held.names_read
    ]


async def test_upper_case_by_alias_generator() -> None:
    """A config that generates upper-case aliases reads upper-case names, without a listing."""

    class Upper(BaseSettings):
        model_config = SettingsConfigDict(alias_generator=str.upper)
        db_url: str

    held = Held(DB_URL="u")
    assert "u" == (await load_settings(Upper, "/app", store=held.store)).db_url
    assert ["/app/DB_URL"] == held.names_read


@pytest.mark.parametrize("name", ["db_url", "DB_URL", "db-url", "Db.Url"])
async def test_other_spellings_when_listed(name: str) -> None:
    """In a listed path, case and the choice of `- . _` make no difference to which field is filled."""

    class Level(BaseModel, extra="forbid"):
        db_url: str

    class Url(Level, BaseSettings):
        model_config = SettingsConfigDict(extra="forbid")
        level: Level

    held = Held(**{name: "u", f"level/{name}": "v", "unknown": "x", "un/known": "x"})
    settings = await load_settings(Url, "/app", keys=None, store=held.store)
    assert ("u", "v") == (settings.db_url, settings.level.db_url)
    if name != "db_url":
        with pytest.raises(MissingParameters, match="/app/db_url"):
            await load_settings(Url, "/app", store=held.store)


async def test_two_spellings_of_one_field() -> None:
    """An exact name wins; without one, the error names both parameters and shows no value."""

    class Url(BaseSettings):
        db_url: str

    # The attribute in which pydantic-settings keeps it while it raises the error.
    os.environ["DB_URL"] = MARK
    held = Held(**{"db-url": MARK, "DB_URL": MARK})
    with pytest.raises(KeyCollision, match="several parameters fill db_url: /app/DB_URL and /app/db-url") as caught:
        await load_settings(Url, "/app", keys=None, to_key=str, store=held.store)
    assert {"db_url": ("/app/DB_URL", "/app/db-url")} == caught.value.collisions
    assert_hidden(caught.value)

    del os.environ["DB_URL"]
    held.set("/app/db_url", "exact")
    assert "exact" == (await load_settings(Url, "/app", keys=None, to_key=str, store=held.store)).db_url


async def test_later_paths_win_and_the_root_works() -> None:
    """Of two paths the later one wins for each field; a path may be the root."""
    held = database()
    held.set("/common/db/host", "common")
    held.set("/common/debug", "true")

    settings = await load_settings(Settings, "/common", "/app", store=held.store)
    assert ("h", True) == (settings.db.host, settings.debug)

    class Root(BaseSettings):
        app: Settings

    assert "h" == (await load_settings(Root, "/", store=held.store)).app.db.host
    for name in ("db/host", "db/password"):
        held.remove(f"/app/{name}")
    for settings_class, paths, keys in (
        (Root, ["/"], ("/app/db/host", "/app/db/password")),
        (Settings, ["/common", "/app"], ("/app/db/password",)),
    ):
        with pytest.raises(MissingParameters) as caught:
            await load_settings(settings_class, *paths, store=held.store)
        assert keys == caught.value.keys


async def test_alias_of_two_levels_and_of_another_store() -> None:
    """An alias may name a lower level, or a secret of Secrets Manager."""
    reference = "/aws/reference/secretsmanager/prod/key"

    class Flat(BaseSettings):
        host: str = Field(validation_alias="db/host")
        api_key: SecretStr = Field(validation_alias=reference)

    held = database()
    held.set(reference, MARK)
    settings = await load_settings(Flat, "/app", store=held.store)

    assert ("h", MARK) == (settings.host, settings.api_key.get_secret_value())
    with pytest.raises(MissingParameters) as caught:
        LiveSettings(Flat, await load_env("/app", store=held.store))
    assert (reference,) == caught.value.keys


# --- Values


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (int, "5", 5),
        (str, "a, b", "a, b"),
        (str, '{"a": 1}', '{"a": 1}'),
        (str | None, "null", "null"),
        (SecretStr, MARK, SecretStr(MARK)),
        (list[int], "[1, 2]", [1, 2]),
        (list[str] | None, '["a"]', ["a"]),
        (str | list[str], "123", "123"),
        (str | list[str], '["a"]', ["a"]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (set[str], '["a", "a"]', {"a"}),
        (Json[list[int]], "[1]", [1]),
        (Annotated[list[str], NoDecode] | str, "[", "["),
        (RootModel[list[int]], "[1]", [1]),
        (Database, f'{{"host": "h", "password": "{MARK}"}}', {"host": "h", "port": 3306, "password": SecretStr(MARK)}),
        (Database | None, '{"host": "h", "password": ""}', {"host": "h", "port": 3306, "password": SecretStr("")}),
    ],
)
async def test_text_values(annotation: Any, text: str, expected: object) -> None:
    """A field of several items gets the parsed JSON of the text; any other field gets the text."""
    settings = await load_settings(settings_of(x=annotation), "/app", store=Held(x=text).store)
    assert {"x": expected} == settings.model_dump()


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (list[str], ["a", "b c", ""]),
        (list[str] | None, ["a", "b c", ""]),
        (set[str], {"a", "b c", ""}),
        (list[SecretStr], [SecretStr("a"), SecretStr("b c"), SecretStr("")]),
        (str, "a, b c,"),
    ],
)
async def test_string_lists(annotation: Any, expected: object) -> None:
    """
    A `StringList` becomes a list of stripped items for a field of several items, and text for any other, at any level.
    """
    within = type("Within", (BaseModel,), {"__annotations__": {"y": annotation}})
    held = Held()
    held.set("/app/x", "a, b c,", "StringList")
    held.set("/app/within/y", "a, b c,", "StringList")

    settings = await load_settings(settings_of(x=annotation, within=within), "/app", store=held.store)

    assert {"x": expected, "within": {"y": expected}} == settings.model_dump()
    assert type(expected) is type(settings.model_dump()["x"])


async def test_paths_of_aliases() -> None:
    """A field with an `AliasPath` gets that part of the JSON of the parameter that the path starts with."""

    class Deep(BaseSettings):
        first: int = Field(validation_alias=AliasChoices("one", AliasPath("numbers", 0)))
        host: str = Field(validation_alias=AliasPath("db", "host"))

    held = Held(numbers="[7, 8]", db='{"host": "h"}')
    assert {"first": 7, "host": "h"} == (await load_settings(Deep, "/app", store=held.store)).model_dump()


async def test_level_and_json_together() -> None:
    """A model may be one JSON parameter, and parameters below its name override it."""
    held = Held(db=f'{{"host": "json", "password": "{MARK}"}}')
    assert "json" == (await load_settings(Settings, "/app", store=held.store)).db.host
    held.set("/app/db/host", "level")
    settings = await load_settings(Settings, "/app", store=held.store)
    assert ("level", MARK) == (settings.db.host, settings.db.password.get_secret_value())


async def test_optional_models_and_unions() -> None:
    """An optional model without any parameter is None; the members of a union are filled in the same way."""

    class Cat(BaseModel):
        kind: Literal["cat"]
        lives: int = 9

    class Dog(BaseModel):
        kind: Literal["dog"]
        tricks: list[str] = []

    class Home(BaseSettings):
        db: Database | None = None
        pet: Cat | Dog | None = Field(None, discriminator="kind")

    held = Held(**{"pet/kind": "dog", "pet/tricks": '["sit"]'})
    assert Home(pet=Dog(kind="dog", tricks=["sit"])) == await load_settings(Home, "/app", store=held.store)


async def test_dicts_by_hierarchy_when_listed() -> None:
    """In a listed path, a dict is also filled by the parameters below its name."""

    held = Held(**{"limits/a": "1", "limits/b": "2"})
    settings = await load_settings(settings_of(limits=dict[str, int]), "/app", keys=None, store=held.store)
    assert {"limits": {"a": 1, "b": 2}} == settings.model_dump()


# --- Precedence


async def test_environment_overrides_parameters() -> None:
    """The environment overrides parameters, also in parts of a model and for a field with several names."""

    class Both(BaseSettings):
        model_config = SettingsConfigDict(env_nested_delimiter="__")
        db: Database
        mode: str = Field(validation_alias=AliasChoices("first", "mode"))

    os.environ |= {"DB__HOST": "environment", "MODE": "environment"}
    held = database(first="store")
    settings = await load_settings(Both, "/app", store=held.store)

    assert ("environment", MARK) == (settings.db.host, settings.db.password.get_secret_value())
    assert "environment" == settings.mode


async def test_options_of_the_environment() -> None:
    """The prefix, delimiter and case of environment variables make no difference to parameters."""

    class Odd(BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix="APP_", env_nested_delimiter="_", env_nested_max_split=1, case_sensitive=False
        )
        app: Settings

    held = Held(**{"app/db/host": "h", "app/db/password": MARK})
    os.environ["APP_APP_DEBUG"] = "true"
    settings = await load_settings(Odd, "/app", store=held.store)
    assert ("h", True) == (settings.app.db.host, settings.app.debug)


async def test_position_of_the_source() -> None:
    """
    The source stands where the class puts it; outside of a load it is empty, and with an `Env` it works without a load.
    """

    class First(BaseSettings):
        mode: str = "default"
        env: ClassVar[Any] = None

        @classmethod
        def settings_customise_sources(  # type: ignore[override] # as in the docstring: passed by name
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            **_: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, ParameterSource(settings_cls, cls.env), env_settings

    held = Held(mode="store")
    assert "default" == First().mode
    os.environ["MODE"] = "environment"
    assert "environment" == First().mode
    assert "store" == (await load_settings(First, "/app", store=held.store)).mode

    First.env = await load_env("/app", environ=None, store=held.store)
    assert ("store", "argument") == (First().mode, First(mode="argument").mode)
    held.set("/other/mode", "other")
    assert "store" == (await load_settings(First, "/other", store=held.store)).mode


# --- Invalid values


async def test_all_missing_parameters_are_named() -> None:
    """
    One error names all required parameters that are missing, including those of a missing model, but no optional ones.
    """

    class Outer(BaseModel):
        url: str = Field(validation_alias=AliasChoices("url", "uri"))
        spare: Database | None = None

    class More(Settings):
        outer: Outer
        token: SecretStr = Field(validation_alias=AliasChoices("api-token", "token"))
        inner: Database = Field(alias="INNER")
        spare: Database | None = None

    error = await load_error(More, Held(**{"INNER/host": "h"}))

    assert isinstance(error, MissingParameters)
    names = ("/app/INNER/password", "/app/api-token", "/app/db/host", "/app/db/password", "/app/outer/url")
    assert names == error.keys
    assert (
        f"required, and not there: {', '.join(names)} (path /app, region eu-central-1). Create them, or check the path"
        " and the region; keys=None finds them if they are spelled otherwise."
    ) == str(error)


async def test_missing_model_without_required_fields() -> None:
    """If a missing required model has no required field, the error names the model."""

    class Pool(BaseModel):
        size: int = 1

    class Pooled(BaseSettings):
        pool: Pool

    error = await load_error(Pooled, Held())
    assert isinstance(error, MissingParameters)
    assert ("/app/pool",) == error.keys


async def test_empty_path() -> None:
    """A path without parameters is `EmptyPath`, even if the settings require nothing, unless `allow_empty` is set."""

    class Lax(BaseSettings):
        debug: bool = False

    assert isinstance(await load_error(Lax, Held(other="x")), EmptyPath)
    assert not (await load_settings(Lax, "/app", allow_empty=True, store=Held().store)).debug


async def test_missing_optional_parameters_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Missing optional parameters cause neither an error nor a warning."""
    with caplog.at_level(logging.INFO, "aiossmenv"):
        await load_settings(Settings, "/app", store=database().store)

    assert [("INFO", "not in Parameter Store: /app/db, /app/db/port, /app/debug, /app/regions")] == [
        (record.levelname, record.getMessage()) for record in caplog.records
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"port": MARK}, "port: int_parsing (parameter /app/port)"),
        ({"limits": f'{{"{MARK}": "{MARK}"}}'}, "limits: int_parsing (parameter /app/limits)"),
        ({"limits": f'["{MARK}"'}, "limits: dict_type (parameter /app/limits)"),
        ({"items": f"[1, {MARK}]"}, "items: list_type (parameter /app/items)"),
        ({"items": f'[1, "{MARK}", "{MARK}"]'}, "items: int_parsing (parameter /app/items)"),
        ({"db": MARK}, "db: model_type (parameter /app/db)"),
        ({"db": f'{{"host": "h", "password": "{MARK}", "port": "x"}}'}, "db.port: int_parsing (parameter /app/db)"),
        ({"db/host": "h", "db/port": MARK}, "db.port: int_parsing (parameter /app/db/port); missing: /app/db/password"),
        ({"token": f"{MARK} short"}, "token: value_error (parameter /app/token)"),
        ({"token": MARK, "port": "0"}, "Strict: value_error"),
        ({"token": f"{MARK} broken"}, f"Strict: RuntimeError at {settings_models.__file__}:"),
    ],
)
async def test_invalid_values(values: dict[str, str], expected: str) -> None:
    """An invalid value is described by field, type of error and parameter, never by value, JSON key or message."""
    error = await load_error(Strict, Held(**values))

    assert isinstance(error, InvalidSettings)
    assert str(error).startswith(expected)
    assert ("/app", "eu-central-1") == (error.path, error.region)
    assert str(error).endswith(" (path /app, region eu-central-1). Correct the parameters, or what overrides them.")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [("PORT", MARK, "port: int_parsing (path"), ("LIMITS", f'{{"{MARK}": "x"}}', "limits: int_parsing (path")],
)
async def test_invalid_overrides(variable: str, value: str, expected: str) -> None:
    """For an invalid value of the environment, the error names no parameter and shows neither value nor key."""
    os.environ[variable] = value
    error = await load_error(Strict, Held(db='{"host": "h", "password": ""}'))
    assert isinstance(error, InvalidSettings)
    assert str(error).startswith(expected)


async def test_environment_that_is_not_json() -> None:
    """An environment variable that should be JSON is named with the type of error, and not quoted."""
    held = Held(port="1")
    assert Strict() == await load_settings(Strict, "/app", store=held.store)
    os.environ["ITEMS"] = MARK
    error = await load_error(Strict, held)
    assert str(error).startswith("Strict: SettingsError at ")
