"""
Loaded values do not redirect the reader: a store keeps the region, identity, endpoint and proxy of its first request.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aioboto3
import aiobotocore.session
import pytest
from aiobotocore.config import AioConfig
from aiohttp import web

from aiossmenv import Env, ParameterStore, load_env
from aiossmenv._ssm.boto_surroundings import Surroundings
from embedded import Store
from faults import FaultProxy

NOWHERE = "http://127.0.0.1:9"

# Names of parameters, each with a value that makes a reader fail or use another place if it honours the variable.
STEERING = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "OTHER",
    "AWS_SECRET_ACCESS_KEY": "other",
    "AWS_SESSION_TOKEN": "other",
    "AWS_PROFILE": "not-there",
    "AWS_CONFIG_FILE": "/dev/null/config",
    "AWS_ENDPOINT_URL": NOWHERE,
    "AWS_ENDPOINT_URL_SSM": NOWHERE,
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_CA_BUNDLE": "/nowhere.pem",
    "REQUESTS_CA_BUNDLE": "/nowhere.pem",
    "HTTP_PROXY": NOWHERE,
    "http_proxy": NOWHERE,
    "ALL_PROXY": NOWHERE,
    "HOME": "/nowhere",
}


def senders(proxy: FaultProxy) -> set[str]:
    """Return the scopes of the requests' signatures as KEY/REGION, and their session tokens."""
    headers = [call.request.headers for call in proxy.calls]
    scopes = [head["Authorization"].partition("Credential=")[2].partition(",")[0].split("/") for head in headers]
    return {"/".join(scope[::2][:2]) for scope in scopes} | {
        head["X-Amz-Security-Token"] for head in headers if "X-Amz-Security-Token" in head
    }


async def read_again(env: Env) -> None:
    """Refresh with each method."""
    await env.refresh()
    await env.ensure_fresh(0)
    await env.refresh("DB_PASSWORD")


def session_of(kind: str) -> Any:
    """Return a session of a user, or `None`."""
    if kind == "none":
        return None
    if kind == "aioboto3":
        return aioboto3.Session()
    session = aiobotocore.session.get_session()
    if "config" in kind:
        session.set_default_client_config(AioConfig(read_timeout=5))
    return session


@pytest.mark.parametrize("name", STEERING)
async def test_loaded_variable_does_not_redirect_refreshes(ssm: Store, proxy: FaultProxy, name: str) -> None:
    """A parameter that becomes an SDK variable changes the environment, but not where the next refresh goes."""
    ssm.put("/app/DB_PASSWORD", "right")
    ssm.put(f"/app/{name}", STEERING[name])
    assert STEERING[name] != os.environ.get(name)

    env = await load_env("/app", to_key=str)
    ssm.put("/app/DB_PASSWORD", "rotated")
    await env.refresh()
    await env.ensure_fresh(0)

    assert {"embedded/eu-central-1"} == senders(proxy)
    assert {"DB_PASSWORD": "rotated", name: STEERING[name]} == dict(env)
    assert ("rotated", STEERING[name]) == (os.environ["DB_PASSWORD"], os.environ[name])


@pytest.mark.parametrize("kind", ["none", "aioboto3", "aiobotocore", "aiobotocore with a default config"])
@pytest.mark.parametrize("life", ["no store", "ttl", "store", "store with ttl", "open store", "single reads"])
async def test_all_variables_with_each_lifetime(ssm: Store, proxy: FaultProxy, life: str, kind: str) -> None:
    """Whatever owns the connection and however often it reconnects, all of these variables together change nothing."""
    for name, value in STEERING.items():
        ssm.put(f"/app/{name}", value)
    ssm.put("/app/DB_PASSWORD", "right")
    store = ParameterStore(ttl=0.001, session=session_of(kind))
    async with contextlib.AsyncExitStack() as stack:
        if life == "open store":
            await stack.enter_async_context(store)
        ttl = 3600 if "ttl" in life else None
        own = life in ("no store", "ttl") and kind == "none"
        env = await load_env("/app", to_key=str, ttl=ttl, store=None if own else store)
        stack.push_async_callback(env.aclose)
        await read_again(env)
        if life == "single reads":
            for _ in range(2):
                assert "right" == (await store.get("/app/DB_PASSWORD")).value
                await store.aclose()

    assert {"embedded/eu-central-1"} == senders(proxy)
    assert len(STEERING) + 1 == len(env)


