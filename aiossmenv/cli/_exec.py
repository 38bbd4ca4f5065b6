"""`exec`: run a command with the variables in its environment."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.core import TyperCommand

from aiossmenv._env import Env
from aiossmenv._errors import MissingParameters
from aiossmenv._load import default_paths, load_env
from aiossmenv._naming import is_reference, nearest, normal_path, relative_name, split_selector, upper_snake
from aiossmenv._ssm.store import ParameterStore
from aiossmenv.cli import _options as options
from aiossmenv.cli import _program as programs
from aiossmenv.cli._run import fail, new_store, reporting

_COMMAND = "aiossmenv command"


class ExecCommand(TyperCommand):
    """Keeps what follows `--` from the options: it is the command to run."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override] # typer's own
        """Take the command to run off *args*, and parse the rest."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_COMMAND] = tuple(args[at + 1 :])
        rest = super().parse_args(ctx, args[:at])
        if not ctx.meta[_COMMAND] and not ctx.resilient_parsing:
            ctx.fail("The command to run is missing: aiossmenv exec /FAKEBOOK/TEST -- CMD ARG")
        return rest

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # typer's own
        """Return what the usage line says."""
        return [*super().collect_usage_pieces(ctx), "-- CMD [ARG]..."]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loading:
    """What to load."""

    paths: tuple[str, ...]
    keys: tuple[str, ...] | None
    required: tuple[str, ...]
    formats: options.Formats
    allow_empty: bool
    deadline: float | None
    strict: bool


def exec_(
    context: typer.Context,
    paths: options.Paths = None,
    override: Annotated[
        bool, typer.Option("--override/--no-override", help="Replace variables that are there already, or keep them.")
    ] = True,
    pristine: Annotated[bool, typer.Option("--pristine", help="Let CMD inherit no other variable.")] = False,
    key: options.Key = None,
    required: Annotated[
        list[str] | None,
        typer.Option("--required", metavar="KEY", help="Fail without this variable; may be given several times."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail unless each --key is there, and each variable that is now 'chamberme'."),
    ] = False,
    expand: options.Expand = None,
    allow_empty: options.AllowEmpty = False,
    deadline: options.Deadline = None,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """
    Run CMD with what is under each PATH in its environment, and in no other.

    CMD replaces this process: signals, the exit status, the terminal and the process id are its own. It is looked for
    in the PATH of this process. The exit status is 127 if it is not there, 126 if it cannot be started, and 1 if the
    variables cannot be loaded.
    """
    loading = _Loading(
        paths=tuple(paths or ()),
        keys=tuple(key) if key else None,
        required=tuple(required or ()),
        formats=options.parse_expand(expand),
        allow_empty=allow_empty,
        deadline=deadline,
        strict=strict,
    )
    with reporting(verbose=verbose):
        if sys.platform == "win32":
            fail("exec needs Linux or macOS")
        # Before --profile adds a variable, which is not for CMD.
        base = programs.inherited()
        search_path = os.pathsep.join(os.get_exec_path())
        env = asyncio.run(_load(loading, base, new_store(region, profile)))
        variables = programs.environment(base, env.snapshot, override=override, pristine=pristine, strict=strict)
        program = programs.make(context.meta[_COMMAND], variables, search_path=search_path)
        # Python ignores these from its start, and what is ignored stays so in CMD.
        for name in ("SIGPIPE", "SIGXFSZ"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        programs.replace_process(program)


async def _load(loading: _Loading, base: dict[str, str], store: ParameterStore, ttl: float | None = None) -> Env:
    keys, expanded = loading.keys, loading.formats is not None
    needed = set(loading.required)
    if loading.strict:
        needed |= {name for name, value in base.items() if value == programs.PLACEHOLDER}
        needed |= {_variable(name, loading.paths) for name in keys or () if not expanded and not is_reference(name)}
    env = await load_env(
        *loading.paths,
        ttl=ttl,
        keys=keys,
        required=needed,
        expand=loading.formats,
        # Filled only so that what no environment may have is refused.
        environ={},
        allow_empty=loading.allow_empty,
        deadline=loading.deadline,
        store=store,
    )
    absent = env._publisher.spec.missing(env._publisher._state) if loading.strict else ()
    if absent:
        await env.aclose()
        raise MissingParameters(
            f"--strict: not in Parameter Store: {', '.join(absent)}",
            keys=absent,
            region=store.region,
            remedy="Create them, or check the path and the region.",
        )
    return env


def _variable(name: str, paths: tuple[str, ...]) -> str:
    """Return the variable that the parameter *name*, which is as --key takes it, becomes."""
    base = split_selector(name.strip())[0]
    path = nearest(map(normal_path, paths or default_paths()), base)
    return upper_snake(relative_name(path, base) if path else base)
