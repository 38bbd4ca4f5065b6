"""Complete reads: how they differ, how differences add up, and what a new read means for what is known."""

import dataclasses
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import Change, KeyCollision, Parameter, Snapshot, diff
from aiossmenv._models import coalesce
from aiossmenv._naming import upper_snake
from aiossmenv._ssm.merge import StoreState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = "hunter2"


def made(name: str, *, version: int = 1, minute: int | None = 0, value: str = SECRET, selector: str = "") -> Parameter:
    """Return a parameter that was written so many minutes past noon."""
    when = None if minute is None else NOON + timedelta(minutes=minute)
    return Parameter(name=name, value=value, type="String", version=version, last_modified=when, selector=selector)


def by_name(*parameters: Parameter) -> dict[str, Parameter]:
    """Return what one read found."""
    return {parameter.name: parameter for parameter in parameters}


PARAMETERS = st.builds(made, st.just("/P/X"), version=st.integers(1, 2), value=st.sampled_from("ab"))
SNAPSHOTS = st.dictionaries(st.sampled_from("ABCD"), PARAMETERS).map(lambda parameters: Snapshot(parameters, NOON))


# --- Snapshot


@given(SNAPSHOTS)
def test_snapshot_is_a_mapping_of_values(snapshot: Snapshot) -> None:
    """A snapshot maps the keys of its parameters, sorted, to their values."""
    assert {key: parameter.value for key, parameter in snapshot.parameters.items()} == dict(snapshot)
    assert sorted(snapshot.parameters) == list(snapshot) == list(snapshot.parameters)
    assert len(snapshot.parameters) == len(snapshot)


def test_snapshot_cannot_be_changed() -> None:
    """Neither a snapshot nor its parameters can be assigned to, and the mapping it was made from may change."""
    parameters = {"X": made("/P/X")}
    snapshot = Snapshot(parameters, NOON)
    parameters["Y"] = made("/P/Y")

    with pytest.raises(TypeError):
        snapshot.parameters["X"] = made("/P/Y")  # type: ignore[index]
    with pytest.raises(TypeError):
        snapshot["X"] = "other"  # type: ignore[index]
    with pytest.raises(AttributeError):
        snapshot.other = "other"  # type: ignore[attr-defined]
    assert {"X": SECRET} == dict(snapshot)
    assert ["X"] == list(snapshot.parameters)


def test_no_text_shows_a_value() -> None:
    """The reprs of snapshots, of their parameters and of changes hold names and times, and no value."""
    snapshot = Snapshot({"X": made("/P/X")}, NOON)

    assert "<Snapshot of 1 parameters, taken 2026-01-01 12:00:00+0000>" == repr(snapshot)
    for thing in (snapshot, snapshot.parameters, diff(Snapshot({}, NOON), snapshot), StoreState(snapshot.parameters)):
        assert SECRET not in f"{thing!r} {thing}"


# --- Changes


def test_diff_names_each_kind() -> None:
    """What is new is added, what is other is updated, what is not there is removed; in the order of the keys."""
    kept, gone, old, new, fresh = (made("/P/X", version=version) for version in range(1, 6))

    changes = diff(Snapshot({"A": gone, "B": kept, "C": old}, NOON), Snapshot({"D": fresh, "C": new, "B": kept}, NOON))

    assert (
        Change(key="A", kind="removed", old=gone, new=None),
        Change(key="C", kind="updated", old=old, new=new),
        Change(key="D", kind="added", old=None, new=fresh),
    ) == changes


def test_same_value_written_again_is_an_update() -> None:
    """A new version with the old value is a change, for somebody wrote it."""
    [change] = diff(Snapshot({"X": made("/P/X")}, NOON), Snapshot({"X": made("/P/X", version=2)}, NOON))

    assert "updated" == change.kind


@given(SNAPSHOTS)
def test_nothing_differs_from_itself(snapshot: Snapshot) -> None:
    """Equal reads at different times have no difference."""
    assert () == diff(snapshot, Snapshot(snapshot.parameters, NOON + timedelta(hours=1)))


