"""
A client of an HTTP API whose token rotates: no request fails, also where only the newest token is accepted.

`SSM_PATH=/FAKEBOOK/TEST/ python api_client.py` asks once. The keys are API_URL and API_TOKEN.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

from aiohttp import ClientResponseError, ClientSession

from aiossmenv import Env, Rotating, load_env


async def connect(values: Mapping[str, str]) -> ClientSession:
    """Make a session; aiohttp connects when the first request is sent."""
    headers = {"Authorization": f"Bearer {values['API_TOKEN']}"}
    return ClientSession(values["API_URL"], headers=headers, raise_for_status=True)


async def probe(session: ClientSession) -> None:
    """Prove that the token is accepted."""
    async with session.get("/me"):
        pass


def classify(error: Exception) -> Literal["refused"] | None:
    """Say which errors mean that there may be a newer token."""
    return "refused" if isinstance(error, ClientResponseError) and error.status == HTTPStatus.UNAUTHORIZED else None


def client(env: Env) -> Rotating[ClientSession]:
    """Return a session that follows its token."""
    return Rotating(env, ["API_URL", "API_TOKEN"], connect, probe, ClientSession.close, classify=classify)


async def fetch(api: Rotating[ClientSession], path: str) -> object:
    """Send a request, which is what is tried again when the token is refused; reading the answer is not."""
    async with api.use(lambda session: session.get(path)) as response:
        return await response.json()


async def main() -> None:
    """Ask who we are."""
    async with load_env(ttl=60) as env, client(env) as api:
        print(await fetch(api, "/me"))


if __name__ == "__main__":
    asyncio.run(main())
