"""What the package shows, what importing it costs, and that every refusal of the service is one of our errors."""

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
    """Find the names that any room says are the package's."""
    package = Path(aiossmenv.__file__).parent
    for path in (*package.glob("_[a-z]*.py"), *package.glob("_ssm/[a-z]*.py")):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for name, value in vars(import_module(module)).items():
            if not name.startswith("_") and getattr(value, "__module__", "") == "aiossmenv":
                yield name


def test_all_is_sorted_and_complete() -> None:
    """`__all__` has every name that a room gives to the package, once, in order."""
    assert sorted(set(exported())) == aiossmenv.__all__


@names
def test_each_name_is_at_home_in_the_package(name: str) -> None:
    """Each public name is fetched from its room once, says that it is from the package, and is documented."""
    value = getattr(aiossmenv, name)

    assert vars(aiossmenv)[name] is value
    assert ("aiossmenv", name) == (value.__module__, value.__name__)
    assert vars(value)["__doc__"].strip() if isinstance(value, type) else value.__doc__.strip()


def test_dir_has_them() -> None:
    """`dir()` has all public names and the version, before they were used."""
    assert [*aiossmenv.__all__, "__version__"] == aiossmenv.__dir__()
    assert {*aiossmenv.__all__, "__version__"} == set(dir(aiossmenv))


def test_unknown_name() -> None:
    """A name that does not exist is an `AttributeError` that says so, also where a room has it for itself."""
    for name in ("load_environment", "Backoff", "_env_"):
        with pytest.raises(AttributeError, match=f"module 'aiossmenv' has no attribute '{name}'"):
            getattr(aiossmenv, name)


def test_version_is_the_installed_one() -> None:
    """`__version__` is what the package was installed as."""
    assert metadata.version("aiossmenv") == aiossmenv.__version__


@pytest.mark.parametrize("name", ["Env", "ParameterStore", "Rotating", "Snapshot"])
def test_public_members_are_documented(name: str) -> None:
    """Every public method and property of the classes one works with has a docstring."""
    for member, value in vars(getattr(aiossmenv, name)).items():
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert (value.__doc__ or "").strip(), member


# --- Types


def test_types_of_the_whole_face_are_checked() -> None:
    """The files that type checkers see use every public name, and every public member of a class by its name."""
    files = [ast.parse(path.read_text()) for path in (Path(__file__).parents[1] / "typing").glob("*.py")]
    nodes = [node for file in files for node in ast.walk(file)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    # Fixtures; and what pydantic-settings asks of a source and the library of a clock.
    others = {"manual_clock", "memory_store", "decode_complex_value", "sleep"}
    written = {name.rpartition(".")[2] for name, _ in face.public() if not name.endswith("__")}

    assert others == written - used


# --- Imports


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return {module.partition(".")[0] for module in json.loads(printed)}


SDK = {"aioboto3", "aiobotocore", "boto3", "botocore", "aiohttp"}


def test_importing_the_package_costs_next_to_nothing() -> None:
    """Importing the package loads neither the SDK nor asyncio nor anything else that is installed."""
    assert set() == loaded_by("import aiossmenv") & {*SDK, "asyncio", "cachetools", "logging", "typing_extensions"}


def test_names_can_be_imported_without_the_sdk() -> None:
    """Importing every public name loads no part of the SDK, for that takes a third of a second."""
    everything = loaded_by("from aiossmenv import *")

    assert set() == everything & SDK
    assert {"aiossmenv", "asyncio", "cachetools"} <= everything
