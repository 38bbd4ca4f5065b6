"""
What an error answer of Parameter Store means. Pure: the answer comes as a `ServiceError`.

Parameter Store answers for KMS and for Secrets Manager as well, and a proxy may answer in its place. The codes and
texts are from the API reference, from the SDKs' lists of codes that may be tried again, and from public reports.
"""

import re
from http import HTTPStatus

from aiossmenv._errors import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    InvalidParameter,
    InvalidPath,
    ParameterAlreadyExists,
    ParameterNotFound,
    StoreUnavailable,
    Throttled,
)
from aiossmenv._naming import base_name, is_reference
from aiossmenv._ssm.transport import (
    AddTagsToResource,
    DeleteParameters,
    DescribeParameters,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    PutParameter,
    Request,
    ServiceError,
)

WAIT_REMEDY = (
    "It is tried again until the deadline; if it lasts, look at the AWS health dashboard and at any proxy between."
)
RETRY_REMEDY = "It is tried again until the deadline."
CONFIG_REMEDY = "Check AWS_REGION, AWS_ENDPOINT_URL_SSM, AWS_ENDPOINT_URL and the files of the AWS configuration."
PROXY_REMEDY = "Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY, and the user and password in the URL of the proxy."
_CHECK_NAME = "Check how the path or the name is written."
_RENEW = "Renew the credentials (on a workstation: `aws sso login`) and check the machine's clock."
_KEY = "Check that the KMS key is enabled and in this region, and that the role may kms:Decrypt with it."

THROTTLED = frozenset({
    "ThrottlingException", "Throttling", "ThrottledException", "RequestThrottledException", "RequestThrottled",
    "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "LimitExceededException",
    "SlowDown", "PriorRequestNotComplete", "ProvisionedThroughputExceededException", "EC2ThrottledException",
    "TransactionInProgressException", "429",
    # Two writes of one parameter at once; AWS: "There are concurrent updates for a resource that supports one update at
    # a time."
    "TooManyUpdates",
})  # fmt: skip
_NOT_FOUND = frozenset({"ParameterNotFound", "ParameterVersionNotFound"})
_BAD_CREDENTIALS = frozenset({
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "UnrecognizedClientException",
    "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "AuthFailure", "401",
})  # fmt: skip
_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"})
_INVALID = frozenset({
    "ValidationException", "InvalidFilterKey", "InvalidFilterOption", "InvalidFilterValue",
    "HierarchyLevelLimitExceededException",
})  # fmt: skip
_POLICIES = "Correct the policies of the parameter."
_PATTERN = "The parameter has an AllowedPattern: write a value that it allows."
_IS_GONE = "Check whether the parameter is still there."
# What is wrong with a write, and what to do about it.
_INVALID_PARAMETER = {
    "HierarchyTypeMismatchException": "A parameter keeps its type: delete it first, or take another name.",
    "UnsupportedParameterType": "The type is String, StringList or SecureString.",
    "InvalidAllowedPatternException": _PATTERN,
    "ParameterPatternMismatchException": _PATTERN,
    "TooManyTagsError": "A parameter has 50 tags at most.",
    "InvalidResourceId": _IS_GONE,
    "InvalidResourceType": _IS_GONE,
    "PoliciesLimitExceededException": _POLICIES,
    "InvalidPolicyTypeException": _POLICIES,
    "InvalidPolicyAttributeException": _POLICIES,
    "IncompatiblePolicyException": _POLICIES,
    "ParameterLimitExceeded": "Delete parameters, or write this one with tier='Advanced', which AWS charges for.",
    "ParameterMaxVersionLimitExceeded": "Move the label of the oldest version of the parameter to a newer one.",
}
# The service's own checks of a request begin like this.
_QUOTED_VALUE = re.compile(r"Value '.*' at 'value'", re.DOTALL)
_KMS_RATE = "exceeded the rate at which you may call KMS"


class InvalidNextToken(StoreUnavailable):
    """Parameter Store does not continue a listing from this token."""


def error_of_answer(answer: ServiceError, request: Request) -> AiossmenvError:
    """Translate an error answer, and note whether it says that the request was not carried out."""
    error = _error_of_write(answer, request) or _error_of(answer, request)
    refused = HTTPStatus.BAD_REQUEST <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
    error._not_carried_out = isinstance(error, Throttled) or (refused and not error.transient)
    return error


def _error_of_write(answer: ServiceError, request: Request) -> AiossmenvError | None:
    """Translate an error that only a write gets."""
    code, text = answer.code, message_of(answer)
    if code == "ParameterAlreadyExists":
        return ParameterAlreadyExists(
            "there is a parameter of this name", remedy="Pass overwrite=True to write a new version of it."
        )
    remedy = _INVALID_PARAMETER.get(code)
    if code == "ValidationException" and isinstance(request, PutParameter) and "name" not in text.casefold():
        remedy = "Check the value, and its type, tier, KMS key, description and tags."
    return InvalidParameter(_said(answer, request), remedy=remedy) if remedy else None


