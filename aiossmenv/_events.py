"""Delivery of changes: a queue for each reader, and callbacks whose failure ends nothing."""

import asyncio
import inspect
import logging
import traceback
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from aiossmenv._concurrency import Home
from aiossmenv._models import Change, coalesce

logger = logging.getLogger("aiossmenv")

# The task in which a callback runs, in it and in all that it starts.
_worker: ContextVar["asyncio.Task[None] | None"] = ContextVar("aiossmenv callback", default=None)

# What it returns is awaited if that is possible, and dropped.
Callback = Callable[[Change], object]


class ChangeQueue(AsyncIterator[Change]):
    """
    Changes that one reader has not read yet: at most one for each key, however slow the reader.

    Two changes of one key become one, from the oldest unread `old` to the newest `new`; two that cancel out vanish.
    """

    def __init__(self) -> None:
        self._unread: dict[str, Change] = {}
        self._home = Home()
        self._arrived = asyncio.Event()
        self._closed = False

    def put(self, change: Change) -> None:
        """Leave a change for the reader."""
        before = self._unread.pop(change.key, None)
        whole = coalesce(before, change) if before else change
        if whole:
            self._unread[change.key] = whole
            self._arrived.set()

    def close(self) -> None:
        """Let the reader end after what it has not read yet."""
        self._closed = True
        self._arrived.set()

    def take(self) -> Change | None:
        """Return the oldest change that was not read yet."""
        return self._unread.pop(next(iter(self._unread))) if self._unread else None

    async def __anext__(self) -> Change:
        if self._home.moved(self):
            self._arrived = asyncio.Event()
        while not (change := self.take()):
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return change


@dataclass(eq=False, slots=True)
class _Subscriber:
    callback: Callback
    keys: frozenset[str]
    queue: ChangeQueue
    is_async: bool
    working: bool = False
    ended: bool = False


class Events:
    """All readers and callbacks of one `Env`."""

    def __init__(self) -> None:
        # Weak: a reader that drops its iterator has unsubscribed.
        self._queues: weakref.WeakSet[ChangeQueue] = weakref.WeakSet()
        self._subscribers: list[_Subscriber] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False

    def changes(self) -> ChangeQueue:
        """Return a new reader, which sees every change from now on."""
        queue = ChangeQueue()
        if self._closed:
            queue.close()
        self._queues.add(queue)
        return queue

    def subscribe(self, callback: Callback, keys: Iterable[str]) -> Callable[[], None]:
        """Have *callback* called with each change of *keys*, of all if there are none; returns what ends it."""
        keys = tuple(keys)
        if not all(isinstance(key, str) for key in keys):
            raise TypeError("several keys are several arguments: on_change(callback, 'DB_USER', 'DB_PASSWORD')")
        subscriber = _Subscriber(callback, frozenset(keys), ChangeQueue(), is_async(callback))
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if not subscriber.ended:
                subscriber.ended = True
                self._subscribers.remove(subscriber)

        return unsubscribe

    def deliver(self, changes: Iterable[Change]) -> None:
        """Tell all readers and callbacks; what a callback raises is logged, and goes no further."""
        queues, subscribers = tuple(self._queues), tuple(self._subscribers)
        for change in changes if queues or subscribers else ():
            for queue in queues:
                queue.put(change)
            for subscriber in subscribers:
                # A callback may have ended one of them, itself among them.
                if not subscriber.ended and (not subscriber.keys or change.key in subscriber.keys):
                    self._call(subscriber, change)

    def in_callback(self) -> bool:
        """Return whether this is called in a callback, or in a task that one started."""
        return _worker.get() in self._workers

    def forget_callbacks(self) -> None:
        """Forget the callbacks under way, which are of the parent process or of another event loop."""
        self._workers.clear()
        for subscriber in self._subscribers:
            subscriber.working = False

    async def aclose(self) -> None:
        """End all readers and all callbacks under way, but for the one that this is called in."""
        self._closed = True
        for queue in tuple(self._queues):
            queue.close()
        for subscriber in self._subscribers:
            subscriber.ended = True
        self._subscribers.clear()
        # A callback that closes the Env, in its own task or in one that it waits for, must not wait for itself.
        others = self._workers - {_worker.get()}
        for worker in others:
            worker.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _call(self, subscriber: _Subscriber, change: Change) -> None:
        if not subscriber.is_async:
            try:
                result = subscriber.callback(change)
            except (Exception, asyncio.CancelledError) as error:
                _report(subscriber.callback, change, error)
                return
            if inspect.isawaitable(result):
                # A lambda that returns a coroutine: only its result shows it.
                self._spawn(_finish(result, subscriber.callback, change))
            return
        # One call at a time, in order, and coalesced while one runs: a slow callback gets fewer calls, not a queue.
        subscriber.queue.put(change)
        if not subscriber.working:
            subscriber.working = True
            self._spawn(self._work(subscriber))

    def _spawn(self, work: Coroutine[object, None, None]) -> None:
        worker = asyncio.create_task(work, name="aiossmenv callback")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work(self, subscriber: _Subscriber) -> None:
        _worker.set(asyncio.current_task())
        try:
            while not subscriber.ended and (change := subscriber.queue.take()):
                try:
                    result = subscriber.callback(change)
                except Exception as error:
                    _report(subscriber.callback, change, error)
                else:
                    if inspect.isawaitable(result):
                        await _finish(result, subscriber.callback, change)
        finally:
            subscriber.working = False


async def _finish(result: Awaitable[object], callback: Callback, change: Change) -> None:
    _worker.set(asyncio.current_task())
    try:
        await result
    except asyncio.CancelledError as error:
        here = asyncio.current_task()
        if here and here.cancelling():
            raise
        # Something that it waited for was cancelled, and not the callback.
        _report(callback, change, error)
    except Exception as error:
        _report(callback, change, error)


def is_async(callback: Callable[..., object]) -> bool:
    """Whether *callback* is a coroutine function, or is called like one."""
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def _report(callback: Callback, change: Change, error: BaseException) -> None:
    name = getattr(callback, "__qualname__", type(callback).__name__)
    place = traceback.extract_tb(error.__traceback__)[-1]
    # Not the error's text: int("the secret") quotes the secret.
    logger.error(
        "callback %s failed on the change of %s with %s at %s:%s; refreshes go on",
        name,
        change.key,
        type(error).__name__,
        place.filename,
        place.lineno,
    )
