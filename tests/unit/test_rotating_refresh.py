"""`Rotating`: when it forces refreshes, how it starts and how it closes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import pairwise

import pytest

from aiossmenv import (
    ParameterStore,
    Rotating,
    RotationFailed,
    StoreUnavailable,
    load_env,
)
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import FaultProxy
from followed import (
    Broken,
    Busy,
    Client,
    Refused,
    Service,
    Source,
    _turn,
    forever,
    hold,
    make,
    swallow,
    swallow_and_hang,
    used,
)
from timing import settle

# Forced refreshes


async def test_failed_refreshes_do_not_end_the_supervisor(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """While refreshes fail it retries them, and it swaps as soon as one succeeds."""
    async with rotating:
        source.error = StoreUnavailable("no network")
        service.alter("ann", "second")
        source.store(PASSWORD="second")
        source.publish(PASSWORD="typo")
        await clock.advance(20)
        assert (1, "DEGRADED") == (rotating.generation, rotating.state)
        assert 3 < len(source.gaps)
        assert "forced refresh of USER, PASSWORD failed: StoreUnavailable: no network" in caplog.messages

        source.error = None
        source.store(PASSWORD="second")
        await clock.advance(20)
        assert (2, "READY") == (rotating.generation, rotating.state)


async def test_refresh_gap_backs_off(source: Source, rotating: Rotating[Client], clock: ManualClock) -> None:
    """The gap between forced refreshes doubles up to a minute while nothing changes, and a change resets it."""
    async with rotating:
        source.publish(PASSWORD="garbage")
        await clock.advance(300)
        assert [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] == source.gaps[:10]
        source.gaps.clear()

        source.store(PASSWORD="other garbage")
        await clock.advance(70)
        fresh = source.gaps[source.gaps.index(0.25) :]
        assert [0.25, 0.5, 1.0, 2.0] == fresh[:4]


async def test_swap_resets_the_refresh_gap(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """After a swap the gap between forced refreshes is the shortest again."""
    async with rotating:
        source.publish(PASSWORD="second")
        await clock.advance(6)
        service.alter("ann", "second")
        await clock.advance(4)
        assert 2 == rotating.generation
        source.gaps.clear()

        service.alter("ann", "third")
        task = asyncio.create_task(used(rotating, service))
        await clock.advance(0.1)
        assert 0.25 == source.gaps[0]
        source.publish(PASSWORD="third")
        await task


@pytest.mark.parametrize("garbage", [False, True])
async def test_rejected_use_ends_a_long_gap(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, *, garbage: bool
) -> None:
    """However long the gap has become while the old generation serves, a rejected use forces a refresh at once."""
    async with rotating:
        source.publish(PASSWORD="garbage" if garbage else "second")
        await clock.advance(600)

        service.alter("ann", "second")
        source.store(PASSWORD="second")
        task = asyncio.create_task(used(rotating, service))
        await settle()
        await clock.advance(0.5)
        assert "second" == task.result().password


async def test_one_login_is_rejected_and_not_one_of_each_task(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Of many tasks that must log in after a rotation one is rejected; the others wait for newer credentials."""

    @asynccontextmanager
    async def logged_in(client: Client) -> AsyncIterator[Client]:
        async with rotating._login(client):
            await _turn()
            service.check(client)
        yield client

    async def use() -> None:
        async with rotating.use(logged_in):
            pass

    async with rotating:
        service.alter("ann", "second")
        source.store(PASSWORD="second")
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(use())
            await clock.advance(5)
        assert (1, 2) == (rotating.status.auth_failures, rotating.generation)


