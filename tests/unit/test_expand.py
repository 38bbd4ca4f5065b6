"""One parameter that holds several variables: what it is expanded to, and what is said of one that cannot be."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aiossmenv
from aiossmenv import ExpansionFailed, InvalidVariable, KeyCollision, Parameter
from aiossmenv._expand import _JSON_MESSAGES, _MANY, DEPTH, Expander, Format
from aiossmenv._naming import upper_snake
from aiossmenv._ssm.merge import StoreState

PACKAGE = str(Path(aiossmenv.__file__).parent)
PATH = "/P"
NAME = "/P/IT"
# What is said of a text, whatever it is.
SAID = {
    "this is not JSON", "this is not an object", f"there are more than {DEPTH} levels",
    "JSON has no NaN and no Infinity", "this name is in the object already", "this is not KEY=VALUE",
    "there is no = behind the name", "a name is made of single slashes and of letters, digits and _ . -",
    "this name is there already", f"there are {_MANY} spaces in a row", *_JSON_MESSAGES,
}  # fmt: skip


def made(value: str, name: str = NAME, version: int = 3) -> Parameter:
    """Return a parameter that holds a text."""
    return Parameter(name=name, value=value, type="SecureString", version=version, arn=f"arn:{name}")


def read(*parameters: Parameter, missing_once: frozenset[str] = frozenset()) -> StoreState:
    """Return what is known after a read of those."""
    return StoreState({parameter.name: parameter for parameter in parameters}, {}, missing_once)


def expanded(value: str, form: Format = "json", to_key: Callable[[str], str] = str) -> dict[str, str]:
    """Expand one text; returns its values by their keys."""
    keyed = Expander(form, to_key, "eu-central-1").keyed(PATH, [NAME], read(made(value)))
    return {key: parameter.value for key, parameter in keyed.items()}


def refused(value: str, form: Format) -> ExpansionFailed:
    """Return the error of a text that cannot be expanded."""
    with pytest.raises(ExpansionFailed) as caught:
        expanded(value, form)
    return caught.value


# --- JSON


def test_an_object() -> None:
    """Levels are joined as in a name of Parameter Store, and each value becomes the text that it is written as."""
    value = """{
        "db": {"host": "db.test", "read-only": {"port": 3306}, "none": {}},
        "price": 1.10, "big": 123456789012345678901234567890, "tiny": -1E-7, "zero": -0,
        "on": true, "off": false, "nothing": null,
        "empty": "", "text": "1.10",
        "list": [1.10, "a\\u00e9\\n\\"", {"b": null, "c": [ ] }, true]
    }"""

    assert {
        "DB_HOST": "db.test",
        "DB_READ_ONLY_PORT": "3306",
        "PRICE": "1.10",
        "BIG": "123456789012345678901234567890",
        "TINY": "-1E-7",
        "ZERO": "-0",
        "ON": "true",
        "OFF": "false",
        "EMPTY": "",
        "TEXT": "1.10",
        "LIST": '[1.10,"aé\\n\\"",{"b":null,"c":[]},true]',
    } == expanded(value, to_key=upper_snake)


def test_a_mark_of_windows() -> None:
    """A mark at the beginning, which Windows puts there, is no part of the text."""
    assert {"a": "1"} == expanded('\ufeff{"a": 1}') == expanded("\ufeffa=1", "dotenv")


def test_parts_are_of_their_parameter() -> None:
    """Each resulting parameter is the one that holds it, with a value and a name of its own."""
    holder = made('{"db": {"host": "x"}}')

    keyed = Expander("json", upper_snake).keyed(PATH, [NAME], read(holder))

    part = keyed["DB_HOST"]
    assert ["DB_HOST"] == list(keyed)
    assert (NAME, 3, "SecureString", "arn:/P/IT") == (part.name, part.version, part.type, part.arn)
    assert ("db/host", "x") == (part.inner_name, part.value)
    assert repr(holder) == repr(part)


TEXTS = st.text(st.characters(codec="utf-8"))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1)
OBJECTS = st.recursive(st.dictionaries(NAMES, TEXTS), lambda inner: st.dictionaries(NAMES, inner | TEXTS), max_leaves=9)


def flat(found: dict[str, Any], above: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the texts of nested objects by the ways to them."""
    values: dict[str, str] = {}
    for name, inner in found.items():
        values |= flat(inner, (*above, name)) if isinstance(inner, dict) else {"/".join((*above, name)): inner}
    return values


@given(OBJECTS, st.booleans(), st.sampled_from([None, 2]))
def test_any_object_of_texts_comes_back(found: dict[str, Any], ensure_ascii: bool, indent: int | None) -> None:
    """Whatever texts an object holds, however deep and however written, they are found by the names that lead there."""
    assert flat(found) == expanded(json.dumps(found, ensure_ascii=ensure_ascii, indent=indent))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=9)


