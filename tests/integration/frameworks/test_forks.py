"""Processes that fork: a copy that nothing refreshes says so, and no child touches its parent's connections."""

import asyncio
import os
import sys
from pathlib import Path

from embedded import Store
from faults import Call, FaultProxy, hang, passed_on

FORKING = str(Path(__file__).with_name("forking.py"))


def peers(proxy: FaultProxy) -> list[int]:
    """Note at the proxy the client's port of each request from now on: a connection, and whose it is."""
    ports: list[int] = []

    def note(call: Call) -> bool:
        assert call.request.transport is not None
        ports.append(call.request.transport.get_extra_info("peername")[1])
        return False

    proxy.add(passed_on, when=note)
    return ports


async def run(which: str) -> list[str]:
    """Run such a process; it has complained of nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "always::ResourceWarning", FORKING, which),
        env=dict(os.environ),  # uvloop takes nothing else
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert "" == errors.decode()
    assert 0 == process.returncode
    return out.decode().splitlines()


async def test_env_that_follows_is_refused(ssm: Store, proxy: FaultProxy) -> None:
    """In a child an `Env` with a TTL is refused with an error that says what to do; the parent's follows on."""
    ssm.put("/R/A", "1")
    ports = peers(proxy)
    proxy.add(hang(0.3), operation="GetParameters", times=1)

    said = await run("following")

    refused = (
        "StaleEnv this Env was made before a fork, and nothing refreshes it in this process"
        " (path /R, region eu-central-1)."
        " Load in each worker: in the app's lifespan, gunicorn's post_fork, or the process's own function."
    )
    assert [
        *(f"{name} StaleEnv" for name in ("env[]", "get", "in", "values", "parameters", "snapshot")),
        *("changes StaleEnv", "on_change StaleEnv", "keys ['A']", "next_refresh None"),
        *(f"refresh {refused}", f"ensure_fresh {refused}"),
        *("get 1", "closed", "child ended 0", "parent 1 0"),
    ] == said
    assert 2 <= len(set(ports))


WORKS = [
    *("env[] 1", "get 1", "in True", "values ['1']", "parameters 1", "snapshot 1"),
    *("changes ChangeQueue", "on_change function", "keys ['A']", "next_refresh None"),
    *("refresh []", "ensure_fresh []", "get 1", "closed", "child ended 0", "parent 1 0"),
]


async def test_env_without_a_ttl_works(ssm: Store, proxy: FaultProxy) -> None:
    """In a child an `Env` without a TTL works, refreshes and all, on connections of the child's own."""
    ssm.put("/R/A", "1")
    ports = peers(proxy)

    said = await run("preloaded")

    assert WORKS == said
    # The parent's first load, its connection that is open when it forks, the child's, and the parent's again.
    load, before, *childs, after = ports
    assert before == after
    assert before not in childs
    assert load not in childs


async def test_refresh_under_way(ssm: Store, proxy: FaultProxy) -> None:
    """A refresh that the parent has under way when it forks is none of the child's, which makes its own."""
    ssm.put("/R/A", "1")
    proxy.add(hang(0.3), operation="GetParametersByPath", when=lambda call: call.number == 1)

    assert WORKS == await run("busy")
