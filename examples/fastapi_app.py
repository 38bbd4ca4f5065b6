"""
A FastAPI service that queries MySQL; no request fails when the password changes.

Run `SSM_PATH=/FAKEBOOK/TEST/ uvicorn fastapi_app:app` for port 8000, or `python fastapi_app.py` for $PORT.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from aiossmenv.fastapi import EnvDep, get_env, health, lifespan
from aiossmenv.mysql import RotatingPool

TTL = float(os.environ.get("SSM_TTL", "60"))


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """Load the environment and log in before the first request."""
    async with lifespan(ttl=TTL)(app), RotatingPool(get_env(app), maxsize=5) as pool:
        app.state.pool = pool
        yield


async def get_pool(request: Request) -> RotatingPool:
    """Return the pool of the app."""
    pool: RotatingPool = request.app.state.pool
    return pool


Pool = Annotated[RotatingPool, Depends(get_pool)]

app = FastAPI(title="Adds numbers in a database", lifespan=opened)
app.get("/health")(health)


@app.get("/sum")
async def add(a: int, b: int, pool: Pool) -> int:
    """Add two numbers."""
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute("SELECT %s + %s", (a, b))
        (total,) = await cursor.fetchone()
        return int(total)


@app.get("/database")
async def database(env: EnvDep, pool: Pool) -> dict[str, str | int]:
    """Return the database host, the version of the password, and how many pools were made."""
    return {
        "host": env["DB_URL"],
        "password_version": env.parameters["DB_PASSWORD"].version,
        "generation": pool.generation,
    }


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
