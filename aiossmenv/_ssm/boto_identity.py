"""
What the SDK finds where this process runs, and as whom it acts there: for commands that explain it.

A session is made as a store makes its own one, and is passed to a store, so that what is said here is what reads use.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aiossmenv._errors import AccessDenied, AiossmenvError
from aiossmenv._ssm.boto_errors import _answer, _network, detached, error_of, step
from aiossmenv._ssm.boto_session import _enter, new_session
from aiossmenv._ssm.boto_surroundings import Surroundings
from aiossmenv._ssm.service_errors import message_of
from aiossmenv._ssm.transport import GetParameter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom requests are signed: the *account*, and the *arn* of the user or of the role and its session."""

    account: str
    arn: str


class SdkView:
    """
    What the SDK finds, beside the *session* that it is found by.

    *region*: instead of the SDK's own. Use `open()`.
    """

    def __init__(self, session: Any, surroundings: Surroundings, region: str | None) -> None:
        self.session = session
        self._surroundings = surroundings
        self._given_region = region

    @classmethod
    async def open(cls, region: str | None = None) -> "SdkView":
        """Make the session, or raise what is wrong with the configuration."""
        surroundings = Surroundings()
        session = await _translated(asyncio.to_thread(new_session, surroundings), "configuration")
        return cls(session, surroundings, region)

    @property
    def region(self) -> str | None:
        """The region; `None` if nothing names one."""
        found: str | None = self._given_region or self.session.region_name
        return found

    async def identity(self) -> Identity:
        """Ask STS; raises `AiossmenvError`."""
        await self._credentials()
        client = await _translated(
            asyncio.to_thread(lambda: asyncio.run(_enter(self.session.client("sts", region_name=self.region)))),
            "configuration",
        )
        fault: AiossmenvError
        cause: Exception | None = None
        try:
            answer: Mapping[str, str] = await client.get_caller_identity()
        except Exception as error:
            fault, cause = _sts_error(error), detached(error)
        else:
            return Identity(answer["Account"], answer["Arn"])
        finally:
            await client.__aexit__(None, None, None)
        raise fault from cause

    async def _credentials(self) -> Any:
        """Return the credentials of the session, fetched; raises `AiossmenvError`."""

        async def find() -> Any:
            credentials = await self.session.get_credentials()
            if credentials is not None:
                await credentials.get_frozen_credentials()
            return credentials

        return await _translated(find(), "credentials")


async def _translated(work: Awaitable[T], now: str) -> T:
    """Do *work*, and translate what the SDK raises; *now*: the step that this is."""
    fault: AiossmenvError
    cause: Exception | None = None
    token = step.set(now)  # type: ignore[arg-type] # one of its literals
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
    return error_of(error, _NOTHING)
