"""`aiossmenv policy`."""

import json
import os
from pathlib import Path

import pytest

from command import invoke, invoke_in_thread
from embedded import Store
from faults import Server
from sources import sts_error

MINE = "arn:aws:ssm:eu-central-1:123456789012:parameter/APP"


def test_region_and_account_are_those_of_the_credentials(ssm: Store) -> None:
    """The region is that of the AWS configuration, and STS says the account."""
    os.environ["AWS_ENDPOINT_URL_STS"] = ssm.endpoint_url

    done = invoke("policy", "/APP/")

    assert 0 == done.status
    assert [MINE, f"{MINE}/*"] == json.loads(done.out)["Statement"][0]["Resource"]
    assert "--kms" in done.err
    assert "not known" not in done.err


def test_it_works_without_credentials_and_without_a_network() -> None:
    """What is not known is `*`, and standard error says so."""
    done = invoke("policy", "/APP", "--kms", "alias/app")

    assert 0 == done.status
    assert f"{MINE}/*".replace("eu-central-1:123456789012", "*:*") == json.loads(done.out)["Statement"][1]["Resource"]
    assert ["region", "account"] == [line.split()[2] for line in done.err.splitlines()]
    assert ": there are no credentials. Pass --account." in done.err


def test_options_are_enough() -> None:
    """With a region and an account no SDK is needed; nothing is asked."""
    os.environ |= {"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9", "AWS_PROFILE": "there-is-none"}

    done = invoke("policy", "/APP", "--region", "eu-central-1", "--account", "123456789012", "--kms", "alias/app")

    assert (0, "") == (done.status, done.err)
    assert [MINE, f"{MINE}/*"] == json.loads(done.out)["Statement"][0]["Resource"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "STS cannot be reached"),
        (sts_error("ExpiredToken", 403), "STS refused GetCallerIdentity: ExpiredToken"),
        (None, "STS did not answer within 3 seconds"),
    ],
    ids=["reset", "rejected", "hangs"],
)
async def test_an_sts_that_fails_is_no_error(answer: bytes | None, reason: str) -> None:
    """Where STS is out of reach, or does not know the credentials, the account is `*`, and the reason is said."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "not-shown", "AWS_REGION": "eu-central-1"}
    async with Server(lambda _: answer).running() as server:
        os.environ["AWS_ENDPOINT_URL_STS"] = server.url
        done = await invoke_in_thread("policy", "/APP")

    assert 0 == done.status
    assert "arn:aws:ssm:eu-central-1:*:parameter/APP/*" == json.loads(done.out)["Statement"][1]["Resource"]
    assert reason in done.err
    assert "not-shown" not in done.err


def test_a_configuration_that_cannot_be_read_is_no_error(config_file: Path) -> None:
    """A broken file of the AWS configuration costs the account, and not the policy."""
    config_file.write_text("broken")

    done = invoke("policy", "/APP", "--region", "eu-central-1")

    assert 0 == done.status
    assert "parse" in done.err
    assert "arn:aws:ssm:eu-central-1:*:parameter/APP" in done.out


def test_a_profile_names_the_region(config_file: Path) -> None:
    """`--profile` is a profile of the AWS configuration, with its region."""
    config_file.write_text("[profile night]\nregion = us-gov-east-1\n")

    done = invoke("policy", "/APP", "--profile", "night", "--account", "123456789012")

    assert "arn:aws-us-gov:ssm:us-gov-east-1:123456789012:parameter/APP/*" in done.out


def test_paths_and_names_are_those_of_load_env() -> None:
    """`$SSM_PATH` is the default, names may have a version, and secrets need no path."""
    os.environ["SSM_PATH"] = "/APP/, /APP, /MORE"
    place = ("--region", "eu-central-1", "--account", "123456789012")

    of_path, of_name = invoke("policy", *place), invoke("policy", "/APP", "--key", "db/URL:3", *place)
    del os.environ["SSM_PATH"]
    of_secret = invoke("policy", "--key", "/aws/reference/secretsmanager/db", *place)

    listed = json.loads(of_path.out)["Statement"][0]["Resource"]
    assert ["/APP", "/APP/*", "/MORE", "/MORE/*"] == [arn.partition(":parameter")[2] for arn in listed]
    assert f"{MINE}/db/URL" == json.loads(of_name.out)["Statement"][0]["Resource"]
    assert "secret:db-??????" in of_secret.out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["/APP", "--account", "12"], 2, "12 digits"),
        (["/APP", "--region", "Frankfurt"], 2, "eu-central-1"),
        (["/APP", "--kms", "my key"], 2, "alias/NAME"),
        (["APP"], 1, "begins with a slash"),
        ([], 1, "SSM_PATH"),
        (["/APP", "--key", "/OTHER/KEY"], 1, "below none of the paths"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], status: int, said: str) -> None:
    """A wrong option, path or name is one clear line, and no policy is printed."""
    done = invoke("policy", *arguments)

    assert (status, "") == (done.status, done.out)
    assert said in done.err
