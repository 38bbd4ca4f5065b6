"""The errors of the command line speak of its options, and not of Python's arguments."""

import ast
import re
from pathlib import Path

import aiossmenv
from aiossmenv.cli._wording import in_words_of_the_command

PACKAGE = Path(aiossmenv.__file__).parent
# Modules whose errors no command raises, and what is in no error.
OTHERS = {"_databases", "_mysql_connections", "_rotating", "_generations", "fastapi", "mysql", "pydantic", "sqlalchemy"}
PYTHON = re.compile(r"\b[a-z_]+=(?!\$)|\bload_env\(|ParameterStore\(|\bto_key\b|os\.environ")


def remedies() -> list[str]:
    """Return every text of the library that advises something, with `X` where a text is filled in."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem in OTHERS or path.parent.name == "cli":
            continue
        tree = ast.parse(path.read_text())
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                text = node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
                text = "".join(map(str, parts))
            # No command has another to_key.
            if re.match(r"[A-Z][a-z]+ .*\.$", text) and text != "Correct to_key.":
                found.append(text)
    return found


def test_no_remedy_advises_python() -> None:
    """Each remedy of the library that a command may print names no argument of Python."""
    all_of_them = remedies()

    assert len(all_of_them) > 60
    assert [] == [text for text in all_of_them if PYTHON.search(in_words_of_the_command(text))]
