# One owner: what one read of the store has found so far. No I/O, no clock.
"""
Readings, and which of two on one parameter counts.

Parameter Store is eventually consistent: an answer may be older than the one before it, and a listing may repeat itself.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from aiossmenv._parameter import Parameter, Reading, Sealed, is_older
from aiossmenv._request import BATCH


@dataclass(slots=True)
class Bag:
    """Readings by the names they were asked by: opened ones, ciphertexts' digests, and those still to be opened."""

    opened: dict[str, Parameter] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    sealed: dict[str, Sealed] = field(default_factory=dict)

    def part(self, names: AbstractSet[str]) -> "Bag":
        """Return the readings of these *names*."""
        return Bag(
            {name: self.opened[name] for name in names & self.opened.keys()},
            {name: self.digests[name] for name in names & self.digests.keys()},
            {name: self.sealed[name] for name in names & self.sealed.keys()},
        )

    def add(self, bag: "Bag") -> None:
        """Take over the readings of a newer look."""
        for name in (self.digests.keys() & bag.opened.keys()) - bag.digests.keys():
            del self.digests[name]  # that of the older look
        self.opened |= bag.opened
        self.digests |= bag.digests
        self.sealed |= bag.sealed


class Readings:
    """
    What was read.

    *known*, *digests*: what was read before, by name, and its ciphertexts' digests. *decrypt_all*: open everything, known
    or not. *bag*: the readings that count; *decrypted*: how many values were decrypted.
    """

    def __init__(self, known: Mapping[str, Parameter], digests: Mapping[str, bytes], *, decrypt_all: bool) -> None:
        self._known = known
        self._digests = digests
        self._decrypt_all = decrypt_all
        self.bag = Bag()
        self.decrypted = 0

    def keep(self, name: str, item: Reading, bag: Bag) -> bool:  # noqa: C901 - every case of one decision
        """Put a reading into *bag*; `False` if it is older than the one that counts so far."""
        before = bag.sealed.get(name) or bag.opened.get(name)
        known, digest = self._known.get(name), self._digests.get(name)
        if isinstance(item, Sealed):
            if before and is_older(item, before):
                return True  # a page repeats a parameter, from a replica that lags
            bag.sealed.pop(name, None)
            if self._decrypt_all or not known:
                bag.sealed[name] = item
            elif item.opens_as(known, digest):
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
        if isinstance(looked, Sealed) and looked.opens_as(item, None):
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
