"""
How fast loads and refreshes are, compared with other libraries: `tests/benchmarks/run fetch`.

It runs less than six minutes on two cores, prints one table, and saves it with every measurement as JSON. It needs `pip
install boto3 aws-lambda-powertools ssm-cache`, and an operating system that can fork.

*The store* is `store.py`, in its own process on loopback. It answers after 20 ms, except where only the library's own
work is measured or only decryptions are counted. Loads are measured over TLS, as in production, and without it, side by
side in one run (`--scheme` selects one): a certificate with an RSA key of 2048 bits, TLS 1.3, and a CA bundle as large
as the SDK's own. The number of TLS contexts of a load that read the bundle is counted in a run that is not timed. All
other rows, including the stalls, use TLS too.

*Cold* is the time from after all imports until every value is in os.environ, including a new session and client. Each
measurement runs in a new process, forked from one that has imported everything that any contestant imports but has
never created a client. So no contestant finds a cache, a default session or a connection of an earlier run. The order
of the contestants changes with each repetition. A *re-read* is the second read with the same client, for peers that
support it. Figures are medians, with the lowest and the highest in brackets; a ratio is the best peer's time divided by
ours.

`alone.py` measures *stalls* and *memory*, in a process that has imported nothing.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from benchmarks.store import Counts, Store, parameter_key, parameter_name, relative_name
else:
    # A script finds modules in its own directory; mypy finds them in the parent directory.
    from store import Counts, Store, parameter_key, parameter_name, relative_name

# The directories of the other modules.
sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "support")]

from certificates import contexts_made

T = TypeVar("T")

# Seconds. A call to Parameter Store from the same region takes about this long.
DELAY = 0.02
# The default quota of an account: calls per second, and the size of the burst.
QUOTA = 40
# In seconds, so that no background refresh starts during a measurement.
NEVER = 1e6
OURS = "aiossmenv"
# The number of characters of each value that the store generates.
VALUE = 40


@dataclass(frozen=True, slots=True)
class Load:
    """A load: *count* parameters under each of *paths*. *named*: the names are known."""

    paths: tuple[str, ...]
    count: int
    named: bool = False

    @property
    def known(self) -> list[str] | None:
        """The names below the only path, if they are known."""
        return [relative_name(self.paths[0], number) for number in range(self.count)] if self.named else None

    @property
    def names(self) -> list[str]:
        """All full names."""
        return [parameter_name(path, number) for path in self.paths for number in range(self.count)]

    @property
    def keys(self) -> list[str]:
        """All keys."""
        return [parameter_key(path, number) for path in self.paths for number in range(self.count)]


# Reads a load repeatedly, and yields each time it is in os.environ.
Contestant = Callable[[Load], AsyncGenerator[None, None]]


async def ours(load: Load) -> AsyncGenerator[None, None]:
    """Load once, like a script."""
    from aiossmenv import load_env

    await load_env(*load.paths, keys=load.known)
    yield


async def ours_refreshing(load: Load) -> AsyncGenerator[None, None]:
    """Load; refresh completely, with a listing; then refresh by name, as the background does."""
    from aiossmenv import load_env

    async with load_env(*load.paths, ttl=NEVER) as env:
        yield
        assert await env.refresh() == ()
        yield
        assert await env.refresh(*env) == ()
        yield


async def seeds_loop(load: Load) -> AsyncGenerator[None, None]:
    """Create a client for each page, as many applications do."""
    import boto3

    while True:
        for path in load.paths:
            more: dict[str, str] = {}
            while True:
                page = boto3.client("ssm").get_parameters_by_path(
                    Path=path, Recursive=True, WithDecryption=True, **more
                )
                publish({item["Name"].removeprefix(path): item["Value"] for item in page["Parameters"]})
                if "NextToken" not in page:
                    break
                more = {"NextToken": page["NextToken"]}
        yield


async def boto3_paginator(load: Load) -> AsyncGenerator[None, None]:
    """Use boto3's own paginator, one path after the other."""
    import boto3

    client = boto3.client("ssm")
    while True:
        for path in load.paths:
            for page in client.get_paginator("get_parameters_by_path").paginate(
                Path=path, Recursive=True, WithDecryption=True
            ):
                publish({item["Name"].removeprefix(path): item["Value"] for item in page["Parameters"]})
        yield