@given(st.lists(ANYTHING))
def test_any_list_comes_back(items: list[Any]) -> None:
    """A list becomes a text of JSON that means the same, without spaces between what it is made of."""
    (text,) = expanded(json.dumps({"it": items})).values()

    assert items == json.loads(text)
    assert json.dumps(items, ensure_ascii=False, separators=(",", ":")) == text


@pytest.mark.parametrize("opening", ["[", '{"a":', "[["])
def test_levels(opening: str) -> None:
    """So many levels are read, one more is refused where it begins, and any number ends in no RecursionError."""
    closing = "".join({"{": "}", "[": "]"}[char] for char in reversed(opening) if char in "{[")
    within = (DEPTH - 1) // len(closing)
    value = f'{{"it": {opening * within}1{closing * within}}}'
    assert 1 == len(expanded(value))

    deep = refused('{"it":' + opening * 100_000, "json")
    assert f"there are more than {DEPTH} levels: line 1 column" in str(deep)
    before = ('{"it":' + opening * 1_000)[: deep.column]
    assert DEPTH + 1 == sum(char in "{[" for char in before)
    assert before[-1] in "{["


# --- Lines KEY=VALUE


def test_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are read as python-dotenv reads them, and nothing is taken from the environment."""
    monkeypatch.setenv("HOME", "/of/the/machine")
    value = "\ufeff# a comment\n\nDB_HOST=db.test\r\nexport db.user = 'app'  # why\nEMPTY=\n"
    value += "TWO=\"a\nb\\tc\"\nRAW='a\\n${HOME}'\nHOME_TOO=${HOME}/x$HOME\nb/c-d=1"

    assert {
        "DB_HOST": "db.test",
        "DB_USER": "app",
        "EMPTY": "",
        "TWO": "a\nb\tc",
        "RAW": "a\\n${HOME}",
        "HOME_TOO": "${HOME}/x$HOME",
        "B_C_D": "1",
    } == expanded(value, "dotenv", upper_snake)


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?", fullmatch=True), TEXTS))
def test_any_quoted_lines_come_back(values: dict[str, str]) -> None:
    """Whatever texts lines hold in quotes are found by their names."""
    escaped = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in values.items()}
    # Of a text that ends in a backslash python-dotenv 1.0 finds no end.
    values = {name: value for name, value in values.items() if "\\" not in value}

    assert values == expanded("".join(f"{name}='{escaped[name]}'\n" for name in values), "dotenv")


# --- What cannot be expanded


@pytest.mark.parametrize(
    ("form", "value", "said", "line", "column"),
    [
        ("json", "hunter2", "Expecting value", 1, 1),
        ("json", "", "Expecting value", 1, 1),
        ("json", '{\n  "a": "hunter2"\n  "b": 1}', "Expecting ',' delimiter", 3, 3),
        ("json", '{\r\n  "a" "hunter2"}', "Expecting ':' delimiter", 2, 7),
        ("json", '{"a": "hunter2\n"}', "Invalid control character at", 1, 15),
        ("json", '{"a": "hunter2\\x"}', "Invalid \\escape", 1, 15),
        ("json", '{"a": "hunter2', "Unterminated string starting at", 1, 7),
        ("json", '{"a": 1} {', "Extra data", 1, 10),
        ("json", '\n ["hunter2"]', "this is not an object", 2, 2),
        ("json", '"hunter2"', "this is not an object", 1, 1),
        ("json", "null", "this is not an object", 1, 1),
        ("json", '\ufeff{"a": 1', "Expecting ',' delimiter", 1, 8),
        ("json", '{"a": {"b": "NaN", "c": [NaN]}}', "JSON has no NaN and no Infinity", 1, 26),
        ("json", '{"a": -Infinity}', "JSON has no NaN and no Infinity", 1, 7),
        ("json", '{"a": 1,\n "b": 2, "\\u0061": 3}', "this name is in the object already", 2, 10),
        ("json", '{"a": [{"b": "a"}, {"b": 1, "b": 2}]}', "this name is in the object already", 1, 29),
        ("dotenv", "A=1\n\n  hunter2 x\n", "this is not KEY=VALUE", 3, 3),
        ("dotenv", 'A=1\nB="hunter2\nC=1', "this is not KEY=VALUE", 2, 1),
        ("dotenv", "A=1\r\nB", "there is no = behind the name", 2, 1),
        ("dotenv", "A=1\nB=x" + " " * 60_000 + "y", "there are 1000 spaces in a row", 2, 4),
        ("dotenv", "A=1\n#\nA=2", "this name is there already", 3, 1),
        ("dotenv", "http://app:hunter2@db?a=1", "a name is made of single slashes", 1, 1),
        ("dotenv", "aHVudGVyMg+/==", "a name is made of single slashes", 1, 1),
    ],
)
def test_place(form: Format, value: str, said: str, line: int, column: int) -> None:
    """The error says what is wrong and where, names the parameter, its path and region, and says what to do."""
    error = refused(value, form)

    assert (line, column) == (error.line, error.column)
    assert (NAME, PATH, "eu-central-1", False) == (error.parameter, error.path, error.region, error.transient)
    assert f"the value cannot be expanded as {form}: {said}" in str(error)
    assert f": line {line} column {column} (parameter /P/IT, path /P, region eu-central-1). Correct the" in str(error)
    assert "hunter2" not in str(error)


def test_names_that_are_alike_in_different_objects() -> None:
    """A name may be once in each object, and as a value."""
    value = '{"a": {"b": "a", "a": "b"}, "b": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}'

    assert {"a/a": "b", "a/b": "a", "b/b": "1", "c": '[{"b":1},{"b":1}]'} == expanded(value)


def test_remedy() -> None:
    """The remedy names what to change: the one key, or how to name keys."""
    with pytest.raises(ExpansionFailed) as caught:
        Expander({"IT": "json"}, str).keyed(PATH, [NAME], read(made("x")))

    assert "Correct the value, or take IT out of expand=." == caught.value.remedy
    assert "expand={'KEY': 'json'}" in (refused("x", "json").remedy or "")


PIECES = st.sampled_from([
    '{"', '"a"', '"b":', ":", ",", "{", "}", "[", "]", '"', "\\", "\\u12", "\\ud800", "NaN", "-Infinity", "1.10",
    "null", "\n", "\r", "KEY=", "export ", "'", "=", "#", "${HOME}", " ", "secretsecret", "\0", "\ufeff", "é",
])  # fmt: skip


def said_by(error: BaseException) -> str:
    """Return all that an error says, with what led to it, and with the variables of the frames of both."""
    texts: list[str] = []
    seen: set[int] = set()
    ahead: list[BaseException | None] = [error]
    while ahead:
        one = ahead.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        ahead += [one.__cause__, one.__context__]
        texts.append(f"{one} {one!r} {vars(one)!r}")
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if frame.f_code.co_filename.startswith(PACKAGE):
                texts.append(f"{frame.f_locals!r}")
    return "\n".join(texts)


@pytest.fixture(scope="module")
def constant() -> str:
    """Give what is said of any value: a value that happens to be a part of that is no secret."""
    return "\n".join([said_by(refused("%", "json")), said_by(refused("%", "dotenv")), *SAID])


@given(st.text() | st.lists(PIECES, max_size=30).map("".join), st.sampled_from(["json", "dotenv"]))
@example('{"a/b": 1, "a": {"b": 1}}', "json")
@example("x" * 70_000, "json")
@example("[" * 70_000, "json")
@example('"\\"' * 30_000, "json")
@example("x " * 30_000, "dotenv")
def test_any_text_is_expanded_or_refused(constant: str, value: str, form: Format) -> None:
    """A text is expanded, or refused with an error that quotes nothing of it, and no other."""
    try:
        found = expanded(value, form)
    except (ExpansionFailed, KeyCollision) as error:
        refusal = error
    else:
        assert all(isinstance(text, str) for pair in found.items() for text in pair)
        return
    if isinstance(refusal, KeyCollision):
        # Its names are keys, which are no secrets; of lines, two names that are alike are refused by their place.
        assert form == "json"
        return
    said = said_by(refusal)
    parts = {value[at : at + 8] for at in range(len(value) - 7)}
    assert [] == [part for part in parts if part in said and part not in constant]
    assert refusal.line is not None
    assert refusal.column is not None
    assert 1 <= refusal.line <= value.count("\n") + value.count("\r") + 1
    assert 1 <= refusal.column <= len(value) + 1
    place = f"line {refusal.line} column {refusal.column} ("
    assert any(f"{form}: {fault}: {place}" in str(refusal) for fault in SAID)


@given(st.text() | st.lists(PIECES, max_size=30).map("".join))
@example('{"a/b": 1, "a": {"b": [2]}}')
@example('{"a": [NaN]}')
@example('{"a": {"b": 1, "b": 2}}')
def test_what_is_json_is_what_python_says(value: str) -> None:
    """A text is refused as JSON exactly where Python's own reader refuses it, or where a rule of ours does."""

    def strict(constant: str) -> None:
        raise ValueError(constant)

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError(pairs)
        return dict(pairs)

    try:
        text = value.removeprefix("\ufeff")
        accepted = isinstance(json.loads(text, parse_constant=strict, object_pairs_hook=once), dict)
    except ValueError:
        accepted = False
    refused_here = False
    try:
        expanded(value)
    except ExpansionFailed:
        refused_here = True
    except KeyCollision:
        pass

    assert accepted != refused_here


