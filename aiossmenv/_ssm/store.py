"""`ParameterStore`: the life of one connection to Parameter Store, and the cache of single reads."""

import asyncio
import random as rng
import warnings
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Literal, Self, overload

from cachetools import TTLCache

from aiossmenv._concurrency import Clock, Home, LoopClock, SingleFlight, cancel_and_wait, wait_for
from aiossmenv._errors import AiossmenvError, InvalidPath, ParameterNotFound
from aiossmenv._models import Parameter, ParameterHistory, ParameterMetadata, ParameterType, Tier, Written
from aiossmenv._naming import base_name, full_name, normal_path
from aiossmenv._ssm.checks import checked, checked_many, retold
from aiossmenv._ssm.merge import Results, StoreState
from aiossmenv._ssm.permissions import DENIED_FOR, PermissionCache
from aiossmenv._ssm.reader import Reader
from aiossmenv._ssm.sender import ReadStats
from aiossmenv._ssm.transport import EncryptedParameter, FetchedParameter, GetParameters, Page, Query, Transport
from aiossmenv._ssm.writer import Progress, Writer

if TYPE_CHECKING:
    from aiossmenv._ssm.boto_session import Pins

# As many parameters as an account has at its standard limit: the cache is for names that code spells out.
_CACHED = 10_000

# Connections of the parent process, in a child: dropped, they would be closed, and that would disturb the parent.
_inherited: list[object] = []


