"""Processes that fork: a child's copy that nothing refreshes raises, and no child uses its parent's connections."""

import asyncio
import os
import sys
from pathlib import Path

from embedded import Store
from faults import Call, FaultProxy, hang, passed_on

FORKING = str(Path(__file__).with_name("forking.py"))


def peers(proxy: FaultProxy) -> list[int]:
    """Record the client's port of each request from now on; one port is one connection."""
    ports: list[int] = []

    def note(call: Call) -> bool:
        assert call.request.transport is not None
        ports.append(call.request.transport.get_extra_info("peername")[1])
        return False

    proxy.add(passed_on, when=note)
    return ports


async def run(which: str) -> list[str]:
    """Run forking.py; it must print no error or warning."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "always::ResourceWarning", FORKING, which),
        env=dict(os.environ),  # uvloop needs a dict
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert "" == errors.decode()
    assert 0 == process.returncode
    return out.decode().splitlines()


async def test_env_with_a_ttl_fails_in_a_child(ssm: Store, proxy: FaultProxy) -> None:
    """In a child, an `Env` with a TTL raises an error with the remedy; the parent's own still refreshes."""
    ssm.put("/R/A", "1")
    ports = peers(proxy)
    proxy.add(hang(0.3), operation="GetParameters", times=1)

    lines = await run("with_ttl")

    error = (
        "StaleEnv this Env was made before a fork, and nothing refreshes it in this process"
        " (path /R, region eu-central-1)."
        " Load in each worker: in the app's lifespan, gunicorn's post_fork, or the process's own function."
    )
    assert [
        *(f"{name} StaleEnv" for name in ("env[]", "get", "in", "values", "parameters", "snapshot")),
        *("changes StaleEnv", "on_change StaleEnv", "keys ['A']", "next_refresh None"),
        *(f"refresh {error}", f"ensure_fresh {error}"),
        *("get 1", "closed", "child ended 0", "parent 1 0"),
    ] == lines
    assert 2 <= len(set(ports))


WORKS = [
    *("env[] 1", "get 1", "in True", "values ['1']", "parameters 1", "snapshot 1"),
    *("changes ChangeQueue", "on_change function", "keys ['A']", "next_refresh None"),
    *("refresh []", "ensure_fresh []", "get 1", "closed", "child ended 0", "parent 1 0"),
]


async def test_env_without_a_ttl_works(ssm: Store, proxy: FaultProxy) -> None:
    """In a child, an `Env` without a TTL works, including refreshes, on the child's own connections."""
    ssm.put("/R/A", "1")
    ports = peers(proxy)

    lines = await run("preloaded")

    assert WORKS == lines
    # The parent's first load, its connection that is open at the fork, the child's, and the parent's again.
    load, before, *childs, after = ports
    assert before == after
    assert before not in childs
    assert load not in childs


async def test_refresh_in_flight_at_the_fork(ssm: Store, proxy: FaultProxy) -> None:
    """A child does not wait for a refresh that its parent has in flight, and makes its own."""
    ssm.put("/R/A", "1")
    proxy.add(hang(0.3), operation="GetParametersByPath", when=lambda call: call.number == 1)

    assert WORKS == await run("without_ttl")
