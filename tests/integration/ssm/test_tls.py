"""TLS: which certificates are trusted, how often they are read, and what happens if a handshake fails."""

import hashlib
import inspect
import os
import shutil
import ssl
import threading
from pathlib import Path
from typing import Any

import aiobotocore.session
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from botocore.config import Config

from aiossmenv import EmptyPath, ParameterStore, StoreUnavailable, load_env
from aiossmenv.testing import ManualClock
from certificates import Authority, contexts_made
from embedded import Store
from faults import FaultProxy, Json, changed
from timing import passing
from tunnel import Tunnel


@pytest.fixture
def scheme() -> str:
    """Use https for `proxy`."""
    return "https"


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Give an authority that only the configuration of one test trusts."""
    return Authority(tmp_path / "stranger")


def any_name(body: Json, _: Json) -> Json:
    """Answer a request for names as if each of them existed."""
    item = {"Value": "1", "Type": "String", "Version": 1, "DataType": "text"}
    return {"Parameters": [item | {"Name": name} for name in body["Names"]]}


async def test_one_context_for_all_connections(ssm: Store, stranger: Authority) -> None:
    """200 names over new connections, and each reconnect, read the certificates once, and not on the loop's thread."""
    names = [f"KEY_{n:03d}" for n in range(200)]
    async with FaultProxy(ssm.endpoint_url).running(stranger.server()) as proxy:
        proxy.add(changed(any_name), operation="GetParameters")
        os.environ |= {"AWS_ENDPOINT_URL_SSM": proxy.url, "AWS_CA_BUNDLE": str(stranger.bundle)}
        store = ParameterStore()
        with contexts_made() as threads:
            for _ in range(3):
                assert dict.fromkeys(names, "1") == dict(await load_env("/R", keys=names, store=store, environ={}))
                await store.aclose()

    assert 1 == len(threads)
    assert threading.main_thread().name not in threads
    assert 60 == proxy.count()


async def test_no_context_without_tls(ssm: Store) -> None:
    """A plain HTTP client reads no certificates."""
    ssm.put("/R/A", "1")
    with contexts_made() as threads:
        assert {"A": "1"} == dict(await load_env("/R"))

    assert [] == threads


async def test_replaced_certificates_are_read_again(ssm: Store, authority: Authority, stranger: Authority) -> None:
    """When the CA bundle is replaced, the next connection trusts the new one."""
    ssm.put("/R/A", "1")
    bundle = stranger.folder / "bundle.pem"
    shutil.copy(authority.bundle, bundle)
    async with FaultProxy(ssm.endpoint_url).running(stranger.server()) as proxy:
        os.environ |= {"AWS_ENDPOINT_URL_SSM": proxy.url, "AWS_CA_BUNDLE": str(bundle)}
        store = ParameterStore(deadline=5)
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await load_env("/R", store=store)
        await store.aclose()
        bundle.unlink()
        shutil.copy(stranger.bundle, bundle)

        assert {"A": "1"} == dict(await load_env("/R", store=store))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another host": ({"names": ["ssm.eu-central-1.amazonaws.com"]}, "IP address mismatch|Hostname mismatch"),
    "expired": ({"expired": True}, "certificate has expired"),
}


@pytest.mark.parametrize("name", BAD)
async def test_invalid_certificates_are_rejected(ssm: Store, authority: Authority, name: str) -> None:
    """A certificate for another host, or an expired one, fails a load at once, and no request is sent."""
    options, text = BAD[name]
    async with FaultProxy(ssm.endpoint_url).running(authority.server(**options)) as proxy:
        os.environ |= {"AWS_ENDPOINT_URL_SSM": proxy.url, "AWS_CA_BUNDLE": str(authority.bundle)}
        with pytest.raises(StoreUnavailable, match=text) as caught:
            await load_env("/R")

    assert not caught.value.transient
    assert 0 == proxy.count()


