"""Single cases of a read: fallbacks, denials, lagging replicas, and errors of some names."""

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
from aiossmenv._ssm.reader import Reader
from aiossmenv._ssm.sender import ReadStats
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
    """Run these queries while the clock advances."""
    known = options.pop("known", StoreState())
    reading = (reader or reader_of(store)).read(queries, known, **{"deadline": 30.0, **options})  # type: ignore[arg-type] # passes options through
    return await passing(store.clock, reading)


def sent_kinds(store: Simulated) -> list[str]:
    """Return the operations that were sent since the last call."""
    sent = [type(request).__name__ for request in store.sent]
    store.sent.clear()
    return sent


def names(path: str, count: int, *, may_list: bool = True) -> Query:
    """Return a query for this many names under *path*."""
    return Query(path=path, names=tuple(f"{path}/{number:02d}" for number in range(count)), may_list=may_list)


async def test_denied_batch_lists_many_names_and_reads_few_singly(store: Simulated) -> None:
    """If `GetParameters` is denied, up to ten decrypted names are read singly, and more are found by one listing."""
    store.denied = {"GetParameters"}

    assert 3 == len((await read(store, names("/P", 3))).parameters)
    assert ["GetParameters", *["GetParameter"] * 3] == sent_kinds(store)
    reader = reader_of(store)
    assert 12 == len((await read(store, names("/P", 12), reader=reader)).parameters)
    store.sent.clear()
    assert 12 == len((await read(store, names("/P", 12), reader=reader)).parameters)
    assert ["GetParametersByPath"] * 2 == sent_kinds(store)


async def test_names_without_list_permission_are_read_singly(store: Simulated) -> None:
    """If a query may not list, a denied batch is read name by name, however many names it has."""
    store.denied = {"GetParameters"}

    assert 12 == len((await read(store, names("/P", 12, may_list=False))).parameters)
    assert 0 == store.count(GetParametersByPath)
    assert 12 == store.count(GetParameter)


async def test_denied_single_reads_share_one_listing(store: Simulated) -> None:
    """If batches and single reads are both denied, one listing finds all names, and other names are ignored."""
    store.denied = {"GetParameters", "GetParameter"}

    found = await read(store, names("/P", 4))

    assert {"/P/00", "/P/01", "/P/02", "/P/03"} == found.parameters.keys()
    assert 2 == store.count(GetParametersByPath)


async def test_one_forbidden_name_is_the_only_denial(store: Simulated) -> None:
    """If one name of a batch is forbidden, the error is the service's own, and batches are still allowed."""
    store.denied = {"GetParameter* /P/03"}
    reader, query = reader_of(store), names("/P", 5, may_list=False)

    with pytest.raises(AccessDenied, match="/P/03"):
        await read(store, query, reader=reader)

    assert reader.permissions.denial(GetParameters) is None


async def test_errors_of_some_names_keep_the_others(store: Simulated) -> None:
    """With `errors`, each forbidden or undecryptable name has its own error, and the others are read."""
    store.denied, store.broken = {"GetParameter* /P/03"}, {"/P/04"}
    errors: dict[str, AiossmenvError] = {}
    query = Query(names=("/P/00", "/P/03", "/P/04", "/P/NOT"), may_list=False)

    found = await read(store, query, errors=errors)

    assert {"/P/00"} == found.parameters.keys()
    assert {"/P/03": AccessDenied, "/P/04": DecryptionFailed} == {name: type(error) for name, error in errors.items()}


async def test_a_deadline_is_the_error_of_each_name(store: Simulated) -> None:
    """With `errors`, a deadline gives each unanswered name an error with the reason."""
    store.faults, store.fault, store.left = ("throttled",), 1.0, 10**6
    errors: dict[str, AiossmenvError] = {}

    await read(store, names("/P", 12, may_list=False), errors=errors, deadline=5.0)

    assert 12 == len(errors)
    assert {Throttled} == {type(error) for error in errors.values()}


async def test_denial_of_everything_is_raised_and_not_recorded(store: Simulated) -> None:
    """
    If every operation is denied, the first denial is raised; the credentials are wrong, so the next read tries all
    again.
    """
    store.denied = set(ALL)
    reader = reader_of(store)

    with pytest.raises(AccessDenied) as caught:
        await read(store, names("/P", 3), reader=reader)

    assert caught.value.action in {f"ssm:{operation}" for operation in ALL}
    assert [None] * 2 == [reader.permissions.denial(kind) for kind in (GetParameters, GetParameter)]


async def test_denial_and_its_end_are_logged_once(store: Simulated, caplog: pytest.LogCaptureFixture) -> None:
    """A denial that another operation replaces is logged once, and once more when the permission returns."""
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


async def test_persistent_denial_costs_one_request(store: Simulated) -> None:
    """After a denial expires, one request tries the operation again, and the rest of the read waits for its answer."""
    reader, store.denied = reader_of(store), {"GetParameters"}
    for may_list in (True, False):
        await read(store, names("/P", 12, may_list=may_list), reader=reader, denied_for=60.0)
        await store.clock.advance(61)
        store.sent.clear()
        await read(store, names("/P", 12, may_list=may_list), reader=reader, denied_for=60.0)
        assert 1 == store.count(GetParameters)
        await store.clock.advance(61)


async def test_undecryptable_value_is_named(store: Simulated) -> None:
    """A listing that fails to decrypt is repeated without decryption, so that the error can name the parameter."""
    store.broken = {"/P/05"}

    with pytest.raises(DecryptionFailed) as caught:
        await read(store, Query(path="/P"))

    assert "/P/05" == caught.value.parameter


