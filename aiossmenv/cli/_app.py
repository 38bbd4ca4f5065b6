"""The commands, by their names."""

from typing import Annotated

import typer

from aiossmenv.cli._diff import diff
from aiossmenv.cli._doctor import doctor
from aiossmenv.cli._exec import ExecCommand, exec_
from aiossmenv.cli._export import export
from aiossmenv.cli._import import import_
from aiossmenv.cli._list import get, history, list_
from aiossmenv.cli._policy import policy
from aiossmenv.cli._write import delete, set_

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
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            callback=lambda value: _print_version(wanted=value),
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Parameter Store for people, and for programs in other languages."""


app.command("exec", cls=ExecCommand, short_help="Run a program with the variables.")(exec_)
for _name, _run, _summary in (
    ("list", list_, "List what is under a path."),
    ("get", get, "Show parameters by name."),
    ("history", history, "Show the versions of a parameter."),
    ("set", set_, "Write a parameter: a new one, or a new version."),
    ("delete", delete, "Delete parameters."),
    ("import", import_, "Write the names and values of a file below a path."),
    ("export", export, "Print variables in the format of another program."),
    ("diff", diff, "Name the keys that differ between two paths or files."),
    ("policy", policy, "Print the IAM policy with the least rights."),
    ("doctor", doctor, "Say what this role can do here, and what would fail."),
):
    app.command(_name, short_help=_summary)(_run)
