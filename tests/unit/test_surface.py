"""The public names of the package, the cost of importing it, and the completeness of the typing files."""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest

import aiossmenv
import face

names = pytest.mark.parametrize("name", aiossmenv.__all__)


# --- Names


def exported() -> Iterator[str]:
    """Yield each name that a module assigns to the package."""
    package = Path(aiossmenv.__file__).parent
    for path in (*package.glob("_[a-z]*.py"), *package.glob("_ssm/[a-z]*.py")):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for name, value in vars(import_module(module)).items():
            if not name.startswith("_") and getattr(value, "__module__", "") == "aiossmenv":
                yield name


def test_all_is_sorted_and_complete() -> None:
    """`__all__` lists every public name once, sorted."""
    assert sorted(set(exported())) == aiossmenv.__all__


@names
def test_each_name_belongs_to_the_package(name: str) -> None:
    """Each public name is imported once, its `__module__` is the package, and it has a docstring."""
    value = getattr(aiossmenv, name)

    assert vars(aiossmenv)[name] is value
    assert ("aiossmenv", name) == (value.__module__, value.__name__)
    assert vars(value)["__doc__"].strip() if isinstance(value, type) else value.__doc__.strip()


def test_dir_lists_all_names() -> None:
    """`dir()` lists all public names and the version, even before their first use."""
    assert [*aiossmenv.__all__, "__version__"] == aiossmenv.__dir__()
    assert {*aiossmenv.__all__, "__version__"} == set(dir(aiossmenv))


def test_unknown_name() -> None:
    """A name that does not exist is an `AttributeError` with that text, even if a private module has such a name."""
    for name in ("load_environment", "Backoff", "_env_"):
        with pytest.raises(AttributeError, match=f"module 'aiossmenv' has no attribute '{name}'"):
            getattr(aiossmenv, name)


def test_version_is_the_installed_one() -> None:
    """`__version__` is the version of the installed package."""
    assert metadata.version("aiossmenv") == aiossmenv.__version__


@pytest.mark.parametrize("name", ["Env", "ParameterStore", "Rotating", "Snapshot"])
def test_public_members_are_documented(name: str) -> None:
    """Every public method and property of the main classes has a docstring."""
    for member, value in vars(getattr(aiossmenv, name)).items():
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert (value.__doc__ or "").strip(), member


# --- Types


def test_typing_files_cover_the_public_api() -> None:
    """The files in tests/typing use every public name, and every public member of a class by its name."""
    files = [ast.parse(path.read_text()) for path in (Path(__file__).parents[1] / "typing").glob("*.py")]
    nodes = [node for file in files for node in ast.walk(file)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    # Exempt: pytest fixtures, and methods that pydantic-settings and the clock protocol define.
    others = {"manual_clock", "memory_store", "decode_complex_value", "sleep"}
    written = {name.rpartition(".")[2] for name, _ in face.public() if not name.endswith("__")}

    assert others == written - used


# --- Imports


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a statement loads in a new interpreter."""
    program = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return {module.partition(".")[0] for module in json.loads(printed)}


SDK = {"aioboto3", "aiobotocore", "boto3", "botocore", "aiohttp"}


def test_import_is_cheap() -> None:
    """Importing the package loads neither the SDK nor asyncio nor any other installed package."""
    assert set() == loaded_by("import aiossmenv") & {*SDK, "asyncio", "cachetools", "logging", "typing_extensions"}


def test_names_can_be_imported_without_the_sdk() -> None:
    """Importing every public name loads no part of the SDK, which would take a third of a second."""
    everything = loaded_by("from aiossmenv import *")

    assert set() == everything & SDK
    assert {"aiossmenv", "asyncio", "cachetools"} <= everything
