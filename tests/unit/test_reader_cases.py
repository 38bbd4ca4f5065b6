"""
What one read does in the cases that matter, each on its own: fallbacks, denials, late replicas, errors of some names.
"""

import logging
import traceback

import pytest

from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    Parameter,
    ParameterNotFound,
    ServiceError,
    StoreUnavailable,
    Throttled,
    Transport,
)
from aiossmenv._ssm.merge import Results, StoreState
from aiossmenv._ssm.permissions import PermissionCache
from aiossmenv._ssm.reader import Reader, ReadStats
from aiossmenv._ssm.transport import Query, Request
from aiossmenv.testing import ManualClock
from simulated import Simulated
from timing import passing

ALL = ("GetParametersByPath", "GetParameters", "GetParameter")
SECRET = "/aws/reference/secretsmanager/db"


@pytest.fixture
def store() -> Simulated:
    """Give a store with twelve secrets under /P and two under /Q."""
    store = Simulated(ManualClock(), latency=0.002)
    for number in range(12):
        store.put(f"/P/{number:02d}", f"p{number}")
    for name in ("/Q/A", "/Q/B"):
        store.put(name, "q")
    return store


def reader_of(store: Simulated, transport: Transport | None = None) -> Reader:
    """Return a reader of *store*, or of another transport on its clock."""

    async def connect() -> Transport:
        return transport or store

    return Reader(connect, permissions=PermissionCache(), max_in_flight=20, clock=store.clock, random=store.rng.random)


async def read(store: Simulated, *queries: Query, reader: Reader | None = None, **options: object) -> Results:
    """Read these, and let time pass."""
    known = options.pop("known", StoreState())
    reading = (reader or reader_of(store)).read(queries, known, **{"deadline": 30.0, **options})  # type: ignore[arg-type] # as given
    return await passing(store.clock, reading)


def kinds(store: Simulated) -> list[str]:
    """Return what was sent since this was last called."""
    sent = [type(request).__name__ for request in store.sent]
    store.sent.clear()
    return sent


def names(path: str, count: int, *, may_list: bool = True) -> Query:
    """Return a query of so many names under /P."""
    return Query(path=path, names=tuple(f"{path}/{number:02d}" for number in range(count)), may_list=may_list)


async def test_a_denial_of_ten_lists_many_and_reads_few_one_by_one(store: Simulated) -> None:
    """
    Of names that may be listed up to ten are read one by one if they are decrypted; more are found by one listing.
    """
    store.denied = {"GetParameters"}

    assert 3 == len((await read(store, names("/P", 3))).parameters)
    assert ["GetParameters", *["GetParameter"] * 3] == kinds(store)
    reader = reader_of(store)
    assert 12 == len((await read(store, names("/P", 12), reader=reader)).parameters)
    store.sent.clear()
    assert 12 == len((await read(store, names("/P", 12), reader=reader)).parameters)
    assert ["GetParametersByPath"] * 2 == kinds(store)


async def test_names_that_may_not_be_listed_are_read_one_by_one(store: Simulated) -> None:
    """Where no listing is allowed for, a denial of ten leads to singles, however many there are."""
    store.denied = {"GetParameters"}

    assert 12 == len((await read(store, names("/P", 12, may_list=False))).parameters)
    assert 0 == store.count(GetParametersByPath)
    assert 12 == store.count(GetParameter)


async def test_singles_that_are_denied_share_one_listing(store: Simulated) -> None:
    """When ten at once and one alone are both denied, one listing finds all names, and no other name counts."""
    store.denied = {"GetParameters", "GetParameter"}

    found = await read(store, names("/P", 4))

    assert {"/P/00", "/P/01", "/P/02", "/P/03"} == found.parameters.keys()
    assert 2 == store.count(GetParametersByPath)


async def test_one_forbidden_name_is_named_and_denies_nothing_else(store: Simulated) -> None:
    """Of ten names one of which is forbidden the error is the service's own, and ten may be asked for again."""
    store.denied = {"GetParameter* /P/03"}
    reader, query = reader_of(store), names("/P", 5, may_list=False)

    with pytest.raises(AccessDenied, match="/P/03"):
        await read(store, query, reader=reader)

    assert reader.permissions.denial(GetParameters) is None


async def test_errors_of_some_names_leave_the_others(store: Simulated) -> None:
    """With `errors` each name has its own: forbidden, not decrypted, or none, and the rest is read."""
    store.denied, store.broken = {"GetParameter* /P/03"}, {"/P/04"}
    errors: dict[str, AiossmenvError] = {}
    query = Query(names=("/P/00", "/P/03", "/P/04", "/P/NOT"), may_list=False)

    found = await read(store, query, errors=errors)

    assert {"/P/00"} == found.parameters.keys()
    assert {"/P/03": AccessDenied, "/P/04": DecryptionFailed} == {name: type(error) for name, error in errors.items()}


