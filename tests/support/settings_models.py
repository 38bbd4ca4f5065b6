"""Models of settings, and a store that holds their parameters, for the tests of `aiossmenv.pydantic`."""

import traceback
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from aiossmenv import AiossmenvError
from aiossmenv.pydantic import load_settings
from aiossmenv.testing import MemoryStore

MARK = "hunter2"


class Database(BaseModel):
    """A nested model."""

    host: str
    port: int = 3306
    password: SecretStr


class Settings(BaseSettings):
    """Typical settings of a service."""

    db: Database
    regions: list[str] = []
    debug: bool = False


class Held(MemoryStore):
    """A store with these values under /app."""

    def __init__(self, **values: str) -> None:
        super().__init__({f"/app/{name}": value for name, value in values.items()})
        self.store = self

    @property
    def names_read(self) -> list[str]:
        """The names that were read."""
        return [name for call in self.calls if call.action == "ssm:GetParameters" for name in call.names]


def database(**values: str) -> Held:
    """Return a store with every value that `Settings` requires."""
    return Held(**{"db/host": "h", "db/password": MARK} | values)


def settings_of(**annotations: Any) -> type[BaseSettings]:
    """Return a settings class with these fields and no defaults."""
    return type("Some", (BaseSettings,), {"__annotations__": annotations})


def assert_hidden(error: BaseException) -> None:
    """Assert that no text, chained error or frame variable of *error* contains the secret."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert MARK not in "".join(trace.format()) + repr(error) + repr(vars(error))


async def load_error(settings: type[BaseSettings], held: Held) -> AiossmenvError:
    """Return the error that loading the settings raises."""
    with pytest.raises(AiossmenvError) as caught:
        await load_settings(settings, "/app", environ={}, store=held.store)
    assert_hidden(caught.value)
    return caught.value


class Strict(BaseSettings):
    """Settings with one field for each kind of wrong value."""

    port: int = 1
    limits: dict[str, int] = {}
    db: Database | None = None
    token: SecretStr = SecretStr("")
    items: list[int] = []

    @field_validator("token")
    @classmethod
    def _long(cls, token: SecretStr) -> SecretStr:
        if "short" in token.get_secret_value():
            raise ValueError(f"{token.get_secret_value()} is too short")
        if "broken" in token.get_secret_value():
            raise RuntimeError(token.get_secret_value())
        return token

    @model_validator(mode="after")
    def _whole(self) -> "Strict":
        if self.port == 0:
            raise ValueError(self.token.get_secret_value())
        return self
