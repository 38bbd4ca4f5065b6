"""
One complete read of Parameter Store, as coroutines.

A read fetches first: it lists paths, and reads names in batches of ten. What is fetched without decryption is compared
with what is known. Then it decrypts: only what is new or differs is read once more, in plaintext, and with it the rest
of its group. Where the role may not read ten names at once, it reads them one by one, or lists their path.

Each coroutine returns when its part of the results is in. The first error that no retry and no other way can mend ends
the read.
"""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from aiossmenv._concurrency import Clock, cancel_and_wait, for_each, wait_for
from aiossmenv._errors import (
    AiossmenvError,
    DecryptionFailed,
    InvalidPath,
    ParameterNotFound,
    StoreUnavailable,
)
from aiossmenv._naming import is_reference, split_selector
from aiossmenv._ssm.limiter import AdaptiveRateLimiter
from aiossmenv._ssm.merge import ResultMerger, Results, StoreState
from aiossmenv._ssm.permissions import DENIED_FOR, PermissionCache, is_denial
from aiossmenv._ssm.sender import BACKOFF, ReadStats, Sender
from aiossmenv._ssm.service_errors import RETRY_REMEDY, InvalidNextToken
from aiossmenv._ssm.transport import (
    BATCH,
    FetchedParameter,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    Query,
    ReadRequest,
    Transport,
    answers,
    batches,
)

logger = logging.getLogger("aiossmenv")


