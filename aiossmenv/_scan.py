# One owner: one read of the store, from the first request to the last answer. No I/O, no clock.
"""
Which request next.

A `Scan` is asked for requests with `next()` and told what became of each with `answered()` or `failed()`. Whoever
drives it sends the requests; in which order the answers come back does not matter to the result.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiossmenv._backoff import Backoff
from aiossmenv._errors import AiossmenvError, StoreUnavailable
from aiossmenv._parameter import Parameter

# What GetParameters takes in one call, and GetParametersByPath gives in one page, at most.
BATCH = 10


@dataclass(frozen=True, slots=True)
class ByPath:
    """One page of a path: `GetParametersByPath`."""

    path: str
    recursive: bool
    token: str | None = None


@dataclass(frozen=True, slots=True)
class ByName:
    """Up to ten parameters by name: `GetParameters`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class One:
    """One parameter by name, selector or ARN: `GetParameter`."""

    name: str


Request = ByPath | ByName | One


@dataclass(frozen=True, slots=True)
class Page:
    """What one request gave. *token*: there is more. *unknown*: names that do not exist."""

    parameters: tuple[Parameter, ...]
    token: str | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The listing cannot be continued from this token."""


Answer = Page | TokenRefused


def in_tens(names: Iterable[str]) -> tuple[ByName, ...]:
    """Return the requests that read *names*, each once."""
    unique = tuple(dict.fromkeys(names))
    return tuple(ByName(unique[at : at + BATCH]) for at in range(0, len(unique), BATCH))


class Scan:
    """
    One complete read, or one error.

    *requests*: what to begin with; pages that follow are asked for by the scan itself. *width*: requests under way at
    once, at most. *deadline*: when to give up, on the clock of the *now* that every method takes. *random* gives
    numbers from 0 to 1.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        *,
        width: int,
        deadline: float,
        random: Callable[[], float],
        backoff: Backoff | None = None,
    ) -> None:
        self._ready: deque[Request] = deque(requests)
        self._later: list[tuple[float, int, Request]] = []
        self._turn = itertools.count()
        self._sent: set[Request] = set()
        self._failures: dict[Request, int] = {}
        self._found: dict[Request, dict[str, Parameter]] = {self._root(request): {} for request in self._ready}
        self._tokens: dict[Request, set[str]] = {}
        self._restarts: dict[Request, int] = {}
        self._last_error: AiossmenvError | None = None
        self._width = width
        self._deadline = deadline
        self._random = random
        self._backoff = backoff or Backoff()
        self.unknown: set[str] = set()
        self.error: AiossmenvError | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing left to ask for: `found` is complete, or `error` says why not."""
        return self.error is not None or not (self._ready or self._later or self._sent)

    @property
    def found(self) -> dict[str, Parameter]:
        """All parameters by name; complete when `done` and without `error`."""
        return {name: parameter for found in self._found.values() for name, parameter in found.items()}

    def next(self, now: float) -> Request | None:
        """Return a request to send now, or `None`: then wait for an answer, or `wait()` seconds."""
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        if self.error or not self._ready or len(self._sent) >= self._width:
            return None
        request = self._ready.popleft()
        self._sent.add(request)
        return request

    def wait(self, now: float) -> float:
        """Return how many seconds may pass without an answer before `next()` or `expire()` wants to be called."""
        until = self._deadline
        if self._later and len(self._sent) < self._width:
            until = min(until, self._later[0][0])
        return max(0.0, until - now)

    def expire(self, now: float) -> None:
        """Give up if the deadline is over."""
        if now >= self._deadline and not self.done:
            self.error = self._last_error or StoreUnavailable(
                "Parameter Store did not answer before the deadline",
                path=next((request.path for request in self._sent if isinstance(request, ByPath)), None),
                remedy="Check the network and the endpoint, or pass a longer deadline.",
            )

    def answered(self, request: Request, answer: Answer, now: float) -> None:
        """Take in what a request gave."""
        self._sent.discard(request)
        root = self._root(request)
        if isinstance(answer, TokenRefused):
            self._restart(root, now)
            return
        if answer.token is not None:
            tokens = self._tokens.setdefault(root, set())
            if answer.token in tokens:
                # A listing that goes in circles would never end, and one cut short here would be a smaller set.
                self._restart(root, now)
                return
            tokens.add(answer.token)
            assert isinstance(request, ByPath)
            self._ready.append(ByPath(request.path, request.recursive, answer.token))
        self._failures.pop(request, None)
        self._found[root].update((parameter.name, parameter) for parameter in answer.parameters)
        self.unknown.update(answer.unknown)

    def failed(self, request: Request, error: AiossmenvError, now: float) -> None:
        """Take in a failure: once more later if that may help, else the scan is over."""
        self._sent.discard(request)
        self._again(request, error, now)

    def _again(self, request: Request, error: AiossmenvError, now: float) -> None:
        self._last_error = error
        failures = self._failures[request] = self._failures.get(request, 0) + 1
        delay = self._backoff.delay_within(failures, self._random(), self._deadline - now)
        if not error.transient or delay is None:
            self.error = self.error or error
        else:
            heapq.heappush(self._later, (now + delay, next(self._turn), request))

    def _restart(self, root: Request, now: float) -> None:
        """Begin a listing anew: what it gave so far may be of another state of the store."""
        self._found[root].clear()
        self._tokens.pop(root, None)
        assert isinstance(root, ByPath)
        # Its own count, which a first page that comes well does not set back: all callers share one quota.
        self._restarts[root] = restarts = self._restarts.get(root, 0) + 1
        error = StoreUnavailable("Parameter Store did not continue a listing that it had begun", path=root.path)
        self._failures[root] = restarts - 1
        self._again(root, error, now)

    @staticmethod
    def _root(request: Request) -> Request:
        return ByPath(request.path, request.recursive) if isinstance(request, ByPath) else request
