"""How a command fails: one line, and with --verbose what led to it; no value, whatever the error holds."""

import os
import subprocess
import sys

import pytest
import typer

from aiossmenv.cli._run import reporting
from command import invoke
from embedded import Store

SECRET = "geheim-9a8b7c"


def test_verbose_shows_what_led_to_an_error(ssm: Store) -> None:
    """The chain of causes is shown on request only, each with its type."""
    os.environ["AWS_ENDPOINT_URL_SSM"] = "http://127.0.0.1:9"

    brief, whole = (invoke("export", "/APP", "--deadline", "1", *more) for more in ([], ["--verbose"]))

    assert (1, 1) == (brief.status, whole.status)
    assert brief.err.startswith("aiossmenv: StoreUnavailable: ")
    assert 1 == len(brief.err.splitlines())
    assert "caused by" in whole.err
    assert "Traceback" not in whole.err


def test_an_error_that_is_nobodys_shows_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an exception that no command expects, type and place are shown, and no text: that may quote a value."""
    cause = ValueError(SECRET)

    with pytest.raises(typer.Exit) as caught, reporting(verbose=True):
        raise KeyError(SECRET) from cause

    printed = capsys.readouterr().err
    assert 1 == caught.value.exit_code
    assert "internal error: KeyError at test_errors.py:" in printed
    assert "caused by internal error: ValueError" in printed
    assert SECRET not in printed


def test_without_the_extra() -> None:
    """Where the extra is not installed, the command says so in one line."""
    program = "import sys; sys.modules['typer'] = None; from aiossmenv.cli import main; main()"

    done = subprocess.run([sys.executable, "-c", program, "list"], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "aiossmenv: the command line needs typer: pip install 'aiossmenv[cli]'\n" == done.stderr


def test_an_interrupt_and_a_closed_pipe_are_statuses_of_signals() -> None:
    """The status is that of a shell for the signal, and nothing is printed of a traceback."""
    with pytest.raises(typer.Exit) as caught, reporting(verbose=False):
        raise KeyboardInterrupt

    assert 130 == caught.value.exit_code
