"""Which request next: in any order of answers and through any passing failure, one and the same result."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import AccessDenied, AiossmenvError, DecryptionFailed, Parameter, StoreUnavailable, Throttled
from aiossmenv._backoff import Backoff
from aiossmenv._scan import Answer, ByName, ByPath, One, Page, Request, Scan, TokenRefused, in_tens

A, B, C = One("/A"), One("/B"), One("/C")
LIST = ByPath("/P", recursive=True)

# The pages of a listing, some of them empty; and the states that a listing goes through, one after each restart.
PAGES = st.lists(st.lists(st.sampled_from("abcdef"), max_size=3), min_size=1, max_size=5)
LISTINGS = st.dictionaries(
    st.sampled_from(["/P", "/Q", "/R"]), st.lists(PAGES, min_size=1, max_size=3), min_size=0, max_size=3
)
NAMES = st.lists(st.integers(0, 40).map("/N/{}".format), max_size=45)


def made(name: str, version: int = 1) -> Parameter:
    """Return a parameter of this name."""
    return Parameter(name=name, value="x", type="String", version=version)


def started(requests: Iterable[Request], *, width: int = 8, deadline: float = 30.0, draw: float = 0.5) -> Scan:
    """Return a scan that begins at 0 and whose dice always show *draw*; its waits are drawn below 1, 2, 4 s, ..."""
    return Scan(requests, width=width, deadline=deadline, random=lambda: draw, backoff=Backoff(base=1.0, cap=20.0))


@dataclass
class Store:
    """A Parameter Store whose listings change their state when they are broken off, and which fails now and then."""

    listings: dict[str, list[list[list[str]]]]
    there: frozenset[str]
    dice: Random
    faults: int
    state: dict[str, int] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer | AiossmenvError:
        """Answer one request, or fail while there are faults left."""
        kind = self.dice.choice(["", "throttled", "down", "token"]) if self.faults else ""
        if kind in {"throttled", "down"}:
            self.faults -= 1
            return Throttled("slow down") if kind == "throttled" else StoreUnavailable("no answer")
        match request:
            case ByPath(path, _, token):
                return self._page(path, token, is_broken=kind == "token" and token is not None)
            case ByName(names):
                return Page(
                    tuple(made(name) for name in names if name in self.there),
                    unknown=tuple(name for name in names if name not in self.there),
                )
        return Page((made(request.name),))

    def held(self, path: str) -> dict[str, Parameter]:
        """Return what a reader finds who takes page after page of the state that a listing is in."""
        state = self.state.get(path, 0)
        names = [f"{path}/{name}" for page in self.listings[path][state] for name in page]
        return {name: made(name, version=state) for name in names}

    def _page(self, path: str, token: str | None, *, is_broken: bool) -> Answer:
        """Return the page that a token leads to, or break the listing off and go to its next state."""
        state = self.state.setdefault(path, 0)
        at = 0
        if token is not None:
            of_state, _, page = token.partition(" ")
            assert (path, str(state)) == tuple(of_state.split("#")), "a token of another listing, or of its past"
            at = int(page)
        answer = Page(
            tuple(made(f"{path}/{name}", version=state) for name in self.listings[path][state][at]),
            f"{path}#{state} {at + 1}" if at + 1 < len(self.listings[path][state]) else None,
        )
        if is_broken:
            self.faults -= 1
            self.state[path] = min(state + 1, len(self.listings[path]) - 1)
            # Either says so, or leads back to a page that was there before.
            return TokenRefused() if self.dice.random() < 0.5 else Page(answer.parameters, token)
        return answer


def drive(scan: Scan, answer: Callable[[Request], Answer | AiossmenvError], dice: Random, *, width: int) -> int:
    """Send what the scan asks for and let answers come back in any order; returns how many requests there were."""
    now, sent, under_way = 0.0, 0, list[Request]()
    while not scan.done:
        while request := scan.next(now):
            assert request not in under_way
            assert not isinstance(request, ByName) or 1 <= len(request.names) <= 10
            under_way.append(request)
            sent += 1
        assert len(under_way) <= width
        if not under_way:
            assert scan.wait(now) > 0
            now += scan.wait(now)
            continue
        now += 0.1 * dice.random()
        request = under_way.pop(dice.randrange(len(under_way)))
        given = answer(request)
        if isinstance(given, AiossmenvError):
            scan.failed(request, given, now)
        else:
            scan.answered(request, given, now)
    assert [] == under_way
    return sent


@given(
    listings=LISTINGS,
    names=NAMES,
    there=st.sets(st.integers(0, 40)),
    width=st.integers(1, 6),
    faults=st.integers(0, 12),
    dice=st.randoms(use_true_random=False),
)
def test_any_order_and_any_passing_failure_give_one_result(
    *,
    listings: dict[str, list[list[list[str]]]],
    names: list[str],
    there: set[int],
    width: int,
    faults: int,
    dice: Random,
) -> None:
    """However answers interleave, fail and break off, the result is that of one who reads page after page undisturbed."""
    store = Store(listings, frozenset(map("/N/{}".format, there)), dice, faults)
    requests: list[Request] = [*(ByPath(path, recursive=True) for path in listings), *in_tens(names), A]
    dice.shuffle(requests)
    scan = Scan(requests, width=width, deadline=1e9, random=dice.random)

    drive(scan, store.answer, dice, width=width)

    expected = {name: made(name) for name in store.there.intersection(names)} | {"/A": made("/A")}
    for path in listings:
        expected |= store.held(path)
    assert scan.error is None
    assert expected == scan.found
    assert set(names) - store.there == scan.unknown


@given(NAMES)
def test_in_tens(names: list[str]) -> None:
    """Names are asked for once each, in their order, ten to a request but for the last."""
    requests = in_tens(names)

    assert list(dict.fromkeys(names)) == [name for request in requests for name in request.names]
    assert all(len(request.names) == 10 for request in requests[:-1])
    assert all(1 <= len(request.names) <= 10 for request in requests)


def test_nothing_to_read_is_done() -> None:
    """A scan without requests has found nothing, and is done."""
    scan = started([])

    assert scan.done
    assert scan.next(0.0) is None
    assert {} == scan.found


def test_as_many_requests_as_the_width() -> None:
    """Requests are sent in their order until the width is reached, and one more for each that comes back."""
    scan = started([A, B, C], width=2)

    assert [A, B, None] == [scan.next(0.0) for _ in range(3)]
    scan.answered(B, Page((made("/B"),)), 0.0)
    assert [C, None] == [scan.next(0.0) for _ in range(2)]
    assert (False, None) == (scan.done, scan.error)
    scan.answered(C, Page((made("/C"),)), 0.0)
    scan.answered(A, Page((made("/A"),)), 0.0)
    assert (True, None) == (scan.done, scan.error)
    assert {"/A", "/B", "/C"} == scan.found.keys()


def test_failed_request_is_sent_again_with_full_jitter() -> None:
    """A passing failure is tried again after a drawn wait, whose ceiling doubles with each failure of that request."""
    scan = started([A])
    now = 0.0
    for wait in (0.5, 1.0, 2.0, 4.0):
        assert A == scan.next(now)
        scan.failed(A, Throttled("slow down"), now)
        assert wait == scan.wait(now)
        assert scan.next(now + 0.99 * wait) is None
        now += wait

    assert A == scan.next(now)
    scan.answered(A, Page((made("/A"),)), now)
    assert (True, None) == (scan.done, scan.error)


def test_each_request_backs_off_by_itself() -> None:
    """A request that fails does not keep the others waiting."""
    scan = started([A, B], width=1)
    assert A == scan.next(0.0)
    scan.failed(A, Throttled("slow down"), 0.0)

    assert B == scan.next(0.0)
    scan.failed(B, Throttled("slow down"), 0.2)
    assert A == scan.next(0.5)
    scan.failed(A, Throttled("slow down"), 0.5)
    assert B == scan.next(0.7)


def test_wait_until_something_can_be_sent() -> None:
    """The wait is for the earliest retry; where the width is taken up only an answer or the deadline helps."""
    scan = started([A, B, C], width=2)
    assert [A, B] == [scan.next(0.0), scan.next(0.0)]
    assert 30.0 == scan.wait(0.0)
    scan.failed(A, Throttled("slow down"), 0.25)
    scan.failed(B, Throttled("slow down"), 0.0)

    assert 0.25 == scan.wait(0.25)
    assert 0.0 == scan.wait(0.6)
    assert [C, B, None] == [scan.next(0.6) for _ in range(3)]
    assert 29.4 == scan.wait(0.6)
    assert 0.0 == scan.wait(31.0)


def test_first_lasting_error_ends_the_scan() -> None:
    """An error that no retry can cure ends the scan at once; what fails afterwards does not replace it."""
    scan = started([A, B, C, LIST], width=3)
    sent = [scan.next(0.0) for _ in range(3)]
    denied = AccessDenied("no")

    scan.failed(A, Throttled("slow down"), 0.0)
    scan.failed(B, denied, 0.1)
    scan.failed(C, DecryptionFailed("no key"), 0.2)

    assert [A, B, C] == sent
    assert scan.done
    assert denied is scan.error
    assert scan.next(10.0) is None
    scan.expire(31.0)
    assert denied is scan.error


@pytest.mark.parametrize(("now", "is_over"), [(28.9, False), (29.0, True), (29.9, True), (35.0, True)])
def test_no_retry_without_time_for_it(now: float, *, is_over: bool) -> None:
    """A passing failure with too little time left for another try ends the scan with that failure."""
    scan = started([A])
    scan.next(0.0)
    error = Throttled("slow down")

    scan.failed(A, error, now)

    assert is_over == scan.done
    assert (error if is_over else None) is scan.error
    assert scan.wait(now) <= max(0.0, 30.0 - now)


def test_deadline_without_any_answer() -> None:
    """Where nothing was answered by the deadline the store is unavailable; path and remedy are named."""
    scan = started([A, LIST])
    scan.next(0.0)
    scan.next(0.0)

    scan.expire(29.9)
    assert (False, None) == (scan.done, scan.error)
    scan.expire(30.0)

    assert scan.done
    assert isinstance(scan.error, StoreUnavailable)
    assert "/P" == scan.error.path
    assert scan.error.remedy


def test_deadline_with_an_error() -> None:
    """Where something failed before the deadline, that is the error."""
    scan = started([A, B])
    scan.next(0.0)
    scan.next(0.0)
    error = Throttled("slow down")
    scan.failed(A, Throttled("slow down"), 0.0)
    scan.failed(B, error, 1.0)

    scan.expire(30.0)

    assert error is scan.error


def test_deadline_after_the_end_is_none() -> None:
    """A scan that is complete stays so."""
    scan = started([A])
    scan.next(0.0)
    scan.answered(A, Page((made("/A"),)), 1.0)

    scan.expire(31.0)

    assert scan.error is None


def listed(scan: Scan, *answers: Answer) -> list[str | None]:
    """Answer the requests of one listing in turn; returns the tokens that were asked with."""
    now, tokens = 0.0, list[str | None]()
    for answer in answers:
        while not (request := scan.next(now)):
            now += scan.wait(now)
        assert isinstance(request, ByPath)
        assert ("/P", True) == (request.path, request.recursive)
        tokens.append(request.token)
        scan.answered(request, answer, now)
    return tokens


def test_listing_goes_on_through_empty_pages() -> None:
    """A page without parameters and with a token is not the end."""
    scan = started([LIST])

    tokens = listed(scan, Page((), "1"), Page((made("/P/a"),), "2"), Page((), "3"), Page(()))

    assert [None, "1", "2", "3"] == tokens
    assert (True, None) == (scan.done, scan.error)
    assert {"/P/a": made("/P/a")} == scan.found


@pytest.mark.parametrize(
    "broken", [TokenRefused(), Page((made("/P/c"),), "1"), Page((made("/P/c"),), "2")], ids=["refused", "first", "same"]
)
def test_broken_listing_begins_anew(broken: Answer) -> None:
    """A token that is refused, or comes again, sends the listing back to its first page, without what it had."""
    scan = started([LIST])

    tokens = listed(
        scan, Page((made("/P/a"),), "1"), Page((made("/P/b"),), "2"), broken, Page((made("/P/d"),), "1"), Page(())
    )

    assert [None, "1", "2", None, "1"] == tokens
    assert (True, None) == (scan.done, scan.error)
    assert {"/P/d": made("/P/d")} == scan.found


def never_continued(request: Request) -> Answer:
    """Answer as a store that gives first pages only."""
    return Page((), "1") if request == LIST else TokenRefused()


def test_listing_that_is_always_broken_ends_at_the_deadline() -> None:
    """A listing that never can be continued is `StoreUnavailable` in the end, and names its path."""
    scan = started([LIST])

    drive(scan, never_continued, Random(0), width=8)

    assert isinstance(scan.error, StoreUnavailable)
    assert "/P" == scan.error.path


def test_restarts_back_off() -> None:
    """A listing that is broken again and again is begun anew ever more rarely, as all callers share one quota."""
    scan = started([LIST])
    continued = ByPath("/P", recursive=True, token="1")
    now = 0.0

    for wait in (0.5, 1.0, 2.0, 4.0):
        assert LIST == scan.next(now)
        scan.answered(LIST, Page((), "1"), now)
        assert continued == scan.next(now)
        scan.answered(continued, TokenRefused(), now)
        assert wait == scan.wait(now)
        now += wait


def test_success_ends_backing_off() -> None:
    """A page that came in the end is, when the listing has begun anew, tried as one that never failed."""
    scan = started([LIST])
    continued, last = (ByPath("/P", recursive=True, token=token) for token in ("1", "2"))

    for now in (0.0, 1.0):
        assert LIST == scan.next(now)
        scan.answered(LIST, Page((), "1"), now)
        assert continued == scan.next(now)
        scan.failed(continued, Throttled("slow down"), now)
        assert 0.5 == scan.wait(now)
        assert continued == scan.next(now + 0.5)
        scan.answered(continued, Page((), "2"), now + 0.5)
        assert last == scan.next(now + 0.5)
        scan.answered(last, TokenRefused(), now + 0.5)
