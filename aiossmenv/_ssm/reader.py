# One owner: one read of the store, from the first request to the last answer. No I/O, no clock.
"""
Which request next.

A `Scan` is asked for jobs with `next()` and told what became of each with `answered()` or `failed()`. Whoever drives it
sends the jobs' requests; in which order the answers come back makes no difference to the result.

It *looks* first: lists paths, or reads names, ten to a call. What it was told to look at without decryption comes
sealed, and is compared with what is known. Then it *opens*: only what is new or differs is read again, decrypted, and
with it the rest of its group. Where the role may not read ten names at once it reads them singly, or lists their path.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from aiossmenv._concurrency import Backoff
from aiossmenv._errors import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    InvalidPath,
    ParameterNotFound,
    StoreUnavailable,
    Throttled,
)
from aiossmenv._models import Parameter
from aiossmenv._naming import is_reference, split_selector
from aiossmenv._ssm.limiter import AdaptiveRateLimiter
from aiossmenv._ssm.merge import ResultMerger, Results
from aiossmenv._ssm.transport import (
    BATCH,
    Answer,
    FetchedParameter,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    Query,
    Request,
    TokenRefused,
    answers,
    batches,
)

# Seconds for which a denial holds where no listing is planned; five times the default `ttl` of a store.
DENIED_FOR = 300.0


@dataclass(eq=False, slots=True)
class _Listing:
    """One walk through a path; *only* these names count, unless it is `None`."""

    want: Query
    root: GetParametersByPath
    only: set[str] | None
    opening: bool
    tokens: set[str] = field(default_factory=set)
    bag: Results = field(default_factory=Results)
    restarts: int = 0
    lags: bool = False
    complete: bool = False


@dataclass(eq=False, slots=True)
class Job:
    """A request to send, and what the scan knows of it."""

    request: Request
    want: Query
    opening: bool = False
    listing: _Listing | None = None
    failures: int = 0
    # Why the names of a call for ten are asked for singly.
    because: AiossmenvError | None = None
    last_error: AiossmenvError | None = None
    # What names with a version's number in place of their own selector were called.
    called: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it asks for."""
        match self.request:
            case GetParameters(names):
                return names
            case GetParameter(name):
                return (name,)
        return ()


class PermissionCache:
    """
    What the role may not do: kinds of requests, each with the error that said so, shared by all scans of a store.

    A denial is forgotten when its time is over, because a new policy takes minutes to hold. What was denied before is
    *doubted* then: it is tried once more, alone, and only its success makes it an ordinary request again.
    """

    def __init__(self) -> None:
        self.learned: dict[type[Request], AiossmenvError] = {}
        self.doubted: set[type[Request]] = set()
        self._until: dict[type[Request], float] = {}
        self._last: dict[type[Request], AiossmenvError] = {}
        self._told: set[type[Request]] = set()
        self._unreported: list[tuple[bool, AiossmenvError]] = []

    def learn(self, kind: type[Request], error: AiossmenvError, until: float = math.inf) -> None:
        """Remember a denial, at the longest *until* that time."""
        if kind not in self.learned:
            self.learned[kind] = error
            self._until[kind] = until
            self.doubted.discard(kind)

    def confirm(self, kind: type[Request]) -> None:
        """Report a denial that another kind of request made up for; only once while it lasts."""
        if kind in self.learned and kind not in self._told:
            self._told.add(kind)
            self._unreported.append((False, self.learned[kind]))

    def granted(self, kind: type[Request]) -> None:
        """Note that a request went well; report it if its kind was reported as denied."""
        if kind in self.doubted:
            self.doubted.discard(kind)
            if kind in self._told:
                self._told.discard(kind)
                self._unreported.append((True, self._last[kind]))

    def forget(self, kind: type[Request]) -> None:
        """Let it be tried again."""
        self._last[kind] = self.learned.pop(kind)

    def doubt(self, kinds: Iterable[type[Request]]) -> None:
        """Let each of *kinds* that is denied be tried again by one request."""
        for kind in self.learned.keys() & set(kinds):
            self.forget(kind)
            self.doubted.add(kind)

    def age(self, seconds: float) -> None:
        """Note that the process slept, and the clock of *until* with it."""
        for kind in self._until:
            self._until[kind] -= seconds

    def expire(self, now: float) -> None:
        """Doubt the denials whose time is over."""
        self.doubt([kind for kind, until in self._until.items() if now >= until])

    def report(self) -> list[tuple[bool, AiossmenvError]]:
        """Return what is to be logged since this was last asked: whether the right is back, and what denied it."""
        unreported, self._unreported = self._unreported, []
        return unreported


