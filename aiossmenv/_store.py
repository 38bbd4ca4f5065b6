# One owner: the client's life, and the cache of single reads.
"""`ParameterStore`: drives a `Scan` against a `Caller`."""

import asyncio
import logging
import os
import random as dice
import sys
import warnings
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from cachetools import TTLCache

from aiossmenv._clock import Clock, LoopClock
from aiossmenv._errors import AiossmenvError, InvalidPath, ParameterNotFound
from aiossmenv._flights import Home, SingleFlight
from aiossmenv._pace import Pace
from aiossmenv._parameter import Parameter, normal_path
from aiossmenv._request import Answer, Request, Want
from aiossmenv._scan import DENIED_FOR, Denials, Job, Scan
from aiossmenv._snapshot import Known

if TYPE_CHECKING:
    from aiossmenv._sdk import Pins

logger = logging.getLogger("aiossmenv")


class Forked(Protocol):
    """What wants to know that it is the copy in a child process."""

    def _forked(self) -> None: ...


# By id, for an `Env` is a mapping and has no hash.
alive: "weakref.WeakValueDictionary[int, Forked]" = weakref.WeakValueDictionary()
# Connections of the parent's, in the child.
_parents: list[object] = []

# As many parameters as an account has at its standard limit: the cache is for names that code spells out.
_CACHED = 10_000


class Caller(Protocol):
    """What sends one request; it is open from its first call on."""

    @property
    def region(self) -> str | None:
        """The region it talks to, once it knows."""

    async def call(self, request: Request) -> Answer:
        """Send one request; raises one of our errors."""

    async def aclose(self) -> None:
        """Let go of all connections; idempotent."""


@dataclass(eq=False, slots=True)
class _Batch:
    """Names that were asked for in one turn of the loop."""

    names: list[str] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Crew:
    """
    Those who work off one scan.

    *news*: one of them has ended, or something failed. *gate*: one passes in a turn of the loop, because to make and
    sign a request takes the SDK half a millisecond, and twenty of them would hold the loop.
    """

    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)


