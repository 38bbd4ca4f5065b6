"""`aiossmenv import`."""

import asyncio
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

from aiossmenv.cli._import import _progress
from command import PLAIN, Done, aiossmenv, invoke
from embedded import Store
from faults import Call, FaultProxy, error, hang, reset, throttled

SECRET = "s3cr3t-'$(exit 9)\n\\ é😀"
PUT, DELETE = "PutParameter", "DeleteParameters"


def held(store: Store, path: str = "/P") -> dict[str, str]:
    """Return the names and values under a path."""
    pages = store.client.get_paginator("get_parameters_by_path").paginate(
        Path=path, Recursive=True, WithDecryption=True
    )
    return {item["Name"]: item["Value"] for page in pages for item in page["Parameters"]}


def described(store: Store) -> dict[str, dict[str, Any]]:
    """Return what the store says of each parameter."""
    return {item["Name"]: item for item in store.client.describe_parameters()["Parameters"]}


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """Give an env file with three names."""
    file = tmp_path / "it.env"
    file.write_text("A=s3cr3t1\nDB_URL=s3cr3t2\nC='s3cr3t 3'\n")
    return file


def importing(*arguments: object) -> Done:
    """Run the command in this process."""
    return invoke("import", *map(str, arguments))


# --- What it does


def test_it_writes_what_a_file_holds(ssm: Store, env_file: Path) -> None:
    """Each name is a SecureString below the path, and the output has names and no values."""
    done = importing(env_file, "/P/", "--yes")

    assert (0, "") == (done.status, done.err)
    assert {"/P/A": "s3cr3t1", "/P/DB_URL": "s3cr3t2", "/P/C": "s3cr3t 3"} == held(ssm)
    assert {"SecureString"} == {item["Type"] for item in described(ssm).values()}
    assert [
        "add /P/A", "add /P/C", "add /P/DB_URL", "3 to add, 0 to change, 0 to delete, 0 unchanged",
        "3 written, 0 deleted",
    ] == done.out.splitlines()  # fmt: skip


def test_only_what_differs_is_written(ssm: Store, env_file: Path) -> None:
    """A parameter of another spelling with the same key is the one that is updated, and one with its value stays."""
    ssm.put("/P/A", "s3cr3t1")
    ssm.put("/P/db/url", "old")
    ssm.put("/P/OTHER", "stays")

    done = importing(env_file, "/P", "--yes")

    assert {"/P/A": "s3cr3t1", "/P/db/url": "s3cr3t2", "/P/C": "s3cr3t 3", "/P/OTHER": "stays"} == held(ssm)
    assert {"/P/A": 1, "/P/db/url": 2, "/P/C": 1, "/P/OTHER": 1} == {
        name: item["Version"] for name, item in described(ssm).items()
    }
    assert "change /P/db/url (DB_URL in the file)" in done.out.splitlines()
    assert "1 to add, 1 to change, 0 to delete, 1 unchanged" in done.out.splitlines()


def test_a_second_import_has_nothing_to_do(ssm: Store, env_file: Path) -> None:
    """It succeeds, writes nothing, and needs no answer."""
    importing(env_file, "/P", "--yes")

    done = importing(env_file, "/P")

    assert (0, "0 to add, 0 to change, 0 to delete, 3 unchanged\n", "") == (done.status, done.out, done.err)
    assert {1} == {item["Version"] for item in described(ssm).values()}


def test_prune_deletes_the_rest(ssm: Store, env_file: Path) -> None:
    """What the file does not have is deleted, and nothing outside of the path is."""
    for number in range(12):
        ssm.put(f"/P/old/{number}", "x")
    ssm.put("/PP/X", "x")

    done = importing(env_file, "/P", "--prune", "--yes")

    assert {"/P/A", "/P/DB_URL", "/P/C"} == held(ssm).keys()
    assert {"/PP/X"} == held(ssm, "/PP").keys()
    assert "delete /P/old/11" in done.out
    assert "3 written, 12 deleted" in done.out


def test_a_dry_run_writes_nothing(ssm: Store, env_file: Path) -> None:
    """It says what would be done, and needs no answer."""
    ssm.put("/P/OLD", "x")

    done = importing(env_file, "/P", "--prune", "--dry-run")

    assert 0 == done.status
    assert "3 to add, 0 to change, 1 to delete, 0 unchanged" in done.out
    assert {"/P/OLD": "x"} == held(ssm)


