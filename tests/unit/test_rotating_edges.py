"""`Rotating`: cancellation, secrets, and errors in callbacks."""

import asyncio
import gc
import logging
import traceback
from contextlib import suppress
from dataclasses import asdict

import pytest

from aiossmenv import (
    Rotating,
    RotationFailed,
)
from aiossmenv._concurrency import LoopClock
from aiossmenv._rotating import ErrorKind, RotatingStatus
from aiossmenv.testing import ManualClock
from followed import (
    Broken,
    Client,
    Refused,
    Service,
    Source,
    _turn,
    forever,
    hold,
    make,
    swallow,
    used,
)
from timing import our_tasks, settle

# Cancellation


async def _idle_turns() -> None:
    """Yield to the loop three times."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("turns", range(31))
async def test_cancelled_use_leaves_nothing(
    source: Source, service: Service, clock: ManualClock, turns: int, *, refused: bool
) -> None:
    """Wherever `use` is cancelled, its lease and its session end and no task is left."""
    rotating = make(source, service)

    async def enter() -> None:
        """Wait for some turns, and raise `Refused` in some cases."""
        await _idle_turns()
        if refused and (turns % 2 or not source.gaps):
            # An odd number of turns is rejected every time, an even one only until the refresh.
            raise Refused(1045, "not yet")

    async def use() -> None:
        """Hold the client for some turns."""
        async with rotating.use(service.session):
            await _idle_turns()

    async with rotating:
        await settle()
        before = asyncio.all_tasks()
        service.entering, service.leaving = enter, _idle_turns
        task = asyncio.create_task(use())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await settle()

        assert 0 == service.sessions
        assert before == asyncio.all_tasks()
        # An old generation without leases is disposed of at once, so no lease is left.
        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await settle()
        assert ["second"] == [client.password for client in service.open]


@pytest.mark.parametrize("turns", range(31))
async def test_start_cancelled_at_any_turn_leaves_nothing(
    source: Source, service: Service, rotating: Rotating[Client], turns: int
) -> None:
    """Wherever the first build is cancelled, nothing is left of it."""
    before = asyncio.all_tasks()
    service.creating = service.probing = _idle_turns
    entering = asyncio.create_task(rotating.__aenter__())
    for _ in range(turns):
        await asyncio.sleep(0)
    if entering.done():
        await rotating.aclose()
    else:
        entering.cancel()
        await asyncio.wait({entering})
    await settle()

    assert [] == service.open
    assert before == asyncio.all_tasks()
    assert 0 == source.watchers


# Secrets


async def test_status(source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock) -> None:
    """The status counts failures, refreshes and swaps, and shows no value."""

    def changes() -> dict[str, object]:
        """Return the fields that differ from a new instance."""
        untouched = RotatingStatus(
            state="READY",
            generation=1,
            retiring=0,
            failures=0,
            last_error=None,
            auth_failures=0,
            refreshes=0,
            force_closed=0,
        )
        now = asdict(rotating.status)
        return {name: now[name] for name, value in asdict(untouched).items() if value != now[name]}

    assert {"state": "NEW", "generation": 0} == changes()
    async with rotating:
        assert {} == changes()
        source.publish(PASSWORD="garbage")
        await clock.advance(0.4)
        error = "Refused 1045"
        assert {
            "state": "DEGRADED",
            "failures": 2,
            "last_error": error,
            "auth_failures": 2,
            "refreshes": 2,
        } == changes()
        assert f"<Rotating USER, PASSWORD: DEGRADED, generation 1, 0 retiring, 2 failed: {error}>" == repr(rotating)

        end = asyncio.Event()
        holders = [asyncio.create_task(hold(rotating, end)) for _ in range(2)]
        await settle()
        service.alter("ann", "second")
        source.store(PASSWORD="second")
        task = asyncio.create_task(used(rotating, service))
        await clock.advance(1)
        await task
        logins = len(service.errors)
        assert {"generation": 2, "retiring": 1, "auth_failures": logins, "refreshes": 3} == changes()
        await clock.advance(30)
        assert {"generation": 2, "auth_failures": logins, "refreshes": 3, "force_closed": 2} == changes()
        end.set()
        await asyncio.gather(*holders)
    assert "CLOSED" == rotating.status.state


async def test_repr_has_no_value(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """The repr shows the keys, the state and the generation, and no value."""
    assert "<Rotating USER, PASSWORD: NEW, generation 0, 0 retiring>" == repr(rotating)
    async with rotating:
        end = asyncio.Event()
        holder = asyncio.create_task(hold(rotating, end))
        await settle()
        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await settle()
        assert "<Rotating USER, PASSWORD: READY, generation 2, 1 retiring>" == repr(rotating)
        end.set()
        await holder
    assert "<Rotating USER, PASSWORD: CLOSED, generation 2, 0 retiring>" == repr(rotating)


async def test_no_value_is_logged(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails, no DEBUG record of any logger, including asyncio's, shows a value."""
    caplog.set_level(logging.DEBUG)

    async def fail() -> None:
        """Raise an error that quotes values."""
        raise Broken("zoe and s3cret")

    async with rotating:
        service.disposing = fail
        service.alter("zoe", "s3cret")
        source.publish(USER="zoe", PASSWORD="s3cret")
        await settle()
        assert 2 == rotating.generation

        service.disposing = _turn
        source.publish(USER="bob-s3cret")
        await clock.advance(1)
        service.creating = fail
        source.publish(USER="joe-s3cret")
        await clock.advance(1)
        service.creating = forever
        source.publish(USER="jim-s3cret")
        await clock.advance(6)
        source.error = Broken("s3cret")
        service.creating = _turn
        await clock.advance(6)
        assert "DEGRADED" == rotating.state

    assert 8 < len(caplog.messages)
    assert [] == [text for text in caplog.text.splitlines() if "s3cret" in text or "zoe" in text]


