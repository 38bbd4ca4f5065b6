"""
What a role can read of what `load_env` wants, and what it would lead to: the checks of `doctor` that send requests.

Each check has a deadline, and its failure is a finding as well, so no check hides another.
"""

import asyncio
import contextlib
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aiossmenv._environ import PROTECTED, Edit, check_variables, read_by_sdk
from aiossmenv._errors import (
    AiossmenvError,
    DecryptionFailed,
    EmptyPath,
    InvalidVariable,
    ParameterNotFound,
    StoreUnavailable,
    Throttled,
)
from aiossmenv._models import Parameter, ParameterMetadata
from aiossmenv._naming import REFERENCE, base_name, is_reference, relative_name, upper_snake
from aiossmenv._spec import EnvSpec
from aiossmenv._ssm.merge import StoreState
from aiossmenv._ssm.permissions import is_denial
from aiossmenv._ssm.store import ParameterStore
from aiossmenv._ssm.transport import (
    BATCH,
    EncryptedParameter,
    GetParameter,
    GetParameters,
    GetParametersByPath,
    Page,
    Query,
    ReadRequest,
    Transport,
    batches,
)
from aiossmenv.cli._findings import Finding, Level, counted, named, of_error, would_load
from aiossmenv.cli._program import kernel_limit
from aiossmenv.cli._run import describe

if TYPE_CHECKING:
    from aiossmenv._ssm.boto_identity import SdkView

# Reads in a second that an account has by default.
_QUOTA = 40
# Seconds before a request that may go well later is sent again.
_PAUSES = (0.1, 0.3)
# So many names are decrypted one by one where not all can be.
_APART = 20


@dataclass(eq=False, slots=True)
class Context:
    """
    What the checks share: what is looked at, and what was seen of it.

    *stored*: what is there, by name; a value that KMS does not decrypt is empty. *undecrypted*: why, by name.
    """

    sdk: "SdkView"
    store: ParameterStore
    spec: EnvSpec
    deadline: float
    load_deadline: float
    stored: dict[str, Parameter] = field(default_factory=dict)
    undecrypted: dict[str, DecryptionFailed] = field(default_factory=dict)
    metadata: dict[str, ParameterMetadata] = field(default_factory=dict)


async def within(
    seconds: float | None, subject: str, check: Awaitable[list[Finding]], level: Level = "error"
) -> list[Finding]:
    """Return what *check* finds within *seconds*, `None` for any time; that it fails is a finding of this *level*."""
    try:
        async with asyncio.timeout(seconds):
            return await check
    except TimeoutError:
        text = f"no answer within {seconds:g} seconds"
        return [Finding(level, subject, text, "Check the network and the endpoint, or pass a longer --deadline.")]
    except AiossmenvError as error:
        return [of_error(level, subject, error)]
    except Exception as error:
        return [Finding(level, subject, describe(error), "This is a bug of aiossmenv, or of the SDK.")]


async def of_reads_and_load(context: Context) -> list[Finding]:
    """Try each read that `load_env` may use, and read as it does."""
    tries = await _try_reads(context)
    if all(tried.is_unanswered for tried in tries):
        return _of_tries(context.spec, tries, "error")
    load, described = await asyncio.gather(
        # Its own deadlines end it before this one does.
        within(context.load_deadline + 3 * context.deadline, "load", _of_load(context)),
        within(None, "keys of KMS", _describe(context), "note"),
    )
    load += _of_keys(context)
    # Whether the load works is what counts: it may need none of the reads that fail, or they went well later.
    reads = _of_tries(context.spec, tries, "warning" if would_load(load) else "error")
    return [*reads, *_of_choice(context.spec, tries), *load, *described, *_of_quota(context)]


