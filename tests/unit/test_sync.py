"""`load_env_sync`: a load with or without a running event loop, which leaves the calling thread as it was."""

import asyncio
import gc
import inspect
import signal
import sys
import threading
import time
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, get_type_hints

import pytest

from aiossmenv import EmptyPath, Env, InvalidPath, ParameterStore, StaleEnv, load_env, load_env_sync
from aiossmenv._sync import _LoopThread, _Options
from aiossmenv.testing import ManualClock, MemoryStore

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    """Check that a test leaves no thread of its own, no warning and no other handler of a signal."""
    threads, handler = set(threading.enumerate()), signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()
    # One of an earlier test may have ended meanwhile.
    assert set() == set(threading.enumerate()) - threads
    assert handler == signal.getsignal(signal.SIGINT)


def filled() -> MemoryStore:
    """Return a store with a parameter."""
    return MemoryStore({"/P/A": "1"})


# --- What it does


def test_it_loads() -> None:
    """It fills the environment and returns an `Env`, as an awaited `load_env` does."""
    environ: dict[str, str] = {}

    env = load_env_sync("/P", environ=environ, required=["A"], store=filled())

    assert isinstance(env, Env)
    assert {"A": "1"} == dict(env) == environ
    assert (True, None) == (env.status.fresh, env.status.next_refresh)


def test_options_are_those_of_load_env() -> None:
    """Each option of `load_env` is there with its type, but for the one that needs an event loop."""
    theirs = get_type_hints(load_env)
    options = [
        name
        for name, one in inspect.signature(load_env).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    ]

    assert {name: theirs[name] for name in options if name != "ttl"} == get_type_hints(_Options)
    assert set() == _Options.__required_keys__
    assert ["paths", *(name for name in options if name != "ttl")] == list(inspect.signature(load_env_sync).parameters)
    assert inspect.signature(load_env_sync).return_annotation is Env


def test_every_option_arrives() -> None:
    """What is passed has the effect that it has in `load_env`."""
    store = MemoryStore({"/P/db": '{"user": "a"}', "/P/more/B": "2"})

    env = load_env_sync(
        "/P",
        keys=None,
        recursive=False,
        to_key=str,
        expand="json",
        environ=None,
        override=False,
        protected=(),
        allow_empty=True,
        deadline=5,
        max_stale=600,
        list_interval=60,
        revalidate_interval=None,
        store=store,
    )

    assert {"user": "a"} == dict(env)


@pytest.mark.parametrize("ttl", [60, None])
def test_ttl_is_refused(ttl: float | None) -> None:
    """A TTL is refused with what to call instead."""
    with pytest.raises(TypeError, match=r"load_env_sync\(\) has no ttl.*call load_env\(\)"):
        load_env_sync("/P", ttl=ttl)  # type: ignore[call-arg] # that is what fails


