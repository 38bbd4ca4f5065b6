"""`set` and `delete`: one parameter is written, or some are removed."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from aiossmenv._errors import AccessDenied, ParameterNotFound
from aiossmenv._models import ParameterHistory
from aiossmenv._naming import full_name
from aiossmenv._ssm.store import ParameterStore
from aiossmenv.cli import _options as options
from aiossmenv.cli._run import fail, new_store, reporting


def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A full name, such as /FAKEBOOK/TEST/DB_PASSWORD.")],
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="VALUE",
            help="Default: what a prompt asks for, or standard input, of which a single line loses its line break. "
            "As an argument other users of the machine may see it.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        Literal["SecureString", "String", "StringList"] | None,
        typer.Option("--type", help="Default: that of the parameter, or SecureString.", show_default=False),
    ] = None,
    key_id: Annotated[
        str | None,
        typer.Option("--key-id", help="The KMS key. Default: that of the parameter, or alias/aws/ssm."),
    ] = None,
    tier: Annotated[
        Literal["Standard", "Advanced", "Intelligent-Tiering"] | None,
        typer.Option("--tier", help="Default: that of the parameter, or of the account.", show_default=False),
    ] = None,
    description: Annotated[str | None, typer.Option("--description", help="Default: as it was.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Add a tag; may be given several times.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Fail if there is a parameter of this name.")] = False,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """Write a parameter: a new one, or a new version."""
    tags = _tags(tag or [])

    async def put() -> None:
        async with new_store(region, profile) as store:
            known = new or kind in {"String", "StringList"} or (kind and key_id)
            before = None if known else await _newest(store, full)
            written = await store.put(
                full,
                secret,
                type=kind or (before.type if before else "SecureString"),
                key_id=key_id or (before.key_id if before else None) or None,
                tier=tier,
                description=description,
                tags=tags or None,
                overwrite=not new,
            )
        earlier = "an unknown version" if written.previous_version is None else f"version {written.previous_version}"
        came = "new, " if written.previous_version == 0 else f"{earlier} -> "
        typer.echo(f"{full}: {came}version {written.version}")

    with reporting(verbose=verbose):
        full = full_name(name)
        # Before a loop runs, which would not let Ctrl-C end the prompt.
        secret = _value(full, value)
        asyncio.run(put())


def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Full names.")],
    yes: options.Yes = False,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """Delete parameters, with all their versions."""

    async def remove() -> None:
        async with new_store(region, profile) as store:
            deleted = await store.delete(*wanted)
            for name in deleted:
                typer.echo(f"{name}: deleted")
            if absent := [name for name in wanted if name not in deleted]:
                raise ParameterNotFound(
                    "there is no such parameter",
                    parameter=", ".join(absent),
                    region=store.region,
                    remedy="Check the name and the region.",
                )

    with reporting(verbose=verbose):
        wanted = tuple(dict.fromkeys(map(full_name, names)))
        if not yes:
            _confirm(f"Delete {', '.join(wanted)} with all versions?")
        asyncio.run(remove())


def _confirm(question: str) -> None:
    """Ask on the terminal, and stop the command unless the answer is yes."""
    if not sys.stdin.isatty():
        fail("this asks before it changes anything, and standard input is no terminal", "Add --yes.")
    typer.confirm(question, abort=True, err=True)


def _value(name: str, argument: str | None) -> str:
    """Return the value from where it is given."""
    if argument is not None and argument != "-":
        return argument
    if sys.stdin.isatty():
        asked: str = typer.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        text = ""
        place = error.start
    else:
        line = text.removesuffix("\n").removesuffix("\r")
        return text if "\n" in line else line
    # Out of the handler: the exception holds what was read.
    return fail(f"standard input is not UTF-8: byte {place + 1}", "Encode what is not text, for example in base64.")


def _tags(given: list[str]) -> Mapping[str, str]:
    tags = {}
    for tag in given:
        key, equals, value = tag.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"--tag {tag}: write it as KEY=VALUE")
        tags[key] = value
    return tags


async def _newest(store: ParameterStore, name: str) -> ParameterHistory | None:
    """Return what is known of the parameter, whose type and KMS key shall stay, or `None` if it is new."""
    try:
        return (await store.history(name, with_decryption=False))[-1]
    except ParameterNotFound:
        return None
    except AccessDenied as error:
        # PutParameter by itself takes the default key, with which other roles could decrypt it.
        more = "Without it type and KMS key of a parameter are not known: pass --type and --key-id, or --new."
        error.remedy = f"{error.remedy} {more}" if error.remedy else more
        raise
