"""
One parameter that holds several variables: their names and values, from an object of JSON or from lines KEY=VALUE.

No error may show a part of the value. The frames of an exception hold the text, and so does json's own exception. So
the functions that read a text return a `Fault`, and `ExpansionFailed` is raised in a frame that holds no text.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from types import MappingProxyType
from typing import Any, Literal

from aiossmenv._errors import ExpansionFailed
from aiossmenv._models import Parameter, asked_name
from aiossmenv._naming import is_name, key_of, relative_name, split_selector, unique_keys
from aiossmenv._ssm.merge import StoreState

Format = Literal["json", "dotenv"]

# Levels of objects and lists. Parameter Store has 15 in a name; json itself raises RecursionError near 1,000.
DEPTH = 100

# Strings; the brackets that open and close a level; and constants that Python's json accepts and JSON does not have. A
# string before a colon is a name. One without a closing quote ends with the text, so the search stays linear.
_TOKEN = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*"?)(?P<colon>\s*:)?|[{}\[\]]|NaN|-?Infinity', re.DOTALL)
_NEWLINE = re.compile(r"\r\n|\n|\r")
_MANY = 1_000
_SPACES = re.compile(rf"\s{{{_MANY}}}")
# The messages of json.JSONDecodeError that are known to quote nothing of the text.
_JSON_MESSAGES = frozenset({
    "Expecting property name enclosed in double quotes", "Expecting ':' delimiter", "Expecting ',' delimiter",
    "Expecting value", "Extra data", "Unterminated string starting at", "Invalid control character at",
    "Invalid \\escape", "Invalid \\uXXXX escape", "Illegal trailing comma before end of object",
    "Illegal trailing comma before end of array",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expansion:
    """What one parameter, the *holder*, was expanded to: a `Parameter` for each name in it."""

    holder: Parameter
    parts: tuple[Parameter, ...]


class Expander:
    """
    Expands the parameters of one read.

    *formats*: one for all parameters, or one for each name. *before*: the expansions of the last read; a parameter that
    is equal to its holder there is not expanded again. *expansions*: those of this read, by name and format. *unused*:
    the names in *formats* that no parameter has had so far.
    """

    def __init__(
        self,
        formats: Format | Mapping[str, Format],
        to_key: Callable[[str], str],
        region: str | None = None,
        before: Mapping[tuple[str, Format], Expansion] = MappingProxyType({}),
    ) -> None:
        self.expansions: dict[tuple[str, Format], Expansion] = {}
        self.unused = set[str]() if isinstance(formats, str) else set(formats)
        self._formats = formats
        self._to_key = to_key
        self._region = region
        self._before = before

    def keyed(self, path: str, names: Iterable[str], known: StoreState) -> dict[str, Parameter]:
        """
        Return the parameters by key as `known.keyed()` does, but the parts of those that are expanded instead of them.

        Raises `ExpansionFailed`, `KeyCollision` and `InvalidVariable`.
        """
        there = sorted(name for name in names if name in known.parameters)

        def keys_of(those: Iterable[str]) -> dict[str, Parameter]:
            pairs = (pair for name in those for pair in self._pairs(path, name, known.parameters[name]))
            return unique_keys(path, pairs, describe)

        found = keys_of(name for name in there if name not in known.missing_once)
        return keys_of(name for name in there if name in known.missing_once) | found

    def _pairs(self, path: str, name: str, parameter: Parameter) -> Iterator[tuple[str, Parameter]]:
        relative, base = relative_name(path, name), split_selector(name)[0]
        # Which version of it is read is no part of what it is called.
        key = key_of(relative.partition(":")[0], self._to_key, name, path)
        spellings = key, relative, relative.partition(":")[0], name, base
        form = self._format(spellings)
        if form is None:
            yield key, parameter
            return
        # Two paths hold the same parameter if one path is below the other.
        expansion = self.expansions.get((name, form)) or self._before.get((name, form))
        if expansion is None or expansion.holder != parameter:
            expansion = Expansion(parameter, self._expand(parameter, form, key=key, path=path))
        self.expansions[name, form] = expansion
        for part in expansion.parts:
            yield key_of(part.inner_name, self._to_key, name, path), part

    def _format(self, spellings: Iterable[str]) -> Format | None:
        if isinstance(self._formats, str):
            return self._formats
        there = [name for name in spellings if name in self._formats]
        self.unused.difference_update(there)
        return self._formats[there[0]] if there else None

    def _expand(self, parameter: Parameter, form: Format, *, key: str, path: str) -> tuple[Parameter, ...]:
        pairs = read_pairs(parameter.value, form)
        if isinstance(pairs, Fault):
            other = "name in expand= only the keys that hold several variables: expand={'KEY': 'json'}"
            if not isinstance(self._formats, str):
                other = f"take {key} out of expand="
            raise ExpansionFailed(
                f"the value cannot be expanded as {form}: {pairs.text}: line {pairs.line} column {pairs.column}",
                line=pairs.line,
                column=pairs.column,
                parameter=parameter.name,
                path=path,
                region=self._region,
                remedy=f"Correct the value, or {other}.",
            )
        return tuple(replace(parameter, value=value, inner_name=name) for name, value in pairs)


def describe(parameter: Parameter) -> str:
    """Name a parameter, or a name in it."""
    name = asked_name(parameter)
    return f"{parameter.inner_name} in {name}" if parameter.inner_name else name


def require_dotenv() -> None:
    """Import python-dotenv, or raise the `ImportError` that says how to install it."""
    try:
        import dotenv.parser  # noqa: F401 - for the first use, after something was read, it must be there
    except ImportError as error:  # pragma: no cover - a test runs this in an interpreter that has no python-dotenv
        raise ImportError("expand='dotenv' needs python-dotenv: pip install 'aiossmenv[dotenv]'") from error


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a text, and where, counted from 1."""

    text: str
    line: int
    column: int


