"""
Secrets and settings from AWS Systems Manager Parameter Store, in the environment of an asyncio service.

    from aiossmenv import load_env

    env = await load_env("/FAKEBOOK/TEST/")                    # once: os.environ is filled
    async with load_env("/FAKEBOOK/TEST/", ttl=60) as env:     # kept current until the block ends
        env["DB_URL"]

`load_env` has the options, `load_env_sync` is the same for code that is not async, `Env` is what they return, and
`AiossmenvError` has the tree of errors with what to do about each: `help(aiossmenv.AiossmenvError)`. The modules
`aiossmenv.mysql`, `aiossmenv.sqlalchemy`, `aiossmenv.fastapi`, `aiossmenv.pydantic` and `aiossmenv.testing` describe
themselves, and so does the command, `aiossmenv --help`. This page says what happens unless an option says otherwise.

## Loading

- An error leaves the environment as it was. Ciphertext never gets into it.
- Paths are the arguments, several if needed (of two that give one key the later wins), or `$SSM_PATH`.
- A path that holds nothing is `EmptyPath`, because Parameter Store does not tell it from a misspelled one
  (`allow_empty`).
- Names become keys: `/`, `.` and `-` become an underscore, in upper case (`to_key`). Two names of one path that become
  one key are `KeyCollision`.
- A variable that was set before is replaced. With `override=False` it stays, and `env.shadowed` lists it.
- A key that makes programs run other code, such as `PATH`, `LD_PRELOAD` or `PYTHONPATH`, is `InvalidVariable`; in a
  refresh too, and the last good values stay. `protected` takes a list of your own; `()` allows all.
- A name in `keys` that the store does not have is left out and named in one warning; `required` makes it an error.
  `keys` also takes versions (`DB_URL:3`), labels (`DB_URL:live`) and secrets of Secrets Manager
  (`/aws/reference/secretsmanager/ID`).
- A parameter is one variable. With `expand` one that holds an object of JSON, or lines `KEY=VALUE`, is as many as there
  are names in it, and its own name is no part of their keys. A value that is neither is `ExpansionFailed`, which names
  the line and the column and quotes nothing. The names in it become keys, and so logs and errors show them.
- A request that is throttled, times out, is reset or gets a server error is sent again, with full jitter, until
  `deadline` is over (30 seconds). Denied, not found and mistyped fail at once, and so does what goes wrong before a
  request is sent: credentials, token files, certificates, proxies. Each error says which side it comes from, and names
  the parameter or the path, the region, and what to do.
- More than 50 changed variables are written in slices, and other tasks run in between. `env` itself changes at once.
- The SDK is imported in a thread, with the first request; `import aiossmenv` does not import it. The trusted
  certificates are read in a thread too, once for all connections.

## Refreshing

- Without `ttl` nothing stays open after the load.
- With `ttl` a refresh begins after 80 to 95 % of each TTL. The first one begins at a random time within the first 95 %
  of the TTL, so that processes which start together spread their reads.
- A refresh reads the known names without decryption, ten to a call, and decrypts what differs. While nothing changes it
  costs no KMS call.
- A listing finds what was added. It is due after 80 to 95 % of `list_interval`, by default five TTLs. `await
  env.refresh()` lists at once.
- After 80 to 95 % of `revalidate_interval`, by default 12 hours, everything is decrypted again, which notices a right
  that was taken away.
- `env.group(*keys)` says which keys belong together: when one of them changes, all are read again in one call, which
  holds ten.
- If a refresh fails, nothing changes: the last good values stay, `env.status` and the log say why, and the next try
  comes after an exponential backoff with full jitter. A refresh that was throttled doubles the interval instead, up to
  an hour. A refresh that lacks a `required` key or finds two parameters of one key fails too: alert on
  `env.status.fresh`.
- A parameter counts as gone when two reads in a row miss it, the second of them a listing, because it may have been
  renamed. Its variable is unset if it still has the value that we gave it.
- Of a parameter that `expand` takes apart, only the keys whose values changed are changes.
- The region, identity, endpoint, proxies and certificates of a store are those of its first request, also when it
  connects again, renews credentials or is forked. A session of your own renews its credentials as it always does. A
  parameter called `AWS_REGION` sets the variable, for other clients and for child processes; one warning names such
  variables.
- A certificate and its host name are checked, behind a proxy too, which aiobotocore itself does from 3.9 on.
- Without a right to GetParameters it uses GetParameter and listings. A right that was denied is tried again, with one
  request, when the next listing is due; an `Env` that plans no listing tries after five minutes. The log names the
  denial once, with the ARN to allow.

## Writing

- Loads and refreshes write nothing. `ParameterStore.put()`, `put_many()` and `delete()` do.
- Names, values, types and tiers are checked before the first request.
- An account allows 3 writes a second by default. Writes find out what it allows, and do not slow reads down.
- A write is sent again if it was throttled or never sent. If its answer was lost, the parameter is read: without
  decryption if nothing changed, and then it is sent again; if its value is ours, it was written. Otherwise the error
  says that the outcome is unknown, and which version is there. What another writer wrote meanwhile is not overwritten.
- A deletion is sent again like a read.

## Processes and event loops

Load in each worker process and on each event loop. An `Env` with a `ttl` raises `StaleEnv` in a forked child and on a
second loop, because nothing refreshes it there. One without a `ttl` works there, on one loop at a time. Where no task
can run in the background, as on AWS Lambda, call `await env.ensure_fresh(60)` when a request begins. In an outage it
returns within 5 seconds, and the last good values stay unless they are older than `max_stale`.

## Secrets

No value is in a repr, a log of any level, an error, its causes, or the variables of our frames. The SDK's logs of what
Parameter Store answers are withheld too. Not hidden are `os.environ`, and with it child processes, `/proc` and core
dumps (`environ=None` sets no variables); what your own functions and drivers raise; and plain `str` fields of settings
(use `SecretStr`). No value is written to a disk, except by the command `aiossmenv export --output`.

## Costs

A refresh of *n* parameters is *n*/10 requests of the 40 a second that an account has by default. A client that is
throttled slows down to the rate that worked, and speeds up from there: at 40 a second one client reads 1,000 names in
1.7 s. An `Env` takes 0.8 KB for each parameter, beside its value. With 10,000 parameters a refresh holds the event loop
for 5 to 9 ms at a time and a load for 10 ms; a full garbage collection comes on top. Of 10,000 processes that start at
once on 40 requests a second none fails, and half have loaded after 286 s. `tests/benchmarks/run` measures all of this.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiossmenv._concurrency import Clock
    from aiossmenv._env import Env
    from aiossmenv._errors import (
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
    from aiossmenv._load import load_env
    from aiossmenv._models import (
        Change,
        Parameter,
        ParameterHistory,
        ParameterMetadata,
        Snapshot,
        Status,
        Written,
        diff,
    )
    from aiossmenv._rotating import Rotating, RotatingStatus
    from aiossmenv._ssm.store import ParameterStore
    from aiossmenv._ssm.transport import (
        AddTagsToResource,
        AddTagsToResourceResult,
        DeleteParameters,
        DeleteParametersResult,
        DescribeParameters,
        DescribeParametersResult,
        EncryptedParameter,
        GetParameter,
        GetParameterHistory,
        GetParameterHistoryResult,
        GetParameters,
        GetParametersByPath,
        Page,
        PutParameter,
        PutParameterResult,
        ServiceError,
        Transport,
    )
    from aiossmenv._sync import load_env_sync

    __version__: str

__all__ = [
    "AccessDenied",
    "AddTagsToResource",
    "AddTagsToResourceResult",
    "AiossmenvError",
    "Change",
    "Clock",
    "DecryptionFailed",
    "DeleteParameters",
    "DeleteParametersResult",
    "DescribeParameters",
    "DescribeParametersResult",
    "EmptyPath",
    "EncryptedParameter",
    "Env",
    "ExpansionFailed",
    "GetParameter",
    "GetParameterHistory",
    "GetParameterHistoryResult",
    "GetParameters",
    "GetParametersByPath",
    "InvalidParameter",
    "InvalidPath",
    "InvalidVariable",
    "KeyCollision",
    "MissingParameters",
    "Page",
    "Parameter",
    "ParameterAlreadyExists",
    "ParameterHistory",
    "ParameterMetadata",
    "ParameterNotFound",
    "ParameterStore",
    "PutParameter",
    "PutParameterResult",
    "Rotating",
    "RotatingStatus",
    "RotationFailed",
    "ServiceError",
    "Snapshot",
    "StaleEnv",
    "Status",
    "StoreUnavailable",
    "Throttled",
    "Transport",
    "Written",
    "diff",
    "load_env",
    "load_env_sync",
]

_MODULES = {
    "AddTagsToResource": "_ssm.transport",
    "AddTagsToResourceResult": "_ssm.transport",
    "Change": "_models",
    "Clock": "_concurrency",
    "DeleteParameters": "_ssm.transport",
    "DeleteParametersResult": "_ssm.transport",
    "DescribeParameters": "_ssm.transport",
    "DescribeParametersResult": "_ssm.transport",
    "EncryptedParameter": "_ssm.transport",
    "Env": "_env",
    "GetParameter": "_ssm.transport",
    "GetParameterHistory": "_ssm.transport",
    "GetParameterHistoryResult": "_ssm.transport",
    "GetParameters": "_ssm.transport",
    "GetParametersByPath": "_ssm.transport",
    "Page": "_ssm.transport",
    "Parameter": "_models",
    "ParameterHistory": "_models",
    "ParameterMetadata": "_models",
    "ParameterStore": "_ssm.store",
    "PutParameter": "_ssm.transport",
    "PutParameterResult": "_ssm.transport",
    "Rotating": "_rotating",
    "RotatingStatus": "_rotating",
    "ServiceError": "_ssm.transport",
    "Snapshot": "_models",
    "Status": "_models",
    "Transport": "_ssm.transport",
    "Written": "_models",
    "diff": "_models",
    "load_env": "_load",
    "load_env_sync": "_sync",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("aiossmenv")
    if name not in __all__:
        raise AttributeError(f"module 'aiossmenv' has no attribute {name!r}")
    value: object = getattr(import_module(f"aiossmenv.{_MODULES.get(name, '_errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
