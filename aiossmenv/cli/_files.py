"""Files that hold secrets: read whole, and written whole or not at all."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from aiossmenv.cli._formats import Format, ReadFormat, format_of, parse
from aiossmenv.cli._run import fail

FileFormat = Annotated[
    ReadFormat | None,
    typer.Option("--format", "-f", help="What a file is read as. Default: by its name.", show_default=False),
]


def read_values(file: str, form: ReadFormat | None) -> dict[str, str]:
    """Return the names and values in *file*, or in standard input if that is `-`; its name says what its format is."""
    if form is None:
        named = format_of(file)
        if named is None:
            raise typer.BadParameter(f"the name {file} does not say what the format is", param_hint="--format")
        if named is Format.tfvars:
            reason = "tfvars are expressions of a language, and are not read"
            fail(f"{file}: {reason}", "Write it as .tfvars.json, which Terraform reads, too.")
        form = ReadFormat(named)
    if file == "-":
        return parse(sys.stdin.buffer.read(), form, "standard input")
    with _named(file):
        data = Path(file).read_bytes()
    return parse(data, form, file)


def check_target(file: str) -> None:
    """Refuse, before anything is read, a *file* that `write()` would refuse."""
    path = Path(file)
    folder = path.parent
    if not folder.is_dir():
        fail(f"{folder}: there is no such folder")
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            # What it points to may be a file of others, or a device.
            fail(f"{file}: this is a symbolic link, and is not followed", "Name the file itself.")
        if not stat.S_ISREG(mode):
            fail(f"{file}: this is no file that can be replaced", "Leave out --output to write to standard output.")


def write(file: str, data: bytes) -> None:
    """
    Write *data* to *file*, which then only its owner may read: all of it, or nothing and an error.

    It is written beside and renamed, so an existing file keeps neither its mode nor a part of its text, and what has it
    open still reads the old text.
    """
    check_target(file)
    with _named(file):
        _replace(Path(file), data)


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Let an error name the file that was asked for: that of a read names none, and that of a write the one beside."""
    try:
        yield
    except OSError as error:
        error.filename = file
        raise


def _replace(path: Path, data: bytes) -> None:
    number, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as opened:
            # No one else may open it from the start, and the owner may, whatever the umask is.
            Path(beside).chmod(0o600)
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    with suppress(OSError):
        # So that the new name outlives a power failure; not each file system can do that for a folder.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
