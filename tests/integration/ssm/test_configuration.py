"""The package honours every configuration that the SDK honours."""

import json
import os
from pathlib import Path
from typing import get_args

import aioboto3
import aiobotocore.session
import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import EndpointVariantError

from aiossmenv import ParameterStore, load_env
from aiossmenv._ssm.boto_loader import _part
from aiossmenv._ssm.boto_session import new_session
from aiossmenv._ssm.transport import Request
from embedded import Store
from faults import FaultProxy


@pytest.fixture(autouse=True)
def parameter(ssm: Store) -> None:
    """Write a parameter, and set the region of the embedded store."""
    ssm.put("/R/A", "1")


def regions(proxy: FaultProxy) -> list[str]:
    """Return the regions for which requests were signed."""
    return [call.request.headers["Authorization"].split("/")[2] for call in proxy.calls]


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SSM"])
async def test_endpoint_from_the_environment(proxy: FaultProxy, variable: str) -> None:
    """`AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_SSM` select another endpoint."""
    del os.environ["AWS_ENDPOINT_URL_SSM"]
    os.environ[variable] = proxy.url

    assert {"A": "1"} == dict(await load_env("/R"))
    assert 1 == proxy.count()


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-west-3"}, "eu-west-3"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-3"),
    ],
)
async def test_region_from_the_environment(proxy: FaultProxy, variables: dict[str, str], region: str) -> None:
    """`AWS_REGION` overrides `AWS_DEFAULT_REGION`, as in the other SDKs."""
    del os.environ["AWS_REGION"], os.environ["AWS_DEFAULT_REGION"]
    os.environ |= variables

    await load_env("/R", allow_empty=True)

    assert [region] == regions(proxy)


async def test_profile(proxy: FaultProxy, config_file: Path) -> None:
    """A profile's credentials and region are used."""
    config_file.write_text(
        "[profile night]\nregion = eu-north-1\naws_access_key_id = NIGHT\naws_secret_access_key = owl\n"
    )
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del os.environ[name]
    os.environ["AWS_PROFILE"] = "night"

    await load_env("/R", allow_empty=True)

    assert ["eu-north-1"] == regions(proxy)
    assert "Credential=NIGHT/" in proxy.calls[0].request.headers["Authorization"]


async def test_options_of_the_store(proxy: FaultProxy) -> None:
    """`region` and `endpoint_url` override the environment."""
    os.environ["AWS_ENDPOINT_URL_SSM"] = "http://127.0.0.1:9"

    async with ParameterStore(region="eu-south-1", endpoint_url=proxy.url) as store:
        await load_env("/R", store=store, allow_empty=True)
        assert "eu-south-1" == store.region

    assert ["eu-south-1"] == regions(proxy)


async def test_session_of_aioboto3(proxy: FaultProxy) -> None:
    """An `aioboto3.Session` is used with its own credentials and region, which override the environment."""
    session = aioboto3.Session(aws_access_key_id="MINE", aws_secret_access_key="s", region_name="eu-west-1")

    async with ParameterStore(session=session) as store:
        await load_env("/R", store=store, allow_empty=True)

    assert ["eu-west-1"] == regions(proxy)
    assert "Credential=MINE/" in proxy.calls[0].request.headers["Authorization"]


async def test_session_of_aiobotocore(proxy: FaultProxy) -> None:
    """An `aiobotocore` session works too; if it has no region, the environment's region is used."""
    session = aiobotocore.session.get_session()
    session.set_credentials("MINE", "s")
    del os.environ["AWS_DEFAULT_REGION"]
    os.environ["AWS_REGION"] = "eu-west-3"

    async with ParameterStore(session=session) as store:
        await load_env("/R", store=store, allow_empty=True)

    assert ["eu-west-3"] == regions(proxy)
    assert "Credential=MINE/" in proxy.calls[0].request.headers["Authorization"]


@pytest.mark.parametrize("options", [{}, {"use_fips_endpoint": True}, {"use_dualstack_endpoint": True}])
@pytest.mark.parametrize("service", ["ssm", "sts"])
async def test_endpoints_match_the_sdk(service: str, options: dict[str, bool]) -> None:
    """Without the SDK's legacy endpoint data, every partition gets the same endpoint as with it."""
    operation = {"ssm": "GetParameter", "sts": "GetCallerIdentity"}[service]

    async def found(session: aioboto3.Session, region: str) -> object:
        client = session.client(service, region_name=region, config=AioConfig(**options))
        async with client as opened:
            context = {"client_region": region, "client_config": opened.meta.config, "has_streaming_input": False}
            model = opened.meta.service_model.operation_model(operation)
            endpoint = await opened._resolve_endpoint_ruleset(model, {}, context)
            signer = opened._request_signer
            return endpoint, context.get("signing"), signer.region_name, signer.signing_name, signer.signature_version

    ours, theirs = new_session(), aioboto3.Session()
    assert type(ours._session.get_component("data_loader")) is not type(theirs._session.get_component("data_loader"))
    partitions = theirs._session.get_component("data_loader").load_data("partitions")["partitions"]
    regions = [region for partition in partitions for region in list(partition["regions"])[:2]]
    assert len(regions) > 10
    for region in regions:
        try:
            expected = await found(theirs, region)
        except EndpointVariantError:
            continue  # the SDK has no such endpoint in that partition
        assert expected == await found(ours, region)


def test_partial_model_matches_the_sdk() -> None:
    """The model of our operations is complete and equal to the SDK's, and contains nothing else."""
    ours, theirs = (session._session.get_component("data_loader") for session in (new_session(), aioboto3.Session()))
    part, model = (loader.load_service_model("ssm", "service-2") for loader in (ours, theirs))

    assert sorted(operation.__name__ for operation in get_args(Request)) == sorted(part["operations"])
    assert part["metadata"] == model["metadata"]
    assert part["operations"].items() <= model["operations"].items()
    assert part["shapes"].items() <= model["shapes"].items()
    assert shapes_in([part["operations"], part["shapes"]]) == set(part["shapes"])


def shapes_in(model: object) -> set[str]:
    """Return the names of all shapes that are used."""
    nodes = model.values() if isinstance(model, dict) else model if isinstance(model, list) else ()
    own = model.get("shape") if isinstance(model, dict) else None
    return {own for own in (own,) if isinstance(own, str)}.union(*map(shapes_in, nodes))


def test_unknown_model_format_is_loaded_whole() -> None:
    """
    Our operations are found by the format of the SDK's model file; a model in another format is loaded as a whole.
    """
    model = aioboto3.Session()._session.get_component("data_loader").load_service_model("ssm", "service-2")

    assert _part(json.dumps(model, indent=2, separators=(",", ":"))) is not None
    assert _part(json.dumps(model)) is None
    del model["operations"]["GetParameters"]
    assert _part(json.dumps(model, indent=2, separators=(",", ":"))) is None


async def test_custom_models_in_aws_data_path(proxy: FaultProxy) -> None:
    """With models in AWS_DATA_PATH the SDK's own loader is used, which finds them."""
    os.environ["AWS_DATA_PATH"] = "/nowhere"

    assert {"A": "1"} == dict(await load_env("/R"))
    assert type(new_session()._session.get_component("data_loader")).__name__ == "Loader"
