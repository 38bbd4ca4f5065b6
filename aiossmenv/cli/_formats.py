"""
The formats of files: names and values as text that the readers of a format give back exactly, and text as these.

Nothing is written, and nothing said, of a text that does not hold all: an error names the keys, or the line and the
column, and quotes no value.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from aiossmenv._environ import steering
from aiossmenv._expand import DEPTH, Fault, Number, flat, read_pairs
from aiossmenv._naming import upper_snake
from aiossmenv.cli._run import fail


class ReadFormat(StrEnum):
    """What a file is read as."""

    dotenv = "dotenv"
    json = "json"
    yaml = "yaml"


class Format(StrEnum):
    """What is written."""

    dotenv = "dotenv"
    json = "json"
    yaml = "yaml"
    tfvars = "tfvars"
    docker = "docker"
    shell = "shell"


_SUFFIXES = {
    ".env": Format.dotenv, ".json": Format.json, ".yaml": Format.yaml, ".yml": Format.yaml, ".tfvars": Format.tfvars,
}  # fmt: skip


def format_of(file: str) -> Format | None:
    """Return what the name of a file says of its format: .env, .env.test and app.env are dotenv."""
    name = PurePath(file).name
    return _SUFFIXES.get(PurePath(name).suffix) or (Format.dotenv if f"{name}.".startswith(".env.") else None)


# Writing.


def render(values: Mapping[str, str], form: Format) -> str:
    """Return *values*, sorted by key, as a text of this format, or raise a `CommandError` with all that do not fit."""
    pairs = sorted(values.items())
    faults: dict[str, list[str]] = {}
    for key, value in pairs:
        if fault := _unwritable(key, value, form):
            faults.setdefault(fault, []).append(key)
    if faults:
        texts = "; ".join(f"{fault}: {listed(map(ascii, keys))}" for fault, keys in faults.items())
        fail(f"the format {form} cannot hold everything: {texts}", "Choose another with --format.")
    if form is Format.json:
        return json.dumps(dict(pairs), indent=2, ensure_ascii=False) + "\n"
    line = _LINES[form]
    return "".join(line(key, value) for key, value in pairs)


def warnings(values: Mapping[str, str], form: Format) -> Iterator[str]:
    """Yield what a common reader of this format does with some *values*, where that may not be what is wanted."""
    if form is Format.shell and (keys := steering(values)):
        yield f"these variables make programs run other code, also in the shell that evaluates this: {listed(keys)}"
    if form is not Format.dotenv:
        return
    replaced = sorted(key for key, value in values.items() if _REPLACED.search(value))
    if replaced:
        yield f"python-dotenv replaces ${{...}}, unless it is told interpolate=False, in {listed(replaced)}"
    other = sorted(key for key, value in values.items() if not _is_shared(value))
    if other:
        yield (
            "this file is right for python-dotenv; a shell that reads it may run a part of these values, and Docker "
            f"Compose may read others: {listed(other)}. For a shell there is --format shell"
        )


# So many names fit a screen.
_NAMED = 20


def listed(texts: Iterable[str]) -> str:
    """Return the first twenty of *texts*, and how many more there are."""
    every = list(texts)
    more = len(every) - _NAMED
    return ", ".join(every[:_NAMED]) + (f", and {more:,} more" if more > 0 else "")


_DOTENV_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_SHELL_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TFVARS_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_KEYS = {
    Format.dotenv: (_DOTENV_KEY, "a key is not of letters, digits and _ . -"),
    Format.docker: (_DOTENV_KEY, "a key is not of letters, digits and _ . -"),
    Format.shell: (_SHELL_KEY, "a key is no name of a variable in a shell"),
    Format.tfvars: (_TFVARS_KEY, "a key is no name of a variable in Terraform"),
}
# Docker's scanner takes lines below 64 KiB.
_DOCKER_LINE = 65_535


def _unwritable(key: str, value: str, form: Format) -> str | None:  # noqa: PLR0911 - a table
    try:
        size = len(f"{key}={value}".encode())
    except UnicodeEncodeError:
        return "a half of a surrogate pair is no text"
    pattern, fault = _KEYS.get(form, (None, ""))
    if pattern and not pattern.fullmatch(key):
        return fault
    if form in (Format.shell, Format.docker) and "\0" in value:
        return "no variable holds the character NUL"
    if form is Format.docker:
        if "\n" in value:
            return "a value has a line break"
        if value.endswith("\r"):
            return "Docker drops the carriage return at the end of a value"
        if size >= _DOCKER_LINE:
            return "a line is longer than 64 KiB"
    return None


# Every reader reads these as they are, without quotes, Docker's too.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_./:@%+,-][A-Za-z0-9_./:@%+,=-]*)?")
# A backslash that python-dotenv takes for the begin of an escape, in single quotes.
_ESCAPING = re.compile(r"\\(?=[\\']|\Z)")
# What python-dotenv replaces, whatever the quotes are.
_REPLACED = re.compile(r"\$\{[^}:]*(?::-[^}]*)?\}")


def _dotenv(value: str) -> str:
    r"""
    Quote *value* so that python-dotenv gives it back exactly, and as many other readers as can be.

    In single quotes all agree, as long as there is no quote and no backslash that python-dotenv takes for an escape. In
    double quotes they agree where nothing would be replaced. A value with both reasons is written for python-dotenv.
    A carriage return is written as \r, because readers that open the file as text make it a line feed.
    """
    if _PLAIN.fullmatch(value):
        return value
    if _fits_single(value):
        return f"'{value}'"
    if "\r" in value or not _steers_shell(value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r") + '"'
    if "\\" in value:
        value = _ESCAPING.sub(r"\\\\", value)
    return "'" + value.replace("'", "\\'") + "'"


def _fits_single(value: str) -> bool:
    return "'" not in value and "\r" not in value and not _ESCAPING.search(value)


def _steers_shell(value: str) -> bool:
    """Whether a shell would replace a part of *value* in double quotes."""
    return "$" in value or "`" in value


def _is_shared(value: str) -> bool:
    """Whether a shell and Docker Compose read *value* as python-dotenv does."""
    return _fits_single(value) or not ("\r" in value or _steers_shell(value))


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNUSUAL = re.compile(r'["\\]|[^ -~]')


def _escaped(value: str) -> str:
    """Quote *value* with the escapes that YAML and HCL share."""
    return f'"{_UNUSUAL.sub(_escape, value)}"'


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    return _ESCAPES.get(char) or (char if char.isprintable() else f"\\U{ord(char):08x}")


def _hcl(value: str) -> str:
    return _escaped(value).replace("${", "$${").replace("%{", "%%{")


def _shell(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


_LINES: Mapping[Format, Callable[[str, str], str]] = {
    Format.dotenv: lambda key, value: f"{key}={_dotenv(value)}\n",
    # Keys, too: plain ones such as NO and 1E3 are no texts to many readers.
    Format.yaml: lambda key, value: f"{_escaped(key)}: {_escaped(value)}\n",
    Format.tfvars: lambda key, value: f"{key} = {_hcl(value)}\n",
    Format.docker: lambda key, value: f"{key}={value}\n",
    Format.shell: lambda key, value: f"export {key}={_shell(value)}\n",
}


# Reading.


def parse(data: bytes, form: ReadFormat, source: str) -> dict[str, str]:
    """
    Return the names and values in *data*, or raise a `CommandError` that says where in *source* what is wrong.

    It is wrong, too, that two names have one key in an environment, as db/url and DB_URL.
    """
    pairs = _pairs(data, form)
    if isinstance(pairs, Fault):
        fail(f"{source}: {pairs.text}: line {pairs.line} column {pairs.column}")
    values: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, value in pairs:
        key = upper_snake(name)
        if key in names:
            other = "" if names[key] == name else f" and {name!a}"
            fail(f"{source}: there are two values of {names[key]!a}{other}", "Give one.")
        names[key], values[name] = name, value
    return values


def _pairs(data: bytes, form: ReadFormat) -> Iterable[tuple[str, str]] | Fault:
    """Return what is in *data*, or what is wrong with it; raises nothing, because this frame holds values."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return Fault("this is UTF-16; save it as UTF-8", 1, 1)
        return Fault("this is not UTF-8", *_behind(data[: error.start].decode()))
    if form is ReadFormat.yaml:
        return _yaml_pairs(text)
    if form is ReadFormat.json:
        return read_pairs(text, "json")
    # As python-dotenv opens a file: a value over several lines has no carriage returns of Windows.
    return read_pairs(text.replace("\r\n", "\n").replace("\r", "\n"), "dotenv")