async def test_removed_variables_keep_working(ssm: Store, proxy: FaultProxy) -> None:
    """If variables that the SDK found are removed later, the store keeps them."""
    ssm.put("/app/DB_PASSWORD", "right")
    env = await load_env("/app")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]

    await read_again(env)

    assert {"embedded/eu-central-1"} == senders(proxy)


async def test_proxy_is_kept(ssm: Store, proxy: FaultProxy) -> None:
    """
    The proxy of the first request stays, whatever NO_PROXY says later; hosts that it did not cover stay without one.
    """
    ssm.put("/app/NO_PROXY", "*")
    ssm.put("/app/HTTP_PROXY", NOWHERE)
    ssm.put("/app/DB_PASSWORD", "right")
    # The proxy gets the whole URL, and forwards its own path.
    os.environ |= {"HTTP_PROXY": proxy.url, "AWS_ENDPOINT_URL_SSM": "http://ssm.test"}

    env = await load_env("/app")
    await read_again(env)

    assert {"ssm.test"} == {call.request.headers["Host"] for call in proxy.calls}

    os.environ |= {"HTTP_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1", "AWS_ENDPOINT_URL_SSM": proxy.url}
    ssm.delete("/app/HTTP_PROXY")
    ssm.put("/app/NO_PROXY", "nothing.test")
    await read_again(await load_env("/app"))


async def test_second_store_uses_the_current_environment(ssm: Store, proxy: FaultProxy) -> None:
    """The first request of another store reads the environment of that moment, which holds for the store's lifetime."""
    ssm.put("/app/AWS_REGION", "us-east-1")
    first = await load_env("/app")

    second = await load_env("/other", allow_empty=True)
    assert {"embedded/eu-central-1", "embedded/us-east-1"} == senders(proxy)
    proxy.calls.clear()
    os.environ["AWS_REGION"] = "eu-west-1"
    await first.refresh()
    assert {"embedded/eu-central-1"} == senders(proxy)
    proxy.calls.clear()
    await second.refresh()
    assert {"embedded/us-east-1"} == senders(proxy)


def test_surroundings_show_no_variable() -> None:
    """The copy of the environment is a mapping of its variables whose repr shows none of them."""
    os.environ |= {"AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_REGION": "eu-west-3", "AWS_CONFIG_FILE": "~/config"}
    os.environ["HOME"] = "/home/me"
    surroundings = Surroundings()
    os.environ["AWS_SECRET_ACCESS_KEY"] = "other"

    assert "hunter2" == surroundings["AWS_SECRET_ACCESS_KEY"]
    assert ("eu-west-3", "/home/me/config") == (surroundings["AWS_DEFAULT_REGION"], surroundings["AWS_CONFIG_FILE"])
    assert len(surroundings) == len(list(surroundings)) >= len(os.environ)
    assert "<Surroundings>" == repr(surroundings)


async def test_store_that_never_connected_reads_again(ssm: Store) -> None:
    """If no client could be created, nothing is kept: once the environment is right, the same store works."""
    ssm.put("/app/A", "1")
    os.environ["AWS_PROFILE"] = "not-there"
    store = ParameterStore()
    with pytest.raises(Exception, match="not-there"):
        await load_env("/app", store=store)
    del os.environ["AWS_PROFILE"]

    assert {"A": "1"} == dict(await load_env("/app", store=store))


@dataclass
class Issuer:
    """A server whose credentials must be renewed at each use; *requests* lists its requests."""

    key: str
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Issuer"]:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        self.requests.append({**form, "path": request.path, "authorization": request.headers.get("Authorization")})
        # The expiry is so near that the SDK renews them before each signature.
        expiration = f"{datetime.now(UTC) + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
        if request.method == "GET":
            given = {"AccessKeyId": self.key, "SecretAccessKey": "s", "Token": "t", "Expiration": expiration}
            return web.json_response(given)
        action = str(form["Action"])
        return web.Response(
            text=f"<{action}Response><{action}Result><Credentials><AccessKeyId>{self.key}</AccessKeyId>"
            f"<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>{expiration}</Expiration>"
            f"</Credentials></{action}Result></{action}Response>",
            content_type="text/xml",
        )


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run the issuer that the environment names at first."""
    async with Issuer("RIGHT").running() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[Issuer]:
    """Run an issuer that a parameter names."""
    async with Issuer("WRONG").running() as running:
        yield running


async def renew(ssm: Store, proxy: FaultProxy, first: Mapping[str, str], read: Mapping[str, str]) -> None:
    """Load the variables of *read* with credentials from *first*, and have these renewed several times."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del os.environ[name]
    os.environ |= first
    for name, value in read.items():
        ssm.put(f"/app/{name}", value)
    ssm.put("/app/DB_PASSWORD", "right")

    before = dict(os.environ)
    for ttl in (3600, None):
        async with load_env("/app", ttl=ttl, to_key=str) as env:
            assert read.items() <= os.environ.items()
            await read_again(env)
        os.environ.clear()
        os.environ |= before

    assert {"RIGHT/eu-central-1", "t"} == senders(proxy)


