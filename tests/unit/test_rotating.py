"""A resource that follows its keys, on a clock that stands still: no database, and every interleaving at will."""

import asyncio
import gc
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from aiossmenv import (
    Change,
    Clock,
    Env,
    Parameter,
    ParameterStore,
    Rotating,
    RotationFailed,
    Snapshot,
    StoreUnavailable,
    diff,
    load_env,
)
from aiossmenv._concurrency import LoopClock
from aiossmenv._rotating import ErrorKind, RotatingStatus
from aiossmenv.testing import ManualClock
from embedded import Store
from faults import FaultProxy
from timing import our_tasks, settle

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """The service does not know this password; the text quotes it, as drivers do."""


class Busy(Exception):
    """The service has no time now."""


class Broken(Exception):
    """Something that no second try helps."""


class Source:
    """What a `Rotating` needs of an `Env`: *snapshot* is what was read, *stored* what is there to be read."""

    def __init__(self, clock: Clock, **values: str) -> None:
        self.stored = values
        self.snapshot = _snapshot(values)
        self.gaps: list[float] = []
        self.error: Exception | None = None
        self._clock = clock
        self._began = float("-inf")
        self._watchers: list[tuple[Callable[[Change], None], tuple[str, ...]]] = []

    @property
    def watchers(self) -> int:
        """How many callbacks there are."""
        return len(self._watchers)

    def store(self, **values: str) -> None:
        """Write values that nobody has read yet."""
        self.stored |= values

    def publish(self, **values: str) -> None:
        """Write values, and read them at once."""
        self.store(**values)
        self.read()

    def read(self) -> None:
        """Make what is stored the snapshot, and tell."""
        before, self.snapshot = self.snapshot, _snapshot(self.stored)
        for change in diff(before, self.snapshot):
            for callback, keys in tuple(self._watchers):
                if change.key in keys:
                    callback(change)

    def on_change(self, callback: Callable[[object], None], *keys: str) -> Callable[[], None]:
        """See `Env`."""
        entry = (callback, keys)
        self._watchers.append(entry)
        return lambda: self._watchers.remove(entry)

    def group(self, *keys: str) -> Callable[[], None]:
        """See `Env`: all is read at once here."""
        assert keys
        return lambda: None

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> None:
        """See `Env`."""
        assert keys == ("USER", "PASSWORD")
        self.gaps.append(min_gap)
        gap = self._began + min_gap - self._clock.now()
        if gap > 0:
            await self._clock.sleep(gap)
        self._began = self._clock.now()
        if self.error:
            raise self.error
        self.read()


def _snapshot(values: Mapping[str, str]) -> Snapshot:
    """Return what a read of these values gives."""
    return Snapshot(
        {
            key: Parameter(name=f"/T/{key}", value=value, type="SecureString", version=1)
            for key, value in values.items()
        },
        _EPOCH,
    )


@dataclass(eq=False)
class Client:
    """The resource."""

    user: str
    password: str


async def _turn() -> None:
    """Take no time."""
    await asyncio.sleep(0)


async def forever() -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


async def swallow() -> None:
    """Take a cancellation for the answer, as `asyncio.wait_for` does on Python 3.11."""
    with suppress(asyncio.CancelledError):
        await forever()


async def swallow_and_hang() -> None:
    """Ignore a cancellation."""
    await swallow()
    await forever()


@dataclass
class Service:
    """What clients are made for: it knows who may log in, and takes its time where a test says so."""

    logins: set[tuple[str, str]] = field(default_factory=lambda: {("ann", "first")})
    created: list[Client] = field(default_factory=list)
    disposed: list[Client] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    sessions: int = 0
    creating: Callable[[], Awaitable[object]] = _turn
    probing: Callable[[], Awaitable[object]] = _turn
    disposing: Callable[[], Awaitable[object]] = _turn
    entering: Callable[[], Awaitable[object]] = _turn
    leaving: Callable[[], Awaitable[object]] = _turn

    @property
    def open(self) -> list[Client]:
        """The clients that nobody has disposed of."""
        return [client for client in self.created if client not in self.disposed]

    async def create(self, values: Mapping[str, str]) -> Client:
        """Make a client, without a login."""
        await self.creating()
        client = Client(values["USER"], values["PASSWORD"])
        self.created.append(client)
        return client

    async def probe(self, client: Client) -> None:
        """Log in."""
        await self.probing()
        self.check(client)

    async def dispose(self, client: Client) -> None:
        """Close a client, once."""
        assert client in self.open
        await self.disposing()
        self.disposed.append(client)

    @asynccontextmanager
    async def session(self, client: Client) -> AsyncIterator[Client]:
        """Log in, and out at the end."""
        await self.entering()
        self.check(client)
        self.sessions += 1
        try:
            yield client
        finally:
            self.sessions -= 1
            await self.leaving()

    def check(self, client: Client) -> None:
        """Refuse whoever may not log in."""
        if (client.user, client.password) not in self.logins:
            self.errors.append(Refused(1045, f"no entry for {client.user} with {client.password}"))
            raise self.errors[-1]

    def alter(self, user: str, password: str) -> None:
        """Give the user another password, the only one from now on."""
        self.logins = {(user, password)}


