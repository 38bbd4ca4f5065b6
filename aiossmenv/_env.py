# One owner: the current snapshot, what of it is in the environment, and the task that keeps it current.
"""
`load_env` and `Env`.

Whatever changes an `Env` happens in `_publish`, which has no await: readers see one complete snapshot or the next.
Everything before it (reading) may fail or be cancelled and has then changed nothing.
"""

import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType

from aiossmenv._errors import AiossmenvError, EmptyPath, InvalidPath, InvalidVariable, MissingParameters, StaleEnv
from aiossmenv._naming import upper_snake
from aiossmenv._parameter import Parameter, normal_path, split_names
from aiossmenv._publish import apply, check, plan
from aiossmenv._scan import ByPath, Request, in_tens
from aiossmenv._schedule import Schedule, Status
from aiossmenv._snapshot import Change, Known, Snapshot, diff
from aiossmenv._store import ParameterStore, SingleFlight
from aiossmenv._watch import Callback, Watchers

logger = logging.getLogger("aiossmenv")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What one `Env` is made of."""

    paths: tuple[str, ...]
    names: tuple[str, ...] | None
    required: frozenset[str]
    recursive: bool
    to_key: Callable[[str], str]
    allow_empty: bool

    def requests(self) -> tuple[Request, ...]:
        if self.names is None:
            return tuple(ByPath(path, self.recursive) for path in self.paths)
        return in_tens(f"{path.rstrip('/')}/{name}" for path in self.paths for name in self.names)

    def arrange(self, known: Known, region: str | None) -> dict[str, Parameter]:
        """Return the parameters by key, or raise what is wrong with the set as a whole."""
        parameters: dict[str, Parameter] = {}
        for path in self.paths:
            # Names that were asked for may be at any depth.
            deep = self.recursive or self.names is not None
            below = known.below(path, recursive=deep, to_key=self.to_key)
            if not below and not self.allow_empty:
                raise EmptyPath(
                    "there is no parameter under this path" if self.names is None else "none of the keys is there",
                    path=path,
                    region=region,
                    remedy="Check its spelling and case and the region; pass allow_empty=True if it may be empty.",
                )
            parameters |= below
        missing = tuple(sorted(self.required - parameters.keys()))
        if missing:
            raise MissingParameters(
                f"required, and not there: {', '.join(missing)}",
                keys=missing,
                path=", ".join(self.paths),
                region=region,
                remedy="Create them, or check the path and the region.",
            )
        return parameters


class Env(Mapping[str, str]):
    """
    The environment of a service: key -> value, always of one complete read.

    It comes from `load_env()`. *parameters* maps the same keys to `Parameter`s; *snapshot* is the newest `Snapshot`;
    *shadowed* has the keys that were in the environment before us and were left alone (`override=False`): `env[key]`
    is the store's value all the same.
    """

    def __init__(
        self,
        wanted: _Wanted,
        store: ParameterStore,
        *,
        ttl: float | None,
        max_stale: float | None,
        environ: MutableMapping[str, str] | None,
        override: bool,
        deadline: float,
    ) -> None:
        self._wanted = wanted
        self._store = store
        self._clock = store.clock
        self._ttl = ttl
        self._max_stale = max_stale
        self._environ = environ
        self._override = override
        self._deadline = deadline
        self._known = Known(MappingProxyType({}))
        self._snapshot = Snapshot({}, self._clock.wall())
        self._owned: Mapping[str, str] = {}
        self._schedule: Schedule
        self._watchers = Watchers()
        self._flights: SingleFlight[str, tuple[Change, ...]] = SingleFlight()
        self._began = float("-inf")
        self._refresher: asyncio.Task[None] | None = None
        self._sleeper: asyncio.Task[None] | None = None
        self._closed = False
        self.shadowed: frozenset[str] = frozenset()

    def __getitem__(self, key: str) -> str:
        if self._max_stale is not None:
            self._refuse_stale()
        return self._snapshot[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot)

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        paths = ", ".join(self._wanted.paths)
        return f"<Env {paths}: {len(self)} keys, read {self._snapshot.taken_at:%Y-%m-%d %H:%M:%S%z}>"

    @property
    def snapshot(self) -> Snapshot:
        """The newest complete read."""
        return self._snapshot

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The newest complete read as `Parameter`s, by key."""
        return self._snapshot.parameters

    @property
    def status(self) -> Status:
        """How current this is, at the moment of asking."""
        return self._schedule.status(self._clock.now())

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> tuple[Change, ...]:  # noqa: ARG002 - all are read
        """
        Read again now, and return what changed once it is published.

        *keys*: what must be news; everything, without any. *min_gap*: seconds that lie between the beginning of the
        last refresh and of this one at least; they are waited for. Whoever asks while a refresh runs shares it. Raises
        what the read raises; the last good snapshot stays then.
        """
        if self._closed:
            raise RuntimeError("this Env is closed")
        if min_gap:
            return await self._flights.do("patient", lambda: self._refresh_after(min_gap))
        return await self._flights.do("refresh", self._refresh)

    def changes(self) -> AsyncIterator[Change]:
        """
        Iterate over every change from now on, until the `Env` is closed.

        A slow reader gets one change for each key, from the oldest state it has not seen to the newest.
        """
        return self._watchers.changes()

    def on_change(self, callback: Callback, *keys: str) -> Callable[[], None]:
        """
        Call *callback* with each `Change` of *keys*, of all keys if there are none; returns what ends that.

        A function is called on the loop, after the change is published and before `refresh()` returns; a coroutine
        function runs in a task, one call at a time. What they raise is logged by type and place, and goes no further.
        """
        return self._watchers.subscribe(callback, keys)

    async def aclose(self) -> None:
        """End the refreshes, the readers of changes and the callbacks; the environment stays as it is. Idempotent."""
        if self._closed:
            return
        self._closed = True
        refresher = self._refresher
        if refresher:
            refresher.cancel()
            await asyncio.gather(refresher, return_exceptions=True)
        await self._release()

    def __del__(self) -> None:
        if getattr(self, "_refresher", None) and not self._closed:
            self._warn_unclosed()

    async def _start(self) -> None:
        """Make the first load and, with a TTL, begin to refresh."""
        if self._ttl is not None:
            await self._store.__aenter__()
        try:
            await self._read()
        except BaseException:
            self._closed = True
            await self._release()
            raise
        self._schedule = Schedule(
            ttl=self._ttl,
            max_stale=self._max_stale,
            now=self._clock.now(),
            wall=self._snapshot.taken_at,
            random=self._store.random,
        )
        if self._ttl is not None:
            self._refresher = asyncio.create_task(
                self._keep_fresh(), name=f"aiossmenv refresher of {self._wanted.paths}"
            )

    async def _read(self) -> tuple[Change, ...]:
        """Make one complete read and publish it."""
        self._began = self._clock.now()
        async with self._store:
            scan = await self._store.read(self._wanted.requests(), deadline=self._deadline)
            if scan.unknown and not self._known.parameters:
                logger.warning("not in Parameter Store: %s", ", ".join(sorted(scan.unknown)))
            return self._publish(self._known.merge(scan.found))

    def _publish(self, known: Known) -> tuple[Change, ...]:
        """Make what is *known* the current snapshot, here and in the environment; all of it or nothing."""
        parameters = self._wanted.arrange(known, self._store.region)
        snapshot = Snapshot(parameters, self._clock.wall())
        if self._environ is not None:
            check(parameters)
            edit = plan(snapshot, self._owned, self._environ, override=self._override)
            fault = apply(edit, self._environ)
            if fault:
                raise InvalidVariable(fault, path=", ".join(self._wanted.paths), remedy="Nothing was set.")
            self._owned, self.shadowed = edit.owned, edit.shadowed
        changes = diff(self._snapshot, snapshot)
        self._known, self._snapshot = known, snapshot
        return changes

    async def _refresh(self) -> tuple[Change, ...]:
        try:
            changes = await self._read()
        except Exception as error:
            fault = error if isinstance(error, AiossmenvError) else AiossmenvError(f"unexpected {type(error).__name__}")
            self._schedule.failed(fault, now=self._clock.now())
            raise
        finally:
            if self._sleeper:
                self._sleeper.cancel()  # the refresher sleeps until a time that no longer holds
        self._schedule.succeeded(now=self._clock.now(), wall=self._snapshot.taken_at, changes=len(changes))
        if changes:
            logger.info("changed: %s", ", ".join(f"{change.key} ({change.kind})" for change in changes))
        self._watchers.deliver(changes)
        return changes

    async def _refresh_after(self, min_gap: float) -> tuple[Change, ...]:
        # Shared from the waiting on: those who wait for one time shall not start one read each when it has come.
        await self._clock.sleep(max(0.0, self._began + min_gap - self._clock.now()))
        return await self._flights.do("refresh", self._refresh)

    async def _keep_fresh(self) -> None:
        try:
            while True:
                while (seconds := self._schedule.seconds_left(self._clock.now())) > 0:
                    self._sleeper = asyncio.create_task(self._clock.sleep(seconds), name="aiossmenv sleep")
                    await asyncio.wait({self._sleeper})
                try:
                    await self._flights.do("refresh", self._refresh)
                except Exception as error:
                    status = self.status
                    logger.warning(
                        "refresh of %s failed, %d in a row; the values of %.0f s ago stay, next try in %.1f s: %s: %s",
                        ", ".join(self._wanted.paths),
                        status.failures,
                        status.age,
                        status.next_refresh or 0.0,
                        type(error).__name__,
                        error if isinstance(error, AiossmenvError) else "",
                    )
        finally:
            if self._sleeper:
                self._sleeper.cancel()
            if not self._closed:
                # Cancelled from outside: the loop is going down and nobody closed this Env.
                self._closed = True
                await self._release()
                self._warn_unclosed()

    async def _release(self) -> None:
        await self._flights.aclose()
        await self._watchers.aclose()
        if self._ttl is not None:
            await self._store.__aexit__(None, None, None)

    def _refuse_stale(self) -> None:
        if self._schedule.too_stale(self._clock.now()):
            error = self.status.last_error
            raise StaleEnv(
                f"the values are {self.status.age:.0f} s old",
                path=", ".join(self._wanted.paths),
                region=self._store.region,
                remedy=f"The last refresh failed: {error}" if error else "Refresh, or pass a ttl below max_stale.",
            )

    def _warn_unclosed(self) -> None:
        warnings.warn(f"unclosed {self!r}: call aclose() or use async with", ResourceWarning, source=self, stacklevel=2)