@pytest.mark.parametrize("where", ["variable", "file"])
async def test_credentials_of_a_container(  # noqa: PLR0917 - fixtures
    ssm: Store, proxy: FaultProxy, issuer: Issuer, other: Issuer, tmp_path: Path, where: str
) -> None:
    """A container's credentials are renewed from their first source, with the token of the first request."""
    (tmp_path / "token").write_text("mine")
    (tmp_path / "other").write_text("yours")
    name, mine, yours = {
        "variable": ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "mine", "yours"),
        "file": ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"), str(tmp_path / "other")),
    }[where]
    first = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{issuer.url}/creds", name: mine}
    read = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{other.url}/creds",
        name: yours,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "yours",
        "AWS_ACCESS_KEY_ID": "WRONG",
        "AWS_SECRET_ACCESS_KEY": "s",
        "HTTP_PROXY": other.url,
    }

    await renew(ssm, proxy, first, read)

    assert [] == other.requests
    assert {"mine"} == {requests["authorization"] for requests in issuer.requests}
    assert len(issuer.requests) > 6


async def test_credentials_of_a_web_identity(
    ssm: Store, proxy: FaultProxy, issuer: Issuer, other: Issuer, tmp_path: Path
) -> None:
    """A web identity keeps its role, token file, session name and STS; the token file is read again each time."""
    (tmp_path / "token").write_text("mine")
    (tmp_path / "other").write_text("yours")
    first = {
        "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/mine",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ROLE_SESSION_NAME": "mine",
        "AWS_ENDPOINT_URL_STS": issuer.url,
    }
    read = {
        "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/yours",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "other"),
        "AWS_ROLE_SESSION_NAME": "yours",
        "AWS_ENDPOINT_URL_STS": other.url,
        "AWS_CA_BUNDLE": "/nowhere.pem",
        "HTTP_PROXY": other.url,
        "HTTPS_PROXY": other.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_STS_REGIONAL_ENDPOINTS": "legacy",
    }

    del os.environ["AWS_DEFAULT_REGION"]  # AWS_REGION is enough

    await renew(ssm, proxy, first, read)

    assert [] == other.requests
    sent = {
        (requests["RoleArn"], requests["WebIdentityToken"], requests["RoleSessionName"]) for requests in issuer.requests
    }
    assert {("arn:aws:iam::111122223333:role/mine", "mine", "mine")} == sent
    (tmp_path / "token").write_text("renewed")
    await load_env("/app", environ=None)
    assert "renewed" == issuer.requests[-1]["WebIdentityToken"]


async def test_credentials_of_a_role_in_a_profile(  # noqa: PLR0917 - fixtures
    ssm: Store, proxy: FaultProxy, issuer: Issuer, other: Issuer, config_file: Path, tmp_path: Path
) -> None:
    """A profile that assumes a role keeps the profile, its source of credentials, the STS and its region."""
    config_file.write_text(
        "[profile night]\nregion = eu-central-1\nrole_arn = arn:aws:iam::111122223333:role/mine\nsource_profile = owl\n"
        "[profile owl]\naws_access_key_id = OWL\naws_secret_access_key = s\n"
        "[profile day]\nrole_arn = arn:aws:iam::111122223333:role/yours\nsource_profile = owl\n"
    )
    first = {"AWS_PROFILE": "night", "AWS_ENDPOINT_URL_STS": issuer.url}
    read = {
        "AWS_PROFILE": "day",
        "AWS_ENDPOINT_URL_STS": other.url,
        "AWS_ENDPOINT_URL": other.url,
        "AWS_CONFIG_FILE": str(tmp_path / "nothing"),
        "AWS_USE_FIPS_ENDPOINT": "true",
        "HTTP_PROXY": other.url,
    }
    kept = {"AWS_CONFIG_FILE": str(config_file)}

    await renew(ssm, proxy, first | kept, read)

    assert [] == other.requests
    assert {"arn:aws:iam::111122223333:role/mine"} == {requests["RoleArn"] for requests in issuer.requests}
    assert all("OWL/" in requests["authorization"] for requests in issuer.requests)
    assert all("/eu-central-1/sts/" in requests["authorization"] for requests in issuer.requests)


