"""`import`: the names and values of a file become parameters."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from aiossmenv._errors import AccessDenied, AiossmenvError, DecryptionFailed
from aiossmenv._models import ParameterType, Tier
from aiossmenv._naming import normal_path
from aiossmenv._ssm.store import ParameterStore
from aiossmenv._ssm.transport import BATCH
from aiossmenv.cli import _files as files
from aiossmenv.cli import _options as options
from aiossmenv.cli._formats import listed
from aiossmenv.cli._plan import Plan, plan
from aiossmenv.cli._run import fail, new_store, reporting

# Seconds between two lines on how far it is, where there is no terminal for a bar.
_EVERY = 10.0


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of names and values; - for standard input.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="The path in Parameter Store that they are written to.")],
    form: files.FileFormat = None,
    kind: Annotated[
        ParameterType | None,
        typer.Option("--type", help="The type of new parameters. Default: SecureString.", show_default=False),
    ] = None,
    key_id: Annotated[
        str | None,
        typer.Option(
            "--key-id",
            help="The KMS key of what is written. Default: the one that a parameter has; of new ones, alias/aws/ssm.",
            show_default=False,
        ),
    ] = None,
    tier: Annotated[Tier | None, typer.Option("--tier", help="The tier of what is written.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete what is under PATH and not in FILE.")] = False,
    yes: options.Yes = False,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """
    Write each name in FILE as a parameter below PATH, after saying what that adds, changes and deletes.

    Names are compared by the key that they have in an environment: DB_URL in the file is PATH/db/url if that is there.
    Nothing in a value is replaced. What has its value already is not written, so an import that was interrupted is
    completed by the same command.
    """
    if key_id and kind not in (None, "SecureString"):
        raise typer.BadParameter("only a SecureString is encrypted with a key", param_hint="--key-id")
    with reporting(verbose=verbose):
        wanted = files.read_values(file, form)
        if not wanted:
            fail(f"{file}: there is no name in it")
        path = normal_path(path)
        todo, keys = asyncio.run(_plan(path, wanted, region, profile, kind=kind, key_id=key_id, tier=tier, prune=prune))
        _show(todo)
        if dry_run or not todo.size:
            return
        if not yes:
            if file == "-" or not sys.stdin.isatty():
                fail("there is no terminal to ask on, so nothing is written", "Pass --yes.")
            typer.confirm("Do this?", abort=True, err=True)
        # On a loop of its own: while a prompt blocks one, Ctrl-C does not end it.
        asyncio.run(_carry_out(todo, keys, region, profile, key_id=key_id, tier=tier))
        typer.echo(f"{len(todo.writes)} written, {len(todo.deletions)} deleted")


async def _plan(
    path: str,
    wanted: dict[str, str],
    region: str | None,
    profile: str | None,
    *,
    kind: ParameterType | None,
    key_id: str | None,
    tier: Tier | None,
    prune: bool,
) -> tuple[Plan, dict[str, str]]:
    """Return what is to be done, and the keys that parameters which change are encrypted with."""
    async with new_store(region, profile) as store:
        try:
            there = [parameter async for parameter in store.scan(path)]
        except (AccessDenied, DecryptionFailed) as error:
            _add_remedy(error, "An import compares values before it writes, so it needs the right to decrypt them.")
            raise
        todo = plan(path, wanted, there, kind=kind, key_id=key_id, tier=tier, prune=prune)
        changed = {write.name for write in todo.writes if write.type == "SecureString" and not write.is_new}
        if key_id or not changed:
            return todo, {}
        try:
            return todo, {item.name: item.key_id async for item in store.describe(path) if item.name in changed}
        except AccessDenied as error:
            _add_remedy(error, "Without it the key of a parameter that changes is not known: name one with --key-id.")
            raise


def _add_remedy(error: AiossmenvError, text: str) -> None:
    error.remedy = f"{error.remedy} {text}" if error.remedy else text


def _show(todo: Plan) -> None:
    """Say what is to be done: names, and no values."""
    for write in todo.writes:
        spelling = f" ({write.spelling} in the file)" if write.spelling else ""
        typer.echo(f"{'add' if write.is_new else 'change'} {write.name}{spelling}")
    for name in todo.deletions:
        typer.echo(f"delete {name}")
    new = sum(write.is_new for write in todo.writes)
    changed, gone = len(todo.writes) - new, len(todo.deletions)
    typer.echo(f"{new} to add, {changed} to change, {gone} to delete, {todo.unchanged} unchanged")


async def _carry_out(
    todo: Plan,
    keys: dict[str, str],
    region: str | None,
    profile: str | None,
    *,
    key_id: str | None,
    tier: Tier | None,
) -> None:
    # In the order of the plan.
    left = dict.fromkeys([*(write.name for write in todo.writes), *todo.deletions])
    try:
        with _ended_by_sigterm(), _progress(todo.size) as advance:
            async with new_store(region, profile) as store:
                await _write(store, todo, keys, left, advance, key_id=key_id, tier=tier)
    finally:
        if left:
            made = todo.size - len(left)
            text = f"{made} of {todo.size} changes are made. Not made, or not known to be: {listed(left)}"
            typer.echo(f"aiossmenv: {text}. The same command goes on from here", err=True)


async def _write(
    store: ParameterStore,
    todo: Plan,
    keys: dict[str, str],
    left: dict[str, None],
    advance: Callable[[int], None],
    *,
    key_id: str | None,
    tier: Tier | None,
) -> None:
    # One call writes parameters of one type and one key.
    groups: dict[tuple[ParameterType, str | None], dict[str, str]] = {}
    for write in todo.writes:
        encrypted_with = (key_id or keys.get(write.name)) if write.type == "SecureString" else None
        groups.setdefault((write.type, encrypted_with or None), {})[write.name] = write.value
    for (kind, used), values in groups.items():
        async for written in store.put_many(values, type=kind, key_id=used, tier=tier):
            del left[written.name]
            advance(todo.size - len(left))
    for begin in range(0, len(todo.deletions), BATCH):
        batch = todo.deletions[begin : begin + BATCH]
        await store.delete(*batch)
        for name in batch:
            del left[name]
        advance(todo.size - len(left))


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this task as Ctrl-C does, so that it says what is written."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    # Not on Windows, and not outside of the main thread.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield
    except asyncio.CancelledError:
        if terminated:
            raise typer.Exit(128 + signal.SIGTERM) from None
        raise
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGTERM)


@contextmanager
def _progress(total: int, every: float = _EVERY) -> Iterator[Callable[[int], None]]:
    """Show how many of *total* changes are made: a bar on a terminal, elsewhere a line now and then."""
    if not sys.stderr.isatty():
        said = time.monotonic()

        def say(made: int) -> None:
            nonlocal said
            if time.monotonic() - said >= every:
                said = time.monotonic()
                typer.echo(f"aiossmenv: {made} of {total} changes are made", err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda made: bar.update(task, completed=made)
