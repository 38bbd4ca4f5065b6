"""
What one read has fetched, which of two values of one parameter wins, and what is known after the read.

Parameter Store is eventually consistent: an answer may be older than the one before it, and a listing may repeat a
parameter.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from aiossmenv._models import Parameter
from aiossmenv._naming import is_below, name_keys
from aiossmenv._ssm.transport import BATCH, EncryptedParameter, FetchedParameter


def is_older(fetched: FetchedParameter, than: FetchedParameter) -> bool:
    """
    Return whether *fetched* comes from a replica that lags behind: its version is lower *and* its date earlier.

    A lower version with a later date is a parameter that was deleted and made anew. A label moves back to an older
    version by intent, so what was read by a selector never lags.
    """
    if fetched.selector or fetched.last_modified is None or than.last_modified is None:
        return False
    return fetched.version < than.version and fetched.last_modified < than.last_modified


@dataclass(slots=True)
class Results:
    """
    What was fetched, by the names that were asked for.

    *parameters*: in plaintext. *digests*: of their ciphertexts, where they are known. *encrypted*: still to be
    decrypted.
    """

    parameters: dict[str, Parameter] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    encrypted: dict[str, EncryptedParameter] = field(default_factory=dict)

    def get(self, name: str) -> FetchedParameter | None:
        """Return what was fetched last by *name*."""
        return self.encrypted.get(name) or self.parameters.get(name)

    def names(self) -> set[str]:
        """Return all names by which something was fetched."""
        return self.parameters.keys() | self.encrypted.keys()

    def only(self, names: AbstractSet[str]) -> "Results":
        """Return what was fetched by these *names*."""
        return Results(
            {name: self.parameters[name] for name in names & self.parameters.keys()},
            {name: self.digests[name] for name in names & self.digests.keys()},
            {name: self.encrypted[name] for name in names & self.encrypted.keys()},
        )

    def update(self, newer: "Results") -> None:
        """Take over what was fetched later."""
        for name in (self.digests.keys() & newer.parameters.keys()) - newer.digests.keys():
            del self.digests[name]  # that of the older ciphertext
        self.parameters |= newer.parameters
        self.digests |= newer.digests
        self.encrypted |= newer.encrypted


class ResultMerger:
    """
    Decides which of several answers on one parameter wins.

    *known*: what was known before the read. *decrypt_all*: whether everything is decrypted, known or not. *results*:
    what the read has fetched so far; *decrypted*: how many values were decrypted for it.
    """

    def __init__(self, known: "StoreState", *, decrypt_all: bool) -> None:
        self._known = known
        self._decrypt_all = decrypt_all
        self.results = Results()
        self.decrypted = 0

    def accept(self, name: str, fetched: FetchedParameter, results: Results | None = None) -> bool:
        """
        Put *fetched* into *results*, by default its own; `False` if it is older than what this read fetched before.

        What is older than what was known before the read is replaced by that: the answer came from a replica that lags.
        """
        into = self.results if results is None else results
        known = self._known.parameters.get(name)
        if isinstance(fetched, EncryptedParameter):
            self._accept_encrypted(name, fetched, known, into)
            return True
        return self._accept_decrypted(name, fetched, known, into)

    def _accept_encrypted(self, name: str, fetched: EncryptedParameter, known: Parameter | None, into: Results) -> None:
        before, digest = into.get(name), self._known.digests.get(name)
        if before and is_older(fetched, before):
            return  # a listing repeats a parameter, from a replica that lags
        into.encrypted.pop(name, None)
        if self._decrypt_all or not known:
            into.encrypted[name] = fetched
        elif fetched.matches(known, digest):
            into.parameters[name], into.digests[name] = known, fetched.digest
        elif is_older(fetched, known):
            _keep(name, known, digest, into)
        else:
            into.encrypted[name] = fetched

    def _accept_decrypted(self, name: str, fetched: Parameter, known: Parameter | None, into: Results) -> bool:
        before, first, digest = into.get(name), self.results.get(name), self._known.digests.get(name)
        if first and is_older(fetched, first):
            return False
        if before and is_older(fetched, before):
            return True
        self.decrypted += fetched.type == "SecureString"
        if known and is_older(fetched, known):
            _keep(name, known, digest, into)
            return True
        into.parameters[name] = fetched
        if isinstance(first, EncryptedParameter) and first.matches(fetched, None):
            into.digests[name] = first.digest
        elif known == fetched and digest:
            into.digests[name] = digest
        elif first != fetched:
            into.digests.pop(name, None)
        return True

    def changed_groups(self, groups: Iterable[frozenset[str]]) -> list[tuple[str, ...]]:
        """Return the groups of which a member changed; groups that overlap as one, as far as one call can hold them."""
        there = self.results.names()
        merged: list[set[str]] = []
        for group in groups:
            members = group & there
            if len(members) < 2 or not any(map(self._is_changed, members)):  # noqa: PLR2004 - one alone is no group
                continue
            for other in tuple(merged):
                if other & members and len(other | members) <= BATCH:
                    merged.remove(other)
                    members |= other
            merged.append(set(members))
        return [tuple(sorted(members)) for members in merged]

    def _is_changed(self, name: str) -> bool:
        return name in self.results.encrypted or self._known.parameters.get(name) not in (
            None,
            self.results.parameters.get(name),
        )


def _keep(name: str, known: Parameter, digest: bytes | None, results: Results) -> None:
    results.parameters[name] = known
    if digest:
        results.digests[name] = digest


@dataclass(frozen=True, slots=True)
class StoreState:
    """
    What is believed to be in the store.

    *parameters*: by name. *digests*: of their ciphertexts, where known. *missing_once*: names that the last complete
    read did not find. What one read of an eventually consistent store misses may be there in the next one.
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    digests: Mapping[str, bytes] = field(default_factory=dict)
    missing_once: frozenset[str] = frozenset()

    def merge(self, results: Results, *, complete: bool = True) -> "StoreState":
        """Return what is known after a read; a parameter is gone when two *complete* reads in a row miss it."""
        found = results.parameters
        gone = self.missing_once - found.keys() if complete else frozenset()
        old = {name: parameter for name, parameter in self.parameters.items() if name not in gone}
        return StoreState(
            parameters={**old, **found},
            digests={
                **{name: digest for name, digest in self.digests.items() if name in old and name not in found},
                **{name: digest for name, digest in results.digests.items() if name in found},
            },
            missing_once=frozenset(old.keys() - found.keys()) if complete else self.missing_once - found.keys(),
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
