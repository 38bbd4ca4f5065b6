"""`export`: what a path becomes in an environment, as a file of another program's format."""

from typing import Annotated

import typer

from aiossmenv._load import load_env
from aiossmenv.cli import _files as files
from aiossmenv.cli import _options as options
from aiossmenv.cli._formats import Format, format_of, render, warnings
from aiossmenv.cli._output import print_bytes
from aiossmenv.cli._run import new_store, run

_FORMAT_HELP = """
dotenv is for python-dotenv, and for Docker Compose and shells where these agree with it; a warning names the keys where
they do not. shell is for `eval "$(aiossmenv export --format shell PATH)"`, and docker for `docker run --env-file`.
Default: by the suffix of --output, else dotenv.
"""


def export(
    paths: options.Paths = None,
    form: Annotated[
        Format | None, typer.Option("--format", "-f", help=_FORMAT_HELP.strip().replace("\n", " "), show_default=False)
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write a file that only its owner may read, all or nothing."
        ),
    ] = None,
    keys: options.Key = None,
    expand: options.Expand = None,
    allow_empty: options.AllowEmpty = False,
    deadline: options.Deadline = None,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """
    Print all variables under each PATH, sorted by key, in the format of another program.

    Nothing is printed or written if anything fails.
    """
    formats = options.parse_expand(expand)
    form = form or (format_of(output) if output else None) or Format.dotenv
    main = _export(paths, form, output, keys, formats, region, profile, allow_empty=allow_empty, deadline=deadline)
    run(main, verbose=verbose)


async def _export(
    paths: list[str] | None,
    form: Format,
    output: str | None,
    keys: list[str] | None,
    expand: options.Formats,
    region: str | None,
    profile: str | None,
    *,
    allow_empty: bool,
    deadline: float | None,
) -> None:
    if output:
        files.check_target(output)
    async with new_store(region, profile) as store:
        env = await load_env(
            *paths or (),
            keys=keys or None,
            expand=expand,
            environ=None,
            allow_empty=allow_empty,
            deadline=deadline,
            store=store,
        )
    values = dict(env)
    data = render(values, form).encode()
    for text in warnings(values, form):
        typer.echo(f"aiossmenv: warning: {text}", err=True)
    if output:
        files.write(output, data)
    else:
        print_bytes(data)