async def test_types_and_keys_of_parameters_stay(proxy: FaultProxy, ssm: Store, tmp_path: Path) -> None:
    """A String stays one, and a SecureString keeps its KMS key, because PutParameter itself would take the default."""
    ssm.client.put_parameter(Name="/P/A", Value="old", Type="SecureString", KeyId="alias/mine")
    ssm.client.put_parameter(Name="/P/B", Value="old", Type="SecureString")
    ssm.client.put_parameter(Name="/P/T", Value="old", Type="String")
    file = tmp_path / "it.json"
    file.write_text('{"A": "1", "B": "2", "T": "3", "NEW": "4"}')

    assert 0 == (await imported(file, "/P", "--yes")).status

    sent = {call.body["Name"]: call.body for call in proxy.calls if call.operation == PUT}
    assert {
        "/P/A": ("SecureString", "alias/mine", None),
        "/P/B": ("SecureString", "alias/aws/ssm", None),
        "/P/T": ("String", None, None),
        "/P/NEW": ("SecureString", None, None),
    } == {name: (body["Type"], body.get("KeyId"), body.get("Tier")) for name, body in sent.items()}


def test_options_decide_for_what_is_written(ssm: Store, tmp_path: Path) -> None:
    """--type, --key-id and --tier are those of PutParameter; a String that is there has no key."""
    file = tmp_path / "it.yaml"
    file.write_text(f"A: {'x' * 5_000}\n")

    assert 0 == importing(file, "/P", "--yes", "--key-id", "alias/mine", "--tier", "Advanced").status
    assert ("alias/mine", "Advanced") == tuple(described(ssm)["/P/A"][name] for name in ("KeyId", "Tier"))
    assert 0 == importing(file, "/Q", "--yes", "--type", "String", "--tier", "Advanced").status
    assert "String" == described(ssm)["/Q/A"]["Type"]
    ssm.put("/R/A", "old", "String")
    assert 0 == importing(file, "/R", "--yes", "--key-id", "alias/mine", "--tier", "Advanced").status
    assert "String" == described(ssm)["/R/A"]["Type"]
    assert 2 == importing(file, "/P", "--type", "String", "--key-id", "alias/mine").status
    assert 2 == importing(file, "/P", "--type", "Text").status


@pytest.mark.parametrize("suffix", [".env", ".json", ".yaml"])
def test_what_export_wrote_is_imported_as_it_was(ssm: Store, tmp_path: Path, suffix: str) -> None:
    """A path is copied through a file of each format that is read."""
    values = {"A": SECRET, "B": "a\r\nb\r", "C": " x ", "D": "\u2028\ufeff", "E": "1e3", "F": "#", "G": "no"}
    for name, value in values.items():
        ssm.put(f"/FROM/{name}", value)
    file = tmp_path / f"it{suffix}"

    assert 0 == invoke("export", "/FROM", "-o", str(file)).status
    assert 0 == importing(file, "/TO", "--yes").status

    assert {f"/TO/{name}": value for name, value in values.items()} == held(ssm, "/TO")


def test_standard_input_and_nested_names(ssm: Store) -> None:
    """`-` is standard input, and levels of JSON are levels of names."""
    text = json.dumps({"db": {"url": "x", "port": 3306}, "none": None, "list": [1, "a"]})

    done = invoke("import", "-", "/P", "--format", "json", "--yes", stdin=text)

    assert (0, "") == (done.status, done.err)
    assert {"/P/db/url": "x", "/P/db/port": "3306", "/P/list": '[1,"a"]'} == held(ssm)


# --- What it asks


@pytest.mark.parametrize(("answer", "status", "count"), [("y", 0, 3), ("\x03", 1, 0)])
def test_it_asks_on_a_terminal(ssm: Store, env_file: Path, answer: str, status: int, count: int) -> None:
    """Only with a yes is anything written; the values are not on the screen, and progress is."""
    program, *arguments = aiossmenv("import", str(env_file), "/P")
    screen = io.BytesIO()
    terminal = pexpect.spawn(
        program, arguments, env={**os.environ, **PLAIN, "TERM": "xterm"}, timeout=30, logfile=screen
    )
    terminal.expect("3 to add.*Do this")
    terminal.sendline(answer) if answer != "\x03" else terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert (status, count) == (terminal.exitstatus, len(held(ssm)))
    assert (count == 3) == (b"/3" in screen.getvalue())
    assert b"s3cr3t" not in screen.getvalue()
    assert b"Traceback" not in screen.getvalue()


