"""When a resource that follows its keys has them read again; its beginning and its end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
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

# Asking


async def test_refreshes_that_fail_do_not_end_the_follower(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """While refreshes fail it keeps asking, and when they succeed again it swaps."""
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


async def test_it_asks_ever_more_rarely(source: Source, rotating: Rotating[Client], clock: ManualClock) -> None:
    """The gap between forced refreshes doubles to a minute while there is no news, and is short again after some."""
    async with rotating:
        source.publish(PASSWORD="garbage")
        await clock.advance(300)
        assert [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] == source.gaps[:10]
        source.gaps.clear()

        source.store(PASSWORD="other garbage")
        await clock.advance(70)
        fresh = source.gaps[source.gaps.index(0.25) :]
        assert [0.25, 0.5, 1.0, 2.0] == fresh[:4]


async def test_it_asks_soon_again_after_a_build(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """However rarely it asked in the end for values that then did work: the next time it is as quick as the first."""
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
async def test_a_refused_user_ends_a_long_gap(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, *, garbage: bool
) -> None:
    """However rarely it tries while the old generation serves: when that one is refused, it does so at once."""
    async with rotating:
        source.publish(PASSWORD="garbage" if garbage else "second")
        await clock.advance(600)

        service.alter("ann", "second")
        source.store(PASSWORD="second")
        task = asyncio.create_task(used(rotating, service))
        await settle()
        await clock.advance(0.5)
        assert "second" == task.result().password


async def test_what_nobody_says_may_go_better_is_built_rarely(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """
    Values that fail with an error that `classify` does not name are built again after a minute, news is asked for all
    the same.
    """
    tries: list[float] = []

    async def blocked() -> None:
        """Refuse for a reason that more tries only make worse."""
        tries.append(clock.now())
        raise Broken

    async with rotating:
        service.probing = blocked
        source.publish(PASSWORD="second")
        await clock.advance(59)
        assert [0.0] == tries
        assert 5 < len(source.gaps)

        # Users who are refused do not make it more often.
        service.alter("ann", "third")
        task = asyncio.create_task(used(rotating, service))
        await clock.advance(1)
        assert [0.0] == tries

        # New values do.
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


async def test_it_asks_ever_more_rarely_for_users_too(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Users who are refused for long do not have the keys read again each time; after a swap the gap is short again."""
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


async def test_several_share_their_forced_refreshes(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, service: Service, clock: ManualClock
) -> None:
    """Whatever follows the same keys of one `Env` has them read once, and not again before `min_gap` is over."""
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


# Beginning and end


async def test_a_first_build_that_is_refused_is_rotation_failed(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """
    Credentials that do not work for `start_deadline` are an error that names the keys, with the cause, and leave
    nothing.
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
    # A handful: an account may be blocked after some.
    assert 5 <= len(service.errors) <= 7
    assert [] == service.open
    assert 0 == source.watchers


async def test_a_start_in_the_window_of_a_rotation(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """
    Who begins when the password is new in the service and not yet in the store has the keys read again, and goes on.
    """
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


async def test_a_start_before_the_service(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Who begins before what it needs is up waits for it, and reads nothing again."""

    async def not_yet() -> None:
        """Be down for five seconds."""
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


async def test_a_start_that_no_second_try_helps(service: Service, rotating: Rotating[Client]) -> None:
    """An error of the first build that `classify` does not name is raised at once."""

    async def fail() -> None:
        """Raise what is not named."""
        raise Broken

    service.probing = fail
    with pytest.raises(RotationFailed, match="USER, PASSWORD: Broken"):
        await rotating.__aenter__()
    assert 1 == len(service.disposed)


@pytest.mark.parametrize(("deadline", "said"), [(10, "TimeoutError"), (2, "no answer within 2 s")])
async def test_a_first_build_that_hangs_is_rotation_failed(
    source: Source, service: Service, clock: ManualClock, deadline: float, said: str
) -> None:
    """A start that hangs for `start_deadline` is an error, and leaves nothing."""
    service.probing = forever
    entering = asyncio.create_task(make(source, service, start_deadline=deadline).__aenter__())
    await clock.advance(deadline - 0.1)
    assert not entering.done()

    await clock.advance(0.1)
    with pytest.raises(RotationFailed, match=said):
        await entering
    assert [] == service.open


async def test_a_missing_key_is_rotation_failed(service: Service, clock: ManualClock) -> None:
    """Keys that are not there at the start are all named."""
    with pytest.raises(RotationFailed) as caught:
        await make(Source(clock, COLOUR="red"), service).__aenter__()

    assert "there is no USER, PASSWORD" in f"{caught.value.__cause__}"
    assert [] == service.created


async def test_a_cancelled_start_leaves_nothing(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """Whoever gives up on entering gets his cancellation, and nothing is left."""
    service.probing = forever
    entering = asyncio.create_task(rotating.__aenter__())
    await settle()
    entering.cancel()
    await asyncio.wait({entering})

    assert entering.cancelled()
    assert 1 == len(service.created)
    assert [] == service.open
    assert 0 == source.watchers


async def test_a_start_that_ends_with_the_loop_is_no_warning(service: Service, rotating: Rotating[Client]) -> None:
    """Where everything is cancelled at once while it is first built, nobody has forgotten to close anything."""
    service.probing = forever
    before = asyncio.all_tasks()
    entering = asyncio.create_task(rotating.__aenter__())
    await settle()
    tasks = asyncio.all_tasks() - before
    # The follower first.
    for task in sorted(tasks, key=lambda task: task is entering):
        task.cancel()
    await asyncio.wait(tasks)

    assert [] == [task for task in tasks if not task.cancelled()]
    assert [] == service.open


async def test_one_that_was_not_closed_warns(rotating: Rotating[Client]) -> None:
    """Where the loop ends before anybody has closed it, a warning says so."""
    before = asyncio.all_tasks()
    await rotating.__aenter__()
    (supervisor,) = (task for task in asyncio.all_tasks() - before if task.get_name() == "aiossmenv supervisor")
    await settle()
    supervisor.cancel()
    with pytest.warns(ResourceWarning, match="unclosed <Rotating USER, PASSWORD: READY, generation 1"):
        await asyncio.wait({supervisor})
    await rotating.aclose()


async def test_closing_during_the_start_ends_it(service: Service, rotating: Rotating[Client]) -> None:
    """What is closed while it is first built does not open afterwards."""
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


async def test_use_outside_of_the_block_is_rotation_failed(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """Before it is entered and after it is closed there is nothing to use; closing twice is fine."""
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
    """`aclose()` lets those who are inside finish, lets nobody else in, and then disposes of all."""
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


async def test_closing_does_not_wait_for_ever(service: Service, rotating: Rotating[Client], clock: ManualClock) -> None:
    """`aclose()` disposes of what is still in use after `drain_timeout`."""
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


async def test_closing_wakes_who_waits_to_try_again(service: Service, rotating: Rotating[Client]) -> None:
    """Whoever is refused while it is closed does not wait until his deadline."""
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
    """
    `aclose()` ends a build that is under way, also one that swallows a cancellation, and all that was made is gone.
    """
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
    """Wherever a build, a swap and a disposal are when `aclose()` comes: all that was made is gone."""
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


async def test_dispose_that_hangs_is_bounded(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A disposal may take `dispose_timeout`; then it is given up, with a warning."""
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
    """What a disposal raises gets no further than the log."""

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
