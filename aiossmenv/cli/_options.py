"""Arguments and options that several commands have."""

from typing import Annotated

import typer

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
    str | None,
    typer.Option(
        "--expand", metavar="json|dotenv|KEY=FORMAT", help="Take several variables out of one parameter, as load_env."
    ),
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Accept a path that holds no parameter.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
