"""What is wrong in what each command is given, or in what it meets: a clear text, the right status, nothing changed."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import methodcaller
from pathlib import Path

import pytest

from aiossmenv.testing import MemoryStore
from command import invoke

SECRET = "geheim-1f2e3d"
# A program that is not there: should a case load by mistake, it does not replace the test run.
NOT_RUN = ("--", "/nowhere/program")
# What only Python has: an argument, a call.
PYTHON = re.compile(r"\b(?!SSM_PATH)[a-z_]+=(?:True|None|\[|')|load_env\(|ParameterStore\(|\bto_key\b")


class QuickClock:
    """A clock that runs 500 times as fast, so that deadlines of half a minute pass in a moment."""

    def now(self) -> float:
        """Return the quick time."""
        return time.monotonic() * 500

    def wall(self) -> datetime:
        """Return the real time of day."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep a little."""
        await asyncio.sleep(seconds / 500)


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """Give a store that every command finds, with three parameters."""
    store = MemoryStore({"/APP/DB_PASSWORD": SECRET, "/APP/db/url": f"mysql://u:{SECRET}@h/d"}, clock=QuickClock())
    store.set("/APP/PLAIN", SECRET, "String")
    with store.patch_default():
        yield store


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Give a folder with files that are wrong, each in another way."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.env").mkdir()
    (tmp_path / "good.env").write_text(f"DB_PASSWORD=other-{SECRET}\n")
    return tmp_path


FILES = {
    "empty.env": b"",
    "ragged.env": f"A=1\nthis line has no sign {SECRET}\n".encode(),
    "quote.env": f"A='{SECRET}\n".encode(),
    "twice.env": f"A={SECRET}\nA=2\n".encode(),
    "broken.json": f'{{"A": "{SECRET}"'.encode(),
    "list.json": f'["{SECRET}"]'.encode(),
    "twice.json": f'{{"A": "{SECRET}", "A": "2"}}'.encode(),
    "same.json": f'{{"db": {{"url": "{SECRET}"}}, "DB_URL": "2"}}'.encode(),
    "broken.yaml": f"A: [{SECRET}".encode(),
    "alias.yaml": f"A: &a {SECRET}\nB: *a\n".encode(),
    "latin.env": f"A={SECRET}\xe9\n".encode("latin-1"),
    "utf16.json": f'{{"A": "{SECRET}"}}'.encode("utf-16"),
    "it.tfvars": f'A = "{SECRET}"'.encode(),
    "unknown.txt": f"A={SECRET}".encode(),
    "space.json": f'{{"A B": "{SECRET}"}}'.encode(),
    "long.json": f'{{"A": "{SECRET}{"x" * 9000}"}}'.encode(),
}

BAD_PATHS = {
    "APP": "slash",
    "/APP//X": "slash",
    "/APP/*": "wildcard",
    "arn:aws:ssm:eu-central-1:111122223333:parameter/APP": "ARN",
    "C:\\APP": "Windows",
    "'/APP'": "quotes",
    "/APP:3": "version",
    "/$APP": "variable",
    "/A B": "space",
    "https://x.test/APP": "URL",
    "": "empty|no parameter|path",
    "/aws/reference/secretsmanager": "listed",
    "/A,/B": "several",
}
BAD_NAMES = {
    "/APP//X": "slash",
    "/A B": "space|letters",
    "": "empty",
    "/APP/*": "wildcard|letters",
    "'/APP/X'": "quotes",
}
# Commands that read a path, with a place for it, and what they need beside it.
READERS: dict[str, Callable[[str], list[str]]] = {
    "list": lambda path: ["list", path],
    "export": lambda path: ["export", path],
    "exec": lambda path: ["exec", path, *NOT_RUN],
    "exec --watch": lambda path: ["exec", "--watch", path, *NOT_RUN],
    "diff": lambda path: ["diff", path, "{files}/good.env"],
    "import": lambda path: ["import", "--yes", "{files}/good.env", path],
}
NAMED: dict[str, Callable[[str], list[str]]] = {
    "get": lambda name: ["get", name],
    "get --raw": lambda name: ["get", "--raw", name],
    "history": lambda name: ["history", name],
    "set": lambda name: ["set", name, "x"],
    "delete": lambda name: ["delete", "--yes", name],
}
FAULTS: dict[str, tuple[Callable[[MemoryStore], object], str]] = {
    "denied": (methodcaller("deny", "ssm:*"), "Allow ssm:"),
    "throttled": (methodcaller("throttle"), "Throttled.*throughput"),
    "failing": (methodcaller("fail"), "StoreUnavailable.*InternalServerError"),
    "hanging": (methodcaller("hang"), "StoreUnavailable.*Check the network"),
}


Row = tuple[str, list[str], Callable[[MemoryStore], object] | None, int, str]