@dataclass(eq=False, slots=True)
class _Batch:
    """Names that were asked for in one turn of the loop."""

    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a store uses that is not told otherwise."""

    transport: Transport | None = None
    clock: Clock | None = None
    random: Callable[[], float] | None = None


class ParameterStore:
    """
    The async client of Parameter Store.

    Its first request finds region, identity, endpoint and proxies; they hold for its life, however often it connects.
    It connects when first needed. Use it with `async with`, or call `aclose()`; one that only `Env`s read through
    closes with the last of them. In a child process that was forked, and on another event loop, it connects anew; it
    leaves the parent's connections alone, and a loop that ends closes its own. It refuses a second loop while the first
    one runs.

    Args:
        session: An `aioboto3.Session` or an `aiobotocore` session. Default: a new one, with all that the SDK honours.
        region: The region, instead of the SDK's own.
        endpoint_url: The endpoint, instead of the SDK's own.
        max_concurrency: Requests in flight at once, at most. Default: 20.
        ttl: Seconds for which `get()` keeps what it read. Default: 60.
        deadline: Seconds for one read, retries and all. Default: 30.
        transport: What sends the requests, instead of the SDK; then *session*, *region* and *endpoint_url* say nothing.
        clock: For tests: what tells the time, and sleeps.
        random: For tests: a function that returns numbers from 0 to 1, for the jitter of waits.

    Raises:
        ValueError: *max_concurrency* is below 1.
    """

    _defaults: ClassVar[_Defaults] = _Defaults()

    # For the repr of one that was not made whole.
    _transport: Transport | None = None

    def __init__(
        self,
        *,
        session: object | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        max_concurrency: int = 20,
        ttl: float = 60.0,
        deadline: float = 30.0,
        transport: Transport | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        """See the class."""
        if max_concurrency < 1:
            raise ValueError("max_concurrency is at least 1")
        self.clock: Clock = clock or self._defaults.clock or LoopClock()
        self.random = random or self._defaults.random or rng.random
        given = transport or self._defaults.transport
        self._connect = _given(given) if given else _boto(session, region, endpoint_url, max_concurrency)
        self._uses_sdk = given is None
        self._max_in_flight = max_concurrency
        self._permissions = PermissionCache()
        self._deadline = deadline
        self._cache: TTLCache[str, Parameter] = TTLCache(_CACHED, ttl, timer=self.clock.now)
        self._home = Home()
        self._begin()

    @classmethod
    @contextmanager
    def override_defaults(
        cls,
        *,
        transport: Transport | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
    ) -> Iterator[None]:
        """
        Let each store that is made in this block use these, unless it is given its own; for tests.

        `load_env()` without `store=` makes a store, so it finds them too.

        Args:
            transport: What sends the requests; shared by all these stores.
            clock: What tells the time, and sleeps.
            random: What returns numbers from 0 to 1.
        """
        before, cls._defaults = cls._defaults, _Defaults(transport, clock, random)
        try:
            yield
        finally:
            cls._defaults = before

    def _begin(self) -> None:
        """Have no connection, no user, and nothing in flight."""
        self._transport = None
        self._guard: AsyncGenerator[None, None] | None = None
        # What keeps it open, by kind: blocks, `Env`s, and single reads outside of a block, which count once.
        self._users: Counter[str] = Counter()
        self._reader = Reader(
            _weakly(self),
            permissions=self._permissions,
            max_in_flight=self._max_in_flight,
            clock=self.clock,
            random=self.random,
        )
        self._writer = Writer(
            _weakly(self),
            reader=self._reader,
            max_in_flight=self._max_in_flight,
            clock=self.clock,
            random=self.random,
        )
        # How many writes ended: a read that began before one must not be cached, nor joined after it.
        self._writes = 0
        self._single_reads: SingleFlight[tuple[str, int], Parameter] = SingleFlight()
        self._batch_reads: SingleFlight[_Batch, tuple[Results, dict[str, AiossmenvError]]] = SingleFlight()
        self._batch: _Batch | None = None

    def _arrive(self) -> None:
        """Begin anew on another event loop, and in a child process: connections and tasks are of one loop only."""
        forked = self._home.is_forked()
        if self._home.moved(self):
            if forked:
                _inherited.append((self._transport, self._guard))
            self._begin()

    @property
    def region(self) -> str | None:
        """The region it reads from; `None` before the first request."""
        return self._transport.region if self._transport else None

    async def get(self, name: str) -> Parameter:
        """
        Return one parameter, decrypted, at most *ttl* seconds old.

        What is asked for in one turn of the loop goes ten to a request.

        Args:
            name: A full name, with `:3` or `:label` for a version, an ARN, or a secret of Secrets Manager as
                `/aws/reference/secretsmanager/ID`.

        Raises:
            ParameterNotFound: There is no such parameter, version or label.
            InvalidPath: There can be no parameter of this name.
            AccessDenied: There are no usable credentials, or the role may not read it.
            DecryptionFailed: KMS does not decrypt it.
            Throttled: Requests were throttled until the deadline.
            StoreUnavailable: There was no usable answer until the deadline.
        """
        name = name.strip()
        if not name:
            raise InvalidPath("the name is empty", parameter=name, remedy="Give one like /FAKEBOOK/TEST/DB_URL.")
        self._arrive()
        self._stay_open()
        cached = self._cache.get(name)
        return cached or await self._single_reads.do((name, self._writes), lambda: self._get(name))

    async def get_many(self, names: Iterable[str]) -> dict[str, Parameter]:
        """
        Return several parameters, by the names as you gave them.

        Args:
            names: As for `get()`.

        Raises:
            AiossmenvError: As `get()` does, for the first name that fails.
            TypeError: *names* is one text.
        """
        if isinstance(names, str):
            raise TypeError(f"names are several: write get_many([{names!r}]), or get()")
        wanted = tuple(dict.fromkeys(names))
        found = await asyncio.gather(*(self.get(name) for name in wanted))
        return dict(zip(wanted, found, strict=True))

    @overload
    def scan(
        self, path: str, *, recursive: bool = True, with_decryption: Literal[True] = True
    ) -> AsyncIterator[Parameter]: ...

    @overload
    def scan(
        self, path: str, *, recursive: bool = True, with_decryption: bool
    ) -> AsyncIterator[Parameter | EncryptedParameter]: ...

    async def scan(
        self, path: str, *, recursive: bool = True, with_decryption: bool = True
    ) -> AsyncIterator[Parameter | EncryptedParameter]:
        """
        Iterate over all parameters under a path, after the last page is in.

        Args:
            path: With or without a final slash.
            recursive: All levels, or direct children only.
            with_decryption: Whether each `SecureString` is decrypted. Without it KMS is not called, and a
                `SecureString` comes as an `EncryptedParameter`, which has no value.

        Yields:
            Each parameter, in the order of their names.

        Raises:
            AiossmenvError: As `get()` does.
        """
        self._arrive()
        self._stay_open()
        query = Query(path=normal_path(path), recursive=recursive)
        results = await self._read([query], decrypt="all" if with_decryption else "none")
        found: dict[str, FetchedParameter] = {**results.parameters, **results.encrypted}
        for _, parameter in sorted(found.items()):
            yield parameter

    async def put(
        self,
        name: str,
        value: str,
        *,
        type: ParameterType = "SecureString",  # noqa: A002 - PutParameter's word
        key_id: str | None = None,
        tier: Tier | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        data_type: str | None = None,
        overwrite: bool = True,
    ) -> Written:
        """
        Write one parameter: a new one, or a new version.

        It is sent again only if the last try was not carried out: throttled, or never sent. After any other failure the
        parameter is read, without decryption unless it changed, and compared with what was there before.

        Args:
            name: A full name, without a selector; no ARN.
            value: Not empty. At most 4 KB with the tier `Standard`, and 8 KB with another one.
            type: `SecureString`, `String` or `StringList`. That of a parameter cannot be changed.
            key_id: The KMS key of a `SecureString`. Default: the account's `alias/aws/ssm`.
            tier: `Standard`, `Advanced` or `Intelligent-Tiering`. Default: that of the parameter, or of the account.
            description: At most 1,024 characters. Default: as it was.
            tags: They are added to those that the parameter has.
            data_type: `text`, `aws:ec2:image` or `aws:ssm:integration`. Default: `text`.
            overwrite: Whether a parameter of this name, if there is one, gets a new version.

        Returns:
            The version, and the one before.

        Raises:
            InvalidPath: There can be no parameter of this name.
            InvalidParameter: Parameter Store does not take this value, type, tier, key, description or tags.
            ParameterAlreadyExists: There is one, and *overwrite* is false.
            AccessDenied: There are no usable credentials, or the role may not write it.
            DecryptionFailed: KMS does not encrypt it.
            Throttled: Requests were throttled until the deadline.
            StoreUnavailable: There was no usable answer until the deadline. The text says if it may be written.
        """
        self._arrive()
        request = checked(
            name,
            value,
            type=type,
            key_id=key_id,
            tier=tier,
            description=description,
            tags=tags,
            data_type=data_type,
            overwrite=overwrite,
        )
        del value  # an error's traceback leads to this frame
        if isinstance(request, AiossmenvError):
            raise self._located(request)
        self._stay_open()
        name = request.name
        try:
            result = await self._writer.put(request, self._deadline)
        finally:
            self._forget(name)
        del request
        if isinstance(result, AiossmenvError):
            raise self._located(result)
        return result

    async def put_many(
        self,
        parameters: Mapping[str, str],
        *,
        type: ParameterType = "SecureString",  # noqa: A002 - PutParameter's word
        key_id: str | None = None,
        tier: Tier | None = None,
        overwrite: bool = True,
    ) -> AsyncIterator[Written]:
        """
        Write several parameters, as fast as the account allows: 3 a second by default.

        All are checked before the first one is written. The first error that no retry mends ends it, after what is in
        flight has ended; its text says how many are written. A caller that stops early cancels what is in flight, up to
        four writes.

        Args:
            parameters: Names and values, as for `put()`.
            type: As for `put()`, of all of them; and so are the others.
            key_id: The KMS key of each `SecureString`.
            tier: The tier of each.
            overwrite: Whether those that are there get a new version.

        Yields:
            What was written, as it is written; not always in the order of *parameters*.

        Raises:
            AiossmenvError: As `put()` does. The deadline is that of each parameter.
        """
        self._arrive()
        requests = checked_many(parameters, type=type, key_id=key_id, tier=tier, overwrite=overwrite)
        del parameters  # an error's traceback leads to this frame
        if isinstance(requests, AiossmenvError):
            raise self._located(requests)
        self._stay_open()
        names = [request.name for request in requests]
        progress = Progress(len(requests))
        try:
            async with aclosing(self._writer.put_many(requests, self._deadline, progress)) as writes:
                del requests
                async for written in writes:
                    self._forget(written.name)
                    yield written
        finally:
            self._forget(*names)
        if progress.failures:
            raise self._located(progress.error())

    async def delete(self, *names: str) -> tuple[str, ...]:
        """
        Delete parameters, each with all its versions and labels; ten to a request.

        Args:
            names: Full names, without selectors; no ARNs.

        Returns:
            Those that were there.

        Raises:
            InvalidPath: There can be no parameter of one of these names; none is deleted.
            AccessDenied: There are no usable credentials, or the role may not delete one of them.
            Throttled: Requests were throttled until the deadline, which is that of each request.
            StoreUnavailable: There was no usable answer until the deadline.
        """
        self._arrive()
        full = tuple(dict.fromkeys(map(self._full_name, names)))
        self._stay_open()
        deleted: list[str] = []
        try:
            async with aclosing(self._writer.delete(full, self._deadline)) as batches:
                async for batch in batches:
                    deleted += batch
        except AiossmenvError as error:
            raise self._located(error) from error.__cause__
        finally:
            self._forget(*full)
        return tuple(deleted)

    async def history(self, name: str, *, with_decryption: bool = True) -> tuple[ParameterHistory, ...]:
        """
        Return the versions of a parameter that Parameter Store keeps, oldest first.

        Args:
            name: A full name or an ARN, without a selector.
            with_decryption: Whether a `SecureString` is decrypted. Without it KMS is not called, and its values are
                `None`.

        Raises:
            AiossmenvError: As `get()` does.
        """
        name = name.strip()
        if not name:
            raise InvalidPath("the name is empty", parameter=name, remedy="Give one like /FAKEBOOK/TEST/DB_URL.")
        self._arrive()
        self._stay_open()
        versions = await self._writer.history(name, self._deadline, with_decryption=with_decryption)
        if isinstance(versions, AiossmenvError):
            raise self._located(versions)
        return tuple(versions)

    async def describe(self, path: str, *, recursive: bool = True) -> AsyncIterator[ParameterMetadata]:
        """
        Iterate over what Parameter Store says of the parameters under a path, without values and without KMS.

        An account may make 3 of these requests a second by default, each for 50 parameters.

        Args:
            path: With or without a final slash.
            recursive: All levels, or direct children only.

        Yields:
            Each parameter, page by page, in the order of the service.

        Raises:
            AiossmenvError: As `get()` does.
        """
        self._arrive()
        self._stay_open()
        try:
            async with aclosing(
                self._writer.describe(normal_path(path), self._deadline, recursive=recursive)
            ) as described:
                async for parameter in described:
                    yield parameter
        except AiossmenvError as error:
            raise self._located(error) from error.__cause__

    def _full_name(self, name: str) -> str:
        try:
            return full_name(name)
        except InvalidPath as error:
            raise self._located(error) from None

    def _located(self, error: AiossmenvError) -> AiossmenvError:
        """Return *error* with the region, and without its traceback."""
        error.region = error.region or self.region
        return retold(error)

    def _forget(self, *names: str) -> None:
        """Let the next single read of each of *names*, with any selector, ask Parameter Store."""
        self._writes += 1
        gone = {name.lstrip("/") for name in names}
        for cached in [cached for cached in self._cache if base_name(cached).lstrip("/") in gone]:
            self._cache.pop(cached, None)

    async def _read(
        self,
        queries: Iterable[Query],
        known: StoreState | None = None,
        *,
        decrypt: Literal["all", "changed", "none"] = "all",
        groups: Iterable[frozenset[str]] = (),
        deadline: float | None = None,
        denied_for: float = DENIED_FOR,
        stats: ReadStats | None = None,
        errors: dict[str, AiossmenvError] | None = None,
    ) -> Results:
        """Return one complete read, or raise; see `Reader.read()`. For this package: its arguments are not public."""
        try:
            return await self._reader.read(
                queries,
                known or StoreState(),
                deadline=self._deadline if deadline is None else deadline,
                decrypt=decrypt,
                groups=groups,
                denied_for=denied_for,
                stats=stats,
                errors=errors,
            )
        except AiossmenvError as error:
            error.region = error.region or self.region
            raise

    async def _is_parameter(self, name: str, *, within: float) -> bool:
        """Return whether a parameter is called *name*; `False` too if one request, in *within* seconds, fails."""
        asking = asyncio.create_task(
            self._reader.send_once(GetParameters((name,), with_decryption=False), ReadStats()), name="aiossmenv name"
        )
        try:
            if not await wait_for(asking, self.clock, within):
                return False
            page = asking.result()
            return isinstance(page, Page) and bool(page.parameters)
        finally:
            await cancel_and_wait(asking)

    def _account_for_suspend(self, seconds: float) -> None:
        """Note that the process was suspended, and the clock with it: denials end sooner."""
        self._permissions.account_for_suspend(seconds)

    async def aclose(self) -> None:
        """End what is in flight and close all connections; idempotent. The store can be used again."""
        self._arrive()
        self._users.clear()
        await self._single_reads.aclose()
        await self._batch_reads.aclose()
        transport, self._transport = self._transport, None
        guard, self._guard = self._guard, None
        if guard:
            await guard.aclose()
        elif transport:
            await transport.aclose()

    async def __aenter__(self) -> Self:
        """Stay open until the end of the block."""
        self._retain("block")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, unless an `Env` still reads through this store."""
        self._arrive()
        del self._users["single reads"]
        await self._release("block")

    def _retain(self, user: str = "Env") -> None:
        """Stay open until this is released."""
        self._arrive()
        self._users[user] += 1

    async def _release(self, user: str = "Env") -> None:
        """Close if nothing else keeps this open; what was retained on an earlier loop counts no more."""
        self._arrive()
        self._users[user] -= 1
        self._users = +self._users  # without those that are not above 0
        if not self._users:
            await self.aclose()

    def _stay_open(self) -> None:
        """Let a single read keep this open until `aclose()`, or until the end of the block that it is in."""
        if not self._users["block"]:
            self._users["single reads"] = 1

    def __del__(self) -> None:
        """Warn of a store that was left open."""
        if self._transport and not self._home.is_forked():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        """Return one line that is fit for a log."""
        return f"<ParameterStore {self.region or 'not connected'}>"

    async def _connected(self) -> Transport:
        """Return the transport, which the running loop closes if it ends before this is closed."""
        if self._transport is None and self._uses_sdk:
            # In a thread: to import this takes 10 to 50 ms, without the SDK, which it imports in a thread of its own.
            await asyncio.to_thread(import_module, "aiossmenv._ssm.boto")
        transport = self._transport = self._transport or self._connect()
        if self._guard is None:
            self._guard = _closing(transport, weakref.ref(self))
            await anext(self._guard)
        return transport

    async def _get(self, name: str) -> Parameter:
        # All that ask in this turn of the loop find the same batch; its read begins in the next one.
        batch = self._batch = self._batch or _Batch()
        writes = self._writes
        batch.names.append(name)
        try:
            results, errors = await self._batch_reads.do(batch, lambda: self._read_batch(batch))
        except BaseException:
            if self._batch is batch:
                batch.names.remove(name)  # its read has not begun, and must not ask for what is not wanted any more
            raise
        parameter = results.parameters.get(name)
        if parameter is None:
            raise errors.get(name) or ParameterNotFound(
                "there is no such parameter, version or label",
                parameter=name,
                region=self.region,
                remedy="Check the name and the region.",
            )
        if writes == self._writes:
            self._cache[name] = parameter
        return parameter

    async def _read_batch(self, batch: _Batch) -> tuple[Results, dict[str, AiossmenvError]]:
        self._batch = None
        errors: dict[str, AiossmenvError] = {}
        return await self._read([Query(names=tuple(batch.names), may_list=False)], errors=errors), errors