@pytest.mark.parametrize(
    "stage",
    [
        "creating",
        "probing",
        "login",
        "missing",
        "hanging",
    ],
)
async def test_no_value_is_in_a_traceback(service: Service, clock: ManualClock, stage: str) -> None:
    """A traceback with local variables, as error trackers record it, shows no value in any frame of this library."""

    async def fail() -> None:
        """Raise an error that quotes values."""
        raise Broken("with ann-s3cret and s3cret")

    source = Source(clock, USER="ann-s3cret", PASSWORD="s3cret")
    rotating = make(source, service)
    if stage in {"creating", "probing"}:
        setattr(service, stage, fail)
    elif stage == "missing":
        del source.stored["USER"]
        source.read()
    elif stage == "hanging":
        service.probing = forever
    entering = asyncio.create_task(rotating.__aenter__())
    await clock.advance(10)
    error = entering.exception()
    assert isinstance(error, RotationFailed)

    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert "s3cret" not in str(trace)
    traces = [trace, trace.__cause__]
    frames = 0
    for trace in filter(None, traces):
        for frame in trace.stack:
            if "/aiossmenv/" in frame.filename.replace("\\", "/"):
                frames += 1
                assert "s3cret" not in f"{frame.locals}", frame.name
    assert 1 <= frames


