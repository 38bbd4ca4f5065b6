"""A service with logins, a source of credentials, and a rotating client, for the tests of `Rotating`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiossmenv import (
    Change,
    Clock,
    Env,
    Parameter,
    Rotating,
    Snapshot,
    diff,
)
from aiossmenv._rotating import ErrorKind

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """The service rejects this password; the text quotes the password, as the texts of drivers do."""


class Busy(Exception):
    """The service is busy; a later try may succeed."""


class Broken(Exception):
    """An error that no retry fixes."""


class Source:
    """
    The part of `Env` that `Rotating` uses: *snapshot* holds the values last read, *stored* the values in the store.
    """

    def __init__(self, clock: Clock, **values: str) -> None:
        self.stored = values
        self.snapshot = _snapshot(values)
        self.gaps: list[float] = []
        self.error: Exception | None = None
        self._clock = clock
        self._began = float("-inf")
        self._watchers: list[tuple[Callable[[Change], None], tuple[str, ...]]] = []

    @property
    def watchers(self) -> int:
        """The number of registered callbacks."""
        return len(self._watchers)

    def store(self, **values: str) -> None:
        """Write values without reading them."""
        self.stored |= values

    def publish(self, **values: str) -> None:
        """Write values, and read them at once."""
        self.store(**values)
        self.read()

    def read(self) -> None:
        """Replace the snapshot with the stored values, and call the watchers of each changed key."""
        before, self.snapshot = self.snapshot, _snapshot(self.stored)
        for change in diff(before, self.snapshot):
            for callback, keys in tuple(self._watchers):
                if change.key in keys:
                    callback(change)

    def on_change(self, callback: Callable[[object], None], *keys: str) -> Callable[[], None]:
        """See `Env`."""
        entry = (callback, keys)
        self._watchers.append(entry)
        return lambda: self._watchers.remove(entry)

    def group(self, *keys: str) -> Callable[[], None]:
        """See `Env`; this source always reads all keys in one read."""
        assert keys
        return lambda: None

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> None:
        """See `Env`."""
        assert keys == ("USER", "PASSWORD")
        self.gaps.append(min_gap)
        gap = self._began + min_gap - self._clock.now()
        if gap > 0:
            await self._clock.sleep(gap)
        self._began = self._clock.now()
        if self.error:
            raise self.error
        self.read()


def _snapshot(values: Mapping[str, str]) -> Snapshot:
    """Return the snapshot that a read of these values gives."""
    return Snapshot(
        {
            key: Parameter(name=f"/T/{key}", value=value, type="SecureString", version=1)
            for key, value in values.items()
        },
        _EPOCH,
    )


@dataclass(eq=False)
class Client:
    """The resource that rotates."""

    user: str
    password: str


async def _turn() -> None:
    """Yield to the loop once."""
    await asyncio.sleep(0)


async def forever() -> None:
    """Wait for a future that never completes."""
    await asyncio.get_running_loop().create_future()


async def swallow() -> None:
    """Return normally when cancelled, as `asyncio.wait_for` does on Python 3.11."""
    with suppress(asyncio.CancelledError):
        await forever()


async def swallow_and_hang() -> None:
    """Ignore the first cancellation."""
    await swallow()
    await forever()


@dataclass
class Service:
    """A service that clients log in to; a test can delay or fail each step."""

    logins: set[tuple[str, str]] = field(default_factory=lambda: {("ann", "first")})
    created: list[Client] = field(default_factory=list)
    disposed: list[Client] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    sessions: int = 0
    creating: Callable[[], Awaitable[object]] = _turn
    probing: Callable[[], Awaitable[object]] = _turn
    disposing: Callable[[], Awaitable[object]] = _turn
    entering: Callable[[], Awaitable[object]] = _turn
    leaving: Callable[[], Awaitable[object]] = _turn

    @property
    def open(self) -> list[Client]:
        """The clients that are not disposed of."""
        return [client for client in self.created if client not in self.disposed]

    async def create(self, values: Mapping[str, str]) -> Client:
        """Create a client, without a login."""
        await self.creating()
        client = Client(values["USER"], values["PASSWORD"])
        self.created.append(client)
        return client

    async def probe(self, client: Client) -> None:
        """Log in."""
        await self.probing()
        self.check(client)

    async def dispose(self, client: Client) -> None:
        """Dispose of a client that is still open."""
        assert client in self.open
        await self.disposing()
        self.disposed.append(client)

    @asynccontextmanager
    async def session(self, client: Client) -> AsyncIterator[Client]:
        """Log in, and log out at the end."""
        await self.entering()
        self.check(client)
        self.sessions += 1
        try:
            yield client
        finally:
            self.sessions -= 1
            await self.leaving()

    def check(self, client: Client) -> None:
        """Raise `Refused` if the service does not accept the client's credentials."""
        if (client.user, client.password) not in self.logins:
            self.errors.append(Refused(1045, f"no entry for {client.user} with {client.password}"))
            raise self.errors[-1]

    def alter(self, user: str, password: str) -> None:
        """Make this password of *user* the only one that the service accepts."""
        self.logins = {(user, password)}


def classify(error: Exception) -> ErrorKind:
    """Map `Refused` to "auth_failed", `Busy` to "transient" and other errors to None."""
    return "auth_failed" if isinstance(error, Refused) else "transient" if isinstance(error, Busy) else None


def make(source: Source | Env, service: Service, **options: Any) -> Rotating[Client]:
    """Return a rotating client of the source, whose random numbers are always 0.5."""
    defaults: dict[str, Any] = {"classify": classify, "random": lambda: 0.5}
    return Rotating(source, ["USER", "PASSWORD"], service.create, service.probe, service.dispose, **defaults | options)


async def used(rotating: Rotating[Client], service: Service) -> Client:
    """Enter and leave `use` once, and return its client."""
    async with rotating.use(service.session) as client:
        return client


async def hold(rotating: Rotating[Client], end: asyncio.Event) -> Client:
    """Use the client until *end* is set, and return it."""
    async with rotating.use() as client:
        await end.wait()
        return client
