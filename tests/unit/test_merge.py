"""Which of two answers wins, and what a read means for what was known before."""

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
    """Return a parameter that was written so many minutes past noon."""
    when = None if minute is None else NOON + timedelta(minutes=minute)
    return Parameter(name=name, value=value, type="String", version=version, last_modified=when, selector=selector)


def encrypted(name: str, *, version: int = 1, minute: int = 0) -> EncryptedParameter:
    """Return the same, a `SecureString`, as a read without decryption gives it."""
    when = NOON + timedelta(minutes=minute)
    digest = bytes([version]) * 32
    return EncryptedParameter(
        name=name, type="SecureString", version=version, last_modified=when, arn="", digest=digest
    )


def decrypted(name: str, *, version: int = 1, minute: int = 0) -> Parameter:
    """Return the same in plaintext."""
    when = NOON + timedelta(minutes=minute)
    return Parameter(name=name, value=f"v{version}", type="SecureString", version=version, last_modified=when)


def by_name(*parameters: Parameter) -> dict[str, Parameter]:
    """Return what one read found."""
    return {parameter.name: parameter for parameter in parameters}


@dataclass(frozen=True, slots=True)
class State(StoreState):
    """What is known, and what becomes of it with each read."""

    def read(
        self,
        found: Mapping[str, Parameter],
        digests: Mapping[str, bytes] = MappingProxyType({}),
        *,
        complete: bool = True,
    ) -> "State":
        """Return what is known after a read that found these, with these digests."""
        merger = ResultMerger(self, decrypt_all=True)
        for name, parameter in found.items():
            merger.accept(name, parameter)
            if merger.results.parameters[name] is parameter and name in digests:
                merger.results.digests[name] = digests[name]
        merged = self.merge(merger.results, complete=complete)
        return State(merged.parameters, merged.digests, merged.missing_once)


# --- What is known


def test_absent_once_is_kept_and_twice_is_gone() -> None:
    """A parameter that one read misses stays; the next read that misses it, too, is believed."""
    x, y = made("/P/X"), made("/P/Y")
    known = State(by_name(x, y))

    once = known.read(by_name(y))
    twice = once.read(by_name(y))

    assert by_name(x, y) == once.parameters
    assert by_name(y) == twice.parameters


def test_absences_count_in_a_row_only() -> None:
    """A parameter that is seen between two reads that miss it is kept."""
    x = made("/P/X")

    known = State(by_name(x)).read({}).read(by_name(x)).read({})

    assert by_name(x) == known.parameters


READS = st.lists(st.dictionaries(st.sampled_from(["/P/X", "/P/Y", "/P/Z"]), st.none()), max_size=8)


@given(READS)
def test_known_is_what_one_of_the_last_two_reads_saw(reads: list[dict[str, None]]) -> None:
    """However reads come and miss, what is known is what the last or the one before it saw, of the same version."""
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
def test_only_an_answer_older_in_both_is_ignored(version: int, minute: int, *, is_taken: bool) -> None:
    """
    A lower version of an earlier date comes from a replica that lags; of a later date it is a parameter made anew.
    """
    known = made("/P/X", version=3, minute=5)
    read = made("/P/X", version=version, minute=minute, value="other")

    merged = State(by_name(known)).read(by_name(read))

    assert by_name(read if is_taken else known) == merged.parameters
    assert frozenset() == merged.missing_once


def test_what_a_selector_found_never_lags() -> None:
    """A label that moved back to an older version is followed."""
    back = made("/P/X", version=1, minute=0, selector=":live")

    assert by_name(back) == State(by_name(made("/P/X", version=3, minute=5))).read(by_name(back)).parameters


@pytest.mark.parametrize(("known", "read"), [(None, 0), (0, None), (None, None)])
def test_without_a_date_the_answer_is_taken(known: int | None, read: int | None) -> None:
    """Where a date is missing there is no telling, and the newest answer counts."""
    old, new = made("/P/X", version=3, minute=known), made("/P/X", version=1, minute=read)

    assert by_name(new) == State(by_name(old)).read(by_name(new)).parameters