class Loading(Coroutine[object, None, Env]):
    """
    What `load_env()` returns: await it, or enter it with `async with`, once.

    It owns a coroutine named `load_env`, so that a forgotten `await` is reported by name.
    """

    __slots__ = ("_coroutine", "_env")

    def __init__(self, coroutine: Coroutine[object, None, Env]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[object, None, Env]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> Env:
        self._env = await self._coroutine
        return self._env

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._env.aclose()

    # With these three it is a coroutine to asyncio.create_task() and to a TaskGroup.

    def send(self, value: None) -> object:
        """Run to the next await."""
        return self._coroutine.send(value)

    def throw(self, kind: type[BaseException] | BaseException, *more: object) -> object:
        """Raise inside."""
        return self._coroutine.throw(next((value for value in more if isinstance(value, BaseException)), kind))

    def close(self) -> None:
        """Give up before it has run."""
        self._coroutine.close()


def load_env(
    *paths: str,
    ttl: float | None = None,
    keys: Iterable[str] | None = None,
    required: Iterable[str] = (),
    recursive: bool = True,
    to_key: Callable[[str], str] = upper_snake,
    environ: MutableMapping[str, str] | None = os.environ,
    override: bool = True,
    allow_empty: bool = False,
    deadline: float = 30.0,
    max_stale: float | None = None,
    store: ParameterStore | None = None,
) -> Loading:
    """
    Read everything under *paths*, decrypted, and put it into the environment: all of it, or nothing and an error.

        env = await load_env("/FAKEBOOK/TEST/")                    # once
        async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:     # kept current until the block ends

    *paths*: with or without a final slash, the same; default: `$SSM_PATH`, comma separated. Of two paths that give
    one key, the later wins. *ttl*: seconds that a snapshot is fresh; `None`: it is never refreshed, and nothing stays
    open. *keys*: names relative to the paths, where they are known up front: no listing. *required*: keys that must be
    there. *recursive*: all levels, or direct children only. *to_key*: relative name -> key; by default `/ . -` become
    `_`, in upper case; `str` keeps it as it is. *environ*: the mapping to fill; `None`: none. *override*: whether a
    variable that was there before is replaced. *allow_empty*: whether a path may hold nothing. *deadline*: seconds
    for the first load, and for each refresh, retries and all. *max_stale*: seconds after which reading a value raises
    `StaleEnv` instead; `None`: never. *store*: a `ParameterStore` to share; default: a new one.

    Raises, always before anything is set: `InvalidPath`, `EmptyPath`, `MissingParameters`, `KeyCollision`,
    `InvalidVariable`, `AccessDenied`, `DecryptionFailed`, and `Throttled` or `StoreUnavailable` when *deadline* is over.
    With *ttl* and `await`, end it with `await env.aclose()`.
    """
    for option, names in (("keys", keys), ("required", required)):
        if isinstance(names, str):
            raise TypeError(f"{option} takes several names: write {option}=[{names!r}]")
    for option, seconds in (("ttl", ttl), ("max_stale", max_stale), ("deadline", deadline)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{option} is a number of seconds above 0, not {seconds!r}")
    # Of a path that is given twice, the later one counts.
    normal = dict.fromkeys(reversed([normal_path(path) for path in paths or _default_paths()]))
    wanted = _Wanted(
        paths=tuple(reversed(normal)),
        names=None if keys is None else tuple(name.strip().strip("/") for name in keys),
        required=frozenset(required),
        recursive=recursive,
        to_key=to_key,
        allow_empty=allow_empty,
    )

    async def load_env() -> Env:
        env = Env(
            wanted,
            store or ParameterStore(),
            ttl=ttl,
            max_stale=max_stale,
            environ=environ,
            override=override,
            deadline=deadline,
        )
        await env._start()
        return env

    load_env.__qualname__ = "load_env"
    return Loading(load_env())


def _default_paths() -> tuple[str, ...]:
    paths = split_names(os.environ.get("SSM_PATH", ""))
    if not paths:
        raise InvalidPath(
            "no path was given and SSM_PATH is not set",
            remedy="Set SSM_PATH to a path such as /FAKEBOOK/TEST/, or pass one: load_env('/FAKEBOOK/TEST/').",
        )
    return paths


Env.__module__ = load_env.__module__ = "aiossmenv"