@pytest.mark.parametrize("nested", [False, True])
async def test_credentials_of_a_process(  # noqa: PLR0917 - fixtures
    ssm: Store, proxy: FaultProxy, issuer: Issuer, other: Issuer, config_file: Path, tmp_path: Path, nested: bool
) -> None:
    """A credential process runs again to renew its credentials, in the environment of the first request."""
    expiration = f"{datetime.now(UTC) + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
    script = tmp_path / "credentials.py"
    script.write_text(
        "import json, os\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': os.environ['WHOSE'], 'SecretAccessKey': 's',"
        f" 'SessionToken': 't', 'Expiration': '{expiration}'}}))\n"
    )
    process = f"credential_process = {sys.executable} {script}\n"
    role = "role_arn = arn:aws:iam::111122223333:role/mine\nsource_profile = outer\n"
    config_file.write_text(f"[default]\n{role}[profile outer]\n{process}" if nested else f"[default]\n{process}")

    first = {"WHOSE": "RIGHT", "AWS_ENDPOINT_URL_STS": issuer.url}
    await renew(ssm, proxy, first, {"WHOSE": "WRONG", "AWS_ENDPOINT_URL_STS": other.url})

    assert [] == other.requests
    assert nested == bool(issuer.requests)
    assert all("RIGHT/" in requests["authorization"] for requests in issuer.requests)


async def test_credentials_in_variables_that_expire(ssm: Store, proxy: FaultProxy) -> None:
    """Expiring credentials in variables are renewed from the first request's environment, not from loaded variables."""
    expiration = f"{datetime.now(UTC) + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
    first = {
        "AWS_ACCESS_KEY_ID": "RIGHT",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "t",
        "AWS_CREDENTIAL_EXPIRATION": expiration,
    }
    read = {"AWS_ACCESS_KEY_ID": "WRONG", "AWS_SECRET_ACCESS_KEY": "w", "AWS_SESSION_TOKEN": "w"}

    await renew(ssm, proxy, first, read)


async def test_credentials_of_an_instance_role(ssm: Store, proxy: FaultProxy, other: Issuer) -> None:
    """
    Credentials of the instance's role come from the metadata service of the first request, through no loaded proxy.
    """
    expiration = f"{datetime.now(UTC) + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
    role = {"Code": "Success", "AccessKeyId": "RIGHT", "SecretAccessKey": "s", "Token": "t", "Expiration": expiration}

    async def handle(request: web.Request) -> web.Response:
        name = request.path.partition("/security-credentials/")[2]
        return web.Response(text=json.dumps(role) if name else "token" if "token" in request.path else "role")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    first = {
        "AWS_EC2_METADATA_DISABLED": "false",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{runner.addresses[0][1]}/",
    }
    read = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": other.url,
        "HTTP_PROXY": other.url,
    }
    try:
        await renew(ssm, proxy, first, read)
    finally:
        await runner.cleanup()

    assert [] == other.requests


ANOTHER_LOOP_AND_A_CHILD = """
import asyncio, os, sys
from aiossmenv import ParameterStore, load_env

session = None
if sys.argv[1:] == ["session"]:
    import aioboto3
    session = aioboto3.Session()
store = ParameterStore(session=session)
env = asyncio.run(load_env("/app", to_key=str, store=store))
asyncio.run(env.refresh())
child = os.fork()
if not child:
    asyncio.run(env.refresh())
    print(sorted(env), flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("session", [[], ["session"]])
async def test_new_loop_and_forked_child(ssm: Store, proxy: FaultProxy, session: list[str]) -> None:
    """A refresh on a new event loop or in a forked process goes where the first request went."""
    for name, value in STEERING.items():
        ssm.put(f"/app/{name}", value)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ANOTHER_LOOP_AND_A_CHILD, *session),
        env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()

    assert [str(sorted(STEERING)), "0"] == out.decode().splitlines()
    assert {"embedded/eu-central-1"} == senders(proxy)
    assert proxy.count("GetParametersByPath") >= 6
