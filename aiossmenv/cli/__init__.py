"""
The command `aiossmenv`, for people and for programs in other languages: `pip install 'aiossmenv[cli]'`.

`aiossmenv --help` lists its commands, and `aiossmenv COMMAND --help` the options of one. All that the SDK reads holds
here too: `AWS_PROFILE`, `AWS_REGION`, `AWS_ENDPOINT_URL_SSM` and the files of the AWS configuration.

The exit status is 0 when all went well, 1 after an error, and 2 for an option or an argument that cannot be. `exec`
ends as its program does, and `diff` as diff(1). Errors go to standard error, and name no value. Values are shown by
`export`, by `--reveal` and by `--raw`.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and exit with its status."""
    try:
        from aiossmenv.cli._app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("aiossmenv: the command line needs typer: pip install 'aiossmenv[cli]'")
    app()
