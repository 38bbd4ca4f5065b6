"""Which request next: in any order of answers and through any passing failure, one and the same result."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    InvalidPath,
    Parameter,
    ParameterNotFound,
    StoreUnavailable,
    Throttled,
)
from aiossmenv._concurrency import Backoff
from aiossmenv._naming import REFERENCE, base_name, is_reference, relative_name, split_selector
from aiossmenv._ssm.limiter import AdaptiveRateLimiter
from aiossmenv._ssm.merge import is_older
from aiossmenv._ssm.reader import Job, PermissionCache, Scan
from aiossmenv._ssm.transport import (
    Answer,
    EncryptedParameter,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    Query,
    Request,
    TokenRefused,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ACCOUNT = "arn:aws:ssm:eu-west-1:111122223333:parameter"
LEAVES = tuple(f"{depth}{letter}" for depth in ("", "D/", "D/E/") for letter in "abcdefgh")
ACTIONS: dict[type[Request], str] = {
    GetParametersByPath: "ssm:GetParametersByPath",
    GetParameters: "ssm:GetParameters",
    GetParameter: "ssm:GetParameter",
}
# Each property is tried with so many times the examples of the profile: hypothesis' own number is for one function.
MANY = settings(max_examples=settings().max_examples * 3)


def made(
    name: str, version: int = 1, *, secure: bool = True, minute: int | None = None, selector: str = "", value: str = ""
) -> Parameter:
    """Return a parameter of this name, whose value and date tell its version."""
    return Parameter(
        name=name,
        value=value or f"{name} {version}",
        type="SecureString" if secure else "String",
        version=version,
        last_modified=NOON + timedelta(minutes=version if minute is None else minute),
        arn=ACCOUNT + name,
        selector=selector,
    )


def digest_of(parameter: Parameter) -> bytes:
    """Return the digest of the ciphertext that Parameter Store keeps of this."""
    return hashlib.sha256(f"{parameter.name} {parameter.version} {parameter.last_modified}".encode()).digest()


def sealed(parameter: Parameter) -> EncryptedParameter:
    """Return it as a read without decryption gives it."""
    return EncryptedParameter(
        name=parameter.name,
        type=parameter.type,
        version=parameter.version,
        last_modified=parameter.last_modified,
        arn=parameter.arn,
        digest=digest_of(parameter),
    )


def denied(kind: type[Request]) -> AccessDenied:
    """Return what a role hears that may not send this kind of request."""
    return AccessDenied("no", action=ACTIONS[kind])


@dataclass
class Store:
    """
    A Parameter Store: the versions of each parameter, a page of any size, rights, and faults while there are some left.

    *may_not*: requests that are denied; *forbidden*: names that are. *lags*: whether replicas that lag answer reads that
    open what was looked at. *expires_after*: how many calls the credentials are good for.
    """

    rng: Random
    versions: dict[str, list[Parameter]] = field(default_factory=dict)
    secrets: dict[str, Parameter] = field(default_factory=dict)
    faults: int = 0
    may_not: frozenset[type[Request]] = frozenset()
    undecryptable: frozenset[str] = frozenset()
    malformed: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    expires_after: float = float("inf")
    lags: bool = False
    serial: "itertools.count[int]" = field(default_factory=itertools.count)
    listings: dict[GetParametersByPath, tuple[int, list[str]]] = field(default_factory=dict)
    calls: int = 0

    def now(self, name: str) -> Parameter:
        """Return the newest version of a parameter."""
        return self.versions[name][-1]

    def write(self, name: str) -> None:
        """Write a parameter once more; sometimes delete it first, so that it is made anew at version 1."""
        old = self.now(name)
        anew = self.rng.random() < 0.2
        assert old.last_modified
        minute = int((old.last_modified - NOON).total_seconds()) // 60 + self.rng.randint(1, 9)
        version = 1 if anew else old.version + 1
        item = made(name, version, secure=old.type == "SecureString", minute=minute, value=f"{name} {minute}")
        self.versions[name] = [item] if anew else [*self.versions[name], item]

    def below(self, path: str, *, recursive: bool) -> list[str]:
        """Return the names that a listing of *path* gives."""
        return [
            name
            for name in sorted(self.versions)
            if name.startswith(path + "/") and (recursive or "/" not in relative_name(path, name))
        ]

    def answer(self, job: Job) -> Answer | AiossmenvError:
        """Answer one request, or fail."""
        request = job.request
        self.calls += 1
        refusal = self._refusal(job)
        if refusal:
            return refusal
        if isinstance(request, GetParametersByPath):
            return self._page(request)
        found = {name: item for name in job.names if (item := self._found(name, job))}
        if isinstance(request, GetParameter) and not found:
            return ParameterNotFound("none")
        items = sorted(found.values(), key=lambda item: item.name)
        return Page(
            tuple(item if request.decrypt or item.type == "String" else sealed(item) for item in items),
            unknown=tuple(name for name in job.names if name not in found),
        )

    def _refusal(self, job: Job) -> AiossmenvError | None:
        """Refuse a request: by chance, for want of a right, or for what it asks; in this order."""
        kind, names = type(job.request), {base_name(name) for name in job.names}
        if self.faults and self.rng.random() < 0.4:
            self.faults -= 1
            return self.rng.choice([Throttled("slow down"), StoreUnavailable("no answer")])
        if self.calls > self.expires_after:
            return AccessDenied("expired")
        if kind in self.may_not or self.forbidden & names:
            return denied(kind)
        if self.malformed & names:
            return InvalidPath("no such name")
        return DecryptionFailed("no key") if job.request.decrypt and self.undecryptable & names else None

    def _found(self, name: str, job: Job) -> Parameter | None:
        """Find what a name, an ARN or a reference leads to; with a selector, that version."""
        if is_reference(name):
            return self.secrets.get(name)
        base, selector = split_selector(name)
        versions = self.versions.get(base_name(name) if name.startswith("arn:") else base, [])
        # A mate that is no secret may come older than the look showed it.
        lagging = job.opening and bool(versions) and versions[-1].type == "SecureString" and self._lagging()
        if selector:
            item = next((item for item in versions if str(item.version) == selector), None)
            # Asked singly for a version it has not heard of, a replica is believed.
            lagging = lagging and isinstance(job.request, GetParameters)
            return replace(item, selector=":" + selector) if item and not lagging else None
        return versions[-2 if lagging and len(versions) > 1 else -1] if versions else None

    def _lagging(self) -> bool:
        lagging = self.lags and self.faults > 0 and self.rng.random() < 0.5
        self.faults -= lagging
        return lagging

    def _page(self, request: GetParametersByPath) -> Answer | AiossmenvError:
        """Return some of a listing, none of it too; or break it off."""
        root = replace(request, token=None)
        if request.token is None:
            self.listings[root] = next(self.serial), []
            at = 0
        else:
            serial, at = (int(part) for part in request.token.split("/")[:2])
            assert serial == self.listings[root][0], "a token of a listing that was given up"
        serial, tokens = self.listings[root]
        if request.token is not None:
            tokens.append(request.token)
            if self.faults and self.rng.random() < 0.2:
                self.faults -= 1
                return TokenRefused() if self.rng.random() < 0.5 else Page((), self.rng.choice(tokens))
        names = self.below(request.path, recursive=request.recursive)
        end = min(len(names), at + self.rng.randint(0, 10))
        given = [self.now(name) for name in names[at:end]]
        if at and self.rng.random() < 0.2:
            given.append(self.now(self.rng.choice(names[:at])))
        if request.decrypt and self.undecryptable.intersection(item.name for item in given):
            return DecryptionFailed("no key")
        more = end < len(names) or self.rng.random() < 0.2
        return Page(
            tuple(item if request.decrypt or item.type == "String" else sealed(item) for item in given),
            f"{serial}/{end}/{len(tokens)}" if more else None,
        )


@dataclass
class Run:
    """A driver that lets answers come in any order, and looks at all that is sent."""

    scan: Scan
    store: Store
    pace: AdaptiveRateLimiter
    denials: PermissionCache
    now: float = 0.0
    under_way: list[Job] = field(default_factory=list)
    sent: list[tuple[Request, bool]] = field(default_factory=list)
    errors: Counter[type[AiossmenvError]] = field(default_factory=Counter)

    def to_the_end(self) -> None:
        """Drive until the scan is done."""
        rng, idle = self.store.rng, 0
        while not self.scan.done:
            while job := self.scan.next(self.now):
                self.check(job)
                idle = 0
            wait = self.scan.wait(self.now)
            if not self.under_way:
                # Nothing but time can help, so time must pass; and not more of it than is needed.
                assert wait > 0
                assert wait < 1e-9 or self.scan.next(self.now + wait * rng.random() * 0.99) is None
                self.now += wait * (1 + 1e-9)
                idle += 1
                assert idle < 50
                self.scan.expire(self.now)
                continue
            self.now += rng.random() * min(0.1, wait)
            self.answer(self.under_way.pop(rng.randrange(len(self.under_way))))
        assert [] == self.under_way or self.scan.error
        assert len(self.sent) == self.scan.requests
        assert self.errors[Throttled] == self.scan.throttled

    def check(self, job: Job) -> None:
        """Look at a request that is sent."""
        request, want = job.request, job.want
        self.under_way.append(job)
        self.sent.append((request, job.opening))
        assert len(self.under_way) <= self.pace.width
        # One that was under way when the denial was learned, and then failed for another reason, is sent once more.
        if type(request) in self.denials.learned and not job.failures:
            # Only where there is no other way, so that somebody hears why.
            assert not isinstance(request, GetParametersByPath)
            assert not want.may_list or is_reference(job.names[0])
            assert not isinstance(request, GetParameters) or GetParameter in self.denials.learned
        if isinstance(request, GetParametersByPath):
            assert want.names is None or want.may_list
            assert not is_reference(request.path)
        if isinstance(request, GetParameters):
            assert 1 <= len(request.names) <= 10
            assert not any(map(is_reference, request.names))
            assert len({split_selector(name)[0] for name in request.names}) == len(request.names)
        if isinstance(request, GetParameter) and is_reference(request.name):
            assert request.decrypt

    def answer(self, job: Job) -> None:
        """Let one answer come."""
        answer = self.store.answer(job)
        if isinstance(answer, AiossmenvError):
            self.errors[type(answer)] += 1
            self.scan.failed(job, answer, self.now)
        else:
            self.scan.answered(job, answer, self.now)

    def decrypting(self) -> list[Request]:
        """Return the requests that decrypt something of Parameter Store's own."""
        return [
            request
            for request, _ in self.sent
            if request.decrypt and not (isinstance(request, GetParameter) and is_reference(request.name))
        ]