def test_options_that_cannot_be() -> None:
    """What `load_env` refuses at once is refused as it does."""
    with pytest.raises(TypeError, match="keys takes several names"):
        load_env_sync("/P", keys="A")
    with pytest.raises(ValueError, match="deadline"):
        load_env_sync("/P", deadline=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'tll'"):
        load_env_sync("/P", tll=60)  # type: ignore[call-arg] # that is what fails
    with pytest.raises(InvalidPath):
        load_env_sync()


def test_an_error_keeps_its_type() -> None:
    """What the load raises is raised in the caller, and nothing is set."""
    environ = {"A": "before"}

    with pytest.raises(EmptyPath) as caught:
        load_env_sync("/NONE", environ=environ, store=filled())

    assert ("/NONE", None, None) == (caught.value.path, caught.value.__cause__, caught.value.__context__)
    assert {"A": "before"} == environ


# --- Where it is called


def test_the_loop_of_this_thread_stays() -> None:
    """The current loop of the thread is what it was, and works."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        load_env_sync("/P", environ={}, store=filled())
        assert asyncio.get_event_loop() is loop
        assert 1 == loop.run_until_complete(asyncio.sleep(0, 1))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def test_a_loop_runs_here() -> None:
    """It works where a loop runs, which goes on after it."""
    here = asyncio.get_running_loop()

    env = load_env_sync("/P", environ={}, store=filled())

    assert asyncio.get_running_loop() is here
    assert "1" == env["A"]
    await asyncio.sleep(0)


def test_in_a_thread() -> None:
    """It works in any thread, in several at once."""
    loaded: list[Env] = []
    threads = [
        threading.Thread(target=lambda: loaded.append(load_env_sync("/P", environ={}, store=filled())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["1"] * 4 == [env["A"] for env in loaded]


def test_context_variables_are_copied() -> None:
    """The load sees the caller's context variables, and what it sets is not seen by the caller."""
    seen: list[tuple[str, str]] = []

    def to_key(name: str) -> str:
        seen.append((WHO.get(), threading.current_thread().name))
        WHO.set("the load")
        return name

    token = WHO.set("the caller")
    try:
        load_env_sync("/P", environ={}, to_key=to_key, store=filled())
        assert [("the caller", "aiossmenv load_env_sync")] == seen
        assert "the caller" == WHO.get()
    finally:
        WHO.reset(token)


def test_a_store_that_a_running_loop_uses() -> None:
    """A store that is open on the loop of this thread is refused clearly."""
    store = filled()

    async def main() -> None:
        async with store:
            await store.get("/P/A")
            with pytest.raises(RuntimeError, match="in use on the event loop of another thread"):
                load_env_sync("/P", environ={}, store=store)

    asyncio.run(main())


# --- What comes after


def test_refreshes_on_later_loops() -> None:
    """The `Env` is refreshed on any later loop, and a store that was passed is used there, too."""
    store: MemoryStore = filled()
    env = load_env_sync("/P", environ={}, store=store)

    for value in ("2", "3"):
        store.set("/P/A", value)
        assert ["A"] == [change.key for change in asyncio.run(env.refresh())]
        assert value == env["A"]
        store.set("/P/A", value + value)
        asyncio.run(env.ensure_fresh(0))
        assert value + value == env["A"]
    assert "33" == asyncio.run(_read(store))


async def _read(store: ParameterStore) -> str:
    async with store:
        return (await store.get("/P/A")).value


def test_intervals_are_those_of_ensure_fresh() -> None:
    """`max_stale` and `list_interval` hold where the values are refreshed when they are needed."""
    clock = ManualClock()
    store = MemoryStore({"/P/A": "1"}, clock=clock)
    env = load_env_sync("/P", max_stale=100, list_interval=10, environ={}, store=store)

    async def later(seconds: float) -> None:
        await clock.advance(seconds)
        fresh = asyncio.ensure_future(env.ensure_fresh(1))
        await clock.advance(30)
        await fresh

    store.set("/P/B", "1")
    asyncio.run(later(20))
    assert {"A", "B"} == env.keys()
    store.fail()
    with pytest.raises(StaleEnv):
        asyncio.run(later(200))
    with pytest.raises(StaleEnv):
        env["A"]


# --- Interrupts


@contextmanager
def interrupted(number: signal.Signals, store: MemoryStore) -> Iterator[None]:
    """Send a signal to this thread once a request is under way."""
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        while not store.calls:
            time.sleep(0.005)
        signal.pthread_kill(main, number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pthread_kill")
def test_ctrl_c_ends_the_load() -> None:
    """An interrupt ends the load, waits for its end, and nothing is set; the store can be used again."""
    store, environ = filled(), {"A": "before"}
    store.hang(1)
    began = time.monotonic()

    with pytest.raises(KeyboardInterrupt), interrupted(signal.SIGINT, store):
        load_env_sync("/P", environ=environ, store=store)

    assert time.monotonic() - began < 5
    assert "aiossmenv load_env_sync" not in {thread.name for thread in threading.enumerate()}
    assert {"A": "before"} == environ
    assert {"A": "1"} == dict(load_env_sync("/P", environ=environ, store=store)) == environ


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pthread_kill")
def test_what_a_handler_raises_ends_the_load() -> None:
    """So does what a handler of another signal raises, as a server's does when a worker takes too long."""

    def handle(_: int, __: FrameType | None) -> None:
        raise SystemExit(3)

    store = filled()
    store.hang(1)
    before = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(SystemExit, match="3"), interrupted(signal.SIGTERM, store):
            load_env_sync("/P", environ={}, store=store)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_interrupted_before_it_began() -> None:
    """A load that is interrupted before its loop runs does not begin."""
    runner = _LoopThread(asyncio.sleep(0, "it began"))
    runner._interrupt()

    with pytest.raises(asyncio.CancelledError):
        runner.run()


def test_no_thread_can_be_had() -> None:
    """Where the system gives no thread its error is raised, and no coroutine is left that was never awaited."""
    before = threading.stack_size(1 << 46)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            load_env_sync("/P", environ={}, store=filled())
    finally:
        threading.stack_size(before)


def test_what_was_left_open_is_closed() -> None:
    """Tasks, generators and threads of the executor that the work leaves are ended before it returns."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    async def generate() -> Any:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def work() -> Any:
        tasks.add(asyncio.create_task(wait()))
        await anext(generator)
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    tasks: set[asyncio.Task[None]] = set()
    generator = generate()
    coroutine: Coroutine[object, None, Any] = work()

    assert "asyncio_0" == _LoopThread(coroutine).run()
    assert ["generator", "task"] == sorted(ended)