async def aioboto3_paginator(load: Load) -> AsyncGenerator[None, None]:
    """Use aioboto3's paginator, one path after the other."""
    import aioboto3

    async with aioboto3.Session().client("ssm") as client:
        while True:
            for path in load.paths:
                async for page in client.get_paginator("get_parameters_by_path").paginate(
                    Path=path, Recursive=True, WithDecryption=True
                ):
                    publish({item["Name"].removeprefix(path): item["Value"] for item in page["Parameters"]})
            yield


async def powertools(load: Load) -> AsyncGenerator[None, None]:
    """Use `get_parameters()` of Powertools for AWS Lambda."""
    parameters = import_module("aws_lambda_powertools.utilities.parameters")
    while True:
        for path in load.paths:
            publish(parameters.get_parameters(path, decrypt=True, recursive=True, force_fetch=True))
        yield


async def powertools_by_name(load: Load) -> AsyncGenerator[None, None]:
    """Use `get_parameters_by_name()` of Powertools for AWS Lambda."""
    parameters = import_module("aws_lambda_powertools.utilities.parameters")
    while True:
        found = parameters.get_parameters_by_name({name: {} for name in load.names}, decrypt=True, max_age=0)
        publish({name.removeprefix(load.paths[0]): value for name, value in found.items()})
        yield


async def ssm_cache(load: Load) -> AsyncGenerator[None, None]:
    """Use a group of ssm-cache; its re-read is by name."""
    group = import_module("ssm_cache").SSMParameterGroup()
    for path in load.paths:
        publish({item.name.removeprefix(path): item.value for item in group.parameters(path)})
    yield
    while True:
        group.refresh()
        for path in load.paths:
            publish({item.name.removeprefix(path): item.value for item in group.get_loaded_parameters()})
        yield


async def ssm_cache_by_name(load: Load) -> AsyncGenerator[None, None]:
    """Use a group of ssm-cache with known names."""
    group = import_module("ssm_cache").SSMParameterGroup()
    for name in load.names:
        group.parameter(name)
    while True:
        group.refresh()
        publish({item.name.removeprefix(load.paths[0]): item.value for item in group.get_loaded_parameters()})
        yield


def publish(values: Mapping[str, str]) -> None:
    """Put the values into os.environ as the library does, so that all contestants do the same work."""
    for name, value in values.items():
        os.environ[name.strip("/").translate(_SEPARATORS).upper()] = value


_SEPARATORS = str.maketrans("/.-", "___")
BY_PATH: dict[str, Contestant] = {
    "seed's loop": seeds_loop,
    "boto3 paginator": boto3_paginator,
    "aioboto3 paginator": aioboto3_paginator,
    "Powertools": powertools,
    "ssm-cache": ssm_cache,
}
BY_NAME: dict[str, Contestant] = {"Powertools, by name": powertools_by_name, "ssm-cache, by name": ssm_cache_by_name}


def read(contestant: Contestant, load: Load, laps: int) -> list[float]:
    """Return the seconds that each of *laps* reads took."""
    return asyncio.run(_read(contestant, load, laps))


async def _read(contestant: Contestant, load: Load, laps: int) -> list[float]:
    took: list[float] = []
    async with contextlib.aclosing(contestant(load)) as reads:
        for _ in range(laps):
            begun = time.perf_counter()
            await anext(reads)
            took.append(time.perf_counter() - begun)
            assert all(len(os.environ[key]) == VALUE for key in load.keys), "a value is missing"
    return took


# --- Processes


