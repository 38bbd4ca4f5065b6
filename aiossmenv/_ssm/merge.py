# One owner: what one read of the store has found so far. No I/O, no clock.
"""
Readings, and which of two on one parameter counts.

Parameter Store is eventually consistent: an answer may be older than the one before it, and a listing may repeat itself.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from aiossmenv._models import Parameter
from aiossmenv._naming import is_below, name_keys
from aiossmenv._ssm.transport import BATCH, EncryptedParameter, FetchedParameter


def is_older(read: FetchedParameter, than: FetchedParameter) -> bool:
    """
    Whether *read* comes from a replica that lags behind *than*: its version is lower *and* its date earlier.

    A lower version with a later date is a parameter that was deleted and made anew. A label moves back to an older
    version by intent, so what was read by a selector never lags.
    """
    if read.selector or read.last_modified is None or than.last_modified is None:
        return False
    return read.version < than.version and read.last_modified < than.last_modified


@dataclass(slots=True)
class Results:
    """Readings by the names they were asked by: opened ones, ciphertexts' digests, and those still to be opened."""

    opened: dict[str, Parameter] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    sealed: dict[str, EncryptedParameter] = field(default_factory=dict)

    def part(self, names: AbstractSet[str]) -> "Results":
        """Return the readings of these *names*."""
        return Results(
            {name: self.opened[name] for name in names & self.opened.keys()},
            {name: self.digests[name] for name in names & self.digests.keys()},
            {name: self.sealed[name] for name in names & self.sealed.keys()},
        )

    def add(self, bag: "Results") -> None:
        """Take over the readings of a newer look."""
        for name in (self.digests.keys() & bag.opened.keys()) - bag.digests.keys():
            del self.digests[name]  # that of the older look
        self.opened |= bag.opened
        self.digests |= bag.digests
        self.sealed |= bag.sealed


class ResultMerger:
    """
    What was read.

    *known*, *digests*: what was read before, by name, and its ciphertexts' digests. *decrypt_all*: open everything, known
    or not. *bag*: the readings that count; *decrypted*: how many values were decrypted.
    """

    def __init__(self, known: Mapping[str, Parameter], digests: Mapping[str, bytes], *, decrypt_all: bool) -> None:
        self._known = known
        self._digests = digests
        self._decrypt_all = decrypt_all
        self.bag = Results()
        self.decrypted = 0

    def keep(self, name: str, item: FetchedParameter, bag: Results) -> bool:  # noqa: C901 - every case of one decision
        """Put a reading into *bag*; `False` if it is older than the one that counts so far."""
        before = bag.sealed.get(name) or bag.opened.get(name)
        known, digest = self._known.get(name), self._digests.get(name)
        if isinstance(item, EncryptedParameter):
            if before and is_older(item, before):
                return True  # a page repeats a parameter, from a replica that lags
            bag.sealed.pop(name, None)
            if self._decrypt_all or not known:
                bag.sealed[name] = item
            elif item.matches(known, digest):
                bag.opened[name], bag.digests[name] = known, item.digest
            elif is_older(item, known):
                bag.opened[name] = known
                if digest:
                    bag.digests[name] = digest
            else:
                bag.sealed[name] = item
            return True
        looked = self.bag.sealed.get(name) or self.bag.opened.get(name)
        if looked and is_older(item, looked):
            return False
        if before and is_older(item, before):
            return True
        self.decrypted += item.type == "SecureString"
        bag.opened[name] = item
        if isinstance(looked, EncryptedParameter) and looked.matches(item, None):
            bag.digests[name] = looked.digest
        elif known == item and digest:
            bag.digests[name] = digest
        elif looked != item:
            bag.digests.pop(name, None)
        return True

    def changed_groups(self, groups: Iterable[frozenset[str]]) -> list[tuple[str, ...]]:
        """Return the groups of which one changed; those that overlap as one, as far as one call can hold them."""
        clusters: list[set[str]] = []
        for group in groups:
            mates = {name for name in group if name in self.bag.sealed or name in self.bag.opened}
            if len(mates) < 2 or not any(self._is_changed(mate) for mate in mates):  # noqa: PLR2004 - one is no group
                continue
            for other in [other for other in clusters if other & mates and len(other | mates) <= BATCH]:
                clusters.remove(other)
                mates |= other
            clusters.append(mates)
        return [tuple(sorted(cluster)) for cluster in clusters]

    def _is_changed(self, name: str) -> bool:
        return name in self.bag.sealed or self._known.get(name) not in (None, self.bag.opened.get(name))


@dataclass(frozen=True, slots=True)
class StoreState:
    """
    What is believed to be in the store: *parameters* by name, and the *digests* of their ciphertexts, where known.

    *missed*: names that the last complete read did not find. Parameter Store is eventually consistent: what one read
    misses may be there in the next one, and an older answer may follow a newer one.
    """

    parameters: Mapping[str, Parameter]
    digests: Mapping[str, bytes] = field(default_factory=dict)
    missing_once: frozenset[str] = frozenset()

    def merge(
        self, read: Mapping[str, Parameter], digests: Mapping[str, bytes], *, complete: bool = True
    ) -> "StoreState":
        """
        Return what is known after a *read*.

        A parameter is gone when two *complete* reads in a row miss it. An answer from a replica that lags is ignored.
        """
        fresh = {name for name, new in read.items() if not _lags(new, self.parameters.get(name))}
        gone = self.missing_once - read.keys() if complete else frozenset()
        old = {name: parameter for name, parameter in self.parameters.items() if name not in gone}
        return StoreState(
            parameters={**old, **{name: read[name] for name in fresh}},
            digests={
                **{name: digest for name, digest in self.digests.items() if name in old and name not in fresh},
                **{name: digest for name, digest in digests.items() if name in fresh},
            },
            missing_once=frozenset(old.keys() - read.keys()) if complete else self.missing_once - read.keys(),
        )

    def names_below(self, path: str, *, recursive: bool) -> list[str]:
        """Return the names under *path*."""
        return [name for name in self.parameters if is_below(path, name, recursive=recursive)]

    def keyed(self, path: str, names: Iterable[str], *, to_key: Callable[[str], str]) -> dict[str, Parameter]:
        """
        Return the parameters of those *names*, all under *path*, that are known, by their keys.

        Raises `KeyCollision` and `InvalidVariable`. A parameter that the last read missed cannot collide: if its key
        is taken, it was renamed.
        """
        there = [name for name in names if name in self.parameters]
        found = name_keys(path, (name for name in there if name not in self.missing_once), to_key)
        missing_once = name_keys(path, (name for name in there if name in self.missing_once), to_key)
        return {key: self.parameters[name] for key, name in (missing_once | found).items()}


def _lags(read: Parameter, known: Parameter | None) -> bool:
    return known is not None and read is not known and is_older(read, known)
