"""The commands, by their names."""

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from aiossmenv.cli._exec import ExecCommand, exec_
from aiossmenv.cli._list import list_

app = typer.Typer(
    name="aiossmenv",
    help="Parameter Store for people, and for programs in other languages.",
    no_args_is_help=True,
    # Its tracebacks show the values of variables, and those of Python do not.
    pretty_exceptions_enable=False,
    # Plain help, which is the same in each terminal.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"aiossmenv {version_of('aiossmenv')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=lambda value: _print_version(wanted=value), is_eager=True)
    ] = False,
) -> None:
    """Parameter Store for people, and for programs in other languages."""


app.command("exec", cls=ExecCommand)(exec_)
app.command("list")(list_)