def test_merge_leaves_what_was_known() -> None:
    """A read that turns out to be unusable has changed nothing: merging makes a new state."""
    parameters = by_name(made("/P/X"))
    known = State(MappingProxyType(parameters))

    known.read(by_name(made("/P/Y")))

    assert State(by_name(made("/P/X"))) == known


def digest(parameter: Parameter) -> bytes:
    """Return a digest that tells the version."""
    return bytes([parameter.version]) * 32


def test_digests_follow_their_parameters() -> None:
    """A digest is kept while its parameter is missed or found unchanged, replaced with a new one, and gone with it."""
    x, y, z, new = made("/P/X"), made("/P/Y"), made("/P/Z"), made("/P/X", version=2, minute=1)
    known = State(by_name(x, y, z), {"/P/X": digest(x), "/P/Y": digest(y), "/P/Z": digest(z)})

    once = known.read(by_name(new, z), {"/P/X": digest(new)})
    twice = once.read(by_name(new, z), {"/P/X": digest(new), "/P/Z": digest(z)})

    assert {"/P/X": digest(new), "/P/Y": digest(y), "/P/Z": digest(z)} == once.digests
    assert {"/P/X": digest(new), "/P/Z": digest(z)} == twice.digests


def test_lagging_answer_keeps_the_old_digest() -> None:
    """The digest of an answer that is ignored is ignored with it."""
    known, lagging = made("/P/X", version=3, minute=5), made("/P/X", version=2, minute=4)

    merged = State(by_name(known), {"/P/X": digest(known)}).read(by_name(lagging), {"/P/X": digest(lagging)})

    assert (by_name(known), {"/P/X": digest(known)}) == (merged.parameters, merged.digests)


def test_digest_of_the_same_parameter_is_learned() -> None:
    """A read that gives back what is known, and a digest for it, teaches that."""
    x = made("/P/X")

    assert {"/P/X": digest(x)} == State(by_name(x)).read(by_name(x), {"/P/X": digest(x)}).digests


def test_partial_read_proves_no_absence() -> None:
    """What a partial read does not find stays, however often, and what was missed once stays missed once."""
    w, x, y, z, new = made("/P/W"), made("/P/X"), made("/P/Y"), made("/P/Z"), made("/P/Y", version=2, minute=1)
    missing_once = State(by_name(w, x, y, z), {"/P/X": digest(x)}).read(by_name(w, y))
    assert {"/P/X", "/P/Z"} == missing_once.missing_once

    partly = missing_once.read(by_name(new), {}, complete=False).read(by_name(new, z), {}, complete=False)

    assert by_name(w, x, new, z) == partly.parameters
    assert {"/P/X": digest(x)} == partly.digests
    assert {"/P/X"} == partly.missing_once
    assert by_name(w, new, z) == partly.read(by_name(new, z)).parameters


def below(known: State, path: str, *, recursive: bool, to_key: Callable[[str], str]) -> dict[str, Parameter]:
    """Return all under *path* by their keys."""
    return known.keyed(path, known.names_below(path, recursive=recursive), to_key=to_key)


def test_secret_of_secrets_manager_is_at_home_in_its_own_path() -> None:
    """A reference is below the path of references, by its id, and below no other."""
    secret = made("/aws/reference/secretsmanager/db/main")
    known = State(by_name(secret, made("/P/X")))

    assert {"db/main": secret} == below(known, "/aws/reference/secretsmanager", recursive=True, to_key=str)
    assert ["/P/X"] == known.names_below("/", recursive=True)


def test_renamed_parameter_does_not_collide() -> None:
    """A new name takes over the key of one that the same read missed for the first time."""
    old, new = made("/P/db/url"), made("/P/db.url", value="new")
    known = State(by_name(old)).read(by_name(new))

    assert {"DB_URL": new} == below(known, "/P", recursive=True, to_key=upper_snake)


