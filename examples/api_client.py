"""
A client of an HTTP API whose token rotates: no request fails, even if only the newest token is accepted.

Send one request: `SSM_PATH=/FAKEBOOK/TEST/ python api_client.py`. The path holds API_URL and API_TOKEN.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

from aiohttp import ClientResponseError, ClientSession

from aiossmenv import Env, Rotating, load_env


async def connect(values: Mapping[str, str]) -> ClientSession:
    """Make a session; aiohttp connects with the first request."""
    headers = {"Authorization": f"Bearer {values['API_TOKEN']}"}
    return ClientSession(values["API_URL"], headers=headers, raise_for_status=True)


async def probe(session: ClientSession) -> None:
    """Fail if the API rejects the token."""
    async with session.get("/me"):
        pass


def classify(error: Exception) -> Literal["auth_failed"] | None:
    """Say which errors mean that there may be a newer token."""
    return "auth_failed" if isinstance(error, ClientResponseError) and error.status == HTTPStatus.UNAUTHORIZED else None


def client(env: Env) -> Rotating[ClientSession]:
    """Return a session that follows its URL and token."""
    return Rotating(env, ["API_URL", "API_TOKEN"], connect, probe, ClientSession.close, classify=classify)


async def fetch(api: Rotating[ClientSession], path: str) -> object:
    """Send a request, again if the token is rejected; reading the answer is not retried."""
    async with api.use(lambda session: session.get(path)) as response:
        return await response.json()


async def main() -> None:
    """Send one request."""
    async with load_env(ttl=60) as env, client(env) as api:
        print(await fetch(api, "/me"))


if __name__ == "__main__":
    asyncio.run(main())
