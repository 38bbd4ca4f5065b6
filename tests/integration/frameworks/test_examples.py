"""The examples, and the code of the README, run unchanged."""

import json
import os
import re
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

import pytest

from aiossmenv import load_env
from aiossmenv.testing import MemoryStore

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
# A Python block, and its output in the next block.
EXAMPLES = [(code, printed) for (kind, code), (_, printed) in pairwise(BLOCKS) if kind == "python"]
_ARN = "arn:aws:ssm:eu-central-1:111122223333"


def run(*arguments: str, folder: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the demo with this interpreter, and with temporary files in *folder*."""
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


def test_readme_examples(tmp_path: Path) -> None:
    """Each Python block of the README is a complete program, and prints the block that follows it."""
    for number, (code, _) in enumerate(EXAMPLES):
        (tmp_path / f"example{number}.py").write_text(code)
    programs = [f"python {tmp_path}/example{number}.py && echo ---" for number in range(len(EXAMPLES))]

    # All of them beside one Parameter Store and one database, which take longer to start than the examples.
    done = run("sh", "-c", " && ".join(programs))

    assert "" == done.stderr
    assert [printed for _, printed in EXAMPLES] == done.stdout.partition("\n")[2].split("---\n")[:-1]
    assert 0 == done.returncode


def test_readme_blocks() -> None:
    """A test covers each code block of the README: Python, its output, or the policy."""
    assert ["python", "", "python", "", "python", "", "json"] == [kind for kind, _ in BLOCKS]


async def test_readme_policy() -> None:
    """The README's policy allows the requests of a load and its refreshes, and `kms:Decrypt`, and nothing else."""
    allowed = {
        (action, resource)
        for statement in json.loads(BLOCKS[-1][1])["Statement"]
        for action in _several(statement["Action"])
        for resource in _several(statement["Resource"])
    }
    store = MemoryStore({"/FAKEBOOK/TEST/DB_URL": "db.test", "/FAKEBOOK/TEST/db/password": "secret"})

    async with load_env("/FAKEBOOK/TEST/", ttl=60, environ=None, store=store) as env:
        await env.refresh("DB_URL", "DB_PASSWORD")
        store.deny("ssm:GetParameters")
        await env.refresh("DB_URL")
    sent = {(call.action, f"{_ARN}:parameter{name.rstrip('/')}") for call in store.calls for name in call.names}

    used = {
        (action, resource): {right for right in allowed if right[0] == action and fnmatchcase(resource, right[1])}
        for action, resource in sent
    }
    assert [] == [request for request, rights in used.items() if not rights]
    below = ("ssm:GetParametersByPath", f"{_ARN}:parameter/FAKEBOOK/TEST/*")
    decrypt = ("kms:Decrypt", f"{_ARN.replace('ssm', 'kms')}:key/KEY-ID")
    assert allowed == set().union(*used.values(), {below, decrypt})
    assert 0 < store.decrypted


def _several(item: str | list[str]) -> list[str]:
    return [item] if isinstance(item, str) else item


def test_readme_links() -> None:
    """Each file that the README links to exists."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)

    assert links
    assert [] == [link for link in links if not (ROOT / link).is_file()]


@pytest.mark.parametrize("options", [[], ["--mimic"]])
def test_quickstart(options: list[str]) -> None:
    """The quickstart logs in, to MariaDB and to the pure-Python server."""
    done = run(*options, "python", str(ROOT / "examples" / "quickstart.py"))

    first, second = done.stdout.splitlines()
    assert f"Connected to {first.rpartition(', ')[2]}" == second
    assert ("database: MariaDB" in first) == (not options)
    assert "" == done.stderr
    assert 0 == done.returncode


def test_exit_status_of_a_command() -> None:
    """The exit status of the run is that of the command."""
    assert 3 == run("--mimic", "python", "-c", "raise SystemExit(3)").returncode


def test_demo() -> None:
    """The demo rotates, the service follows, no query fails, and no file is left; where there is no MariaDB, too."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        done = run("--mimic", folder=folder)
        assert [] == list(Path(folder).iterdir())

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "" == done.stderr
    summary = dict(re.findall(r"^([a-z ]+?)  +([\d,.]+)", done.stdout, re.MULTILINE))
    assert "0" == summary["failed queries"]
    assert 8 == int(summary["rotations"])
    assert 9 <= int(summary["pool generations"])
    assert 100 < int(summary["queries"].replace(",", ""))
    assert re.fullmatch(r"a shell script would log in as service_[ab]", done.stdout.splitlines()[-1])
