"""The formats of files: real readers give back what was written, and errors say where and quote nothing."""

import json
import re
import shutil
import unicodedata

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiossmenv._naming import upper_snake
from aiossmenv.cli._formats import Format, ReadFormat, format_of, listed, parse, render, warnings
from aiossmenv.cli._run import CommandError
from readers import (
    SHELLS,
    by_compose,
    by_docker,
    by_docker_rules,
    by_dotenv,
    by_hcl_rules,
    by_shell,
    by_terraform,
)

# What the readers of one format or another take for something else.
PIECES = [
    "'", '"', "`", "$", "$X", "${", "${X}", "${X:-y}", "$(exit 9)", "`exit 9`", "\\", "\\\\", "\\n", "\\'", '\\"', "!",
    "!!", "#", " #", " ", "  ", "\t", "\n", "\r", "\r\n", "=", ":", ": ", "- ", "%{", "%%{", "$${", "{", "}", "[", "]",
    ",", "&", "*", "~", "|", ">", "@", ";", "yes", "null", "1e3", "0o7", "0x1", "1_000", "2026-01-01", "12:30", ".inf",
    "<<", "é", "ß", "\u0301", "😀", "\u2028", "\u2029", "\x85", "\xa0", "\ufeff", "\x01", "\x1b[31m", "\x7f", "x", "A",
]  # fmt: skip
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
VALUES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(CHARACTERS)
# Each example is many values, because a process reads them.
FILES = st.lists(VALUES, max_size=60).map(lambda values: {f"K{number}": value for number, value in enumerate(values)})
# Names that an object of JSON may have, and that differ by their keys.
NAMES = st.lists(st.text(CHARACTERS, max_size=20), unique_by=upper_snake)
NAMED = NAMES.flatmap(lambda names: st.fixed_dictionaries(dict.fromkeys(names, VALUES)))


def on_one_line(values: dict[str, str]) -> dict[str, str]:
    """Return those of *values* that have no line break, nor end as one of Windows begins."""
    return {key: value for key, value in values.items() if "\n" not in value and not value.endswith("\r")}


def warned(values: dict[str, str], word: str) -> set[str]:
    """Return the keys that an export as dotenv warns of with this word."""
    return {key for key, value in values.items() if any(word in text for text in warnings({key: value}, Format.dotenv))}


few = settings(max_examples=10)
# Reasons for one kind of quotes, with what is replaced in the other kind.
PAIRS = [
    first + second for first in ("'", "\r", "\\", "\\\\") for second in ("$X", "`exit 9`", "${X}", '"', "\\", "\n")
]
ALONE = {f"K{number}": value for number, value in enumerate([*PIECES, *PAIRS])} | {"EMPTY": "", "NO": "no", "NULL": "~"}


@pytest.mark.parametrize("shell", SHELLS)
@given(values=FILES)
@example(values=ALONE)
@few
def test_shells_evaluate_to_what_was_written(shell: str, values: dict[str, str]) -> None:
    """`eval "$(aiossmenv export --format shell)"` sets each variable to its value, and runs nothing in it."""
    assert values == by_shell(shell, 'eval "$(cat)"', render(values, Format.shell))


@given(values=FILES)
@example(values=ALONE)
@few
def test_python_dotenv_reads_what_was_written(values: dict[str, str]) -> None:
    """python-dotenv gives back each value from a file, and with its default options those that nothing warns of."""
    text = render(values, Format.dotenv)

    assert values == by_dotenv(text)
    read = by_dotenv(text, interpolate=True)
    assert {key for key in values if values[key] != read[key]} <= warned(values, "interpolate")


@given(values=FILES)
@example(values=ALONE)
@few
def test_a_dotenv_file_is_right_in_other_readers_unless_a_warning_names_the_key(values: dict[str, str]) -> None:
    """Shells that run the file and Docker Compose read the same, all but the keys in the warning."""
    misread = warned(values, "shell")
    shared = {key: value for key, value in values.items() if key not in misread}
    text = render(shared, Format.dotenv)

    assert shared == by_compose(text)
    assert shared == by_shell("sh", "set -a; . /dev/stdin", text)


