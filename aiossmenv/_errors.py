"""
The errors, and what each asks of you.

    AiossmenvError
     +- AccessDenied        fix the credentials or the policy
     +- Throttled           wait, or raise the quota
     +- InvalidPath         fix the path or the name
     +- EmptyPath           fix the path, or pass allow_empty=True
     +- ParameterNotFound   fix the name, or create the parameter
     +- MissingParameters   create what is named
     +- KeyCollision        rename a parameter, or pass another to_key
     +- InvalidVariable     pass another to_key, or environ=None
     +- DecryptionFailed    fix the key, or the role's right to use it
     +- StoreUnavailable    wait, or fix the network, the endpoint or the region
     +- StaleEnv            find out why refreshes fail: env.status.last_error; or load after the fork
     +- RotationFailed      fix the resource or its credentials

Every one carries *parameter*, *path*, *region* and *remedy*, each a `str` or `None`, and *transient*: whether the
same call may succeed later with nothing changed by you. The text holds them all. No error holds a value.
"""

from collections.abc import Mapping
from types import MappingProxyType


class AiossmenvError(Exception):
    """Base of all errors that this library raises on purpose."""

    transient = False

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
    There are no usable credentials, or IAM refused *action*, as `ssm:GetParameters`, to them.

    *action* is `None` where it is not Parameter Store that refuses: STS, IAM Identity Center, a container's endpoint, a
    file or a process that is to give the credentials.
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
    """Parameter Store, or KMS behind it, asked us to slow down until the deadline was over."""

    transient = True


class InvalidPath(AiossmenvError):
    """A path or a name that cannot exist, or none at all."""


class EmptyPath(AiossmenvError):
    """A path that holds no parameter: to Parameter Store a typo looks just so."""


class ParameterNotFound(AiossmenvError):
    """There is no parameter, version or label of this name."""


class MissingParameters(AiossmenvError):
    """Keys that were declared required have no parameter; *keys* holds all of them, sorted."""

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
    """Parameters of one path map to one key; *collisions* maps each such key to its parameters' names."""

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
    """Parameters whose keys or values cannot, or by *protected* must not, be put into an environment; all are named."""


class DecryptionFailed(AiossmenvError):
    """KMS refused or could not decrypt a SecureString."""


class StoreUnavailable(AiossmenvError):
    """
    Parameter Store gave no usable answer, or no request could be sent to it.

    *transient* where that may pass: the network, a proxy, a server error, a malformed body, or a source of credentials
    that does not answer now. Not where it cannot: certificates, the region, the endpoint, a proxy that refuses, a bug.
    """

    transient = True


class StaleEnv(AiossmenvError):
    """The newest snapshot is older than *max_stale* seconds, or of another process or event loop and is not refreshed."""


class RotationFailed(AiossmenvError):
    """A resource could not be built from the credentials at hand, or is closed."""


ERRORS = (
    AccessDenied,
    AiossmenvError,
    DecryptionFailed,
    EmptyPath,
    InvalidPath,
    InvalidVariable,
    KeyCollision,
    MissingParameters,
    ParameterNotFound,
    RotationFailed,
    StaleEnv,
    StoreUnavailable,
    Throttled,
)
for _error in ERRORS:
    # They are imported from the package, so that is where tracebacks and pickles say they are.
    _error.__module__ = "aiossmenv"
del _error
