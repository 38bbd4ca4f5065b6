# One owner: which variables of an environment are ours. Decides edits, and applies them all or none.
"""Edits to an environment: what to set, what to unset, what to leave to others."""

from collections.abc import Generator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType

from aiossmenv._errors import InvalidVariable
from aiossmenv._parameter import Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """
    What one publication does to an environment.

    *assign*: variables to set. *unset*: variables to remove. *owned*: what is ours afterwards, with the values we set.
    *shadowed*: keys that somebody else's variable keeps.
    """

    assign: Mapping[str, str] = field(repr=False)
    unset: tuple[str, ...]
    owned: Mapping[str, str] = field(repr=False)
    shadowed: frozenset[str]


def plan(target: Mapping[str, str], owned: Mapping[str, str], environ: Mapping[str, str], *, override: bool) -> Edit:
    """
    Decide how *environ* comes to hold *target*, given what is *owned* by us in it.

    A variable of ours that somebody changed is written only when its parameter changes and *override* allows it; one
    whose parameter is gone is removed only if it still has the value that we set.
    """
    assign: dict[str, str] = {}
    ours: dict[str, str] = {}
    shadowed: set[str] = set()
    for key, value in target.items():
        if owned.get(key) == value:
            ours[key] = value
        elif override or environ.get(key) in (None, owned.get(key)):
            # Without override: a variable that is not set, or our own, untouched.
            assign[key] = ours[key] = value
        else:
            shadowed.add(key)
    unset = tuple(key for key, value in owned.items() if key not in target and environ.get(key) == value)
    # All of it ours, as it mostly is: the target itself says so, in no memory of its own.
    return Edit(assign=assign, unset=unset, owned=ours if shadowed else target, shadowed=frozenset(shadowed))


def apply(edit: Edit, environ: MutableMapping[str, str], slice_size: int = 50) -> Generator[None, None, str | None]:
    """
    Carry out *edit* in slices, or leave *environ* as it was and return what was wrong.

    Between two slices it yields (putenv takes longer the more variables there are: 50 take 2 ms beside 10,000), so that whoever drives it can let others run; closing it early undoes what was done.
    What was wrong is returned and not raised, because a traceback's frames would show the environment and the values.
    """
    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}
    key = ""
    try:
        for number, key in enumerate((*edit.assign, *edit.unset), 1):
            before[key] = environ.get(key)
            if key in edit.assign:
                environ[key] = edit.assign[key]
            else:
                environ.pop(key, None)
            after[key] = environ.get(key)
            if number % slice_size == 0:
                yield
    except BaseException as error:
        for name, old in before.items():
            # What refuses this, too, shall neither keep the others from being put back nor be raised from here.
            with suppress(Exception):
                now = environ.get(name)
                if name in after and now != after[name]:
                    continue  # somebody else's by now
                if old is None:
                    environ.pop(name, None)
                elif now != old:
                    environ[name] = old
        if not isinstance(error, Exception):
            raise
        return f"the environment refused {key!r}: {type(error).__name__}"
    return None


def check(parameters: Mapping[str, Parameter], checked: Mapping[str, Parameter] = MappingProxyType({})) -> None:
    """Raise `InvalidVariable` for the first of *parameters*, by key and not *checked* before, that no environment holds."""
    for key, parameter in parameters.items():
        fault = None if checked.get(key) is parameter else _fault(key, parameter)
        if fault:
            raise InvalidVariable(
                f"{key!r} {fault}",
                parameter=parameter.name,
                remedy="Correct it, or pass environ=None to fill no environment.",
            )


def _fault(key: str, parameter: Parameter) -> str | None:
    if not key:
        return "is empty and cannot name an environment variable"
    if "=" in key or "\0" in key:
        return "cannot name an environment variable"
    if "\0" in parameter.value:
        return "has a NUL in its value, which no environment variable can hold"
    if not _encodes(key) or not _encodes(parameter.value):
        return "holds a character that no environment variable can hold"
    return None


def _encodes(text: str) -> bool:
    # As os.environ does it on every system that has UTF-8 as its encoding.
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
