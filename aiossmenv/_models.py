"""Complete reads, how they differ, and how a new one is merged with what is known."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from aiossmenv._errors import AiossmenvError
from aiossmenv._naming import is_reference

ParameterType = Literal["String", "StringList", "SecureString"]
Tier = Literal["Standard", "Advanced", "Intelligent-Tiering"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """
    One parameter in plaintext, as one read returned it.

    *name*: full name, as `/FAKEBOOK/TEST/DB_URL`. *value*: plaintext; never in the repr. *type*: `String`,
    `StringList` or `SecureString`. *version*: from 1; 0 for a reference to Secrets Manager. *last_modified*: with
    time zone. *arn*, *data_type*: as the service gave them. *selector*: `:3` or `:label` when asked for by one,
    else empty. *version_id*: that of a secret in Secrets Manager, else empty. *inner_name*: the name within the
    parameter, as `db/host`, if `expand` took *value* out of one that holds several, else empty.
    """

    name: str
    value: str = field(repr=False)
    type: ParameterType
    version: int
    last_modified: datetime | None = None
    arn: str = ""
    data_type: str = "text"
    selector: str = ""
    version_id: str = ""
    inner_name: str = ""

    def __repr__(self) -> str:
        return f"<Parameter {self.name}{self.selector} {self.type} version {self.version}>"


Parameter.__module__ = "aiossmenv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """
    What a write did.

    Attributes:
        name: Full name.
        version: The version that was written.
        previous_version: The version that was read before the write: 0 if there was no parameter, `None` if the role
            may not read it.
        tier: `Standard` or `Advanced`, as the service gave it; empty if its answer was lost.
    """

    name: str
    version: int
    previous_version: int | None
    tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterMetadata:
    """
    What the store says of a parameter, without its value.

    Attributes:
        name: Full name.
        type: `String`, `StringList` or `SecureString`.
        version: From 1.
        last_modified: With time zone.
        last_modified_user: The ARN of the role or user that wrote the newest version.
        key_id: The KMS key of a `SecureString`, else empty.
        tier: `Standard`, `Advanced` or `Intelligent-Tiering`.
        description: Empty if there is none.
        data_type: `text`, or what else the writer gave.
        arn: Empty if the service did not give it.
    """

    name: str
    type: ParameterType
    version: int
    last_modified: datetime | None = None
    last_modified_user: str = ""
    key_id: str = ""
    tier: str = ""
    description: str = ""
    data_type: str = "text"
    arn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterHistory:
    """
    One version of a parameter.

    Attributes:
        parameter: The version as a `Parameter`, whose repr does not show the value.
        labels: The labels that lead to this version.
        last_modified_user: The ARN of the role or user that wrote it.
        key_id: The KMS key of a `SecureString`, else empty.
        tier: `Standard`, `Advanced` or `Intelligent-Tiering`.
        description: Empty if there is none.
    """

    parameter: Parameter
    labels: tuple[str, ...] = ()
    last_modified_user: str = ""
    key_id: str = ""
    tier: str = ""
    description: str = ""


Written.__module__ = ParameterMetadata.__module__ = ParameterHistory.__module__ = "aiossmenv"


def asked_name(parameter: Parameter) -> str:
    """Return the name that *parameter* was asked for by, with its selector; that of a secret has it in its name."""
    return parameter.name if is_reference(parameter.name) else parameter.name + parameter.selector


class Snapshot(Mapping[str, str]):
    """
    One complete read: key -> value, immutable.

    *parameters* maps the same keys to their `Parameter`; *taken_at* is when the last read of all ended, with time zone.
    """

    __slots__ = ("_parameters", "_taken_at")

    def __init__(self, parameters: Mapping[str, Parameter], taken_at: datetime) -> None:
        self._parameters = dict(sorted(parameters.items()))
        self._taken_at = taken_at

    def _retaken(self, taken_at: datetime) -> "Snapshot":
        """Return what a later read gives that found all as it was."""
        same = Snapshot({}, taken_at)
        same._parameters = self._parameters
        return same

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The same keys, with all that the store says of each."""
        return MappingProxyType(self._parameters)

    @property
    def taken_at(self) -> datetime:
        """When the read ended."""
        return self._taken_at

    def __getitem__(self, key: str) -> str:
        return self._parameters[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self)} parameters, taken {self.taken_at:%Y-%m-%d %H:%M:%S%z}>"

    # As for `Env`.
    __sentry_repr__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    What became of one *key*: *kind* is `added`, `updated` or `removed`.

    *old* and *new* are the `Parameter`s before and after, `None` where there was or is none. A parameter that was
    written again with the value it had is `updated` too: its version differs. Of one that `expand` took out of another
    parameter only the value counts, because any other value in there changes the version.
    """

    key: str
    kind: Literal["added", "updated", "removed"]
    old: Parameter | None
    new: Parameter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """
    How current an `Env` is, at the moment of asking.

    *fresh*: the snapshot is younger than `ttl`; without a `ttl`, always. *age*: seconds since the last complete read
    ended. *last_success*: when that was, with time zone. *last_error*: the error of the last complete refresh if it
    failed, else `None`. *failures*: failed ones in a row. *next_refresh*: seconds until the next planned one begins, 0
    while it runs, `None` if none is planned; without a `ttl`, after a failure, seconds until `ensure_fresh()` tries
    again. Since the first load: *refreshes*: complete ones that succeeded; *changes*:
    what all refreshes brought; *requests*: to Parameter Store; *throttled*: those of them that were; *decrypted*:
    `SecureString`s that were decrypted, each of which is a call of KMS.
    """

    fresh: bool
    age: float
    last_success: datetime
    last_error: AiossmenvError | None
    failures: int
    next_refresh: float | None
    refreshes: int
    changes: int
    requests: int
    throttled: int
    decrypted: int


Status.__module__ = "aiossmenv"


def diff(old: Snapshot, new: Snapshot) -> tuple[Change, ...]:
    """Return what leads from *old* to *new*, in the order of the keys."""
    before, after = old.parameters, new.parameters
    differing = [key for key, parameter in after.items() if before.get(key) is not parameter]
    changes = (
        _change(key, before.get(key), after.get(key)) for key in sorted([*differing, *before.keys() - after.keys()])
    )
    return tuple(change for change in changes if change)


Snapshot.__module__ = Change.__module__ = diff.__module__ = "aiossmenv"


def coalesce(first: Change, second: Change) -> Change | None:
    """Return the one change that two on the same key amount to, or `None` if they cancel out."""
    return _change(first.key, first.old, second.new)


def _change(key: str, old: Parameter | None, new: Parameter | None) -> Change | None:
    if old == new or (old and new and old.inner_name and new.inner_name and old.value == new.value):
        return None
    return Change(key=key, kind="added" if old is None else "removed" if new is None else "updated", old=old, new=new)