def began(wants: Iterable[Query], *, width: int = 8, deadline: float = 30.0, draw: float = 0.5, **options: Any) -> Scan:
    """Return a scan that begins at 0 and whose dice always show *draw*; its waits are drawn below 1, 2, 4 s, ..."""
    defaults: dict[str, Any] = {
        "pace": AdaptiveRateLimiter(width),
        "denials": PermissionCache(),
        "random": lambda: draw,
        "backoff": Backoff(base=1.0, cap=20.0),
    }
    return Scan(wants, deadline=deadline, **defaults | options)


def run(store: Store, wants: Iterable[Query], *, width: int = 4, deadline: float = 1e7, **options: Any) -> Run:
    """Drive a scan of *store* to its end."""
    pace, denials = AdaptiveRateLimiter(width), options.pop("denials", None) or PermissionCache()
    scan = Scan(wants, pace=pace, denials=denials, deadline=deadline, random=store.rng.random, **options)
    done = Run(scan, store, pace, denials)
    done.to_the_end()
    return done


def filled(rng: Random, *, most: int = 60) -> Store:
    """Return a store with parameters of both types below several paths, and secrets of Secrets Manager."""
    store = Store(rng)
    names = [f"{path}/{leaf}" for path in ("/P", "/Q", "/R/E") for leaf in LEAVES]
    for name in rng.sample(names, rng.randint(0, min(most, len(names)))):
        store.versions[name] = [made(name, secure=rng.random() < 0.7)]
        for _ in range(rng.choice([0, 0, 1, 2])):
            store.write(name)
    for number in range(rng.randint(0, 3)):
        name = f"{REFERENCE}/s{number}"
        store.secrets[name] = replace(made(name, 0), version_id=str(number))
    return store


def slowly(store: Store, wants: Iterable[Query]) -> tuple[dict[str, Parameter], set[str]]:
    """Read as one does who has all the rights, all the time, and no bad luck: what is found, and what is unknown."""
    found: dict[str, Parameter] = {}
    unknown: set[str] = set()
    reader = Store(Random(0), store.versions, store.secrets)
    for want in wants:
        if want.names is None:
            found |= {name: store.now(name) for name in store.below(want.path, recursive=want.recursive)}
            continue
        for name in want.names:
            answer = reader.answer(Job(GetParameter(name), want))
            if isinstance(answer, Page):
                [item] = answer.items
                assert isinstance(item, Parameter)
                found[name] = item
            else:
                unknown.add(name)
    return found, unknown


def some_wants(store: Store, *, paths: Iterable[str] = ("/P", "/Q", "/R/E")) -> tuple[Query, ...]:
    """Return what a reader may want: paths, or names below them, some of which do not exist, and secrets."""
    rng = store.rng
    wants: list[Query] = []
    for path in rng.sample(tuple(paths), rng.randint(1, 3)):
        recursive = rng.random() < 0.8
        if rng.random() < 0.5:
            wants.append(Query(path=path, recursive=recursive))
            continue
        names = [name for name in store.below(path, recursive=recursive) if rng.random() < 0.9]
        names += [f"{path}/none{number}" for number in range(rng.choice([0, 0, 2]))]
        rng.shuffle(names)
        wants.append(Query(path=path, recursive=recursive, names=tuple(names)))
    if store.secrets:
        names = [*rng.sample(sorted(store.secrets), rng.randint(1, len(store.secrets)))]
        names += [f"{REFERENCE}/none"] * (rng.random() < 0.2)
        wants.append(Query(path=REFERENCE, names=tuple(names), may_list=False))
    return tuple(wants)


RIGHTS = [
    frozenset[type[Request]](),
    frozenset({GetParameters}),
    frozenset({GetParameter}),
    frozenset({GetParameters, GetParameter}),
]
SEEDS = st.integers(0, 2**32 - 1).map(Random)


# --- Everything, decrypted


@MANY
@given(SEEDS, st.integers(1, 12), st.integers(0, 15), st.sampled_from(RIGHTS))
def test_any_order_and_any_passing_failure_give_one_result(
    rng: Random, width: int, faults: int, may_not: frozenset[type[Request]]
) -> None:
    """However answers interleave, fail and break off, and in whatever way the role may read: one result."""
    store = filled(rng)
    wants = some_wants(store, paths=("/P", "/P/D", "/Q", "/R/E"))
    if GetParameter in may_not:
        wants = tuple(want for want in wants if want.path != REFERENCE)
    store.faults, store.may_not = faults, may_not

    done = run(store, wants, width=width)

    found, unknown = slowly(store, wants)
    assert done.scan.error is None
    assert found == done.scan.found
    assert unknown == done.scan.unknown
    assert {} == done.scan.digests
    assert set(done.denials.learned) <= may_not


@MANY
@given(SEEDS, st.integers(1, 6), st.integers(0, 10), st.sampled_from(RIGHTS[:3]))
def test_names_versions_and_arns_are_found(
    rng: Random, width: int, faults: int, may_not: frozenset[type[Request]]
) -> None:
    """Names, versions and ARNs, of one parameter too, are each answered by what they lead to; nothing is listed."""
    store = filled(rng, most=8)
    asked: list[str] = []
    for name in store.versions:
        asked += rng.sample([name, f"{name}:1", f"{name}:2", f"{name}:7"], rng.randint(0, 4))
        if not asked or base_name(asked[-1]) != name:
            asked += rng.sample([ACCOUNT + name, f"{ACCOUNT}{name}:1"], rng.randint(0, 2))
    asked += ["/none", f"{ACCOUNT}/none:1", *store.secrets]
    rng.shuffle(asked)
    wants = [Query(names=tuple(asked), may_list=False)]
    store.faults, store.may_not = faults, may_not
    if GetParameter in may_not:
        wants = [Query(names=tuple(name for name in asked if not is_reference(name)), may_list=False)]

    done = run(store, wants, width=width)

    found, unknown = slowly(store, wants)
    assert done.scan.error is None
    assert found == done.scan.found
    assert unknown == done.scan.unknown


@MANY
@given(SEEDS, st.integers(1, 6), st.integers(0, 6), st.booleans())
def test_lenient_reads_fail_for_the_names_concerned_only(rng: Random, width: int, faults: int, may_name: bool) -> None:
    """One bad name, one key or one right that is missing is an error of that name; all others are read."""
    store = filled(rng)
    names = [*store.versions, *store.secrets, "/none", f"{REFERENCE}/none"]
    bad = [name for name in names if rng.random() < 0.1]
    store.faults = faults
    store.may_not = frozenset() if may_name else frozenset({GetParameters})
    store.undecryptable = frozenset(name for name in bad[::3] if store.versions.get(name))
    store.malformed, store.forbidden = frozenset(bad[1::3]) & store.versions.keys(), frozenset(bad[2::3])
    wants = [Query(names=tuple(names), may_list=False)]

    done = run(store, wants, width=width, lenient=True)

    failed = store.undecryptable | store.malformed | store.forbidden
    kinds = dict.fromkeys(store.undecryptable, DecryptionFailed) | dict.fromkeys(store.malformed, InvalidPath)
    found, unknown = slowly(
        replace(store, undecryptable=frozenset(), malformed=frozenset(), forbidden=frozenset()), wants
    )
    assert done.scan.error is None
    assert failed == done.scan.errors.keys()
    assert all(isinstance(error, kinds.get(name, AccessDenied)) for name, error in done.scan.errors.items())
    assert {name: item for name, item in found.items() if name not in failed} == done.scan.found
    assert unknown - failed == done.scan.unknown


