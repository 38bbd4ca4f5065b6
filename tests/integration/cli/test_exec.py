"""`aiossmenv exec`: a command with the variables in its environment."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from aiossmenv.cli._program import find, make
from aiossmenv.cli._run import CommandError
from command import aiossmenv, invoke, run
from embedded import Store

# What the kernel says of a process: its environment as it was started with, its signals, and its descriptors. Of the
# signals 1 to 28, because glibc ignores 32 and 33 in some processes and not in others.
SIGNALS = "grep -E 'Sig(Blk|Ign)' /proc/self/status | grep -o '.......$'"
INSPECT = f"cat /proc/$$/environ; echo; {SIGNALS}; echo /proc/$$/fd/*; cat; exit 7"


def test_the_command_replaces_ours_and_finds_all_else_as_it_was(ssm: Store, config_file: Path) -> None:
    """It has our process id, standard input, status, signals and descriptors, and one variable more."""
    config_file.write_text("[profile other]\nregion = eu-central-1\n")
    ssm.put("/APP/db/password", "börk'\n$(x)")
    # In the locale C, Python gives LC_CTYPE to its child processes.
    before = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "RAW": "\udcff",
        "AWS_CONFIG_FILE": str(config_file),
    } | ssm.environment

    def inspect(*command: str) -> tuple[int, set[str], list[str]]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=before)
        out, _ = process.communicate(b"from stdin")
        variables, _, rest = os.fsdecode(out).partition("\0\n")
        return process.returncode, set(variables.split("\0")), rest.replace(str(process.pid), "PID").split("\n")

    plain = inspect("sh", "-c", INSPECT)
    ours = inspect(*aiossmenv("exec", "--profile", "other", "/APP", "--", "sh", "-c", INSPECT))

    assert 7 == plain[0] == ours[0]
    assert plain[1] | {os.fsdecode("DB_PASSWORD=börk'\n$(x)".encode())} == ours[1]
    assert plain[2] == ours[2]
    assert "from stdin" == ours[2][-1]


def test_it_tells_apart_what_reaches_the_command(ssm: Store) -> None:
    """`--no-override` keeps what was there, `--pristine` lets nothing else in, and all behind `--` is the command's."""
    for name in ("A", "B"):
        ssm.put(f"/APP/{name}", f"{name} of the store")
    shown = 'echo "$A, $B, $HOME, $*"'
    environ = {**os.environ, "A": "A of ours", "HOME": "/home"}

    kept = run("exec", "--no-override", "/APP", "--", "sh", "-c", shown, "sh", "--", "--help", environ=environ)
    alone = run("exec", "/APP", "--pristine", "--key", "B", "--", "sh", "-c", shown, "sh", environ=environ)

    assert ["A of ours, B of the store, /home, -- --help", ""] == [*kept.out.splitlines(), kept.err]
    assert [", B of the store, , ", ""] == [*alone.out.splitlines(), alone.err]


