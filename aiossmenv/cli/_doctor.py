"""
`doctor`: what a role can do here, and whether `load_env` works.

Each check is a coroutine that returns findings. It has a deadline, and its failure is a finding as well, so no check
hides another.
"""

import asyncio
import statistics
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from aiossmenv._environ import PROTECTED
from aiossmenv._errors import AiossmenvError
from aiossmenv._load import default_paths
from aiossmenv._naming import is_reference, normal_key, normal_path, upper_snake
from aiossmenv._spec import EnvSpec
from aiossmenv._ssm.store import ParameterStore
from aiossmenv.cli import _options as options
from aiossmenv.cli._doctor_reads import Context, of_reads_and_load, within
from aiossmenv.cli._findings import Finding, Level, as_json, as_lines, counted, of_error, without_repeats, would_load
from aiossmenv.cli._output import print_json, visible
from aiossmenv.cli._run import FAILED, run, use_profile

if TYPE_CHECKING:
    from aiossmenv._ssm.boto_identity import SdkView

# Seconds for one check; a load has those of `load_env`, because it is what this is about.
_DEADLINE, _LOAD_DEADLINE = 5.0, 30.0
# Seconds by which a clock may be off: a warning, and where AWS refuses signatures.
_CLOCK_OFF, _CLOCK_WRONG = 60.0, 300.0
# Seconds; the service itself takes about 20 ms.
_SLOW = 0.2

_NOT_TRIED = Finding("note", "reads", "not tried, because no request can be signed or sent")


def doctor(
    paths: options.Paths = None,
    keys: options.Key = None,
    json: options.Json = False,
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline", metavar="SECONDS", min=0.1, help="For each check. Default: 5, and 30 for the load itself."
        ),
    ] = None,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """
    Say what this role can do with PATHs here, and whether load_env works; no value is shown.

    Each finding has its remedy. The exit status is 1 if load_env would fail.
    """
    use_profile(profile)
    run(_doctor(paths, keys, region, deadline, json=json), verbose=verbose)


async def _doctor(
    given: list[str] | None, keys: list[str] | None, region: str | None, deadline: float | None, *, json: bool
) -> None:
    secrets_only = bool(keys) and all(map(is_reference, keys or ()))
    wanted = given or (() if secrets_only else default_paths())
    paths = tuple(reversed(dict.fromkeys(reversed(list(map(normal_path, wanted))))))
    spec = EnvSpec(
        paths=paths,
        names=tuple(dict.fromkeys(normal_key(key, paths) for key in keys)) if keys else None,
        required=frozenset(),
        recursive=True,
        to_key=upper_snake,
        allow_empty=False,
        protected=PROTECTED,
    )
    findings = without_repeats(await examine(spec, region, deadline))
    if json:
        print_json(as_json(findings))
    else:
        typer.echo("\n".join(map(visible, as_lines(findings, spec.where))))
    if not would_load(findings):
        raise typer.Exit(FAILED)


async def examine(spec: EnvSpec, region: str | None, deadline: float | None) -> list[Finding]:
    """Return what there is to say of a `load_env()` as *spec* says."""
    # It takes a third of a second to import the SDK.
    from aiossmenv._ssm.boto_identity import SdkView

    try:
        sdk = await SdkView.open(region)
    except AiossmenvError as error:
        return [of_error("error", "configuration", error), _NOT_TRIED]
    seconds = deadline or _DEADLINE
    begun = [_of_sdk(sdk)]
    for subject, check in (("credentials", _of_credentials(sdk)), ("region", _of_region(sdk))):
        begun += await within(seconds, subject, check)
    if not would_load(begun):
        return [*begun, _NOT_TRIED]
    async with ParameterStore(session=sdk.session, region=region) as store:
        context = Context(sdk, store, spec, seconds, deadline or _LOAD_DEADLINE)
        identity, reads = await asyncio.gather(
            within(seconds, "identity", _of_identity(sdk), "note"),
            # Its own checks have their deadlines.
            within(None, "reads", of_reads_and_load(context)),
        )
    found = [*begun, *identity, *_of_way(sdk), *reads, *_of_answers(sdk)]
    return _placed(found, identity, sdk.region)


# What is found before a request is sent.


def _of_sdk(sdk: "SdkView") -> Finding:
    return Finding("ok", "SDK", ", ".join(f"{name} {number}" for name, number in sdk.versions.items()))


async def _of_credentials(sdk: "SdkView") -> list[Finding]:
    found = await sdk.credentials()
    expiry = ""
    if found.expires:
        minutes = (found.expires - datetime.now(UTC)).total_seconds() / 60
        expiry = f", which expire at {found.expires:%Y-%m-%d %H:%M:%S%z}, in {minutes:.0f} min"
    text = f"from {found.source} ({found.method}), access key id ending in {found.access_key}{expiry}"
    return [Finding("ok", "credentials", text)]


async def _of_region(sdk: "SdkView") -> list[Finding]:
    await sdk.check_region()
    return [Finding("ok", "region", f"{sdk.region}, from {sdk.region_source}")]


async def _of_identity(sdk: "SdkView") -> list[Finding]:
    return [Finding("ok", "identity", (await sdk.identity()).arn)]


# What is seen in all that went over the wire.


def _of_way(sdk: "SdkView") -> list[Finding]:
    """Say which way requests go."""
    findings = [Finding("ok", "endpoint", sdk.wire.endpoint)] if sdk.wire.endpoint else []
    if proxy := sdk.proxy_for(sdk.wire.endpoint):
        findings.append(Finding("note", "proxy", proxy))
    if sdk.ca_bundle:
        findings.append(Finding("note", "certificates", f"those in {sdk.ca_bundle} are trusted, and no others"))
    return findings


def _of_answers(sdk: "SdkView") -> list[Finding]:
    """Say what the answers show: whose clock is off, how long they take, how many requests were throttled."""
    answers, findings = sdk.wire.answers, list[Finding]()
    if offsets := [answer.clock_offset for answer in answers if answer.clock_offset is not None]:
        off = statistics.median(offsets)
        level: Level = "error" if abs(off) > _CLOCK_WRONG else "warning" if abs(off) > _CLOCK_OFF else "ok"
        remedy = "" if level == "ok" else "Set the clock of this machine: beyond 300 s AWS refuses all signatures."
        way = "behind" if off > 0 else "ahead of"
        findings.append(Finding(level, "clock", f"{abs(off):.0f} s {way} that of Parameter Store", remedy))
    if answers:
        median = statistics.median(answer.seconds for answer in answers)
        text = f"median {median * 1000:.0f} ms, of {counted(len(answers), 'answer')}"
        slow = Finding("warning", "latency", text, "Check the region, the proxy and the network between.")
        findings.append(slow if median > _SLOW else Finding("ok", "latency", text))
    if throttled := sum(answer.throttled for answer in answers):
        text = f"{throttled} of {counted(len(answers), 'request')} throttled"
        remedy = "Wait, spread the callers, or raise the account's Parameter Store throughput."
        findings.append(Finding("warning", "throttling", text, remedy))
    return findings


def _placed(findings: Iterable[Finding], identity: Iterable[Finding], region: str | None) -> list[Finding]:
    """Put region and account into the ARNs of *findings* that lack them, as far as an *identity* tells them."""
    whole = "arn:aws:ssm:REGION:ACCOUNT:"
    for found in identity:
        if found.level == "ok":
            _, partition, _, _, account, _ = found.text.split(":", 5)
            whole = f"arn:{partition}:ssm:{region}:{account}:"
    return [replace(found, remedy=found.remedy.replace("arn:aws:ssm:REGION:ACCOUNT:", whole)) for found in findings]