def reads() -> Iterator[Row]:
    """Yield what is wrong with a read."""
    for command, arguments in READERS.items():
        error = 2 if command == "diff" else 1
        for path, said in BAD_PATHS.items():
            yield f"{command}: path {path!r}", arguments(path), None, error, said
        for fault, (cause, said) in FAULTS.items():
            yield f"{command}: {fault}", arguments("/APP"), cause, error, said
        if command != "list":
            no_key = methodcaller("deny", "kms:Decrypt")
            yield f"{command}: no right to decrypt", arguments("/APP"), no_key, error, "kms:Decrypt"
        if command != "import":
            yield f"{command}: nothing there", arguments("/NOTHING"), None, error, "EmptyPath.*/NOTHING.*spelling"
    for command, arguments in NAMED.items():
        for name, said in BAD_NAMES.items():
            yield f"{command}: name {name!r}", arguments(name), None, 1, said
        for fault, (cause, said) in FAULTS.items():
            yield f"{command}: {fault}", arguments("/APP/PLAIN"), cause, 1, said
        if command != "set":
            yield (
                f"{command}: nothing there",
                arguments("/APP/NOT"),
                None,
                1,
                "ParameterNotFound.*/APP/NOT.*Check the name",
            )


def of_files() -> Iterator[Row]:
    """Yield what is wrong with a file."""
    for file in (*FILES, "folder.env", "missing.env"):
        for command in (["import", "--yes", f"{{files}}/{file}", "/APP"], ["diff", "/APP", f"{{files}}/{file}"]):
            if command[0] == "diff" and file in {"empty.env", "space.json", "long.json"}:
                continue  # these differ, and are not wrong
            error = 2 if command[0] == "diff" or file == "unknown.txt" else 1
            said = re.escape(file)
            yield (
                f"{command[0]}: {file}",
                command,
                None,
                error,
                said if file not in {"space.json", "long.json"} else "A",
            )


def writes() -> Iterator[Row]:
    """Yield what is wrong with a write."""
    denied, gone = methodcaller("deny", "ssm:PutParameter"), methodcaller("deny", "ssm:DeleteParameters")
    no_key = methodcaller("deny", "kms:Encrypt")
    yield "set: no right", ["set", "/APP/PLAIN", SECRET], denied, 1, "Allow ssm:PutParameter on .*/APP/PLAIN"
    yield "set: no right to encrypt", ["set", "/APP/NEW", SECRET], no_key, 1, "kms:Encrypt"
    yield "set: empty", ["set", "/APP/NEW", ""], None, 1, "empty"
    yield "set: too long", ["set", "/APP/NEW", SECRET * 1000], None, 1, "/APP/NEW"
    yield "set: NUL", ["set", "/APP/NEW", f"{SECRET}\0"], None, 1, "NUL"
    yield "set: reserved", ["set", "/aws/x", SECRET], None, 1, "aws"
    yield "set: a version", ["set", "/APP/PLAIN:3", SECRET], None, 1, "version"
    yield "set: an ARN", ["set", "arn:aws:ssm:x:1:parameter/APP", SECRET], None, 1, "ARN"
    yield "set: there already", ["set", "--new", "/APP/PLAIN", SECRET], None, 1, "--new"
    yield "set: key of a String", ["set", "/APP/PLAIN", SECRET, "--key-id", "alias/a"], None, 1, "SecureString"
    yield "set: type", ["set", "/APP/PLAIN", SECRET, "--type", "Secret"], None, 2, "--type"
    yield "set: tier", ["set", "/APP/PLAIN", SECRET, "--tier", "Free"], None, 2, "--tier"
    yield "set: tag", ["set", "/APP/PLAIN", SECRET, "--tag", "novalue"], None, 2, "KEY=VALUE"
    yield "delete: no right", ["delete", "--yes", "/APP/PLAIN"], gone, 1, "Allow ssm:DeleteParameters"
    yield "delete: asks", ["delete", "/APP/PLAIN"], None, 1, "--yes"
    yield "import: no right", ["import", "--yes", "{files}/good.env", "/APP"], denied, 1, "Allow ssm:PutParameter"
    yield "import: asks", ["import", "{files}/good.env", "/APP"], None, 1, "--yes"
    yield "import: no type", ["import", "{files}/good.env", "/APP", "--type", "Secret"], None, 2, "--type"
    yield "import: another type", ["import", "--yes", "{files}/good.env", "/APP", "--type", "String"], None, 1, "type"