def classify(error: Exception) -> ErrorKind:
    """Say what helps."""
    return "auth_failed" if isinstance(error, Refused) else "transient" if isinstance(error, Busy) else None


@pytest.fixture
def service() -> Service:
    """Give a service that ann may log in to with "first"."""
    return Service()


@pytest.fixture
def source(clock: ManualClock) -> Source:
    """Give a source of ann's credentials."""
    return Source(clock, USER="ann", PASSWORD="first", COLOUR="red")


@pytest.fixture
def rotating(source: Source, service: Service, clock: ManualClock) -> Rotating[Client]:
    """Give a client that follows the source; a fixture only makes it, a test enters it."""
    return make(source, service)


def make(source: Source | Env, service: Service, **options: Any) -> Rotating[Client]:
    """Return a client that follows the source, with dice that always show a half."""
    defaults: dict[str, Any] = {"classify": classify, "random": lambda: 0.5}
    return Rotating(source, ["USER", "PASSWORD"], service.create, service.probe, service.dispose, **defaults | options)


async def used(rotating: Rotating[Client], service: Service) -> Client:
    """Use the client for a moment, and return which one it was."""
    async with rotating.use(service.session) as client:
        return client


async def hold(rotating: Rotating[Client], end: asyncio.Event) -> Client:
    """Use the client until *end*, and return which one it was."""
    async with rotating.use() as client:
        await end.wait()
        return client


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


# Cancellation