class Reader(Sender):
    """
    Reads through one transport, on one event loop.

    *connect* returns the transport. *permissions* is shared by all readers of a store. *max_in_flight*: requests at
    once, at most. *random* gives numbers from 0 to 1.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Transport]],
        *,
        permissions: PermissionCache,
        max_in_flight: int,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        super().__init__(connect, limiter=AdaptiveRateLimiter(max_in_flight), clock=clock, random=random)
        self.permissions = permissions
        self.max_in_flight = max_in_flight
        self._trial_locks: dict[type[ReadRequest], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(
        self,
        queries: Iterable[Query],
        known: StoreState,
        *,
        deadline: float,
        decrypt: Literal["all", "changed", "none"] = "all",
        groups: Iterable[frozenset[str]] = (),
        denied_for: float = DENIED_FOR,
        stats: ReadStats | None = None,
        errors: dict[str, AiossmenvError] | None = None,
    ) -> Results:
        """
        Return one complete read of *queries*, or raise the error that ended it.

        *known*: what was read before. *deadline*: seconds, retries and all. *decrypt*: all in the first fetch, or only
        what `changed`, or none: then the results hold what is encrypted. *groups*: names that are decrypted together.
        *denied_for*: seconds for which a denial holds that is met here. *stats*: counts what the read costs, also if it
        fails. *errors*: if given, an error that concerns some names is put there, by name, and the others are read on.
        """
        stats = stats or ReadStats()
        now = self.clock.now()
        self.permissions.expire(now)
        read = _Read(
            self,
            known,
            decrypt=decrypt,
            groups=groups,
            deadline=now + deadline,
            denied_for=denied_for,
            stats=stats,
            errors=errors,
        )
        failure: AiossmenvError | None = None
        reading = asyncio.create_task(read.run(queries), name="aiossmenv read")
        try:
            if await wait_for(reading, self.clock, deadline):
                try:
                    return reading.result()
                except AiossmenvError as error:
                    failure = error
            else:
                failure = read.late_error(getattr(self._transport, "waiting_for", ""))
                if failure is None:
                    return Results(read.results.parameters, read.results.digests)
        finally:
            await cancel_and_wait(reading)
            read.end()
            for is_back, denial in self.permissions.report():
                if is_back:
                    logger.info("the role has %s again, and reads use it", getattr(denial, "action", None))
                else:
                    logger.info("the role lacks a right that makes reads faster; it is tried again later: %s", denial)
        # Without its traceback, whose frames hold what was fetched.
        raise failure.with_traceback(None)

    async def send_once(self, request: ReadRequest, stats: ReadStats) -> Page | AiossmenvError:
        """Send one request, once, as soon as the rate limit allows; return its page, or what is wrong."""
        return await self.send(request, Page, stats)

    def trial_lock(self, operation: type[ReadRequest]) -> asyncio.Lock:
        """Return what a request holds while it tries an *operation* again that was denied before."""
        return self._trial_locks[operation]


@dataclass(eq=False, slots=True)
class _Attempts:
    """What became of one request so far: *failures* in a row, and the *last_error*."""

    names: tuple[str, ...] = ()
    path: str | None = None
    failures: int = 0
    last_error: AiossmenvError | None = None


@dataclass(eq=False, slots=True)
class _SharedListing:
    """A listing of one path for several names; *names* are wanted so far."""

    lock: asyncio.Lock
    names: set[str]
    results: Results | None = None


class _Read:
    """The state of one read, and its coroutines."""

    def __init__(
        self,
        reader: Reader,
        known: StoreState,
        *,
        decrypt: Literal["all", "changed", "none"],
        groups: Iterable[frozenset[str]],
        deadline: float,
        denied_for: float,
        stats: ReadStats,
        errors: dict[str, AiossmenvError] | None,
    ) -> None:
        self._reader = reader
        self._permissions = reader.permissions
        self._clock = reader.clock
        self._decrypt = decrypt
        self._groups = groups
        self._deadline = deadline
        self._denied_for = denied_for
        self._stats = stats
        self._errors = errors
        self._merger = ResultMerger(known, decrypt_all=decrypt == "all")
        # Whether the first fetch is done, and what differs is being decrypted.
        self._decrypting = False
        self._query_of: dict[str, Query] = {}
        # Names that are still to be asked for. Their requests are made as they are sent: all at once would hold the
        # loop.
        self._batches: Iterator[tuple[Query, tuple[str, ...]]] = iter(())
        self._shared: dict[tuple[int, bool], _SharedListing] = {}
        self._attempts: dict[_Attempts, None] = {}
        # Denials that this read met, and the operations among them that no other operation has made up for yet.
        self._met: set[AiossmenvError] = set()
        self._unconfirmed: set[type[ReadRequest]] = set()

    @property
    def results(self) -> Results:
        """What was fetched so far."""
        return self._merger.results

    @property
    def _with_decryption(self) -> bool:
        return self._decrypt == "all" or self._decrypting

    async def run(self, queries: Iterable[Query]) -> Results:
        """Fetch, then decrypt what is new or differs."""
        jobs: list[Callable[[], Awaitable[None]]] = []
        named: list[tuple[Query, list[str]]] = []
        for query in queries:
            if query.names is None:
                jobs.append(partial(self._list, query))
                continue
            natives: list[str] = []
            for name in dict.fromkeys(query.names):
                self._query_of.setdefault(name, query)
                if is_reference(name):
                    # Parameter Store gives a secret decrypted only.
                    jobs.append(partial(self._read_one, query, name, with_decryption=True))
                else:
                    natives.append(name)
            named.append((query, natives))
        self._batches = ((query, batch) for query, natives in named for batch in batches(natives))
        await self._do_all(jobs)
        if self._decrypt == "none":
            return self.results
        self._decrypting = True
        self._batches = self._pack()
        await self._do_all(())
        return Results(self.results.parameters, self.results.digests)

    def end(self) -> None:
        """Let go of what the read taught on permissions, if nothing confirms it."""
        # Where nothing went well everything is denied: the credentials are broken, or the role has no policy yet.
        self._permissions.doubt(self._unconfirmed)
        self._stats.decrypted += self._merger.decrypted

    def late_error(self, waiting_for: str) -> AiossmenvError | None:
        """Return the error for a read that its deadline cuts off, or `None` if `errors` says it of each name."""
        # First those that know why. *waiting_for*: what requests wait for that are not sent yet.
        late = sorted(self._attempts, key=lambda attempts: attempts.last_error is None)
        late += [_Attempts(names) for _, names in self._batches]
        causes = [(attempts, attempts.last_error or _unanswered(attempts, waiting_for)) for attempts in late]
        if self._errors is None:
            return causes[0][1] if causes else _unanswered(_Attempts(), waiting_for)
        for attempts, error in causes:
            self._errors |= dict.fromkeys(attempts.names, error)
        return None

    async def _do_all(self, jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
        if self._permissions.denial(GetParameters):
            self._batches = iter(self._whole())
        each: Iterator[Callable[[], Awaitable[None]]]
        each = (partial(self._read_batch, query, names) for query, names in self._batches)
        await for_each(itertools.chain(jobs, each), lambda job: job(), at_once=self._reader.max_in_flight)

    def _whole(self, *first: tuple[Query, tuple[str, ...]]) -> list[tuple[Query, tuple[str, ...]]]:
        """Return *first* and all batches that are left as one for each query: many names are better listed."""
        left: dict[int, tuple[Query, list[str]]] = {}
        for query, names in (*first, *self._batches):
            left.setdefault(id(query), (query, []))[1].extend(names)
        return [(query, tuple(names)) for query, names in left.values()]

    def _pack(self) -> Iterator[tuple[Query, tuple[str, ...]]]:
        """Yield the names to decrypt in batches, by query, without breaking a group that fits into one."""
        groups = self._merger.changed_groups(self._groups)
        grouped = {name for group in groups for name in group}
        singles = [(name,) for name in sorted(self.results.encrypted.keys() - grouped)]
        filling: dict[int, tuple[Query, list[str]]] = {}
        for group in (*groups, *singles):
            natives = [name for name in group if not is_reference(name)]
            query = self._query_of[group[0]]
            _, filled = filling.setdefault(id(query), (query, []))
            if filled and len(filled) + len(natives) > BATCH:
                yield from ((query, batch) for batch in batches(filled))
                filled.clear()
            filled += natives
        # A group may be larger than a batch, and hold two spellings of one parameter.
        yield from ((query, batch) for query, filled in filling.values() for batch in batches(filled))

    # By path.

    async def _list(self, query: Query) -> None:
        results = await self._walk(query, None, with_decryption=self._with_decryption)
        self._query_of.update(dict.fromkeys(results.names(), query))
        self.results.update(results)

    async def _list_for(self, query: Query, names: Iterable[str], *, with_decryption: bool) -> None:
        """Find *names* by listing their path, once for all callers."""
        bases = {split_selector(name)[0] for name in names}
        shared = self._shared.setdefault((id(query), self._decrypting), _SharedListing(asyncio.Lock(), set()))
        shared.names |= bases
        async with shared.lock:
            if shared.results is None:
                shared.results = await self._walk(query, shared.names, with_decryption=with_decryption)
        self.results.update(shared.results.only(bases))

    async def _walk(self, query: Query, only: set[str] | None, *, with_decryption: bool) -> Results:
        """Follow a listing to its last page; *only*: the names that count, `None` for all."""
        first = GetParametersByPath(query.path, query.recursive, with_decryption)
        restarts = _Attempts(path=query.path)
        while True:
            results = await self._walk_once(query, first, only, restarts.failures)
            if isinstance(results, Results):
                return results
            if isinstance(results, DecryptionFailed):
                # One parameter fails its whole page, and the answer does not say which. Read by name, it does.
                first = replace(first, with_decryption=False)
            else:
                # Its own count of failures, which a good first page does not reset: all callers share one quota.
                await self._back_off_or_raise(restarts, results)

    async def _walk_once(
        self, query: Query, first: GetParametersByPath, only: set[str] | None, restarts: int
    ) -> Results | AiossmenvError:
        """Return what all pages gave, or why the listing has to begin again."""
        text = "Parameter Store did not continue a listing that it had begun"
        begin_again = StoreUnavailable(text, path=query.path, remedy=RETRY_REMEDY)
        results, lags, tokens, request = Results(), False, set[str](), first
        while True:
            attempts = _Attempts(path=query.path, failures=restarts if request is first else 0)
            page = await self._send_until_answered(query, request, attempts)
            if isinstance(page, AiossmenvError):
                return page if isinstance(page, DecryptionFailed) else begin_again
            for item in page.parameters:
                accepted = self._merger.accept(item.name, item, results)
                lags |= not accepted and (only is None or item.name in only)
            if page.next_token is None:
                return begin_again if lags else results
            if page.next_token in tokens:
                # A listing that goes in circles would never end, and one that is cut short would be a smaller set.
                return begin_again
            tokens.add(page.next_token)
            request = replace(first, next_token=page.next_token)

    # By name.

    async def _read_batch(self, query: Query, names: tuple[str, ...]) -> None:
        if GetParameters in self._permissions.doubted:
            # One batch tries it, to its end, so that a denial that lasts costs one request.
            async with self._reader.trial_lock(GetParameters):
                if GetParameters in self._permissions.doubted:
                    await self._read_ten(query, names, with_decryption=self._with_decryption)
                    return
        denial = self._permissions.denial(GetParameters)
        if not denial:
            await self._read_ten(query, names, with_decryption=self._with_decryption)
            return
        for of, all_names in self._whole((query, names)):
            await self._read_otherwise(of, all_names, denial, with_decryption=self._with_decryption)

    async def _read_ten(self, query: Query, names: Iterable[str], *, with_decryption: bool) -> None:
        """Read up to ten names with one request, or in another way where that fails for a reason of their own."""
        # What is asked for, and the name that it is for: in one case a version's number stands in for the name.
        asked = {name: name for name in names}
        attempts = _Attempts(tuple(asked))
        try:
            while asked:
                page = await self._send_until_answered(query, GetParameters(tuple(asked), with_decryption), attempts)
                if isinstance(page, AiossmenvError):
                    await self._read_otherwise(query, asked.values(), page, with_decryption=with_decryption)
                    return
                asked, error = self._take(page, asked)
                if error:
                    with_decryption |= any(number != name for number, name in asked.items())
                    await self._back_off_or_raise(attempts, error)
        except AiossmenvError as error:
            self._fail(asked.values(), error)

    async def _read_one(
        self, query: Query, name: str, because: AiossmenvError | None = None, *, with_decryption: bool | None = None
    ) -> None:
        """Read one name; *because*: why it is not read together with others."""
        decrypt = self._with_decryption if with_decryption is None else with_decryption
        asked, attempts = {name: name}, _Attempts((name,))
        try:
            while asked:
                (number,) = asked
                page = await self._send_until_answered(query, GetParameter(number, decrypt or number != name), attempts)
                if isinstance(page, ParameterNotFound):
                    if number == name:
                        return
                    await self._back_off_or_raise(attempts, _late(asked))
                elif isinstance(page, AiossmenvError):
                    await self._replace_denied(query, name, page, because, with_decryption=decrypt)
                    return
                else:
                    asked, error = self._take(page, asked)
                    if error:
                        await self._back_off_or_raise(attempts, error)
        except AiossmenvError as error:
            self._fail([name], error)

    def _fail(self, names: Iterable[str], error: AiossmenvError) -> None:
        """Note that *names* cannot be read, or raise if that ends the read."""
        if self._errors is None:
            raise error
        self._errors |= dict.fromkeys(names, error)

    async def _replace_denied(
        self, query: Query, name: str, denial: AiossmenvError, because: AiossmenvError | None, *, with_decryption: bool
    ) -> None:
        """Read a name that the role may not read by itself."""
        if query.may_list and not is_reference(name):
            await self._list_for(query, [name], with_decryption=with_decryption)
        elif because is None:
            raise denial
        elif because in self._met:
            # What the request for ten said was the matter.
            raise because
        else:
            # That was about other names, or some time ago, and leaves no way for this one.
            if self._permissions.denial(GetParameters) is because:
                self._permissions.forget(GetParameters)
            await self._read_ten(query, [name], with_decryption=with_decryption)

    async def _read_otherwise(
        self, query: Query, names: Iterable[str], because: AiossmenvError, *, with_decryption: bool
    ) -> None:
        """Read what cannot be read ten at a time, for the reason *because*."""
        by_query: dict[int, tuple[Query, list[str]]] = {}
        for name in names:
            # A group may have names of several paths.
            own = self._query_of.get(name, query)
            by_query.setdefault(id(own), (own, []))[1].append(name)
        for own, some in by_query.values():
            if _is_listed(own, some, because, self._permissions, with_decryption=with_decryption):
                await self._list_for(own, some, with_decryption=with_decryption)
                continue
            read_one = partial(self._read_one, own, because=because, with_decryption=with_decryption)
            await for_each(some, read_one, at_once=self._reader.max_in_flight)
            if is_denial(because) and not own.may_list and not (self._errors and self._errors.keys() & set(some)):
                # Each can be read by itself, so none of them was forbidden: the role may not read several at once.
                self._deny(GetParameters, because)
                self._permissions.confirm(GetParameters)

    def _take(self, page: Page, asked: dict[str, str]) -> tuple[dict[str, str], AiossmenvError | None]:
        """Take in what a request by name gave; return what is to be asked for again, and why."""
        # No two names of one parameter are sent together, so each has one answer at most.
        spelled_so = {item.name: item for item in page.parameters}
        late: dict[str, str] = {}
        absent: dict[str, str] = {}
        for number, name in asked.items():
            item = spelled_so.get(number) or next((item for item in page.parameters if answers(number, item)), None)
            if item is None:
                absent[number] = name
            elif not self._merger.accept(name, _as_asked(item, name)):
                newest = self.results.get(name)
                assert newest
                # This replica does not know the version that another one showed. By its number it is unmistakable.
                late[f"{split_selector(name)[0]}:{newest.version}"] = name
        if absent and not page.invalid_parameters:
            text = "Parameter Store left names out of an answer"
            return asked, StoreUnavailable(text, parameter=", ".join(absent), remedy=RETRY_REMEDY)
        late |= {number: name for number, name in absent.items() if number != name}
        return late, _late(late) if late else None

    # One request.

    async def _send_until_answered(
        self, query: Query, request: ReadRequest, attempts: _Attempts
    ) -> Page | AiossmenvError:
        """
        Send a request until it is answered.

        Returns an error that another request makes up for, or that is an answer; raises one that no retry can mend.
        """
        operation = type(request)
        while True:
            self._attempts[attempts] = None
            denial = self._permissions.denial(operation)
            if denial and self._has_another_way(query, request, denial):
                result: Page | AiossmenvError = denial
                break
            if operation is GetParameter and operation in self._permissions.doubted:
                async with self._reader.trial_lock(operation):
                    if operation not in self._permissions.doubted:
                        continue
                    result = await self._reader.send_once(request, self._stats)
                    self._note(query, request, result)
            else:
                result = await self._reader.send_once(request, self._stats)
                self._note(query, request, result)
            if isinstance(result, Page | ParameterNotFound | InvalidNextToken):
                break
            denied = self._permissions.denial(operation)
            if denied and self._has_another_way(query, request, denied):
                result = denied
            if self._has_another_way(query, request, result) or (operation is GetParameter and is_denial(result)):
                break
            await self._back_off_or_raise(attempts, result)
        self._attempts.pop(attempts, None)
        return result

    def _note(self, query: Query, request: ReadRequest, result: Page | AiossmenvError) -> None:
        """Remember what the role may do and what not."""
        operation = type(request)
        if isinstance(result, Page | InvalidNextToken) or (operation is GetParameter and _is_absent(result)):
            self._permissions.granted(operation)
            # The role may send this one: then what was denied of another is a denial of that operation.
            for other in self._unconfirmed - {operation}:
                self._permissions.confirm(other)
            self._unconfirmed &= {operation}
        elif self._has_another_way(query, request, result):
            self._met.add(result)
            # Without a listing it may be one of the names that is forbidden: if each can be read alone, it is not.
            if is_denial(result) and (query.may_list or operation is not GetParameters):
                self._deny(operation, result)
                self._unconfirmed.add(operation)

    def _deny(self, operation: type[ReadRequest], denial: AiossmenvError) -> None:
        self._permissions.deny(operation, denial, self._clock.now() + self._denied_for)

    def _has_another_way(self, query: Query, request: ReadRequest, error: AiossmenvError) -> bool:
        match request:
            case GetParametersByPath():
                return isinstance(error, DecryptionFailed) and request.with_decryption and not self._decrypting
            case GetParameters():
                # One bad name, or one that cannot be decrypted, fails all ten. Read one by one, it is known which.
                singly = not self._permissions.denial(GetParameter)
                if is_denial(error):
                    return query.may_list or singly
                return singly and isinstance(error, DecryptionFailed | InvalidPath)
            case GetParameter(name):
                return is_denial(error) and query.may_list and not is_reference(name)

    async def _back_off_or_raise(self, attempts: _Attempts, error: AiossmenvError) -> None:
        """Wait before the next try, or raise *error* if there is none."""
        attempts.last_error = error
        attempts.failures += 1
        left = self._deadline - self._clock.now()
        delay = BACKOFF.delay_within(attempts.failures, self._reader.random(), left)
        if not error.transient or delay is None:
            raise error
        self._attempts[attempts] = None
        await self._clock.sleep(delay)
        self._attempts.pop(attempts, None)


def _is_listed(
    query: Query, names: list[str], because: AiossmenvError, permissions: PermissionCache, *, with_decryption: bool
) -> bool:
    """Return whether *names* that may not be read ten at a time are found by a listing, and not one by one."""
    if not query.may_list or not is_denial(because):
        return False
    return bool(permissions.denial(GetParameter)) or not with_decryption or len(names) > BATCH


def _is_absent(result: Page | AiossmenvError) -> bool:
    return isinstance(result, ParameterNotFound)


def _as_asked(item: FetchedParameter, name: str) -> FetchedParameter:
    # Not every answer says by which selector it was asked for. What was read by the number of its version for once has
    # the selector of its name.
    selector = split_selector(name)[1]
    wanted = f":{selector}" if selector else ""
    return item if item.selector == wanted or is_reference(name) else replace(item, selector=wanted)


def _late(names: Iterable[str]) -> StoreUnavailable:
    text = "Parameter Store showed a version that it did not yet give out"
    return StoreUnavailable(text, parameter=", ".join(names), remedy=RETRY_REMEDY)


def _unanswered(attempts: _Attempts, waiting_for: str) -> StoreUnavailable:
    source = "where they come from" if waiting_for else "the network and the endpoint"
    return StoreUnavailable(
        f"{waiting_for or 'Parameter Store did not answer'} before the deadline",
        parameter=", ".join(attempts.names) or None,
        path=attempts.path,
        remedy=f"Check {source}, or pass a longer deadline.",
    )