def uses() -> Iterator[Row]:
    """Yield arguments and options that cannot be."""
    for command in ("list", "get", "history", "set", "delete", "import", "export", "diff", "policy", "doctor"):
        yield f"{command}: no such option", [command, "--nonsense"], None, 2, "--nonsense"
    yield "exec: no such option", ["exec", "--nonsense", *NOT_RUN], None, 2, "--nonsense"
    for command in ("get", "history", "set", "delete", "import", "diff"):
        yield f"{command}: no argument", [command], None, 2, "[Mm]issing argument"
    for command in ("history", "set", "import", "diff"):
        yield f"{command}: too many", [command, "/A", "/B", "/C", "/D"], None, 2, "unexpected extra|too many"
    yield "no such command", ["lst"], None, 2, "lst"
    yield "get: --raw of two", ["get", "--raw", "/A/B", "/A/C"], None, 2, "--raw"
    for arguments in (["list", "/APP"], ["get", "/APP/PLAIN"], ["history", "/APP/PLAIN"]):
        yield f"{arguments[0]}: --reveal to a pipe", [*arguments, "--reveal"], None, 1, "--pipe"
    for command in ("list", "export", "exec", "doctor", "policy"):
        rest = NOT_RUN if command == "exec" else ()
        yield f"{command}: no path", [command, *rest], None, 1, "SSM_PATH"
    yield "exec: no program", ["exec", "/APP"], None, 2, "-- CMD"
    yield "exec: nothing after --", ["exec", "/APP", "--"], None, 2, "-- CMD"
    yield "exec: not there", ["exec", "/APP", *NOT_RUN], None, 127, "/nowhere/program"
    for option, value in (
        *(("--ttl", "0"), ("--ttl", "often"), ("--splay", "-1"), ("--quiet", "x"), ("--stop-timeout", "0")),
        *(("--deadline", "0"), ("--deadline", "soon"), ("--on-change", "reload"), ("--on-change", "signal:NONE")),
        *(("--expand", "xml"), ("--expand", "KEY=xml")),
    ):
        yield f"exec: {option} {value}", ["exec", "--watch", option, value, "/APP", *NOT_RUN], None, 2, option
    yield "exec: --ttl without --watch", ["exec", "--ttl", "5", "/APP", *NOT_RUN], None, 2, "--watch"
    yield "exec: required", ["exec", "--required", "NOT_THERE", "/APP", *NOT_RUN], None, 1, "NOT_THERE"
    yield "exec: strict", ["exec", "--strict", "--key", "NOT", "--key", "PLAIN", "/APP", *NOT_RUN], None, 1, "NOT"
    yield "exec: expand what is none", ["exec", "--expand", "json", "/APP", *NOT_RUN], None, 1, "ExpansionFailed.*/APP"
    yield "export: format", ["export", "/APP", "--format", "xml"], None, 2, "--format"
    yield "export: expand", ["export", "/APP", "--expand", "xml"], None, 2, "--expand"
    yield "export: into no folder", ["export", "/APP", "--output", "{files}/none/x.env"], None, 1, "none"
    yield "export: onto a folder", ["export", "/APP", "--output", "{files}/folder.env"], None, 1, "folder.env"
    yield "policy: account", ["policy", "/APP", "--account", "12"], None, 2, "--account"
    yield "policy: region", ["policy", "/APP", "--region", "Frankfurt"], None, 2, "--region"
    yield "policy: key", ["policy", "/APP", "--kms", "my key"], None, 2, "--kms"
    yield "doctor: deadline", ["doctor", "/APP", "--deadline", "x"], None, 2, "--deadline"


@dataclass(frozen=True, slots=True)
class Case:
    """A bad input: the *arguments*, what is done to the store before, the exit *status*, and what the text says."""

    arguments: list[str]
    prepare: Callable[[MemoryStore], object] | None
    status: int
    said: str


CASES = {row[0]: Case(*row[1:]) for row in (*reads(), *of_files(), *writes(), *uses())}


def test_there_are_enough() -> None:
    """Two hundred bad inputs, over all commands."""
    assert len(CASES) >= 200


@pytest.mark.parametrize("name", CASES)
def test_bad_input(store: MemoryStore, files: Path, name: str) -> None:
    """The status is right, the text is short and says what is wrong; no value is in it, and nothing is changed."""
    case = CASES[name]
    if case.prepare:
        case.prepare(store)
    before, environ = dict(store._service.held), dict(os.environ)
    present = sorted(files.rglob("*"))

    done = invoke(*(argument.replace("{files}", str(files)) for argument in case.arguments))

    assert case.status == done.status, done
    assert re.search(case.said, done.err, re.DOTALL), done.err
    assert done.err.startswith(("aiossmenv: ", "Usage: "))
    assert len(done.err.splitlines()) <= 24
    assert max(map(len, done.err.splitlines())) < 1_000
    assert SECRET not in done.out + done.err
    assert "Traceback" not in done.err
    assert not PYTHON.search(done.err), done.err
    assert before == store._service.held
    assert environ == dict(os.environ)
    assert present == sorted(files.rglob("*"))
