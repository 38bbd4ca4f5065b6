"""The policy that `aiossmenv policy` prints, against the README and against what errors say to allow."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from aiossmenv._naming import REFERENCE
from aiossmenv._ssm.service_errors import error_of_answer
from aiossmenv._ssm.transport import (
    AddTagsToResource,
    DeleteParameters,
    DescribeParameters,
    GetParameter,
    GetParameterHistory,
    GetParameters,
    GetParametersByPath,
    PutParameter,
    Request,
    ServiceError,
)
from aiossmenv.cli._policy import Place, policy_document

HERE = Place("eu-central-1", "111122223333")
SSM = "arn:aws:ssm:eu-central-1:111122223333:parameter"
KEY = "arn:aws:kms:eu-central-1:111122223333:key/KEY-ID"
README = Path(__file__).parents[2] / "README.md"


def statements(document: dict[str, object]) -> list[dict[str, Any]]:
    """Return the statements of a policy, as a program reads them from JSON."""
    read: list[dict[str, Any]] = json.loads(json.dumps(document))["Statement"]
    return read


def listed(one_or_all: str | list[str]) -> list[str]:
    """Return what a policy has as a text or as a list as a list."""
    return [one_or_all] if isinstance(one_or_all, str) else one_or_all


def resources(document: dict[str, object], action: str) -> list[str]:
    """Return the resources on which *action* is allowed."""
    found = [each for each in statements(document) if action in listed(each["Action"])]
    return [arn for each in found for arn in listed(each["Resource"])]


def actions(document: dict[str, object]) -> set[str]:
    """Return all actions that are allowed."""
    return {action for each in statements(document) for action in listed(each["Action"])}


def test_it_is_the_policy_of_the_readme() -> None:
    """The README's "Rights" and the command print the same rights; the command restricts the use of the key as well."""
    block = re.search(r"## Rights\n\n```json\n(.*?)```", README.read_text(), re.DOTALL)
    assert block

    document = policy_document(["/FAKEBOOK/TEST"], None, HERE, key=KEY)

    rights = [{key: each[key] for key in ("Effect", "Action", "Resource")} for each in statements(document)]
    assert json.loads(block[1])["Statement"] == rights
    assert "2012-10-17" == document["Version"]


READS: list[Request] = [
    GetParametersByPath("/A/B"),
    GetParameters(("/A/B/C", "/A/B/D/E:3")),
    GetParameter("/A/B/C:live"),
    GetParameter(f"{SSM}/A/B/C"),
]
WRITES: list[Request] = [
    PutParameter(name="/A/B/C", value="value"),
    DeleteParameters(("/A/B/C", "/A/B/D")),
    GetParameterHistory("/A/B/C"),
    DescribeParameters("/A/B"),
    AddTagsToResource("/A/B/C", ()),
]


@pytest.mark.parametrize("request_", [*READS, *WRITES], ids=lambda request: type(request).__name__)
def test_it_allows_what_errors_say_to_allow(request_: Request) -> None:
    """Each ARN in the remedy of a denial is allowed, for the action that the remedy names; a reader may not write."""
    text = f"User: U is not authorized to perform: ssm:{type(request_).__name__} on resource: {SSM}/A/B"
    error = error_of_answer(ServiceError("AccessDeniedException", text), request_)
    reading, writing = (policy_document(["/A/B"], None, HERE, write=write) for write in (False, True))

    assert error.remedy
    (action,) = re.findall(r"Allow (ssm:\w+)", error.remedy)
    arns = [arn.rstrip(".,:") for arn in re.findall(r"arn:\S+|(?<=on )\*", error.remedy)]
    assert arns
    for arn in arns:
        assert any(fnmatchcase(arn, allowed) for allowed in resources(writing, action)), arn
    assert (action in actions(reading)) is (request_ in READS)


