"""Translation of service errors: every error of botocore's model, and those outside the model."""

from collections.abc import Iterator

import botocore.session
import pytest

from aiossmenv import (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    InvalidPath,
    ParameterNotFound,
    ServiceError,
    StoreUnavailable,
    Throttled,
)
from aiossmenv._ssm.service_errors import InvalidNextToken, error_of_answer
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
)

BY_PATH = GetParametersByPath("/FAKEBOOK/TEST", recursive=True)
BY_NAME = GetParameters(("/FAKEBOOK/TEST/DB_URL", "/FAKEBOOK/TEST/DB_USER"))
ONE = GetParameter("/FAKEBOOK/TEST/DB_URL")
PUT = PutParameter(name="/FAKEBOOK/TEST/DB_URL", value="hunter2")
WRITES = (
    DeleteParameters(("/FAKEBOOK/TEST/DB_URL", "/FAKEBOOK/TEST/DB_USER")),
    GetParameterHistory("/FAKEBOOK/TEST/DB_URL"),
    AddTagsToResource("/FAKEBOOK/TEST/DB_URL", (("team", "books"),)),
    DescribeParameters("/FAKEBOOK/TEST"),
)


def translate(code: str, text: str = "", status: int = 400, request: Request = ONE) -> AiossmenvError:
    """Translate an answer in botocore's format."""
    return error_of_answer(ServiceError(code, text, status), request)


def modelled() -> Iterator[tuple[Request, str, int]]:
    """Yield each error of the operations that we call, with its status, from botocore's model of the service."""
    loader = botocore.session.Session().get_component("data_loader")
    model = loader.load_service_model("ssm", "service-2")
    for request in (ONE, BY_NAME, BY_PATH, PUT, *WRITES):
        for error in model["operations"][type(request).__name__]["errors"]:
            shape = model["shapes"][error["shape"]]
            yield request, error["shape"], 500 if shape.get("fault") else 400


def test_every_modelled_error_is_translated() -> None:
    """No error that the model declares for our operations falls to the catch-all, except the service's own failures."""
    walked = list(modelled())

    assert {"ParameterNotFound", "InvalidKeyId", "InvalidNextToken"} < {code for _, code, _ in walked}
    for request, code, status in walked:
        error = translate(code, "", status, request)
        assert type(error) is not AiossmenvError, code
        # A listing with a rejected token starts again.
        begins_again = code == "InvalidNextToken"
        assert (begins_again and request is BY_PATH) == isinstance(error, InvalidNextToken), code
        passes = status == 500 or begins_again or code == "TooManyUpdates"
        assert passes == isinstance(error, StoreUnavailable | Throttled) == error.transient, code
        # Only after a failure of the service itself a write may have been carried out.
        assert error._not_carried_out == (status != 500 and not begins_again), code


ROLE = "User: arn:aws:sts::111122223333:assumed-role/app/i-0 is not authorized to perform"
NO_POLICY = "because no identity-based policy allows the"
OLD_KMS = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are"
    " not allowed to access. (Service: AWSKMS; Status Code: 400; Error Code: AccessDeniedException; Request ID: 1)"
)
KMS_RATE = (
    "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
    " (Service: AWSKMS; Status Code: 400; Error Code: ThrottlingException; Request ID: 1)"
)


@pytest.mark.parametrize(
    ("code", "text", "status", "kind", "transient"),
    [
        ("ThrottlingException", "Rate exceeded", 400, Throttled, True),
        ("TooManyRequestsException", "", 429, Throttled, True),
        ("Unknown", "", 429, Throttled, True),
        ("AccessDeniedException", KMS_RATE, 400, Throttled, True),
        ("InternalServerError", "", 500, StoreUnavailable, True),
        ("InternalServerError", "", 400, StoreUnavailable, True),
        ("500", "", 500, StoreUnavailable, True),
        ("ServiceUnavailable", "", 503, StoreUnavailable, True),
        # A throttling code is throttling with any status.
        ("ThrottlingException", "", 503, Throttled, True),
        ("ParameterNotFound", "", 400, ParameterNotFound, False),
        ("ParameterVersionNotFound", "Systems Manager could not find version 9", 400, ParameterNotFound, False),
        ("InvalidKeyId", "arn:aws:kms:eu-west-1:111122223333:key/1 is disabled.", 400, DecryptionFailed, False),
        ("AccessDeniedException", OLD_KMS, 400, DecryptionFailed, False),
        ("AccessDeniedException", f"{ROLE}: ssm:GetParameter on resource: *", 400, AccessDenied, False),
        ("ExpiredTokenException", "The security token included in the request is expired", 400, AccessDenied, False),
        ("UnrecognizedClientException", "The security token is invalid.", 400, AccessDenied, False),
        ("403", "Forbidden", 403, AccessDenied, False),
        ("ValidationException", "Parameter name: can't be prefixed with ssm", 400, InvalidPath, False),
        ("InvalidFilterKey", "", 400, InvalidPath, False),
        ("InvalidNextToken", "", 400, StoreUnavailable, True),
        ("SomethingNew", "nobody knows", 400, StoreUnavailable, False),
        ("404", "Not Found", 404, StoreUnavailable, False),
        ("", "", 0, StoreUnavailable, False),
    ],
)
def test_translation(code: str, text: str, status: int, kind: type[AiossmenvError], *, transient: bool) -> None:
    """Each error becomes the class that says what to do; only some of them say to wait."""
    error = translate(code, text, status)

    assert kind is type(error)
    assert transient == error.transient
    assert error.remedy