async def test_a_deadline_is_the_error_of_each_name(store: Simulated) -> None:
    """With `errors` a deadline ends each name that is still asked for, with why it was not answered."""
    store.faults, store.fault, store.left = ("throttled",), 1.0, 10**6
    errors: dict[str, AiossmenvError] = {}

    await read(store, names("/P", 12, may_list=False), errors=errors, deadline=5.0)

    assert 12 == len(errors)
    assert {Throttled} == {type(error) for error in errors.values()}


async def test_everything_denied_is_told_and_not_remembered(store: Simulated) -> None:
    """When no operation is allowed the first denial comes out; the credentials are wrong, so all are tried again."""
    store.denied = set(ALL)
    reader = reader_of(store)

    with pytest.raises(AccessDenied) as caught:
        await read(store, names("/P", 3), reader=reader)

    assert caught.value.action in {f"ssm:{operation}" for operation in ALL}
    assert [None] * 2 == [reader.permissions.denial(kind) for kind in (GetParameters, GetParameter)]


async def test_a_denial_is_logged_once_and_its_end_too(store: Simulated, caplog: pytest.LogCaptureFixture) -> None:
    """A right that is missing is logged when another one made up for it, and once more when it is back."""
    caplog.set_level(logging.INFO, "aiossmenv")
    reader, store.denied = reader_of(store), {"GetParameters"}
    for _ in range(3):
        await read(store, names("/P", 3), reader=reader, denied_for=60.0)
        await store.clock.advance(61)
    store.denied.clear()
    for _ in range(2):
        await read(store, names("/P", 3), reader=reader)

    lost, back = caplog.messages
    assert "lacks a right" in lost
    assert "has ssm:GetParameters again" in back


async def test_a_denial_that_lasts_costs_one_request(store: Simulated) -> None:
    """
    When its time is over one request tries the operation again, and the rest of the read waits for what it brings.
    """
    reader, store.denied = reader_of(store), {"GetParameters"}
    for may_list in (True, False):
        await read(store, names("/P", 12, may_list=may_list), reader=reader, denied_for=60.0)
        await store.clock.advance(61)
        store.sent.clear()
        await read(store, names("/P", 12, may_list=may_list), reader=reader, denied_for=60.0)
        assert 1 == store.count(GetParameters)
        await store.clock.advance(61)


async def test_one_value_that_is_not_decrypted_is_found_in_its_page(store: Simulated) -> None:
    """A listing that fails to decrypt is made without decryption, and then the name is known."""
    store.broken = {"/P/05"}

    with pytest.raises(DecryptionFailed) as caught:
        await read(store, Query(path="/P"))

    assert "/P/05" == caught.value.parameter


async def test_secrets_are_read_one_by_one_and_decrypted(store: Simulated) -> None:
    """A secret of Secrets Manager comes alone and decrypted, whatever else is asked for."""
    store.put(SECRET, "s")

    found = await read(store, Query(names=("/P/00", SECRET), may_list=False), decrypt="changed")

    assert {"/P/00", SECRET} == found.parameters.keys()
    assert [GetParameter(SECRET, with_decryption=True)] == [one for one in store.sent if isinstance(one, GetParameter)]


async def test_a_group_of_two_paths_is_decrypted_in_one_call(store: Simulated) -> None:
    """Names that belong together are decrypted together, whichever path each came from, and the rest in other calls."""
    first = await read(store, Query(path="/P"), Query(path="/Q"))
    await store.clock.advance(60)
    store.put("/P/00", "new")
    store.sent.clear()

    await read(
        store,
        Query(path="/P"),
        Query(path="/Q"),
        known=StoreState().merge(first),
        decrypt="changed",
        groups=[frozenset({"/P/00", "/Q/A"})],
    )

    decrypting = [one.names for one in store.sent if isinstance(one, GetParameters) and one.with_decryption]
    assert [("/P/00", "/Q/A")] == decrypting


async def test_a_group_that_no_call_holds_takes_as_few_as_it_can(store: Simulated) -> None:
    """A group of twelve is decrypted in two calls, of at most ten names each."""
    group = frozenset(f"/P/{number:02d}" for number in range(12))

    await read(store, Query(path="/P"), decrypt="changed", groups=[group])

    assert [10, 2] == [len(one.names) for one in store.sent if isinstance(one, GetParameters)]


async def test_two_spellings_of_one_parameter_go_apart(store: Simulated) -> None:
    """An answer does not say by which spelling it was asked for, so a group with two is decrypted in two calls."""
    asked = Query(names=("/P/00", "/P/00:1"), may_list=False)

    found = await read(store, asked, decrypt="changed", groups=[frozenset(asked.names or ())])

    assert {"/P/00", "/P/00:1"} == found.parameters.keys()
    assert 4 == store.count(GetParameters)


async def test_a_denial_of_another_service_is_no_denial_of_reading(store: Simulated) -> None:
    """What KMS refuses for one name is told of that name; ten may be asked for again."""
    store.broken = {"/P/03"}
    reader = reader_of(store)

    with pytest.raises(DecryptionFailed, match="/P/03"):
        await read(store, names("/P", 5), reader=reader)

    assert reader.permissions.denial(GetParameters) is None


