"""What the role of a store may not do. Pure: the time is passed in."""

import math
from collections.abc import Iterable

from aiossmenv._errors import AccessDenied, AiossmenvError
from aiossmenv._ssm.transport import ReadRequest

# Seconds for which a denial holds where no listing is planned; five times the default `ttl` of a store.
DENIED_FOR = 300.0


def is_denial(error: AiossmenvError) -> bool:
    """Return whether *error* denies an action of Parameter Store, which another action may replace."""
    return isinstance(error, AccessDenied) and (error.action or "").startswith("ssm:")


class PermissionCache:
    """
    Operations that the role was denied, each with the error that said so; shared by all reads of a store.

    A denial is forgotten when its time is over, because a new policy takes minutes to take effect. The operation is
    *doubted* then: one request tries it again, and only its success makes it an ordinary operation.
    """

    def __init__(self) -> None:
        self.doubted: set[type[ReadRequest]] = set()
        self._denied: dict[type[ReadRequest], tuple[AiossmenvError, float]] = {}
        # The last denial of each operation, and the operations whose denial was logged.
        self._last: dict[type[ReadRequest], AiossmenvError] = {}
        self._logged: set[type[ReadRequest]] = set()
        self._unreported: list[tuple[bool, AiossmenvError]] = []

    def denial(self, operation: type[ReadRequest]) -> AiossmenvError | None:
        """Return the error that denied *operation*, `None` if it is not denied."""
        return self._denied.get(operation, (None, 0.0))[0]

    def deny(self, operation: type[ReadRequest], error: AiossmenvError, until: float = math.inf) -> None:
        """Remember a denial, at the longest *until* that time."""
        if operation not in self._denied:
            self._denied[operation] = error, until
            self.doubted.discard(operation)

    def confirm(self, operation: type[ReadRequest]) -> None:
        """Report a denial that another operation made up for; only once while it lasts."""
        if operation in self._denied and operation not in self._logged:
            self._logged.add(operation)
            self._unreported.append((False, self._denied[operation][0]))

    def granted(self, operation: type[ReadRequest]) -> None:
        """Note that a request went well; report it if its operation was reported as denied."""
        if operation in self.doubted:
            self.doubted.discard(operation)
            if operation in self._logged:
                self._logged.discard(operation)
                self._unreported.append((True, self._last[operation]))

    def forget(self, operation: type[ReadRequest]) -> None:
        """Let *operation* be tried again."""
        self._last[operation], _ = self._denied.pop(operation)

    def doubt(self, operations: Iterable[type[ReadRequest]]) -> None:
        """Let each of *operations* that is denied be tried again by one request."""
        for operation in self._denied.keys() & set(operations):
            self.forget(operation)
            self.doubted.add(operation)

    def account_for_suspend(self, seconds: float) -> None:
        """Note that the process was suspended, and the clock of *until* with it."""
        self._denied = {operation: (error, until - seconds) for operation, (error, until) in self._denied.items()}

    def expire(self, now: float) -> None:
        """Doubt the denials whose time is over."""
        self.doubt([operation for operation, (_, until) in self._denied.items() if now >= until])

    def report(self) -> list[tuple[bool, AiossmenvError]]:
        """Return what is to be logged since the last call: whether the right is back, and the error that denied it."""
        unreported, self._unreported = self._unreported, []
        return unreported