@MANY
@given(SEEDS, st.sampled_from(["expired", "key", "path", "malformed"]), st.integers(0, 4), st.integers(0, 20))
def test_first_lasting_error_is_the_end(rng: Random, kind: str, faults: int, after: int) -> None:
    """What no retry and no other way can cure ends a read at once, and nothing is sent behind it."""
    store = filled(rng)
    wants = [Query(path=path) for path in ("/P", "/Q")] if kind == "path" else some_wants(store)
    names = [name for name in slowly(store, wants)[0] if name in store.versions]
    store.faults = faults
    if kind == "expired":
        store.expires_after = after
    elif kind == "path":
        store.may_not = frozenset({GetParametersByPath})
    elif kind == "key":
        secrets = [name for name in names if store.now(name).type == "SecureString"]
        store.undecryptable = frozenset(rng.sample(secrets, min(1, len(secrets))))
    else:
        names = [name for want in wants for name in want.names or () if not is_reference(name)]
        store.malformed = frozenset(rng.sample(names, min(1, len(names))))

    done = run(store, wants)

    expected = {"expired": AccessDenied, "path": AccessDenied, "key": DecryptionFailed, "malformed": InvalidPath}[kind]
    if done.scan.error is None:
        assert (store.calls <= after) if kind == "expired" else not store.undecryptable | store.malformed
        assert slowly(store, wants)[0] == done.scan.found
    else:
        assert isinstance(done.scan.error, expected)
    assert done.scan.done
    assert done.scan.next(done.now + 1e6) is None


# --- Only what changed


@dataclass
class Before:
    """What a reader knows from a read before, and whom it reads together."""

    known: dict[str, Parameter]
    digests: dict[str, bytes]
    groups: list[frozenset[str]]


def aged(store: Store, wants: Iterable[Query], *, share: float, grouped: bool = True) -> Before:
    """Read everything, then let a *share* of it change, some of it vanish, and some of it come."""
    rng = store.rng
    known, _ = slowly(store, wants)
    digests = {
        name: digest_of(item)
        for name, item in known.items()
        if item.type == "SecureString" and not is_reference(name) and rng.random() < 0.8
    }
    for name in list(store.versions):
        if rng.random() < share:
            store.write(name)
        if share and rng.random() < 0.05:
            del store.versions[name]
    if share and rng.random() < 0.3:
        store.versions["/P/new"] = [made("/P/new")]
        store.versions["/Q/new"] = [made("/Q/new", secure=False)]
    groups: list[frozenset[str]] = []
    for top in ("/P/", "/Q/", "/R/") if grouped else ():
        names = [name for name in known if name.startswith(top) and rng.random() < 0.5]
        rng.shuffle(names)
        while names:
            size = rng.choice([1, 2, 3, 5, 10, 13])
            groups.append(frozenset(names[:size]))
            names = names[size:]
    return Before(known, digests, groups)


def changed_of(before: Before, store: Store, found: Iterable[str]) -> set[str]:
    """Return the names of natives that differ from what was known, or are new."""
    return {name for name in found if name in store.versions and before.known.get(name) != store.now(name)}


@MANY
@given(SEEDS, st.integers(1, 10), st.integers(0, 12), st.sampled_from(RIGHTS), st.sampled_from([0.0, 0.05, 0.5]))
def test_changes_are_found_and_nothing_else_is_decrypted(
    rng: Random, width: int, faults: int, may_not: frozenset[type[Request]], share: float
) -> None:
    """A look without decryption and a second one at what changed give what a complete read gives, for less."""
    store = filled(rng)
    wants = [want for want in some_wants(store) if not (want.path == REFERENCE and GetParameter in may_not)]
    before = aged(store, wants, share=share)
    store.faults, store.may_not, store.lags = faults, may_not, True

    done = run(
        store, wants, width=width, decrypt="changed",
        known=before.known, digests=before.digests, groups=before.groups,
    )  # fmt: skip

    found, unknown = slowly(store, wants)
    scan = done.scan
    assert scan.error is None
    # A mate that did not change may be shown by a replica that lags; merging leaves it as it was.
    assert found == {
        name: before.known[name] if is_older(item, before.known.get(name, item)) else replace(item, selector="")
        for name, item in scan.found.items()
    }
    assert unknown == scan.unknown
    for name, digest in scan.digests.items():
        assert digest_of(replace(scan.found[name], selector="")) == digest

    changed = changed_of(before, store, found)
    secure = {name for name in changed if found[name].type == "SecureString"}
    may_open = secure.union(*(group for group in before.groups if group & changed)) - store.secrets.keys()
    for request in done.decrypting():
        if isinstance(request, GetParametersByPath):
            assert GetParameters in may_not
            assert may_open.intersection(store.below(request.path, recursive=request.recursive))
        else:
            names = request.names if isinstance(request, GetParameters) else (request.name,)
            assert {split_selector(name)[0] for name in names} <= may_open
    # The digest of a mate that did not change may be lost; the next look gives it again.
    assert secure <= scan.digests.keys()
    assert not [
        name
        for name, item in found.items()
        if item.type == "SecureString" and name not in may_open | store.secrets.keys() | scan.digests.keys()
    ]


@MANY
@given(SEEDS, st.integers(1, 10), st.integers(0, 12), st.sampled_from(RIGHTS))
def test_nothing_changed_costs_no_decryption(
    rng: Random, width: int, faults: int, may_not: frozenset[type[Request]]
) -> None:
    """While nothing changes nothing is decrypted, in whatever way the role may read; digests are learned."""
    store = filled(rng)
    wants = [want for want in some_wants(store) if want.path != REFERENCE]
    before = aged(store, wants, share=0.0)
    store.faults, store.may_not, store.lags = faults, may_not, True

    done = run(
        store, wants, width=width, decrypt="changed",
        known=before.known, digests=before.digests, groups=before.groups,
    )  # fmt: skip

    assert [] == done.decrypting()
    assert 0 == done.scan.decrypted
    assert before.known == done.scan.found
    assert {
        name: digest_of(item) for name, item in before.known.items() if item.type == "SecureString"
    } == done.scan.digests


@MANY
@given(SEEDS, st.integers(1, 10), st.integers(0, 6))
def test_what_belongs_together_is_read_together(rng: Random, width: int, faults: int) -> None:
    """If one of a group changed, all of it is read again in one call, where ten are enough."""
    store = filled(rng)
    wants = some_wants(store)
    before = aged(store, wants, share=0.1)
    store.faults = faults

    done = run(
        store, wants, width=width, decrypt="changed",
        known=before.known, digests=before.digests, groups=before.groups,
    )  # fmt: skip

    found, _ = slowly(store, wants)
    calls = [set(request.names) for request in done.decrypting() if isinstance(request, GetParameters)]
    for group in before.groups:
        mates = {name for name in group & found.keys() if not is_reference(name)}
        if mates & changed_of(before, store, found) and 1 < len(mates) and len(group) <= 10:
            assert any(mates <= call for call in calls)


@MANY
@given(SEEDS, st.integers(1, 10), st.integers(0, 6), st.sampled_from(RIGHTS))
def test_changes_while_it_reads(rng: Random, width: int, faults: int, may_not: frozenset[type[Request]]) -> None:
    """What changes during a read is found as it was at its beginning or later, and digests are those of what is found."""
    store = filled(rng)
    wants = [want for want in some_wants(store) if want.path != REFERENCE]
    before = aged(store, wants, share=0.2, grouped=False)
    first, unknown = slowly(store, wants)
    store.faults, store.may_not = faults, may_not
    answer, writing = store.answer, 8

    def answer_and_write(job: Job) -> Answer | AiossmenvError:
        nonlocal writing
        if writing and store.versions and rng.random() < 0.5:
            writing -= 1
            name = rng.choice(sorted(store.versions))
            old = store.now(name)
            minute = 100 + writing + int(old.version) * 20
            store.versions[name].append(
                made(name, old.version + 1, secure=old.type == "SecureString", minute=minute * 10)
            )
        return answer(job)

    store.answer = answer_and_write  # type: ignore[method-assign]
    done = run(store, wants, width=width, decrypt="changed", known=before.known, digests=before.digests)

    assert done.scan.error is None
    assert first.keys() == done.scan.found.keys()
    assert unknown == done.scan.unknown
    for name, item in done.scan.found.items():
        plain = replace(item, selector="")
        assert plain in store.versions[name]
        assert item.version >= first[name].version
        assert done.scan.digests.get(name) in (None, digest_of(plain))


# --- One by one


A, B, C = ("/A", "/B", "/C")


def singles(*names: str) -> list[Query]:
    """Return a want for each name, so that each is a request."""
    return [Query(names=(name,), may_list=False) for name in names]


def take(scan: Scan, now: float = 0.0) -> Job:
    """Return the next job, which there must be."""
    job = scan.next(now)
    assert job
    return job


def sendable(scan: Scan) -> Iterator[Job]:
    """Take all jobs that may be sent at once."""
    while job := scan.next(0.0):
        yield job


def test_nothing_to_read_is_done() -> None:
    """A scan that wants nothing has found nothing, and is done."""
    for wants in ([], [Query(names=())]):
        scan = began(wants)

        assert scan.done
        assert scan.next(0.0) is None
        assert {} == scan.found
        assert 0 == scan.requests


def test_as_many_requests_as_the_width() -> None:
    """Requests are sent in their order until the width is reached, and one more for each that comes back."""
    scan = began(singles(A, B, C), width=2)

    first, second = take(scan), take(scan)
    assert [GetParameters((A,)), GetParameters((B,))] == [first.request, second.request]
    assert scan.next(0.0) is None
    assert 0.01 == scan.wait(0.0)
    scan.answered(second, Page((made(B),)), 0.0)
    third = take(scan)
    assert scan.next(0.0) is None
    assert (False, None) == (scan.done, scan.error)
    scan.answered(third, Page((made(C),)), 0.0)
    scan.answered(first, Page((made(A),)), 0.0)
    assert (True, None) == (scan.done, scan.error)
    assert {A, B, C} == scan.found.keys()
    assert (3, 0, 3) == (scan.requests, scan.throttled, scan.decrypted)