def test_without_a_terminal_it_needs_a_yes(ssm: Store, env_file: Path) -> None:
    """It says what it would do, and does nothing."""
    for done in (importing(env_file, "/P"), invoke("import", "-", "/P", "-f", "dotenv", stdin="A=1")):
        assert 1 == done.status
        assert " to add" in done.out
        assert "--yes" in done.err
    assert {} == held(ssm)


# --- Files


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("no.env", None, "no.env: No such file or directory"),
        ("it.env", b"", "it.env: there is no name in it"),
        ("it.json", b"{}", "it.json: there is no name in it"),
        ("it.json", b"", "it.json: Expecting value: line 1 column 1"),
        ("it.env", b"A=\xffs3cr3t", "it.env: this is not UTF-8: line 1 column 3"),
        ("it.env", b"A=1\nragged s3cr3t\n", "it.env: this is not KEY=VALUE: line 2 column 1"),
        ("it.env", b"A=1\nA=s3cr3t\n", "it.env: this name is there already: line 2 column 1"),
        ("it.env", b"db-url=s3cr3t\nDB_URL=x", "it.env: there are two values of 'db-url' and 'DB_URL'"),
        ("it.yaml", b"A: 1\nB: [s3cr3t", "it.yaml: this is not YAML"),
        ("it.tfvars", b'A = "s3cr3t"', "it.tfvars: tfvars are expressions"),
        ("it.json", b'{"a b": "s3cr3t", ".x/": "s3cr3t"}', "'/P/.x/', '/P/a b'"),
        ("it.env", b"A=\nB=s3cr3t\n", "the value is empty: '/P/A'"),
        ("it.json", b'{"A": "\\ud800s3cr3t"}', "the value holds a NUL or half a character: '/P/A'"),
        ("it.env", b"A=s3cr3t" + b"x" * 4_096, "its value has 4,102 bytes, and 4,096 are free of charge: '/P/A'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_as_a_whole(
    ssm: Store, tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    """One line says what is wrong and where, without a value, and nothing is written."""
    if data is not None:
        (tmp_path / name).write_bytes(data)

    done = importing(tmp_path / name, "/P", "--yes")

    assert (1, "", 1) == (done.status, done.out, len(done.err.splitlines()))
    assert said in done.err
    assert "s3cr3t" not in done.err
    assert "Traceback" not in done.err
    assert {} == held(ssm)


def test_folders_and_names_without_a_format(ssm: Store, tmp_path: Path) -> None:
    """A folder is an error, and a format that is not known is a wrong use."""
    folder, unknown = tmp_path / "x.env", tmp_path / "x.txt"
    folder.mkdir()
    unknown.write_text("A=1")

    assert f"aiossmenv: {folder}: Is a directory\n" == importing(folder, "/P", "--yes").err
    assert (2, 2) == (importing(unknown, "/P").status, invoke("import", "-", "/P", stdin="").status)
    assert 0 == importing(unknown, "/P", "--format", "dotenv", "--yes").status
    assert (1, 1) == (importing(unknown, "P", "-f", "dotenv").status, importing(unknown, "/aws", "-f", "dotenv").status)


def test_a_file_that_may_not_be_read_is_an_error(ssm: Store) -> None:
    """The error names the file; not even root may read this one."""
    done = importing("/proc/self/mem", "/P", "-f", "dotenv", "--yes")

    assert (1, "aiossmenv: /proc/self/mem: Input/output error\n") == (done.status, done.err)


# --- Parameter Store


def nth(number: int) -> Callable[[Call], bool]:
    """Match the calls of an operation from this one on."""
    return lambda call: call.number >= number


async def imported(*arguments: object) -> Done:
    """Run the command in this process, beside the proxy."""
    return await asyncio.to_thread(importing, *arguments)


def denied(action: str) -> Any:
    """Return the fault of a role without this right."""
    return error(
        "AccessDeniedException", f"User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: {action}"
    )


async def test_a_denied_read_says_that_a_comparison_needs_it(proxy: FaultProxy, ssm: Store, env_file: Path) -> None:
    """Nothing is written where values cannot be compared."""
    await asyncio.to_thread(ssm.put, "/P/A", "x")
    proxy.add(denied("kms:Decrypt"), when=lambda call: bool(call.body.get("WithDecryption")))

    done = await imported(env_file, "/P", "--yes")

    assert (1, "") == (done.status, done.out)
    assert "An import compares values before it writes" in done.err
    assert 0 == proxy.count(PUT)


async def test_an_unknown_key_is_not_replaced_by_the_default(proxy: FaultProxy, ssm: Store, env_file: Path) -> None:
    """Without the right to describe parameters nothing is written, unless --key-id says which key it is."""
    await asyncio.to_thread(ssm.put, "/P/A", "x")
    proxy.add(denied("ssm:DescribeParameters"), operation="DescribeParameters")

    done = await imported(env_file, "/P", "--yes")

    assert (1, "") == (done.status, done.out)
    assert "--key-id" in done.err
    assert 0 == proxy.count(PUT)
    assert 0 == (await imported(env_file, "/P", "--yes", "--key-id", "alias/mine")).status


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (denied("ssm:PutParameter"), "AccessDenied"),
        (error("ExpiredTokenException", "The security token included in the request is expired"), "AccessDenied"),
        (error("ParameterLimitExceeded", "no"), "aiossmenv: "),
    ],
)
async def test_an_error_midway_says_what_is_not_written(
    proxy: FaultProxy, ssm: Store, tmp_path: Path, fault: Any, said: str
) -> None:
    """How many of how many are written is said, the others are named, and the same command writes these alone."""
    file = tmp_path / "it.env"
    file.write_text("".join(f"K{number}=s3cr3t\n" for number in range(8)))
    proxy.add(fault, operation=PUT, when=nth(3))

    done = await imported(file, "/P", "--yes", "--verbose")

    assert 1 == done.status
    assert said in done.err
    written = await asyncio.to_thread(held, ssm)
    assert f"{len(written)} of 8 changes are made" in done.err
    assert 3 == len(written)
    missing = {f"/P/K{number}" for number in range(8)} - written.keys()
    assert missing == set(re.findall(r"/P/K\d", next(line for line in done.err.splitlines() if "changes" in line)))
    assert "s3cr3t" not in done.out + done.err

    proxy.clear()
    again = await imported(file, "/P", "--yes")
    assert "5 to add, 0 to change, 0 to delete, 3 unchanged" in again.out
    assert 5 == proxy.count(PUT)