def _behind(text: str) -> tuple[int, int]:
    lines = re.split(r"\r\n|\n|\r", text)
    return len(lines), len(lines[-1]) + 1


_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_STR = "tag:yaml.org,2002:str"


class _Refused(Exception):
    """What is wrong with a text; it does not leave this module."""

    def __init__(self, text: str, mark: Any) -> None:
        super().__init__(text)
        self.fault = Fault(text, mark.line + 1, mark.column + 1)


def _yaml_pairs(text: str) -> tuple[tuple[str, str], ...] | Fault:
    import yaml

    try:
        # The parser alone: what makes objects of the events drops the text of numbers and dates, and repeated names.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return tuple(_yaml_file(yaml.parse(text, Loader=loader)))
    except _Refused as error:
        return error.fault
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        assert mark  # only errors of what is not used here have none
        return Fault(_yaml_fault(error.problem), mark.line + 1, mark.column + 1)
    except yaml.reader.ReaderError:
        bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
        return Fault("YAML has no such character", *_behind(text[: bad.start() if bad else 0]))


def _yaml_fault(problem: str | None) -> str:
    import yaml

    # libyaml describes a problem without a quotation, but PyYAML's own scanner quotes a character.
    return f"this is not YAML: {problem}" if problem and yaml.__with_libyaml__ else "this is not YAML"


