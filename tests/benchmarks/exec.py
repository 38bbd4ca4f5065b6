"""
Measure `aiossmenv exec`: `tests/benchmarks/run exec`. It takes about a minute on two cores.

First: `exec` of `true` beside a program that only awaits `load_env`, in pairs, one after the other; medians of both and
of the differences. Then: 50 rotations of two parameters under a service in sh that `exec --watch` runs, while two other
processes keep both cores busy: how often it was started, and how often with two values that do not match.
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

# Python adds only the script's own directory to sys.path; these modules are in two other directories.
sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "examples")]

from command import aiossmenv
from embedded import Store, embedded_store
from watched import rotate

ALONE = "import asyncio\nfrom aiossmenv import load_env\nasync def main(): await load_env('/APP')\nasyncio.run(main())"


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
    """Measure both; return the exit status."""
    parser = argparse.ArgumentParser(description="Measure aiossmenv exec.")
    parser.add_argument("--pairs", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--rotations", type=int, default=50, help="default: %(default)s")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSM_"))]:
        del os.environ[name]
    with embedded_store() as store:
        os.environ.update(store.environment)
        store.put("/APP/A", "0")
        measure_start(options.pairs)
        return measure_rotations(store, options.rotations)


if __name__ == "__main__":
    sys.exit(main())
