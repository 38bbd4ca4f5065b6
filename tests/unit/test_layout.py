"""The layout of the package: the table of modules and the modules agree."""

import re
from pathlib import Path

import aiossmenv

PACKAGE = Path(aiossmenv.__file__).parent


def test_table_of_modules_is_complete() -> None:
    """The contributors' table names each module of the package once, and nothing else."""
    text = (Path(__file__).parents[2] / ".github" / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    modules = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]

    assert sorted(modules) == sorted(listed)
