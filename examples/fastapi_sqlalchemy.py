"""
A FastAPI service on SQLAlchemy; no request fails when the password changes.

Run `SSM_PATH=/FAKEBOOK/TEST/ uvicorn fastapi_sqlalchemy:app` for port 8000, or `python fastapi_sqlalchemy.py` for
$PORT. $DB_DRIVER is `mysql+aiomysql` unless you say otherwise.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from aiossmenv.fastapi import EnvDep, get_env, health, lifespan
from aiossmenv.sqlalchemy import RotatingEngine

TTL = float(os.environ.get("SSM_TTL", "60"))
DRIVER = os.environ.get("DB_DRIVER", "mysql+aiomysql")


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """Load the environment and log in before the first request."""
    async with lifespan(ttl=TTL)(app), RotatingEngine(get_env(app), f"{DRIVER}:///app", pool_size=5) as engine:
        app.state.engine, app.state.sessions = engine, async_sessionmaker(engine, expire_on_commit=False)
        yield


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a session in a transaction, which is committed when the route returns."""
    sessions: async_sessionmaker[AsyncSession] = request.app.state.sessions
    async with sessions.begin() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]

app = FastAPI(title="Adds numbers in a database", lifespan=opened)
app.get("/health")(health)


@app.get("/sum")
async def add(a: int, b: int, session: Session) -> int:
    """Add two numbers."""
    total = await session.execute(text("SELECT CAST(:a AS DECIMAL) + CAST(:b AS DECIMAL)"), {"a": a, "b": b})
    return int(total.scalar_one())


@app.get("/database")
async def database(env: EnvDep, request: Request) -> dict[str, str | int]:
    """Return the database host, the version of the password, and how many sets of credentials there were."""
    engine: RotatingEngine = request.app.state.engine
    return {
        "host": env["DB_URL"],
        "password_version": env.parameters["DB_PASSWORD"].version,
        "generation": engine.generation,
    }


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
