"""`diff`: which keys differ between two paths, or a path and a file."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from aiossmenv._load import load_env
from aiossmenv._naming import upper_snake
from aiossmenv.cli import _files as files
from aiossmenv.cli import _options as options
from aiossmenv.cli._formats import ReadFormat, format_of
from aiossmenv.cli._output import print_json, print_table
from aiossmenv.cli._plan import Difference, compare
from aiossmenv.cli._run import FAILED, new_store, reporting

_DIFFERENT, _TROUBLE = 1, 2


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A path in Parameter Store, or a file.")],
    second: Annotated[
        str, typer.Argument(metavar="B", help="Another one. With --format it is a file, if A is not one.")
    ],
    form: files.FileFormat = None,
    json: options.Json = False,
    allow_empty: options.AllowEmpty = False,
    deadline: options.Deadline = None,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """
    Name the keys that A and B do not have in common, or have with other values; no value is shown.

    What exists as a file, and what is called as an env file or ends in .json, .yaml or .yml, is a file; - is standard
    input. All else is a path.

    As that of diff(1), the exit status is 0 if there is no difference, 1 if there is one, and 2 after an error.
    """
    sides = first, second
    try:
        with reporting(verbose=verbose):
            # Files first, because errors in them are quicker.
            read = {side: _in_file(side, form) for side in _files(sides, form)}
            paths = [side for side in sides if side not in read]
            read |= asyncio.run(_under_paths(paths, region, profile, allow_empty=allow_empty, deadline=deadline))
            difference = compare(read[first], read[second])
            _show(difference, sides, json=json)
    except typer.Exit as error:
        if error.exit_code == FAILED:
            raise typer.Exit(_TROUBLE) from None
        raise
    if difference:
        raise typer.Exit(_DIFFERENT)


def _files(sides: tuple[str, str], form: ReadFormat | None) -> list[str]:
    found = [side for side in sides if side == "-" or format_of(side) or Path(side).is_file()]
    return found or ([sides[1]] if form else [])


def _show(difference: Difference, sides: tuple[str, str], *, json: bool) -> None:
    if json:
        print_json({
            "only_in_first": difference.only_first,
            "only_in_second": difference.only_second,
            "different": difference.different,
        })  # fmt: skip
    elif difference:
        rows = [
            *([key, f"only in {sides[0]}"] for key in difference.only_first),
            *([key, f"only in {sides[1]}"] for key in difference.only_second),
            *([key, "different"] for key in difference.different),
        ]
        print_table(["key", "difference"], sorted(rows))


def _in_file(file: str, form: ReadFormat | None) -> dict[str, str]:
    return {upper_snake(name): value for name, value in files.read_values(file, form).items()}


async def _under_paths(
    paths: list[str], region: str | None, profile: str | None, *, allow_empty: bool, deadline: float | None
) -> dict[str, dict[str, str]]:
    async with new_store(region, profile) as store:
        return {
            path: dict(await load_env(path, environ=None, allow_empty=allow_empty, deadline=deadline, store=store))
            for path in paths
        }