# Some of these codes come from proxies, STS and other services, which answer through Parameter Store.
ALIKE = {
    Throttled: "Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException SlowDown"
    " TooManyRequestsException RequestLimitExceeded BandwidthLimitExceeded LimitExceededException"
    " PriorRequestNotComplete 429",
    AccessDenied: "AccessDenied AccessDeniedException UnauthorizedOperation 403 401 AuthFailure ExpiredToken"
    " ExpiredTokenException RequestExpired InvalidClientTokenId UnrecognizedClientException IncompleteSignature"
    " InvalidSignatureException SignatureDoesNotMatch MissingAuthenticationToken MissingAuthenticationTokenException",
    InvalidPath: "ValidationException InvalidFilterKey InvalidFilterOption InvalidFilterValue",
    DecryptionFailed: "InvalidKeyId KMSInvalidStateException",
    ParameterNotFound: "ParameterNotFound ParameterVersionNotFound",
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in ALIKE.items() for code in codes.split()])
def test_equivalent_codes(kind: type[AiossmenvError], code: str) -> None:
    """Each code gives its error, whatever the text, and with any status below 500."""
    assert {kind} == {type(translate(code, text, status)) for text in ("", "words") for status in (400, 403, 0)}


def test_expired_credentials_and_missing_permissions() -> None:
    """The remedy for expired credentials differs from the one for a missing permission."""
    assert "Renew" in str(translate("ExpiredTokenException"))
    assert "Allow" in str(translate("AccessDeniedException"))


@pytest.mark.parametrize(
    "text",
    [
        f"{ROLE}: kms:Decrypt on this resource",
        "Access to the key is refused. (Service: AWSKMS; Status Code: 400; Error Code: AccessDeniedException)",
        "The ciphertext refers to a customer master key that you are not allowed to access.",
    ],
    ids=["action", "service", "key"],
)
def test_each_mark_of_a_denied_key(text: str) -> None:
    """Each of the markers that KMS puts in the text of a denial makes it `DecryptionFailed`."""
    assert type(translate("AccessDeniedException", text)) is DecryptionFailed


def test_denial_by_a_proxy_has_no_action() -> None:
    """A 403 without an error code of the service is not recorded as a missing permission."""
    forbidden, denied = translate("403", "", 403), translate("AccessDeniedException", "no", 400)

    assert isinstance(forbidden, AccessDenied)
    assert isinstance(denied, AccessDenied)
    assert (None, "proxy" in str(forbidden)) == (forbidden.action, True)
    assert denied.action


def test_text_of_the_service_is_kept() -> None:
    """The code and text of the service are in our text, so that users can search for them."""
    assert str(translate("SomethingNew", "nobody knows")).startswith("SomethingNew: nobody knows. ")
    assert str(translate("SomethingNew")).startswith("SomethingNew. ")


def test_denied_path_names_both_arns() -> None:
    """
    The remedy for a denied listing grants the path and everything below it, in the account and region of the text.
    """
    resource = "arn:aws-cn:ssm:cn-north-1:111122223333:parameter/FAKEBOOK/TEST"
    action = "ssm:GetParametersByPath"
    text = f"{ROLE}: {action} on resource: {resource} {NO_POLICY} {action} action"

    error = translate("AccessDeniedException", text, request=BY_PATH)

    assert type(error) is AccessDenied
    assert f"Allow {action} on both {resource} and {resource}/*." == error.remedy


@pytest.mark.parametrize(
    ("request_", "grant"),
    [
        (ONE, "ssm:GetParameter on {}DB_URL."),
        (BY_NAME, "ssm:GetParameters on {0}DB_URL, {0}DB_USER."),
    ],
)
def test_denied_names_are_named(request_: Request, grant: str) -> None:
    """The remedy for denied names grants the action on each name."""
    stem = "arn:aws:ssm:eu-west-1:111122223333:parameter/FAKEBOOK/TEST/"
    text = f"{ROLE}: ssm:GetParameters on resource: {stem}DB_USER with an explicit deny"

    assert f"Allow {grant.format(stem)}" == translate("AccessDeniedException", text, request=request_).remedy


