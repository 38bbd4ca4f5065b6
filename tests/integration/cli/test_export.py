"""`aiossmenv export`."""

import asyncio
import json
import os
import resource
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from aiossmenv import load_env
from command import Done, aiossmenv, invoke, run
from embedded import Store
from faults import FaultProxy, error, hang, throttled
from readers import by_dotenv, by_shell

SECRET = "s3cr3t-'$(exit 9)\n\\ é😀"


def mode(path: Path) -> str:
    """Return the mode of a file, as `0o600`."""
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_it_prints_what_load_env_gives(ssm: Store) -> None:
    """The keys are those of `load_env`, sorted, and later paths win."""
    ssm.put("/A/db/url", "first")
    ssm.put("/A/X", SECRET)
    ssm.put("/B/DB_URL", "second")

    done = invoke("export", "/A", "/B/", "--format", "json")

    expected = asyncio.run(load_env("/A", "/B", environ=None)._coroutine)
    assert (0, "") == (done.status, done.err)
    assert {"DB_URL": "second", "X": SECRET} == json.loads(done.out) == dict(expected)


def test_a_real_process_prints_bytes_that_no_locale_changes(ssm: Store) -> None:
    """In a locale without these letters the output is UTF-8, and a shell that evaluates it has the values."""
    ssm.put("/A/X", SECRET)
    ssm.put("/A/Y", "a\r\nb\r\n")

    done = run("export", "/A", "--format", "shell", environ={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})

    assert (0, "") == (done.status, done.err)
    assert {"X": SECRET, "Y": "a\r\nb\r\n"} == by_shell("sh", 'eval "$(cat)"', done.out)


def test_the_environment_of_the_command_is_not_touched(ssm: Store) -> None:
    """Parameters that would steer a program are printed, and change nothing here."""
    ssm.put("/A/PATH", "/nowhere")
    before = dict(os.environ)

    assert "PATH=/nowhere\n" == invoke("export", "/A").out
    assert before["PATH"] == os.environ["PATH"]


def test_paths_keys_and_formats_of_values_are_those_of_load_env(ssm: Store) -> None:
    """`$SSM_PATH`, `--key` and `--expand` mean what they mean to `load_env`."""
    ssm.put("/A/DB", '{"host": "x", "port": 3306}')
    ssm.put("/A/OTHER", "1")
    ssm.put("/A/OTHER", "2")
    os.environ["SSM_PATH"] = "/A"

    assert "HOST=x\nOTHER=2\nPORT=3306\n" == invoke("export", "--expand", "DB=json").out
    assert "OTHER=1\n" == invoke("export", "--key", "OTHER:1").out
    assert (2, "") == _status_and_output(invoke("export", "--expand", "DB=xml"))
    assert (2, "") == _status_and_output(invoke("export", "--format", "toml"))


def _status_and_output(done: Done) -> tuple[int, str]:
    return done.status, done.out


def test_an_empty_path_is_an_error_unless_that_is_wanted(ssm: Store) -> None:
    """Nothing is printed for a path without parameters, but with --allow-empty an empty file is."""
    assert (1, "") == _status_and_output(invoke("export", "/NOT/THERE"))
    assert (0, "{}\n") == _status_and_output(invoke("export", "/NOT/THERE", "--allow-empty", "-f", "json"))


def test_a_warning_names_the_keys_that_other_readers_misread(ssm: Store) -> None:
    """What a shell would run is named on standard error, without its value."""
    ssm.put("/A/X", SECRET)
    ssm.put("/A/Y", "fine")

    done = invoke("export", "/A")

    assert {"X": SECRET, "Y": "fine"} == by_dotenv(done.out)
    assert 1 == len(done.err.splitlines())
    assert ": X. " in done.err
    assert "s3cr3t" not in done.err


# --- Files


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_file_is_for_its_owner_only(ssm: Store, tmp_path: Path, umask: int) -> None:
    """Whatever the umask is, the file has mode 0600 and is the only one; its suffix gives the format."""
    ssm.put("/A/X", SECRET)
    file = tmp_path / "it.json"
    before = os.umask(umask)
    try:
        done = invoke("export", "/A", "--output", str(file))
    finally:
        os.umask(before)

    assert (0, "", "") == (done.status, done.out, done.err)
    assert {"X": SECRET} == json.loads(file.read_text("utf-8"))
    assert "0o600" == mode(file)
    assert [file] == list(tmp_path.iterdir())


def test_an_existing_file_is_replaced_and_keeps_no_wider_mode(ssm: Store, tmp_path: Path) -> None:
    """The new file is for its owner only, and what has the old one open still reads the old text."""
    ssm.put("/A/X", "new")
    file = tmp_path / ".env"
    file.write_text("X=old\n")
    file.chmod(0o666)

    with file.open() as opened:
        assert 0 == invoke("export", "/A", "-o", str(file)).status
        assert "X=old\n" == opened.read()

    assert "X=new\n" == file.read_text()
    assert "0o600" == mode(file)


@pytest.mark.parametrize("target", ["file", "nothing", "device"])
def test_a_symbolic_link_is_refused(ssm: Store, tmp_path: Path, target: str) -> None:
    """A link is neither followed nor replaced, whatever it points to, and the store is not read."""
    ssm.put("/A/X", "new")
    real = {"file": tmp_path / "real", "nothing": tmp_path / "none", "device": Path("/dev/null")}[target]
    (tmp_path / "real").write_text("old")
    link = tmp_path / "link"
    link.symlink_to(real)

    done = invoke("export", "/A", "-o", str(link))

    assert 1 == done.status
    assert "symbolic link" in done.err
    assert link.is_symlink()
    assert "old" == (tmp_path / "real").read_text()