@given(values=NAMED)
@example(values=ALONE)
@few
def test_pyyaml_reads_what_was_written(values: dict[str, str]) -> None:
    """PyYAML reads each key and each value as a text, and so does this command."""
    text = render(values, Format.yaml)

    assert values == (yaml.safe_load(text) or {})
    assert values == parse(text.encode(), ReadFormat.yaml, "it")


@given(values=NAMED)
@example(values=ALONE)
@few
def test_json_is_one_object_with_sorted_keys(values: dict[str, str]) -> None:
    """JSON gives back each value, in the order of the keys, with letters as they are."""
    text = render(values, Format.json)

    assert sorted(values.items()) == list(json.loads(text).items())
    assert values == parse(text.encode(), ReadFormat.json, "it")
    assert "\\u00e9" not in render({"A": "é"}, Format.json)


@given(values=FILES)
@example(values=ALONE)
@few
def test_this_command_reads_the_env_file_that_it_wrote(values: dict[str, str]) -> None:
    """`import` reads the file of `export`."""
    assert values == parse(render(values, Format.dotenv).encode(), ReadFormat.dotenv, "it")


@given(values=FILES.map(on_one_line))
@example(values=on_one_line(ALONE))
@few
def test_docker_reads_what_was_written(values: dict[str, str]) -> None:
    """Every value without a line break is right in an env file of Docker."""
    data = render(values, Format.docker).encode()

    assert values == by_docker_rules(data)


@pytest.mark.skipif(not shutil.which("docker"), reason="docker is not installed")
def test_the_program_docker_agrees_with_its_rules() -> None:
    """The real program reads a file as the rules in these tests do, those of white space and of comments included."""
    data = "\ufeff# comment\nA='x'\n\x85 B= z \nC=a\rb\r\n\n  #D=1\nE=#x\nF=\nG=a=b\nH=\u2028\\n\"$X\"\nI".encode()

    assert by_docker_rules(data) == by_docker(data)


@given(values=FILES)
@example(values=ALONE)
@few
def test_tfvars_are_strings_that_nothing_is_replaced_in(values: dict[str, str]) -> None:
    """By the rules of HCL each value is a literal string."""
    assert values == by_hcl_rules(render(values, Format.tfvars))


def without_marks(values: dict[str, str]) -> dict[str, str]:
    """Drop combining marks: Terraform's jsonencode(), by which the test reads, joins one with the n of its own \\n."""
    return {key: "".join(char for char in value if not unicodedata.combining(char)) for key, value in values.items()}


@pytest.mark.skipif(not shutil.which("terraform"), reason="terraform is not installed")
@given(values=FILES.map(without_marks))
@example(values=ALONE)
@settings(max_examples=5)
def test_terraform_reads_what_was_written(values: dict[str, str]) -> None:
    """The real program reads each value, and normalizes its letters, as it does with all text."""
    expected = {key: unicodedata.normalize("NFC", value) for key, value in values.items()}

    assert expected == by_terraform(render(values, Format.tfvars), list(values))


@pytest.mark.parametrize(
    ("form", "values", "named"),
    [
        (Format.docker, {"A": "x\ny", "B": "z", "C": "\n"}, ["'A'", "'C'", "line break"]),
        (Format.docker, {"A": "x\r"}, ["'A'", "carriage return"]),
        (Format.docker, {"A": "x" * 65_536}, ["'A'", "64 KiB"]),
        (Format.docker, {"A": "\0"}, ["'A'", "NUL"]),
        (Format.shell, {"1A": "z", "A-B": "z", "OK": "z"}, ["'1A', 'A-B'", "shell"]),
        (Format.shell, {"X;exit 9": "z"}, ["'X;exit 9'"]),
        (Format.shell, {"A": "x\0y"}, ["'A'", "NUL"]),
        (Format.dotenv, {"A B": "z", "#": "z", "": "z", "É": "z"}, ["'', '#', 'A B', '\\xc9'"]),
        (Format.tfvars, {"1A": "z"}, ["'1A'", "Terraform"]),
        (Format.json, {"A": "\ud800"}, ["'A'", "surrogate"]),
    ],
)
def test_what_a_format_cannot_hold_is_named(form: Format, values: dict[str, str], named: list[str]) -> None:
    """All such keys are named at once, with the reason, and no value is."""
    with pytest.raises(CommandError) as caught:
        render(values, form)

    text = str(caught.value)
    assert [] == [part for part in named if part not in text]
    assert "z" not in text.replace("choose", "")
    assert "OK" not in text