async def test_a_missing_name_proves_the_right_to_read(store: Simulated) -> None:
    """One by one, a name that is not there is an answer, so that a denial of ten is one of that operation."""
    store.denied = {"GetParameters"}
    reader = reader_of(store)

    found = await read(store, Query(names=("/P/NOT",), may_list=False), reader=reader)

    assert {} == found.parameters
    assert reader.permissions.denial(GetParameters) is not None


async def test_a_version_that_a_replica_lacks_is_read_by_its_number(store: Simulated) -> None:
    """When decryption shows an older version than the listing did, the newer one is asked for by its number."""
    first = StoreState().merge(await read(store, Query(path="/Q")))
    await store.clock.advance(60)
    store.put("/Q/A", "new")
    answers = {"behind": 2}

    class Behind:
        region = "eu-central-1"

        async def send(self, request: Request) -> Page:
            if isinstance(request, GetParameters) and request.with_decryption and answers["behind"]:
                answers["behind"] -= 1
                if ":" in request.names[0]:
                    return Page((), None, request.names)
                old = store.history["/Q/A"][0][1]
                assert old
                return Page((old,))
            return await store.send(request)

        async def aclose(self) -> None:
            return

    reader = reader_of(store, Behind())
    found = await read(store, Query(path="/Q"), reader=reader, known=first, decrypt="changed")

    assert "new" == found.parameters["/Q/A"].value
    assert "" == found.parameters["/Q/A"].selector
    assert ("/Q/A:2",) in [one.names for one in store.sent if isinstance(one, GetParameters)]


@pytest.mark.parametrize("fault", ["token refused", "token repeated"])
async def test_a_listing_that_cannot_go_on_begins_again(store: Simulated, fault: str) -> None:
    """A listing whose token is refused, or that goes in circles, begins anew after a wait, and is whole."""
    store.faults, store.fault, store.left = (fault,), 1.0, 2

    assert 12 == len((await read(store, Query(path="/P"))).parameters)
    assert 2 == sum(one.next_token is None for one in store.sent if isinstance(one, GetParametersByPath))


async def test_a_listing_that_never_goes_on_is_given_up(store: Simulated) -> None:
    """At the deadline the error says that a listing was not continued, and how it ended."""
    store.faults, store.fault, store.left = ("token refused",), 1.0, 10**6

    with pytest.raises(StoreUnavailable, match="did not continue a listing") as caught:
        await read(store, Query(path="/P"), deadline=10.0)

    assert "/P" == caught.value.path


async def test_names_left_out_are_asked_for_again(store: Simulated) -> None:
    """An answer that lacks a name, and does not say that there is none, is no answer."""
    store.faults, store.fault, store.left = ("left out",), 1.0, 2

    assert 3 == len((await read(store, names("/P", 3))).parameters)
    assert 3 == store.count(GetParameters)


async def test_what_a_read_costs(store: Simulated) -> None:
    """Requests, those of them that were throttled, and what was decrypted are counted, also of a read that fails."""
    store.faults, store.fault, store.left = ("throttled",), 1.0, 2
    stats = ReadStats()

    await read(store, names("/P", 3), stats=stats)
    assert (3, 2, 3) == (stats.requests, stats.throttled, stats.decrypted)

    store.denied = set(ALL)
    with pytest.raises(AccessDenied):
        await read(store, Query(path="/P"), stats=stats)
    assert 4 == stats.requests


async def test_an_error_has_neither_traceback_nor_context(store: Simulated) -> None:
    """What a read raises leads to no frame of it, for these hold values."""
    store.broken = {"/P/05"}
    try:
        await read(store, Query(path="/P"))
    except DecryptionFailed as error:
        raised = error

    assert raised.__context__ is None
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(raised.__traceback__)]
    assert "read" == frames[-1]


async def test_errors_of_a_transport_are_translated(store: Simulated) -> None:
    """An answer that is an error becomes ours, with what was asked for, the region and the remedy."""

    class Absent:
        region = "eu-central-1"

        async def send(self, request: Request) -> Page:
            raise ServiceError("ParameterNotFound" if isinstance(request, GetParameter) else "ValidationException")

        async def aclose(self) -> None:
            return

    error = await reader_of(store, Absent()).send_once(GetParameter("/P/X"), ReadStats())

    assert isinstance(error, ParameterNotFound)
    assert ("/P/X", "eu-central-1") == (error.parameter, error.region)
    assert error.remedy


async def test_plain_parameters_are_not_decrypted(store: Simulated) -> None:
    """A `String` comes with its value in the first fetch, and costs no decryption."""
    store.put("/P/PLAIN", "plain", "String")
    stats = ReadStats()

    found = await read(store, Query(path="/P", names=("/P/PLAIN",)), decrypt="changed", stats=stats)

    assert "plain" == found.parameters["/P/PLAIN"].value
    assert (1, 0) == (stats.requests, stats.decrypted)


def test_a_parameter_shows_no_value_in_what_is_kept() -> None:
    """The results of a read, and what is known after it, show names only."""
    secret = Parameter(name="/P/A", value="hunter2", type="SecureString", version=1)
    results = Results({"/P/A": secret})

    assert "hunter2" not in f"{results!r} {StoreState().merge(results)!r}"