def test_what_is_no_file_is_refused_before_anything_is_read(ssm: Store, tmp_path: Path) -> None:
    """A folder, a pipe, a device and a folder that is not there are errors that name them."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.environ["AWS_ENDPOINT_URL_SSM"] = "http://127.0.0.1:9"

    for name in (str(tmp_path), str(pipe), "/dev/null", str(tmp_path / "no" / "it.env")):
        done = invoke("export", "/A", "-o", name)
        assert (1, "") == (done.status, done.out)
        assert name.removesuffix("/it.env") in done.err
    assert [pipe] == list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written_to_is_an_error(ssm: Store) -> None:
    """The error names the file that was asked for, whoever runs the command: not even root may write here."""
    ssm.put("/A/X", "s3cr3t")

    done = invoke("export", "/A", "-o", "/sys/it.env")

    assert (1, "", "aiossmenv: /sys/it.env: Permission denied\n") == (done.status, done.out, done.err)


def test_a_full_disk_leaves_nothing_behind(ssm: Store, tmp_path: Path) -> None:
    """A file that cannot be written whole is removed, and the old one stays."""
    ssm.put("/A/X", "x" * 4_000)
    file = tmp_path / "it.env"
    file.write_text("X=old\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        done = invoke("export", "/A", "-o", str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert (1, f"aiossmenv: {file}: File too large\n") == (done.status, done.err)
    assert "X=old\n" == file.read_text()
    assert [file] == list(tmp_path.iterdir())


def test_values_that_a_format_cannot_hold_leave_the_file_alone(ssm: Store, tmp_path: Path) -> None:
    """The error names the key, nothing is printed, and no file is written."""
    ssm.put("/A/X", "s3cr3t\n")
    ssm.put("/A/Y", "fine")
    file = tmp_path / "it"

    printed, written = invoke("export", "/A", "-f", "docker"), invoke("export", "/A", "-f", "docker", "-o", str(file))

    for done in (printed, written):
        assert (1, "") == (done.status, done.out)
        assert "'X'" in done.err
        assert "s3cr3t" not in done.err
    assert not file.exists()


# --- Parameter Store


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (error("AccessDeniedException", "User: arn:aws:sts::1:assumed-role/r/s is not authorized"), "AccessDenied"),
        (error("ExpiredTokenException", "The security token included in the request is expired"), "AccessDenied"),
        (error("ValidationException", "no"), "aiossmenv: "),
    ],
)
async def test_a_failed_read_prints_nothing(
    proxy: FaultProxy, ssm: Store, tmp_path: Path, fault: object, said: str
) -> None:
    """The error is the library's, and neither output nor file has a part of what was read."""
    for number in range(25):
        await asyncio.to_thread(ssm.put, f"/A/K{number}", "s3cr3t")
    # The first page is in when the next is refused.
    proxy.add(fault, when=lambda call: call.number > 0 or call.operation != "GetParametersByPath")  # type: ignore[arg-type] # any of the faults
    file = tmp_path / "it.env"

    printed = await asyncio.to_thread(invoke, "export", "/A")
    written = await asyncio.to_thread(invoke, "export", "/A", "-o", str(file))

    for done in (printed, written):
        assert (1, "") == (done.status, done.out)
        assert said in done.err
        assert "s3cr3t" not in done.err
    assert not file.exists()


async def test_it_waits_out_throttling(proxy: FaultProxy, ssm: Store) -> None:
    """Answers beyond the quota are tried again."""
    await asyncio.to_thread(ssm.put, "/A/X", "1")
    proxy.add(throttled(), times=2)

    assert "X=1\n" == (await asyncio.to_thread(invoke, "export", "/A")).out


@pytest.mark.parametrize("command", [("export", "/A"), ("diff", "/A", "/B")])
async def test_a_deadline_ends_a_read_that_hangs(proxy: FaultProxy, command: tuple[str, ...]) -> None:
    """--deadline is that of `load_env`."""
    proxy.add(hang())

    done = await asyncio.to_thread(invoke, *command, "--deadline", "0.2")

    assert (True, "") == (done.status in {1, 2}, done.out)
    assert "before the deadline" in done.err


async def test_an_interrupted_export_leaves_nothing_behind(proxy: FaultProxy, ssm: Store, tmp_path: Path) -> None:
    """Ctrl-C ends it with the status of the signal, without a traceback, a file, or output."""
    await asyncio.to_thread(ssm.put, "/A/X", "1")
    proxy.add(hang())
    process = await asyncio.create_subprocess_exec(
        *aiossmenv("export", "/A", "-o", str(tmp_path / "it.env")), stdout=-1, stderr=-1
    )
    while not proxy.calls:
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()

    assert (130, b"", b"") == (process.returncode, out, err)
    assert [] == list(tmp_path.iterdir())


def test_a_reader_that_ends_early_is_no_error_message(ssm: Store) -> None:
    """As with `head`: no traceback when the output is closed, but the status of a broken pipe."""
    for number in range(40):
        ssm.put(f"/A/K{number}", "x" * 4_000)
    # Then a write may be a part of what was given, without an error.
    os.environ["PYTHONUNBUFFERED"] = "1"
    with subprocess.Popen(aiossmenv("export", "/A"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert b"K" == process.stdout.read(1)
        process.stdout.close()
        assert b"" == process.stderr.read()

    assert 141 == process.returncode