@given(SNAPSHOTS, SNAPSHOTS)
def test_diff_leads_from_old_to_new(old: Snapshot, new: Snapshot) -> None:
    """Who applies each change to the old read has the new one."""
    parameters = dict(old.parameters)
    for change in diff(old, new):
        assert parameters.pop(change.key, None) == change.old
        if change.new:
            parameters[change.key] = change.new

    assert new.parameters == parameters


@given(SNAPSHOTS, SNAPSHOTS, SNAPSHOTS)
def test_coalesced_changes_are_the_difference_of_the_ends(a: Snapshot, b: Snapshot, c: Snapshot) -> None:
    """For each key, the change from a to b and the one from b to c amount to the one from a to c, or to none."""
    first, second = ({change.key: change for change in diff(*ends)} for ends in ((a, b), (b, c)))
    both = {key: coalesce(first[key], second[key]) for key in first.keys() & second.keys()}
    whole = first | second | both

    assert {change.key: change for change in diff(a, c)} == {key: change for key, change in whole.items() if change}


def test_change_can_be_sent_on() -> None:
    """A change survives pickling, and cannot be changed."""
    [change] = diff(Snapshot({}, NOON), Snapshot({"X": made("/P/X")}, NOON))

    assert change == pickle.loads(pickle.dumps(change))
    with pytest.raises(dataclasses.FrozenInstanceError):
        change.key = "Y"  # type: ignore[misc]


# --- Known


def test_absent_once_is_kept_and_twice_is_gone() -> None:
    """A parameter that one read misses stays; the next read that misses it, too, is believed."""
    x, y = made("/P/X"), made("/P/Y")
    known = StoreState(by_name(x, y))

    once = known.merge(by_name(y), {})
    twice = once.merge(by_name(y), {})

    assert by_name(x, y) == once.parameters
    assert by_name(y) == twice.parameters


def test_absences_count_in_a_row_only() -> None:
    """A parameter that is seen between two reads that miss it is kept."""
    x = made("/P/X")

    known = StoreState(by_name(x)).merge({}, {}).merge(by_name(x), {}).merge({}, {})

    assert by_name(x) == known.parameters


READS = st.lists(st.dictionaries(st.sampled_from(["/P/X", "/P/Y", "/P/Z"]), st.none()), max_size=8)


@given(READS)
def test_known_is_what_one_of_the_last_two_reads_saw(reads: list[dict[str, None]]) -> None:
    """However reads come and miss, what is known is what the last or the one before it saw, of the same version."""
    known = StoreState({})
    for read in reads:
        known = known.merge(by_name(*map(made, read)), {})

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
    """A lower version of an earlier date comes from a replica that lags; of a later date it is a parameter made anew."""
    known = made("/P/X", version=3, minute=5)
    read = made("/P/X", version=version, minute=minute, value="other")

    merged = StoreState(by_name(known)).merge(by_name(read), {})

    assert by_name(read if is_taken else known) == merged.parameters
    assert frozenset() == merged.missing_once


def test_what_a_selector_found_never_lags() -> None:
    """A label that moved back to an older version is followed."""
    back = made("/P/X", version=1, minute=0, selector=":live")

    assert by_name(back) == StoreState(by_name(made("/P/X", version=3, minute=5))).merge(by_name(back), {}).parameters


@pytest.mark.parametrize(("known", "read"), [(None, 0), (0, None), (None, None)])
def test_without_a_date_the_answer_is_taken(known: int | None, read: int | None) -> None:
    """Where a date is missing there is no telling, and the newest answer counts."""
    old, new = made("/P/X", version=3, minute=known), made("/P/X", version=1, minute=read)

    assert by_name(new) == StoreState(by_name(old)).merge(by_name(new), {}).parameters


def test_merge_leaves_what_was_known() -> None:
    """A read that turns out to be unusable has changed nothing: merging makes a new `Known`."""
    parameters = by_name(made("/P/X"))
    known = StoreState(MappingProxyType(parameters))

    known.merge(by_name(made("/P/Y")), {})

    assert StoreState(by_name(made("/P/X"))) == known


def digest(parameter: Parameter) -> bytes:
    """Return a digest that tells the version."""
    return bytes([parameter.version]) * 32


