"""
Connect to the database that Parameter Store knows: `SSM_PATH=/FAKEBOOK/TEST/ python quickstart.py`.

Under the path there are DB_URL, DB_USER and DB_PASSWORD. For another stage, set another SSM_PATH.
"""

import asyncio

from aiossmenv import load_env
from aiossmenv.mysql import RotatingPool


async def main() -> None:
    """Load the environment and log in."""
    env = await load_env()
    async with RotatingPool(env, maxsize=1) as pool, pool.acquire() as connection:
        await connection.ping()
        print(f"Connected to {env['DB_URL']}")


asyncio.run(main())