def _weakly(store: ParameterStore) -> Callable[[], Awaitable[Transport]]:
    """Return what connects *store*, without a cycle, so that one that was left open is reported when it is dropped."""
    reference = weakref.ref(store)

    async def connected() -> Transport:
        open_store = reference()
        assert open_store  # it is what reads
        return await open_store._connected()

    return connected


async def _closing(transport: Transport, store: "weakref.ref[ParameterStore]") -> AsyncGenerator[None, None]:
    """
    Close *transport* when this is closed.

    A loop that ends closes the asynchronous generators that were begun on it (`shutdown_asyncgens()`, which
    `asyncio.run()` calls). So connections that were left open are closed by their own loop, while it still runs.
    """
    try:
        yield
    finally:
        await transport.aclose()
        left = store()
        if left and left._transport is transport:
            left._transport = left._guard = None


def _given(transport: Transport) -> Callable[[], Transport]:
    return lambda: transport


def _boto(
    session: object | None, region: str | None, endpoint_url: str | None, max_concurrency: int
) -> Callable[[], Transport]:
    pins: Pins | None = None

    def connect() -> Transport:
        nonlocal pins
        from aiossmenv._ssm.boto import BotoTransport
        from aiossmenv._ssm.boto_session import Pins

        # Every connection of a store, in a forked child too, has the region, identity and proxies of the first one.
        pins = pins or Pins()
        return BotoTransport(
            session=session, region=region, endpoint_url=endpoint_url, connections=max_concurrency, pins=pins
        )

    return connect


ParameterStore.__module__ = "aiossmenv"