async def test_new_values_end_the_wait_for_a_refresh(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """New values are built at once, even while the next forced refresh waits for its time."""
    async with rotating:
        source.publish(PASSWORD="garbage")
        await clock.advance(10)
        service.alter("ann", "second")
        source.publish(PASSWORD="second")
        await settle()
        assert 2 == rotating.generation


@pytest.mark.parametrize("trouble", ["broken", "missing", "hanging"])
async def test_rejected_use_forces_a_refresh_while_builds_fail(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, trouble: str
) -> None:
    """A rejected use forces a refresh even if the values read last are unusable for another reason."""

    async def create() -> None:
        """Fail or hang while the user is "garbage"."""
        if source.snapshot["USER"] == "garbage":
            await forever() if trouble == "hanging" else None
            raise Broken

    async with rotating:
        service.creating = create
        if trouble == "missing":
            del source.stored["USER"]
            source.read()
        else:
            source.publish(USER="garbage")
        await clock.advance(1)
        service.alter("ann", "second")
        source.store(USER="ann", PASSWORD="second")

        task = asyncio.create_task(used(rotating, service))
        await clock.advance(11)
        assert "second" == task.result().password
        assert 2 == rotating.generation


async def test_swap_at_any_turn_wakes_a_rejected_use(source: Source, service: Service, clock: ManualClock) -> None:
    """A use that is rejected during a swap enters the new generation at once, in whatever order the two happen."""
    late = []
    for turns in range(30):
        rotating = make(source, service)
        source.publish(PASSWORD="first")
        service.alter("ann", "first")

        async def enter(turns: int = turns) -> None:
            """Yield to the loop *turns* times."""
            for _ in range(turns):
                await asyncio.sleep(0)

        async with rotating:
            service.alter("ann", "second")
            service.entering = enter
            task = asyncio.create_task(used(rotating, service))
            source.publish(PASSWORD="second")
            for _ in range(3):
                await settle()
            if not task.done():
                late.append(turns)
            await clock.advance(1)
            await task
    assert [] == late


async def _slowly() -> None:
    """Take longer than the pause between two cancellations."""
    await asyncio.sleep(0.15)


async def test_dispose_after_a_hanging_build_has_its_own_timeout(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """
    What a cancelled build created is disposed of within `dispose_timeout`, not within the 0.1 s of a cancellation.
    """
    async with rotating:
        service.probing, service.disposing = forever, _slowly
        source.publish(PASSWORD="second")
        await clock.advance(5)
        service.probing = _turn
        await asyncio.sleep(0.3)
        assert ["first"] == [client.password for client in service.open]


async def test_cancelled_close_can_be_repeated(service: Service, rotating: Rotating[Client]) -> None:
    """After a cancelled `aclose()`, another call closes the rest."""
    await rotating.__aenter__()
    await settle()
    closing = asyncio.create_task(rotating.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    await rotating.aclose()
    await settle()
    assert [] == service.open


async def test_second_close_waits_for_the_first(service: Service, rotating: Rotating[Client]) -> None:
    """Each call of `aclose()` returns only when everything is closed, even if another call started the close."""
    end = asyncio.Event()
    await rotating.__aenter__()
    holder = asyncio.create_task(hold(rotating, end))
    await settle()
    first = asyncio.create_task(rotating.aclose())
    await settle()
    second = asyncio.create_task(rotating.aclose())
    await settle()
    early = second.done()
    end.set()
    await asyncio.gather(first, second, holder)
    assert not early


async def _end_slowly() -> None:
    """Take 50 ms to end after a cancellation."""
    try:
        await forever()
    finally:
        await asyncio.sleep(0.05)


async def test_use_fails_once_closing(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """As soon as `aclose()` is called, `use` raises, even while a build is still ending."""
    await rotating.__aenter__()
    service.creating = _end_slowly
    source.publish(PASSWORD="second")
    await settle()
    closing = asyncio.create_task(rotating.aclose())
    await asyncio.sleep(0)
    task = asyncio.create_task(used(rotating, service))
    await asyncio.wait({closing, task})
    assert isinstance(task.exception(), RotationFailed)


async def test_closing_causes_few_logins(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """A use that is rejected while a build ends does not retry hundreds of times in that moment."""
    await rotating.__aenter__()
    service.creating = _end_slowly
    service.alter("ann", "third")
    source.publish(PASSWORD="second")
    await settle()
    task = asyncio.create_task(used(rotating, service))
    await settle()
    await rotating.aclose()
    await asyncio.wait({task})
    assert isinstance(task.exception(), RotationFailed)
    assert 5 > len(service.errors)


async def _cancel_itself() -> None:
    """Raise what a driver raises if its inner task is cancelled."""
    raise asyncio.CancelledError


async def test_build_that_cancels_itself_does_not_end_the_supervisor(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """A build whose inner task was cancelled counts as a failed build."""
    async with rotating:
        service.creating = _cancel_itself
        source.publish(PASSWORD="second")
        await clock.advance(1)
        service.creating = _turn
        service.logins.add(("ann", "third"))
        source.publish(PASSWORD="third")
        await clock.advance(1)
        assert 2 == rotating.generation


async def test_first_build_that_cancels_itself_is_rotation_failed(service: Service, rotating: Rotating[Client]) -> None:
    """A first build whose inner task was cancelled raises `RotationFailed`, and does not cancel the caller."""
    service.creating = _cancel_itself
    entering = asyncio.create_task(rotating.__aenter__())
    await asyncio.wait({entering})
    assert not entering.cancelled()
    assert isinstance(entering.exception(), RotationFailed)


async def test_classify_that_raises_does_not_end_the_supervisor(
    source: Source, service: Service, clock: ManualClock
) -> None:
    """An error in `classify` prevents retries, but not the rotation."""

    def mistaken(error: Exception) -> ErrorKind:
        """Raise for every error."""
        raise KeyError(error.args[0])

    rotating = make(source, service, classify=mistaken)
    async with rotating:
        await settle()
        followers = asyncio.all_tasks() - {asyncio.current_task()}
        source.publish(PASSWORD="second")
        await clock.advance(1)
        assert {None} == {
            follower.exception() for follower in followers if follower.done() and not follower.cancelled()
        } | {None}

        service.logins.add(("ann", "third"))
        source.publish(PASSWORD="third")
        await clock.advance(1)
        assert 2 == rotating.generation


async def test_entering_again_is_rotation_failed(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """After `aclose()` it cannot be entered again, and the attempt starts nothing."""
    async with rotating:
        pass
    with pytest.raises(RotationFailed):
        await rotating.__aenter__()
    assert 0 == source.watchers
    assert 1 == len(service.created)


async def test_entering_twice_is_an_error(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """An open instance cannot be entered a second time."""
    before = asyncio.all_tasks()
    async with rotating:
        with suppress(RuntimeError, RotationFailed):
            await rotating.__aenter__()
        assert 1 == source.watchers
        assert 1 == len(service.created)
    await settle()
    assert before == asyncio.all_tasks()


def test_keys_must_not_be_a_string(source: Source, service: Service) -> None:
    """A string in place of a list of keys is a TypeError, as for `load_env`."""
    with pytest.raises(TypeError, match="keys"):
        Rotating(source, "USER", service.create)


async def test_no_value_is_logged_by_asyncio(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """If a disposal raises when it is cancelled, no log shows the error's text."""

    async def fail_late() -> None:
        """Raise an error when cancelled."""
        await swallow()
        raise Broken("s3cret")

    async with rotating:
        service.disposing = fail_late
        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await clock.advance(4)
        service.disposing = _turn
    gc.collect()
    assert "s3cret" not in caplog.text


async def test_closing_while_a_build_is_cancelled(source: Source, service: Service, clock: ManualClock) -> None:
    """`aclose()` waits for a build that ends late and still creates its resource, and disposes of the resource."""

    async def stubborn() -> None:
        """End late, and without an error, after a cancellation."""
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)

    rotating = make(source, service)
    async with rotating:
        service.creating = stubborn
        source.publish(PASSWORD="second")
        await settle()
        await clock.advance(5)
    assert [] == service.open
    assert set() == await our_tasks()


async def test_missing_values_that_return_are_tried_at_once(
    source: Source, service: Service, clock: ManualClock
) -> None:
    """A missing key that returns is a change, even if its value is the one that failed before."""
    async with make(source, service) as rotating:
        source.publish(PASSWORD="second")
        await settle()
        assert "DEGRADED" == rotating.state
        for key in ("PASSWORD", "USER"):
            gone = source.stored.pop(key)
            source.publish()
            await settle()
            assert "there is no" in str(rotating.status.last_error)
            service.logins.add(("ann", "second"))
            source.publish(**{key: gone})
            await settle()
            assert (2, "READY") == (rotating.generation, rotating.state)


async def test_min_gap_of_zero_does_not_spin(source: Source, service: Service) -> None:
    """Even with `min_gap=0`, there is a pause between forced refreshes of values that fail."""
    source._clock = LoopClock()
    async with make(source, service, min_gap=0, random=lambda: 0.0) as rotating:
        source.publish(PASSWORD="second")
        await asyncio.sleep(0.2)
        assert 0 < rotating.status.refreshes < 20
