"""What an import would write and delete, and how two sets of values differ. Pure: nothing is read or written here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aiossmenv._errors import AiossmenvError
from aiossmenv._models import Parameter, ParameterType, Tier
from aiossmenv._naming import name_keys, upper_snake
from aiossmenv._ssm.checks import checked
from aiossmenv.cli._formats import listed
from aiossmenv.cli._run import fail

# Characters that a parameter holds without a tier that costs money.
_STANDARD = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """
    One parameter that is written.

    *name*: full name. *value*: never in the repr. *type*: as it is there, or as it will be. *is_new*: whether there is
    none of this key. *spelling*: what the file calls it if that is not how the parameter is called, else empty.
    """

    name: str
    value: str = field(repr=False)
    type: ParameterType
    is_new: bool
    spelling: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is written, what is deleted, and how many parameters are as they should be."""

    writes: tuple[Write, ...]
    deletions: tuple[str, ...]
    unchanged: int

    @property
    def size(self) -> int:
        """How many changes these are."""
        return len(self.writes) + len(self.deletions)


def plan(
    path: str,
    wanted: Mapping[str, str],
    there: Iterable[Parameter],
    *,
    kind: ParameterType | None = None,
    key_id: str | None = None,
    tier: Tier | None = None,
    prune: bool = False,
) -> Plan:
    """
    Return what makes the parameters under *path* those of a file: *wanted*, names and values.

    A key decides which parameter a name means: DB_URL is db/url if that is there. Raises a `KeyCollision` if several
    parameters have one key, and a `CommandError` with all that Parameter Store would refuse.
    """
    file = {upper_snake(name): name for name in sorted(wanted)}
    parameters = {parameter.name: parameter for parameter in there}
    names = name_keys(path, parameters, upper_snake)
    writes: list[Write] = []
    unchanged = 0
    for key, name in file.items():
        full = f"{path.rstrip('/')}/{name}"
        existing = parameters[names[key]] if key in names else None
        if existing and existing.value == wanted[name] and kind in (None, existing.type):
            unchanged += 1
            continue
        writes.append(
            Write(
                name=existing.name if existing else full,
                value=wanted[name],
                type=kind or (existing.type if existing else "SecureString"),
                is_new=existing is None,
                spelling=name if existing and existing.name != full else "",
            )
        )
    _refuse([(fault, write.name) for write in writes if (fault := _fault(write, parameters, key_id, tier))])
    gone = tuple(sorted(name for key, name in names.items() if key not in file)) if prune else ()
    return Plan(tuple(writes), gone, unchanged)


def _fault(
    write: Write, parameters: Mapping[str, Parameter], key_id: str | None, tier: Tier | None
) -> tuple[str, str] | None:
    """Return why *write* would be refused, and what to do."""
    existing = parameters.get(write.name)
    if existing and existing.type != write.type:
        return f"it is a {existing.type}, and a type cannot be changed", "Delete it first, or leave out --type."
    # A key is for what is encrypted.
    used = key_id if write.type == "SecureString" else None
    request = checked(write.name, write.value, type=write.type, key_id=used, tier=tier, overwrite=True)
    if isinstance(request, AiossmenvError):
        return str(request.args[0]), request.remedy or ""
    if tier is None and len(write.value.encode()) > _STANDARD:
        size = len(write.value.encode())
        return f"its value has {size:,} bytes, and {_STANDARD:,} are free of charge", "Pass --tier Intelligent-Tiering."
    return None


def _refuse(faults: Iterable[tuple[tuple[str, str], str]]) -> None:
    """Raise a `CommandError` for names that have a fault, of which each has a remedy, if there is one."""
    names: dict[str, list[str]] = {}
    remedies: dict[str, None] = {}
    for (fault, remedy), name in faults:
        names.setdefault(fault, []).append(ascii(name))
        remedies[remedy] = None
    if names:
        texts = "; ".join(f"{fault}: {listed(same)}" for fault, same in names.items())
        fail(f"nothing is written, because {texts}", " ".join(filter(None, remedies)))


@dataclass(frozen=True, slots=True)
class Difference:
    """The keys, sorted, that one side has alone, the other one, and both with other values."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    different: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.only_first or self.only_second or self.different)


def compare(first: Mapping[str, str], second: Mapping[str, str]) -> Difference:
    """Return how two sets of values differ."""
    return Difference(
        tuple(sorted(first.keys() - second.keys())),
        tuple(sorted(second.keys() - first.keys())),
        tuple(sorted(key for key in first.keys() & second.keys() if first[key] != second[key])),
    )
