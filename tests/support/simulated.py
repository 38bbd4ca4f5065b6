"""A simulated Parameter Store behind `Transport`, on a manual clock: latencies, faults, denials and replica lag."""

import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from hashlib import sha256

from aiossmenv import (
    EncryptedParameter,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    Parameter,
    ServiceError,
    StoreUnavailable,
)
from aiossmenv._ssm.transport import BATCH, Request
from aiossmenv.testing import ManualClock

ReadRequest = GetParametersByPath | GetParameters | GetParameter

# Faults that pass on their own.
PASSING = ("throttled", "failed", "reset", "left out", "token rejected", "token repeated")


@dataclass(eq=False)
class Simulated:
    """
    What the store holds and how it answers; it implements `Transport`.

    *latency*: the longest time of an answer, in seconds. *lag*: the longest delay of a replica, in seconds. *faults*:
    kinds of `PASSING` that each request draws with probability *fault*, at most *left* times. *denied*: patterns of
    operations, or of operations on names such as `GetParameters /A/X`. *broken*: names that KMS cannot decrypt.
    *empty*: the probability of a page with a token and without parameters.
    """

    clock: ManualClock
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    region: str | None = "eu-central-1"
    latency: float = 0.1
    lag: float = 0.0
    faults: tuple[str, ...] = ()
    fault: float = 0.2
    left: int = 10
    denied: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    empty: float = 0.0
    page: int = 10
    history: dict[str, list[tuple[float, Parameter | None]]] = field(default_factory=dict)
    sent: list[ReadRequest] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def put(self, name: str, value: str, kind: str = "SecureString") -> None:
        """Write a parameter."""
        versions = self.history.setdefault(name, [])
        last = versions[-1][1] if versions else None
        parameter = Parameter(
            name=name,
            value=value,
            type=kind,  # type: ignore[arg-type] # always one of the literals
            version=last.version + 1 if last else 1,
            last_modified=self.clock.wall() + timedelta(microseconds=len(versions)),
            arn=f"arn:aws:ssm:eu-central-1:111122223333:parameter{name}",
        )
        versions.append((self.clock.now(), parameter))

    def delete(self, name: str) -> None:
        """Remove a parameter."""
        self.history[name].append((self.clock.now(), None))

    def held(self, at: float | None = None) -> dict[str, Parameter]:
        """Return the parameters at a moment, by name; by default now."""
        moment = self.clock.now() if at is None else at
        latest = {
            name: next((parameter for when, parameter in reversed(versions) if when <= moment), None)
            for name, versions in self.history.items()
        }
        return {name: parameter for name, parameter in sorted(latest.items()) if parameter}

    def moments(self) -> list[float]:
        """Return the times of all writes."""
        return sorted({when for versions in self.history.values() for when, _ in versions})

    def count(self, operation: type[ReadRequest]) -> int:
        """Return how many requests of this operation were sent."""
        return sum(isinstance(request, operation) for request in self.sent)

    async def send(self, request: Request) -> Page:
        """See `Transport`; writes are not simulated."""
        assert isinstance(request, ReadRequest)
        self.sent.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.clock.sleep(self.rng.uniform(0.001, self.latency))
            return self._answer(request)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    def _answer(self, request: ReadRequest) -> Page:
        kind = ""
        if self.left and self.faults and self.rng.random() < self.fault:
            kind = self.rng.choice(self.faults)
            self.left -= 1
        if kind == "throttled":
            raise ServiceError("ThrottlingException", "Rate exceeded")
        if kind == "failed":
            raise ServiceError("InternalServerError", status=500)
        if kind == "reset":
            raise StoreUnavailable("the connection was reset", remedy="Wait.")
        self._check(request)
        held = self.held(self.clock.now() - self.rng.uniform(0, self.lag))
        if isinstance(request, GetParametersByPath):
            return self._listed(request, held, kind)
        names = (request.name,) if isinstance(request, GetParameter) else request.names
        if len({name.partition(":")[0] for name in names}) < len(names) or len(names) > BATCH:
            raise ServiceError("ValidationException", f"{len(names)} names, or two of one parameter")
        found = {name: self._find(name, held) for name in names}
        unknown = tuple(name for name, parameter in found.items() if parameter is None)
        if unknown and isinstance(request, GetParameter):
            raise ServiceError("ParameterNotFound")
        there = [self._given(parameter, request) for parameter in found.values() if parameter]
        if kind == "left out" and there:
            return Page(tuple(there[1:]), None, ())
        return Page(tuple(there), None, unknown)

    def _listed(self, request: GetParametersByPath, held: dict[str, Parameter], kind: str) -> Page:
        if kind == "token rejected" and request.next_token:
            raise ServiceError("InvalidNextToken")
        if kind == "token repeated" and request.next_token:
            return Page((), request.next_token)
        stem = request.path.rstrip("/") + "/"
        after = request.next_token or ""
        names = [name for name in held if name.startswith(stem) and name > after.partition("#")[0]]
        if names and self.rng.random() < self.empty:
            return Page((), f"{after.partition('#')[0]}#{self.rng.random()}")
        page = names[: self.page]
        items = tuple(self._given(held[name], request) for name in page)
        return Page(items, page[-1] if len(names) > len(page) else None)

    def _find(self, requested: str, held: dict[str, Parameter]) -> Parameter | None:
        name, _, number = requested.partition(":")
        found = held.get(name)
        if not number or not found:
            return found
        versions = [
            parameter for _, parameter in self.history[name] if parameter and parameter.version <= found.version
        ]
        return next((replace(one, selector=f":{number}") for one in versions if str(one.version) == number), None)

    def _given(self, parameter: Parameter, request: ReadRequest) -> Parameter | EncryptedParameter:
        if parameter.type != "SecureString":
            return parameter
        if request.with_decryption:
            if parameter.name in self.broken:
                raise ServiceError("InvalidKeyId", "the key is disabled")
            return parameter
        return EncryptedParameter(
            name=parameter.name,
            type=parameter.type,
            version=parameter.version,
            last_modified=parameter.last_modified,
            arn=parameter.arn,
            digest=sha256(f"{parameter.name} {parameter.version} {parameter.last_modified}".encode()).digest(),
            selector=parameter.selector,
        )

    def _check(self, request: ReadRequest) -> None:
        operation = type(request).__name__
        if isinstance(request, GetParametersByPath):
            resources: tuple[str, ...] = (request.path,)
        else:
            resources = (request.name,) if isinstance(request, GetParameter) else request.names
        for resource in resources:
            requested = f"{operation} {resource.partition(':')[0]}"
            if any(pattern == operation or fnmatchcase(requested, pattern) for pattern in self.denied):
                arn = f"arn:aws:ssm:eu-central-1:111122223333:parameter{resource}"
                text = f"User: r is not authorized to perform: ssm:{operation} on resource: {arn}"
                raise ServiceError("AccessDeniedException", text)