def test_digests_follow_their_parameters() -> None:
    """A digest is kept while its parameter is missed, replaced or dropped with a new read of it, and gone with it."""
    x, y, z, new = made("/P/X"), made("/P/Y"), made("/P/Z"), made("/P/X", version=2, minute=1)
    known = StoreState(by_name(x, y, z), {"/P/X": digest(x), "/P/Y": digest(y), "/P/Z": digest(z)})

    once = known.merge(by_name(new, z), {"/P/X": digest(new)})
    twice = once.merge(by_name(new, z), {"/P/X": digest(new), "/P/Z": digest(z)})

    assert {"/P/X": digest(new), "/P/Y": digest(y)} == once.digests
    assert {"/P/X": digest(new), "/P/Z": digest(z)} == twice.digests


def test_lagging_answer_keeps_the_old_digest() -> None:
    """The digest of an answer that is ignored is ignored with it."""
    known, lagging = made("/P/X", version=3, minute=5), made("/P/X", version=2, minute=4)

    merged = StoreState(by_name(known), {"/P/X": digest(known)}).merge(by_name(lagging), {"/P/X": digest(lagging)})

    assert (by_name(known), {"/P/X": digest(known)}) == (merged.parameters, merged.digests)


def test_digest_of_the_same_parameter_is_learned() -> None:
    """A read that gives back what is known, and a digest for it, teaches that."""
    x = made("/P/X")

    assert {"/P/X": digest(x)} == StoreState(by_name(x)).merge(by_name(x), {"/P/X": digest(x)}).digests


def test_partial_read_proves_no_absence() -> None:
    """What a partial read does not find stays, however often, and what was missed once stays missed once."""
    w, x, y, z, new = made("/P/W"), made("/P/X"), made("/P/Y"), made("/P/Z"), made("/P/Y", version=2, minute=1)
    missing_once = StoreState(by_name(w, x, y, z), {"/P/X": digest(x)}).merge(by_name(w, y), {})
    assert {"/P/X", "/P/Z"} == missing_once.missing_once

    partly = missing_once.merge(by_name(new), {}, complete=False).merge(by_name(new, z), {}, complete=False)

    assert by_name(w, x, new, z) == partly.parameters
    assert {"/P/X": digest(x)} == partly.digests
    assert {"/P/X"} == partly.missing_once
    assert by_name(w, new, z) == partly.merge(by_name(new, z), {}).parameters


def below(known: StoreState, path: str, *, recursive: bool, to_key: Callable[[str], str]) -> dict[str, Parameter]:
    """Return all under *path* by their keys."""
    return known.keyed(path, known.names_below(path, recursive=recursive), to_key=to_key)


def test_secret_of_secrets_manager_is_at_home_in_its_own_path() -> None:
    """A reference is below the path of references, by its id, and below no other."""
    secret = made("/aws/reference/secretsmanager/db/main")
    known = StoreState(by_name(secret, made("/P/X")))

    assert {"db/main": secret} == below(known, "/aws/reference/secretsmanager", recursive=True, to_key=str)
    assert ["/P/X"] == known.names_below("/", recursive=True)


def test_renamed_parameter_does_not_collide() -> None:
    """A new name takes over the key of one that the same read missed for the first time."""
    old, new = made("/P/db/url"), made("/P/db.url", value="new")
    known = StoreState(by_name(old)).merge(by_name(new), {})

    assert {"DB_URL": new} == below(known, "/P", recursive=True, to_key=upper_snake)


def test_parameters_that_are_both_there_collide() -> None:
    """Two names of one key that the last read saw are `KeyCollision`."""
    known = StoreState({}).merge(by_name(made("/P/db/url"), made("/P/db.url")), {})

    with pytest.raises(KeyCollision):
        below(known, "/P", recursive=True, to_key=upper_snake)


def test_missed_parameters_keep_their_keys() -> None:
    """A parameter that was missed once is still under its key."""
    x, y = made("/P/X"), made("/P/Y")

    assert {"X": x, "Y": y} == below(StoreState(by_name(x, y)).merge(by_name(y), {}), "/P", recursive=True, to_key=str)


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
    known = StoreState(by_name(*map(made, ("/P/X", "/P/D/X", "/P/D/E/X", "/PP/X", "/ROOT", "BARE"))))

    found = below(known, path, recursive=recursive, to_key=str)

    assert keys == found.keys()
    assert all(parameter.name.endswith(key) for key, parameter in found.items())
