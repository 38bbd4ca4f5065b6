"""`list`, `get` and `history`: what is in Parameter Store."""

from typing import Annotated

import typer

from aiossmenv._errors import AiossmenvError, EmptyPath, ParameterNotFound
from aiossmenv._load import default_paths
from aiossmenv._models import Parameter, ParameterHistory
from aiossmenv._naming import normal_path, readable_name, relative_name, upper_snake
from aiossmenv._ssm.store import ParameterStore
from aiossmenv._ssm.transport import FetchedParameter, Query
from aiossmenv.cli import _options as options
from aiossmenv.cli._output import age, check_reveal, print_json, print_raw, print_table
from aiossmenv.cli._run import new_store, note, run


def list_(
    paths: options.Paths = None,
    reveal: options.Reveal = False,
    pipe: options.Pipe = False,
    json: options.Json = False,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """List the parameters under each PATH, and the key that each has in an environment."""
    run(_list(paths, region, profile, reveal=reveal, pipe=pipe, json=json), verbose=verbose)


def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Full names, with :3 or :label for a version.")],
    reveal: options.Reveal = False,
    pipe: options.Pipe = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print only the value of one NAME, as it is, to a pipe as well.")
    ] = False,
    json: options.Json = False,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """Show parameters by name; all of them, or an error."""
    if raw and len(names) > 1:
        raise typer.BadParameter("--raw prints the value of one NAME")
    run(_get(names, region, profile, reveal=reveal, pipe=pipe, raw=raw, json=json), verbose=verbose)


def history(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A full name.")],
    reveal: options.Reveal = False,
    pipe: options.Pipe = False,
    json: options.Json = False,
    region: options.Region = None,
    profile: options.Profile = None,
    verbose: options.Verbose = False,
) -> None:
    """Show the versions of a parameter, the newest last."""
    run(_history(name, region, profile, reveal=reveal, pipe=pipe, json=json), verbose=verbose)


async def _list(
    given: list[str] | None, region: str | None, profile: str | None, *, reveal: bool, pipe: bool, json: bool
) -> None:
    check_reveal(reveal=reveal, pipe=pipe)
    found: dict[str, tuple[str, FetchedParameter]] = {}
    key_ids: dict[str, str] = {}
    async with new_store(region, profile) as store:
        for path in map(normal_path, given or default_paths()):
            under = [item async for item in store.scan(path, with_decryption=reveal)]
            if not under:
                raise EmptyPath(
                    "there is no parameter under this path",
                    path=path,
                    region=store.region,
                    remedy="Check its spelling and case and the region.",
                )
            found |= {item.name: (upper_snake(relative_name(path, item.name)), item) for item in under}
            key_ids |= await _key_ids(store, path)
    _show([(key, item, key_ids.get(item.name, "")) for key, item in found.values()], reveal=reveal, json=json)


async def _key_ids(store: ParameterStore, path: str) -> dict[str, str]:
    try:
        return {item.name: item.key_id async for item in store.describe(path)}
    except AiossmenvError as error:
        # Denied to most roles that read, and 3 a second for the whole account: the list is right without it.
        note(f"the KMS keys are not shown: {error}")
        return {}


async def _get(
    names: list[str], region: str | None, profile: str | None, *, reveal: bool, pipe: bool, raw: bool, json: bool
) -> None:
    check_reveal(reveal=reveal and not raw, pipe=pipe)
    async with new_store(region, profile) as store:
        wanted = tuple(map(readable_name, names))
        results = await store._read([Query(names=wanted, may_list=False)], decrypt="all" if reveal or raw else "none")
        items: list[FetchedParameter] = []
        for name in wanted:
            item = results.get(name)
            if item is None:
                raise ParameterNotFound(
                    "there is no such parameter, version or label",
                    parameter=name,
                    region=store.region,
                    remedy="Check the name and the region.",
                )
            items.append(item)
    if raw:
        (only,) = items
        assert isinstance(only, Parameter)
        print_raw(only.value)
        return
    _show([("", item, "") for item in items], reveal=reveal, json=json)


async def _history(name: str, region: str | None, profile: str | None, *, reveal: bool, pipe: bool, json: bool) -> None:
    check_reveal(reveal=reveal, pipe=pipe)
    async with new_store(region, profile) as store:
        versions = await store.history(readable_name(name), with_decryption=reveal)
    if json:
        print_json([_version_as_json(version, reveal=reveal) for version in versions])
        return
    columns = ["version", "type", "age", "labels", "written by", "key id", *(["value"] if reveal else [])]
    print_table(columns, [_version_as_row(version, reveal=reveal) for version in versions])


def _show(found: list[tuple[str, FetchedParameter, str]], *, reveal: bool, json: bool) -> None:
    if json:
        print_json([_as_json(key, item, key_id, reveal=reveal) for key, item, key_id in found])
        return
    columns: dict[str, list[str]] = {
        "key": [key for key, _, _ in found],
        "name": [item.name + item.selector for _, item, _ in found],
        "type": [item.type for _, item, _ in found],
        "version": [str(item.version) for _, item, _ in found],
        "age": [age(item.last_modified) for _, item, _ in found],
        "key id": [key_id for _, _, key_id in found],
        "value": [item.value if reveal and isinstance(item, Parameter) else "" for _, item, _ in found],
    }
    # A column of which nothing is known is left out.
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    print_table(list(columns), zip(*columns.values(), strict=True))


def _as_json(key: str, item: FetchedParameter, key_id: str, *, reveal: bool) -> dict[str, object]:
    value = {"value": item.value} if reveal and isinstance(item, Parameter) else {}
    return {
        "key": key,
        "name": item.name + item.selector,
        "type": item.type,
        "version": item.version,
        "last_modified": item.last_modified.isoformat() if item.last_modified else None,
        "key_id": key_id or None,
        "arn": item.arn,
        **value,
    }


def _version_as_row(version: ParameterHistory, *, reveal: bool) -> list[str]:
    said = [str(version.version), version.type, age(version.last_modified), ", ".join(version.labels)]
    value = [version.value or ""] if reveal else []
    return [*said, version.last_modified_user, version.key_id, *value]


def _version_as_json(version: ParameterHistory, *, reveal: bool) -> dict[str, object]:
    value = {"value": version.value} if reveal else {}
    return {
        "version": version.version,
        "type": version.type,
        "last_modified": version.last_modified.isoformat() if version.last_modified else None,
        "last_modified_user": version.last_modified_user,
        "labels": list(version.labels),
        "key_id": version.key_id or None,
        "tier": version.tier,
        "description": version.description,
        **value,
    }