@dataclass(frozen=True, slots=True)
class _Tried:
    """A request, and what came of it after so many seconds; `None`: nothing, within the deadline."""

    request: ReadRequest
    result: Page | AiossmenvError | None
    seconds: float

    @property
    def operation(self) -> str:
        return type(self.request).__name__

    @property
    def is_allowed(self) -> bool:
        return isinstance(self.result, Page | ParameterNotFound)

    @property
    def is_unanswered(self) -> bool:
        return isinstance(self.result, StoreUnavailable | None)

    def finding(self, spec: EnvSpec, failed: Level, subject: str = "") -> Finding:
        """Return what came of it; *failed*: how bad a failure is that nothing makes up for."""
        subject = subject or f"{self.operation} {_asked(self.request)}"
        if self.result is None:
            remedy = "Check the network and the endpoint, or pass a longer --deadline."
            return Finding(failed, subject, "no answer within the deadline", remedy)
        if isinstance(self.result, Page | ParameterNotFound):
            return Finding("ok", subject, f"allowed, {self.seconds * 1000:.0f} ms")
        level = failed
        if is_denial(self.result) and not isinstance(self.request, GetParametersByPath):
            # One makes up for the other, and a load without names needs neither.
            level = "warning" if isinstance(self.request, GetParameters) or spec.names is not None else "note"
        return of_error(level, subject, self.result)


def _asked(request: ReadRequest) -> str:
    if isinstance(request, GetParametersByPath):
        return request.path
    return request.name if isinstance(request, GetParameter) else named(request.names, 1)


async def _try_reads(context: Context) -> list[_Tried]:
    tried = await asyncio.gather(*(_try_query(context, query) for query in context.spec.queries))
    return [each for some in tried for each in some]


async def _try_query(context: Context, query: Query) -> list[_Tried]:
    """Try each read that a load of *query*, and a refresh after it, may use."""
    listed: list[_Tried] = []
    names = query.names or ()
    if query.names is None:
        listed = [await _try(context, GetParametersByPath(query.path, query.recursive, with_decryption=False))]
        page = listed[0].result
        names = tuple(item.name for item in page.parameters) if isinstance(page, Page) else ()
        # A name that there is not: the answer still says what the role may do.
        names = names or (f"{query.path.rstrip('/')}/aiossmenv-doctor",)
    requests: list[ReadRequest] = [GetParameters(next(batches(names)), with_decryption=False)]
    if query.path == REFERENCE:
        # Parameter Store gives a secret alone, and decrypted.
        requests = [GetParameter(name) for name in names]
    else:
        requests.append(GetParameter(names[0], with_decryption=False))
    return [*listed, *await asyncio.gather(*(_try(context, request) for request in requests))]


async def _try(context: Context, request: ReadRequest) -> _Tried:
    result: Page | AiossmenvError | None = None
    began = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(context.deadline):
            transport = await context.store._connected()
            result = await _sent(transport, request)
            for pause in _PAUSES:
                if isinstance(result, Page) or not result.transient:
                    break
                await asyncio.sleep(pause)
                began = time.perf_counter()
                result = await _sent(transport, request)
    return _Tried(request, result, time.perf_counter() - began)


async def _sent(transport: Transport, request: ReadRequest) -> Page | AiossmenvError:
    try:
        answer = await transport.send(request)
    except AiossmenvError as error:
        return error.with_traceback(None)
    assert isinstance(answer, Page)
    return answer


def _of_tries(spec: EnvSpec, tries: list[_Tried], failed: Level) -> list[Finding]:
    """Return a finding for each of *tries*, or one for all if all fail for one reason."""
    reasons = {
        (type(tried.result), tried.result.remedy if isinstance(tried.result, AiossmenvError) else "") for tried in tries
    }
    if len(reasons) == 1 and not any(tried.is_allowed for tried in tries):
        return [tries[0].finding(spec, failed, "reads")]
    return [tried.finding(spec, failed) for tried in tries]


def _of_choice(spec: EnvSpec, tries: list[_Tried]) -> list[Finding]:
    """Say which of the reads `load_env` uses."""
    allowed = {tried.operation for tried in tries if tried.is_allowed}
    by_name = "GetParameters, ten to a request" if "GetParameters" in allowed else "GetParameter, one to a request"
    if spec.names is not None:
        return [Finding("ok", "load_env", f"reads by {by_name}")] if allowed else []
    if "GetParametersByPath" not in allowed:
        return []
    again = f"by {by_name}" if allowed > {"GetParametersByPath"} else "by listing as well"
    return [Finding("ok", "load_env", f"lists with GetParametersByPath; with a ttl, refreshes {again}")]


