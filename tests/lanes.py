"""
Run the sessions of noxfile.py, three at a time, and print the result of each; `tests/run` calls it.

Three sessions keep two cores busy, because some of them wait. An interrupt ends all sessions and their child processes.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOX = [str(Path(sys.executable).with_name("nox")), "-f", str(ROOT / "tests" / "noxfile.py"), "--session"]
# The longest sessions come first, so that all lanes end at about the same time. Each session runs once.
SESSIONS = [
    *("ssm", "frameworks", "databases", "cli", "python(version='3.13')", "python(version='3.14')", "newest_sdk"),
    *("python(version='3.12')", "unit", "uvloop", "types", "python(version='3.11')", "lint"),
]
LOGS = ROOT / ".venv" / "logs"


class Lanes:
    """The sessions that are waiting, running and failed."""

    def __init__(self) -> None:
        self._left = iter(SESSIONS)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._failed: list[str] = []

    def run(self) -> list[str]:
        """Run all sessions; return those that failed."""
        lanes = [threading.Thread(target=self._lane, daemon=True) for _ in range(3)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        return self._failed

    def end(self) -> None:
        """End the running sessions and their child processes."""
        for process in self._running:
            os.killpg(process.pid, signal.SIGTERM)

    def session(self, name: str) -> bool:
        """Run one session, and print its result; return whether it passed."""
        log, began = LOGS / f"{re.sub('[^a-z0-9.]+', '-', name).strip('-')}.log", time.monotonic()
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*NOX, name], stdout=file, stderr=file, stdin=subprocess.DEVNULL, process_group=0
            )
            self._running.add(process)
            status = process.wait()
            self._running.discard(process)
        text = log.read_text(errors="replace")
        closing = re.findall(r"^=* ?(\d+ (?:passed|failed|skipped|error).*? in [\d.]+s).*$", text, re.MULTILINE)
        left_out = re.findall(r"LEFT OUT: .*", text)
        if status:
            print(text, flush=True)
        word = "failed" if status else "ok"
        parts = [f"{name}: {word}, {time.monotonic() - began:.0f} s", *closing[-1:], *left_out]
        print("; ".join(parts), flush=True)
        return status == 0

    def _lane(self) -> None:
        while True:
            with self._lock:
                name = next(self._left, None)
            if name is None:
                return
            if not self.session(name):
                self._failed.append(name)


def main() -> int:
    """Run everything, or pytest with the given arguments."""
    LOGS.mkdir(exist_ok=True)
    lanes = Lanes()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not lanes.session("install"):
            return 1
        if sys.argv[1:]:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            pytest = ROOT / ".venv" / f"tests-{version}" / "bin" / "pytest"
            return subprocess.run([str(pytest), *sys.argv[1:]], cwd=ROOT, check=False).returncode
        failed = lanes.run()
        if os.environ.get("COVERAGE"):
            lanes.session("coverage")
    finally:
        lanes.end()
    # End with pytest's summary line, for tools that read only the last line: of a failed session or of the largest one.
    last = (LOGS / f"{re.sub('[^a-z0-9.]+', '-', failed[0]).strip('-')}.log") if failed else LOGS / "ssm.log"
    closing = re.findall(r"^.*\d+ (?:passed|failed|error).* in [\d.]+s.*$", last.read_text(), re.MULTILINE)
    print(f"failed: {', '.join(failed)}" if failed else "all sessions ok", *closing[-1:], sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
