"""`load_env_sync`: the load for programs that run no event loop, on a loop of its own in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, MutableMapping
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from inspect import signature
from typing import Generic, Literal, TypedDict, TypeVar, Unpack

from aiossmenv._env import Env
from aiossmenv._load import load_env
from aiossmenv._ssm.store import ParameterStore

T = TypeVar("T")


class _Options(TypedDict, total=False):
    """The options of `load_env` without `ttl`; a test compares the two."""

    keys: Iterable[str] | None
    required: Iterable[str]
    recursive: bool
    to_key: Callable[[str], str]
    expand: Literal["json", "dotenv"] | Mapping[str, Literal["json", "dotenv"]] | None
    environ: MutableMapping[str, str] | None
    override: bool
    protected: Iterable[str]
    allow_empty: bool
    deadline: float | None
    max_stale: float | None
    list_interval: float | None
    revalidate_interval: float | None
    store: ParameterStore | None


def load_env_sync(*paths: str, **options: Unpack[_Options]) -> Env:
    """
    Do what `load_env` does, once, and return when it is done; for code that is not async, such as settings of Django.

        env = load_env_sync("/FAKEBOOK/TEST/")

    It uses an event loop of its own in a thread of its own, and closes both. So it also works where a loop runs, but it
    blocks that loop until it returns: await `load_env` there. Ctrl-C ends the load. The `Env` has no `ttl`, so nothing
    refreshes it in the background. `asyncio.run(env.refresh())` refreshes it, and so does
    `asyncio.run(env.ensure_fresh(60))`, for which `max_stale`, `list_interval` and `revalidate_interval` count.

    Args:
        *paths: As for `load_env`.
        **options: As for `load_env`; there is no *ttl*.

    Returns:
        The `Env`.

    Raises:
        AiossmenvError: What `load_env` raises.
        TypeError: As `load_env`, and for *ttl*.
        ValueError: As `load_env`.
        ImportError: As `load_env`.
    """
    try:
        if "ttl" in options:
            raise TypeError(
                "load_env_sync() has no ttl, because it leaves no event loop that could refresh: call load_env() in the"
                " service's own loop, or asyncio.run(env.ensure_fresh(SECONDS)) when values may be old"
            )
        loading = load_env(*paths, **options)
    finally:
        del options  # environ may hold values, and a traceback may show this frame
    return _LoopThread(loading).run()


# For help() and pdoc, which would show no option by name.
_signature = signature(load_env)
vars(load_env_sync)["__signature__"] = _signature.replace(
    parameters=[option for option in _signature.parameters.values() if option.name != "ttl"], return_annotation=Env
)
load_env_sync.__module__ = "aiossmenv"


class _LoopThread(Generic[T]):
    """Runs *work* to its end on an event loop of its own, in a thread of its own."""

    # asyncio.run() in the calling thread fails where a loop runs. Elsewhere it removes the current loop of the thread,
    # and in the main thread it replaces the handler of SIGINT.

    def __init__(self, work: Coroutine[object, None, T]) -> None:
        self._work = work
        self._context = copy_context()
        self._outcome: Future[T] = Future()
        self._interrupted = False
        self._cancel: Callable[[], object] | None = None

    def run(self) -> T:
        """Return what *work* returns, or raise what it raises, when the thread has ended."""
        thread = threading.Thread(target=self._in_thread, name="aiossmenv load_env_sync")
        try:
            thread.start()
            # On Windows an interrupt is noticed only between two waits.
            while wait({self._outcome}, 0.5).not_done:
                pass
            return self._outcome.result()
        except BaseException:
            # The work failed, or a signal handler raised: Python's own KeyboardInterrupt, or another handler anything.
            self._interrupt()
            raise
        finally:
            if thread.ident is not None:
                thread.join()
            # If no thread could start, this prevents the warning that the coroutine was never awaited.
            self._work.close()

    def _interrupt(self) -> None:
        # The flag is set before _cancel is read. _main() sets _cancel before it reads the flag, so one sees the other.
        self._interrupted = True
        if self._cancel:
            with suppress(RuntimeError):  # the loop is closed: the work has ended
                self._cancel()

    def _in_thread(self) -> None:
        try:
            with asyncio.Runner() as runner:
                result = runner.run(self._main(), context=self._context)
        except BaseException as error:
            self._outcome.set_exception(error)
        else:
            # Only now: the runner has closed the loop, and with it what the work left open.
            self._outcome.set_result(result)

    async def _main(self) -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._interrupted:
            raise asyncio.CancelledError
        return await self._work