# What a load leads to.


async def _of_load(context: Context) -> list[Finding]:
    """Read what `load_env` reads, as it does; where that fails, look for everything that is wrong."""
    spec, findings, unread = context.spec, list[Finding](), set[Query]()
    try:
        results = await context.store._read(spec.queries, deadline=context.load_deadline)
    except (StoreUnavailable, Throttled) as error:
        return [of_error("error", "load", error)]
    except AiossmenvError as error:
        apart = await asyncio.gather(*(_read_apart(context, query) for query in spec.queries))
        findings = [finding for found in apart for finding in found]
        unread = {query for query, found in zip(spec.queries, apart, strict=True) if found}
        if not (isinstance(error, DecryptionFailed) and context.undecrypted):
            # What failed may not be met again; what is said twice is left out later.
            findings.insert(0, of_error("error", "load", error))
    else:
        context.stored.update(results.parameters)
    return [*findings, *await _of_keys_of_environment(context, unread)]


async def _read_apart(context: Context, query: Query) -> list[Finding]:
    """Read *query* alone, and decrypt as much of it as can be decrypted; return why it cannot be read."""
    errors: dict[str, AiossmenvError] = {}
    # A name that fails must not hide the others; a listing has no names yet.
    collected = None if query.names is None else errors
    store, deadline = context.store, context.deadline
    try:
        found = await store._read([query], decrypt="none", deadline=deadline, errors=collected)
        by_name = Query(path=query.path, names=tuple(found.encrypted)[:_APART], may_list=False)
        decrypted = await store._read([by_name], deadline=deadline, errors=errors)
    except AiossmenvError as error:
        return [of_error("error", "load", error)]
    context.undecrypted |= {name: error for name, error in errors.items() if isinstance(error, DecryptionFailed)}
    # Without a value it still has a key, which may be that of another one.
    context.stored |= {name: _empty(item) for name, item in found.encrypted.items()}
    context.stored |= {**found.parameters, **decrypted.parameters}
    if query.names is None:
        # What a load lists need not be readable by name.
        return []
    others = {error.remedy: error for error in errors.values() if not isinstance(error, DecryptionFailed)}
    return [of_error("error", "load", error) for error in others.values()]


def _empty(item: EncryptedParameter) -> Parameter:
    return Parameter(name=item.name, value="", type=item.type, version=item.version, arn=item.arn)


async def _of_keys_of_environment(context: Context, unread: set[Query]) -> list[Finding]:
    """Say what is wrong with the keys and the values of all that was read, as variables of an environment."""
    spec, state, findings = context.spec, StoreState(parameters=context.stored), list[Finding]()
    parameters: dict[str, Parameter] = {}
    for query in spec.queries:
        if query in unread:
            continue
        part = replace(spec, paths=() if query.path == REFERENCE else (query.path,), names=query.names)
        try:
            part.arrange(state, context.store.region)
        except AiossmenvError as error:
            findings.append(await _explained(context, error))
        names = state.names_below(query.path, recursive=True) if query.names is None else query.names
        there = [name for name in names if name in context.stored]
        parameters |= {
            upper_snake(relative_name(query.path, name).partition(":")[0]): context.stored[name] for name in there
        }
    unknown = {name for query in unread for name in query.names or ()}
    if missing := [name for name in spec.missing(state) if name not in unknown]:
        text = f"not there, and left out of the environment: {named(missing)}"
        findings.append(Finding("warning", "names", text, "Create them, or correct --key."))
    try:
        check_variables(parameters, protected=PROTECTED, encoding=sys.getfilesystemencoding())
    except InvalidVariable as error:
        findings.append(of_error("error", "variables", error))
    keys: dict[str, str] = dict.fromkeys(parameters, "")
    if steering := read_by_sdk(Edit(assign=keys, unset=(), owned={}, shadowed=frozenset()))["sets"]:
        text = f"AWS SDKs read {named(steering)}: clients made later, and child processes, use what is stored there"
        findings.append(Finding("warning", "variables", text, "Rename these parameters, or pass another to_key."))
    return [*findings, *_of_size(parameters)]


