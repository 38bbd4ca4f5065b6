"""Merging of reads: which of two answers wins, and what a read means for the known state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import EncryptedParameter, KeyCollision, Parameter
from aiossmenv._naming import upper_snake
from aiossmenv._ssm.merge import ResultMerger, StoreState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def made(name: str, *, version: int = 1, minute: int | None = 0, value: str = "v", selector: str = "") -> Parameter:
    """Return a parameter whose last change is this many minutes past noon."""
    when = None if minute is None else NOON + timedelta(minutes=minute)
    return Parameter(name=name, value=value, type="String", version=version, last_modified=when, selector=selector)


def encrypted(name: str, *, version: int = 1, minute: int = 0) -> EncryptedParameter:
    """Return the same parameter as a read without decryption gives it."""
    when = NOON + timedelta(minutes=minute)
    digest = bytes([version]) * 32
    return EncryptedParameter(
        name=name, type="SecureString", version=version, last_modified=when, arn="", digest=digest
    )


def decrypted(name: str, *, version: int = 1, minute: int = 0) -> Parameter:
    """Return the same parameter with its plaintext."""
    when = NOON + timedelta(minutes=minute)
    return Parameter(name=name, value=f"v{version}", type="SecureString", version=version, last_modified=when)


def by_name(*parameters: Parameter) -> dict[str, Parameter]:
    """Return the results of one read, by name."""
    return {parameter.name: parameter for parameter in parameters}


@dataclass(frozen=True, slots=True)
class State(StoreState):
    """The known state, updated by each read."""

    def read(
        self,
        found: Mapping[str, Parameter],
        digests: Mapping[str, bytes] = MappingProxyType({}),
        *,
        complete: bool = True,
    ) -> "State":
        """Return the state after a read that found these parameters, with these digests."""
        merger = ResultMerger(self, decrypt_all=True)
        for name, parameter in found.items():
            merger.accept(name, parameter)
            if merger.results.parameters[name] is parameter and name in digests:
                merger.results.digests[name] = digests[name]
        merged = self.merge(merger.results, complete=complete)
        return State(merged.parameters, merged.digests, merged.missing_once)


# --- Known state


def test_missing_once_is_kept_and_twice_is_removed() -> None:
    """A parameter that one read misses stays; if the next read misses it too, it is removed."""
    x, y = made("/P/X"), made("/P/Y")
    known = State(by_name(x, y))

    once = known.read(by_name(y))
    twice = once.read(by_name(y))

    assert by_name(x, y) == once.parameters
    assert by_name(y) == twice.parameters


def test_only_consecutive_misses_count() -> None:
    """A parameter that is found between two reads that miss it is kept."""
    x = made("/P/X")

    known = State(by_name(x)).read({}).read(by_name(x)).read({})

    assert by_name(x) == known.parameters


READS = st.lists(st.dictionaries(st.sampled_from(["/P/X", "/P/Y", "/P/Z"]), st.none()), max_size=8)


@given(READS)
def test_state_holds_the_last_two_reads(reads: list[dict[str, None]]) -> None:
    """Whatever reads find and miss, the state holds what the last two reads found, and no older version."""
    known = State({})
    for read in reads:
        known = known.read(by_name(*map(made, read)))

    last, before = ([*reads[::-1], {}, {}])[:2]
    assert {name: made(name) for name in last | before} == known.parameters
    assert before.keys() - last.keys() == known.missing_once


@pytest.mark.parametrize(
    ("version", "minute", "is_taken"),
    [
        (3, 5, True),
        (4, 6, True),
        (3, 6, True),
        (2, 6, True),
        (2, 5, True),
        (4, 4, True),
        (3, 4, True),
        (2, 4, False),
        (1, 0, False),
    ],
)
def test_only_an_answer_older_in_version_and_date_is_ignored(version: int, minute: int, *, is_taken: bool) -> None:
    """
    A lower version with an earlier date comes from a lagging replica; with a later date it is a recreated parameter.
    """
    known = made("/P/X", version=3, minute=5)
    read = made("/P/X", version=version, minute=minute, value="other")

    merged = State(by_name(known)).read(by_name(read))

    assert by_name(read if is_taken else known) == merged.parameters
    assert frozenset() == merged.missing_once


def test_parameter_found_by_selector_never_lags() -> None:
    """A label that moves back to an older version is accepted."""
    back = made("/P/X", version=1, minute=0, selector=":live")

    assert by_name(back) == State(by_name(made("/P/X", version=3, minute=5))).read(by_name(back)).parameters


@pytest.mark.parametrize(("known", "read"), [(None, 0), (0, None), (None, None)])
def test_without_a_date_the_newest_answer_wins(known: int | None, read: int | None) -> None:
    """If a date is missing, ages cannot be compared, and the last answer wins."""
    old, new = made("/P/X", version=3, minute=known), made("/P/X", version=1, minute=read)

    assert by_name(new) == State(by_name(old)).read(by_name(new)).parameters


def test_merge_does_not_change_the_old_state() -> None:
    """Merging returns a new state, so an unusable read changes nothing."""
    parameters = by_name(made("/P/X"))
    known = State(MappingProxyType(parameters))

    known.read(by_name(made("/P/Y")))

    assert State(by_name(made("/P/X"))) == known


def digest(parameter: Parameter) -> bytes:
    """Return a digest that encodes the version."""
    return bytes([parameter.version]) * 32


def test_digests_follow_their_parameters() -> None:
    """
    A digest stays while its parameter is missed once or unchanged, is replaced with a new one, and is removed with it.
    """
    x, y, z, new = made("/P/X"), made("/P/Y"), made("/P/Z"), made("/P/X", version=2, minute=1)
    known = State(by_name(x, y, z), {"/P/X": digest(x), "/P/Y": digest(y), "/P/Z": digest(z)})

    once = known.read(by_name(new, z), {"/P/X": digest(new)})
    twice = once.read(by_name(new, z), {"/P/X": digest(new), "/P/Z": digest(z)})

    assert {"/P/X": digest(new), "/P/Y": digest(y), "/P/Z": digest(z)} == once.digests
    assert {"/P/X": digest(new), "/P/Z": digest(z)} == twice.digests


def test_lagging_answer_keeps_the_old_digest() -> None:
    """If an answer is ignored, its digest is ignored too."""
    known, lagging = made("/P/X", version=3, minute=5), made("/P/X", version=2, minute=4)

    merged = State(by_name(known), {"/P/X": digest(known)}).read(by_name(lagging), {"/P/X": digest(lagging)})

    assert (by_name(known), {"/P/X": digest(known)}) == (merged.parameters, merged.digests)


def test_digest_of_an_unchanged_parameter_is_stored() -> None:
    """A read that returns the known parameter together with a digest stores the digest."""
    x = made("/P/X")

    assert {"/P/X": digest(x)} == State(by_name(x)).read(by_name(x), {"/P/X": digest(x)}).digests


def test_partial_read_removes_nothing() -> None:
    """A partial read never counts as a miss, however often it finds nothing, and does not reset an earlier miss."""
    w, x, y, z, new = made("/P/W"), made("/P/X"), made("/P/Y"), made("/P/Z"), made("/P/Y", version=2, minute=1)
    missing_once = State(by_name(w, x, y, z), {"/P/X": digest(x)}).read(by_name(w, y))
    assert {"/P/X", "/P/Z"} == missing_once.missing_once

    partly = missing_once.read(by_name(new), {}, complete=False).read(by_name(new, z), {}, complete=False)

    assert by_name(w, x, new, z) == partly.parameters
    assert {"/P/X": digest(x)} == partly.digests
    assert {"/P/X"} == partly.missing_once
    assert by_name(w, new, z) == partly.read(by_name(new, z)).parameters


def below(known: State, path: str, *, recursive: bool, to_key: Callable[[str], str]) -> dict[str, Parameter]:
    """Return everything under *path* by key."""
    return known.keyed(path, known.names_below(path, recursive=recursive), to_key=to_key)


def test_secrets_manager_references_have_their_own_path() -> None:
    """A reference is under the path of references, by its id, and under no other path."""
    secret = made("/aws/reference/secretsmanager/db/main")
    known = State(by_name(secret, made("/P/X")))

    assert {"db/main": secret} == below(known, "/aws/reference/secretsmanager", recursive=True, to_key=str)
    assert ["/P/X"] == known.names_below("/", recursive=True)


def test_renamed_parameter_does_not_collide() -> None:
    """A new name takes the key of a name that the same read missed for the first time."""
    old, new = made("/P/db/url"), made("/P/db.url", value="new")
    known = State(by_name(old)).read(by_name(new))

    assert {"DB_URL": new} == below(known, "/P", recursive=True, to_key=upper_snake)


def test_existing_parameters_of_one_key_collide() -> None:
    """Two names of one key that the last read both found are a `KeyCollision`."""
    known = State({}).read(by_name(made("/P/db/url"), made("/P/db.url")))

    with pytest.raises(KeyCollision):
        below(known, "/P", recursive=True, to_key=upper_snake)


def test_missed_parameters_keep_their_keys() -> None:
    """A parameter that was missed once keeps its key."""
    x, y = made("/P/X"), made("/P/Y")

    assert {"X": x, "Y": y} == below(State(by_name(x, y)).read(by_name(y)), "/P", recursive=True, to_key=str)


@pytest.mark.parametrize(
    ("path", "recursive", "keys"),
    [
        ("/P", True, {"X", "D/X", "D/E/X"}),
        ("/P", False, {"X"}),
        ("/P/D", True, {"X", "E/X"}),
        ("/P/D", False, {"X"}),
        ("/P/DD", True, set()),
        ("/", True, {"P/X", "P/D/X", "P/D/E/X", "PP/X", "ROOT", "BARE"}),
        ("/", False, {"ROOT", "BARE"}),
    ],
)
def test_membership_of_a_path(path: str, *, recursive: bool, keys: set[str]) -> None:
    """
    A name is under a path if it follows the path and a slash, at any level or only the first; every name is under /.
    """
    known = State(by_name(*map(made, ("/P/X", "/P/D/X", "/P/D/E/X", "/PP/X", "/ROOT", "BARE"))))

    found = below(known, path, recursive=recursive, to_key=str)

    assert keys == found.keys()
    assert all(parameter.name.endswith(key) for key, parameter in found.items())


# --- Which answer wins


def test_an_unchanged_ciphertext_is_not_decrypted() -> None:
    """
    An encrypted parameter that matches the known one takes its value and stores the digest; the others are decrypted.
    """
    known = State({"/P/X": decrypted("/P/X"), "/P/Y": decrypted("/P/Y")})
    merger = ResultMerger(known, decrypt_all=False)

    merger.accept("/P/X", encrypted("/P/X"))
    merger.accept("/P/Y", encrypted("/P/Y", version=2, minute=1))
    merger.accept("/P/Z", encrypted("/P/Z"))

    assert {"/P/X": decrypted("/P/X")} == merger.results.parameters
    assert {"/P/X": encrypted("/P/X").digest} == merger.results.digests
    assert {"/P/Y", "/P/Z"} == merger.results.encrypted.keys()
    assert 0 == merger.decrypted


def test_same_version_with_another_ciphertext_is_decrypted() -> None:
    """A recreated parameter has version 1 again, but its digest differs."""
    known = State({"/P/X": decrypted("/P/X")}, {"/P/X": b"other" * 6})
    merger = ResultMerger(known, decrypt_all=False)

    merger.accept("/P/X", encrypted("/P/X"))

    assert {"/P/X"} == merger.results.encrypted.keys()


def test_decryption_behind_the_fetch_is_rejected() -> None:
    """If a lagging replica decrypts an older version than the fetch found, the name must be read again."""
    merger = ResultMerger(State({}), decrypt_all=False)
    merger.accept("/P/X", encrypted("/P/X", version=2, minute=1))

    assert not merger.accept("/P/X", decrypted("/P/X"))
    assert merger.accept("/P/X", decrypted("/P/X", version=2, minute=1))
    assert {"/P/X": encrypted("/P/X", version=2, minute=1).digest} == merger.results.digests


def test_repeated_entry_in_a_listing_keeps_the_newer() -> None:
    """Of two entries of one name in a listing, the older one is dropped, in whatever order they come."""
    for order in ((1, 2), (2, 1)):
        merger = ResultMerger(State({}), decrypt_all=False)
        for version in order:
            assert merger.accept("/P/X", encrypted("/P/X", version=version, minute=version))
        assert 2 == merger.results.encrypted["/P/X"].version


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([{"A", "B"}], [("A", "B")]),
        ([{"B", "C"}], []),
        ([{"A", "GONE"}], []),
        ([{"A", "B"}, {"B", "C"}], [("A", "B")]),
        ([{"A", "B"}, {"A", "C"}], [("A", "B", "C")]),
    ],
)
def test_changed_groups(groups: list[set[str]], expected: list[tuple[str, ...]]) -> None:
    """A group is read together if one of at least two existing members changed; groups that overlap are united."""
    merger = ResultMerger(State({name: decrypted(name) for name in "ABC"}), decrypt_all=False)
    for name in "ABC":
        merger.accept(name, encrypted(name, version=2 if name == "A" else 1, minute=name == "A"))

    assert expected == merger.changed_groups(map(frozenset, groups))


def test_groups_unite_up_to_the_size_of_a_call() -> None:
    """Of three groups that overlap in a row, only those are united that fit into one call of ten names."""
    names = [f"N{number:02d}" for number in range(17)]
    merger = ResultMerger(State({}), decrypt_all=False)
    for name in names:
        merger.accept(name, encrypted(name))

    groups = [frozenset(names[:8]), frozenset(names[8:16]), frozenset({names[0], names[8]})]

    assert [8, 9] == sorted(map(len, merger.changed_groups(groups)))
