"""Snapshots and changes: how reads differ, and how differences combine."""

import dataclasses
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiossmenv import Change, Parameter, Snapshot, diff
from aiossmenv._models import coalesce
from aiossmenv._ssm.merge import StoreState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = "hunter2"


def made(name: str, *, version: int = 1, minute: int | None = 0, value: str = SECRET, selector: str = "") -> Parameter:
    """Return a parameter whose last change is this many minutes past noon."""
    when = None if minute is None else NOON + timedelta(minutes=minute)
    return Parameter(name=name, value=value, type="String", version=version, last_modified=when, selector=selector)


PARAMETERS = st.builds(made, st.just("/P/X"), version=st.integers(1, 2), value=st.sampled_from("ab"))
SNAPSHOTS = st.dictionaries(st.sampled_from("ABCD"), PARAMETERS).map(lambda parameters: Snapshot(parameters, NOON))


# --- Snapshot


@given(SNAPSHOTS)
def test_snapshot_is_a_mapping_of_values(snapshot: Snapshot) -> None:
    """A snapshot maps the keys of its parameters, sorted, to their values."""
    assert {key: parameter.value for key, parameter in snapshot.parameters.items()} == dict(snapshot)
    assert sorted(snapshot.parameters) == list(snapshot) == list(snapshot.parameters)
    assert len(snapshot.parameters) == len(snapshot)


def test_snapshot_is_immutable() -> None:
    """
    Neither a snapshot nor its parameters can be changed, not even through the mapping that the snapshot was made from.
    """
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
    """The reprs of snapshots, of their parameters and of changes show names and times, and no value."""
    snapshot = Snapshot({"X": made("/P/X")}, NOON)

    assert "<Snapshot of 1 parameters, taken 2026-01-01 12:00:00+0000>" == repr(snapshot)
    for thing in (snapshot, snapshot.parameters, diff(Snapshot({}, NOON), snapshot), StoreState(snapshot.parameters)):
        assert SECRET not in f"{thing!r} {thing}"


# --- Changes


def test_diff_names_each_kind() -> None:
    """A new key is added, a different one is updated, a missing one is removed; the changes are sorted by key."""
    kept, gone, old, new, fresh = (made("/P/X", version=version) for version in range(1, 6))

    changes = diff(Snapshot({"A": gone, "B": kept, "C": old}, NOON), Snapshot({"D": fresh, "C": new, "B": kept}, NOON))

    assert (
        Change(key="A", kind="removed", old=gone, new=None),
        Change(key="C", kind="updated", old=old, new=new),
        Change(key="D", kind="added", old=None, new=fresh),
    ) == changes


def test_same_value_written_again_is_an_update() -> None:
    """A new version with the old value is an update, because a write happened."""
    [change] = diff(Snapshot({"X": made("/P/X")}, NOON), Snapshot({"X": made("/P/X", version=2)}, NOON))

    assert "updated" == change.kind


@given(SNAPSHOTS)
def test_nothing_differs_from_itself(snapshot: Snapshot) -> None:
    """Equal reads at different times have no changes."""
    assert () == diff(snapshot, Snapshot(snapshot.parameters, NOON + timedelta(hours=1)))


@given(SNAPSHOTS, SNAPSHOTS)
def test_diff_leads_from_old_to_new(old: Snapshot, new: Snapshot) -> None:
    """Applying each change to the old read gives the new one."""
    parameters = dict(old.parameters)
    for change in diff(old, new):
        assert parameters.pop(change.key, None) == change.old
        if change.new:
            parameters[change.key] = change.new

    assert new.parameters == parameters


@given(SNAPSHOTS, SNAPSHOTS, SNAPSHOTS)
def test_coalesced_changes_are_the_difference_of_the_ends(a: Snapshot, b: Snapshot, c: Snapshot) -> None:
    """For each key, the changes from a to b and from b to c combine into the change from a to c, or into none."""
    first, second = ({change.key: change for change in diff(*ends)} for ends in ((a, b), (b, c)))
    both = {key: coalesce(first[key], second[key]) for key in first.keys() & second.keys()}
    whole = first | second | both

    assert {change.key: change for change in diff(a, c)} == {key: change for key, change in whole.items() if change}


def test_change_can_be_pickled() -> None:
    """A change survives pickling, and is immutable."""
    [change] = diff(Snapshot({}, NOON), Snapshot({"X": made("/P/X")}, NOON))

    assert change == pickle.loads(pickle.dumps(change))
    with pytest.raises(dataclasses.FrozenInstanceError):
        change.key = "Y"  # type: ignore[misc]
