"""The examples and the README, run as they stand."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, folder: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the demo's program with this interpreter, and with temporary files in *folder*."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ
        | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        | ({"TMPDIR": folder} if folder else {}),
    )


def test_readme_example(tmp_path: Path) -> None:
    """The README's first example, typed as it stands, prints what stands below it."""
    code, output = re.findall(r"```(?:python)?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[:2]
    (tmp_path / "first.py").write_text(code)

    done = run("python", str(tmp_path / "first.py"))

    assert output == done.stdout.partition("\n")[2]
    assert 0 == done.returncode


@pytest.mark.parametrize("options", [[], ["--mimic"]])
def test_quickstart(options: list[str]) -> None:
    """The quickstart logs in, to whichever server there is."""
    done = run(*options, "python", str(ROOT / "examples" / "quickstart.py"))

    stage, said = done.stdout.splitlines()
    assert f"Connected to {stage.rpartition(', ')[2]}" == said
    assert ("database: MariaDB" in stage) == (not options)
    assert "" == done.stderr
    assert 0 == done.returncode


def test_exit_status_of_a_command() -> None:
    """The exit status of a command is that of the run."""
    assert 3 == run("--mimic", "python", "-c", "raise SystemExit(3)").returncode


@pytest.mark.parametrize("options", [[], ["--mimic"]])
async def test_demo(options: list[str]) -> None:
    """The demo rotates, the service follows, no query fails, and nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        done = await asyncio.to_thread(run, *options, folder=folder)
        assert [] == list(Path(folder).iterdir())

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "" == done.stderr
    summary = dict(re.findall(r"^([a-z ]+?)  +([\d,.]+)", done.stdout, re.MULTILINE))
    assert "0" == summary["failed queries"]
    assert 8 == int(summary["rotations"])
    assert 9 <= int(summary["pool generations"])
    assert 1000 < int(summary["queries"].replace(",", ""))
