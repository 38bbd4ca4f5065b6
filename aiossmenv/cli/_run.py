"""How a command runs, and how it fails: one message on standard error, and an exit status."""

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from aiossmenv._errors import AiossmenvError
from aiossmenv._ssm.store import ParameterStore
from aiossmenv.cli._wording import in_words_of_the_command

# The exit status after an error.
FAILED = 1

# What typer itself answers: an option that cannot be, an exit status, an interrupted prompt.
_TYPERS = (typer.BadParameter, typer.Exit, typer.Abort)


class CommandError(Exception):
    """
    A command cannot do what it was asked to do, for a reason that is not Parameter Store's.

    *message* has no value in it. *remedy*: what to do. *status*: the exit status.
    """

    def __init__(self, message: str, remedy: str = "", *, status: int = FAILED) -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.status = status


def run(main: Coroutine[object, object, None], *, verbose: bool) -> None:
    """Run *main* to its end, or report its error and exit."""
    with reporting(verbose=verbose):
        asyncio.run(main)


@contextmanager
def reporting(*, verbose: bool) -> Iterator[None]:
    """Report an error of the block, and exit."""
    _log_to_stderr(verbose=verbose)
    status = 0
    try:
        yield
    except _TYPERS:
        raise
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        # What reads the output has ended, as `head` does. Python would complain at exit when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except Exception as error:
        report(error, verbose=verbose)
        status = error.status if isinstance(error, CommandError) else FAILED
    if status:
        raise typer.Exit(status)


def report(error: BaseException, *, verbose: bool) -> None:
    """Print what an error says, and what led to it if that is wanted; no value, whatever the error holds."""
    typer.echo(f"aiossmenv: {describe(error)}", err=True)
    cause = error.__cause__ or error.__context__
    while verbose and cause:
        typer.echo(f"  caused by {describe(cause)}", err=True)
        cause = cause.__cause__ or cause.__context__


def describe(error: BaseException) -> str:
    """Return one line on *error*; of an error that is not ours only what cannot quote a value."""
    if isinstance(error, AiossmenvError):
        return f"{type(error).__name__}: {in_words_of_the_command(str(error))}"
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""  # noqa: PTH119
    return f"internal error: {type(error).__name__}{where}"


def note(text: str) -> None:
    """Print what the user should know on standard error."""
    typer.echo(f"aiossmenv: {text}", err=True)


def fail(message: str, remedy: str = "") -> NoReturn:
    """Raise a `CommandError`."""
    raise CommandError(message, remedy)


def new_store(region: str | None, profile: str | None) -> ParameterStore:
    """Return a store with what the options say."""
    use_profile(profile)
    return ParameterStore(region=region)


def use_profile(profile: str | None) -> None:
    """Let the SDK use a profile of its configuration."""
    if profile:
        os.environ["AWS_PROFILE"] = profile


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # What reads standard error may have ended, which must not end what is logged.
        with suppress(OSError):
            typer.echo(f"aiossmenv: {record.levelname.lower()}: {record.getMessage()}", err=True)


def _log_to_stderr(*, verbose: bool) -> None:
    logger = logging.getLogger("aiossmenv")
    logger.handlers[:] = [_Handler()]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
