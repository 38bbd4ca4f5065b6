"""A resource that follows its keys: builds, leases and entering, on a manual clock."""

import asyncio
from collections.abc import Mapping

import pytest

from aiossmenv import (
    Rotating,
)
from aiossmenv.testing import ManualClock
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
    swallow_and_hang,
    used,
)
from timing import settle

# Following


async def test_a_change_of_a_key_swaps(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """A new value is built into a new generation, which then serves, and the old one is disposed of."""
    async with rotating:
        assert (1, "READY") == (rotating.generation, rotating.state)
        service.logins.add(("ann", "second"))

        source.publish(PASSWORD="second")
        await settle()

        assert (2, "READY") == (rotating.generation, rotating.state)
        assert "second" == (await used(rotating, service)).password
        assert service.created[:1] == service.disposed
    assert service.created == service.disposed


async def test_create_gets_its_keys_alone(source: Source, service: Service, clock: ManualClock) -> None:
    """`create` is given a mapping of the keys that were named, whose repr has no value."""

    async def create(values: Mapping[str, str]) -> dict[str, str]:
        """Keep what was given."""
        assert "<values of PASSWORD, USER>" == repr(values)
        assert 2 == len(values)
        return dict(values)

    async with Rotating(source, ["PASSWORD", "USER"], create) as rotating, rotating.use() as made:
        assert {"PASSWORD": "first", "USER": "ann"} == made


async def test_other_keys_are_none_of_its_business(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """A change of a key that it is not made of builds nothing."""
    async with rotating:
        source.publish(COLOUR="blue")
        await settle()

        assert 1 == rotating.generation
        assert 1 == len(service.created)


async def test_the_same_values_are_not_built_again(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """A parameter that is there and back between two looks builds nothing: values count, not events."""
    async with rotating:
        source.publish(PASSWORD="second")
        source.publish(PASSWORD="first")
        await settle()

        assert 1 == len(service.created)


async def test_nothing_is_disposed_of_before_its_successor_serves(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """While the next generation is built the current one serves, and is open."""
    async with rotating:
        service.logins.add(("ann", "second"))
        gate = asyncio.Event()
        service.creating = gate.wait
        source.publish(PASSWORD="second")
        await settle()

        assert "first" == (await used(rotating, service)).password
        assert [] == service.disposed

        gate.set()
        await settle()
        assert "second" == (await used(rotating, service)).password
        assert service.created[:1] == service.disposed


async def test_garbage_leaves_the_old_generation_in_place(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Values that do not work make it DEGRADED and never serve; with the old ones back it is READY, unbuilt."""
    async with rotating:
        source.publish(PASSWORD="garbage")
        await settle()

        assert (1, "DEGRADED") == (rotating.generation, rotating.state)
        assert "first" == (await used(rotating, service)).password
        assert service.created[:1] == service.open
        builds = len(service.created)

        source.publish(PASSWORD="first")
        await clock.advance(0.5)
        assert (1, "READY") == (rotating.generation, rotating.state)
        assert builds == len(service.created)
        assert service.created[:1] == service.open


async def test_a_torn_pair_never_serves(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """The new user with the old password is refused by the probe; when the password follows, it serves."""
    async with rotating:
        service.logins |= {("bob", "second")}
        source.publish(USER="bob")
        await settle()
        assert (1, "DEGRADED") == (rotating.generation, rotating.state)
        assert "ann" == (await used(rotating, service)).user

        source.publish(PASSWORD="second")
        await clock.advance(0.5)
        assert (2, "READY") == (rotating.generation, rotating.state)
        assert ("bob", "second") == (service.open[0].user, service.open[0].password)


async def test_a_torn_pair_is_asked_after(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """What the probe refuses is read again without waiting for anybody's next refresh."""
    async with rotating:
        service.logins |= {("bob", "second")}
        source.publish(USER="bob")
        source.store(PASSWORD="second")
        await clock.advance(1)

        assert 2 == rotating.generation
        assert ("bob", "second") == (service.open[0].user, service.open[0].password)


async def test_a_burst_is_one_build(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """Of a hundred values in a burst only the last one is built."""
    async with rotating:
        service.logins |= {("ann", f"{n}") for n in range(100)}
        for n in range(100):
            source.publish(PASSWORD=f"{n}")
        await settle()

        assert ["first", "99"] == [client.password for client in service.created]
        assert "99" == (await used(rotating, service)).password


async def test_a_burst_during_a_build_is_one_more_build(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """Values that come while one is built wait, and only the newest of them is built."""
    async with rotating:
        service.logins |= {("ann", f"{n}") for n in range(100)}
        gate = asyncio.Event()
        service.creating = gate.wait
        for n in range(100):
            source.publish(PASSWORD=f"{n}")
            await settle()
        gate.set()
        await settle()

        assert ["first", "0", "99"] == [client.password for client in service.created]
        assert "99" == (await used(rotating, service)).password


@pytest.mark.parametrize("stage", ["creating", "probing"])
async def test_a_build_that_hangs_is_called_off(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, stage: str
) -> None:
    """
    After `build_timeout` the old generation serves on, DEGRADED, nothing is left of the attempt, and the next is made.
    """
    async with rotating:
        service.logins.add(("ann", "second"))
        setattr(service, stage, forever)
        source.publish(PASSWORD="second")
        await clock.advance(4.9)
        assert "READY" == rotating.state

        await clock.advance(0.101)
        assert (1, "DEGRADED") == (rotating.generation, rotating.state)
        assert "first" == (await used(rotating, service)).password
        assert service.created[:1] == service.open

        setattr(service, stage, _turn)
        await clock.advance(6)
        assert (2, "READY") == (rotating.generation, rotating.state)
        assert "second" == (await used(rotating, service)).password
    assert [] == service.open


@pytest.mark.parametrize("stage", ["creating", "probing"])
async def test_a_build_that_swallows_its_cancellation_is_cancelled_again(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, stage: str
) -> None:
    """A driver that goes on hanging when it is cancelled is cancelled once more, and nothing is left of the attempt."""
    async with rotating:
        before = asyncio.all_tasks()
        setattr(service, stage, swallow_and_hang)
        source.publish(PASSWORD="second")
        await clock.advance(5)
        setattr(service, stage, _turn)
        async with asyncio.timeout(2):
            while rotating.state != "DEGRADED":
                await asyncio.sleep(0.01)

        assert "first" == (await used(rotating, service)).password
        assert service.created[:1] == service.open
        source.publish(PASSWORD="first")
        await settle()
        assert asyncio.all_tasks() <= before


async def test_a_key_that_vanishes_changes_nothing(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Without one of its keys it is DEGRADED and serves on; with the key back it is READY."""
    async with rotating:
        del source.stored["PASSWORD"]
        source.read()
        await clock.advance(60)
        assert (1, "DEGRADED") == (rotating.generation, rotating.state)
        assert "first" == (await used(rotating, service)).password

        source.publish(PASSWORD="first")
        await settle()
        assert (1, "READY") == (rotating.generation, rotating.state)


# Leases


async def test_a_lease_outlives_swaps(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """Whoever is inside keeps what he entered, through three swaps; it is disposed of when he leaves."""
    async with rotating:
        end = asyncio.Event()
        holder = asyncio.create_task(hold(rotating, end))
        await settle()
        for password in ("second", "third", "fourth"):
            service.logins.add(("ann", password))
            source.publish(PASSWORD=password)
            await settle()

        assert 4 == rotating.generation
        assert ["first", "fourth"] == [client.password for client in service.open]

        end.set()
        await settle()
        assert service.created[0] is await holder
        assert ["fourth"] == [client.password for client in service.open]


async def test_the_last_of_several_leases_ends_it(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """An old generation is open while anybody is inside."""
    async with rotating:
        ends = [asyncio.Event(), asyncio.Event()]
        holders = [asyncio.create_task(hold(rotating, end)) for end in ends]
        await settle()
        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await settle()

        ends[0].set()
        await settle()
        assert 2 == len(service.open)
        ends[1].set()
        await settle()
        assert 1 == len(service.open)
        await asyncio.gather(*holders)


async def test_drain_timeout_closes_it_under_its_users(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A lease that does not end is waited for so long only; then the old generation is closed, with a warning."""
    async with rotating:
        end = asyncio.Event()
        holders = [asyncio.create_task(hold(rotating, end)) for _ in range(2)]
        await settle()
        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await clock.advance(29.9)
        assert 2 == len(service.open)
        assert [] == caplog.messages

        await clock.advance(0.2)
        assert ["second"] == [client.password for client in service.open]
        warning = "generation 1 of USER, PASSWORD is closed under 2 users after 30 s: drain_timeout must be longer than"
        assert [f"{warning} any use"] == caplog.messages
        end.set()
        await asyncio.gather(*holders)


# Entering


async def test_an_error_in_the_body_comes_out(service: Service, rotating: Rotating[Client]) -> None:
    """
    What the block raises is nobody's business, even if it looks like a refusal: it comes out, and the block ran once.
    """
    error = Refused(1045, "in the body")
    runs = 0
    async with rotating:

        async def fail() -> None:
            """Raise in the block."""
            nonlocal runs
            async with rotating.use(service.session):
                runs += 1
                raise error

        with pytest.raises(Refused) as caught:
            await fail()

        assert error is caught.value
        assert 1 == runs
        assert 0 == service.sessions
        assert "READY" == rotating.state


async def test_an_error_on_leaving_comes_out(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """What leaving raises is not tried again either, and the lease has ended all the same."""
    error = Busy("on leaving")

    async def fail() -> None:
        """Raise that one error."""
        raise error

    async with rotating:
        service.leaving = fail
        with pytest.raises(Busy) as caught:
            await used(rotating, service)
        assert error is caught.value

        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await settle()
        assert 1 == len(service.open)


async def test_a_refusal_is_news(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Whoever is refused has the keys read again, and enters the new generation at once."""
    async with rotating:
        service.alter("ann", "second")
        source.store(PASSWORD="second")

        task = asyncio.create_task(used(rotating, service))
        await settle()

        assert "second" == task.result().password
        assert [0.25] == source.gaps
        assert 0.0 == clock.now()
        assert 2 == rotating.generation


async def test_a_crowd_of_refused_asks_once(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """Twenty who are refused at the same time cause one refresh and one build."""
    async with rotating:
        service.alter("ann", "second")
        source.store(PASSWORD="second")

        tasks = [asyncio.create_task(used(rotating, service)) for _ in range(20)]
        await settle()

        assert {"second"} == {task.result().password for task in tasks}
        assert 1 == len(source.gaps)
        assert 2 == len(service.created)


async def test_a_refusal_by_a_generation_that_is_old_is_no_news(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """Who is refused while a swap happens tries the new generation at once, and asks for nothing."""
    async with rotating:
        gate = asyncio.Event()
        service.entering = gate.wait
        task = asyncio.create_task(used(rotating, service))
        await settle()
        service.alter("ann", "second")
        source.publish(PASSWORD="second")
        await settle()
        assert 2 == rotating.generation

        gate.set()
        await settle()
        assert "second" == task.result().password
        assert [] == source.gaps


async def test_retry_deadline_raises_the_original_error(
    service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """Who is refused until `retry_deadline` gets the service's own error, the last of many."""
    async with rotating:
        service.alter("ann", "unheard of")
        task = asyncio.create_task(used(rotating, service))
        await clock.advance(9.9)
        assert not task.done()

        await clock.advance(0.2)
        assert 5 < len(service.errors)
        assert service.errors[-1] is task.exception()
        assert 1 == rotating.generation


async def test_a_transient_error_is_retried_without_a_refresh(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """An error that the credentials did not cause is waited out, and nothing is read again."""
    errors = [Busy(), Busy(), Busy()]

    async def busy() -> None:
        """Raise three times."""
        if errors:
            raise errors.pop()

    async with rotating:
        service.entering = busy
        task = asyncio.create_task(used(rotating, service))
        await clock.advance(1)

        assert "first" == task.result().password
        assert [] == source.gaps
        assert 1 == len(service.created)


async def test_other_errors_are_raised_at_once(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """An error that `classify` does not name comes out of the first try."""
    error = Broken()
    tries = 0

    async def fail() -> None:
        """Raise and count."""
        nonlocal tries
        tries += 1
        raise error

    async with rotating:
        service.entering = fail
        task = asyncio.create_task(used(rotating, service))
        await settle()

        assert error is task.exception()
        assert 1 == tries
        assert [] == source.gaps


async def test_by_default_every_error_is_raised_at_once(source: Source, service: Service, clock: ManualClock) -> None:
    """Without `classify` nothing is tried again."""
    plain = Rotating(source, ["USER", "PASSWORD"], service.create)
    async with plain:
        service.alter("ann", "second")
        with pytest.raises(Refused):
            await used(plain, service)


async def test_probe_and_dispose_may_be_left_out(source: Source, service: Service, clock: ManualClock) -> None:
    """What needs no proof and no end is followed as well."""
    plain = Rotating(source, ["USER", "PASSWORD"], service.create)
    async with plain:
        source.publish(PASSWORD="second")
        await settle()
        async with plain.use() as client:
            assert "second" == client.password