def test_near_the_end_of_the_stack() -> None:
    """Where there is no room left to read a value, it is refused like one that is wrong."""

    refusals: list[ExpansionFailed] = []

    def deeper() -> None:
        try:
            deeper()
        except RecursionError:
            # Of the levels that come back, the first ones have no room to raise anything of ours.
            if not refusals:
                try:
                    expanded('{"a": ' + "[" * 60 + "]" * 60 + "}")
                except ExpansionFailed as error:
                    refusals.append(error)
            raise

    with pytest.raises(RecursionError):
        deeper()
    assert "refused with RecursionError: line 1 column 1" in str(refusals[0])


# --- Several


def test_only_what_is_named() -> None:
    """A mapping names parameters by key or as `keys=` does; others are one variable, and what is not there is said."""
    secret = "/aws/reference/secretsmanager/prod/db"
    known = read(*(made('{"a": 1}', name) for name in ("/P/x/one", "/P/TWO:live", "/P/three", "/P/FOUR")))
    expander = Expander(
        {"X_ONE": "json", "TWO": "json", "/P/three": "json", secret: "json", "MISSPELLED": "dotenv"}, upper_snake
    )
    with pytest.raises(KeyCollision):
        expander.keyed(PATH, known.parameters, known)
    for name, key in {"/P/x/one": "A", "/P/TWO:live": "A", "/P/three": "A", "/P/FOUR": "FOUR"}.items():
        assert [key] == list(expander.keyed(PATH, [name], known))
    found = expander.keyed("/aws/reference/secretsmanager", [secret], read(made('{"a": 1}', secret)))

    assert {"A": "1"} == {key: part.value for key, part in found.items()}
    assert {"MISSPELLED"} == expander.unused


