"""`exec`: run a command with the variables in its environment."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NoReturn

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
from aiossmenv.cli._supervisor import Policy, Supervisor, Variables, parse_on_change

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
    ttl: float | None


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
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, keep reading, and act when a value that CMD has changes.")
    ] = False,
    ttl: Annotated[
        float,
        typer.Option("--ttl", metavar="SECONDS", callback=options.above_zero, help="With --watch: read this often."),
    ] = 60.0,
    on_change: Annotated[
        str,
        typer.Option(
            "--on-change",
            metavar="restart|signal:NAME",
            help="With --watch: start CMD anew, or send it a signal. A signal only tells CMD, as the environment of"
            " a running process cannot change.",
        ),
    ] = "restart",
    splay: Annotated[
        float, typer.Option("--splay", metavar="SECONDS", min=0, help="With --watch: wait at random, at most so long.")
    ] = 0.0,
    quiet: Annotated[
        float,
        typer.Option(
            "--quiet",
            metavar="SECONDS",
            min=0,
            help="With --watch: wait until nothing changed for so long, and read once more; at most ten times that.",
        ),
    ] = 1.0,
    stop_timeout: Annotated[
        float,
        typer.Option(
            "--stop-timeout",
            metavar="SECONDS",
            callback=options.above_zero,
            help="With --watch: kill CMD if it has not ended so long after SIGTERM.",
        ),
    ] = 10.0,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """
    Run CMD with what is under each PATH in its environment, and in no other.

    CMD replaces this process: signals, the exit status, the terminal and the process id are its own. It is looked for
    in the PATH of this process, whatever is loaded. The exit status is 127 if it is not there, 126 if it cannot be
    started, and 1 if the variables cannot be loaded.

    With --watch this process stays. CMD leads a process group of its own, in the foreground of the terminal. Signals
    reach CMD alone, and its exit status or signal becomes ours. A restart sends SIGTERM to CMD, and then to all of its
    group that is left. While nothing can be read CMD keeps running. After SIGTERM, SIGINT or SIGQUIT it is not
    restarted. If this process is killed by SIGKILL, CMD goes on; where it must not, write -- setpriv --pdeathsig TERM
    CMD (Linux).
    """
    loading = _Loading(
        paths=tuple(paths or ()),
        keys=tuple(key) if key else None,
        required=tuple(required or ()),
        formats=options.parse_expand(expand),
        allow_empty=allow_empty,
        deadline=deadline,
        strict=strict,
        ttl=ttl if watch else None,
    )
    policy = Policy(signum=_signum(on_change), splay=splay, quiet=quiet, stop_timeout=stop_timeout)
    if not watch:
        _refuse_without_watch(context)
    with reporting(verbose=verbose):
        if sys.platform == "win32":
            fail("exec needs Linux or macOS")
        # Before --profile adds a variable, which is not for CMD.
        base = programs.inherited()
        make = partial(programs.make, context.meta[_COMMAND], search_path=os.pathsep.join(os.get_exec_path()))
        select = partial(programs.environment, base, override=override, pristine=pristine, strict=strict)
        store = new_store(region, profile)
        if watch:
            asyncio.run(_watch(_load(loading, base, store), select, make, policy))
        env = asyncio.run(_load(loading, base, store))
        programs.replace_process(make(select(env.snapshot)))


def _signum(on_change: str) -> int:
    try:
        return parse_on_change(on_change)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--on-change") from None


def _refuse_without_watch(context: typer.Context) -> None:
    for name in ("ttl", "on_change", "splay", "quiet", "stop_timeout"):
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            context.fail(f"--{name.replace('_', '-')} needs --watch")


async def _watch(
    loading: Coroutine[object, object, Env],
    select: Callable[[Variables], Variables],
    make: Callable[[Variables], programs.Program],
    policy: Policy,
) -> NoReturn:
    env = await loading
    try:
        programs.end_as(await Supervisor(env, select, make, policy).run())
    finally:
        await env.aclose()


async def _load(loading: _Loading, base: dict[str, str], store: ParameterStore) -> Env:
    keys, expanded = loading.keys, loading.formats is not None
    needed = set(loading.required)
    if loading.strict:
        needed |= {name for name, value in base.items() if value == programs.PLACEHOLDER}
        needed |= {_variable(name, loading.paths) for name in keys or () if not expanded and not is_reference(name)}
    env = await load_env(
        *loading.paths,
        ttl=loading.ttl,
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
