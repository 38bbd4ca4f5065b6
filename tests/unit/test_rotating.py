"""`Rotating` on a manual clock: builds, leases and entering."""

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

# Rebuilds


async def test_changed_key_swaps(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """A new value builds a new generation; the new one becomes current, and the old one is disposed of."""
    async with rotating:
        assert (1, "READY") == (rotating.generation, rotating.state)
        service.logins.add(("ann", "second"))

        source.publish(PASSWORD="second")
        await settle()

        assert (2, "READY") == (rotating.generation, rotating.state)
        assert "second" == (await used(rotating, service)).password
        assert service.created[:1] == service.disposed
    assert service.created == service.disposed


async def test_create_gets_only_its_keys(source: Source, service: Service, clock: ManualClock) -> None:
    """`create` gets a mapping of only the keys that were named, and the mapping's repr shows no value."""

    async def create(values: Mapping[str, str]) -> dict[str, str]:
        """Check the mapping, and return a copy."""
        assert "<values of PASSWORD, USER>" == repr(values)
        assert 2 == len(values)
        return dict(values)

    async with Rotating(source, ["PASSWORD", "USER"], create) as rotating, rotating.use() as made:
        assert {"PASSWORD": "first", "USER": "ann"} == made


async def test_other_keys_do_not_rebuild(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """A change of a key that is not named builds nothing."""
    async with rotating:
        source.publish(COLOUR="blue")
        await settle()

        assert 1 == rotating.generation
        assert 1 == len(service.created)


async def test_same_values_are_not_rebuilt(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """A value that changes and changes back before it is looked at builds nothing: values count, not events."""
    async with rotating:
        source.publish(PASSWORD="second")
        source.publish(PASSWORD="first")
        await settle()

        assert 1 == len(service.created)


async def test_old_generation_stays_open_during_a_build(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """While the next generation is built, the current one serves and stays open."""
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


async def test_broken_values_keep_the_old_generation(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """
    Values that fail make the state DEGRADED and never serve; when the old values return, it is READY without a build.
    """
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


async def test_torn_pair_never_serves(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """The probe rejects the new user with the old password; the pair serves once the password has changed too."""
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


async def test_torn_pair_forces_a_refresh(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """After the probe rejects the values, they are read again without waiting for the next scheduled refresh."""
    async with rotating:
        service.logins |= {("bob", "second")}
        source.publish(USER="bob")
        source.store(PASSWORD="second")
        await clock.advance(1)

        assert 2 == rotating.generation
        assert ("bob", "second") == (service.open[0].user, service.open[0].password)


async def test_burst_is_one_build(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """Of a burst of a hundred values, only the last one is built."""
    async with rotating:
        service.logins |= {("ann", f"{n}") for n in range(100)}
        for n in range(100):
            source.publish(PASSWORD=f"{n}")
        await settle()

        assert ["first", "99"] == [client.password for client in service.created]
        assert "99" == (await used(rotating, service)).password


async def test_burst_during_a_build_is_one_more_build(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """Values that arrive during a build wait for its end, and then only the newest of them is built."""
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
async def test_hanging_build_is_cancelled(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, stage: str
) -> None:
    """
    After `build_timeout` the build is cancelled and leaves nothing; the old generation serves, and a retry follows.
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
async def test_build_that_swallows_its_cancellation_is_cancelled_again(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, stage: str
) -> None:
    """A build that hangs again after a cancellation is cancelled a second time, and leaves nothing."""
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


async def test_missing_key_changes_nothing(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """If a key is missing, the state is DEGRADED and the old generation serves; when the key returns, it is READY."""
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


async def test_lease_outlives_swaps(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """A lease keeps its generation open through three swaps; the end of the lease disposes of it."""
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


async def test_last_of_several_leases_closes_the_generation(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """An old generation stays open until its last lease ends."""
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


async def test_drain_timeout_closes_leased_generations(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After `drain_timeout` an old generation is closed although it is leased, and a warning says so."""
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


async def test_error_in_the_block_propagates(service: Service, rotating: Rotating[Client]) -> None:
    """An error in the block propagates, even one that `classify` calls "auth_failed"; the block runs only once."""
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


async def test_error_on_exit_propagates(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """An error on exit is not retried, and the lease ends anyway."""
    error = Busy("on leaving")

    async def fail() -> None:
        """Raise the error."""
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


async def test_rejected_use_forces_a_refresh(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """A rejected use forces a refresh, and enters the new generation at once."""
    async with rotating:
        service.alter("ann", "second")
        source.store(PASSWORD="second")

        task = asyncio.create_task(used(rotating, service))
        await settle()

        assert "second" == task.result().password
        assert [0.25] == source.gaps
        assert 0.0 == clock.now()
        assert 2 == rotating.generation


async def test_concurrent_rejected_uses_share_one_refresh(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """Twenty uses that are rejected at the same time cause one refresh and one build."""
    async with rotating:
        service.alter("ann", "second")
        source.store(PASSWORD="second")

        tasks = [asyncio.create_task(used(rotating, service)) for _ in range(20)]
        await settle()

        assert {"second"} == {task.result().password for task in tasks}
        assert 1 == len(source.gaps)
        assert 2 == len(service.created)


async def test_rejection_by_an_old_generation_forces_no_refresh(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """A use that is rejected while a swap happens retries on the new generation at once, without a refresh."""
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
    """A use that is rejected until `retry_deadline` raises the service's own last error."""
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
    """A transient error is retried after a pause, without a refresh."""
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


async def test_unclassified_errors_are_raised_at_once(
    source: Source, service: Service, rotating: Rotating[Client]
) -> None:
    """An error for which `classify` returns None is raised after the first try."""
    error = Broken()
    tries = 0

    async def fail() -> None:
        """Raise, and count the tries."""
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
    """Without `classify` nothing is retried."""
    plain = Rotating(source, ["USER", "PASSWORD"], service.create)
    async with plain:
        service.alter("ann", "second")
        with pytest.raises(Refused):
            await used(plain, service)


async def test_probe_and_dispose_are_optional(source: Source, service: Service, clock: ManualClock) -> None:
    """A resource without `probe` and `dispose` rotates too."""
    plain = Rotating(source, ["USER", "PASSWORD"], service.create)
    async with plain:
        source.publish(PASSWORD="second")
        await settle()
        async with plain.use() as client:
            assert "second" == client.password
