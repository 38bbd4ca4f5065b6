"""`policy`: the least that a role has to be allowed."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from aiossmenv._errors import AiossmenvError
from aiossmenv._load import default_paths
from aiossmenv._naming import REFERENCE, base_name, is_reference, normal_key, normal_path, relative_name, upper_snake
from aiossmenv._spec import EnvSpec
from aiossmenv.cli import _options as options
from aiossmenv.cli._output import print_json
from aiossmenv.cli._run import note, run, use_profile

# Seconds for STS, which knows the account.
_DEADLINE = 3.0

_ACCOUNT = re.compile(r"\d{12}")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
# A key by its ARN, or by its id; one that is in several regions has an id with a prefix of its own.
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:(?:key/[A-Za-z0-9-]+|alias/[A-Za-z0-9/_-]+)")
_KEY_ID = re.compile(r"(?:mrk-)?[0-9a-f-]{32,36}|alias/[A-Za-z0-9/_-]+")

_READ = ("ssm:GetParameters", "ssm:GetParameter")
_WRITE = (
    "ssm:PutParameter", "ssm:DeleteParameter", "ssm:DeleteParameters", "ssm:GetParameterHistory",
    "ssm:AddTagsToResource",
)  # fmt: skip
# A value of the standard tier is encrypted by KMS, one of the advanced tier with a data key from there.
_ENCRYPT = ("kms:Encrypt", "kms:GenerateDataKey")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a policy holds: a *region* and an *account*, each `*` for any."""

    region: str
    account: str

    @property
    def partition(self) -> str:
        """The part of AWS that the region is in."""
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    def arn(self, service: str, resource: str) -> str:
        """Return the ARN of *resource*."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def hosts(self, service: str) -> list[str]:
        """Return how KMS may name *service* where it calls KMS for others."""
        host = f"{service}.{self.region}.amazonaws.com"
        # AWS's own texts have both for China.
        return [host, f"{host}.cn"] if self.partition == "aws-cn" else [host]


def policy_document(
    paths: Sequence[str], names: Iterable[str] | None, place: Place, *, key: str = "", write: bool = False
) -> dict[str, object]:
    """
    Return the policy with which `load_env()` of *paths* works, and nothing more does.

    *paths*: normal ones. *names*: normal ones for its `keys=`, or `None` for a listing. *key*: a KMS key that decrypts.
    *write*: whether commands that write are to work, too.
    """
    statements: list[dict[str, object]] = []
    secrets: list[str] = []
    if names is None:
        stems = [path.rstrip("/") for path in paths]
        listed = [place.arn("ssm", f"parameter{name}") for stem in stems for name in (stem or "/", f"{stem}/*")]
        below = [place.arn("ssm", f"parameter{stem}/*") for stem in stems]
        statements.append(_allow(["ssm:GetParametersByPath"], listed))
    else:
        full = list(dict.fromkeys(map(_iam_name, _full_names(paths, names))))
        secrets = [
            place.arn("secretsmanager", f"secret:{relative_name(REFERENCE, name)}-??????")
            for name in full
            if is_reference(name)
        ]
        below = [place.arn("ssm", f"parameter{name}") for name in full]
    statements.append(_allow(_READ, below))
    if secrets:
        statements.append(_allow(["secretsmanager:GetSecretValue"], secrets))
    own = [arn for arn in below if f":parameter{REFERENCE}/" not in arn]
    if write and own:
        statements.append(_allow(_WRITE, own))
        # IAM knows no resource for it.
        statements.append(_allow(["ssm:DescribeParameters"], ["*"]))
    if key and own:
        actions = ["kms:Decrypt", *(_ENCRYPT if write else ())]
        statements.append(_allow_key(actions, key, place, "ssm", "PARAMETER_ARN", own))
    if key and secrets:
        statements.append(_allow_key(["kms:Decrypt"], key, place, "secretsmanager", "SecretARN", secrets))
    return {"Version": "2012-10-17", "Statement": statements}


def _full_names(paths: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the names that are asked for: a relative one means one below each path."""
    spec = EnvSpec(
        paths=tuple(paths),
        names=tuple(names),
        required=frozenset(),
        recursive=True,
        to_key=upper_snake,
        allow_empty=False,
    )
    return [name for query in spec.queries for name in query.names or ()]


