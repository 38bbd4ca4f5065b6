# One owner: the current snapshot, what of it is in the environment, and the task that keeps it current.
"""
`Env`.

What changes an `Env` is one assignment, the last in `_publish`: readers see one complete snapshot or the next. All
before it may fail or be cancelled, and has then changed nothing.
"""

import asyncio
import logging
import math
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from aiossmenv._errors import AiossmenvError, EmptyPath, InvalidVariable, StaleEnv, StoreUnavailable
from aiossmenv._flights import Home, SingleFlight
from aiossmenv._parameter import Parameter, asked_name
from aiossmenv._publish import Edit, apply, check, plan, read_by_sdk
from aiossmenv._request import BATCH, ByName, Page, Want
from aiossmenv._scan import DENIED_FOR, Scan
from aiossmenv._schedule import Kind, Schedule, Status
from aiossmenv._snapshot import Change, Known, Snapshot, diff
from aiossmenv._store import ParameterStore, alive
from aiossmenv._wanted import Prepared, Wanted
from aiossmenv._watch import Callback, Watchers

logger = logging.getLogger("aiossmenv")

P = ParamSpec("P")
R = TypeVar("R")

# So many changes are named in a line of the log.
_NAMED = 20

# So many parameters take about 2 ms to publish; more are worked out in a thread.
_AT_ONCE = 500

# Of the time that a caller of `ensure_fresh()` waits, the read takes this part: then its own error says what is wrong.
_READ_PART = 0.9

# What a refresh covers: everything, in one way or another, or some keys.
_Scope = Kind | frozenset[str]


def _covers(running: _Scope, wanted: _Scope) -> bool:
    if isinstance(wanted, frozenset):
        return not isinstance(running, frozenset) or running >= wanted
    return running in (wanted, "revalidate") or (running, wanted) == ("list", "poll")


@dataclass(eq=False, slots=True)
class _Refresh:
    """
    One refresh.

    *deadline*: seconds for its read, `None` for those of its `Env`. *turn*: its number, from the moment in which its
    requests go out; before that it is newer than any question.
    """

    scope: _Scope
    deadline: float | None = None
    turn: float = math.inf