async def test_secrets_are_read_one_by_one_and_decrypted(store: Simulated) -> None:
    """A secret of Secrets Manager is read singly and with decryption, whatever else is read."""
    store.put(SECRET, "s")

    found = await read(store, Query(names=("/P/00", SECRET), may_list=False), decrypt="changed")

    assert {"/P/00", SECRET} == found.parameters.keys()
    assert [GetParameter(SECRET, with_decryption=True)] == [one for one in store.sent if isinstance(one, GetParameter)]


async def test_a_group_of_two_paths_is_decrypted_in_one_call(store: Simulated) -> None:
    """The names of a group are decrypted in one call, whatever paths they come from; other names go in other calls."""
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


async def test_large_group_takes_few_calls(store: Simulated) -> None:
    """A group of twelve is decrypted in two calls of at most ten names."""
    group = frozenset(f"/P/{number:02d}" for number in range(12))

    await read(store, Query(path="/P"), decrypt="changed", groups=[group])

    assert [10, 2] == [len(one.names) for one in store.sent if isinstance(one, GetParameters)]


async def test_two_spellings_of_one_parameter_are_in_different_calls(store: Simulated) -> None:
    """An answer does not say which spelling was requested, so two spellings in a group are decrypted in two calls."""
    asked = Query(names=("/P/00", "/P/00:1"), may_list=False)

    found = await read(store, asked, decrypt="changed", groups=[frozenset(asked.names or ())])

    assert {"/P/00", "/P/00:1"} == found.parameters.keys()
    assert 4 == store.count(GetParameters)


async def test_denial_by_kms_is_not_recorded(store: Simulated) -> None:
    """A denial by KMS is the error of its name, and batches are still allowed."""
    store.broken = {"/P/03"}
    reader = reader_of(store)

    with pytest.raises(DecryptionFailed, match="/P/03"):
        await read(store, names("/P", 5), reader=reader)

    assert reader.permissions.denial(GetParameters) is None


async def test_missing_name_proves_read_permission(store: Simulated) -> None:
    """A single read of a missing name is an answer, so the batch operation is the one that is denied."""
    store.denied = {"GetParameters"}
    reader = reader_of(store)

    found = await read(store, Query(names=("/P/NOT",), may_list=False), reader=reader)

    assert {} == found.parameters
    assert reader.permissions.denial(GetParameters) is not None


async def test_version_that_a_replica_lacks_is_read_by_number(store: Simulated) -> None:
    """If decryption returns an older version than the listing, the newer one is requested by its number."""
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


@pytest.mark.parametrize("fault", ["token rejected", "token repeated"])
async def test_failed_listing_starts_again(store: Simulated, fault: str) -> None:
    """If a token is rejected or repeats, the listing starts again after a pause, and is complete."""
    store.faults, store.fault, store.left = (fault,), 1.0, 2

    assert 12 == len((await read(store, Query(path="/P"))).parameters)
    assert 2 == sum(one.next_token is None for one in store.sent if isinstance(one, GetParametersByPath))


async def test_listing_that_keeps_failing(store: Simulated) -> None:
    """At the deadline the error says that the service did not continue the listing, and why."""
    store.faults, store.fault, store.left = ("token rejected",), 1.0, 10**6

    with pytest.raises(StoreUnavailable, match="did not continue a listing") as caught:
        await read(store, Query(path="/P"), deadline=10.0)

    assert "/P" == caught.value.path


async def test_omitted_names_are_requested_again(store: Simulated) -> None:
    """A name that an answer neither contains nor calls unknown is requested again."""
    store.faults, store.fault, store.left = ("left out",), 1.0, 2

    assert 3 == len((await read(store, names("/P", 3))).parameters)
    assert 3 == store.count(GetParameters)


async def test_read_stats(store: Simulated) -> None:
    """Requests, throttled requests and decryptions are counted, also for a read that fails."""
    store.faults, store.fault, store.left = ("throttled",), 1.0, 2
    stats = ReadStats()

    await read(store, names("/P", 3), stats=stats)
    assert (3, 2, 3) == (stats.requests, stats.throttled, stats.decrypted)

    store.denied = set(ALL)
    with pytest.raises(AccessDenied):
        await read(store, Query(path="/P"), stats=stats)
    assert 4 == stats.requests


async def test_an_error_has_neither_traceback_nor_context(store: Simulated) -> None:
    """An error of a read references no frame of the reader, because those frames hold values."""
    store.broken = {"/P/05"}
    try:
        await read(store, Query(path="/P"))
    except DecryptionFailed as error:
        raised = error

    assert raised.__context__ is None
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(raised.__traceback__)]
    assert "read" == frames[-1]


async def test_errors_of_a_transport_are_translated(store: Simulated) -> None:
    """A service error in an answer becomes an error of the package, with the request, the region and the remedy."""

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
    """A `String` parameter arrives with its value in the first fetch and needs no decryption."""
    store.put("/P/PLAIN", "plain", "String")
    stats = ReadStats()

    found = await read(store, Query(path="/P", names=("/P/PLAIN",)), decrypt="changed", stats=stats)

    assert "plain" == found.parameters["/P/PLAIN"].value
    assert (1, 0) == (stats.requests, stats.decrypted)


def test_results_show_no_value() -> None:
    """The reprs of the results and of the known state show names and no values."""
    secret = Parameter(name="/P/A", value="hunter2", type="SecureString", version=1)
    results = Results({"/P/A": secret})

    assert "hunter2" not in f"{results!r} {StoreState().merge(results)!r}"
