"""How results look: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import typer

from aiossmenv.cli._run import fail

# Columns of a table that no terminal shows.
_WIDE = 10_000
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def check_reveal(*, reveal: bool, pipe: bool) -> None:
    """Refuse to show values where they would be kept, unless that is wanted."""
    if reveal and not pipe and not sys.stdout.isatty():
        fail("--reveal shows values, and the output is no terminal", "Add --pipe if that is what you want.")


def print_json(data: object) -> None:
    """Print *data* as JSON."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_raw(value: str) -> None:
    """Print a value as it is; on a terminal a line break follows."""
    print_bytes(value.encode() + (b"\n" if sys.stdout.isatty() else b""))


def print_bytes(data: bytes) -> None:
    """Print *data* as it is: no locale has a say, and no line break changes."""
    sys.stdout.flush()
    rest = memoryview(data)
    while rest:
        # With PYTHONUNBUFFERED this is a bare file, which may write a part only, as to a pipe that is closed meanwhile.
        rest = rest[sys.stdout.buffer.write(rest) or 0 :]
    sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; where the output is no terminal no cell is cut or wrapped."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    # For a program a row is a line.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    console.print(table)


def visible(text: str) -> str:
    """Return *text* with each character that would steer a terminal spelled out, as Python does."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def age(moment: datetime | None) -> str:
    """Return how long ago *moment* was, in its largest unit."""
    if moment is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    return next((f"{seconds // size} {unit}" for unit, size in _UNITS if seconds >= size), f"{seconds} s")