async def _idle_turns() -> None:
    """Take three turns of the loop."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("turns", range(31))
async def test_a_cancelled_use_leaves_nothing(
    source: Source, service: Service, clock: ManualClock, turns: int, *, refused: bool
) -> None:
    """Wherever `use` is when it is cancelled: its lease has ended, its session too, and no task is left of it."""
    rotating = make(source, service)

    async def enter() -> None:
        """Take a while, and be refused or not."""
        await _idle_turns()
        if refused and (turns % 2 or not source.gaps):
            # Refused, with a refresh that helps or one that does not.
            raise Refused(1045, "not yet")

    async def use() -> None:
        """Be inside for a while."""
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
        # An old generation without leases is disposed of at once.
        service.logins.add(("ann", "second"))
        source.publish(PASSWORD="second")
        await settle()
        assert ["second"] == [client.password for client in service.open]


@pytest.mark.parametrize("turns", range(31))
async def test_a_cancelled_start_leaves_nothing_at_any_turn(
    source: Source, service: Service, rotating: Rotating[Client], turns: int
) -> None:
    """Wherever the first build is when it is cancelled, nothing is left of it."""
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
    """The status counts what there was, and has no value in it."""

    def said() -> dict[str, object]:
        """Return what is not as it was at the beginning."""
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

    assert {"state": "NEW", "generation": 0} == said()
    async with rotating:
        assert {} == said()
        source.publish(PASSWORD="garbage")
        await clock.advance(0.4)
        error = "Refused 1045"
        assert {"state": "DEGRADED", "failures": 2, "last_error": error, "auth_failures": 2, "refreshes": 2} == said()
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
        assert {"generation": 2, "retiring": 1, "auth_failures": logins, "refreshes": 3} == said()
        await clock.advance(30)
        assert {"generation": 2, "auth_failures": logins, "refreshes": 3, "force_closed": 2} == said()
        end.set()
        await asyncio.gather(*holders)
    assert "CLOSED" == rotating.status.state


async def test_repr_has_no_value(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """The repr says which keys, the state and the generation."""
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
    """Whatever goes wrong, no log record has a value in it, at DEBUG, of anybody, asyncio included."""
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
    """A traceback that shows local variables, as error trackers do, shows no value in any frame of this library."""

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


# What does not hold yet


async def test_news_end_the_wait_for_news(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """New values are built at once, also while the follower waits for the time to ask for some."""
    async with rotating:
        source.publish(PASSWORD="garbage")
        await clock.advance(10)
        service.alter("ann", "second")
        source.publish(PASSWORD="second")
        await settle()
        assert 2 == rotating.generation


@pytest.mark.parametrize("trouble", ["broken", "missing", "hanging"])
async def test_users_are_heard_while_nothing_can_be_built(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, trouble: str
) -> None:
    """Refused users have the keys read again, also if what was read last is unusable for another reason."""

    async def create() -> None:
        """Fail or hang while the user is garbage."""
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


async def test_a_swap_at_any_turn_wakes_who_was_refused(source: Source, service: Service, clock: ManualClock) -> None:
    """Whoever is refused while a swap is under way enters the new generation at once, whichever comes first."""
    late = []
    for turns in range(30):
        rotating = make(source, service)
        source.publish(PASSWORD="first")
        service.alter("ann", "first")

        async def enter(turns: int = turns) -> None:
            """Take so many turns of the loop."""
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
    """Take longer than a cancellation is waited for before the next one."""
    await asyncio.sleep(0.15)


async def test_dispose_after_a_hanging_build_has_its_time(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """What a build that is called off had made is disposed of within `dispose_timeout`, not within 0.1 s."""
    async with rotating:
        service.probing, service.disposing = forever, _slowly
        source.publish(PASSWORD="second")
        await clock.advance(5)
        service.probing = _turn
        await asyncio.sleep(0.3)
        assert ["first"] == [client.password for client in service.open]


async def test_a_cancelled_close_can_be_repeated(service: Service, rotating: Rotating[Client]) -> None:
    """Where `aclose()` is cancelled, calling it again closes the rest."""
    await rotating.__aenter__()
    await settle()
    closing = asyncio.create_task(rotating.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    await rotating.aclose()
    await settle()
    assert [] == service.open


async def test_a_second_close_waits_for_the_first(service: Service, rotating: Rotating[Client]) -> None:
    """Whoever calls `aclose()` finds everything closed when it returns, whoever began."""
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
    """Take a moment to end when cancelled."""
    try:
        await forever()
    finally:
        await asyncio.sleep(0.05)


async def test_nobody_enters_once_it_is_closing(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """From the moment that `aclose()` is called `use` raises, also while a build is still ending."""
    await rotating.__aenter__()
    service.creating = _end_slowly
    source.publish(PASSWORD="second")
    await settle()
    closing = asyncio.create_task(rotating.aclose())
    await asyncio.sleep(0)
    task = asyncio.create_task(used(rotating, service))
    await asyncio.wait({closing, task})
    assert isinstance(task.exception(), RotationFailed)


async def test_closing_is_no_storm_of_logins(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """Whoever is refused while a build is ending does not try hundreds of times in that moment."""
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
    """Fail as a driver does whose inner task was cancelled."""
    raise asyncio.CancelledError


async def test_a_build_that_cancels_itself_does_not_end_the_follower(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock
) -> None:
    """A driver whose inner task was cancelled has failed like any other."""
    async with rotating:
        service.creating = _cancel_itself
        source.publish(PASSWORD="second")
        await clock.advance(1)
        service.creating = _turn
        service.logins.add(("ann", "third"))
        source.publish(PASSWORD="third")
        await clock.advance(1)
        assert 2 == rotating.generation


async def test_a_first_build_that_cancels_itself_is_rotation_failed(
    service: Service, rotating: Rotating[Client]
) -> None:
    """It is no cancellation of whoever enters."""
    service.creating = _cancel_itself
    entering = asyncio.create_task(rotating.__aenter__())
    await asyncio.wait({entering})
    assert not entering.cancelled()
    assert isinstance(entering.exception(), RotationFailed)


async def test_a_classify_that_raises_does_not_end_the_follower(
    source: Source, service: Service, clock: ManualClock
) -> None:
    """A mistake in `classify` costs the retries, not the rotation."""

    def mistaken(error: Exception) -> ErrorKind:
        """Know no error at all."""
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
    """What was closed does not open again, and does nothing for it."""
    async with rotating:
        pass
    with pytest.raises(RotationFailed):
        await rotating.__aenter__()
    assert 0 == source.watchers
    assert 1 == len(service.created)


async def test_entering_twice_is_an_error(source: Source, service: Service, rotating: Rotating[Client]) -> None:
    """What is open is not entered again."""
    before = asyncio.all_tasks()
    async with rotating:
        with suppress(RuntimeError, RotationFailed):
            await rotating.__aenter__()
        assert 1 == source.watchers
        assert 1 == len(service.created)
    await settle()
    assert before == asyncio.all_tasks()


def test_one_key_is_not_several(source: Source, service: Service) -> None:
    """A string in place of the keys is a mistake, as it is for `load_env`."""
    with pytest.raises(TypeError, match="keys"):
        Rotating(source, "USER", service.create)


async def test_no_value_is_logged_by_asyncio(
    source: Source, service: Service, rotating: Rotating[Client], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A disposal that answers its cancellation with an error has this error's text nowhere."""

    async def fail_late() -> None:
        """Answer a cancellation with an error."""
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


async def test_closing_while_a_build_is_called_off(source: Source, service: Service, clock: ManualClock) -> None:
    """A build that takes a while to end, and makes its resource all the same, is waited for and undone."""

    async def stubborn() -> None:
        """Go on where it is cancelled, once."""
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


async def test_values_that_were_away_for_a_moment_are_tried_at_once(
    source: Source, service: Service, clock: ManualClock
) -> None:
    """A key that is missing and comes back is news, though its value is the one that failed before."""
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


async def test_no_gap_is_no_hot_loop(source: Source, service: Service) -> None:
    """However short the gap that is asked for, values that do not work are not asked for anew without one."""
    source._clock = LoopClock()
    async with make(source, service, min_gap=0, random=lambda: 0.0) as rotating:
        source.publish(PASSWORD="second")
        await asyncio.sleep(0.2)
        assert 0 < rotating.status.refreshes < 20