async def _explained(context: Context, error: AiossmenvError) -> Finding:
    """Return the finding for *error*; what holds nothing may be the name of a parameter."""
    path = error.path or "/"
    if isinstance(error, EmptyPath) and path in context.spec.paths and path != "/":
        parent, _, name = path.rpartition("/")
        if await context.store._is_parameter(path, within=context.deadline):
            text = f"this is the name of a parameter, and no parameter is under it ({path})"
            return Finding("error", "keys", text, f"Give its parent, {parent or '/'}, or that and --key {name}.")
    return of_error("error", "keys", error)


def _of_size(parameters: Mapping[str, Parameter]) -> list[Finding]:
    # Each variable is KEY=VALUE with a NUL, and a pointer to it.
    pairs = {os.fsencode(key): os.fsencode(value) for key, value in os.environ.items()}
    pairs |= {
        key.encode("utf-8", "replace"): parameter.value.encode("utf-8", "replace")
        for key, parameter in parameters.items()
    }
    size = sum(len(key) + len(value) + 2 + 8 for key, value in pairs.items())
    limit = kernel_limit()
    text = f"the environment of this process would hold {size:,} bytes; a program gets {limit:,}, arguments included"
    if size < limit:
        return [Finding("note", "size", text)]
    return [Finding("warning", "size", text, "Child processes cannot be started with it: pass environ=None.")]


async def _describe(context: Context) -> list[Finding]:
    """Learn the KMS keys and the tiers, which no read shows."""
    try:
        async with asyncio.timeout(context.deadline):
            for path in context.spec.paths:
                async for item in context.store.describe(path):
                    context.metadata[item.name] = item
    except TimeoutError:
        # An account has 3 of these requests a second, and 50 parameters come with each.
        text = f"those of {counted(len(context.metadata), 'parameter')} came within {context.deadline:g} seconds"
        return [Finding("note", "keys of KMS", text, "Pass a longer --deadline.")]
    return []


def _of_keys(context: Context) -> list[Finding]:
    """Say which KMS keys decrypt, and of which parameters."""
    names_of: dict[tuple[str, DecryptionFailed | None], list[str]] = {}
    firsts: dict[tuple[str, str], DecryptionFailed] = {}
    for name, parameter in context.stored.items():
        if parameter.type != "SecureString" or is_reference(name):
            continue
        described = context.metadata.get(base_name(name))
        key, error = described.key_id if described else "", context.undecrypted.get(name)
        if error:
            # The same is said of each parameter that the key is for.
            error = firsts.setdefault((key, error.remedy or ""), error)
        elif not parameter.value:
            continue  # it was not tried
        names_of.setdefault((key, error), []).append(name)
    findings: list[Finding] = []
    for (key, error), names in names_of.items():
        subject = f"KMS key {key}" if key else "KMS"
        if error is None:
            findings.append(Finding("ok", subject, f"decrypts {counted(len(names), 'SecureString')}"))
            continue
        remedy = error.remedy or ""
        if key and "arn:" not in remedy:
            remedy = f"{remedy} The key is {key}."
        text = f"does not decrypt {named(names)}: {str(error.args[0]).removesuffix('.')}"
        findings.append(Finding("error", subject, text, remedy))
    return findings


def _of_quota(context: Context) -> list[Finding]:
    """Say what the parameters cost, of what an account has."""
    if not (count := len(context.stored)):
        return []
    reads = math.ceil(count / BATCH)
    described = (context.metadata.get(base_name(name)) for name in context.stored)
    tiers = Counter(item.tier for item in described if item)
    of_tiers = f" ({', '.join(f'{number} {tier}' for tier, number in sorted(tiers.items()))})" if tiers else ""
    text = (
        f"{counted(count, 'parameter')}{of_tiers}. A refresh sends {counted(reads, 'request')}. The default quota of an"
        f" account, {_QUOTA} a second, allows {_QUOTA / reads:.3g} refreshes a second, all processes together"
    )
    return [Finding("note", "quota", text)]