def test_scans_of_one_store_share_its_width() -> None:
    """What one scan has under way another one may not send; what it abandons is free again."""
    pace = AdaptiveRateLimiter(2)
    one, two = began(singles(A, B), pace=pace), began(singles(C), pace=pace)
    take(one), take(one)

    assert two.next(0.0) is None
    assert 0 < two.wait(0.0) <= 0.1
    one.abandon()
    assert GetParameters((C,)) == take(two).request


def test_abandoning_lets_go_of_its_own_only() -> None:
    """Who abandons a scan leaves what others have under way."""
    pace = AdaptiveRateLimiter(2)
    one, two = began(singles(A), pace=pace), began(singles(B, C), pace=pace)
    take(one), take(two)

    one.abandon()

    assert GetParameters((C,)) == take(two).request
    assert two.next(0.0) is None


def test_failed_request_is_sent_again_with_full_jitter() -> None:
    """A passing failure is tried again after a drawn wait, whose ceiling doubles with each failure of that request."""
    scan = began(singles(A))
    now = 0.0
    for wait in (0.5, 1.0, 2.0, 4.0):
        job = take(scan, now)
        scan.failed(job, StoreUnavailable("no answer"), now)
        assert wait == scan.wait(now)
        assert scan.next(now + 0.99 * wait) is None
        now += wait

    scan.answered(take(scan, now), Page((made(A),)), now)
    assert (True, None) == (scan.done, scan.error)


def test_each_request_backs_off_by_itself() -> None:
    """A request that fails does not keep the others waiting."""
    scan = began(singles(A, B), width=1)
    first = take(scan)
    scan.failed(first, StoreUnavailable("no answer"), 0.0)

    second = take(scan)
    assert GetParameters((B,)) == second.request
    scan.failed(second, StoreUnavailable("no answer"), 0.2)
    assert first is take(scan, 0.5)
    scan.failed(first, StoreUnavailable("no answer"), 0.5)
    assert second is take(scan, 0.7)


def test_wait_until_something_can_be_sent() -> None:
    """The wait is for the earliest retry; where nothing is to be sent only an answer or the deadline helps."""
    scan = began(singles(A, B, C), width=3)
    jobs = [take(scan) for _ in range(3)]
    assert 30.0 == scan.wait(0.0)
    scan.failed(jobs[0], StoreUnavailable("no answer"), 0.25)
    scan.failed(jobs[1], StoreUnavailable("no answer"), 0.0)

    assert 0.25 == scan.wait(0.25)
    assert 0.0 == scan.wait(0.6)
    assert [jobs[1], None] == [scan.next(0.6), scan.next(0.6)]
    assert 0.15 == pytest.approx(scan.wait(0.6))
    assert jobs[0] is take(scan, 0.75)
    assert 29.25 == scan.wait(0.75)
    assert 0.0 == scan.wait(31.0)


def test_throttling_makes_all_wait() -> None:
    """After throttling nothing is sent before the pace allows it, the first to wait neither."""
    pace = AdaptiveRateLimiter(1)
    scan = began(singles(A, B), pace=pace, draw=1.0)
    scan.failed(take(scan), Throttled("slow down"), 0.0)

    wait = pace.wait(0.0)
    assert 0 < wait == scan.wait(0.0)
    assert scan.next(wait * 0.99) is None
    assert GetParameters((B,)) == take(scan, wait).request
    assert 1 == scan.throttled


def test_last_error_of_a_lasting_kind_ends_the_scan() -> None:
    """An error that no retry can cure ends the scan at once; what fails afterwards does not replace it."""
    scan = began([*singles(A, B), Query(path="/P"), *singles(C)], width=3)
    jobs = [take(scan) for _ in range(3)]
    expired = AccessDenied("expired")

    scan.failed(jobs[0], Throttled("slow down"), 0.0)
    scan.failed(jobs[1], expired, 0.1)
    scan.failed(jobs[2], denied(GetParametersByPath), 0.2)

    assert scan.done
    assert expired is scan.error
    assert scan.next(10.0) is None
    scan.expire(31.0)
    assert expired is scan.error


@pytest.mark.parametrize(("now", "is_over"), [(28.9, False), (29.0, True), (29.9, True), (35.0, True)])
def test_no_retry_without_time_for_it(now: float, *, is_over: bool) -> None:
    """A passing failure with too little time left for another try ends the scan with that failure."""
    scan = began(singles(A))
    error = StoreUnavailable("no answer")

    scan.failed(take(scan), error, now)

    assert is_over == scan.done
    assert (error if is_over else None) is scan.error
    assert scan.wait(now) <= max(0.0, 30.0 - now)


def test_deadline_without_any_answer() -> None:
    """Where nothing was answered by the deadline the store is unavailable; path or names, and remedy are named."""
    for want, path, name in ((Query(path="/P"), "/P", None), (Query(names=(A, B)), None, "/A, /B")):
        pace = AdaptiveRateLimiter(1)
        scan = began([want, *singles(C)], pace=pace)
        take(scan)

        scan.expire(29.9)
        assert (False, None) == (scan.done, scan.error)
        scan.expire(30.0)

        assert scan.done
        assert isinstance(scan.error, StoreUnavailable)
        assert (path, name) == (scan.error.path, scan.error.parameter)
        assert scan.error.remedy
        assert 0.0 == pace.wait(30.0)


def test_deadline_with_an_error() -> None:
    """Where something failed before the deadline, that is the error."""
    scan = began(singles(A, B))
    take(scan)
    error = StoreUnavailable("down")
    scan.failed(take(scan), error, 1.0)

    scan.expire(30.0)

    assert error is scan.error


def test_deadline_after_the_end_is_none() -> None:
    """A scan that is complete stays so."""
    scan = began(singles(A))
    scan.answered(take(scan), Page((made(A),)), 1.0)

    scan.expire(31.0)

    assert scan.error is None


def test_deadline_of_a_lenient_read() -> None:
    """What was answered by the deadline counts; each name under way, in line or to be tried again has its error."""
    pace = AdaptiveRateLimiter(2)
    scan = began(singles(A, B, C, "/D"), pace=pace, lenient=True)
    first, second = take(scan), take(scan)
    scan.answered(first, Page((made(A),)), 0.0)
    down = StoreUnavailable("down")
    scan.failed(second, down, 0.0)
    take(scan)

    scan.expire(30.0)

    assert (True, None) == (scan.done, scan.error)
    assert [A] == list(scan.found)
    assert {B, C, "/D"} == scan.errors.keys()
    assert down is scan.errors[B]
    assert all(isinstance(error, StoreUnavailable) for error in scan.errors.values())
    assert scan.next(30.0) is None
    assert 0.0 == pace.wait(30.0)


def test_deadline_of_secrets_in_line() -> None:
    """Secrets of Secrets Manager, which are asked for singly, are not asked for behind the deadline."""
    names = ("/aws/reference/secretsmanager/a", "/aws/reference/secretsmanager/b")
    scan = began([Query(names=names, may_list=False)], width=1, lenient=True)
    take(scan)

    scan.expire(30.0)

    assert scan.done
    assert set(names) == scan.errors.keys()
    assert scan.next(30.0) is None


def test_a_page_that_repeats_an_older_answer_costs_nothing() -> None:
    """What a replica that lags repeats on a later page is passed over, and the listing goes on."""
    new, old = sealed(made(A, version=2)), sealed(made(A))
    known = {A: made(A, version=2)}
    scan = began([Query(path="/P")], decrypt="changed", known=known)

    scan.answered(take(scan), Page((new,), "1"), 0.0)
    scan.answered(take(scan), Page((old,)), 0.0)

    assert scan.done
    assert 2 == scan.requests
    assert known == scan.found


# --- Listings


LIST = GetParametersByPath("/P", recursive=True)


def listed(scan: Scan, *answers: Answer) -> list[str | None]:
    """Answer the requests of one listing in turn; returns the tokens that were asked with."""
    now, tokens = 0.0, list[str | None]()
    for answer in answers:
        while not (job := scan.next(now)):
            now += scan.wait(now)
        assert isinstance(job.request, GetParametersByPath)
        assert LIST == replace(job.request, token=None)
        tokens.append(job.request.token)
        scan.answered(job, answer, now)
    return tokens


def test_listing_goes_on_through_empty_pages() -> None:
    """A page without parameters and with a token is not the end."""
    scan = began([Query(path="/P")])

    tokens = listed(scan, Page((), "1"), Page((made("/P/a"),), "2"), Page((), "3"), Page(()))

    assert [None, "1", "2", "3"] == tokens
    assert (True, None) == (scan.done, scan.error)
    assert {"/P/a": made("/P/a")} == scan.found