async def test_rejected_credentials_that_come_back_log_in(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """Values that were rejected, replaced by a poll, and are valid and current again log in without a wait."""

    @asynccontextmanager
    async def logged_in(client: Client) -> AsyncIterator[Client]:
        async with rotating._login(client):
            if rotating.generation == 1:
                source.publish(PASSWORD="second")  # a poll finds it in the same moment
            service.check(client)
        yield client

    async with rotating:
        service.alter("ann", "second")
        async with rotating.use(logged_in):
            assert 2 == rotating.generation
        service.alter("ann", "first")
        source.publish(PASSWORD="first")
        await settle()
        assert 3 == rotating.generation
        using = asyncio.create_task(used_by(rotating, logged_in))
        await settle()
        assert using.done()
        await using


async def used_by(rotating: Rotating[Client], enter: Callable[[Client], AbstractAsyncContextManager[Client]]) -> Client:
    """Enter once."""
    async with rotating.use(enter) as client:
        return client


async def test_unclassified_build_errors_are_retried_rarely(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """
    Values that fail with an unclassified error are built again only after a minute; refreshes continue meanwhile.
    """
    tries: list[float] = []

    async def blocked() -> None:
        """Raise an error that more tries only make worse."""
        tries.append(clock.now())
        raise Broken

    async with rotating:
        service.probing = blocked
        source.publish(PASSWORD="second")
        await clock.advance(59)
        assert [0.0] == tries
        assert 5 < len(source.gaps)

        # A rejected use does not shorten the pause.
        service.alter("ann", "third")
        task = asyncio.create_task(used(rotating, service))
        await clock.advance(1)
        assert [0.0] == tries

        # New values end it.
        source.publish(PASSWORD="third")
        await settle()
        assert 2 == len(tries)
        await clock.advance(180)
        assert 3 <= len(tries) <= 5
        assert 60 <= min(later - sooner for sooner, later in pairwise(tries[1:]))
        assert isinstance(task.exception(), Refused)

        service.probing = _turn
        await clock.advance(121)
        assert (2, "READY") == (rotating.generation, rotating.state)


async def test_refresh_gap_backs_off_for_rejected_uses_too(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Uses that are rejected again and again share ever longer gaps between refreshes; a swap resets the gap."""
    async with rotating:
        service.alter("ann", "second")
        tasks = [asyncio.create_task(used(rotating, service)) for _ in range(5)]
        await clock.advance(11)
        assert {Refused} == {type(task.exception()) for task in tasks}
        assert [0.25, 0.5, 1.0, 2.0, 4.0] == source.gaps[:5]
        assert 7 > len(source.gaps)

        source.publish(PASSWORD="second")
        await clock.advance(5)
        assert 2 == rotating.generation
        source.gaps.clear()
        service.alter("ann", "third")
        source.store(PASSWORD="third")
        task = asyncio.create_task(used(rotating, service))
        await clock.advance(1)
        assert "third" == task.result().password
        assert [0.25] == source.gaps


async def test_instances_share_their_forced_refreshes(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, service: Service, clock: ManualClock
) -> None:
    """
    All instances with the same keys of one `Env` share one forced refresh, and none follows before `min_gap` is over.
    """
    for key, value in {"USER": "ann", "PASSWORD": "first"}.items():
        await asyncio.to_thread(ssm.put, f"/T/{key}", value)
    async with load_env("/T", store=store, ttl=3600, environ=None) as env, AsyncExitStack() as stack:
        rotatings = [await stack.enter_async_context(make(env, service)) for _ in range(3)]
        proxy.clear()
        for number, password in enumerate(("second", "third"), 1):
            service.alter("ann", password)
            await asyncio.to_thread(ssm.put, "/T/PASSWORD", password)
            tasks = [asyncio.create_task(used(rotating, service)) for rotating in rotatings for _ in range(4)]
            await clock.advance(0.15)
            await asyncio.sleep(0.05)
            assert number - 1 == proxy.count()

            await clock.advance(0.15)
            assert {password} == {client.password for client in await asyncio.gather(*tasks)}
            assert number == proxy.count("GetParameters") == proxy.count()
        assert [3, 3, 3] == [rotating.generation for rotating in rotatings]


# Start and close


async def test_rejected_first_build_is_rotation_failed(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """
    Credentials that fail until `start_deadline` raise an error that names the keys and has the cause; nothing is left.
    """
    service.alter("ann", "second")
    entering = asyncio.create_task(rotating.__aenter__())
    await clock.advance(9.9)
    assert not entering.done()

    await clock.advance(0.1)
    with pytest.raises(RotationFailed, match="USER, PASSWORD: Refused 1045") as caught:
        await entering
    assert service.errors[-1] is caught.value.__cause__
    assert "CLOSED" == rotating.state
    # Few logins: a server may block the account after some.
    assert 5 <= len(service.errors) <= 7
    assert [] == service.open
    assert 0 == source.watchers


async def test_start_in_the_window_of_a_rotation(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """If the service has the new password before the store at the start, the keys are read again until they match."""
    service.alter("ann", "second")
    entering = asyncio.create_task(rotating.__aenter__())
    await clock.advance(1.5)
    assert not entering.done()
    assert "NEW" == rotating.state

    source.store(PASSWORD="second")
    await clock.advance(2)
    assert rotating is await entering
    assert (1, "READY") == (rotating.generation, rotating.state)
    assert "second" == (await used(rotating, service)).password
    await rotating.aclose()
    assert [] == service.open


async def test_start_before_the_service(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """A start before the service is up waits for it, without a refresh."""

    async def not_yet() -> None:
        """Raise `Busy` for five seconds."""
        if clock.now() < 5:
            raise Busy

    service.probing = not_yet
    entering = asyncio.create_task(rotating.__aenter__())
    await clock.advance(4.9)
    assert not entering.done()
    assert 5 < rotating.status.failures

    await clock.advance(1)
    assert rotating is await entering
    assert (1, "READY") == (rotating.generation, rotating.state)
    assert [] == source.gaps
    await rotating.aclose()
    assert [] == service.open


async def test_unclassified_error_at_the_start_is_raised_at_once(service: Service, rotating: Rotating[Client]) -> None:
    """A first build that fails with an unclassified error raises at once."""

    async def fail() -> None:
        """Raise an unclassified error."""
        raise Broken

    service.probing = fail
    with pytest.raises(RotationFailed, match="USER, PASSWORD: Broken"):
        await rotating.__aenter__()
    assert 1 == len(service.disposed)


@pytest.mark.parametrize(("deadline", "said"), [(10, "TimeoutError"), (2, "no answer within 2 s")])
async def test_hanging_first_build_is_rotation_failed(
    source: Source, service: Service, clock: ManualClock, deadline: float, said: str
) -> None:
    """A start that hangs until `start_deadline` raises, and leaves nothing."""
    service.probing = forever
    entering = asyncio.create_task(make(source, service, start_deadline=deadline).__aenter__())
    await clock.advance(deadline - 0.1)
    assert not entering.done()

    await clock.advance(0.1)
    with pytest.raises(RotationFailed, match=said):
        await entering
    assert [] == service.open


async def test_missing_key_is_rotation_failed(service: Service, clock: ManualClock) -> None:
    """The error of a start names every missing key."""
    with pytest.raises(RotationFailed) as caught:
        await make(Source(clock, COLOUR="red"), service).__aenter__()

    assert "there is no USER, PASSWORD" in f"{caught.value.__cause__}"
    assert [] == service.created


async def test_cancelled_start_leaves_nothing(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """A cancelled start raises CancelledError, and leaves nothing."""
    service.probing = forever
    entering = asyncio.create_task(rotating.__aenter__())
    await settle()
    entering.cancel()
    await asyncio.wait({entering})

    assert entering.cancelled()
    assert 1 == len(service.created)
    assert [] == service.open
    assert 0 == source.watchers


async def test_start_that_ends_with_the_loop_causes_no_warning(service: Service, rotating: Rotating[Client]) -> None:
    """If all tasks are cancelled at once during the first build, there is no warning about a missing close."""
    service.probing = forever
    before = asyncio.all_tasks()
    entering = asyncio.create_task(rotating.__aenter__())
    await settle()
    tasks = asyncio.all_tasks() - before
    # Cancel the supervisor first.
    for task in sorted(tasks, key=lambda task: task is entering):
        task.cancel()
    await asyncio.wait(tasks)

    assert [] == [task for task in tasks if not task.cancelled()]
    assert [] == service.open


async def test_missing_close_warns(rotating: Rotating[Client]) -> None:
    """If the loop ends before `aclose()`, a ResourceWarning says so."""
    before = asyncio.all_tasks()
    await rotating.__aenter__()
    (supervisor,) = (task for task in asyncio.all_tasks() - before if task.get_name() == "aiossmenv supervisor")
    await settle()
    supervisor.cancel()
    with pytest.warns(ResourceWarning, match="unclosed <Rotating USER, PASSWORD: READY, generation 1"):
        await asyncio.wait({supervisor})
    await rotating.aclose()


async def test_closing_during_the_start_ends_it(service: Service, rotating: Rotating[Client]) -> None:
    """An instance that is closed during its first build does not open afterwards."""
    gate = asyncio.Event()
    service.probing = gate.wait
    entering = asyncio.create_task(rotating.__aenter__())
    await settle()
    await rotating.aclose()
    gate.set()

    with pytest.raises(RotationFailed, match="PASSWORD: it was closed"):
        await entering
    assert 1 == len(service.created)
    assert [] == service.open
    assert "CLOSED" == rotating.state


async def test_use_while_closed_is_rotation_failed(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """Before entering and after closing, `use` raises; a second close does nothing."""
    with pytest.raises(RotationFailed, match="not open"):
        await used(rotating, service)

    async with rotating:
        await used(rotating, service)
        await rotating.aclose()
        await rotating.aclose()
        with pytest.raises(RotationFailed, match="not open"):
            await used(rotating, service)

    assert "CLOSED" == rotating.state
    assert service.created == service.disposed
    assert 0 == source.watchers


async def test_closing_waits_for_leases(service: Service, rotating: Rotating[Client], clock: ManualClock) -> None:
    """`aclose()` waits for the leases, rejects new ones, and then disposes of everything."""
    end = asyncio.Event()
    await rotating.__aenter__()
    holder = asyncio.create_task(hold(rotating, end))
    await settle()
    closing = asyncio.create_task(rotating.aclose())
    await clock.advance(29)

    assert not closing.done()
    assert 1 == len(service.open)
    with pytest.raises(RotationFailed):
        await used(rotating, service)

    end.set()
    await settle()
    assert closing.done()
    assert [] == service.open
    await holder


async def test_closing_does_not_wait_forever(service: Service, rotating: Rotating[Client], clock: ManualClock) -> None:
    """After `drain_timeout`, `aclose()` disposes of what is still leased."""
    end = asyncio.Event()
    await rotating.__aenter__()
    holder = asyncio.create_task(hold(rotating, end))
    await settle()
    closing = asyncio.create_task(rotating.aclose())
    await clock.advance(30)

    assert closing.done()
    assert [] == service.open
    end.set()
    await holder


async def test_closing_wakes_a_waiting_retry(service: Service, rotating: Rotating[Client]) -> None:
    """A use that waits for its next try fails as soon as `aclose()` is called, not at its deadline."""
    await rotating.__aenter__()
    service.alter("ann", "second")
    task = asyncio.create_task(used(rotating, service))
    await settle()
    assert not task.done()

    await rotating.aclose()
    await settle()
    assert isinstance(task.exception(), RotationFailed)


@pytest.mark.parametrize("stage", ["creating", "probing"])
@pytest.mark.parametrize("trouble", [forever, swallow, swallow_and_hang])
async def test_closing_during_a_build_leaves_nothing(
    source: Source,
    service: Service,
    rotating: Rotating[Client],
    stage: str,
    trouble: Callable[[], Awaitable[object]],
) -> None:
    """`aclose()` ends a running build, even one that swallows a cancellation, and disposes of everything it created."""
    before = asyncio.all_tasks()
    await rotating.__aenter__()
    setattr(service, stage, trouble)
    service.logins.add(("ann", "second"))
    source.publish(PASSWORD="second")
    await settle()

    await rotating.aclose()
    await settle()

    assert [] == service.open
    assert before == asyncio.all_tasks()


@pytest.mark.parametrize("turns", range(31))
async def test_closing_at_any_turn_of_a_swap_leaves_nothing(
    source: Source, service: Service, rotating: Rotating[Client], turns: int
) -> None:
    """Wherever `aclose()` interrupts a build, a swap or a disposal, everything that was created is disposed of."""
    before = asyncio.all_tasks()
    await rotating.__aenter__()
    service.logins.add(("ann", "second"))
    source.publish(PASSWORD="second")
    for _ in range(turns):
        await asyncio.sleep(0)

    await rotating.aclose()
    await settle()

    assert [] == service.open
    assert before == asyncio.all_tasks()


async def test_hanging_dispose_is_cancelled(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A disposal that exceeds `dispose_timeout` is cancelled, and a warning says so."""
    await rotating.__aenter__()
    service.disposing = forever
    service.logins.add(("ann", "second"))
    source.publish(PASSWORD="second")
    await settle()
    assert 2 == rotating.generation
    service.disposing = _turn

    closing = asyncio.create_task(rotating.aclose())
    await clock.advance(2.9)
    assert not closing.done()
    await clock.advance(0.2)
    assert closing.done()
    assert ["an old generation of USER, PASSWORD was not closed: TimeoutError: not done within 3 s"] == caplog.messages
    assert ["first"] == [client.password for client in service.open]


async def test_dispose_that_raises_is_logged(
    source: Source, service: Service, rotating: Rotating[Client], caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a disposal is logged and not raised."""

    async def fail() -> None:
        """Raise an error that quotes a value."""
        raise Broken("with first, which is a secret")

    async with rotating:
        service.disposing = fail
        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await settle()

        assert ["an old generation of USER, PASSWORD was not closed: Broken"] == caplog.messages
        assert (2, "READY") == (rotating.generation, rotating.state)