@pytest.mark.parametrize(
    ("value", "other", "names"),
    [
        ('{"db/host": 1, "db": {"host": 2}}', "{}", ("db/host in /P/IT", "db/host in /P/IT")),
        ('{"db-host": 1, "db": {"host": 2}}', "{}", ("db-host in /P/IT", "db/host in /P/IT")),
        ('{"db": {"host": 1}}', '{"DB_HOST": 2}', ("db/host in /P/IT", "DB_HOST in /P/OTHER")),
    ],
)
def test_two_names_of_one_key(value: str, other: str, names: tuple[str, ...]) -> None:
    """Two names that become one key are a collision, in one parameter and in two, and both are told."""
    known = read(made(value), made(other, "/P/OTHER"))

    with pytest.raises(KeyCollision) as caught:
        Expander("json", upper_snake).keyed(PATH, known.parameters, known)

    assert {"DB_HOST": names} == caught.value.collisions


def test_a_name_and_a_parameter_of_one_key() -> None:
    """A name in one parameter collides with another parameter; the keys of those that are expanded do not count."""
    known = read(made('{"db": {"host": 1}}'), made("x", "/P/DB_HOST"))
    with pytest.raises(KeyCollision) as caught:
        Expander({"IT": "json"}, upper_snake).keyed(PATH, known.parameters, known)
    assert {"DB_HOST": ("/P/DB_HOST", "db/host in /P/IT")} == caught.value.collisions

    known = read(made('{"a": 1}', "/P/A-B"), made('{"b": 1}', "/P/A.B"))
    assert {"A", "B"} == Expander("json", upper_snake).keyed(PATH, known.parameters, known).keys()


def test_what_was_missed_once_cannot_collide() -> None:
    """What the last read missed was probably renamed: it keeps the keys that are not taken."""
    known = read(made('{"a": "old", "b": "old"}'), made('{"a": "new"}', "/P/NEW"), missing_once=frozenset({NAME}))

    found = Expander("json", str).keyed(PATH, known.parameters, known)

    assert {"a": "new", "b": "old"} == {key: part.value for key, part in found.items()}


def test_to_key_that_fails() -> None:
    """A `to_key` that cannot name what is in a parameter is named with that parameter."""
    with pytest.raises(InvalidVariable, match="to_key raised KeyError") as caught:
        expanded('{"a": 1}', to_key={"IT": "IT"}.__getitem__)

    assert (NAME, PATH) == (caught.value.parameter, caught.value.path)


def test_the_same_parameter_is_expanded_once() -> None:
    """What did not change since the last read is what it was expanded to then; what did is expanded anew."""
    one, two = made('{"a": 1}'), made('{"b": 1}', "/P/TWO")
    first = Expander("json", str)
    before = first.keyed(PATH, [NAME, "/P/TWO"], read(one, two))
    second = Expander("json", str, None, first.expansions)

    after = second.keyed(PATH, [NAME, "/P/TWO"], read(made('{"a": 1}'), made('{"b": 1}', "/P/TWO", version=4)))

    assert before["a"] is after["a"]
    assert (3, 4) == (before["b"].version, after["b"].version)
    assert first.expansions.keys() == second.expansions.keys()
