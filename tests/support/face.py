"""The public API of the package: the tests of types and of secrets must use all of it."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import get_args

import aiossmenv.fastapi
import aiossmenv.mysql
import aiossmenv.pydantic
import aiossmenv.testing

MODULES = (aiossmenv, aiossmenv.fastapi, aiossmenv.mysql, aiossmenv.pydantic, aiossmenv.testing)
_FOLDER = str(Path(aiossmenv.__file__).parent)


def is_ours(path: str) -> bool:
    """Return whether *path* is a file of the package."""
    return path.startswith(_FOLDER)


def names(module: ModuleType) -> list[str]:
    """Return the public names of a module."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]


def public() -> Iterator[tuple[str, object]]:
    """Yield every public object by its dotted name, and each public member of a class whose code is in the package."""
    for module in MODULES:
        for name in names(module):
            value = getattr(module, name)
            yield f"{module.__name__}.{name}", value
            for kind in value.__mro__ if isinstance(value, type) else ():
                for member, part in vars(kind).items():
                    if (not member.startswith("_") or member.endswith("__")) and code_of(part):
                        yield f"{module.__name__}.{name}.{member}", part


def code_of(thing: object) -> CodeType | None:
    """Return the code object that using *thing* runs, if the package defines it."""
    if thing is aiossmenv.fastapi.EnvDep:
        thing = get_args(thing)[1].dependency
    thing = getattr(thing, "fget", None) or getattr(thing, "__func__", thing)
    code = getattr(inspect.unwrap(thing), "__code__", None)  # type: ignore[arg-type] # *thing* may be anything
    return code if code and is_ours(code.co_filename) else None
