"""
Log in to the database that Parameter Store names: `SSM_PATH=/FAKEBOOK/TEST/ python quickstart.py`.

The path holds DB_URL, DB_USER and DB_PASSWORD. Set another SSM_PATH for another stage.
"""

import asyncio

from aiossmenv import load_env
from aiossmenv.mysql import RotatingPool


async def main() -> None:
    """Load the environment, then log in."""
    env = await load_env()
    async with RotatingPool(env, maxsize=1) as pool, pool.acquire() as connection:
        await connection.ping()
        print(f"Connected to {env['DB_URL']}")


asyncio.run(main())
