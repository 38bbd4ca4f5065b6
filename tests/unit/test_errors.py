"""The errors: their texts, their pickling, and the documented class tree."""

import copy
import inspect
import pickle
import re
from collections.abc import Callable

import pytest

import aiossmenv
from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    KeyCollision,
    MissingParameters,
    StoreUnavailable,
    Throttled,
    _errors,
)

ERRORS = sorted(
    {error for error in vars(_errors).values() if isinstance(error, type) and issubclass(error, AiossmenvError)}
    - {AiossmenvError},
    key=lambda error: error.__name__,
)
each = pytest.mark.parametrize("kind", [AiossmenvError, *ERRORS], ids=lambda kind: kind.__name__)


def test_class_tree_is_documented() -> None:
    """The docstring of the base class lists each error once, with a remedy, and nothing else."""
    documented = re.findall(r"^     \+- (\w+)  +\S", inspect.getdoc(AiossmenvError) or "", re.MULTILINE)

    assert [error.__name__ for error in ERRORS] == sorted(documented)
    assert {AiossmenvError} == {base for error in ERRORS for base in error.__bases__}
    assert {AiossmenvError, *ERRORS} == set(_errors.ERRORS)


@each
def test_errors_belong_to_the_package(kind: type[AiossmenvError]) -> None:
    """Each error is importable from the package, and its `__module__` is the package."""
    assert kind is getattr(aiossmenv, kind.__name__)
    assert "aiossmenv" == kind.__module__


@each
def test_transient_errors(kind: type[AiossmenvError]) -> None:
    """Only throttling and an unavailable store are transient, unless the single error overrides it."""
    assert (kind in {Throttled, StoreUnavailable}) == kind("text").transient


def test_transient_can_be_set_per_error() -> None:
    """Setting `transient` on one error does not change its class."""
    assert not StoreUnavailable("text", transient=False).transient
    assert AiossmenvError("text", transient=True).transient
    assert StoreUnavailable("text").transient
    assert not AiossmenvError("text").transient


@each
def test_text_holds_everything(kind: type[AiossmenvError]) -> None:
    """The text has the message, parameter, path, region and remedy that the error has when the text is read."""
    error = kind("it broke", remedy="Mend it.")
    error.path = "/P"
    assert "it broke (path /P). Mend it." == str(error)

    error.parameter, error.region = "/P/X", "eu-west-1"
    assert "it broke (parameter /P/X, path /P, region eu-west-1). Mend it." == str(error)


def test_text_without_details() -> None:
    """Details that are unknown are not in the text."""
    assert "it broke" == str(AiossmenvError("it broke")) == str(AiossmenvError(message="it broke"))
    assert "it broke (region eu-west-1)" == str(AiossmenvError("it broke", region="eu-west-1"))
    assert "it broke. Mend it." == str(AiossmenvError("it broke", remedy="Mend it."))


def made(kind: type[AiossmenvError]) -> AiossmenvError:
    """Return an error with every attribute that its class supports."""
    if issubclass(kind, MissingParameters):
        return kind("it broke", keys=("A", "B"), path="/P", region="eu-west-1", remedy="Mend it.")
    if issubclass(kind, KeyCollision):
        return kind("it broke", collisions={"A": ("/P/A", "/P/a")}, path="/P", remedy="Mend it.")
    if issubclass(kind, AccessDenied):
        error = kind("it broke", action="ssm:GetParameters", remedy="Mend it.", transient=True)
        error.parameter, error.path, error.region = "/P/X", "/P", "eu-west-1"
        return error
    return kind("it broke", parameter="/P/X", path="/P", region="eu-west-1", remedy="Mend it.", transient=True)


@each
@pytest.mark.parametrize("sent", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_pickle_and_copy(kind: type[AiossmenvError], sent: Callable[[AiossmenvError], AiossmenvError]) -> None:
    """A pickled or copied error keeps its class, its text and all its attributes."""
    error = made(kind)

    arrived = sent(error)

    assert kind is type(arrived)
    assert str(error) == str(arrived)
    assert error.transient == arrived.transient
    assert vars(error) == vars(arrived)


def test_attributes_of_missing_parameters() -> None:
    """`MissingParameters` lists all keys, and its `parameter` is None."""
    error = MissingParameters("gone", keys=("A", "B"), region="eu-west-1")

    assert ("A", "B") == error.keys
    assert (None, None, "eu-west-1", None) == (error.parameter, error.path, error.region, error.remedy)
    assert () == MissingParameters("gone").keys


def test_action_of_a_denial() -> None:
    """`AccessDenied` has the denied action, or None if the credentials were rejected."""
    assert "ssm:GetParameters" == AccessDenied("no", action="ssm:GetParameters").action
    assert AccessDenied("expired").action is None


def test_one_full_stop_before_the_details() -> None:
    """A full stop of the service's text is dropped before the details, and one follows at the end."""
    assert "It broke (path /P). Mend it." == str(AiossmenvError("It broke.", path="/P", remedy="Mend it."))
    assert "It broke. Mend it." == str(AiossmenvError("It broke.", remedy="Mend it."))
    assert "It broke." == str(AiossmenvError("It broke."))


def test_attributes_of_key_collision() -> None:
    """`KeyCollision` keeps its own copy of the collisions."""
    collisions = {"A": ("/P/A", "/P/a")}
    error = KeyCollision("twice", collisions=collisions)
    collisions.clear()

    assert {"A": ("/P/A", "/P/a")} == error.collisions
    assert {} == KeyCollision("twice").collisions
