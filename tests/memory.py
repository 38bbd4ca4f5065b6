"""A Parameter Store in memory, for what needs no wire: each call takes one turn of the loop."""

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from aiossmenv import Parameter
from aiossmenv._parameter import Reading, Sealed
from aiossmenv._scan import BATCH, Answer, ByName, ByPath, One, Page, Request


class Memory:
    """A `Caller`; *parameters* is what it holds, *calls* what it was asked."""

    region = "eu-central-1"

    def __init__(self) -> None:
        self.parameters: dict[str, Parameter] = {}
        self.calls: list[Request] = []
        self._writes = 0

    def put(self, name: str, value: str) -> None:
        """Write a secret."""
        self._writes += 1
        before = self.parameters.get(name)
        self.parameters[name] = Parameter(
            name=name,
            value=value,
            type="SecureString",
            version=before.version + 1 if before else 1,
            last_modified=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._writes),
            arn=f"arn:aws:ssm:eu-central-1:111122223333:parameter{name}",
        )

    async def call(self, request: Request) -> Answer:
        """See `Caller`."""
        self.calls.append(request)
        await asyncio.sleep(0)
        match request:
            case ByPath(path, _, decrypt, token):
                names = sorted(name for name in self.parameters if name.startswith(path + "/"))
                start = int(token or 0)
                more = str(start + BATCH) if start + BATCH < len(names) else None
                return Page(tuple(self._read(name, decrypt=decrypt) for name in names[start : start + BATCH]), more)
            case ByName(names, decrypt):
                there = [name for name in names if name in self.parameters]
                return Page(
                    tuple(self._read(name, decrypt=decrypt) for name in there), unknown=tuple(set(names) - set(there))
                )
            case One(name, decrypt):
                return Page((self._read(name, decrypt=decrypt),))

    async def aclose(self) -> None:
        """See `Caller`."""
        await asyncio.sleep(0)

    def _read(self, name: str, *, decrypt: bool) -> Reading:
        parameter = self.parameters[name]
        if decrypt:
            return parameter
        return Sealed(
            name=name,
            type=parameter.type,
            version=parameter.version,
            last_modified=parameter.last_modified,
            arn=parameter.arn,
            digest=sha256(f"{parameter.version} {parameter.value}".encode()).digest(),
        )
