"""Arguments and options that several commands have."""

from typing import Annotated, TypeAlias, get_args

import typer

from aiossmenv._expand import Format

_FORMATS: tuple[Format, ...] = get_args(Format)
Formats: TypeAlias = Format | dict[str, Format] | None


def above_zero(seconds: float | None) -> float | None:
    """Refuse a time that is not above zero."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise typer.BadParameter("a number of seconds above 0 is expected")
    return seconds


def parse_expand(given: list[str] | None) -> Formats:
    """Return what each --expand says, as `load_env` takes it."""
    known: dict[str, Format] = {form: form for form in _FORMATS}
    if given and len(given) == 1 and given[0] in known:
        return known[given[0]]
    formats: dict[str, Format] = {}
    for text in given or ():
        name, _, form = text.rpartition("=")
        if not name or form not in known:
            raise typer.BadParameter(
                f"json or dotenv is given once, or KEY=json and KEY=dotenv for each KEY, and not {text!r}",
                param_hint="--expand",
            )
        formats[name] = known[form]
    return formats or None


Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH",
        help="Paths in Parameter Store, such as /FAKEBOOK/TEST. Default: $SSM_PATH, comma separated.",
        show_default=False,
    ),
]
Region = Annotated[str | None, typer.Option("--region", help="The region, instead of the SDK's own.")]
Profile = Annotated[str | None, typer.Option("--profile", help="A profile of the AWS configuration.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what is done, and show what led to an error; no values.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show values, on a terminal.")]
Pipe = Annotated[bool, typer.Option("--pipe", help="With --reveal: show values where the output is no terminal, too.")]
Key = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="NAME", help="Read this name only; may be given several times, as may :3 or :label."),
]
Expand = Annotated[
    list[str] | None,
    typer.Option(
        "--expand",
        metavar="json|dotenv|KEY=FORMAT",
        help="Take several variables out of each parameter, or of the parameter KEY; that may be given several times.",
    ),
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Accept a path that holds no parameter.")]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        callback=above_zero,
        help="Give up loading after so long, retries and all. Default: 30.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