def _error_of(answer: ServiceError, request: Request) -> AiossmenvError:  # noqa: C901, PLR0911 - a table, and it reads as one
    """Translate an error answer, the most specific first. Throttling and denials are not in the service's model."""
    code, text, status, said = answer.code, message_of(answer), answer.status, _said(answer, request)
    if code == "InvalidNextToken":
        kind = InvalidNextToken if isinstance(request, GetParametersByPath) else StoreUnavailable
        return kind(said, remedy=WAIT_REMEDY)
    if code in THROTTLED or status == HTTPStatus.TOO_MANY_REQUESTS or _KMS_RATE in text:
        return Throttled(said, remedy="Wait, spread the callers, or raise the account's Parameter Store throughput.")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code.startswith(("InternalServer", "RequestTimeout", "408")):
        return StoreUnavailable(said, remedy=WAIT_REMEDY)
    if code in _NOT_FOUND:
        return ParameterNotFound(
            "there is no such parameter, version or label", remedy="Check the name and the region."
        )
    if code in {"InvalidKeyId", "KMSInvalidStateException"}:
        return DecryptionFailed(said, remedy=_KEY)
    if code in _BAD_CREDENTIALS:
        return AccessDenied(said, remedy=_RENEW)
    if code in _DENIED:
        return _denial(said, text, request)
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return proxy_refusal(status)
    if code == "403":
        # Parameter Store would have said which right is missing, and this says nothing of that.
        return AccessDenied(said, remedy="Check any proxy or gateway between: Parameter Store itself says more.")
    if isinstance(request, GetParameter) and is_reference(request.name) and "dependency service" in text:
        # What a role without the right on the secret is told, whether or not there is one.
        return AccessDenied(
            said, remedy="Allow secretsmanager:GetSecretValue on the secret, and kms:Decrypt on its key."
        )
    if code in _INVALID:
        return InvalidPath(said, remedy=_CHECK_NAME)
    return StoreUnavailable(said, remedy=CONFIG_REMEDY, transient=False)


def _said(answer: ServiceError, request: Request) -> str:
    if quotes_body(answer):
        return f"an answer with status {answer.code} that is not Parameter Store's own"
    text = message_of(answer, request)
    return f"{answer.code}: {text}" if text else answer.code


def _denial(said: str, text: str, request: Request) -> AiossmenvError:
    if "kms:" in text or re.search(r"\(Service: (AWSKMS|Kms)", text) or "customer master key" in text:
        found = re.search(r"\bkms:[A-Z]\w+", text)
        right = found[0] if found else "kms:Encrypt" if isinstance(request, PutParameter) else "kms:Decrypt"
        key = re.search(r"on resource: (arn:\S+:kms:\S+)", text)
        grant = f"Allow {right} on {key[1]} for this role." if key else f"Allow {right} for this role. {_KEY}"
        return DecryptionFailed(said, remedy=grant)
    resource = re.search(r"on resource: (arn:(\S+?):ssm:(\S*?):(\d*):\S*)", text)
    action = f"ssm:{type(request).__name__}"
    if isinstance(request, PutParameter) and "ssm:AddTagsToResource" in text:
        # To write with tags takes this right as well.
        action = "ssm:AddTagsToResource"
    stem = f"arn:{resource[2]}:ssm:{resource[3]}:{resource[4]}" if resource else "arn:aws:ssm:REGION:ACCOUNT"
    if isinstance(request, GetParametersByPath):
        # The service checks the path that was asked for, not what is under it.
        name = f"{stem}:parameter{request.path}"
        grant = f"Allow {action} on both {name} and {name.rstrip('/')}/*."
    elif isinstance(request, DescribeParameters):
        grant = f"Allow {action} on *: IAM cannot grant it on less."
    else:
        arns = (f"{stem}:parameter/{base_name(name).lstrip('/')}" for name in names_of(request))
        grant = f"Allow {action} on {', '.join(arns)}."
    if resource and resource[1].endswith(":*") and not isinstance(request, DescribeParameters):
        grant += " Or the name is mistyped: a role without a broad grant is told so of a parameter that does not exist."
    return AccessDenied(said, action=action, remedy=grant)


def names_of(request: Request) -> tuple[str, ...]:
    """Return the names that *request* is about; none if it is about a path."""
    match request:
        case GetParametersByPath() | DescribeParameters():
            return ()
        case GetParameters(names) | DeleteParameters(names):
            return names
        case AddTagsToResource(name):
            return (name,)
        case _:
            return (request.name,)


def locate(error: AiossmenvError, request: Request, region: str | None) -> None:
    """Say in *error* what was asked for, and where."""
    error.region = region
    error.path = request.path if isinstance(request, GetParametersByPath | DescribeParameters) else None
    error.parameter = error.parameter or ", ".join(names_of(request)) or None


def quotes_body(answer: ServiceError) -> bool:
    """
    Return whether this comes from a body that is not the service's own.

    The SDK makes its HTTP status the code, and the whole body the text.
    """
    return answer.code.isdecimal()


def message_of(answer: ServiceError, request: Request | None = None) -> str:
    """Return the text of *answer*, or nothing where that may quote a body, or the value that *request* writes."""
    quotes = isinstance(request, PutParameter) and (
        re.search(rf"(?<!\w){re.escape(request.value)}(?!\w)", answer.message) or _QUOTED_VALUE.search(answer.message)
    )
    return "" if quotes or quotes_body(answer) else answer.message


def may_pass(status: int) -> bool:
    """Return whether an answer with this HTTP status may be another one later."""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS


def proxy_refusal(status: int) -> StoreUnavailable:
    """Return the error for a proxy that does not let a request through."""
    wants = "wants a login" if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else "refuses the connection"
    return StoreUnavailable(f"the proxy {wants} (status {status})", remedy=PROXY_REMEDY, transient=False)