class ParameterStore:
    """
    The async client of Parameter Store.

    *session*: an `aioboto3.Session` or an `aiobotocore` session; default: a new one, with all that the SDK honours.
    *region*, *endpoint_url*: instead of the SDK's own. *max_concurrency*: requests under way at once, 20.
    *ttl*: seconds that `get()` keeps what it read, 60. *deadline*: seconds for one read, retries and all, 30.
    *caller*, *clock*, *random* are for tests.

    Its first request finds region, identity, endpoint and proxies; they hold for its life, however often it connects.
    It connects when first needed. Use it with `async with`, or call `aclose()`; one that only `Env`s read through closes
    with the last of them. In a child process that was forked, and on another event loop, it connects anew; it leaves the
    parent's connections alone, and a loop that ends closes its own. It refuses a second loop while the first one runs.
    """

    # For the repr of one that was not made whole.
    _caller: Caller | None = None

    def __init__(
        self,
        *,
        session: object | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        max_concurrency: int = 20,
        ttl: float = 60.0,
        deadline: float = 30.0,
        caller: Callable[[], Caller] | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise ValueError("max_concurrency is at least 1")
        connect, time, chance = _outside or (
            _client(session, region, endpoint_url, max_concurrency),
            LoopClock(),
            dice.random,
        )
        self.clock: Clock = clock or time
        self.random = random or chance
        self._connect = caller or connect
        self._is_sdk = not (caller or _outside)
        self._most = max_concurrency
        self._denials = Denials()
        self._deadline = deadline
        self._cache: TTLCache[str, Parameter] = TTLCache(_CACHED, ttl, timer=self.clock.now)
        self._inherited = 0
        self._home = Home()
        self._begin()
        alive[id(self)] = self

    def _begin(self) -> None:
        """Have no connection, and nothing under way."""
        self._caller = None
        self._guard: AsyncGenerator[None, None] | None = None
        # How often it was entered, how many Envs read through it now, and whether it is open for single reads.
        self._entered = self._readers = 0
        self._kept = False
        self._pace = Pace(self._most)
        self._flights: SingleFlight[str, Parameter] = SingleFlight()
        self._batches: SingleFlight[_Batch, Scan] = SingleFlight()
        self._batch: _Batch | None = None

    def _forked(self) -> None:
        _parents.append((self._caller, self._guard))
        # The blocks that it was entered for may end in the child, and keep nothing open there.
        self._inherited += self._entered
        self._home = Home()
        self._begin()

    def _arrive(self) -> None:
        """Begin anew if the loop that runs now is another than before: connections and tasks are of one loop only."""
        if self._home.moved(self):
            self._inherited += self._entered
            self._begin()

    @property
    def region(self) -> str | None:
        """The region it reads from; `None` before the first request."""
        return self._caller.region if self._caller else None

    async def get(self, name: str) -> Parameter:
        """
        Return one parameter, decrypted; at most *ttl* seconds old.

        *name*: a full name, with `:3` or `:label` for a version, an ARN, or a secret of Secrets Manager as
        `/aws/reference/secretsmanager/ID`. What is asked for in one turn of the loop goes ten to a request. Raises
        `ParameterNotFound`, `InvalidPath`, `AccessDenied`, `DecryptionFailed`, and `Throttled` or `StoreUnavailable`
        when the deadline is over.
        """
        name = name.strip()
        if not name:
            raise InvalidPath("the name is empty", parameter=name, remedy="Give one like /FAKEBOOK/TEST/DB_URL.")
        self._arrive()
        self._kept = self._kept or not self._entered
        cached = self._cache.get(name)
        return cached or await self._flights.do(name, lambda: self._get(name))

    async def get_many(self, names: Iterable[str]) -> dict[str, Parameter]:
        """Return the parameters of these *names*, by the names as you gave them; as `get()` does, or raises as it does."""
        if isinstance(names, str):
            raise TypeError(f"names are several: write get_many([{names!r}]), or get()")
        wanted = tuple(dict.fromkeys(names))
        found = await asyncio.gather(*(self.get(name) for name in wanted))
        return dict(zip(wanted, found, strict=True))

    async def scan(self, path: str, *, recursive: bool = True) -> AsyncIterator[Parameter]:
        """Iterate over all parameters under *path*, decrypted, in the order of their names, after the last page is in."""
        self._arrive()
        self._kept = self._kept or not self._entered
        scan = self._scan_for([Want(path=normal_path(path), recursive=recursive)])
        await self._drive(scan)
        for _, parameter in sorted(scan.found.items()):
            yield parameter

    def _scan_for(
        self,
        wants: Iterable[Want],
        *,
        deadline: float | None = None,
        known: Known | None = None,
        decrypt: Literal["all", "changed"] = "all",
        groups: Iterable[frozenset[str]] = (),
        lenient: bool = False,
        denied_for: float = DENIED_FOR,
    ) -> Scan:
        """Return a `Scan` that shares this store's pace and denials, to be driven within *deadline* seconds."""
        return Scan(
            wants,
            pace=self._pace,
            denials=self._denials,
            deadline=self.clock.now() + (self._deadline if deadline is None else deadline),
            random=self.random,
            known=known.parameters if known else None,
            digests=known.digests if known else None,
            decrypt=decrypt,
            groups=groups,
            lenient=lenient,
            denied_for=denied_for,
        )

    async def _drive(self, scan: Scan) -> None:
        """Do what *scan* asks for until it is done; raises its error."""
        crew = _Crew()
        self._denials.expire(self.clock.now())
        try:
            while True:
                crew.news.clear()
                self._send(self._take(scan, crew), scan, crew)
                if scan.done:
                    break
                await self._first(crew.news, scan.wait(self.clock.now()))
                for task in [task for task in crew.tasks if task.done()]:
                    crew.tasks.remove(task)
                    task.result()
                scan.expire(self.clock.now(), getattr(self._caller, "unsent", ""))
        finally:
            scan.abandon()
            for task in crew.tasks:
                task.cancel()
            await asyncio.gather(*crew.tasks, return_exceptions=True)
            for is_back, denial in self._denials.report():
                if is_back:
                    logger.info("the role has %s again, and reads use it", getattr(denial, "action", None))
                else:
                    logger.info(
                        "reads go on without a right that makes them faster, and try it again later: %s", denial
                    )
        if scan.error:
            scan.error.region = scan.error.region or self.region
            raise scan.error

    async def aclose(self) -> None:
        """End what is under way and let go of all connections; idempotent. The store can be used again."""
        self._arrive()
        self._kept = False
        await self._flights.aclose()
        await self._batches.aclose()
        caller, self._caller = self._caller, None
        guard, self._guard = self._guard, None
        if guard:
            await guard.aclose()
        elif caller:
            await caller.aclose()

    async def __aenter__(self) -> Self:
        self._arrive()
        self._entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrive()
        if self._inherited:
            self._inherited -= 1
        else:
            self._entered -= 1
        self._kept = False
        await self._close_unused()

    def _join(self) -> None:
        """Stay open for an `Env`, until it leaves."""
        self._arrive()
        self._readers += 1

    async def _leave(self) -> None:
        self._arrive()
        self._readers = max(0, self._readers - 1)  # it may have joined on a loop that is over
        await self._close_unused()

    async def _close_unused(self) -> None:
        if not (self._entered or self._readers or self._kept):
            await self.aclose()

    def __del__(self) -> None:
        if self._caller:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<ParameterStore {self.region or 'not connected'}>"

    def _open(self) -> Caller:
        self._caller = self._caller or self._connect()
        return self._caller

    async def _opened(self) -> Caller:
        """Return the caller, which the running loop closes if it ends before."""
        if self._caller is None and self._is_sdk:
            # In a thread: to import this takes 10 to 50 ms, without the SDK, which it imports in a thread of its own.
            await asyncio.to_thread(import_module, "aiossmenv._client")
        caller = self._open()
        if self._guard is None:
            self._guard = _closing(caller, weakref.ref(self))
            await anext(self._guard)
        return caller

    async def _get(self, name: str) -> Parameter:
        # All that ask in this turn of the loop find the same batch; its call begins in the next one.
        batch = self._batch = self._batch or _Batch()
        batch.names.append(name)
        try:
            scan = await self._batches.do(batch, lambda: self._read(batch))
        except BaseException:
            if self._batch is batch:
                batch.names.remove(name)  # its call has not begun, and must not ask for what is not wanted any more
            raise
        parameter = scan.found.get(name)
        if parameter is None:
            raise scan.errors.get(name) or ParameterNotFound(
                "there is no such parameter, version or label",
                parameter=name,
                region=self.region,
                remedy="Check the name and the region.",
            )
        self._cache[name] = parameter
        return parameter

    async def _read(self, batch: "_Batch") -> Scan:
        self._batch = None
        scan = self._scan_for([Want(names=tuple(batch.names), may_list=False)], lenient=True)
        await self._drive(scan)
        return scan

    def _take(self, scan: Scan, crew: "_Crew") -> Job | None:
        """Send all that may be sent now, but for one job, which is returned."""
        first = scan.next(self.clock.now())
        while first and (another := scan.next(self.clock.now())):
            self._send(another, scan, crew)
        return first

    def _send(self, job: Job | None, scan: Scan, crew: "_Crew") -> None:
        if job:
            crew.tasks.add(asyncio.create_task(self._work(job, scan, crew), name="aiossmenv request"))

    async def _work(self, job: Job | None, scan: Scan, crew: "_Crew") -> None:
        """
        Send a request, take in its answer, and go on with what may be sent then.

        Whoever took in all answers before anything is sent would have them all come together ever after, and the
        connections idle in between.
        """
        try:
            while job:
                try:
                    async with crew.gate:
                        await asyncio.sleep(0)
                        caller = await self._opened()
                    answer = await caller.call(job.request)
                except AiossmenvError as error:
                    scan.failed(job, error, self.clock.now())
                    crew.news.set()  # it may be due again before all that is waited for
                else:
                    scan.answered(job, answer, self.clock.now())
                    del answer  # plaintext, in a frame that a traceback may show
                job = self._take(scan, crew)
        finally:
            crew.news.set()

    async def _first(self, news: asyncio.Event, seconds: float) -> None:
        """Wait for *news*, at most so many seconds."""
        waits = [
            asyncio.create_task(news.wait(), name="aiossmenv news"),
            asyncio.create_task(self.clock.sleep(seconds), name="aiossmenv alarm"),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def _closing(caller: Caller, store: "weakref.ref[ParameterStore]") -> AsyncGenerator[None, None]:
    """
    Close *caller* when this is closed.

    A loop that ends closes the asynchronous generators that were begun on it (`shutdown_asyncgens()`, which
    `asyncio.run()` calls). So connections that were left open are closed by their own loop, while it still runs.
    """
    try:
        yield
    finally:
        await caller.aclose()
        left = store()
        if left and left._caller is caller:
            left._caller = left._guard = None


def _client(
    session: object | None, region: str | None, endpoint_url: str | None, max_concurrency: int
) -> Callable[[], Caller]:
    pins: Pins | None = None

    def connect() -> Caller:
        nonlocal pins
        from aiossmenv._client import Client
        from aiossmenv._sdk import Pins

        # Every connection of a store, in a forked child too, has the region, identity and proxies of the first one.
        pins = pins or Pins()
        return Client(session=session, region=region, endpoint_url=endpoint_url, connections=max_concurrency, pins=pins)

    return connect


def _after_fork() -> None:
    for copy in tuple(alive.values()):
        copy._forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)

ParameterStore.__module__ = "aiossmenv"

# How a store connects, its clock and its dice, where it is not told: `aiossmenv.testing` puts others here.
_outside: tuple[Callable[[], Caller], Clock, Callable[[], float]] | None = None