def test_parameters_that_are_both_there_collide() -> None:
    """Two names of one key that the last read saw are `KeyCollision`."""
    known = State({}).read(by_name(made("/P/db/url"), made("/P/db.url")))

    with pytest.raises(KeyCollision):
        below(known, "/P", recursive=True, to_key=upper_snake)


def test_missed_parameters_keep_their_keys() -> None:
    """A parameter that was missed once is still under its key."""
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
def test_below_a_path(path: str, *, recursive: bool, keys: set[str]) -> None:
    """Below a path is what follows it and a slash, at all levels or at the first; below the root is everything."""
    known = State(by_name(*map(made, ("/P/X", "/P/D/X", "/P/D/E/X", "/PP/X", "/ROOT", "BARE"))))

    found = below(known, path, recursive=recursive, to_key=str)

    assert keys == found.keys()
    assert all(parameter.name.endswith(key) for key, parameter in found.items())


# --- Which answer wins


def test_an_unchanged_ciphertext_is_not_decrypted() -> None:
    """What matches what is known is taken from there, and learns its digest; what differs is left to be decrypted."""
    known = State({"/P/X": decrypted("/P/X"), "/P/Y": decrypted("/P/Y")})
    merger = ResultMerger(known, decrypt_all=False)

    merger.accept("/P/X", encrypted("/P/X"))
    merger.accept("/P/Y", encrypted("/P/Y", version=2, minute=1))
    merger.accept("/P/Z", encrypted("/P/Z"))

    assert {"/P/X": decrypted("/P/X")} == merger.results.parameters
    assert {"/P/X": encrypted("/P/X").digest} == merger.results.digests
    assert {"/P/Y", "/P/Z"} == merger.results.encrypted.keys()
    assert 0 == merger.decrypted


def test_the_same_version_of_another_ciphertext_is_decrypted() -> None:
    """A parameter that was deleted and made anew has version 1 again; its digest tells."""
    known = State({"/P/X": decrypted("/P/X")}, {"/P/X": b"other" * 6})
    merger = ResultMerger(known, decrypt_all=False)

    merger.accept("/P/X", encrypted("/P/X"))

    assert {"/P/X"} == merger.results.encrypted.keys()


def test_an_answer_behind_the_first_one_of_its_read_is_refused() -> None:
    """What a replica that lags decrypts is not what the first fetch showed, and has to be asked for again."""
    merger = ResultMerger(State({}), decrypt_all=False)
    merger.accept("/P/X", encrypted("/P/X", version=2, minute=1))

    assert not merger.accept("/P/X", decrypted("/P/X"))
    assert merger.accept("/P/X", decrypted("/P/X", version=2, minute=1))
    assert {"/P/X": encrypted("/P/X", version=2, minute=1).digest} == merger.results.digests


def test_a_listing_that_repeats_a_parameter_keeps_the_newer() -> None:
    """Of two entries of one name in one listing, the older one is dropped, in whatever order they come."""
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
def test_groups_with_a_change(groups: list[set[str]], expected: list[tuple[str, ...]]) -> None:
    """A group is read together if one of two members that are there changed; two that overlap become one."""
    merger = ResultMerger(State({name: decrypted(name) for name in "ABC"}), decrypt_all=False)
    for name in "ABC":
        merger.accept(name, encrypted(name, version=2 if name == "A" else 1, minute=name == "A"))

    assert expected == merger.changed_groups(map(frozenset, groups))


def test_groups_become_one_as_far_as_a_call_holds_them() -> None:
    """Of three groups that overlap in a row only those become one that fit into ten together."""
    names = [f"N{number:02d}" for number in range(17)]
    merger = ResultMerger(State({}), decrypt_all=False)
    for name in names:
        merger.accept(name, encrypted(name))

    groups = [frozenset(names[:8]), frozenset(names[8:16]), frozenset({names[0], names[8]})]

    assert [8, 9] == sorted(map(len, merger.changed_groups(groups)))
