"""
What an `Env` has read, and what of it is in the environment.

What changes it is one assignment, the last in `_publish()`: readers see one complete snapshot or the next. All before
it may fail or be cancelled, and has then changed nothing.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from aiossmenv._environ import Edit, apply_edit, check_variables, plan_edit, read_by_sdk
from aiossmenv._errors import EmptyPath, InvalidVariable
from aiossmenv._events import Events
from aiossmenv._expand import Expansion, Format
from aiossmenv._models import Change, Snapshot, asked_name, diff
from aiossmenv._refresher import Refresh, Refreshed
from aiossmenv._spec import EnvSpec
from aiossmenv._ssm.merge import Results, StoreState
from aiossmenv._ssm.permissions import DENIED_FOR
from aiossmenv._ssm.store import ParameterStore
from aiossmenv._ssm.transport import BATCH, Query

logger = logging.getLogger("aiossmenv")

P = ParamSpec("P")
R = TypeVar("R")

# So many changes are named in a line of the log.
_NAMED = 20

# So many parameters take about 2 ms to publish; more are worked out in a thread.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What a read leads to, before anything is changed."""

    state: StoreState
    polls: tuple[Query, ...]
    snapshot: Snapshot
    changes: tuple[Change, ...] = ()
    edit: Edit | None = field(default=None, repr=False)
    expansions: Mapping[tuple[str, Format], Expansion]
    # Full names that keys= names, and names in expand=, that are not there.
    absent_names: tuple[str, ...] = ()
    # Variables that the SDK reads too, and that the edit `sets` or `unsets`.
    read_by_sdk: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Publisher:
    """
    Reads what *spec* says from *store*, and publishes it; the `Source` of a `Refresher`.

    *environ*: the mapping to fill, `None` for none. *override*: whether a variable that was there before is replaced.
    *deadline*: seconds for each read, `None` for those of the store. *holds_store*: whether the store stays open
    between two reads.
    """

    def __init__(
        self,
        spec: EnvSpec,
        store: ParameterStore,
        *,
        environ: MutableMapping[str, str] | None,
        override: bool,
        deadline: float | None,
        holds_store: bool,
    ) -> None:
        self.spec = spec
        self.snapshot = Snapshot({}, store.clock.wall())
        self.shadowed: frozenset[str] = frozenset()
        self.groups: list[frozenset[str]] = []
        self.events = Events()
        self.region: str | None = None
        self._store = store
        self._clock = store.clock
        self._environ = environ
        self._override = override
        self._deadline = deadline
        self._holds_store = holds_store
        self._state = StoreState()
        self._owned: Mapping[str, str] = {}
        self._polls: tuple[Query, ...] = ()
        self._absent_names: tuple[str, ...] = ()
        self._expansions: Mapping[tuple[str, Format], Expansion] = {}
        # What the log has said of variables that the SDK reads: ("sets", "AWS_REGION").
        self._logged: set[tuple[str, str]] = set()
        if holds_store:
            store._retain()

    def __repr__(self) -> str:
        read = f"{self.snapshot.taken_at:%Y-%m-%d %H:%M:%S%z}"
        return f"<Env {self.where}: {len(self.snapshot)} keys, read {read}>"

    @property
    def where(self) -> str:
        """The paths, for a text."""
        return self.spec.where

    def has(self, keys: frozenset[str]) -> bool:
        """Return whether all *keys* are there."""
        return self.snapshot.parameters.keys() >= keys

    def deliver(self, changes: tuple[Change, ...]) -> None:
        """Log *changes*, and tell the readers of changes."""
        if changes:
            named = ", ".join(f"{change.key} ({change.kind})" for change in changes[:_NAMED])
            more = len(changes) - _NAMED
            logger.info("changed: %s%s", named, f" and {more} more" if more > 0 else "")
        self.events.deliver(changes)

    def forget_callbacks(self) -> None:
        """Forget callbacks under way, which are of the parent process or of another event loop."""
        self.events.forget_callbacks()

    async def release(self) -> None:
        """Release the store, and end the readers of changes."""
        try:
            await self.events.aclose()
        finally:
            if self._holds_store:
                await self._store._release()

    async def read(self, refresh: Refresh) -> Refreshed:
        """Read what *refresh* covers, and publish it."""
        state, began = self._state, self._clock.now()
        self._store._retain()
        self._store._account_for_suspend(refresh.suspended)
        try:
            queries, groups, decrypt = await self._off_loop(len(state.parameters), self._plan_read, refresh)
            limits = [seconds for seconds in (refresh.deadline, self._deadline) if seconds is not None]
            refresh.sending()
            results = await self._store._read(
                queries,
                state,
                decrypt="all" if decrypt else "changed",
                groups=groups,
                deadline=min(limits, default=None),
                denied_for=DENIED_FOR if refresh.until_listing is None else refresh.until_listing,
                stats=refresh.stats,
            )
            self.region = self._store.region
        finally:
            await self._store._release()
        # After the store is closed, if it is: nothing is awaited behind the publication, so a read that is cancelled
        # has published nothing.
        complete = not isinstance(refresh.scope, frozenset)
        try:
            prepared = await self._off_loop(self._work_in(results), self._prepare, results, complete)
        except EmptyPath as error:
            if not state.parameters and self.spec.names is None:
                await self._explain(error, began)
            raise
        await self._publish(prepared)
        return Refreshed(prepared.changes, prepared.snapshot.taken_at, any_missing=bool(self._state.missing_once))

    def _plan_read(self, refresh: Refresh) -> tuple[tuple[Query, ...], list[frozenset[str]], bool]:
        """Return how to read what *refresh* covers: queries, names that belong together, and whether to decrypt all."""
        scope, parameters = refresh.scope, self.snapshot.parameters
        groups = [frozenset(asked_name(parameters[key]) for key in keys if key in parameters) for keys in self.groups]
        if scope == "poll":
            return self._polls, groups, False
        if not isinstance(scope, frozenset):
            return self.spec.queries, groups, scope == "revalidate"
        # Several keys may be of one parameter.
        names = {asked_name(parameters[key]) for key in scope}
        few = len(names) <= BATCH
        together = names.union(*(group for group in groups if group & names))
        queries = self.spec.some(sorted(together if len(together) <= BATCH else names))
        # What is read in one call is read together.
        return queries, [] if few and len(queries) == 1 else groups, few

    def _work_in(self, results: Results) -> int:
        """Return how long it takes to prepare *results*, counted in parameters that are not expanded."""
        count = len(results.parameters)
        if self.spec.expand is None or count > _AT_ONCE:
            return count
        # To publish a parameter takes 4 us. To expand one character takes 1 us as JSON and 5 us as dotenv.
        known = self._state.parameters
        return count + sum(len(found.value) for name, found in results.parameters.items() if known.get(name) != found)

    def _prepare(self, results: Results, complete: bool) -> _Prepared:
        """Work out what a read leads to; changes nothing, and waits for nothing."""
        state = self._state.merge(results, complete=complete)
        # After a read of some keys the others are as old as they were.
        taken_at = self._clock.wall() if complete else self.snapshot.taken_at
        before = self._state
        same = (state.parameters, state.missing_once) == (before.parameters, before.missing_once)
        if before.parameters and same and not self.shadowed:
            snapshot = self.snapshot._retaken(taken_at)
            return _Prepared(
                state=state,
                polls=self._polls,
                snapshot=snapshot,
                expansions=self._expansions,
                absent_names=self._absent_names,
            )
        arranged = self.spec.arrange(state, self.region, self._expansions)
        parameters = arranged.parameters
        snapshot = Snapshot(parameters, taken_at)
        edit = None
        if self._environ is not None:
            encoding = sys.getfilesystemencoding() if self._environ is os.environ else "utf-8"
            check_variables(parameters, self.snapshot.parameters, protected=self.spec.protected, encoding=encoding)
            edit = plan_edit(snapshot, self._owned, self._environ, override=self._override)
        return _Prepared(
            state=state,
            polls=self.spec.polls(state),
            snapshot=snapshot,
            changes=diff(self.snapshot, snapshot),
            edit=edit,
            expansions=arranged.expansions,
            absent_names=self.spec.missing(state) + arranged.not_there,
            read_by_sdk=read_by_sdk(edit) if edit and self._environ is os.environ else {},
        )

    async def _publish(self, prepared: _Prepared) -> None:
        """Make it the current snapshot, here and in the environment; all of it or nothing."""
        if self._environ is not None and prepared.edit:
            fault = await _apply(prepared.edit, self._environ)
            if fault:
                raise InvalidVariable(fault, path=self.where, remedy="Nothing was set.")
            self._owned, self.shadowed = prepared.edit.owned, prepared.edit.shadowed
            self._log_sdk_variables(prepared.read_by_sdk)
        self._state, self._polls, self.snapshot = prepared.state, prepared.polls, prepared.snapshot
        self._expansions = prepared.expansions
        if prepared.absent_names and prepared.absent_names != self._absent_names:
            level = logging.INFO if self.spec.optional else logging.WARNING
            logger.log(level, "not in Parameter Store: %s", ", ".join(prepared.absent_names))
        self._absent_names = prepared.absent_names

    def _log_sdk_variables(self, variables: Mapping[str, tuple[str, ...]]) -> None:
        for verb, names in variables.items():
            if not self._logged.issuperset((verb, name) for name in names):
                self._logged.update((verb, name) for name in names)
                logger.warning(
                    "%s %s variables that AWS SDKs read: %s; new clients and child processes of this process heed them,"
                    " this Env does not",
                    self.where,
                    verb,
                    ", ".join(names),
                )

    async def _explain(self, error: EmptyPath, began: float) -> None:
        """Say so in *error* if its path is the name of a parameter."""
        name = error.path or "/"
        seconds = began + (self._deadline or self._store._deadline) - self._clock.now()
        if name == "/" or seconds <= 0:
            return
        self._store._retain()
        try:
            is_parameter = await self._store._is_parameter(name, within=seconds)
        finally:
            await self._store._release()
        if is_parameter:
            parent, _, last = name.rpartition("/")
            error.args = ("this is the name of a parameter, and no parameter is under it",)
            error.remedy = (
                f"Name its parent path, load_env('{parent or '/'}'), or read only this one with"
                f" load_env('{parent or '/'}', keys=['{last}'])."
            )

    @staticmethod
    async def _off_loop(size: int, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Do *work* on so many parameters, in a thread if that would hold the loop for long."""
        if size <= _AT_ONCE:
            return work(*arguments, **options)
        return await asyncio.to_thread(work, *arguments, **options)


async def _apply(edit: Edit, environ: MutableMapping[str, str]) -> str | None:
    """Carry out *edit* in slices, between which other tasks run; return what was wrong."""
    slices = apply_edit(edit, environ)
    try:
        while True:
            next(slices)
            await asyncio.sleep(0)
    except StopIteration as end:
        fault: str | None = end.value
        return fault
    finally:
        slices.close()
