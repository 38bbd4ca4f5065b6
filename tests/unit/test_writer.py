"""Writes: the pace at which they are sent, what a deadline cuts off, and which names may be written."""

import asyncio
import gc
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiossmenv import (
    GetParameters,
    InvalidPath,
    Parameter,
    ParameterStore,
    PutParameter,
    ServiceError,
    StoreUnavailable,
    Throttled,
    Transport,
    load_env,
)
from aiossmenv._naming import full_name
from aiossmenv._ssm.transport import AddTagsToResource, Answer, DeleteParameters, DescribeParameters, Page, Request
from aiossmenv.testing import ManualClock, MemoryStore
from timing import passing, settle

A = "/W/A"


@dataclass
class Account:
    """
    A transport to a store in memory that allows *rate* writes a second, and answers each in *latency* seconds.

    *hangs*: the kind of request that is carried out and never answered. *down*: the kind of request that fails.
    """

    store: MemoryStore
    rate: float = 1e9
    latency: float = 0.1
    hangs: type[Request] | None = None
    down: type[Request] | None = None
    region: str | None = "eu-central-1"
    throttled: int = 0
    tokens: float = field(default=0.0, init=False)
    last: float = field(default=-1.0, init=False)

    async def send(self, request: Request) -> Answer:
        """See `Transport`."""
        clock = self.store.clock
        await clock.sleep(self.latency)
        if self.down and isinstance(request, self.down):
            raise ServiceError("InternalServerError", status=500)
        if not isinstance(request, GetParameters):
            now = clock.now()
            self.tokens, self.last = min(self.rate, self.tokens + (now - self.last) * self.rate), now
            if self.tokens < 1:
                self.throttled += 1
                raise ServiceError("ThrottlingException", "Rate exceeded")
            self.tokens -= 1
        answer = await self.store._service.send(request)
        if self.hangs and isinstance(request, self.hangs):
            await clock.sleep(3600)
        return answer

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


def store_of(transport: Transport, clock: ManualClock, **options: Any) -> ParameterStore:
    """Return a store that writes through *transport*."""
    return ParameterStore(transport=transport, clock=clock, random=lambda: 0.5, **options)


async def put_all(store: ParameterStore, count: int) -> int:
    """Write so many parameters; return how many were written."""
    return len([written async for written in store.put_many({f"/W/{n}": "x" for n in range(count)})])


# --- Deadlines


@dataclass
class Stubborn:
    """A transport that never answers, and that ends with an error where it is cancelled."""

    clock: ManualClock
    region: str | None = "eu-central-1"

    async def send(self, request: Request) -> Answer:
        """See `Transport`."""
        try:
            await self.clock.sleep(3600)
        except asyncio.CancelledError:
            raise StoreUnavailable(f"{type(request).__name__} was cut off", transient=False) from None
        raise AssertionError

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.get(A),
        lambda store: load_env("/W", store=store, environ=None),
        lambda store: store.put(A, "x"),
        lambda store: store.delete(A),
        lambda store: store.history(A),
    ],
)
async def test_an_error_at_the_deadline_is_not_logged(
    clock: ManualClock, call: Callable[[ParameterStore], Awaitable[object]]
) -> None:
    """
    A request that ends with an error when its deadline ends it leaves no "exception was never retrieved" in the log.
    """
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    async with store_of(Stubborn(clock), clock, deadline=5) as store:
        with pytest.raises(StoreUnavailable):
            await passing(clock, call(store))
    gc.collect()
    await asyncio.sleep(0)

    assert [] == reported


# --- Pace


@pytest.mark.parametrize(("rate", "seconds"), [(3.0, 67.0), (10.0, 20.0)])
async def test_pace_follows_the_quota(clock: ManualClock, rate: float, seconds: float) -> None:
    """
    Two hundred parameters take as long as the account's quota says, whatever it is, with few throttled requests.
    """
    account = Account(MemoryStore(clock=clock), rate)
    async with store_of(account, clock) as store:
        assert 200 == await passing(clock, put_all(store, 200))

    assert seconds == pytest.approx(clock.now(), rel=0.1)
    assert account.throttled <= 20


async def test_writes_do_not_slow_reads_down(clock: ManualClock) -> None:
    """While writes are throttled to the quota, forty reads are answered within the time of one request."""
    memory = MemoryStore({f"/R/{number}": "x" for number in range(400)}, clock=clock)
    async with store_of(Account(memory, 3.0), clock) as store:
        writing = asyncio.create_task(put_all(store, 30))
        await clock.advance(5)
        began = clock.now()
        await passing(clock, store.get_many([f"/R/{number}" for number in range(400)]))
        assert clock.now() - began <= 0.3
        assert not writing.done()
        await passing(clock, writing)


async def test_deadline_is_that_of_each_parameter(clock: ManualClock) -> None:
    """Many parameters take longer than the deadline of one, and none of them is given up."""
    async with store_of(Account(MemoryStore(clock=clock), 3.0), clock, deadline=10) as store:
        assert 60 == await passing(clock, put_all(store, 60))
    assert 15 < clock.now()


# --- Deadlines