@pytest.mark.parametrize(
    "broken", [TokenRefused(), Page((made("/P/c"),), "1"), Page((made("/P/c"),), "2")], ids=["refused", "first", "same"]
)
def test_broken_listing_begins_anew(broken: Answer) -> None:
    """A token that is refused, or comes again, sends the listing back to its first page, without what it had."""
    scan = began([Query(path="/P")])

    tokens = listed(
        scan, Page((made("/P/a"),), "1"), Page((made("/P/b"),), "2"), broken, Page((made("/P/d"),), "1"), Page(())
    )

    assert [None, "1", "2", None, "1"] == tokens
    assert (True, None) == (scan.done, scan.error)
    assert {"/P/d": made("/P/d")} == scan.found


def test_listing_that_is_always_broken_ends_at_the_deadline() -> None:
    """A listing that never can be continued is `StoreUnavailable` in the end, and names path and remedy."""
    scan = began([Query(path="/P")], draw=1.0)
    now = 0.0
    while not scan.done:
        job = scan.next(now)
        if job:
            scan.answered(job, Page((), "1") if job.request == LIST else TokenRefused(), now)
        else:
            now += scan.wait(now)
            scan.expire(now)

    assert isinstance(scan.error, StoreUnavailable)
    assert "/P" == scan.error.path
    assert scan.error.remedy


def test_restarts_back_off() -> None:
    """A listing that is broken again and again is begun anew ever more rarely, as all callers share one quota."""
    scan = began([Query(path="/P")])
    now = 0.0

    for wait in (0.5, 1.0, 2.0, 4.0):
        scan.answered(take(scan, now), Page((), "1"), now)
        scan.answered(take(scan, now), TokenRefused(), now)
        assert wait == scan.wait(now)
        now += wait


def test_each_page_backs_off_by_itself() -> None:
    """The page behind one that failed is tried as one that never did."""
    scan = began([Query(path="/P")])
    scan.failed(take(scan), StoreUnavailable("down"), 0.0)
    scan.failed(take(scan, 0.5), StoreUnavailable("down"), 0.5)
    scan.answered(take(scan, 1.5), Page((), "1"), 1.5)

    scan.failed(take(scan, 1.5), StoreUnavailable("down"), 1.5)

    assert 0.5 == scan.wait(1.5)


# --- Denials


def test_denial_is_learned_and_reported_once() -> None:
    """A denial is reported once, however often it is learned and confirmed, and the first error of a kind is kept."""
    denials = PermissionCache()
    first, second, other = denied(GetParameters), denied(GetParameters), denied(GetParameter)

    for kind, error in ((GetParameters, first), (GetParameters, second), (GetParameter, other)):
        denials.learn(kind, error)
        assert [] == denials.report()
    for kind in (GetParameters, GetParameter, GetParameter):
        denials.confirm(kind)

    assert {GetParameters: first, GetParameter: other} == denials.learned
    assert [(False, first), (False, other)] == denials.report()
    assert [] == denials.report()


def test_denial_of_tens_takes_back_those_in_line() -> None:
    """When reading ten at once is denied, what is in line or waits for its retry goes another way, unsent."""
    names = tuple(f"/N/{number:02}" for number in range(40))
    scan = began([Query(names=names, may_list=False)], width=2)
    first, second = take(scan), take(scan)
    scan.failed(first, StoreUnavailable("down"), 0.0)

    scan.failed(second, denied(GetParameters), 0.0)

    asked: list[str] = []
    now = 0.0
    while not scan.done:
        job = scan.next(now)
        if job is None:
            now += scan.wait(now)
            continue
        assert isinstance(job.request, GetParameter)
        asked += job.names
        scan.answered(job, Page((made(job.request.name),)), now)
    assert sorted(names) == sorted(asked)
    assert set(names) == scan.found.keys()


@pytest.mark.parametrize("forbidden", [None, B])
def test_denial_of_anybodys_names_is_learned_when_each_can_be_read(forbidden: str | None) -> None:
    """Names of several callers: ten are denied for one that is forbidden too, and only if none is, the action itself is."""
    denials = PermissionCache()
    scan = began([Query(names=(A, B, C), may_list=False)], denials=denials, lenient=True)
    scan.failed(take(scan), denied(GetParameters), 0.0)

    for job in list(sendable(scan)):
        assert GetParameters not in denials.learned
        if job.names == (forbidden,):
            scan.failed(job, denied(GetParameter), 0.0)
        else:
            scan.answered(job, Page((made(job.names[0]),)), 0.0)

    assert (forbidden is None) == (GetParameters in denials.learned)
    assert scan.done
    assert {A, B, C} - {forbidden} == scan.found.keys()
    assert {forbidden} - {None} == scan.errors.keys()


def test_a_name_that_is_not_there_may_be_read() -> None:
    """Who hears that there is no such name has the right to read it, so the action for ten is what is denied."""
    denials = PermissionCache()
    scan = began([Query(names=(A, B), may_list=False)], denials=denials, lenient=True)
    scan.failed(take(scan), denied(GetParameters), 0.0)
    first, second = sendable(scan)

    scan.answered(first, Page((made(first.names[0]),)), 0.0)
    scan.failed(second, ParameterNotFound("no"), 0.0)

    assert {GetParameters} == denials.learned.keys()
    assert {second.names[0]} == scan.unknown


@pytest.mark.parametrize("granted", [True, False])
def test_denial_that_leaves_no_way_is_asked_for_once_more(*, granted: bool) -> None:
    """A denial of other names, or of some time ago, is no reason to give up a name that cannot be read singly."""
    denials = PermissionCache()
    denials.learn(GetParameters, denied(GetParameters))
    denials.report()
    scan = began([Query(names=(A,), may_list=False)], denials=denials)
    scan.failed(take(scan), denied(GetParameter), 0.0)

    again = take(scan)
    assert GetParameters((A,)) == again.request
    if granted:
        scan.answered(again, Page((made(A),)), 0.0)
        assert {A: made(A)} == scan.found
    else:
        scan.failed(again, denied(GetParameters), 0.0)
        scan.failed(take(scan), denied(GetParameter), 0.0)
        assert isinstance(scan.error, AccessDenied)
    assert scan.done
    assert (granted, []) == (GetParameters not in denials.learned, denials.report()) or not granted


def test_a_name_that_nobody_wants_does_not_hold_up_a_listing() -> None:
    """Where few names are opened by listing their path, what lags of the others is no reason to list again."""
    denials = PermissionCache()
    for kind in (GetParameters, GetParameter):
        denials.learn(kind, denied(kind))
    known = {A: made(A), B: made(B, 2)}
    scan = began([Query(path="/P")], decrypt="changed", known=known, denials=denials)
    scan.answered(take(scan), Page((sealed(made(A, 2)), sealed(made(B, 2)))), 0.0)

    scan.answered(take(scan), Page((made(A, 2), made(B, 1))), 0.0)

    assert scan.done
    assert {A: made(A, 2), B: made(B, 2)} == scan.found


@pytest.mark.parametrize("action", ["sts:AssumeRole", "kms:Decrypt", "secretsmanager:GetSecretValue", "", None])
@pytest.mark.parametrize("may_list", [True, False])
def test_denial_of_another_service_teaches_nothing(action: str | None, *, may_list: bool) -> None:
    """Only actions of Parameter Store have another one that makes up for them."""
    denials = PermissionCache()
    scan = began([Query(path="/P", names=(A, B), may_list=may_list)], denials=denials)
    scan.failed(take(scan), AccessDenied("no", action=action), 0.0)

    assert isinstance(scan.error, AccessDenied)
    scan.abandon()
    assert {} == denials.learned
    assert set() == denials.doubted


def test_a_decryption_that_failed_for_ten_is_no_denial() -> None:
    """Ten that could not be decrypted, and then singly can, are no right that the role has not."""
    denials = PermissionCache()
    scan = began([Query(names=(A, B), may_list=False)], denials=denials)
    scan.failed(take(scan), DecryptionFailed("not now"), 0.0)

    for job in list(sendable(scan)):
        scan.answered(job, Page((made(job.names[0]),)), 0.0)

    assert {} == denials.learned
    assert {A, B} == scan.found.keys()


def test_stage_of_a_secret_stays_its_selector() -> None:
    """The stage that a secret was asked for by is in its name and is its selector."""
    name = f"{REFERENCE}/db:AWSPREVIOUS"
    scan = began([Query(names=(name,), may_list=False)])

    scan.answered(take(scan), Page((made(name, 0, selector=":AWSPREVIOUS"),)), 0.0)

    assert ":AWSPREVIOUS" == scan.found[name].selector


def test_late_name_that_is_read_singly_keeps_its_name() -> None:
    """A version that was asked for by its number, and then singly, is the parameter's all the same."""
    scan = polled(made(A, 2), made(B, 2), known={A: made(A), B: made(B)})
    scan.answered(take(scan), Page((made(A), made(B))), 0.0)
    late = take(scan, scan.wait(0.0))
    assert {f"{A}:2", f"{B}:2"} == set(late.names)

    scan.failed(late, DecryptionFailed("not now"), 0.0)
    while not scan.done:
        job = take(scan, 20.0)
        scan.answered(job, Page((made(job.names[0], 2),)), 20.0)

    assert {A: made(A, 2), B: made(B, 2)} == scan.found