def _yaml_file(events: Iterator[Any]) -> Iterator[tuple[str, str]]:
    import yaml

    next(events)  # the stream begins
    if isinstance(next(events), yaml.StreamEndEvent):
        return
    root = next(events)
    if not isinstance(root, yaml.MappingStartEvent):
        raise _Refused("this is not a mapping", root.start_mark)
    found = _yaml_value(events, root, 1)
    next(events)  # the document ends
    after = next(events)
    if not isinstance(after, yaml.StreamEndEvent):
        raise _Refused("there is a second document", after.start_mark)
    yield from flat(found, "")


def _yaml_value(events: Iterator[Any], event: Any, depth: int) -> Any:
    """Return what *event* begins, as what the text of JSON would be; a scalar as it is written."""
    import yaml

    if isinstance(event, yaml.AliasEvent):
        raise _Refused("an alias is not read; write the value itself", event.start_mark)
    if event.tag not in (None, "!", _STR):
        raise _Refused("a tag is not read", event.start_mark)
    if depth > DEPTH:
        raise _Refused(f"there are more than {DEPTH} levels", event.start_mark)
    if isinstance(event, yaml.ScalarEvent):
        return _yaml_scalar(event.value, plain=event.implicit[0])
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_yaml_value(events, item, depth + 1))
        return items
    found: dict[str, Any] = {}
    while not isinstance(name := next(events), yaml.MappingEndEvent):
        if not isinstance(name, yaml.ScalarEvent):
            raise _Refused("a name is a text", name.start_mark)
        if name.value in found:
            raise _Refused("this name is in the mapping already", name.start_mark)
        found[name.value] = _yaml_value(events, next(events), depth + 1)
    return found


def _yaml_scalar(text: str, *, plain: bool) -> Any:
    if not plain:
        return text
    if text in _NULLS:
        return None
    if text in ("true", "false"):
        return text == "true"
    return Number(text) if _NUMBER.fullmatch(text) else text