@pytest.mark.parametrize("right", ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"])
def test_it_allows_what_errors_of_kms_say_to_allow(right: str) -> None:
    """The key that a denial of KMS names is allowed, for what it names."""
    text = f"User: U is not authorized to perform: {right} on resource: {KEY} (Service: AWSKMS)"
    request_ = GetParameter("/A/B") if right == "kms:Decrypt" else PutParameter(name="/A/B", value="value")
    error = error_of_answer(ServiceError("AccessDeniedException", text), request_)

    assert f"Allow {right} on {KEY} for this role." == error.remedy
    assert [KEY] == resources(policy_document(["/A"], None, HERE, key=KEY, write=True), right)


def test_names_alone_need_no_listing() -> None:
    """With names, these are all that may be read, each without its version or label, and nothing may be listed."""
    document = policy_document(["/A", "/B"], ["db/URL:3", "/B/KEY:live"], HERE)

    assert {"ssm:GetParameters", "ssm:GetParameter"} == actions(document)
    assert [f"{SSM}/A/db/URL", f"{SSM}/B/db/URL", f"{SSM}/B/KEY"] == resources(document, "ssm:GetParameter")


def test_the_root_is_a_path() -> None:
    """Everything is below `/`, and no ARN has two slashes."""
    document = policy_document(["/"], None, HERE)

    assert [f"{SSM}/", f"{SSM}/*"] == resources(document, "ssm:GetParametersByPath")
    assert [f"{SSM}/*"] == resources(document, "ssm:GetParameters")


def test_writing_adds_rights_of_writing_only() -> None:
    """`write` adds what writes and what encrypts; DescribeParameters is on everything, as IAM has no other form."""
    reading, writing = (policy_document(["/A"], None, HERE, key=KEY, write=write) for write in (False, True))

    assert {
        "ssm:PutParameter", "ssm:DeleteParameter", "ssm:DeleteParameters", "ssm:GetParameterHistory",
        "ssm:AddTagsToResource", "ssm:DescribeParameters", "kms:Encrypt", "kms:GenerateDataKey",
    } == actions(writing) - actions(reading)  # fmt: skip
    assert [f"{SSM}/A/*"] == resources(writing, "ssm:PutParameter")
    assert ["*"] == resources(writing, "ssm:DescribeParameters")
    assert [KEY] == resources(writing, "kms:Encrypt")


def test_a_key_decrypts_these_parameters_only() -> None:
    """The key is of use through Parameter Store alone, and for parameters under the path alone."""
    (decrypting,) = (
        each for each in statements(policy_document(["/A"], None, HERE, key=KEY)) if "kms:Decrypt" in each["Action"]
    )

    assert {
        "StringLike": {
            "kms:ViaService": "ssm.eu-central-1.amazonaws.com",
            "kms:EncryptionContext:PARAMETER_ARN": f"{SSM}/A/*",
        }
    } == decrypting["Condition"]


@pytest.mark.parametrize(
    ("key", "arn", "alias"),
    [
        ("1234abcd-12ab-34cd-56ef-1234567890ab", f"{KEY[:-6]}1234abcd-12ab-34cd-56ef-1234567890ab", None),
        ("alias/app/live", f"{KEY[:-6]}*", "alias/app/live"),
        ("arn:aws:kms:eu-west-1:444455556666:alias/app", "arn:aws:kms:eu-west-1:444455556666:key/*", "alias/app"),
    ],
)
def test_a_key_may_be_an_id_or_an_alias(key: str, arn: str, alias: str | None) -> None:
    """An id becomes an ARN; an alias, which IAM takes as no resource, becomes a condition on any key."""
    document = policy_document(["/A"], None, HERE, key=key)

    assert [arn] == resources(document, "kms:Decrypt")
    condition = statements(document)[-1]["Condition"].get("ForAnyValue:StringEquals")
    assert (alias and {"kms:ResourceAliases": alias}) == condition


@pytest.mark.parametrize(
    ("region", "partition", "hosts"),
    [
        ("us-gov-west-1", "aws-us-gov", "ssm.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "aws-cn", ["ssm.cn-north-1.amazonaws.com", "ssm.cn-north-1.amazonaws.com.cn"]),
        ("*", "aws", "ssm.*.amazonaws.com"),
    ],
)
def test_the_partition_is_that_of_the_region(region: str, partition: str, hosts: object) -> None:
    """All ARNs are of the region's partition; an unknown region and account are `*`."""
    document = policy_document(["/A"], None, Place(region, "*"), key="alias/app")

    arns = [arn for each in statements(document) for arn in listed(each["Resource"])]
    assert {partition} == {arn.split(":")[1] for arn in arns}
    assert {(region, "*")} == {tuple(arn.split(":")[3:5]) for arn in arns}
    assert hosts == statements(document)[-1]["Condition"]["StringLike"]["kms:ViaService"]


def test_a_secret_needs_a_right_of_secrets_manager() -> None:
    """A secret is read by its reference, and by Secrets Manager, whose ARN ends in six characters of its own."""
    secret = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:db/live-??????"

    document = policy_document([], [f"{REFERENCE}/db/live:AWSPREVIOUS"], HERE, key=KEY, write=True)

    assert [f"{SSM}{REFERENCE}/db/live"] == resources(document, "ssm:GetParameter")
    assert [secret] == resources(document, "secretsmanager:GetSecretValue")
    assert {
        "kms:ViaService": "secretsmanager.eu-central-1.amazonaws.com",
        "kms:EncryptionContext:SecretARN": secret,
    } == statements(document)[-1]["Condition"]["StringLike"]
    assert not {"ssm:PutParameter", "kms:Encrypt"} & actions(document)


def test_a_key_for_parameters_and_secrets_is_of_use_through_both_services() -> None:
    """Each service may use the key for what is its own, and for nothing of the other."""
    document = policy_document(["/A"], ["X", f"{REFERENCE}/db"], HERE, key=KEY)

    conditions = [each["Condition"]["StringLike"] for each in statements(document) if "Condition" in each]
    assert [f"{SSM}/A/X", "arn:aws:secretsmanager:eu-central-1:111122223333:secret:db-??????"] == [
        next(arn for name, arn in condition.items() if "Context" in name) for condition in conditions
    ]
