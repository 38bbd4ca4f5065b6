"""
Measure the command line: `tests/benchmarks/run exec`. It takes about two minutes on two cores.

First: `export` of 10,000 parameters beside a program that only awaits `load_env`, in pairs, over TLS: medians of the
times, and the most memory. Then: `exec` of `true` beside such a program, in pairs, one after the other; medians of both
and of the differences. Then: 50 rotations of two parameters under a service in sh that `exec --watch` runs, while two
other processes keep both cores busy: how often it was started, and how often with two values that do not match.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.store import Store as BenchmarkStore
else:
    # As a script: Python adds only the script's own directory to sys.path.
    from store import Store as BenchmarkStore

# These modules are in two other directories.
sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "examples")]

from command import aiossmenv
from embedded import Store, embedded_store
from watched import rotate

ALONE = "import asyncio\nfrom aiossmenv import load_env\nasync def main(): await load_env('/APP')\nasyncio.run(main())"


EXPORTED = 10_000
LOAD_ALL = ALONE.replace("load_env('/APP')", "load_env('/all', environ=None)")


def measure_export(pairs: int) -> None:
    """Print what `export` takes beside the load alone."""
    commands = {"load_env": [sys.executable, "-c", LOAD_ALL], "export": aiossmenv("export", "/all")}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory = dict.fromkeys(commands, 0.0)
    with BenchmarkStore() as store:
        store.configure({"/all": EXPORTED})
        environ = os.environ | store.environment("https")
        for turn in range(pairs + 1):
            for name, command in commands.items():
                began = time.perf_counter()
                process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = status
                assert status == 0
                memory[name] = max(memory[name], usage.ru_maxrss / 1024)
                if turn:  # the first one fills the caches
                    seconds[name].append(time.perf_counter() - began)
    told = (f"{name} {statistics.median(all_):.3f} s, {memory[name]:.0f} MB" for name, all_ in seconds.items())
    print(f"{EXPORTED:,} parameters, {pairs} pairs: {'; '.join(told)}", flush=True)


def measure_start(pairs: int) -> None:
    """Print how much longer `exec` of `true` takes than the load alone."""
    commands = {"load_env": [sys.executable, "-c", ALONE], "exec": aiossmenv("exec", "/APP", "--", "true")}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(pairs + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True)
            if turn:  # the first one fills the caches
                seconds[name].append(time.perf_counter() - began)
    more = statistics.median(ours - alone for ours, alone in zip(seconds["exec"], seconds["load_env"], strict=True))
    print(f"{pairs} pairs: " + ", ".join(f"{name} {statistics.median(all_):.3f} s" for name, all_ in seconds.items()))
    print(f"exec of true takes {more:.3f} s more than the load alone")


def measure_rotations(store: Store, rotations: int) -> bool:
    """Print how often the service was started; return whether anything was wrong."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            starts = asyncio.run(rotate(store, Path(folder), rotations))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    torn = sum(len(set(start.split())) > 1 for start in starts)
    print(
        f"{rotations} rotations: {len(starts) - 1} restarts, {torn} with half a set; {time.monotonic() - began:.1f} s"
    )
    return bool(torn) or len(starts) - 1 != rotations


def main() -> int:
    """Measure all; return the exit status."""
    parser = argparse.ArgumentParser(description="Measure the command line.")
    parser.add_argument("--pairs", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--rotations", type=int, default=50, help="default: %(default)s")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSM_"))]:
        del os.environ[name]
    measure_export(options.pairs)
    with embedded_store() as store:
        os.environ.update(store.environment)
        store.put("/APP/A", "0")
        measure_start(options.pairs)
        return measure_rotations(store, options.rotations)


if __name__ == "__main__":
    sys.exit(main())
