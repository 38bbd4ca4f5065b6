"""
Writes and deletions, and the reads that have the quota of writes: histories and descriptions.

A write is not idempotent: each one is a new version, and a second one may hide what another writer wrote in between. So
it is sent again only if the first one was not carried out. Parameter Store says so of a request that it throttled or
refused, and a request that found no connection was not sent. Whatever else happens (a reset, a timeout, a server's
error), the parameter is read, and compared with what was read before the first try.

A request for a write holds a value. So the coroutines of this module return errors and do not raise them: a traceback
would lead to the value.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from aiossmenv._concurrency import Clock, cancel_and_wait, wait_for
from aiossmenv._errors import (
    AiossmenvError,
    ParameterAlreadyExists,
    ParameterNotFound,
    StoreUnavailable,
)
from aiossmenv._models import Parameter, ParameterHistory, ParameterMetadata, Written
from aiossmenv._ssm.checks import retold
from aiossmenv._ssm.limiter import AdaptiveRateLimiter
from aiossmenv._ssm.permissions import is_denial
from aiossmenv._ssm.reader import Reader
from aiossmenv._ssm.sender import BACKOFF, A, ReadStats, Sender
from aiossmenv._ssm.service_errors import locate
from aiossmenv._ssm.transport import (
    BATCH,
    AddTagsToResource,
    AddTagsToResourceResult,
    DeleteParameters,
    DeleteParametersResult,
    DescribeParameters,
    DescribeParametersResult,
    FetchedParameter,
    GetParameter,
    GetParameterHistory,
    GetParameterHistoryResult,
    GetParameters,
    Page,
    PutParameter,
    PutParameterResult,
    ReadRequest,
    Request,
    Transport,
    answers,
)

T = TypeVar("T")
P = TypeVar("P", GetParameterHistoryResult, DescribeParametersResult)

# Writes a second that an account may make by default, and as many histories or descriptions.
_QUOTA = 3.0
# Writes in flight at once: with ten a second, the highest quota, and 0.3 seconds for each, three are.
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Before:
    """What was known of a parameter before it was written: its *item*, or that it was not there."""

    item: FetchedParameter | None

    @property
    def version(self) -> int:
        """Its version, 0 if it was not there."""
        return self.item.version if self.item else 0


@dataclass(eq=False, slots=True)
class _State:
    """
    What became of one request so far, for the error if its deadline cuts it off.

    *stats* counts requests that were sent, and *answers* those of them that ended. *in_doubt*: one may have been
    carried out, and nothing is known of it yet. *written*: the value is in the store, and its tags are not.
    """

    stats: ReadStats = field(default_factory=ReadStats)
    answers: int = 0
    last_error: AiossmenvError | None = None
    in_doubt: bool = False
    written: Written | None = None

    def note(self, result: object) -> bool:
        """Note how one request ended; return whether it may have been carried out although it failed."""
        self.answers = self.stats.requests
        if not isinstance(result, AiossmenvError):
            return False
        self.last_error = result
        return not result._not_carried_out


@dataclass(eq=False, slots=True)
class Progress:
    """How far `Writer.put_many()` came: *total* parameters, how many are *written*, and why no more are."""

    total: int
    written: int = 0
    failures: list[AiossmenvError] = field(default_factory=list)

    def error(self) -> AiossmenvError:
        """Return the first failure, which says how many parameters are written."""
        first, *others = self.failures
        text = f"{first.args[0]}; {self.written} of {self.total} parameters are written"
        also = ", ".join(error.parameter for error in others if error.parameter)
        return retold(first, f"{text}, and {also} failed, too" if also else text)


class Writer(Sender):
    """
    Writes through one transport, on one event loop, at a pace of its own.

    *connect*, *clock* and *random* are as for a `Reader`; *reader* reads what was there before.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Transport]],
        *,
        reader: Reader,
        max_in_flight: int,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._at_once = min(max_in_flight, _AT_ONCE)
        limiter = AdaptiveRateLimiter(self._at_once, quota=_QUOTA, careful=1)
        super().__init__(connect, limiter=limiter, clock=clock, random=random)
        self._reader = reader

    # Writes.

    async def put(self, request: PutParameter, deadline: float) -> Written | AiossmenvError:
        """Write one parameter, within *deadline* seconds."""
        end = self.clock.now() + deadline
        before = await self._look((request.name,), end)
        return before if isinstance(before, AiossmenvError) else await self._put(request, before[request.name], end)

    async def put_many(
        self, requests: Iterable[PutParameter], deadline: float, progress: Progress
    ) -> AsyncGenerator[Written, None]:
        """
        Write parameters, each within *deadline* seconds, and yield each as it is written.

        After an error no more are begun, and those in flight are waited for.
        """
        left = self._with_what_was_before(requests, deadline, progress)
        running: set[asyncio.Task[Written | AiossmenvError]] = set()
        try:
            while True:
                while not progress.failures and len(running) < self._at_once:
                    following = await anext(left, None)
                    if following is None:
                        break
                    request, before = following
                    writing = self._put(request, before, self.clock.now() + deadline)
                    running.add(asyncio.create_task(writing, name="aiossmenv write"))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    result = task.result()
                    if isinstance(result, AiossmenvError):
                        progress.failures.append(result)
                    else:
                        progress.written += 1
                        yield result
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await left.aclose()

    async def _with_what_was_before(
        self, requests: Iterable[PutParameter], deadline: float, progress: Progress
    ) -> AsyncGenerator[tuple[PutParameter, _Before | None], None]:
        """Yield each request with what is known of its parameter, which is read ten at a time."""
        left = iter(requests)
        while batch := list(itertools.islice(left, BATCH)):
            known = await self._look(tuple(request.name for request in batch), self.clock.now() + deadline)
            if isinstance(known, AiossmenvError):
                progress.failures.append(known)
                return
            for request in batch:
                yield request, known[request.name]

    async def _put(self, request: PutParameter, before: _Before | None, end: float) -> Written | AiossmenvError:
        state = _State()
        result = await self._until(end, self._put_and_tag(request, before, end, state))
        if result is not None:
            return result
        if state.written:
            return _untagged(state.last_error or self._unanswered(request), state.written)
        if state.in_doubt or state.answers < state.stats.requests:
            return _unknown(request, "", state.last_error)
        return state.last_error or self._unanswered(request)

    async def _put_and_tag(
        self, request: PutParameter, before: _Before | None, end: float, state: _State
    ) -> Written | AiossmenvError:
        # Parameter Store does not take tags together with Overwrite.
        apart = bool(request.tags) and request.overwrite
        is_there = before is not None and before.item is not None
        sending = replace(request, overwrite=is_there, tags=() if is_there else request.tags) if apart else request
        result = await self._put_value(sending, before, end, state)
        if isinstance(result, ParameterAlreadyExists) and apart and not is_there:
            sending = replace(request, tags=())
            result = await self._put_value(sending, before, end, state)
        if isinstance(result, AiossmenvError) or sending.tags == request.tags:
            return result
        state.written, state.last_error = result, None
        tagging = AddTagsToResource(request.name, request.tags)
        tagged = await self._until_done(tagging, AddTagsToResourceResult, end, state)
        return _untagged(tagged, result) if isinstance(tagged, AiossmenvError) else result

    async def _put_value(
        self, request: PutParameter, before: _Before | None, end: float, state: _State
    ) -> Written | AiossmenvError:
        previous = before.version if before else None
        may_be_ours = False
        for failures in itertools.count(1):
            result = await self.send(request, PutParameterResult, state.stats)
            state.in_doubt = state.note(result)
            if isinstance(result, PutParameterResult):
                return Written(name=request.name, version=result.version, previous_version=previous, tier=result.tier)
            # A try whose outcome was unknown may be what made the parameter.
            is_ours = isinstance(result, ParameterAlreadyExists) and may_be_ours
            if state.in_doubt or is_ours:
                state.in_doubt = True
                may_be_ours = before is not None and before.item is None
                version = await self._compare(request, before, end, result)
                if isinstance(version, AiossmenvError):
                    return version
                if version:
                    return Written(name=request.name, version=version, previous_version=previous)
                state.in_doubt = False
            if not (result.transient or is_ours) or not await self._back_off(failures, end):
                return result
        raise AssertionError  # pragma: no cover - counting does not end

    async def _compare(
        self, request: PutParameter, before: _Before | None, end: float, error: AiossmenvError
    ) -> int | AiossmenvError:
        """Return the version that has the value of *request*, 0 if nothing was written, or an error."""
        after = await self._look((request.name,), end) if before else {request.name: None}
        known = None if isinstance(after, AiossmenvError) else after[request.name]
        if before is None or known is None:
            return _unknown(request, "what is in the store cannot be read", error)
        if known == before:
            return 0
        item = known.item
        if item and not isinstance(item, Parameter):
            page = await self._until_read(GetParameters((request.name,)), end)
            item = page.parameters[0] if isinstance(page, Page) and page.parameters else item
        if isinstance(item, Parameter) and item.value == request.value:
            return item.version
        now = f"version {item.version} is in the store now" if item else "the parameter is not in the store now"
        return _unknown(
            request, f"{now}, and before it was {f'version {before.version}' if before.item else 'not there'}", error
        )

    # Deletions.

    async def delete(self, names: tuple[str, ...], deadline: float) -> AsyncGenerator[tuple[str, ...], None]:
        """Delete parameters, ten to a call and each call within *deadline* seconds; yield those that were there."""
        for begin in range(0, len(names), BATCH):
            state, batch = _State(), names[begin : begin + BATCH]
            result = await self._done(DeleteParameters(batch), DeleteParametersResult, deadline, state)
            if isinstance(result, AiossmenvError):
                text = f"{result.args[0]}; {begin} of {len(names)} names were done before"
                raise retold(result, text if begin else "")
            # What is gone after a try whose outcome is unknown may have been deleted by it.
            there = {*result.deleted_parameters, *(result.invalid_parameters if state.in_doubt else ())}
            yield tuple(name for name in batch if name in there)

    # Reads at the pace of writes.

    async def history(
        self, name: str, deadline: float, *, with_decryption: bool
    ) -> list[ParameterHistory] | AiossmenvError:
        """Return all versions of a parameter, each page within *deadline* seconds."""
        first = GetParameterHistory(name, with_decryption)
        versions: list[ParameterHistory] = []
        async with aclosing(self._pages(first, GetParameterHistoryResult, deadline)) as pages:
            async for page in pages:
                if isinstance(page, AiossmenvError):
                    return page
                versions += page.parameters
        return sorted(versions, key=lambda version: version.version)

    async def describe(self, path: str, deadline: float, *, recursive: bool) -> AsyncGenerator[ParameterMetadata, None]:
        """Yield what the store says of the parameters under *path*, each page within *deadline* seconds."""
        described = self._pages(DescribeParameters(path, recursive), DescribeParametersResult, deadline)
        async with aclosing(described) as pages:
            async for page in pages:
                if isinstance(page, AiossmenvError):
                    raise retold(page)
                for parameter in page.parameters:
                    yield parameter

    async def _pages(
        self, first: GetParameterHistory | DescribeParameters, answer: type[P], deadline: float
    ) -> AsyncGenerator[P | AiossmenvError, None]:
        request, tokens = first, set[str]()
        while True:
            page = await self._done(request, answer, deadline, _State())
            if not isinstance(page, AiossmenvError) and page.next_token in tokens:
                # A listing that goes in circles would never end, and one that is cut short would be a smaller set.
                text = "Parameter Store does not continue a listing that it had begun"
                page = self._located(StoreUnavailable(text, remedy="Try again."), request)
            yield page
            if isinstance(page, AiossmenvError) or page.next_token is None:
                return
            tokens.add(page.next_token)
            request = replace(first, next_token=page.next_token)

    # Requests.

    async def _look(self, names: tuple[str, ...], end: float) -> dict[str, _Before | None] | AiossmenvError:
        """Read names without decryption; a name that the role may not read is `None`."""
        page = await self._until_read(GetParameters(names, with_decryption=False), end)
        if isinstance(page, Page):
            return {name: _before(name, page) for name in names}
        if not is_denial(page):
            return page
        # One forbidden name is enough to fail all ten.
        known: dict[str, _Before | None] = {}
        for name in names:
            page = await self._until_read(GetParameter(name, with_decryption=False), end)
            if isinstance(page, ParameterNotFound):
                known[name] = _Before(None)
            elif isinstance(page, AiossmenvError) and not is_denial(page):
                return page
            else:
                known[name] = _before(name, page) if isinstance(page, Page) else None
        return known

    async def _until_read(self, request: ReadRequest, end: float) -> Page | AiossmenvError:
        async def read() -> Page | AiossmenvError:
            for failures in itertools.count(1):
                page = await self._reader.send_once(request, state.stats)
                state.note(page)
                if isinstance(page, Page) or not page.transient or not await self._back_off(failures, end):
                    return page
            raise AssertionError  # pragma: no cover - counting does not end

        state = _State()
        return await self._until(end, read()) or state.last_error or self._unanswered(request)

    async def _done(self, request: Request, answer: type[A], deadline: float, state: _State) -> A | AiossmenvError:
        """Return the answer of an idempotent request, or the error of the last try within *deadline* seconds."""
        end = self.clock.now() + deadline
        result = await self._until(end, self._until_done(request, answer, end, state))
        return result or state.last_error or self._unanswered(request)

    async def _until_done(self, request: Request, answer: type[A], end: float, state: _State) -> A | AiossmenvError:
        """Send an idempotent request until it is answered."""
        for failures in itertools.count(1):
            result = await self.send(request, answer, state.stats)
            state.in_doubt |= state.note(result)
            if not isinstance(result, AiossmenvError):
                return result
            if not result.transient or not await self._back_off(failures, end):
                return result
        raise AssertionError  # pragma: no cover - counting does not end

    async def _until(self, end: float, work: Coroutine[object, object, T]) -> T | None:
        """Return what *work* gives, `None` if it is not done at *end*."""
        working = asyncio.create_task(work, name="aiossmenv request")
        try:
            done = await wait_for(working, self.clock, end - self.clock.now())
            return working.result() if done else None
        finally:
            await cancel_and_wait(working)

    async def _back_off(self, failures: int, end: float) -> bool:
        """Wait before the next try; return whether there is one."""
        delay = BACKOFF.delay_within(failures, self.random(), end - self.clock.now())
        if delay is None:
            return False
        await self.clock.sleep(delay)
        return True

    def _unanswered(self, request: Request) -> AiossmenvError:
        waiting_for = getattr(self._transport, "waiting_for", "")
        text = f"{waiting_for or 'Parameter Store did not answer'} before the deadline"
        source = "where they come from" if waiting_for else "the network and the endpoint"
        return self._located(StoreUnavailable(text, remedy=f"Check {source}, or pass a longer deadline."), request)

    def _located(self, error: AiossmenvError, request: Request) -> AiossmenvError:
        locate(error, request, self._transport.region if self._transport else None)
        return error


def _before(name: str, page: Page) -> _Before | None:
    item = next((item for item in page.parameters if answers(name, item)), None)
    # A name that is in neither part of an answer is one that nothing is known of.
    return _Before(item) if item or name in page.invalid_parameters else None


def _unknown(request: PutParameter, found: str, error: AiossmenvError | None) -> AiossmenvError:
    """Return the error for a write that may have been carried out."""
    text = f"whether it was written is unknown{found and f': {found}'}"
    remedy = "Read the parameter, and write it again if it is not what you want."
    unknown = StoreUnavailable(text, parameter=request.name, remedy=remedy, transient=False)
    if error:
        unknown.region, unknown.args = error.region, (f"{text} ({error.args[0]})",)
    return unknown


def _untagged(error: AiossmenvError, written: Written) -> AiossmenvError:
    return retold(error, f"version {written.version} is written, but not its tags: {error.args[0]}")
