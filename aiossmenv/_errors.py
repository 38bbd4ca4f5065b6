"""The errors. `AiossmenvError` has their tree, with what each asks of the reader."""

from collections.abc import Mapping
from types import MappingProxyType


class AiossmenvError(Exception):
    """
    Base of all errors that this library raises on purpose. They differ by what you do next.

        AiossmenvError
         +- AccessDenied        fix the credentials or the policy
         +- Throttled           wait, or raise the quota
         +- InvalidPath         fix the path or the name
         +- EmptyPath           fix the path, or pass allow_empty=True
         +- ParameterNotFound   fix the name, or create the parameter
         +- ParameterAlreadyExists  pass overwrite=True, or take another name
         +- InvalidParameter    fix what you write: value, type, tier, key or tags
         +- MissingParameters   create what is named
         +- KeyCollision        rename a parameter, or pass another to_key
         +- InvalidVariable     pass another to_key, or environ=None
         +- DecryptionFailed    fix the key, or the role's right to use it
         +- ExpansionFailed     correct the value, or take it out of expand=
         +- StoreUnavailable    wait, or fix the network, the endpoint or the region
         +- StaleEnv            find out why refreshes fail: env.status.last_error; or load after the fork
         +- RotationFailed      fix the resource or its credentials

    The text of an error names parameter, path, region and remedy as far as they are known, and no value.

    Attributes:
        parameter: The parameter's name, or `None`.
        path: The path, or `None`.
        region: The region, or `None`.
        remedy: What to do, or `None`.
        transient: Whether the same call may succeed later although you change nothing.
    """

    transient = False
    # Whether it is certain that the request was not carried out: a write may then be sent again without a look at it.
    _not_carried_out = False

    def __init__(
        self,
        message: str = "",
        *,
        parameter: str | None = None,
        path: str | None = None,
        region: str | None = None,
        remedy: str | None = None,
        transient: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.path = path
        self.region = region
        self.remedy = remedy
        if transient is not None:
            self.transient = transient

    def __str__(self) -> str:
        where = ", ".join(
            f"{label} {value}"
            for label, value in (("parameter", self.parameter), ("path", self.path), ("region", self.region))
            if value is not None
        )
        # The service's own sentences end in a full stop, which is out of place before what follows.
        text = f"{super().__str__().removesuffix('.')} ({where})".strip() if where else super().__str__()
        return f"{text.removesuffix('.')}. {self.remedy}" if self.remedy else text


class AccessDenied(AiossmenvError):
    """
    There are no usable credentials, or IAM refused an action to them.

    Attributes:
        action: The action that Parameter Store refused, such as `ssm:GetParameters`. `None` if something else refused:
            STS, IAM Identity Center, a container's endpoint, or a file or process that provides the credentials.
    """

    def __init__(
        self,
        message: str = "",
        *,
        action: str | None = None,
        remedy: str | None = None,
        transient: bool | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy, transient=transient)
        self.action = action


class Throttled(AiossmenvError):
    """Parameter Store, or KMS behind it, throttled requests until the deadline was over."""

    transient = True


class InvalidPath(AiossmenvError):
    """A path or a name that cannot exist, or no path at all."""


class EmptyPath(AiossmenvError):
    """A path that holds no parameter. Parameter Store does not tell it from a misspelled one."""


class ParameterNotFound(AiossmenvError):
    """There is no parameter, version or label of this name."""


class ParameterAlreadyExists(AiossmenvError):
    """There is a parameter of this name, and `overwrite=False` was passed."""


class InvalidParameter(AiossmenvError):
    """
    A write that Parameter Store does not take: a value, type, tier, key or tag, or one parameter or version too many.

    The text quotes no value.
    """


class MissingParameters(AiossmenvError):
    """
    Keys that were declared required have no parameter.

    Attributes:
        keys: All of them, sorted.
    """

    def __init__(
        self,
        message: str = "",
        *,
        keys: tuple[str, ...] = (),
        path: str | None = None,
        region: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, path=path, region=region, remedy=remedy)
        self.keys = keys


class KeyCollision(AiossmenvError):
    """
    Several parameters of one path have the same key.

    Attributes:
        collisions: The names of the parameters of each such key.
    """

    def __init__(
        self,
        message: str = "",
        *,
        collisions: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        path: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, path=path, remedy=remedy)
        self.collisions = dict(collisions)


class InvalidVariable(AiossmenvError):
    """Keys or values that an environment cannot hold, or keys that `protected` refuses. The text names all of them."""


class DecryptionFailed(AiossmenvError):
    """KMS refused or could not decrypt a SecureString, or encrypt one that is written."""


class ExpansionFailed(AiossmenvError):
    """
    The value of a parameter is not what `expand` says that it is. The text quotes nothing of the value.

    Attributes:
        line: Where in the value, from 1.
        column: Where in that line, from 1.
    """

    def __init__(
        self,
        message: str = "",
        *,
        line: int | None = None,
        column: int | None = None,
        parameter: str | None = None,
        path: str | None = None,
        region: str | None = None,
        remedy: str | None = None,
        transient: bool | None = None,
    ) -> None:
        super().__init__(message, parameter=parameter, path=path, region=region, remedy=remedy, transient=transient)
        self.line = line
        self.column = column


class StoreUnavailable(AiossmenvError):
    """
    Parameter Store gave no usable answer, or no request could be sent to it.

    Attributes:
        transient: True if that may pass: the network, a proxy, a server error, a malformed body, or a source of
            credentials that does not answer now. False if not: certificates, the region, the endpoint, a proxy that
            refuses, a bug.
    """

    transient = True


class StaleEnv(AiossmenvError):
    """The newest snapshot is older than *max_stale*, or nothing refreshes it in this process or on this event loop."""


class RotationFailed(AiossmenvError):
    """A resource could not be built from its keys, or it is closed, or it belongs to another process or event loop."""


ERRORS = (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    EmptyPath,
    ExpansionFailed,
    InvalidParameter,
    InvalidPath,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    ParameterAlreadyExists,
    ParameterNotFound,
    RotationFailed,
    StaleEnv,
    StoreUnavailable,
    Throttled,
)
for _error in ERRORS:
    # Tracebacks and pickles name the package, where users import the errors from.
    _error.__module__ = "aiossmenv"
del _error
