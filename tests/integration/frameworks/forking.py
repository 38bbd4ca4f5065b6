"""
A process that forks, and prints line by line what a child can do with its parent's `Env` and `ParameterStore`.

`test_forks.py` runs it in a new interpreter, because the test's own interpreter has threads.
"""

import asyncio
import multiprocessing
import sys
from typing import TYPE_CHECKING

from aiossmenv import Change, Env, ParameterStore, load_env

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

FORK = multiprocessing.get_context("fork")


async def values(env: Env, store: ParameterStore) -> None:
    """Print the result of each way to read the values, and of a read of the store."""
    uses: dict[str, Callable[[], object]] = {
        "env[]": lambda: env["A"],
        "get": lambda: env.get("A"),
        "in": lambda: "A" in env,
        "values": lambda: list(env.values()),
        "parameters": lambda: env.parameters["A"].version,
        "snapshot": lambda: env.snapshot["A"],
        "changes": lambda: type(env.changes()).__name__,
        "on_change": lambda: type(env.on_change(print)).__name__,
        "keys": lambda: list(env),
        "next_refresh": lambda: env.status.next_refresh,
    }
    for name, use in uses.items():
        try:
            print(name, use())
        except Exception as error:
            print(name, type(error).__name__)
    reads: dict[str, Callable[[], Awaitable[Iterable[Change]]]] = {
        "refresh": env.refresh,
        "ensure_fresh": lambda: env.ensure_fresh(0),
    }
    for name, read in reads.items():
        try:
            print(name, [change.key for change in await read()])
        except Exception as error:
            print(name, type(error).__name__, error)
    print("get", (await store.get("/R/A")).version)
    await store.aclose()
    await env.aclose()
    print("closed")


def child(env: Env, store: ParameterStore) -> None:
    """Use the parent's objects in a child, on the child's own loop."""
    asyncio.run(values(env, store))
    sys.stdout.flush()


def fork(env: Env, store: ParameterStore) -> None:
    """Fork a child, and wait for its end."""
    sys.stdout.flush()
    process = FORK.Process(target=child, args=(env, store))
    process.start()
    process.join()
    print("child ended", process.exitcode, flush=True)


async def with_ttl() -> None:
    """Fork under a running loop, with a TTL and a request in flight."""
    async with ParameterStore() as store, load_env("/R", ttl=3600, store=store) as env:
        under_way = asyncio.create_task(store.get("/R/A"))
        await asyncio.sleep(0)
        fork(env, store)
        await under_way
        await env.refresh()
        print("parent", env["A"], env.status.failures)


async def without_ttl() -> None:
    """Fork during a refresh, without a TTL."""
    async with ParameterStore() as store:
        env = await load_env("/R", store=store)
        under_way = asyncio.create_task(env.refresh())
        await asyncio.sleep(0.05)
        fork(env, store)
        await under_way
        print("parent", env["A"], env.status.failures)


def preloaded() -> None:
    """Fork while no loop runs, like a server that loads its app before it forks workers."""
    with asyncio.Runner() as runner:
        store = ParameterStore()

        async def load() -> Env:
            return await load_env("/R", store=store)

        env = runner.run(load())
        runner.run(store.get("/R/A"))
        fork(env, store)
        runner.run(store.get("/R/A:1"))
        runner.run(store.aclose())
        print("parent", env["A"], env.status.failures)


if __name__ == "__main__":
    match sys.argv[1]:
        case "with_ttl":
            asyncio.run(with_ttl())
        case "without_ttl":
            asyncio.run(without_ttl())
        case "preloaded":
            preloaded()