def test_many_names_are_listed_and_few_read_singly() -> None:
    """Where ten at once are denied, up to ten names are read singly to be decrypted; more, or undecrypted, are listed."""
    denials = PermissionCache()
    denials.learn(GetParameters, denied(GetParameters))
    for count, decrypt, kind in (
        (10, "all", GetParameter),
        (11, "all", GetParametersByPath),
        (1, "changed", GetParametersByPath),
    ):
        names = tuple(f"/P/{number}" for number in range(count))
        scan = began([Query(path="/P", names=names)], denials=denials, decrypt=decrypt, known={})
        assert {kind} == {type(job.request) for job in sendable(scan)}


def test_singles_denied_at_once_share_one_listing() -> None:
    """Names whose single reads are denied, before and after a listing ended, are taken from one listing between them."""
    denials = PermissionCache()
    denials.learn(GetParameters, denied(GetParameters))
    scan = began([Query(path="/P", names=("/P/a", "/P/b", "/P/c"))], denials=denials)
    one, two, three = take(scan), take(scan), take(scan)

    scan.failed(one, denied(GetParameter), 0.0)
    listing = take(scan)
    scan.failed(two, denied(GetParameter), 0.0)
    assert scan.next(0.0) is None
    scan.answered(listing, Page((made("/P/a"), made("/P/c"), made("/P/other"))), 0.0)
    scan.failed(three, denied(GetParameter), 0.0)

    assert (True, None) == (scan.done, scan.error)
    assert {name: made(name) for name in ("/P/a", "/P/c")} == scan.found
    assert {"/P/b"} == scan.unknown


def test_neither_tens_nor_singles_nor_a_listing() -> None:
    """Where nothing is allowed, the error is what the call for ten said, for names; it has the most useful remedy."""
    batches = denied(GetParameters)
    scan = began([Query(names=(A,), may_list=False)])

    scan.failed(take(scan), batches, 0.0)
    scan.failed(take(scan), denied(GetParameter), 0.0)

    assert batches is scan.error


def test_credentials_are_no_denial() -> None:
    """Credentials that are refused end the read: no other action would help, and nothing is learned."""
    denials = PermissionCache()
    scan = began([Query(path="/P", names=("/P/a",))], denials=denials)

    scan.failed(take(scan), AccessDenied("expired"), 0.0)

    assert scan.done
    assert {} == denials.learned


# --- References


def test_references_are_decrypted_alone() -> None:
    """Secrets Manager's secrets are asked for one by one and decrypted, whatever else is looked at undecrypted."""
    names = (f"{REFERENCE}/s", A, f"{REFERENCE}/t")
    scan = began([Query(names=names, may_list=False)], decrypt="changed", known={})

    requests = [take(scan).request for _ in range(3)]

    assert {GetParameter(names[0]), GetParameter(names[2]), GetParameters((A,), decrypt=False)} == set(requests)


def test_references_need_no_listing() -> None:
    """Where ten at once are denied, a path of which only secrets are wanted is not listed."""
    denials = PermissionCache()
    denials.learn(GetParameters, denied(GetParameters))
    scan = began([Query(path="/P", names=(f"{REFERENCE}/s",))], decrypt="changed", denials=denials)

    assert [GetParameter(f"{REFERENCE}/s")] == [job.request for job in sendable(scan)]


def test_denied_reference_is_an_error() -> None:
    """A secret that may not be read is an error, and no reason to list a path, which never shows it."""
    error = denied(GetParameter)
    scan = began([Query(path="/P", names=(f"{REFERENCE}/s",))])

    scan.failed(take(scan), error, 0.0)

    assert error is scan.error


# --- Opening


def polled(*items: Parameter, known: Mapping[str, Parameter] | None = None, **options: Any) -> Scan:
    """Return a scan that knows *known* and has looked, undecrypted and by name, at *items*."""
    known = known or {}
    names = tuple(sorted({*known, *(item.name for item in items)}))
    digests = {name: digest_of(item) for name, item in known.items()}
    scan = began([Query(path="/P", names=names)], decrypt="changed", known=known, **{"digests": digests} | options)
    while scan._looking:
        job = take(scan)
        given = [item for item in items if item.name in job.names]
        shown = tuple(sealed(item) if item.type == "SecureString" else item for item in given)
        scan.answered(job, Page(shown, unknown=tuple({*job.names} - {item.name for item in given})), 0.0)
    return scan


def test_opened_ones_replace_what_was_known() -> None:
    """What differs is opened, and known by its new value and digest."""
    old, new, same = made("/P/a"), made("/P/a", 2), made("/P/b")
    scan = polled(new, same, known={"/P/a": old, "/P/b": same})

    job = take(scan)
    scan.answered(job, Page((new,)), 0.0)

    assert GetParameters(("/P/a",)) == job.request
    assert {"/P/a": new, "/P/b": same} == scan.found
    assert {"/P/a": digest_of(new), "/P/b": digest_of(same)} == scan.digests
    assert 1 == scan.decrypted


def test_same_version_of_another_ciphertext_is_opened() -> None:
    """A ciphertext that differs is a change even where all else is the same; an unknown one is not."""
    item = made("/P/a")

    assert GetParameters(("/P/a",)) == take(polled(item, known={"/P/a": item}, digests={"/P/a": b"other"})).request
    assert polled(item, known={"/P/a": item}, digests={}).done


def test_older_look_is_ignored() -> None:
    """A look at a replica that lags opens nothing; what is known stays, with its digest."""
    old, new = made("/P/a"), made("/P/a", 2)

    scan = polled(old, known={"/P/a": new})

    assert (True, {"/P/a": new}, {"/P/a": digest_of(new)}) == (scan.done, scan.found, scan.digests)


def test_made_anew_is_opened() -> None:
    """A lower version of a later date is a parameter that was deleted and made anew."""
    old, anew = made("/P/a", 3), made("/P/a", 1, minute=9)
    scan = polled(anew, known={"/P/a": old})

    scan.answered(take(scan), Page((anew,)), 0.0)

    assert {"/P/a": anew} == scan.found


def test_version_that_was_seen_is_asked_for() -> None:
    """When the read that decrypts is older than the look, that version is asked for by its number until it is there."""
    old, new = made("/P/a"), made("/P/a", 2)
    scan = polled(new, made("/P/b", 2), known={"/P/a": old})
    now = 0.0
    scan.answered(take(scan), Page((old, made("/P/b", 2))), now)

    for answer in (Page((), unknown=("/P/a:2",)), Page((replace(new, selector=":2"),))):
        assert {"/P/b"} == scan.found.keys()
        now += scan.wait(now)
        job = take(scan, now)
        assert GetParameters(("/P/a:2",)) == job.request
        scan.answered(job, answer, now)

    assert (True, None, set()) == (scan.done, scan.error, scan.unknown)
    assert (2, digest_of(new)) == (scan.found["/P/a"].version, scan.digests["/P/a"])


def test_version_that_was_seen_is_asked_for_as_the_role_may() -> None:
    """Where ten at once are denied, the version that was seen is asked for singly."""
    denials = PermissionCache()
    denials.learn(GetParameters, denied(GetParameters))
    old, new = made(A), made(A, 2)
    scan = began([Query(names=(A,), may_list=False)], decrypt="changed", known={A: old}, denials=denials)
    scan.answered(take(scan), Page((sealed(new),)), 0.0)
    scan.answered(take(scan), Page((old,)), 0.0)

    assert GetParameter("/A:2") == take(scan, 0.5).request


def test_version_that_never_comes_is_unavailable() -> None:
    """A version that was seen and is never given out is `StoreUnavailable` at the deadline, not an older value."""
    old, new = made("/P/a"), made("/P/a", 2)
    scan = polled(new, known={"/P/a": old}, draw=1.0)
    now = 0.0
    while not scan.done:
        job = scan.next(now)
        if job:
            scan.answered(job, Page((old,) if job.request == GetParameters(("/P/a",)) else ()), now)
        else:
            now += scan.wait(now)
            scan.expire(now)

    assert isinstance(scan.error, StoreUnavailable)
    assert "/P/a:2" == scan.error.parameter


def test_plain_parameters_need_no_second_read() -> None:
    """A `String` that changed came in clear; only its group is read again."""
    old, new, mate = made("/P/a", secure=False), made("/P/a", 2, secure=False), made("/P/b")
    known = {"/P/a": old, "/P/b": mate}

    alone = polled(new, mate, known=known)
    assert (True, {"/P/a": new, "/P/b": mate}) == (alone.done, alone.found)

    grouped = polled(new, mate, known=known, groups=[frozenset(known)])
    assert GetParameters(("/P/a", "/P/b")) == take(grouped).request


def test_last_of_a_group_is_not_read_twice() -> None:
    """A plain parameter whose mates are elsewhere came in clear, and needs no second read."""
    known = {"/P/a": made("/P/a", secure=False)}

    scan = polled(made("/P/a", 2, secure=False), known=known, groups=[frozenset({"/P/a", "/X/elsewhere"})])

    assert scan.done


def test_group_of_two_readers_is_read_once() -> None:
    """Two who read the same group cause one read of it."""
    known = {name: made(name) for name in ("/P/a", "/P/b")}

    scan = polled(made("/P/a", 2), known["/P/b"], known=known, groups=[frozenset(known), frozenset(known)])

    assert [("/P/a", "/P/b")] == [job.names for job in sendable(scan)]