def test_a_signal_that_ends_the_command_ends_ours(ssm: Store) -> None:
    """What waits for our process learns of the signal, because it is the command's own."""
    ssm.put("/APP/A", "1")

    assert -signal.SIGPIPE == run("exec", "/APP", "--", "sh", "-c", "kill -PIPE $$").status


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("exec", "/APP"), 2, "-- CMD"),
        (("exec", "/APP", "--"), 2, "-- CMD"),
        (("exec", "/APP", "--no-such", "--", "false"), 2, "--no-such"),
        (("exec", "/APP", "--deadline", "0", "--", "false"), 2, "--deadline"),
        (("exec", "/APP", "--expand", "json", "--expand", "A=json", "--", "false"), 2, "KEY=dotenv"),
        (("exec", "/APP", "--expand", "A=yaml", "--", "false"), 2, "'A=yaml'"),
        (("exec", "/APP", "--", "no-such-program"), 127, "there is no program 'no-such-program' in PATH"),
        (("exec", "/APP", "--", ""), 127, "there is no program ''"),
        (("exec", "/APP", "--", "/etc/passwd"), 126, "/etc/passwd is not executable"),
        (("exec", "/APP", "--", "/etc"), 126, "/etc is not a file"),
        (("exec", "/OTHER", "--", "false"), 1, "EmptyPath"),
        (("exec", "/APP", "--required", "X", "--required", "B", "--", "false"), 1, "required, and not there: B, X"),
        (("exec", "/STEERS", "--", "false"), 1, "'LD_PRELOAD' of /STEERS/LD_PRELOAD"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_one_line_and_a_status(
    ssm: Store, arguments: tuple[str, ...], status: int, said: str
) -> None:
    """Each failure has the exit status that shells give it, one line that says why, and no value."""
    # If one of them started, this process would become `false`, and the test would not pass.
    ssm.put("/APP/A", "not-shown")
    ssm.put("/STEERS/LD_PRELOAD", "not-shown")

    done = invoke(*arguments)

    assert (status, "") == (done.status, done.out)
    assert said in done.err
    assert "not-shown" not in done.err
    if status != 2:
        assert 1 == len(done.err.splitlines())


def test_strict_names_all_that_is_missing(ssm: Store) -> None:
    """Each `--key` and each placeholder of chamber must be loaded; placeholders are replaced with `--no-override`."""
    ssm.put("/APP/A", "A of the store")
    os.environ |= {"A": "chamberme", "B": "chamberme"}

    refused = invoke("exec", "--strict", "--key", "A", "--key", "c/d", "--key", "/APP/e:3", "/APP", "--", "false")
    del os.environ["B"]
    done = run("exec", "--strict", "--no-override", "--key", "/APP/A", "/APP", "--", "sh", "-c", "echo $A")

    assert 1 == refused.status
    assert "required, and not there: B, C_D, E" in refused.err
    assert ("A of the store\n", "") == (done.out, done.err)
    # What is expanded is no variable by itself.
    expanded = invoke("exec", "--strict", "--expand", "N=json", "--key", "A", "--key", "N", "/APP", "--", "false")
    assert 1 == expanded.status
    assert "not in Parameter Store: /APP/N" in expanded.err


def test_a_script_without_a_first_line_is_refused(ssm: Store, tmp_path: Path) -> None:
    """What the kernel refuses is said in one line, with the status of a program that cannot be executed."""
    ssm.put("/APP/A", "1")
    files = {"plain": "echo $A", "lost": "#!/no/such/interpreter\n"}
    for name, text in files.items():
        tmp_path.joinpath(name).write_text(text)
        tmp_path.joinpath(name).chmod(0o755)

    plain, lost = (run("exec", "/APP", "--", str(tmp_path / name)) for name in files)

    assert (126, True, 1) == (plain.status, "#!" in plain.err, len(plain.err.splitlines()))
    assert (126, True, 1) == (lost.status, "interpreter" in lost.err, len(lost.err.splitlines()))


def test_what_the_kernel_does_not_take_is_named(ssm: Store) -> None:
    """The largest string and the largest sum that the kernel takes pass; one byte more is an error with its size."""
    command = ["true", "an argument"]
    search_path = os.environ["PATH"]

    def check(variables: dict[str, str]) -> None:
        program = make(command, variables, search_path=search_path)
        subprocess.run(program.arguments, env=program.environment, executable=program.path, check=True)

    def refused(variables: dict[str, str]) -> str:
        with pytest.raises(CommandError) as error:
            make(command, variables, search_path=search_path)
        with pytest.raises(OSError, match="too long"):
            subprocess.run(command, env=variables, executable=find("true", search_path), check=True)
        return str(error.value)

    one = {"BIG": "x" * (131_072 - len("BIG=\0"))}
    check(one)
    assert "BIG by 1; NAME=VALUE takes 131071 at most" in refused({"BIG": one["BIG"] + "x", "SMALL": "not-shown"})
    # A quarter of the stack's limit, in variables of 100 KB, and the last one as large as there is room for.
    total = os.sysconf("SC_ARG_MAX")
    many = {f"V{number:02}": "x" * 99_987 for number in range(total // 100_000)}
    strings = sum(len(f"{name}={value}\0") + 8 for name, value in many.items())
    strings += len(f"{find('true', search_path)}\0true\0an argument\0") + 2 * 8
    many["LAST"] = "x" * (total - strings - len("LAST=\0") - 8)
    check(many)
    said = refused(many | {"LAST": many["LAST"] + "x"})
    assert f"take {total + 1} bytes, 1 too many for the kernel; the largest variables are V00, V01, V02" in said

    ssm.put("/APP/A", "not-shown")
    os.environ |= {name: value for name, value in many.items() if name != "A"}
    done = invoke("exec", "/APP", "--", "false")
    assert (126, True, False) == (done.status, "too many for the kernel" in done.err, "shown" in done.err)