def apart(work: Callable[[], T]) -> T:
    """Return the result of *work*, run in a forked child process."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: there.send(work()))
    process.start()
    there.close()
    try:
        result: T = here.recv()
    except EOFError:
        # The child has printed its traceback.
        raise SystemExit("a measurement failed") from None
    finally:
        process.join()
        here.close()
    return result


def modules_of(contestant: Contestant) -> set[str]:
    """Return the loaded modules after *contestant* has read something."""
    read(contestant, Load(("/tiny",), 1), 1)
    return set(sys.modules)


def import_all(contestants: Iterable[Contestant]) -> None:
    """Import every module that a contestant imports at any time, and run no other code of theirs in this process."""
    for contestant in contestants:
        for name in sorted(apart(partial(modules_of, contestant)) - set(sys.modules)):
            with contextlib.suppress(ImportError):
                import_module(name)
    gc.collect()
    # Frozen objects are skipped by the collector, so a child does not copy their pages.
    gc.freeze()


# --- The table


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table, ready to print; *met* is `None` if there is no target."""

    work: str
    ours: str
    peer: str = ""
    name: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None


@dataclass
class Bench:
    """All measurements. *samples*: seconds, or other counts, by work and contestant."""

    store: Store
    repeats: int
    scheme: str = "http"
    rows: list[Row] = field(default_factory=list)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    calls: int = 0
    processor: float = 0.0

    def race(self, load: Load, contestants: Mapping[str, Contestant], *works: str, repeats: int | None = None) -> None:
        """
        Let *contestants* read *load* in turns; the first read belongs to the first of *works*, the second to the
        second.
        """
        for turn in range(repeats or self.repeats):
            names = list(contestants)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                took = apart(partial(read, contestants[name], load, len(works)))
                for work, seconds in zip(works, took, strict=True):
                    self.note(work, name, seconds)
        self.counts()

    def work(self, name: str) -> str:
        """Return the name of a work with the current scheme."""
        return f"{self.scheme}: {name}"

    def note(self, work: str, name: str, measured: float) -> None:
        """Add a measurement."""
        self.samples.setdefault(work, {}).setdefault(name, []).append(measured)

    def counts(self) -> Counts:
        """Return the store's counts, and add up its calls and its processor time."""
        counts = self.store.counts()
        self.calls += counts.total
        self.processor += counts.processor
        return counts

    def measure(self, *parts: "Callable[[Bench], None]") -> None:
        """Run these measurements, and print how long each took."""
        for part in parts:
            begun = time.monotonic()
            part(self)
            took = time.monotonic() - begun
            print(f"{self.scheme}, {part.__name__}: {took:.0f} s", file=sys.stderr, flush=True)

    def compare(self, work: str, mine: list[float], peers: Mapping[str, list[float]], least: float, why: str) -> None:
        """
        Add a row: *mine* against the best of *peers*; the ratio must be at least *least*; *why* is the target as text.
        """
        best = min(peers, key=lambda name: statistics.median(peers[name]))
        ratio = statistics.median(peers[best]) / statistics.median(mine)
        self.rows.append(
            Row(work, seconds_text(mine), seconds_text(peers[best]), best, f"{ratio:.3g}", why, met=ratio >= least)
        )

    def peers(self, *works: str) -> dict[str, list[float]]:
        """Return the measurements of all peers in these works."""
        return {name: took for work in works for name, took in self.samples[work].items() if not name.startswith(OURS)}