@pytest.mark.parametrize("trusted", ["another authority", "all that the machine trusts"])
async def test_unknown_authorities_are_rejected(proxy: FaultProxy, stranger: Authority, trusted: str) -> None:
    """A certificate of an untrusted authority fails a load at once, and no request is sent."""
    if trusted == "another authority":
        os.environ["AWS_CA_BUNDLE"] = str(stranger.bundle)
    else:
        del os.environ["AWS_CA_BUNDLE"]

    with pytest.raises(StoreUnavailable, match="certificate verify failed") as caught:
        await load_env("/R")

    assert not caught.value.transient
    assert 0 == proxy.count()


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_unreadable_ca_bundles_are_named(proxy: FaultProxy, tmp_path: Path, content: str | None) -> None:
    """A CA bundle that is missing, empty or broken fails a load at once, and the error names the file."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    os.environ["AWS_CA_BUNDLE"] = str(bundle)

    with pytest.raises(StoreUnavailable, match="bundle.pem") as caught:
        await load_env("/R")

    assert not caught.value.transient
    assert 0 == proxy.count()


async def test_resets_in_the_handshake_are_retried(
    ssm: Store, proxy: FaultProxy, store: ParameterStore, clock: ManualClock
) -> None:
    """A connection reset during the TLS handshake is retried, like a later one."""
    ssm.put("/R/A", "1")
    async with Tunnel(("127.0.0.1", int(proxy.url.rpartition(":")[2]))).running() as tunnel:
        tunnel.resets = 3
        os.environ["AWS_ENDPOINT_URL_SSM"] = f"https://127.0.0.1:{tunnel.port}"

        assert {"A": "1"} == dict(await passing(clock, load_env("/R", store=store)))

    assert 0 == tunnel.resets
    assert 1 == proxy.count()


async def test_plain_http_where_tls_is_expected(ssm: Store, authority: Authority) -> None:
    """A port that answers in plain HTTP fails an https load, and its text is not taken as an answer."""
    ssm.put("/R/A", "1")
    os.environ |= {
        "AWS_ENDPOINT_URL_SSM": ssm.endpoint_url.replace("http:", "https:"),
        "AWS_CA_BUNDLE": str(authority.bundle),
    }

    with pytest.raises(StoreUnavailable):
        await load_env("/R", deadline=1)


# --- A session of the user


def own_session(config: Config | None = None, *, verify: bool | None = None) -> Any:
    """Return an SDK session with this configuration."""
    session = aiobotocore.session.get_session()
    if config:
        session.set_default_client_config(config)
    if verify is not None:
        session.set_config_variable("ca_bundle", verify)
    return session


@pytest.mark.parametrize("shown", [True, False])
async def test_client_certificates(ssm: Store, authority: Authority, *, shown: bool) -> None:
    """A client certificate in a session's configuration is sent to a server that asks for one."""
    ssm.put("/R/A", "1")
    session = own_session(AioConfig(client_cert=str(authority.issue(["client"]))) if shown else None)
    async with FaultProxy(ssm.endpoint_url).running(authority.server(clients=True)) as proxy:
        os.environ |= {"AWS_ENDPOINT_URL_SSM": proxy.url, "AWS_CA_BUNDLE": str(authority.bundle)}
        async with ParameterStore(session=session, deadline=1) as store:
            if shown:
                assert {"A": "1"} == dict(await load_env("/R", store=store))
            else:
                with pytest.raises(StoreUnavailable):
                    await load_env("/R", store=store)

    assert shown == bool(proxy.count())


async def test_session_without_verification(ssm: Store, stranger: Authority) -> None:
    """A session that is configured not to verify certificates works, and reads none."""
    ssm.put("/R/A", "1")
    async with FaultProxy(ssm.endpoint_url).running(stranger.server()) as proxy:
        os.environ["AWS_ENDPOINT_URL_SSM"] = proxy.url
        async with ParameterStore(session=own_session(verify=False)) as store:
            assert {"A": "1"} == dict(await load_env("/R", store=store))


