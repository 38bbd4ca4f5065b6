"""
Secrets and settings from AWS Systems Manager Parameter Store, in the environment of an asyncio service.

    from aiossmenv import load_env

    env = await load_env("/FAKEBOOK/TEST/")                    # once: os.environ is filled
    async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:     # kept current until the block ends
        env["DB_URL"]

Importing this package imports next to nothing: each name is fetched from its room when first used, and the SDK when
the first request is sent.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiossmenv._concurrency import Clock
    from aiossmenv._env import Env
    from aiossmenv._errors import (
        AccessDenied,
        AiossmenvError,
        DecryptionFailed,
        EmptyPath,
        InvalidPath,
        InvalidVariable,
        KeyCollision,
        MissingParameters,
        ParameterNotFound,
        RotationFailed,
        StaleEnv,
        StoreUnavailable,
        Throttled,
    )
    from aiossmenv._load import load_env
    from aiossmenv._models import Change, Parameter, Snapshot, Status, diff
    from aiossmenv._rotating import Rotating, RotatingStatus
    from aiossmenv._ssm.store import ParameterStore
    from aiossmenv._ssm.transport import (
        EncryptedParameter,
        GetParameter,
        GetParameters,
        GetParametersByPath,
        Page,
        ServiceError,
        Transport,
    )

    __version__: str

__all__ = [
    "AccessDenied",
    "AiossmenvError",
    "Change",
    "Clock",
    "DecryptionFailed",
    "EmptyPath",
    "EncryptedParameter",
    "Env",
    "GetParameter",
    "GetParameters",
    "GetParametersByPath",
    "InvalidPath",
    "InvalidVariable",
    "KeyCollision",
    "MissingParameters",
    "Page",
    "Parameter",
    "ParameterNotFound",
    "ParameterStore",
    "Rotating",
    "RotatingStatus",
    "RotationFailed",
    "ServiceError",
    "Snapshot",
    "StaleEnv",
    "Status",
    "StoreUnavailable",
    "Throttled",
    "Transport",
    "diff",
    "load_env",
]

_MODULES = {
    "Change": "_models",
    "Clock": "_concurrency",
    "EncryptedParameter": "_ssm.transport",
    "Env": "_env",
    "GetParameter": "_ssm.transport",
    "GetParameters": "_ssm.transport",
    "GetParametersByPath": "_ssm.transport",
    "Page": "_ssm.transport",
    "Parameter": "_models",
    "ParameterStore": "_ssm.store",
    "Rotating": "_rotating",
    "RotatingStatus": "_rotating",
    "ServiceError": "_ssm.transport",
    "Snapshot": "_models",
    "Status": "_models",
    "Transport": "_ssm.transport",
    "diff": "_models",
    "load_env": "_load",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("aiossmenv")
    if name not in __all__:
        raise AttributeError(f"module 'aiossmenv' has no attribute {name!r}")
    value: object = getattr(import_module(f"aiossmenv.{_MODULES.get(name, '_errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
