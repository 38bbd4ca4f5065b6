"""Which parameters an `Env` wants, how to ask for them, and what a read of them leads to."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from aiossmenv._errors import EmptyPath, MissingParameters
from aiossmenv._expand import Expander, Expansion, Format
from aiossmenv._models import Parameter
from aiossmenv._naming import REFERENCE, is_below, is_reference, nearest
from aiossmenv._ssm.merge import StoreState
from aiossmenv._ssm.transport import Query


class MayBeAbsent(tuple[str, ...]):
    """Names for `keys=` that are read if they are there, such as those of fields that have a default."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Arranged:
    """
    What a read leads to.

    *parameters*: by key. *expansions*: what some of them were expanded from. *not_there*: names in `expand=` that no
    parameter has.
    """

    parameters: dict[str, Parameter]
    expansions: Mapping[tuple[str, Format], Expansion] = field(default_factory=dict)
    not_there: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What one `Env` is made of."""

    paths: tuple[str, ...]
    names: tuple[str, ...] | None
    required: frozenset[str]
    recursive: bool
    to_key: Callable[[str], str]
    allow_empty: bool
    # Patterns of keys that are not put into an environment.
    protected: tuple[str, ...] = ()
    # Whether *names* may be absent without a warning.
    optional: bool = False
    # The format of parameters that hold several variables: of all, or by key or name.
    expand: Format | Mapping[str, Format] | None = None

    @property
    def where(self) -> str:
        """The paths, for a text."""
        return ", ".join(self.paths) or REFERENCE

    @cached_property
    def queries(self) -> tuple[Query, ...]:
        """What to look at to read all of it."""
        if self.names is None:
            return tuple(Query(path=path, recursive=self.recursive) for path in self.paths)
        secrets = tuple(name for name in self.names if is_reference(name))
        of_path: dict[str, dict[str, None]] = {path: {} for path in self.paths}
        for key in self.names:
            for path, name in self._spelled_out(key):
                of_path[path][name] = None
        return (
            *(Query(path=path, names=tuple(names), may_list=False) for path, names in of_path.items() if names),
            *([Query(path=REFERENCE, names=secrets, may_list=False)] if secrets else []),
        )

    def missing(self, known: StoreState) -> tuple[str, ...]:
        """Return the full names, sorted, of the keys that no path has."""
        if self.names is None:
            return ()
        found = known.parameters
        if all(name in found for query in self.queries for name in query.names or ()):
            return ()
        names = [[key] if is_reference(key) else [name for _, name in self._spelled_out(key)] for key in self.names]
        return tuple(sorted(name for same in names if found.keys().isdisjoint(same) for name in same))

    def _spelled_out(self, key: str) -> list[tuple[str, str]]:
        """Return the full names that a key other than a secret's means, each with its path."""
        if is_reference(key):
            return []
        if key.startswith("/"):
            path = nearest(self.paths, key)
            assert path is not None
            return [(path, key)]
        return [(path, f"{path.rstrip('/')}/{key}") for path in self.paths]

    def polls(self, known: StoreState) -> tuple[Query, ...]:
        """Return what to look at to read by name all that is *known*; a path of which nothing is known is listed."""
        if self.names is not None:
            return self.queries
        polls: list[Query] = []
        taken: set[str] = set()
        for path in self.paths:
            below = known.names_below(path, recursive=self.recursive)
            names = tuple(name for name in below if name not in taken)
            taken.update(names)
            if names or not below:
                polls.append(Query(path=path, recursive=self.recursive, names=names or None))
        return tuple(polls)

    def some(self, names: Iterable[str]) -> tuple[Query, ...]:
        """Return what to look at to read these *names* of those that are known."""
        if self.names is not None:
            return (Query(names=tuple(names), may_list=False),)
        of_path: dict[str, list[str]] = {}
        for name in names:
            path = next(path for path in self.paths if is_below(path, name, recursive=self.recursive))
            of_path.setdefault(path, []).append(name)
        return tuple(Query(path=path, recursive=self.recursive, names=tuple(some)) for path, some in of_path.items())

    def arrange(
        self,
        known: StoreState,
        region: str | None,
        before: Mapping[tuple[str, Format], Expansion] = MappingProxyType({}),
    ) -> Arranged:
        """Return the parameters by key, or raise what is wrong with the set as a whole; *before*: last expansions."""
        parameters: dict[str, Parameter] = {}
        expander = Expander(self.expand, self.to_key, region, before) if self.expand else None
        for query in self.queries or (Query(path=self.where, names=()),):
            names = known.names_below(query.path, recursive=self.recursive) if query.names is None else query.names
            if not (self.allow_empty or any(name in known.parameters for name in names)):
                self._refuse_empty(query, region)
            if expander:
                parameters |= expander.keyed(query.path, names, known)
            else:
                parameters |= known.keyed(query.path, names, to_key=self.to_key)
        missing = tuple(sorted(self.required - parameters.keys()))
        if missing:
            raise MissingParameters(
                f"required, and not there: {', '.join(missing)}",
                keys=missing,
                path=self.where,
                region=region,
                remedy="Create them, or check the path and the region.",
            )
        if not expander:
            return Arranged(parameters)
        # What keys= names, too, is warned of as one of these.
        not_there = tuple(sorted(expander.unused.difference(self.names or ())))
        return Arranged(parameters, expander.expansions, not_there)

    def _refuse_empty(self, query: Query, region: str | None) -> None:
        if self.names is None:
            text = "there is no parameter under this path"
        else:
            text = f"none of the keys is there: {', '.join(query.names)}" if query.names else "keys= is empty"
        raise EmptyPath(
            text,
            path=query.path,
            region=region,
            remedy="Check its spelling and case and the region; pass allow_empty=True if it may be empty.",
        )