def _iam_name(name: str) -> str:
    """Return what IAM knows a parameter or a secret by: no version and no label is a part of it."""
    if is_reference(name):
        return f"{REFERENCE}/{relative_name(REFERENCE, name).partition(':')[0]}"
    return base_name(name)


def _allow(actions: Sequence[str], resources: Sequence[str]) -> dict[str, object]:
    return {"Effect": "Allow", "Action": _one_or_all(actions), "Resource": _one_or_all(resources)}


def _allow_key(
    actions: Sequence[str], key: str, place: Place, service: str, context: str, arns: Sequence[str]
) -> dict[str, object]:
    """
    Allow *actions* with a key, only through *service* and only for what has one of *arns*.

    The service encrypts with a context that names the parameter or the secret, so a stolen role decrypts nothing else.
    """
    arn = key if key.startswith("arn:") else place.arn("kms", key if key.startswith("alias/") else f"key/{key}")
    stem, is_alias, alias = arn.partition(":alias/")
    condition: dict[str, object] = {
        "StringLike": {
            "kms:ViaService": _one_or_all(place.hosts(service)),
            f"kms:EncryptionContext:{context}": _one_or_all(arns),
        }
    }
    if is_alias:
        # IAM does not take an alias as a resource.
        condition["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": f"alias/{alias}"}
    return {**_allow(actions, [f"{stem}:key/*" if is_alias else arn]), "Condition": condition}


def _one_or_all(texts: Sequence[str]) -> object:
    return texts[0] if len(texts) == 1 else list(texts)


def policy(
    paths: options.Paths = None,
    write: Annotated[bool, typer.Option("--write", help="Allow what set, import and delete do, too.")] = False,
    kms: Annotated[
        str | None,
        typer.Option("--kms", metavar="KEY", help="The KMS key of SecureStrings: its ARN, its id or its alias."),
    ] = None,
    keys: options.Key = None,
    account: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="The account, instead of that of the credentials.")
    ] = None,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """
    Print the least-privilege IAM policy for PATHs, as JSON; with --key, for these names only.

    Region and account are those of the AWS configuration and of the credentials. Without them the policy has * there.
    """
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise typer.BadParameter("the id of an account is 12 digits", param_hint="--account")
    if region is not None and not _REGION.fullmatch(region):
        raise typer.BadParameter("a region is written like eu-central-1", param_hint="--region")
    if kms is not None and not (_KEY_ARN.fullmatch(kms) or _KEY_ID.fullmatch(kms)):
        raise typer.BadParameter("a key is the ARN or the id of a KMS key, or alias/NAME", param_hint="--kms")
    use_profile(profile)
    run(_policy(paths, keys, region, account, kms or "", write=write), verbose=verbose)


async def _policy(
    given: list[str] | None, keys: list[str] | None, region: str | None, account: str | None, key: str, *, write: bool
) -> None:
    secrets_only = bool(keys) and all(map(is_reference, keys or ()))
    wanted = given or (() if secrets_only else default_paths())
    paths = list(dict.fromkeys(map(normal_path, wanted)))
    names = [normal_key(name, paths) for name in keys] if keys else None
    place = await _find_place(region, account)
    print_json(policy_document(paths, names, place, key=key, write=write))
    if not key:
        note(
            "no right on a KMS key is in it. Pass --kms KEY if a SecureString here is encrypted with a key of your"
            " own; the default one, alias/aws/ssm, needs none."
        )


async def _find_place(region: str | None, account: str | None) -> Place:
    """Return region and account as far as options, the AWS configuration and STS tell them."""
    why = ""
    if not (region and account):
        # It takes a third of a second to import the SDK.
        from aiossmenv._ssm.boto_identity import SdkView

        try:
            async with asyncio.timeout(_DEADLINE):
                sdk = await SdkView.open(region)
                region = region or sdk.region
                account = account or (await sdk.identity()).account
        except TimeoutError:
            why = f"STS did not answer within {_DEADLINE:g} seconds"
        except AiossmenvError as error:
            why = str(error.args[0]).removesuffix(".")
    if not region:
        note("the region is not known, so the policy has * there, and holds in the partition aws. Pass --region.")
    if not account:
        note(f"the account is not known, so the policy has * there: {why}. Pass --account.")
    return Place(region or "*", account or "*")