async def test_an_error_in_a_deletion_says_what_is_not_deleted(proxy: FaultProxy, ssm: Store, env_file: Path) -> None:
    """What was written and deleted before is counted."""
    for number in range(15):
        await asyncio.to_thread(ssm.put, f"/P/old/{number:02}", "x")
    proxy.add(denied("ssm:DeleteParameters"), operation=DELETE, when=nth(1))

    done = await imported(env_file, "/P", "--prune", "--yes")

    assert 1 == done.status
    assert "13 of 18 changes are made" in done.err
    assert {f"/P/old/{number:02}" for number in range(10, 15)} == set(
        re.findall(r"/P/old/\d+", done.err.splitlines()[0])
    )


async def test_it_waits_out_throttling_and_resets(proxy: FaultProxy, ssm: Store, env_file: Path) -> None:
    """Every value is written once."""
    proxy.add(throttled(), operation=PUT, times=2)
    proxy.add(reset(), operation=PUT, times=1)

    done = await imported(env_file, "/P", "--yes")

    assert 0 == done.status
    assert {1} == {item["Version"] for item in (await asyncio.to_thread(described, ssm)).values()}


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_midway_says_what_is_not_written(
    proxy: FaultProxy, ssm: Store, tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    """Ctrl-C, and the signal that ends a job, leave a line that says how far it came."""
    file = tmp_path / "it.env"
    file.write_text("".join(f"K{number}=s3cr3t\n" for number in range(4)))
    proxy.add(hang(), operation=PUT, when=nth(2))
    process = await asyncio.create_subprocess_exec(*aiossmenv("import", str(file), "/P", "--yes"), stdout=-1, stderr=-1)
    while proxy.count(PUT) < 4 or len(await asyncio.to_thread(held, ssm)) < 2:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    process.send_signal(signum)
    _, err = await process.communicate()

    said = err.decode()
    assert status == process.returncode
    assert 1 == len(said.splitlines())
    assert "2 of 4 changes are made" in said
    assert 2 == len(re.findall(r"/P/K\d", said))


def test_where_there_is_no_terminal_a_line_says_now_and_then_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A line comes when the time is over, and not for each change."""
    with _progress(9, every=0.05) as advance:
        for made in range(1, 5):
            advance(made)
        time.sleep(0.06)
        advance(5)
        advance(6)

    assert "aiossmenv: 5 of 9 changes are made\n" == capsys.readouterr().err
    assert not sys.stderr.isatty()