class Scan:
    """
    One complete read, or one error.

    *wants*: what to look at. *known*, *digests*: what was read before, by name, and its ciphertexts' digests.
    *decrypt*: open everything at the first look, or `changed` things only. *groups*: names that are opened together.
    *lenient*: an error ends the read of the names that it concerns, in `errors`, and of no others. *pace*, *denials*:
    shared by all scans of a store. *denied_for*: seconds for which a denial that this scan meets holds. *deadline*: when to
    give up, on the clock of the *now* that every method takes. *random* gives numbers from 0 to 1.
    """

    def __init__(
        self,
        wants: Iterable[Query],
        *,
        pace: AdaptiveRateLimiter,
        denials: PermissionCache,
        deadline: float,
        random: Callable[[], float],
        known: Mapping[str, Parameter] | None = None,
        digests: Mapping[str, bytes] | None = None,
        decrypt: Literal["all", "changed"] = "all",
        groups: Iterable[frozenset[str]] = (),
        lenient: bool = False,
        denied_for: float = DENIED_FOR,
        backoff: Backoff | None = None,
    ) -> None:
        self._decrypt_all = decrypt == "all"
        self._readings = ResultMerger(known or {}, digests or {}, decrypt_all=self._decrypt_all)
        self._groups = tuple(groups)
        self._lenient = lenient
        self._pace = pace
        self._denials = denials
        self._denied_for = denied_for
        # Denials that this scan taught and that no other kind of request has made up for yet.
        self._unconfirmed: set[type[Request]] = set()
        self._deadline = deadline
        self._random = random
        self._backoff = backoff or Backoff()
        self._ready: deque[Job] = deque()
        self._later: list[tuple[float, int, Job]] = []
        self._turn = itertools.count()
        self._out: set[Job] = set()
        self._wants_of: dict[str, Query] = {}
        self._listings: dict[tuple[int, bool], _Listing] = {}
        self._looking = True
        # Denials of calls for ten, and how many of their names are still to be read singly.
        self._suspects: dict[AiossmenvError, int] = {}
        # Denials of calls for ten that were for this scan.
        self._met: set[AiossmenvError] = set()
        # Names to ask for, of which the jobs are made as they are sent: for 10,000 it would hold the loop.
        self._packs: Iterator[tuple[Query, tuple[str, ...]]] = iter(())
        self._pack: tuple[Query, tuple[str, ...]] | None = None
        self.unknown: set[str] = set()
        self.errors: dict[str, AiossmenvError] = {}
        self.error: AiossmenvError | None = None
        self.requests = self.throttled = 0
        self._unpack(itertools.chain.from_iterable([self._look(want) for want in wants]))

    @property
    def done(self) -> bool:
        """Whether there is nothing left to ask for: `found` is complete, or `error` says why not."""
        return self.error is not None or not (self._ready or self._later or self._out or self._pack)

    @property
    def found(self) -> dict[str, Parameter]:
        """All parameters, by the names they were asked by; complete when `done` and without `error`."""
        return self._readings.bag.opened

    @property
    def digests(self) -> dict[str, bytes]:
        """The digests of those parameters' ciphertexts, where they are known."""
        return self._readings.bag.digests

    @property
    def decrypted(self) -> int:
        """How many values were decrypted."""
        return self._readings.decrypted

    def next(self, now: float) -> Job | None:
        """Return a job to send now, or `None`: then wait for an answer, or `wait()` seconds."""
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        self._fill()
        if self.error or not self._ready or self._is_held() or self._pace.wait(now):
            return None
        job = self._ready.popleft()
        self._out.add(job)
        self._pace.sent(job, now)
        self.requests += 1
        return job

    def wait(self, now: float) -> float:
        """Return how many seconds may pass without an answer before `next()` or `expire()` wants to be called."""
        until = self._deadline
        if self._later:
            until = min(until, self._later[0][0])
        if (self._ready or self._pack) and not self._is_held():
            until = min(until, now + self._pace.wait(now))
        return max(0.0, until - now)

    def _is_held(self) -> bool:
        """Whether the next job waits for those under way: what was denied before goes alone, so that it costs one denial."""
        return bool(self._ready and self._out) and type(self._ready[0].request) in self._denials.doubted

    def expire(self, now: float, unsent: str = "") -> None:
        """Give up if the deadline is over; *unsent*: why requests under way have not been sent, if they have not."""
        if now >= self._deadline and not self.done:
            left = (self._pack, *self._packs) if self._pack else ()
            unmade = [Job(GetParameters(names), want) for want, names in left]
            late = [*self._out, *self._ready, *(job for _, _, job in self._later), *unmade]
            late.sort(key=lambda job: job.last_error is None)  # those first that know why
            for job in late:
                self._give_up(job, job.last_error or _unanswered(job, unsent))
            self._ready.clear()
            self._later.clear()
            self._pack = None
            self.abandon()

    def abandon(self) -> None:
        """Let go of what is under way: nobody waits for it."""
        for job in self._out:
            self._pace.forget(job)
        self._out.clear()
        # Where nothing went well everything is denied: the credentials are broken, or the role has no policy yet.
        self._denials.doubt(self._unconfirmed)
        self._unconfirmed.clear()

    def answered(self, job: Job, answer: Answer, now: float) -> None:
        """Take in what a request gave."""
        self._out.discard(job)
        self._pace.answered(job, now, "good")
        self._went_well(type(job.request))
        if isinstance(answer, TokenRefused):
            self._restart(job, now)
        elif job.listing:
            self._listed(job, job.listing, answer, now)
        else:
            self._named(job, answer, now)
        self._advance()

    def failed(self, job: Job, error: AiossmenvError, now: float) -> None:
        """Take in a failure: another way, once more later if that may help, or the end."""
        self._out.discard(job)
        throttled = isinstance(error, Throttled)
        self._pace.answered(job, now, "throttled" if throttled else "failed")
        self.throttled += throttled
        if isinstance(error, ParameterNotFound) and isinstance(job.request, GetParameter):
            if job.called:
                self._again(job, _late(job.names), now)
            else:
                self.unknown.update(job.names)
                self._cleared(job, now)
                self._went_well(GetParameter)
        elif isinstance(error, DecryptionFailed) and job.listing and not job.opening and job.listing.root.decrypt:
            # One of them fails the page, and the answer does not say which; opened by name, it does.
            job.listing.root = replace(job.listing.root, decrypt=False)
            self._ready.append(self._first_page(job.listing))
        elif self._has_another_way(job, self._denials.learned.get(type(job.request), error)):
            kind = type(job.request)
            self._met.add(error)
            if _is_denial(error) and not job.want.may_list and kind is GetParameters:
                # It may be one of them that is forbidden. If each can be read singly, it is not.
                self._suspects[error] = len(job.names)
            elif _is_denial(error):
                self._denials.learn(kind, error, now + self._denied_for)
                self._unconfirmed.add(kind)
            behind = len(self._ready)
            self._read_otherwise(job, self._denials.learned.get(kind, error))
            # First, for they may show that the rest of this kind need not be sent.
            self._ready.rotate(-behind)
            self._withdraw(kind)
        else:
            self._again(job, error, now)
        self._advance()

    def _went_well(self, kind: type[Request]) -> None:
        """Note that the role may send one kind of request: then what was denied of another kind is its own denial."""
        self._denials.granted(kind)
        for other in self._unconfirmed - {kind}:
            self._denials.confirm(other)
        self._unconfirmed &= {kind}

    def _cleared(self, job: Job, now: float) -> None:
        """Note that the role may read a name singly, of ten that it may not read together."""
        if job.because in self._suspects:
            self._suspects[job.because] -= 1
            if not self._suspects[job.because]:
                self._denials.learn(GetParameters, job.because, now + self._denied_for)
                self._denials.confirm(GetParameters)
                self._withdraw(GetParameters)

    def _read_otherwise(self, job: Job, because: AiossmenvError) -> None:
        names = [job.called.get(name, name) for name in job.names]
        self._read(names, job.want, decrypt=job.request.decrypt, opening=job.opening, because=because)

    def _withdraw(self, kind: type[Request]) -> None:
        """Read otherwise what was to be asked for in a way that is known to be denied."""
        if kind not in self._denials.learned:
            return
        because = self._denials.learned[kind]
        queued = [*self._ready, *(job for _, _, job in self._later)]
        mates = [job for job in queued if isinstance(job.request, kind) and self._has_another_way(job, because)]
        self._ready = deque(job for job in self._ready if job not in mates)
        self._later = [entry for entry in self._later if entry[2] not in mates]
        heapq.heapify(self._later)
        for mate in mates:
            self._read_otherwise(mate, because)

    def _look(self, want: Query) -> Iterable[tuple[Query, tuple[str, ...]]]:
        """Return the names to look at by tens; what is not asked for by tens is ready now."""
        if want.names is None:
            self._list(want, decrypt=self._decrypt_all, opening=False)
            return ()
        natives: list[str] = []
        for name in dict.fromkeys(want.names):
            self._wants_of.setdefault(name, want)
            if is_reference(name):
                self._ready.append(Job(GetParameter(name), want))
            else:
                natives.append(name)
        return ((want, ten) for ten in batches(natives))

    def _list(self, want: Query, *, decrypt: bool, opening: bool, only: Iterable[str] | None = None) -> None:
        listing = self._listings.get((id(want), opening))
        if listing and listing.only is not None and only is not None:
            # Several singles that were denied at once need one listing between them.
            listing.only.update(only)
            self._take(listing)
            return
        names = None if only is None else set(only)
        listing = _Listing(want, GetParametersByPath(want.path, want.recursive, decrypt), names, opening)
        self._listings[id(want), opening] = listing
        self._ready.append(self._first_page(listing))

    def _read(
        self,
        names: Iterable[str],
        want: Query,
        *,
        decrypt: bool,
        opening: bool,
        because: AiossmenvError | None = None,
    ) -> None:
        """Ask for *names* in the best way that the role is not known to be denied."""
        denied = self._denials.learned
        if not because and GetParameters not in denied:
            self._ready.extend(Job(GetParameters(batch, decrypt), want, opening) for batch in batches(names))
            return
        because = because or denied[GetParameters]
        of_want: dict[int, tuple[Query, list[str]]] = {}
        for name in names:
            # A group may have names of several paths.
            own = self._wants_of.get(name, want)
            of_want.setdefault(id(own), (own, []))[1].append(name)
        for own, some in of_want.values():
            listable = own.may_list and _is_denial(because)
            if listable and (GetParameter in denied or not decrypt or len(some) > BATCH):
                self._list(own, decrypt=decrypt, opening=opening, only=(split_selector(name)[0] for name in some))
            else:
                self._ready.extend(Job(GetParameter(name, decrypt), own, opening, because=because) for name in some)

    def _has_another_way(self, job: Job, error: AiossmenvError) -> bool:
        singly = GetParameter not in self._denials.learned
        match job.request:
            case GetParameters():
                # One bad name, or one that cannot be decrypted, fails all ten; singly it is known which.
                listable = job.want.may_list and _is_denial(error)
                return listable or (singly and (_is_denial(error) or isinstance(error, DecryptionFailed | InvalidPath)))
            case GetParameter(name):
                return _is_denial(error) and job.want.may_list and not is_reference(name)
        return False

    def _listed(self, job: Job, listing: _Listing, page: Page, now: float) -> None:
        if page.token in listing.tokens:
            # A listing that goes in circles would never end, and one cut short here would be a smaller set.
            self._restart(job, now)
            return
        for item in page.items:
            kept = self._readings.keep(item.name, item, listing.bag)
            listing.lags |= not kept and (listing.only is None or item.name in listing.only)
        if page.token is not None:
            listing.tokens.add(page.token)
            root = listing.root
            following = GetParametersByPath(root.path, root.recursive, root.decrypt, page.token)
            self._ready.append(Job(following, job.want, job.opening, listing))
        elif listing.lags:
            self._restart(job, now)
        else:
            listing.complete = True
            self._take(listing)

    def _take(self, listing: _Listing) -> None:
        """Take over what a complete listing found."""
        if not listing.complete:
            return
        bag, only = listing.bag, listing.only
        if only is None:
            self._wants_of.update(dict.fromkeys([*bag.opened, *bag.sealed], listing.want))
        else:
            self.unknown |= only - bag.opened.keys() - bag.sealed.keys()
            bag = bag.part(only)
        self._readings.bag.add(bag)

    def _named(self, job: Job, page: Page, now: float) -> None:
        # No two names of one parameter are sent together, so each has one answer at most.
        late: dict[str, str] = {}
        missing: list[str] = []
        spelled_so = {item.name: item for item in page.items}
        for asked in job.names:
            name = job.called.get(asked, asked)
            item = spelled_so.get(asked) or next((item for item in page.items if answers(asked, item)), None)
            if item is None:
                missing.append(asked)
            elif not self._readings.keep(name, _as_asked(item, name), self._readings.bag):
                looked = self._readings.bag.sealed.get(name) or self._readings.bag.opened[name]
                late[f"{split_selector(name)[0]}:{looked.version}"] = name
        if missing and not page.unknown:
            error = StoreUnavailable(
                "Parameter Store left names out of an answer", parameter=", ".join(missing), remedy=_LATER
            )
            self._again(job, error, now)
            return
        late |= {asked: job.called[asked] for asked in missing if asked in job.called}
        self.unknown.update(asked for asked in missing if asked not in job.called)
        if late:
            # This replica has not heard of the version that another one showed: by its number it cannot be mistaken.
            names = tuple(late)
            request = GetParameter(names[0]) if isinstance(job.request, GetParameter) else GetParameters(names)
            again = Job(request, job.want, opening=True, failures=job.failures, because=job.because, called=late)
            self._again(again, _late(names), now)
        else:
            self._cleared(job, now)

    def _advance(self) -> None:
        """When all was looked at, open what is to be opened."""
        if not self._looking or not self.done or self.error:
            return
        self._looking = False
        clusters = self._readings.changed_groups(self._groups)
        grouped = {name for cluster in clusters for name in cluster}
        singles = ((name,) for name in sorted(self._readings.bag.sealed.keys() - grouped))
        self._unpack(self._packed(itertools.chain(clusters, singles)))

    def _unpack(self, packs: Iterable[tuple[Query, tuple[str, ...]]]) -> None:
        self._packs = iter(packs)
        self._pack = next(self._packs, None)

    def _fill(self) -> None:
        """Make the next job from the names that are left, if there are any."""
        decrypt, opening = self._decrypt_all or not self._looking, not self._looking
        if self._pack and GetParameters in self._denials.learned:
            # All that is left at once: a few are read singly, but many are better listed.
            left: dict[int, tuple[Query, list[str]]] = {}
            for want, names in (self._pack, *self._packs):
                left.setdefault(id(want), (want, []))[1].extend(names)
            self._pack = None
            for want, all_names in left.values():
                self._read(all_names, want, decrypt=decrypt, opening=opening)
        while self._pack and not self._ready:
            want, names = self._pack
            self._pack = next(self._packs, None)
            self._read(names, want, decrypt=decrypt, opening=opening)

    def _packed(self, clusters: Iterable[tuple[str, ...]]) -> Iterable[tuple[Query, tuple[str, ...]]]:
        """Put clusters of names into tens, by the want they came from, without breaking one that fits."""
        open_tens: dict[int, tuple[Query, list[str]]] = {}
        for cluster in clusters:
            natives = [name for name in cluster if not is_reference(name)]
            want = self._wants_of[cluster[0]]
            _, ten = open_tens.setdefault(id(want), (want, []))
            if ten and len(ten) + len(natives) > BATCH:
                yield want, tuple(ten)
                ten.clear()
            ten.extend(natives)
        yield from ((want, tuple(ten)) for want, ten in open_tens.values() if ten)

    def _again(self, job: Job, error: AiossmenvError, now: float) -> None:
        job.last_error = error
        job.failures += 1
        delay = self._backoff.delay_within(job.failures, self._random(), self._deadline - now)
        if error.transient and delay is not None:
            heapq.heappush(self._later, (now + delay, next(self._turn), job))
        elif _is_denial(error) and job.because:
            if job.because not in self._met:
                # That was of other names, or some time ago, and leaves no way for these.
                if self._denials.learned.get(GetParameters) is job.because:
                    self._denials.forget(GetParameters)
                request = GetParameters(job.names, job.request.decrypt)
                self._ready.append(Job(request, job.want, job.opening, called=job.called))
                return
            # The role may not read singly either; what the call for ten said was the matter.
            self._give_up(job, job.because)
        else:
            self._give_up(job, error)

    def _give_up(self, job: Job, error: AiossmenvError) -> None:
        if self._lenient and job.names:
            self.errors |= dict.fromkeys(job.names, error)
        else:
            self.error = self.error or error

    def _first_page(self, listing: _Listing) -> Job:
        listing.tokens.clear()
        listing.bag, listing.lags = Results(), False
        return Job(listing.root, listing.want, listing.opening, listing)

    def _restart(self, job: Job, now: float) -> None:
        """Begin a listing anew: what it gave so far may be of another state of the store."""
        listing = job.listing
        assert listing
        # Its own count, which a first page that comes well does not set back: all callers share one quota.
        again = self._first_page(listing)
        again.failures = listing.restarts
        listing.restarts += 1
        text = "Parameter Store did not continue a listing that it had begun"
        self._again(again, StoreUnavailable(text, path=job.want.path, remedy=_LATER), now)


_LATER = "It is tried again until the deadline."


def _unanswered(job: Job, unsent: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{unsent or 'Parameter Store did not answer'} before the deadline",
        parameter=", ".join(job.names) or None,
        path=job.request.path if isinstance(job.request, GetParametersByPath) else None,
        remedy=f"Check {'where they come from' if unsent else 'the network and the endpoint'}, or pass a longer deadline.",
    )


def _is_denial(error: AiossmenvError) -> bool:
    # Of an action of Parameter Store's, which another one may make up for; not of the credentials, STS or KMS.
    return isinstance(error, AccessDenied) and (error.action or "").startswith("ssm:")


def _as_asked(item: FetchedParameter, name: str) -> FetchedParameter:
    # Not every answer says by which selector it was asked for; and read by its version's number for once, a parameter is
    # the same as without.
    selector = split_selector(name)[1]
    wanted = f":{selector}" if selector else ""
    return item if item.selector == wanted or is_reference(name) else replace(item, selector=wanted)


def _late(names: Iterable[str]) -> StoreUnavailable:
    text = "Parameter Store showed a version that it did not yet give out"
    return StoreUnavailable(text, parameter=", ".join(names), remedy=_LATER)