class _Refused(Exception):
    """What is wrong with a text, and how many characters come before it; it does not leave this module."""

    def __init__(self, text: str, at: int) -> None:
        super().__init__(text)
        self.text = text
        self.at = at


class Number(str):
    """A number as it is written: 1.10 stays 1.10."""

    __slots__ = ()


def read_pairs(text: str, form: Format) -> tuple[tuple[str, str], ...] | Fault:
    """Return the names and values in a text, or what is wrong with it; raises nothing, because this frame holds it."""
    # Windows puts this mark at the beginning of a file.
    text = text.removeprefix("\ufeff")
    try:
        return tuple(_json_pairs(text) if form == "json" else _dotenv_pairs(text))
    except json.JSONDecodeError as error:
        message = error.msg.rstrip(": ")
        return _fault(message if message in _JSON_MESSAGES else "this is not JSON", text, error.pos)
    except _Refused as error:
        return _fault(error.text, text, error.at)
    except Exception as error:
        return _fault(f"it was refused with {type(error).__name__}", text, 0)


def _fault(fault: str, text: str, at: int) -> Fault:
    ends = [newline.end() for newline in _NEWLINE.finditer(text[:at])]
    return Fault(fault, len(ends) + 1, at - (ends[-1] if ends else 0) + 1)


def _json_pairs(text: str) -> Iterator[tuple[str, str]]:
    _refuse_depth(text)
    found = json.loads(text, parse_int=Number, parse_float=Number)
    if not isinstance(found, dict):
        raise _Refused("this is not an object", len(text) - len(text.lstrip()))
    _refuse_what_json_lets_pass(text)
    yield from flat(found, "")


def _refuse_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > DEPTH:
            raise _Refused(f"there are more than {DEPTH} levels", token.start())


def _refuse_what_json_lets_pass(text: str) -> None:
    """Refuse a name that is twice in one object, and NaN and Infinity; *text* is otherwise JSON."""
    names: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token[0] in ("{", "["):
            names.append(set())
        elif token[0] in ("}", "]"):
            names.pop()
        elif token["text"] is None:
            raise _Refused("JSON has no NaN and no Infinity", token.start())
        elif token["colon"]:
            name = json.loads(token["text"])
            if name in names[-1]:
                raise _Refused("this name is in the object already", token.start())
            names[-1].add(name)


def flat(found: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of an object; the levels of a name are joined as those of Parameter Store are."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}/")
        elif isinstance(value, str):
            yield above + name, str(value)
        elif value is not None:
            yield above + name, _compact(value)


def _compact(value: Any) -> str:
    """Return the text of JSON, without spaces, with numbers and letters as they were written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(_compact, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_compact(name)}:{_compact(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _dotenv_pairs(text: str) -> Iterator[tuple[str, str]]:
    from dotenv.parser import parse_stream

    if spaces := _SPACES.search(text):
        # python-dotenv's search for a comment takes 10 s for 60,000 of them, and holds the event loop in a thread, too.
        raise _Refused(f"there are {_MANY} spaces in a row", spaces.start())
    end, names = 0, set[str]()
    # Of python-dotenv only the parser: the rest of it reads the environment, and drops what it cannot parse.
    for binding in parse_stream(StringIO(text)):
        line = binding.original.string
        begin, end = end + len(line) - len(line.lstrip()), end + len(line)
        if binding.error:
            raise _Refused("this is not KEY=VALUE", begin)
        if binding.key is None:
            continue  # empty, or a comment
        if binding.value is None:
            raise _Refused("there is no = behind the name", begin)
        if not is_name(binding.key):
            # A URL or a key in base64 has an = too, and its text must not become the name of a variable.
            raise _Refused("a name is made of single slashes and of letters, digits and _ . -", begin)
        if binding.key in names:
            raise _Refused("this name is there already", begin)
        names.add(binding.key)
        yield binding.key, binding.value