def test_group_of_secrets_is_not_read_again() -> None:
    """References were decrypted when they were looked at; a group of nothing else needs no second read."""
    names = tuple(f"{REFERENCE}/{letter}" for letter in "ab")
    known = {name: made(name, 0, value="old") for name in names}
    scan = began([Query(names=names, may_list=False)], decrypt="changed", known=known, groups=[frozenset(known)])

    for job in list(sendable(scan)):
        scan.answered(job, Page((made(job.names[0], 0, value="new"),)), 0.0)

    assert (True, {"new"}) == (scan.done, {item.value for item in scan.found.values()})


def test_groups_that_did_not_change_are_left() -> None:
    """A group without a change, and a name that stands alone in its group, cause no read."""
    items = [made(f"/P/{letter}") for letter in "abc"]
    groups = [frozenset({"/P/b", "/P/c"}), frozenset({"/P/a"}), frozenset({"/P/a", "/X/elsewhere"})]

    scan = polled(made("/P/a", 2), *items[1:], known={item.name: item for item in items}, groups=groups)

    assert GetParameters(("/P/a",)) == take(scan).request
    assert scan.next(0.0) is None


def test_groups_are_packed_into_tens_unbroken() -> None:
    """Groups fill calls for ten without being torn apart; what stands alone fills what is left."""
    names = [f"/P/{number:02}" for number in range(22)]
    groups = [frozenset(names[:6]), frozenset(names[6:12]), frozenset(names[12:16])]

    scan = polled(*(made(name, 2) for name in names), known={name: made(name) for name in names}, groups=groups)

    calls = [set(job.names) for job in sendable(scan)]
    assert [set(names[:6]), set(names[6:16]), set(names[16:])] == calls


@pytest.mark.parametrize(("most", "calls"), [(10, [10, 3]), (11, [6, 9])])
def test_groups_that_overlap_are_one_as_far_as_a_call_holds_them(most: int, calls: list[int]) -> None:
    """Two groups that share a name are read in one call if that holds all of both, else each in a call of its own."""
    names = [f"/P/{number:02}" for number in range(most)]
    alone = [f"/A/{number}" for number in range(3)]
    groups = [frozenset(names[:6]), frozenset(names[5:])]

    scan = polled(
        *(made(name, 2) for name in (*alone, *names)),
        known={name: made(name) for name in (*alone, *names)},
        groups=groups,
    )

    read = [set(job.names) for job in sendable(scan)]
    assert calls == [len(call) for call in read]
    assert all(any(group <= call for call in read) for group in groups)


def test_everything_is_opened_at_once_when_all_is_decrypted() -> None:
    """A read that decrypts all needs no second look, but for what changed and belongs together: pages are not one read."""
    known = {name: made(name) for name in ("/P/a", "/P/b", "/P/c")}
    scan = began([Query(path="/P")], known=known, groups=[frozenset({"/P/a", "/P/b"})])

    scan.answered(take(scan), Page((made("/P/a"), made("/P/b"), made("/P/c", 2))), 0.0)
    assert (True, made("/P/c", 2)) == (scan.done, scan.found["/P/c"])

    scan = began([Query(path="/P")], known=known, groups=[frozenset({"/P/a", "/P/b"})])
    scan.answered(take(scan), Page((made("/P/a"),), "1"), 0.0)
    scan.answered(take(scan), Page((made("/P/b", 2), made("/P/c"))), 0.0)
    again = take(scan)
    scan.answered(again, Page((made("/P/a", 2), made("/P/b", 2))), 0.0)

    assert GetParameters(("/P/a", "/P/b")) == again.request
    assert {"/P/a": made("/P/a", 2), "/P/b": made("/P/b", 2), "/P/c": made("/P/c")} == scan.found


@pytest.mark.parametrize("error", [denied(GetParameter), Throttled("slow down")])
def test_singles_that_are_known_to_be_denied_are_no_loop(error: AiossmenvError) -> None:
    """A name that may be read singly only fails as it is told, and no sooner again than any other, once that is denied."""
    denials = PermissionCache()
    for kind in (GetParameters, GetParameter):
        denials.learn(kind, denied(kind))
    scan = began([Query(names=(A,), may_list=False)], denials=denials)

    asked: list[type[Request]] = []
    while job := scan.next(0.0):
        asked.append(type(job.request))
        scan.failed(job, error if isinstance(job.request, GetParameter) else denied(GetParameters), 0.0)

    assert asked == ([GetParameter] if error.transient else [GetParameter, GetParameters])
    assert scan.done == (not error.transient)


def test_digest_of_what_did_not_change_is_kept() -> None:
    """A read that decrypts all keeps the digests of what it found as it was."""
    known = {name: made(name) for name in ("/P/a", "/P/b")}
    digests = {name: digest_of(item) for name, item in known.items()}
    scan = began([Query(path="/P")], known=known, digests=digests)

    scan.answered(take(scan), Page((made("/P/a", 2), made("/P/b"))), 0.0)

    assert {"/P/b": digests["/P/b"]} == scan.digests


# --- Names


@MANY
@given(st.lists(st.integers(0, 40).map("/N/{}".format), max_size=60))
def test_names_are_asked_for_in_tens(names: list[str]) -> None:
    """Names are asked for once each, in their order, ten to a request but for the last."""
    scan = began([Query(names=tuple(names))], width=10)

    requests = [job.names for job in sendable(scan)]

    assert list(dict.fromkeys(names)) == [name for request in requests for name in request]
    assert all(len(request) == 10 for request in requests[:-1])


def test_versions_of_one_parameter_are_asked_for_apart() -> None:
    """Two selectors of one parameter are never in one request, for its answer would not say which is which."""
    scan = began([Query(names=(A, "/A:1", B, "/A:live", "/B:1"), may_list=False)])

    assert [(A,), ("/A:1", B), ("/A:live", "/B:1")] == [job.names for job in sendable(scan)]


def test_answers_in_any_order_and_by_arn() -> None:
    """Answers are matched by name or ARN, whatever their order; what was not answered is unknown."""
    asked = ("/B", f"{ACCOUNT}/A", f"{ACCOUNT}/C:1", "/D")
    scan = began([Query(names=asked, may_list=False)])

    scan.answered(
        take(scan), Page((made("/A"), made("/B"), made("/C", selector=":1"), made("/not/asked")), unknown=("/D",)), 0.0
    )

    assert {"/B": "/B", asked[1]: "/A", asked[2]: "/C"} == {name: item.name for name, item in scan.found.items()}
    assert {"/D"} == scan.unknown


# --- What fuzzing found


def test_version_that_was_seen_is_asked_for_singly_too() -> None:
    """Where ten at once are denied, a version that a replica has not heard of is asked for again, too."""
    denials = PermissionCache()
    denials.learn(GetParameters, denied(GetParameters))
    old, new = made(A), made(A, 2)
    scan = began([Query(names=(A,), may_list=False)], decrypt="changed", known={A: old}, denials=denials)
    scan.answered(take(scan), Page((sealed(new),)), 0.0)
    scan.answered(take(scan), Page((old,)), 0.0)

    scan.failed(take(scan, 0.5), ParameterNotFound("no such version"), 0.5)

    assert (False, set()) == (scan.done, scan.unknown)


def test_what_was_opened_by_its_version_has_no_selector() -> None:
    """A parameter that nobody asked for by a selector has none, so that the next full read finds it unchanged."""
    new = made("/P/a", 2)
    scan = polled(new, known={"/P/a": made("/P/a")})
    scan.answered(take(scan), Page((made("/P/a"),)), 0.0)

    scan.answered(take(scan, 0.5), Page((replace(new, selector=":2"),)), 0.5)

    assert {"/P/a": new} == scan.found


def test_group_across_paths_where_only_listing_is_allowed() -> None:
    """Groups may span paths, also where names cannot be read."""
    denials = PermissionCache()
    for kind in (GetParameters, GetParameter):
        denials.learn(kind, denied(kind))
    known = {name: made(name) for name in ("/P/a", "/Q/b")}
    scan = began(
        [Query(path="/P"), Query(path="/Q")], decrypt="changed", known=known, denials=denials, groups=[frozenset(known)]
    )
    while job := scan.next(0.0):
        assert isinstance(job.request, GetParametersByPath)
        item = made("/P/a" if job.request.path == "/P" else "/Q/b", 2)
        scan.answered(job, Page((item if job.request.decrypt else sealed(item),)), 0.0)

    assert {name: made(name, 2) for name in known} == scan.found
    assert set() == scan.unknown


def test_many_changes_are_listed_where_tens_are_denied() -> None:
    """Where ten at once are denied and many names are to be opened, their path is listed instead of each name read."""
    denials = PermissionCache()
    denials.learn(GetParameters, denied(GetParameters))
    known = {f"/P/{number:02}": made(f"/P/{number:02}") for number in range(30)}
    scan = began([Query(path="/P")], decrypt="changed", known=known, denials=denials)
    scan.answered(take(scan), Page(tuple(sealed(made(name, 2)) for name in known)), 0.0)

    assert [GetParametersByPath("/P", recursive=True)] == [job.request for job in sendable(scan)]


def test_request_under_way_is_not_sent_again_after_a_denial() -> None:
    """A call for ten that was under way when it was learned that ten are denied goes another way when it fails."""
    scan = began(singles(A, B))
    first, second = take(scan), take(scan)
    scan.failed(first, denied(GetParameters), 0.0)
    scan.answered(take(scan), Page((made(A),)), 0.0)

    scan.failed(second, StoreUnavailable("no answer"), 0.0)

    assert GetParameter(B) == take(scan).request