def test_a_dotenv_file_warns_of_what_other_readers_misread() -> None:
    """Values that python-dotenv would replace or a shell would run are named, and no others."""
    values = {"A": "'$(x)", "B": "${HOME}", "C": "it's", "D": "$(x)", "E": "a\rb", "F": "\\\\$"}

    assert ({"B"}, {"A", "E", "F"}) == (warned(values, "interpolate"), warned(values, "shell"))
    assert ["B", "A, E, F"] == [
        re.findall(r"[A-F](?:, [A-F])*\b", text)[-1] for text in warnings(values, Format.dotenv)
    ]
    assert [] == list(warnings(values, Format.json))


def test_lines_for_a_shell_warn_of_variables_that_steer_programs() -> None:
    """What `load_env` would not put into an environment is named before a shell does."""
    values = {"PATH": "/x", "LD_PRELOAD": "/x", "A": "x", "PATHS": "x"}

    assert ["LD_PRELOAD, PATH"] == [text.rpartition(": ")[2] for text in warnings(values, Format.shell)]


# --- What cannot be read


@pytest.mark.parametrize(
    ("form", "data", "said"),
    [
        ("dotenv", b"A=1\nsecret\n", "there is no = behind the name: line 2 column 1"),
        ("dotenv", b"A=1\n\n  A=2", "this name is there already: line 3 column 3"),
        ("dotenv", b"A='secret", "this is not KEY=VALUE: line 1 column 1"),
        ("dotenv", b"postgres://secret?x=1", "a name is made of"),
        ("dotenv", b"A=1\nB=\xe9secret", "this is not UTF-8: line 2 column 3"),
        ("dotenv", "A=1".encode("utf-16"), "this is UTF-16; save it as UTF-8: line 1 column 1"),
        ("json", b"", "Expecting value: line 1 column 1"),
        ("json", b'{"A": "secret",}', "line 1"),
        ("json", b'["secret"]', "this is not an object: line 1 column 1"),
        ("json", b'{"A": 1,\n "A": 2}', "this name is in the object already: line 2 column 2"),
        ("json", b'{"A": NaN}', "JSON has no NaN"),
        ("json", b'{"a/b": 1, "a": {"b": 2}}', "there are two values of 'a/b'. "),
        ("yaml", b"DB_URL: secret\ndb: {url: secret}", "there are two values of 'DB_URL' and 'db/url'. "),
        ("json", '{"é": "'.encode() + b'\xff"}', "this is not UTF-8: line 1 column 8"),
        ("yaml", b"- secret", "this is not a mapping: line 1 column 1"),
        ("yaml", b"secret", "this is not a mapping: line 1 column 1"),
        ("yaml", b"A: 1\nA: secret", "this name is in the mapping already: line 2 column 1"),
        ("yaml", b"A: &x secret\nB: *x", "an alias is not read; write the value itself: line 2 column 4"),
        ("yaml", b"A: !!binary secret", "a tag is not read: line 1 column 4"),
        ("yaml", b"A: 1\n---\nB: secret", "there is a second document: line 2 column 1"),
        ("yaml", b"? [secret]\n: 1", "a name is a text: line 1 column 3"),
        ("yaml", b"A: 1\n B: secret", "line 2 column 3"),
        ("yaml", b"A: @secret", "line 1 column 4"),
        ("yaml", b"A: 'secret", "line 1 column"),
        ("yaml", b"A: 1\nB: \x01secret", "YAML has no such character: line 2 column 4"),
        ("yaml", b"A: " + b"[" * 500, "there are more than 100 levels: line 1 column 103"),
        ("yaml", b"A: " + b"{a: " * 500, "there are more than 100 levels"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(form: str, data: bytes, said: str) -> None:
    """An error has the name of the file, what was expected, line and column, and nothing of a value."""
    with pytest.raises(CommandError) as caught:
        parse(data, ReadFormat(form), "it.file")

    text = str(caught.value)
    assert text.startswith("it.file: ")
    assert said in text
    assert "secret" not in text


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_levels_are_joined_and_scalars_stay_as_they_are_written(form: str) -> None:
    """A nested name has slashes, a number keeps its digits, a list is the text of JSON, and null is left out."""
    data = b"""{"db": {"host": "x", "port": 3306, "rate": 1.10}, "on": true, "nothing": null, "list": [1.0, "b", null,
    {"c": false}], "e": {}}"""

    assert {
        "db/host": "x",
        "db/port": "3306",
        "db/rate": "1.10",
        "on": "true",
        "list": '[1.0,"b",null,{"c":false}]',
    } == parse(data, ReadFormat(form), "it")


def test_plain_scalars_of_yaml_are_not_interpreted() -> None:
    """What YAML 1.1 takes for a boolean, a number or a date stays as it is written, with and without quotes."""
    data = b"a: yes\nb: 0o7\nc: 2026-01-01\nd: 1_000\ne: ~\nf: 'null'\ng:\nh: |\n  two\n  lines\ni: !!str 1\n1: No\n"

    assert {
        "a": "yes", "b": "0o7", "c": "2026-01-01", "d": "1_000", "f": "null", "h": "two\nlines\n", "i": "1", "1": "No",
    } == parse(data, ReadFormat.yaml, "it")  # fmt: skip


@pytest.mark.parametrize(
    ("form", "data"), [("dotenv", b"# nothing\n\n"), ("json", b"{}"), ("yaml", b""), ("yaml", b"{}")]
)
def test_a_file_may_hold_nothing(form: str, data: bytes) -> None:
    """What has no name in it is read as such."""
    assert {} == parse(data, ReadFormat(form), "it")


@pytest.mark.parametrize("form", list(ReadFormat))
def test_a_mark_of_windows_at_the_beginning_is_skipped(form: ReadFormat) -> None:
    """A byte order mark, which Windows writes, is no part of the first name, nor are its line breaks of a value."""
    data = {"dotenv": "A='1\r\n2'\r\n", "json": '{"A":\r\n"1\\n2"}', "yaml": 'A: "1\\n2"\r\n'}[form]

    assert {"A": "1\n2"} == parse(b"\xef\xbb\xbf" + data.encode(), form, "it")


def test_the_name_of_a_file_says_its_format() -> None:
    """The suffix counts, and the names that env files have."""
    names = [".env", ".env.test", "x/app.env", "a.json", "a.yml", "a.yaml", "a.tfvars", "a.txt", "env", "/APP", "-"]

    assert [
        "dotenv", "dotenv", "dotenv", "json", "yaml", "yaml", "tfvars", None, None, None, None,
    ] == [format_of(name) for name in names]  # fmt: skip


@pytest.mark.parametrize("form", list(Format))
def test_keys_are_in_order(form: Format) -> None:
    """Each format has the keys sorted, so that two exports can be compared."""
    text = render({"C": "", "A": "x", "B": "-"}, form)

    assert ["A", "B", "C"] == [char for char in text if char in "ABC"]


def test_a_list_of_names_fits_a_screen() -> None:
    """Twenty are named, and the rest is counted."""
    assert "a, b" == listed(iter("ab"))
    assert listed(map(str, range(2_000))).endswith("18, 19, and 1,980 more")