@pytest.mark.parametrize("name", ["/A/X:3", "/A/X:live", "arn:aws:ssm:eu-west-1:111122223333:parameter/A/X"])
def test_denied_selector_is_named_without_it(name: str) -> None:
    """The remedy for a denied version, label or ARN has the parameter's ARN, because IAM knows no selectors."""
    resource = "arn:aws:ssm:eu-west-1:111122223333:parameter/A/X"
    text = f"{ROLE}: ssm:GetParameter on resource: {resource} {NO_POLICY} ssm:GetParameter action"

    error = translate("AccessDeniedException", text, request=GetParameter(name))

    assert f"Allow ssm:GetParameter on {resource}." == error.remedy


def test_denial_without_a_resource() -> None:
    """If the text names no resource, the remedy has ARNs with placeholders."""
    error = translate("AccessDeniedException", "no", request=BY_PATH)

    arn = "arn:aws:ssm:REGION:ACCOUNT:parameter/FAKEBOOK/TEST"
    assert f"Allow ssm:GetParametersByPath on both {arn} and {arn}/*." == error.remedy


def test_denial_on_everything_may_be_a_mistyped_name() -> None:
    """A denial whose resource ends in `:*` may mean a name that does not exist, and the remedy says so."""
    text = f"{ROLE}: ssm:GetParameter on resource: arn:aws:ssm:eu-west-1:111122223333:* {NO_POLICY} action"

    remedy = translate("AccessDeniedException", text).remedy or ""

    arn = "arn:aws:ssm:eu-west-1:111122223333:parameter/FAKEBOOK/TEST/DB_URL"
    assert remedy.startswith(f"Allow ssm:GetParameter on {arn}. ")
    assert "mistyped" in remedy
    named = text.replace(":*", ":parameter/FAKEBOOK/TEST/DB_URL")
    assert "mistyped" not in (translate("AccessDeniedException", named).remedy or "")


def test_denied_key_names_its_arn() -> None:
    """A denied kms:Decrypt is `DecryptionFailed`, and names the key if the text does."""
    key = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    text = (
        f"{ROLE}: kms:Decrypt on resource: {key} {NO_POLICY} kms:Decrypt action"
        " (Service: AWSKMS; Status Code: 400; Error Code: AccessDeniedException; Request ID: 1)"
    )

    error = translate("AccessDeniedException", text, request=BY_PATH)

    assert type(error) is DecryptionFailed
    assert f"Allow kms:Decrypt on {key} for this role." == error.remedy
    assert (translate("AccessDeniedException", OLD_KMS).remedy or "").startswith("Allow kms:Decrypt for this role. ")


@pytest.mark.parametrize("request_", [PUT, *WRITES], ids=lambda request: type(request).__name__)
def test_denied_writes_name_the_grant(request_: Request) -> None:
    """The remedy for a denied write grants its action on each name, or on everything where IAM knows no less."""
    stem = "arn:aws:ssm:eu-west-1:111122223333:"
    action = f"ssm:{type(request_).__name__}"
    text = f"{ROLE}: {action} on resource: {stem}parameter/FAKEBOOK/TEST/DB_URL {NO_POLICY} {action} action"

    error = translate("AccessDeniedException", text, request=request_)

    names = {
        DeleteParameters: ", ".join(f"{stem}parameter/FAKEBOOK/TEST/{name}" for name in ("DB_URL", "DB_USER")),
        DescribeParameters: "*: IAM cannot grant it on less",
    }
    on = names.get(type(request_), f"{stem}parameter/FAKEBOOK/TEST/DB_URL")
    assert (action, f"Allow {action} on {on}.") == (getattr(error, "action", None), error.remedy)


def test_denied_tags_of_a_write() -> None:
    """A write that is denied because of its tags names the right to tag."""
    text = f"{ROLE}: ssm:AddTagsToResource on resource: * {NO_POLICY} ssm:AddTagsToResource action"

    assert "Allow ssm:AddTagsToResource on" in (translate("AccessDeniedException", text, request=PUT).remedy or "")


@pytest.mark.parametrize("right", ["kms:Encrypt", "kms:GenerateDataKey"])
def test_denied_key_of_a_write(right: str) -> None:
    """A key that may not be used for a write is `DecryptionFailed`, with the right that is missing."""
    key = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    named = f"{ROLE}: {right} on resource: {key} {NO_POLICY} {right} action (Service: AWSKMS; Status Code: 400)"

    assert f"Allow {right} on {key} for this role." == translate("AccessDeniedException", named, request=PUT).remedy
    unnamed = translate("AccessDeniedException", "No. (Service: AWSKMS; Status Code: 400)", request=PUT)
    assert (unnamed.remedy or "").startswith("Allow kms:Encrypt for this role. ")


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("hunter2", "cannot be hunter2", False),
        ("hunter2", "Value 'hun...' at 'value' failed", False),
        ("y", "the policy", True),
        ("y", "no y", False),
    ],
)
def test_value_is_not_quoted(value: str, text: str, *, shown: bool) -> None:
    """A text of the service that may quote the value is left out; one that only has its letters is kept."""
    put = PutParameter(name="/A", value=value)

    assert shown == (text in str(translate("ValidationException", text, request=put)))