def seconds_text(took: list[float]) -> str:
    """Return a text such as `0.25 s (0.24-0.31)`."""
    return f"{statistics.median(took):.3f} s ({min(took):.3f}-{max(took):.3f})"


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    met = {True: "met", False: "NOT MET", None: ""}
    cells = [("work", OURS, "best peer", "which", "ratio", "target", "")]
    cells += [(row.work, row.ours, row.peer, row.name, row.ratio, row.target, met[row.met]) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


# --- The work


def few(bench: Bench) -> None:
    """Cold: one path of 10 and of 100, and 100 known names."""
    for count, repeats, least, target in (
        (10, bench.repeats + 2, 1 / 0.55, "at most 0.55 x its time"),
        (100, bench.repeats + 1, 1.0, "no slower"),
    ):
        work = bench.work(f"cold, one path of {count}")
        bench.store.configure({"/one": count}, delay=DELAY)
        bench.race(Load(("/one",), count), {OURS: ours, **BY_PATH}, work, repeats=repeats)
        bench.compare(work, bench.samples[work][OURS], bench.peers(work), least, target)
    known = bench.work("cold, 100 names known")
    bench.race(Load(("/one",), 100, named=True), {OURS: ours, **BY_NAME}, known, repeats=bench.repeats + 1)
    bench.compare(known, bench.samples[known][OURS], bench.peers(work, known), 3, "3 x faster")


def many(bench: Bench) -> None:
    """
    Cold: one path of 1,000, and 1,000 known names; then an unchanged re-read.

    Not every peer takes part in every work: a hundred clients are slow, and a read by name costs the peers that support
    it as many calls as a listing. The re-read of ssm-cache is by name.
    """
    bench.store.configure({"/one": 1000}, delay=DELAY)
    load = Load(("/one",), 1000)
    work, complete, poll, reread, known = map(
        bench.work,
        (
            "cold, one path of 1,000",
            "complete refresh of 1,000 unchanged",
            "poll of 1,000 unchanged, by name",
            "re-read of 1,000",
            "cold, 1,000 names known",
        ),
    )
    bench.race(load, {"seed's loop": seeds_loop}, work, repeats=1)
    clients = {name: BY_PATH[name] for name in ("boto3 paginator", "Powertools", "ssm-cache")}
    for _ in range(bench.repeats):
        bench.race(load, {OURS: ours_refreshing}, work, complete, poll, repeats=1)
        bench.race(load, {"aioboto3 paginator": aioboto3_paginator}, work, repeats=1)
        bench.race(load, clients, work, reread, repeats=1)
        bench.race(Load(("/one",), 1000, named=True), {OURS: ours}, known, repeats=1)
    samples, peers = bench.samples, bench.peers(reread)
    bench.compare(work, samples[work][OURS], bench.peers(work), 1.0, "no slower")
    bench.compare(known, samples[known][OURS], bench.peers(work), 8, "8 x faster")
    bench.compare(poll, samples[poll][OURS], peers, 9, "9 x faster")
    bench.compare(complete, samples[complete][OURS], peers, 1.0, "no slower")


def paths(bench: Bench) -> None:
    """Cold: eight paths of 100, with the peers that accept several paths."""
    work, eight = bench.work("cold, 8 paths of 100"), tuple(f"/eight/{number}" for number in range(8))
    bench.store.configure(dict.fromkeys(eight, 100), delay=DELAY)
    peers = {name: BY_PATH[name] for name in ("boto3 paginator", "aioboto3 paginator")}
    bench.race(Load(eight, 100), {OURS: ours, **peers}, work)
    bench.compare(work, bench.samples[work][OURS], bench.peers(work), 5.5, "5.5 x faster")


def contexts(bench: Bench) -> None:
    """Count the TLS contexts of a load by 200 names, of a second load with the same store, and of a reconnect."""
    bench.store.configure({"/one": 200}, delay=DELAY)

    async def loads() -> int:
        from aiossmenv import ParameterStore, load_env

        names = Load(("/one",), 200, named=True).known
        store = ParameterStore()
        with contexts_made() as threads:
            for _ in range(2):
                await load_env("/one", keys=names, store=store)
                await store.aclose()
        return len(threads)

    made = apart(lambda: asyncio.run(loads()))
    bench.note(bench.work("contexts"), OURS, made)
    bench.rows.append(Row("TLS contexts, 200 names and a reconnect", f"{made}", target="1", met=made == 1))


def decrypts(bench: Bench) -> None:
    """Count decryptions of refreshes of 1,000: two of each kind without changes, and ten with one change in total."""
    bench.store.configure({"/one": 1000})

    async def refreshes() -> list[int]:
        from aiossmenv import load_env

        counts: list[int] = []
        async with load_env("/one", ttl=NEVER) as env:
            for kind in (tuple(env), ()):
                bench.store.counts()
                for _ in range(2):
                    assert await env.refresh(*kind) == ()
                counts.append(bench.store.counts().decrypted)
            for number in range(10):
                if number == 5:
                    bench.store.change([parameter_name("/one", 321)])
                assert len(await env.refresh()) == (number == 5)
            return [*counts, bench.store.counts().decrypted]

    counted = apart(lambda: asyncio.run(refreshes()))
    for work, theirs, most, decrypted in (
        ("2 polls of 1,000 unchanged, by name", 2000, 0, counted[0]),
        ("2 complete refreshes of 1,000 unchanged", 2000, 0, counted[1]),
        ("10 complete refreshes of 1,000, one change", 10_000, 2, counted[2]),
    ):
        bench.note(work, OURS, decrypted)
        target = f"at most {most}" if most else "0"
        bench.rows.append(
            Row(work, f"{decrypted} decrypts", f"{theirs:,} decrypts", "all", target=target, met=decrypted <= most)
        )


def forced(bench: Bench) -> None:
    """Time a refresh of three keys, as after a rejected login."""
    bench.store.configure({"/one": 1000})

    async def refreshes() -> list[float]:
        from aiossmenv import load_env

        async with load_env("/one", ttl=NEVER) as env:
            bench.store.configure(delay=DELAY)
            took: list[float] = []
            for _ in range(10):
                begun = time.perf_counter()
                await env.refresh(*(parameter_key("/one", number) for number in (1, 2, 3)))
                took.append(time.perf_counter() - begun)
            return took

    took = apart(lambda: asyncio.run(refreshes()))
    calls = bench.counts().calls
    bench.samples["forced refresh of three keys"] = {OURS: took}
    bench.rows.append(
        Row(
            "forced refresh of three keys",
            f"{seconds_text(took)}, {sum(calls.values()) / len(took):g} call",
            target="1 call",
            met=calls == {"GetParameters": len(took)},
        )
    )


def lookup(bench: Bench) -> None:
    """
    Time `env["K"]` and `os.environ["K"]` in nanoseconds: the minimum of the repetitions, because the rest is noise.
    """
    bench.store.configure({"/one": 1000})

    async def lookups() -> dict[str, list[float]]:
        from aiossmenv import load_env

        took: dict[str, list[float]] = {"env": [], "os.environ": []}
        async with load_env("/one", ttl=NEVER) as env:
            names: dict[str, Mapping[str, str]] = {"env": env, "os.environ": os.environ}
            for _ in range(5):
                for name, mapping in names.items():
                    timer = timeit.Timer(
                        "mapping[key]", globals={"mapping": mapping, "key": parameter_key("/one", 321)}
                    )
                    took[name].append(min(timer.repeat(repeat=5, number=50_000)) / 50_000 * 1e9)
        return took

    took = apart(lambda: asyncio.run(lookups()))
    bench.samples["lookup"] = took
    mine, theirs = (statistics.median(took[name]) for name in ("env", "os.environ"))
    bench.rows.append(
        Row(
            'env["K"]',
            f"{mine:.0f} ns",
            f"{theirs:.0f} ns",
            'os.environ["K"]',
            f"{theirs / mine:.2f}",
            "at most half its time",
            met=mine <= theirs / 2,
        )
    )


def throttled(bench: Bench) -> None:
    """One client under the quota, with 1,000 parameters."""
    for work, load in (
        ("quota of 40 a second, listing 1,000", Load(("/one",), 1000)),
        ("quota of 40 a second, 1,000 names known", Load(("/one",), 1000, named=True)),
    ):
        took: list[float] = []
        shares: list[float] = []
        for _ in range(bench.repeats):
            bench.store.configure({"/one": 1000}, delay=DELAY, quota=QUOTA)
            took += apart(partial(read, ours, load, 1))
            counts = bench.counts()
            shares.append(100 * counts.throttled / counts.total)
        bench.samples[work] = {OURS: took, "share of calls throttled, %": shares}
        share = statistics.median(shares)
        bench.rows.append(
            Row(
                work,
                f"{seconds_text(took)}, {share:.1f} % throttled ({min(shares):.1f}-{max(shares):.1f})",
                target="completes, at most 10 %",
                met=share <= 10,
            )
        )


def alone(bench: Bench) -> None:
    """Stalls and memory with 10,000 parameters, each in a process that has imported nothing."""
    bench.store.configure({"/many": 10_000, "/many-few": 10})
    stalls = [_alone(bench, "stall") for _ in range(2)]
    bench.samples["stalls, ms"] = {name: [report[name] for report in stalls] for name in stalls[0]}
    idle, collection = (statistics.median(report[name] for report in stalls) for name in ("idle", "full collection"))
    for phase in ("first load", "complete refresh", "poll", "refresh of changed"):
        worst, own = ([report[name] for report in stalls] for name in (phase, f"{phase} without collector"))
        bench.rows.append(
            Row(
                f"longest stall, {phase} of 10,000",
                f"{statistics.median(worst):.1f} ms ({min(worst):.1f}-{max(worst):.1f}),"
                f" {statistics.median(own):.1f} without the collector",
                f"{idle:.1f} ms, {collection:.1f} ms",
                "idle loop, full collection",
                target="10 ms",
                met=statistics.median(worst) <= 10,
            )
        )
    bench.store.configure({"/many": 10_000, "/many-few": 10})
    report = _alone(bench, "memory")
    bench.samples["memory, bytes per parameter"] = {name: [size] for name, size in report.items()}
    most = max(report["first load"], report["after a refresh"])
    bench.rows.append(
        Row(
            "memory beside the values, of 10,000",
            f"{report['first load']:,.0f} B each, {report['after a refresh']:,.0f} B after a refresh",
            f"{report['os.environ']:.0f} B",
            "copies in os.environ",
            target="at most 1,024 B",
            met=most <= 1024,
        )
    )


def _alone(bench: Bench, what: str) -> dict[str, float]:
    script = Path(__file__).with_name("alone.py")
    command = [sys.executable, str(script), what, str(bench.store.port), "/many"]
    report: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return report


def main() -> None:
    """Measure everything, print the table and save it."""
    parser = argparse.ArgumentParser(description="How fast aiossmenv fetches and refreshes, beside its peers.")
    default = Path(tempfile.gettempdir()) / "aiossmenv-fetch.json"
    parser.add_argument("--json", type=Path, default=default, help="where to save the figures (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of each race (default: %(default)s)")
    parser.add_argument(
        "--scheme", choices=("http", "https", "both"), default="both", help="over what to load (default: %(default)s)"
    )
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("AWS_", "POWERTOOLS_", "SSM_"))]:
        del os.environ[name]
    missing = [name for name in ("boto3", "aws_lambda_powertools", "ssm_cache") if find_spec(name) is None]
    if missing:
        parser.error(f"no {', '.join(missing)}: pip install boto3 aws-lambda-powertools ssm-cache")
    begun = time.monotonic()
    with Store() as store:
        os.environ.update(store.environment())
        store.configure({"/tiny": 1})
        import_all((ours, *BY_PATH.values(), *BY_NAME.values()))
        bench = Bench(store, options.repeat)
        loads = (few, many, paths)
        schemes = ("http", "https") if options.scheme == "both" else (options.scheme,)
        for scheme in schemes:
            bench.scheme = scheme
            os.environ.update(store.environment(scheme))
            bench.measure(*loads, *((contexts,) if scheme == "https" else ()))
        # Over TLS, unless another scheme was chosen.
        bench.measure(decrypts, forced, lookup, throttled, alone)
    figures = {
        "machine": {"python": platform.python_version(), "system": platform.platform(), "processors": os.cpu_count()},
        "versions": {name: version(name) for name in ("aioboto3", "boto3", "aws-lambda-powertools", "ssm-cache")},
        "store": {"delay": DELAY, "calls": bench.calls, "processor_ms_per_call": 1000 * bench.processor / bench.calls},
        "seconds": time.monotonic() - begun,
        "rows": [asdict(row) for row in bench.rows],
        "samples": bench.samples,
    }
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(bench.rows))
    print(f"\n{figures['seconds']:.0f} s; all figures in {options.json}")


if __name__ == "__main__":
    main()