async def test_custom_http_session_class(ssm: Store) -> None:
    """If a session's configuration names an HTTP session class, that class is used."""
    made: list[str] = []

    class Own(AIOHTTPSession):  # type: ignore[misc] # untyped base
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append("own")

    ssm.put("/R/A", "1")
    session = own_session(AioConfig(http_session_cls=Own))
    async with ParameterStore(session=session) as store:
        assert {"A": "1"} == dict(await load_env("/R", store=store))

    assert ["own"] == made


@pytest.mark.parametrize("kind", [AioConfig, Config])
async def test_custom_configuration_is_merged(proxy: FaultProxy, stranger: Authority, kind: type[Config]) -> None:
    """A session's own configuration, boto3's or aioboto3's, is merged with ours, and TLS is verified."""
    session = own_session(kind(user_agent_extra="own/1"))
    async with ParameterStore(session=session) as store:
        with pytest.raises(EmptyPath):
            await load_env("/R", store=store)
    assert 1 == proxy.count("GetParametersByPath")

    os.environ["AWS_CA_BUNDLE"] = str(stranger.bundle)
    async with ParameterStore(session=own_session(kind(user_agent_extra="own/1"))) as store:
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await load_env("/R", store=store)


async def test_host_names_are_verified_with_a_custom_configuration(ssm: Store, authority: Authority) -> None:
    """A certificate for another host is rejected, also with a session that has its own configuration."""
    async with FaultProxy(ssm.endpoint_url).running(authority.server(["example.org"])) as proxy:
        os.environ |= {"AWS_ENDPOINT_URL_SSM": proxy.url, "AWS_CA_BUNDLE": str(authority.bundle)}
        session = own_session(AioConfig(user_agent_extra="own/1"))
        async with ParameterStore(session=session) as store:
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                await load_env("/R", store=store)


# --- Proxies


@pytest.mark.parametrize("to_proxy", ["http", "https"])
async def test_tls_through_a_proxy(
    ssm: Store, proxy: FaultProxy, authority: Authority, tls: ssl.SSLContext, to_proxy: str
) -> None:
    """Through the proxy in HTTPS_PROXY, itself with or without TLS, a load is encrypted end to end."""
    ssm.put("/R/A", "1")
    async with Tunnel().running(tls if to_proxy == "https" else None) as tunnel:
        os.environ["HTTPS_PROXY"] = f"{to_proxy}://127.0.0.1:{tunnel.port}"

        assert {"A": "1"} == dict(await load_env("/R"))

    assert [proxy.url.removeprefix("https://")] == tunnel.targets


@pytest.mark.parametrize("name", ["another authority", "another host"])
async def test_proxy_cannot_impersonate_the_server(
    ssm: Store, authority: Authority, stranger: Authority, name: str
) -> None:
    """Behind a proxy too, a certificate that is not trusted or is for another host is rejected."""
    behind = stranger.server() if name == "another authority" else authority.server(["example.org"])
    async with Tunnel().running() as tunnel, FaultProxy(ssm.endpoint_url).running(behind) as proxy:
        os.environ |= {
            "AWS_ENDPOINT_URL_SSM": proxy.url,
            "AWS_CA_BUNDLE": str(authority.bundle),
            "HTTPS_PROXY": f"http://127.0.0.1:{tunnel.port}",
        }
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await load_env("/R")

    assert 1 == len(tunnel.targets)
    assert 0 == proxy.count()


# --- The SDK's private name

# aiobotocore's releases, by the source of AIOHTTPSession._create_connector.
KNOWN = {"ebe9c547d1806059": "2.23 to 3.7", "c50b21f7cb09709f": "3.8", "b902e9e7f91a58d5": "3.9 and 3.10"}


def test_private_name_of_the_sdk_is_known() -> None:
    """The one private method of the SDK that we override has the source of a release that was reviewed."""
    source = inspect.getsource(AIOHTTPSession._create_connector)

    assert hashlib.sha256(source.encode()).hexdigest()[:16] in KNOWN
