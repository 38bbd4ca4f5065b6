"""What `--help` says, and what shells complete. The texts are checked in; UPDATE_HELP=1 writes them anew."""

import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from command import PLAIN, invoke, run

HELP = Path(__file__).with_name("help")
COMMANDS = ("list", "get", "history", "set", "delete", "import", "export", "diff", "policy", "doctor", "exec")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str) -> None:
    """The help of each command is the text that is checked in."""
    file = HELP / f"{command or 'aiossmenv'}.txt"

    done = invoke(*command.split(), "--help")

    assert (0, "") == (done.status, done.err)
    if os.environ.get("UPDATE_HELP"):
        file.write_text(done.out)
    assert file.read_text() == done.out


def test_every_command_has_its_file() -> None:
    """The list of commands is complete, and no file is of a command that is gone."""
    listed = invoke("--help").out.partition("Commands:\n")[2]

    assert sorted(COMMANDS) == sorted(line.split()[0] for line in listed.splitlines() if line.strip())
    assert sorted([*COMMANDS, "aiossmenv"]) == sorted(file.stem for file in HELP.iterdir())


def test_version() -> None:
    """The version is that of the package, as a module and as a program."""
    assert run("--version").out.startswith("aiossmenv 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    """Each shell gets a script that completes the command."""
    program = str(Path(sys.executable).with_name("aiossmenv"))
    done = subprocess.run(
        [program], capture_output=True, text=True, check=False, env=environ(f"source_{shell}"), timeout=30
    )

    assert 0 == done.returncode, done.stderr
    assert "_AIOSSMENV_COMPLETE" in done.stdout


def test_completion() -> None:
    """Bash completes the names of commands and options, with the script that it is given."""
    child = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], env=environ(), encoding="utf-8", timeout=20)
    child.sendline(
        "PS1='ready> '; bind 'set enable-bracketed-paste off'; eval \"$(_AIOSSMENV_COMPLETE=source_bash aiossmenv)\""
    )
    child.expect_exact("ready> ")
    child.sendline("complete -p aiossmenv")
    child.expect("complete .*aiossmenv")
    child.send("aiossmenv doc\t")
    child.expect_exact("doctor")
    child.send("--js\t")
    child.expect_exact("--json")
    child.sendcontrol("c")
    child.sendline("exit")
    child.expect(pexpect.EOF)


def environ(complete: str = "") -> dict[str, str]:
    """Return an environment in which the command completes."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **PLAIN, "PATH": programs, **({"_AIOSSMENV_COMPLETE": complete} if complete else {})}