@pytest.mark.parametrize("other", [f"{ACCOUNT}/A", f"{ACCOUNT}/A:1", "A"])
def test_spellings_of_one_parameter_are_asked_for_apart(other: str) -> None:
    """A name and an ARN of one parameter are never in one request."""
    scan = began([Query(names=(A, other), may_list=False)])

    assert [(A,), (other,)] == [job.names for job in sendable(scan)]


def test_parameter_of_another_account_is_not_ours() -> None:
    """The same name in two accounts is two parameters, and neither has the other's value."""
    foreign = "arn:aws:ssm:eu-west-1:999988887777:parameter/A"
    theirs = replace(made(foreign, value="theirs"), arn=foreign)
    scan = began([Query(names=(foreign, A), may_list=False)])
    answers = {A: made(A, value="ours"), foreign: theirs}

    while job := scan.next(0.0):
        scan.answered(job, Page(tuple(answers[name] for name in sorted(job.names))), 0.0)

    assert {foreign: "theirs", A: "ours"} == {name: item.value for name, item in scan.found.items()}


def test_name_with_a_selector_is_opened_as_itself() -> None:
    """What is wanted by a version or a label is found by that name, also when it was looked at first."""
    scan = began([Query(names=("/A:live",), may_list=False)], decrypt="changed", known={"/A:live": made(A)})
    scan.answered(take(scan), Page((sealed(made(A, 2)),)), 0.0)

    scan.answered(take(scan), Page((made(A, 2, selector=":live"),)), 0.0)

    assert ["/A:live"] == list(scan.found)


def test_older_duplicate_across_pages() -> None:
    """Of one name on two pages the newer version counts, whatever the order."""
    scan = began([Query(path="/P")])

    listed(scan, Page((made("/P/a", 2),), "1"), Page((made("/P/a", 1),)))

    assert {"/P/a": made("/P/a", 2)} == scan.found


def test_older_duplicate_of_a_look() -> None:
    """Of one name on two pages that are looked at, the newer version is the one to be opened."""
    scan = began([Query(path="/P")], decrypt="changed", known={A: made(A)})
    scan.answered(take(scan), Page((sealed(made(A, 3)),), "1"), 0.0)
    scan.answered(take(scan), Page((sealed(made(A, 2)),)), 0.0)

    scan.answered(take(scan), Page((made(A, 2),)), 0.0)

    assert GetParameters((f"{A}:3",)) == take(scan, scan.wait(0.0)).request


def test_duplicate_of_a_look_that_is_what_is_known() -> None:
    """What a later page shows to be as it was known need not be opened for what an earlier one showed."""
    known = made(A, 1, minute=5)
    scan = began([Query(path="/P")], decrypt="changed", known={A: known})

    scan.answered(take(scan), Page((sealed(made(A, 3, minute=3)),), "1"), 0.0)
    scan.answered(take(scan), Page((sealed(known),)), 0.0)

    assert scan.done
    assert {A: known} == scan.found


def test_listing_that_opens_an_older_version_begins_anew() -> None:
    """Where what changed is opened by a listing, one from a replica that has not heard of it is read again."""
    denials = PermissionCache()
    for kind in (GetParameters, GetParameter):
        denials.learn(kind, denied(kind))
    scan = began([Query(path="/P")], decrypt="changed", known={A: made(A)}, denials=denials)
    scan.answered(take(scan), Page((sealed(made(A, 2)),)), 0.0)

    scan.answered(take(scan), Page((made(A),)), 0.0)
    again = take(scan, scan.wait(0.0))
    scan.answered(again, Page((made(A, 2),)), 1.0)

    assert GetParametersByPath("/P", recursive=True) == again.request
    assert scan.done
    assert {A: made(A, 2)} == scan.found


def test_listing_that_opens_and_cannot_decrypt_is_the_end() -> None:
    """Where what changed is opened by a listing, one that cannot be decrypted is an error, and nothing is taken for gone."""
    denials = PermissionCache()
    for kind in (GetParameters, GetParameter):
        denials.learn(kind, denied(kind))
    scan = began([Query(path="/P")], decrypt="changed", known={A: made(A)}, denials=denials)
    scan.answered(take(scan), Page((sealed(made(A, 2)),)), 0.0)

    scan.failed(take(scan), DecryptionFailed("no"), 0.0)

    assert isinstance(scan.error, DecryptionFailed)


def test_group_of_more_than_a_call_holds() -> None:
    """A group of more than ten is read in as few calls as it takes, and none of them is empty."""
    known = {f"/P/{number:02}": made(f"/P/{number:02}") for number in range(11)}
    changed = [made(name, 2) for name in known]
    scan = polled(*changed, known=known, groups=[frozenset(known)])

    assert [10, 1] == [len(job.names) for job in sendable(scan)]


def test_paths_that_overlap_give_the_newest() -> None:
    """What two listings show is taken from the one that does not lag: the other is read again."""
    scan = began([Query(path="/P"), Query(path="/P/Q")])
    outer, inner = sendable(scan)

    scan.answered(outer, Page((made("/P/Q/a", 2),)), 0.0)
    scan.answered(inner, Page((made("/P/Q/a"),)), 0.0)
    scan.answered(take(scan, scan.wait(0.0)), Page((made("/P/Q/a", 2),)), 1.0)

    assert {"/P/Q/a": made("/P/Q/a", 2)} == scan.found


def test_digest_of_a_mate_is_learned() -> None:
    """A mate that turned out unchanged is known by the digest that the look gave."""
    known = {"/P/a": made("/P/a"), "/P/b": made("/P/b")}
    scan = polled(made("/P/a", 2), known["/P/b"], known=known, digests={}, groups=[frozenset(known)])

    scan.answered(take(scan), Page((made("/P/a", 2), known["/P/b"])), 0.0)

    assert digest_of(known["/P/b"]) == scan.digests.get("/P/b")


def test_digest_of_a_mate_that_changed_meanwhile_is_forgotten() -> None:
    """A mate that was read again in a newer version is not known by the digest of the one before."""
    known = {"/P/a": made("/P/a"), "/P/b": made("/P/b")}
    scan = polled(made("/P/a", 2), known["/P/b"], known=known, groups=[frozenset(known)])

    scan.answered(take(scan), Page((made("/P/a", 2), made("/P/b", 2))), 0.0)

    assert {"/P/a": digest_of(made("/P/a", 2))} == scan.digests


def test_what_is_known_is_decrypted_again_where_a_page_is_not() -> None:
    """When all is to be decrypted and a page cannot be, its names are read one ten after the other, unchanged ones too."""
    known = {"/P/a": made("/P/a"), "/P/b": made("/P/b")}
    scan = began([Query(path="/P")], known=known)
    scan.failed(take(scan), DecryptionFailed("no"), 0.0)

    scan.answered(take(scan), Page(tuple(map(sealed, known.values()))), 0.0)

    assert GetParameters(("/P/a", "/P/b")) == take(scan).request


def test_digest_of_an_older_look_is_not_taken() -> None:
    """A look that is ignored teaches no digest: it would not be that of what is known."""
    scan = polled(made("/P/a"), known={"/P/a": made("/P/a", 2)}, digests={})

    assert {} == scan.digests


def test_mates_that_are_gone_are_not_asked_for() -> None:
    """A group is read again without those of it that the look just missed."""
    known = {name: made(name) for name in ("/P/a", "/P/b", "/P/gone")}
    scan = polled(made("/P/a", 2), known["/P/b"], known=known, groups=[frozenset(known)])

    assert ("/P/a", "/P/b") == take(scan).names


def test_lenient_listing_that_fails() -> None:
    """An error without names is an error of the whole read, also where others are errors of names."""
    scan = began([Query(path="/P")], lenient=True)

    scan.failed(take(scan), denied(GetParametersByPath), 0.0)

    assert scan.error or scan.errors


def test_groups_that_overlap_are_each_read_together() -> None:
    """Each of two groups that share a name is read in one call, also where both do not fit into one."""
    one = frozenset(f"/P/a{number}" for number in range(6))
    two = frozenset([*(f"/P/b{number}" for number in range(5)), "/P/a0"])
    known = {name: made(name) for name in one | two}
    items = [made(name, 2 if name == "/P/a0" else 1) for name in known]

    scan = polled(*items, known=known, groups=[one, two])

    calls = [set(job.names) for job in sendable(scan)]
    assert all(any(group <= call for call in calls) for group in (one, two))


def test_mate_is_not_older_than_it_was_looked_at() -> None:
    """What the look found of a plain mate is not undone by a second read that lags."""
    known = {"/P/a": made("/P/a"), "/P/b": made("/P/b", secure=False)}
    scan = polled(made("/P/a", 2), made("/P/b", 3, secure=False), known=known, groups=[frozenset(known)])

    scan.answered(take(scan), Page((made("/P/a", 2), made("/P/b", 2, secure=False))), 0.0)

    assert not scan.done or 3 == scan.found["/P/b"].version


def test_name_that_an_answer_leaves_out() -> None:
    """A name that is neither among the answer's parameters nor among its unknown names is asked for again."""
    scan = began(singles(A))

    scan.answered(take(scan), Page(()), 0.0)

    assert (False, set()) == (scan.done, scan.unknown)