class Env(Mapping[str, str]):
    """
    The environment of a service: key -> value, always of one complete read.

    It comes from `load_env()`. *parameters* maps the same keys to `Parameter`s; *snapshot* is the newest `Snapshot`;
    *shadowed* has the keys that were in the environment before us and were left alone (`override=False`): `env[key]`
    is the store's value all the same.

    In a child process that was forked, and after the event loop that it was loaded on, one with a `ttl` is refused with
    `StaleEnv`, for nothing refreshes it there: load in each worker, and on each loop. One without works on any loop, one
    at a time, and in a child, `refresh()` too.
    """

    def __init__(
        self,
        wanted: Wanted,
        store: ParameterStore,
        *,
        schedule: Schedule,
        ttl: float | None,
        max_stale: float | None,
        environ: MutableMapping[str, str] | None,
        override: bool,
        deadline: float | None,
    ) -> None:
        self._wanted = wanted
        self._store = store
        self._clock = store.clock
        self._ttl = ttl
        self._environ = environ
        self._override = override
        self._deadline = deadline
        self._known = Known(MappingProxyType({}))
        self._snapshot = Snapshot({}, self._clock.wall())
        self._owned: Mapping[str, str] = {}
        self._polls: tuple[Want, ...] = ()
        self._schedule = schedule
        self._watchers = Watchers()
        self._home = Home()
        self._flights: SingleFlight[_Refresh, tuple[Change, ...]] = SingleFlight()
        # The last refresh of each kind that succeeded; how many have sent requests, and when the last one began.
        self._done: dict[Kind | None, _Refresh] = {}
        self._turns = 0
        self._began = -math.inf
        self._reading: asyncio.Task[Any] | None = None
        # The kind of error that ensure_fresh() warned of in this outage.
        self._warned: type[Exception] | None = None
        self._region: str | None = None
        # Full names that keys= asked for and the last read did not find.
        self._missing: tuple[str, ...] = ()
        # What the log has told: ("sets", "AWS_REGION").
        self._told: set[tuple[str, str]] = set()
        self._refresher: asyncio.Task[None] | None = None
        self._sleeper: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = self._released = self._inherited = False
        # One flag for all reasons to refuse a read, so that a read costs no more than a lookup.
        self._guarded = max_stale is not None
        alive[id(self)] = self
        self.shadowed: frozenset[str] = frozenset()

    def __getitem__(self, key: str) -> str:
        if self._guarded:
            self._refuse_stale()
        return self._snapshot._parameters[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot)

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        return f"<Env {self._wanted.where}: {len(self)} keys, read {self._snapshot.taken_at:%Y-%m-%d %H:%M:%S%z}>"

    # Sentry sends the variables of frames, and unfolds mappings in them unless they have this.
    __sentry_repr__ = __repr__

    @property
    def snapshot(self) -> Snapshot:
        """The newest complete read."""
        self._refuse_left()
        return self._snapshot

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The newest complete read as `Parameter`s, by key."""
        return self.snapshot.parameters

    @property
    def status(self) -> Status:
        """How current this is, at the moment of asking."""
        return self._schedule.status(self._now())

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> tuple[Change, ...]:
        """
        Read again now, and return what changed once it is published.

        Without *keys* everything is listed, undecrypted, and what changed is decrypted; so it is with a key that is not
        there, which a listing may find. With up to ten, these are read decrypted in one call; with more, by name.
        *min_gap*: seconds that lie between the beginning of the last refresh and of this one at least; they are waited
        for. What it returns is newer than the call: callers share a refresh that has sent no request yet, and one that is
        under way is followed by one more for all who came since. Raises what the read raises; the last good snapshot
        stays then.
        """
        self._arrive()
        asked = self._turns
        gap = self._began + min_gap - self._clock.now()
        if gap > 0:
            await self._clock.sleep(gap)
            self._refuse_closed()
        # After the wait, in which a key may have gone. A poll puts off nothing, or one that is frequent would for ever.
        scope: _Scope = frozenset(keys) if keys and self._snapshot.parameters.keys() >= set(keys) else "list"
        if any(done.turn > asked and _covers(done.scope, scope) for done in self._done.values()):
            return ()
        return await self._share(scope, asked)

    async def ensure_fresh(self, max_age: float, deadline: float = 5.0) -> tuple[Change, ...]:
        """
        Refresh if the last complete read is *max_age* seconds old or older, and return what changed.

        For runtimes that freeze between two calls, as AWS Lambda does, and where no task can run in the background:
        load without `ttl` when the process starts, and call this when a request begins. It costs nothing while the values
        are young. Without `ttl` and a store of your own that stays open (`async with ParameterStore() as store`), each read
        connects anew. It reads by name, or lists and decrypts all when `relist` and `revalidate` seconds are over
        (`relist` has no default without `ttl`: what was added is not found then); all callers share one read.

        It returns within *deadline* seconds. If the read fails, or takes longer, the last good values stay, `status` and a
        warning in the log say why, and `()` is returned; so it is, at once, until the next try, which backs off as
        refreshes in the background do. Only if the values are older than `max_stale` then it raises `StaleEnv`.

        The age is the larger of the monotonic time elapsed, which may stand still while a process is frozen, and the
        wall-clock time.
        """
        self._refuse_closed()
        if not max_age >= 0:
            raise ValueError(f"max_age is a number of seconds, not {max_age!r}")
        if not deadline > 0:
            raise ValueError(f"deadline is a number of seconds above 0, not {deadline!r}")
        now = self._now()
        if self._schedule.status(now).age < max_age:
            return ()
        self._arrive()
        changes: tuple[Change, ...] = ()
        if not self._schedule.retry_left(now):
            changes = await self._try(self._schedule.kind(now), deadline)
        self._refuse_stale()
        return changes

    def changes(self) -> AsyncIterator[Change]:
        """
        Iterate over every change from now on, until the `Env` is closed.

        A slow reader gets one change for each key, from the oldest state it has not seen to the newest.
        """
        self._refuse_elsewhere()
        return self._watchers.changes()

    def on_change(self, callback: Callback, *keys: str) -> Callable[[], None]:
        """
        Call *callback* with each `Change` of *keys*, of all keys if there are none; returns what ends that.

        A function is called on the loop, after the change is published and before `refresh()` returns; a coroutine
        function runs in a task, one call at a time. What they raise is logged by type and place, and goes no further.
        """
        self._refuse_elsewhere()
        return self._watchers.subscribe(callback, keys)

    async def aclose(self) -> None:
        """
        End the refreshes, the readers of changes and the callbacks; the environment stays as it is. Idempotent.

        A callback that closes it, itself or through a task that it started, goes on; all others are cancelled.
        """
        if self._home.moved(self):
            self._leave_loop()
        first, self._closed = not self._closed, True
        if first:
            self._closing = asyncio.create_task(self._close(), name="aiossmenv close")
        # Who comes second from within a callback is waited for by the closing itself.
        if self._closing and not self._closing.done() and (first or not self._watchers.at_work()):
            # A closer that is cancelled leaves the closing to go on, and to be waited for by the next.
            await asyncio.shield(self._closing)

    def __del__(self) -> None:
        if getattr(self, "_refresher", None) and not self._closed:
            self._warn_unclosed()

    async def _start(self) -> None:
        """Make the first load and, with a TTL, begin to refresh."""
        self._home.moved(self)
        if self._ttl is not None:
            self._store._join()
        try:
            await self._read(_Refresh("revalidate"))
        except BaseException:
            self._closed = True
            await self._release()
            raise
        self._schedule.loaded(now=self._clock.now(), wall=self._snapshot.taken_at)
        if self._ttl is not None:
            self._refresher = asyncio.create_task(self._keep_fresh(), name="aiossmenv refresher")

    async def _share(
        self, scope: _Scope, asked: float = -math.inf, deadline: float | None = None
    ) -> tuple[Change, ...]:
        """Join a refresh that covers *scope* and has a later turn than that of the question, or begin one."""
        mine = _Refresh(scope, deadline)
        joined = (other for other in self._flights if other.turn > asked and _covers(other.scope, scope))
        flight = next(joined, mine)
        return await self._flights.do(flight, lambda: self._refresh(mine))

    async def _try(self, kind: Kind, deadline: float) -> tuple[Change, ...]:
        """Refresh, for at most *deadline* seconds; what fails is left to `status` and the log."""
        trying = asyncio.create_task(self._share(kind, deadline=deadline * _READ_PART), name="aiossmenv ensure_fresh")
        alarm = asyncio.create_task(self._clock.sleep(deadline), name="aiossmenv alarm")
        try:
            await asyncio.wait({trying, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if trying.done():
                return trying.result()
            # It waited for a refresh of others, which has a deadline of its own.
            late = StoreUnavailable(
                f"no refresh ended within {deadline:g} s",
                path=self._wanted.where,
                region=self._region,
                remedy="Check the network and the endpoint, or pass a longer deadline.",
            )
            if not self._schedule.retry_left(self._clock.now()):  # not yet noted by another caller
                self._schedule.failed(late, now=self._clock.now())
            self._fell_short(late)
        except Exception as error:
            self._fell_short(error)
        finally:
            alarm.cancel()
            if not trying.done():
                trying.cancel()
                await asyncio.wait({trying})
        return ()

    def _fell_short(self, error: Exception) -> None:
        """Say that `ensure_fresh()` answers from the last good values; once in an outage, for each kind of error."""
        self._refuse_closed()
        if self._warned is not type(error):
            self._warned = type(error)
            self._warn(error)

    async def _refresh(self, refresh: _Refresh) -> tuple[Change, ...]:
        # One at a time: what reads less never overwrites what reads more.
        # Looked at again after each wait: of several who wait, one goes first, and one may be cancelled.
        while self._reading and not self._reading.done():
            await asyncio.wait({self._reading})
        self._reading = asyncio.current_task()
        try:
            changes = await self._read(refresh)
        except Exception as error:
            fault = error if isinstance(error, AiossmenvError) else AiossmenvError(f"unexpected {type(error).__name__}")
            # What fails for some keys is told to who asked for them, and puts off no refresh of all.
            if not isinstance(refresh.scope, frozenset):
                self._schedule.failed(fault, now=self._clock.now(), kind=refresh.scope)
            raise
        finally:
            self._reading = None
            if self._sleeper:
                self._sleeper.cancel()  # the refresher sleeps until a time that may no longer hold
        scope = refresh.scope
        self._done[None if isinstance(scope, frozenset) else scope] = refresh
        if isinstance(scope, frozenset):
            self._schedule.partly_succeeded(changes=len(changes))
        else:
            self._warned = None
            self._schedule.succeeded(
                scope,
                now=self._clock.now(),
                wall=self._snapshot.taken_at,
                changes=len(changes),
                missed=bool(self._known.missed),
            )
        if changes:
            named = ", ".join(f"{change.key} ({change.kind})" for change in changes[:_NAMED])
            more = len(changes) - _NAMED
            logger.info("changed: %s%s", named, f" and {more} more" if more > 0 else "")
        self._watchers.deliver(changes)
        return changes

    async def _read(self, refresh: _Refresh) -> tuple[Change, ...]:
        """Read what *refresh* covers and publish it."""
        self._began = self._clock.now()
        if isinstance(refresh.scope, frozenset) and not self._snapshot.parameters.keys() >= refresh.scope:
            refresh.scope = "list"  # one of the keys went while this waited for another refresh
        known = self._known
        self._store._join()
        self._store._denials.age(self._schedule.newly_slept())
        try:
            scan = await self._off_loop(len(known.parameters), self._scan, refresh, known)
            try:
                self._turns += 1
                refresh.turn = self._turns
                await self._store._drive(scan)
            finally:
                self._schedule.count(requests=scan.requests, throttled=scan.throttled, decrypted=scan.decrypted)
            self._region = self._store.region
        finally:
            await self._store._leave()
        # After the store is closed, if it is: nothing is awaited behind the publication, so a read that is cancelled
        # has published nothing.
        complete = not isinstance(refresh.scope, frozenset)
        try:
            prepared = await self._off_loop(len(scan.found), self._prepare, known, scan, complete)
        except EmptyPath as error:
            if not known.parameters and self._wanted.names is None:
                await self._explain(error)
            raise
        return await self._publish(prepared)

    async def _explain(self, error: EmptyPath) -> None:
        """Say so in *error* if its path is the name of a parameter; a request that fails or takes too long says nothing."""
        name = error.path or "/"
        seconds = self._began + (self._deadline or self._store._deadline) - self._clock.now()
        if name == "/" or seconds <= 0:
            return
        self._store._join()
        try:
            # Not by a Scan, which would try again, and remember a denial.
            call = asyncio.create_task(self._store._open().call(ByName((name,), decrypt=False)), name="aiossmenv name")
            alarm = asyncio.create_task(self._clock.sleep(seconds), name="aiossmenv alarm")
            try:
                await asyncio.wait({call, alarm}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                alarm.cancel()
                call.cancel()
                answer, _ = await asyncio.gather(call, alarm, return_exceptions=True)
        finally:
            await self._store._leave()
        if isinstance(answer, Page) and answer.items:
            parent, _, last = name.rpartition("/")
            error.args = ("this is the name of a parameter, and no parameter is under it",)
            error.remedy = (
                f"Name its parent path, load_env('{parent or '/'}'), or read only this one with"
                f" load_env('{parent or '/'}', keys=['{last}'])."
            )

    def _scan(self, refresh: _Refresh, known: Known) -> Scan:
        """Return the scan that reads what *refresh* covers; changes nothing, and waits for nothing."""
        wants, groups, few, wanted = self._wanted.wants, self._groups(), False, refresh.scope
        limits = [seconds for seconds in (refresh.deadline, self._deadline) if seconds is not None]
        until_listing = self._schedule.until_listing(self._clock.now())
        if isinstance(wanted, frozenset):
            keys, few = self._with_their_groups(wanted), len(wanted) <= BATCH
            parameters = self._snapshot.parameters
            wants = self._wanted.some(asked_name(parameters[key]) for key in sorted(keys))
            # What is read in one call is read together.
            groups = [] if few and len(wants) == 1 else groups
        elif wanted == "poll":
            wants = self._polls
        return self._store._scan_for(
            wants,
            deadline=min(limits, default=None),
            known=known,
            decrypt="all" if few or wanted == "revalidate" else "changed",
            groups=groups,
            denied_for=DENIED_FOR if until_listing is None else until_listing,
        )

    def _with_their_groups(self, wanted: frozenset[str]) -> frozenset[str]:
        """Add what somebody follows together with *wanted*, as far as one call can hold it."""
        groups = [group & self._snapshot.parameters.keys() for group in self._watchers.groups() if group & wanted]
        together = wanted.union(*groups)
        return together if len(together) <= BATCH else wanted

    def _groups(self) -> list[frozenset[str]]:
        """Return the names of keys that somebody follows together, for each who does."""
        parameters = self._snapshot.parameters
        return [
            frozenset(asked_name(parameters[key]) for key in keys if key in parameters)
            for keys in self._watchers.groups()
        ]

    def _prepare(self, known: Known, scan: Scan, complete: bool) -> Prepared:
        """Work out what a read leads to; changes nothing, and waits for nothing."""
        now_known = known.merge(scan.found, scan.digests, complete=complete)
        # After a read of some keys the others are as old as they were.
        taken_at = self._clock.wall() if complete else self._snapshot.taken_at
        unchanged = known.parameters and (now_known.parameters, now_known.missed) == (known.parameters, known.missed)
        if unchanged and not self.shadowed:
            return Prepared(now_known, self._polls, self._snapshot._retaken(taken_at), (), None, self._missing)
        parameters = self._wanted.arrange(now_known, self._region)
        snapshot = Snapshot(parameters, taken_at)
        edit = None
        if self._environ is not None:
            encoding = sys.getfilesystemencoding() if self._environ is os.environ else "utf-8"
            check(parameters, self._snapshot.parameters, protected=self._wanted.protected, encoding=encoding)
            edit = plan(snapshot, self._owned, self._environ, override=self._override)
        changes = diff(self._snapshot, snapshot)
        return Prepared(
            now_known,
            self._wanted.polls(now_known),
            snapshot,
            changes,
            edit,
            missing=self._wanted.missing(now_known),
            read_by_sdk=read_by_sdk(edit) if edit and self._environ is os.environ else {},
        )

    async def _publish(self, prepared: Prepared) -> tuple[Change, ...]:
        """Make it the current snapshot, here and in the environment; all of it or nothing."""
        if self._environ is not None and prepared.edit:
            fault = await self._apply(prepared.edit)
            if fault:
                raise InvalidVariable(fault, path=self._wanted.where, remedy="Nothing was set.")
            self._owned, self.shadowed = prepared.edit.owned, prepared.edit.shadowed
            self._tell_sdk_variables(prepared.read_by_sdk)
        self._known, self._polls, self._snapshot = prepared.known, prepared.polls, prepared.snapshot
        if prepared.missing and prepared.missing != self._missing:
            level = logging.INFO if self._wanted.optional else logging.WARNING
            logger.log(level, "not in Parameter Store: %s", ", ".join(prepared.missing))
        self._missing = prepared.missing
        return prepared.changes

    def _tell_sdk_variables(self, variables: Mapping[str, tuple[str, ...]]) -> None:
        for verb, names in variables.items():
            if not self._told.issuperset((verb, name) for name in names):
                self._told.update((verb, name) for name in names)
                logger.warning(
                    "%s %s variables that AWS SDKs read: %s; new clients and child processes of this process heed them,"
                    " this Env does not",
                    self._wanted.where,
                    verb,
                    ", ".join(names),
                )

    async def _apply(self, edit: Edit) -> str | None:
        assert self._environ is not None
        slices = apply(edit, self._environ)
        try:
            while True:
                next(slices)
                await asyncio.sleep(0)
        except StopIteration as end:
            fault: str | None = end.value
            return fault
        finally:
            slices.close()

    @staticmethod
    async def _off_loop(size: int, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Do *work* on so many parameters, in a thread if that would hold the loop for long."""
        if size <= _AT_ONCE:
            return work(*arguments, **options)
        return await asyncio.to_thread(work, *arguments, **options)

    async def _keep_fresh(self) -> None:
        try:
            while True:
                while (seconds := self._schedule.seconds_left(self._clock.now())) > 0:
                    self._sleeper = asyncio.create_task(self._clock.sleep(seconds), name="aiossmenv sleep")
                    await asyncio.wait({self._sleeper})
                try:
                    await self._share(self._schedule.kind(self._now()))
                except Exception as error:
                    self._warn(error)
        except asyncio.CancelledError:
            # Not raised: its traceback would keep this Env from being reported when the last reference to it goes.
            if not self._closed:
                # Cancelled from outside: the loop is going down. A block around this Env may still be about to close it.
                self._guarded = True
                await self._release()
        finally:
            if self._sleeper:
                self._sleeper.cancel()

    def _warn(self, error: Exception) -> None:
        status = self.status
        logger.warning(
            "refresh of %s failed, %d in a row; the values of %.0f s ago stay, next try in %.1f s: %s: %s",
            self._wanted.where,
            status.failures,
            status.age,
            status.next_refresh or 0.0,
            type(error).__name__,
            error if isinstance(error, AiossmenvError) else "",
        )

    async def _close(self) -> None:
        try:
            if self._refresher:
                self._refresher.cancel()
                await asyncio.gather(self._refresher, return_exceptions=True)
        finally:
            await self._release()

    async def _release(self) -> None:
        self._schedule.stop()
        released, self._released = self._released, True
        if released:
            return
        try:
            await self._flights.aclose()
            await self._watchers.aclose()
        finally:
            if self._ttl is not None:
                await self._store._leave()

    def _now(self) -> float:
        now = self._clock.now()
        self._schedule.woke(now=now, wall=self._clock.wall())
        return now

    def _forked(self) -> None:
        # What runs in the parent never ends here, and closing it would disturb the parent.
        self._home = Home()
        self._forget_tasks()
        if self._ttl is not None and not self._closed:
            self._closed = self._inherited = self._guarded = True
            self._schedule.stop()

    def _forget_tasks(self) -> None:
        self._flights, self._reading, self._closing = SingleFlight(), None, None
        self._watchers.moved()

    def _leave_loop(self) -> None:
        """Begin anew on the running loop: nothing that was begun on another one can be waited for here."""
        self._forget_tasks()
        refresher, self._refresher = self._refresher, None
        if refresher and not refresher.get_loop().is_closed():
            refresher.cancel()

    def _arrive(self) -> None:
        """Refuse what cannot be refreshed any more, or not here; else make the running loop the home."""
        self._refuse_closed()
        if self._home.moved(self):
            self._leave_loop()

    def _refuse_closed(self) -> None:
        self._refuse_left()
        if self._closed:
            raise RuntimeError("this Env is closed")

    def _refuse_elsewhere(self) -> None:
        self._refuse_left()
        self._home.refuse_other_thread(self)

    def _refuse_left(self) -> None:
        """Raise `StaleEnv` where nothing refreshes this any more."""
        if self._inherited:
            self._refuse(
                "was made before a fork, and nothing refreshes it in this process",
                "Load in each worker: in the app's lifespan, gunicorn's post_fork, or the process's own function.",
            )
        if self._refresher and not self._closed:
            home = self._home.loop
            ended = self._refresher.done() or not home or home.is_closed() or self._home.is_elsewhere()
            if ended and not (home and home.is_running()):
                self._refuse(
                    "was loaded on another event loop, which does not run any more, and nothing refreshes it",
                    "Load within each asyncio.run(), or without ttl and call ensure_fresh().",
                )

    def _refuse(self, text: str, remedy: str) -> None:
        raise StaleEnv(f"this Env {text}", path=self._wanted.where, region=self._region, remedy=remedy)

    def _refuse_stale(self) -> None:
        self._refuse_left()
        if self._schedule.too_stale(self._now()):
            error = self.status.last_error
            raise StaleEnv(
                f"the values are {self.status.age:.0f} s old",
                transient=True,
                path=self._wanted.where,
                region=self._region,
                remedy=f"The last refresh failed: {error}" if error else "Refresh, or pass a ttl below max_stale.",
            )

    def _warn_unclosed(self) -> None:
        warnings.warn(f"unclosed {self!r}: call aclose() or use async with", ResourceWarning, source=self, stacklevel=2)


Env.__module__ = "aiossmenv"
