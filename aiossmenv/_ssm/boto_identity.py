"""
What the SDK finds where this process runs, and as whom it acts there: for commands that explain it.

A session is made as a store makes its own one, and is passed to a store, so that what is said here is what reads use.
No secret key, token or password is in what this gives.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from aiossmenv._errors import AccessDenied, AiossmenvError, StoreUnavailable
from aiossmenv._ssm.boto_errors import (
    _NO_CREDENTIALS,
    _answer,
    _kind_and_text,
    _network,
    check_region,
    detached,
    error_of,
    source_of,
    step,
)
from aiossmenv._ssm.boto_session import _trusted, new_session
from aiossmenv._ssm.boto_surroundings import Surroundings
from aiossmenv._ssm.service_errors import THROTTLED, message_of
from aiossmenv._ssm.transport import GetParameter

T = TypeVar("T")

# So many characters of an access key id tell it from others, and are of no use to others.
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom requests are signed: the *account*, and the *arn* of the user or of the role and its session."""

    account: str
    arn: str


@dataclass(frozen=True, slots=True)
class CredentialsView:
    """
    What may be said of credentials.

    *method*: what the SDK calls their source; *source*: its name in a sentence. *access_key*: the end of the access key
    id. *expires*: when they have to be renewed, if ever.
    """

    method: str
    source: str
    access_key: str
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class Answer:
    """
    An answer of Parameter Store: after how many *seconds*, and whether it said that the request was *throttled*.

    *clock_offset*: seconds by which its clock is ahead of the one here, if it says.
    """

    seconds: float
    clock_offset: float | None
    throttled: bool


@dataclass(eq=False, slots=True)
class Wire:
    """What went to Parameter Store and came from there: the *endpoint* of requests, and the *answers*."""

    endpoint: str = ""
    answers: list[Answer] = field(default_factory=list)


class SdkView:
    """
    What the SDK finds, beside the *session* that it is found by, and the *wire* that all its requests go over.

    *region*: instead of the SDK's own. Use `open()`.
    """

    def __init__(self, session: Any, surroundings: Surroundings, region: str | None) -> None:
        self.session = session
        self.wire = Wire()
        self._surroundings = surroundings
        self._given_region = region
        listen(self.wire, session)

    @classmethod
    async def open(cls, region: str | None = None) -> "SdkView":
        """Make the session, or raise what is wrong with the configuration."""
        surroundings = Surroundings()
        session = await _translated(asyncio.to_thread(new_session, surroundings), "configuration")
        return cls(session, surroundings, region)

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the SDK's packages, by name."""
        return {name: version(name) for name in ("aioboto3", "aiobotocore", "botocore")}

    @property
    def region(self) -> str | None:
        """The region; `None` if nothing names one."""
        found: str | None = self._given_region or self.session.region_name
        return found

    @property
    def region_source(self) -> str:
        """What names the region."""
        if self._given_region:
            return "--region"
        variables = (name for name in ("AWS_REGION", "AWS_DEFAULT_REGION") if self._surroundings.get(name))
        return next(variables, f"the profile {self.session.profile_name!r} of the AWS configuration")

    async def check_region(self) -> None:
        """Raise if there is no region, or if it is none."""

        async def check() -> None:
            from botocore.exceptions import NoRegionError

            check_region(self._given_region, self.session)
            if not self.region:
                raise NoRegionError

        await _translated(check(), "configuration")

    def proxy_for(self, url: str) -> str:
        """Return the URL of the proxy for *url*, without user and password, or nothing."""
        proxy = self._surroundings.proxies_for(url).get(urlsplit(url).scheme, "")
        # A password may hold each of these characters, and a user may be a token.
        scheme, slashes, rest = proxy.partition("://") if "://" in proxy.partition("@")[0] else ("", "", proxy)
        _, at, host = rest.rpartition("@")
        return f"{scheme}{slashes}***@{host}" if at else proxy

    @property
    def ca_bundle(self) -> str:
        """The file of certificates that are trusted, or nothing where that is the SDK's own."""
        trusted = _trusted(self.session._session, self._surroundings)
        return trusted if isinstance(trusted, str) else ""

    async def credentials(self) -> CredentialsView:
        """Return what may be said of the credentials; raises `AiossmenvError` if there are none that are usable."""
        credentials = await self._credentials()
        frozen = await credentials.get_frozen_credentials()
        method = str(credentials.method)
        # The SDK shows it nowhere else.
        expires = getattr(credentials, "_expiry_time", None)
        return CredentialsView(method, source_of(method).name, str(frozen.access_key)[-_SHOWN:], expires)

    async def identity(self) -> Identity:
        """Ask STS; raises `AiossmenvError`."""
        await self._credentials()
        fault: AiossmenvError
        cause: Exception | None = None
        try:
            async with self.session.client("sts", region_name=self.region) as client:
                answer = await client.get_caller_identity()
            return Identity(answer["Account"], answer["Arn"])
        except Exception as error:
            fault, cause = _sts_error(error), detached(error)
        raise fault from cause

    async def _credentials(self) -> Any:
        """Return the credentials of the session, fetched; raises `AiossmenvError`."""

        async def find() -> Any:
            credentials = await self.session.get_credentials()
            if credentials is None:
                raise AccessDenied("there are no credentials", remedy=_NO_CREDENTIALS, transient=False)
            await credentials.get_frozen_credentials()
            return credentials

        return await _translated(find(), "credentials")


# When the request of the running task was sent.
_sent: ContextVar[float] = ContextVar("aiossmenv sent")


def listen(wire: Wire, session: Any) -> None:
    """Note in *wire* what clients that *session* makes from now on send to Parameter Store and get from there."""

    def sending(request: Any, **_: object) -> None:
        url = urlsplit(request.url)
        wire.endpoint = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
        _sent.set(time.perf_counter())

    def answered(response_dict: Mapping[str, Any], **_: object) -> None:
        seconds = time.perf_counter() - _sent.get()
        offset = _clock_offset(response_dict["headers"].get("Date"))
        wire.answers.append(Answer(seconds, offset, _is_throttled(response_dict)))

    session.events.register_first("before-send.ssm", sending)
    session.events.register_first("before-parse.ssm", answered)


def _clock_offset(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return None


def _is_throttled(response: Mapping[str, Any]) -> bool:
    try:
        code = json.loads(response["body"])["__type"]
    except (ValueError, LookupError, TypeError):
        return False
    return str(code).rpartition("#")[2] in THROTTLED


async def _translated(work: Awaitable[T], now: Literal["configuration", "credentials"]) -> T:
    """Do *work*, and translate what the SDK raises; *now*: the step that this is."""
    fault: AiossmenvError
    cause: Exception | None = None
    token = step.set(now)
    try:
        return await work
    except Exception as error:
        fault, cause = error_of(error, _NOTHING), detached(error)
    finally:
        step.reset(token)
    raise fault from cause


# For the translation of what is no answer to a request; it tells no error by what was asked for.
_NOTHING = GetParameter("")


def _sts_error(error: Exception) -> AiossmenvError:
    """Return what an error of GetCallerIdentity means."""
    from botocore import exceptions as sdk

    if isinstance(error, sdk.ClientError):
        answer = _answer(error.response)
        text = message_of(answer)
        return AccessDenied(f"STS refused GetCallerIdentity: {answer.code}{text and f': {text}'}")
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError):
        return _network(error, "STS")
    return StoreUnavailable(f"STS did not say the identity: {_kind_and_text(error)}")
