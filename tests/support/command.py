"""The command `aiossmenv`, run in this process, which is quick, and as a program of its own, which is real."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pexpect
from typer.testing import CliRunner

from aiossmenv.cli._app import app

# So that no terminal of the machine that runs the tests has a say in what is printed.
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100", "TERMINAL_WIDTH": "100"}


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: its exit *status*, and what it wrote to standard output and to standard error."""

    status: int
    out: str
    err: str


def invoke(*arguments: str, stdin: str | None = None) -> Done:
    """Run the command in this process; its output is no terminal, and no event loop may run in this thread."""
    result = CliRunner().invoke(app, arguments, input=stdin, env=PLAIN)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


async def invoke_in_thread(*arguments: str, stdin: str | None = None) -> Done:
    """Run the command in a thread of this process, while servers of the test run on its event loop."""
    return await asyncio.to_thread(invoke, *arguments, stdin=stdin)


def on_terminal(*arguments: str) -> "pexpect.spawn[str]":
    """Start the command on a terminal of its own."""
    program, *rest = aiossmenv(*arguments)
    return pexpect.spawn(program, rest, env={**os.environ, **PLAIN}, encoding="utf-8", timeout=20)


def aiossmenv(*arguments: str) -> list[str]:
    """Return the command line of the command with these arguments."""
    return [sys.executable, "-m", "aiossmenv", *arguments]


def run(*arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None, cwd: str | None = None) -> Done:
    """Run the command as a program, with the environment of this process or with *environ*."""
    done = subprocess.run(
        aiossmenv(*arguments),
        input=stdin,
        capture_output=True,
        env={**(os.environ if environ is None else environ), **PLAIN},
        cwd=cwd,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())