async def test_deadline_during_a_write(clock: ManualClock) -> None:
    """A write whose answer does not come until the deadline may have been carried out, and the error says so."""
    memory = MemoryStore(clock=clock)
    async with store_of(Account(memory, hangs=PutParameter), clock, deadline=5) as store:
        with pytest.raises(StoreUnavailable, match="whether it was written is unknown") as caught:
            await passing(clock, store.put(A, "x"))

    assert not caught.value.transient
    assert 5 == pytest.approx(clock.now(), abs=0.01)
    assert "x" == (await memory.get(A)).value


async def test_deadline_before_a_write(clock: ManualClock) -> None:
    """If the read before the write does not end until the deadline, nothing was written."""
    async with store_of(Account(MemoryStore(clock=clock), hangs=GetParameters), clock, deadline=5) as store:
        with pytest.raises(StoreUnavailable, match="did not answer before the deadline") as caught:
            await passing(clock, store.put(A, "x"))
        assert caught.value.transient
        with pytest.raises(StoreUnavailable, match="did not answer before the deadline; 0 of 2 parameters are written"):
            await passing(clock, put_all(store, 2))


async def test_deadline_while_a_write_waits_for_its_turn(clock: ManualClock) -> None:
    """A write that was throttled, and waits for its turn at the deadline, was not carried out."""
    async with store_of(Account(MemoryStore(clock=clock), 0.001), clock, deadline=5) as store:
        with pytest.raises(Throttled, match="Rate exceeded"):
            await passing(clock, store.put(A, "x"))


async def test_deadline_while_tags_are_added(clock: ManualClock) -> None:
    """If the tags are not answered for until the deadline, the error says that the value is written."""
    memory = MemoryStore({A: "before"}, clock=clock)
    async with store_of(Account(memory, hangs=AddTagsToResource), clock, deadline=5) as store:
        with pytest.raises(StoreUnavailable, match="version 2 is written, but not its tags: .* before the deadline"):
            await passing(clock, store.put(A, "x", tags={"team": "books"}))


async def test_deadline_of_a_page_and_of_a_deletion(clock: ManualClock) -> None:
    """A request that is never answered ends at its deadline, and the error names what was asked for."""
    memory = MemoryStore({A: "before"}, clock=clock)
    async with store_of(Account(memory, hangs=DescribeParameters), clock, deadline=5) as store:
        with pytest.raises(StoreUnavailable, match="path /W") as caught:
            await passing(clock, anext(store.describe("/W")))
    assert caught.value.transient
    async with store_of(Account(memory, hangs=DeleteParameters), clock, deadline=5) as store:
        with pytest.raises(StoreUnavailable, match=f"parameter {A}"):
            await passing(clock, store.delete(A))


async def test_several_failures(clock: ManualClock) -> None:
    """If writes that were in flight together fail, the error names each of them."""
    async with store_of(Account(MemoryStore(clock=clock), down=PutParameter), clock, deadline=2) as store:
        with pytest.raises(StoreUnavailable, match="0 of 3 parameters are written, and /W/., /W/. failed, too"):
            await passing(clock, put_all(store, 3))


async def test_errors_of_a_transport_are_left_alone(clock: ManualClock) -> None:
    """An error of the transport, which may raise it again, does not keep the text that one call gave it."""
    memory = MemoryStore(clock=clock)
    memory.hang()
    async with store_of(memory._service, clock, deadline=25) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailable) as caught:
                await passing(clock, put_all(store, 2))
            assert 1 == str(caught.value).count("0 of 2 parameters are written")


async def test_cancelled_put_many(clock: ManualClock) -> None:
    """A caller that is cancelled leaves no task behind."""
    async with store_of(Account(MemoryStore(clock=clock), 3.0), clock) as store:
        writing = asyncio.create_task(put_all(store, 30))
        await clock.advance(2)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await settle()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("aiossmenv")]


async def test_answers_of_another_kind(clock: ManualClock) -> None:
    """A transport that answers with something else is an error, and what is in neither part of an answer is unknown."""

    class Wrong(Account):
        async def send(self, request: Request) -> Answer:  # noqa: ARG002 - whatever it is
            return Page((Parameter(name="/W/OTHER", value="x", type="String", version=1),))

    async with store_of(Wrong(MemoryStore(clock=clock)), clock, deadline=2) as store:
        with pytest.raises(StoreUnavailable, match=r"cannot be read \(the transport gave the answer of another"):
            await passing(clock, store.put(A, "x"))


# --- Names

VALID = re.compile(r"(/[A-Za-z0-9_.-]+){1,15}")
NAMES = st.text(st.sampled_from("/abAWSawssm_.-: é*\n"), max_size=24)


@example("/aws")
@example("/AwS/x")
@example("/awsome/x")
@example("/ssm-agent")
@example("/" + "/".join("a" * 16))
@example("/" + "x" * 1011)
@given(st.one_of(NAMES, NAMES.map("/{}".format), st.from_regex(VALID, fullmatch=True)))
def test_names_that_may_be_written(name: str) -> None:
    """A name that Parameter Store allows is taken, without spaces around it; others are refused with a remedy."""
    text = name.strip()
    is_valid = (
        VALID.fullmatch(text) is not None and text.split("/")[1].lower() not in {"aws", "ssm"} and len(text) <= 1011
    )
    if is_valid:
        assert text == full_name(name)
        return
    with pytest.raises(InvalidPath) as caught:
        full_name(name)
    assert caught.value.remedy
    assert name == caught.value.parameter
