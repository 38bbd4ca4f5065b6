"""
Rotate the database password of a service under load, and count failed queries: `examples/run`.

`examples/run --mimic` uses the server in Python also where MariaDB is. `examples/run python FILE`, or any other
command, runs that against the embedded Parameter Store and database.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import signal
import sys

from embedded import Database, Store, embedded_database, embedded_store
from service import Tally, serve

PATH = "/FAKEBOOK/TEST/"
ROTATIONS = 8
PAUSE = 1.3


async def main(arguments: list[str]) -> int:
    """Start both servers, run the demo or a command, and return its exit status."""
    command = [argument for argument in arguments[:1] if argument != "--mimic"] + arguments[1:]
    with embedded_store() as store:
        async with embedded_database(real=arguments[:1] != ["--mimic"]) as database:
            for variable in [name for name in os.environ if name.startswith("AWS_")]:
                del os.environ[variable]
            os.environ.update(store.environment, SSM_PATH=PATH)
            rotator = Rotator(store, database)
            await rotator.begin()
            print(
                f"Parameter Store: embedded, {store.endpoint_url}; database: {database.name}, {database.address}",
                flush=True,
            )
            return await (run(command) if command else demo(rotator))


async def run(command: list[str]) -> int:
    """Run *command*, which finds the Parameter Store through its environment."""
    process = await asyncio.create_subprocess_exec(*command)
    with contextlib.suppress(NotImplementedError):
        # The command gets the interrupt too, from the same terminal; wait until it has ended.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    return await process.wait()


async def demo(rotator: "Rotator") -> int:
    """Rotate the credentials of a service under load, and print what it measured."""
    logging.basicConfig(format="%(asctime)s.%(msecs)03d  %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    for name in ("aiossmenv", "service", "demo"):
        logging.getLogger(name).setLevel(logging.INFO)
    tally = Tally()
    service = asyncio.create_task(serve(tally, ttl=1.0))
    try:
        while not tally.queries and not service.done():  # noqa: ASYNC110 - until the first query was answered
            await asyncio.sleep(0.01)
        await asyncio.sleep(PAUSE)
        for number in range(ROTATIONS):
            if service.done():
                break
            await (rotator.single_user() if number % 2 == 0 else rotator.two_user())
            await asyncio.sleep(PAUSE)
    finally:
        service.cancel()
        await asyncio.wait({service})
    if not service.cancelled() and service.exception():
        await service
    print(f"""
rotations          {rotator.rotations} ({rotator.rotations - rotator.switches} single-user, {rotator.switches} two-user)
pool generations   {tally.generations}
queries            {tally.queries:,}
failed queries     {tally.failed}
longest pause      {tally.longest * 1000:.0f} ms
""")
    await in_another_language()
    return 1 if tally.failed or not tally.queries or tally.generations <= rotator.rotations else 0


async def in_another_language() -> None:
    """Let a shell have the same variables, as any program can."""
    command = ["aiossmenv", "exec", PATH, "--", "sh", "-c", 'echo "a shell script would log in as $DB_USER"']
    print(f"$ {shlex.join(command)}", flush=True)
    await run([sys.executable, "-m", *command])


class Rotator:
    """Rotates credentials in the database, then in Parameter Store, in the order of AWS's own rotation functions."""

    def __init__(self, store: Store, database: Database) -> None:
        self._store = store
        self._database = database
        self._user = "service_a"
        self.rotations = 0
        self.switches = 0

    async def begin(self) -> None:
        """Create the user and its parameters."""
        password = secrets.token_urlsafe(12)
        await self._database.set_user(self._user, password)
        await self._put(DB_URL=self._database.address, DB_USER=self._user, DB_PASSWORD=password)

    async def single_user(self) -> None:
        """Change the password of the user: for 0.1 s only the database has the new one."""
        password = secrets.token_urlsafe(12)
        logging.getLogger("demo").info("rotating: %s gets a new password", self._user)
        await self._database.set_user(self._user, password)
        await asyncio.sleep(0.1)
        await self._put(DB_PASSWORD=password)
        self.rotations += 1

    async def two_user(self) -> None:
        """Switch to the other user, and drop the old one after a pause."""
        old, self._user = self._user, "service_b" if self._user == "service_a" else "service_a"
        password = secrets.token_urlsafe(12)
        logging.getLogger("demo").info("rotating: from %s to %s", old, self._user)
        await self._database.set_user(self._user, password)
        await self._put(DB_USER=self._user, DB_PASSWORD=password)
        await asyncio.sleep(PAUSE)
        await self._database.drop_user(old)
        self.rotations += 1
        self.switches += 1

    async def _put(self, **values: str) -> None:
        for key, value in values.items():
            await asyncio.to_thread(self._store.put, PATH + key, value)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
