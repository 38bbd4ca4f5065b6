"""The commands, by their names."""

from typing import Annotated

import typer

from aiossmenv.cli._diff import diff
from aiossmenv.cli._export import export
from aiossmenv.cli._import import import_
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
        # Here, because that takes 50 ms.
        from importlib.metadata import version as version_of

        typer.echo(f"aiossmenv {version_of('aiossmenv')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=lambda value: _print_version(wanted=value), is_eager=True)
    ] = False,
) -> None:
    """Parameter Store for people, and for programs in other languages."""


app.command("diff")(diff)
app.command("export")(export)
app.command("import")(import_)
app.command("list")(list_)
