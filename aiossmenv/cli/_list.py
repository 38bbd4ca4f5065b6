"""`list`: what is under a path."""

from aiossmenv._errors import EmptyPath
from aiossmenv._load import default_paths
from aiossmenv._models import Parameter
from aiossmenv._naming import normal_path, relative_name, upper_snake
from aiossmenv._ssm.transport import FetchedParameter
from aiossmenv.cli import _options as options
from aiossmenv.cli._output import age, check_reveal, print_json, print_table
from aiossmenv.cli._run import new_store, run


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


async def _list(
    given: list[str] | None, region: str | None, profile: str | None, *, reveal: bool, pipe: bool, json: bool
) -> None:
    check_reveal(reveal=reveal, pipe=pipe)
    found: dict[str, tuple[str, FetchedParameter]] = {}
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
    if json:
        print_json([_as_json(key, item, reveal=reveal) for key, item in found.values()])
        return
    columns = ["key", "name", "type", "version", "age", *(["value"] if reveal else [])]
    print_table(columns, [_as_row(key, item, reveal=reveal) for key, item in found.values()])


def _as_row(key: str, item: FetchedParameter, *, reveal: bool) -> list[str]:
    value = [item.value] if reveal and isinstance(item, Parameter) else []
    return [key, item.name, item.type, str(item.version), age(item.last_modified), *value]


def _as_json(key: str, item: FetchedParameter, *, reveal: bool) -> dict[str, object]:
    modified = item.last_modified.isoformat() if item.last_modified else None
    value = {"value": item.value} if reveal and isinstance(item, Parameter) else {}
    return {
        "key": key, "name": item.name, "type": item.type, "version": item.version, "last_modified": modified,
        "arn": item.arn, **value,
    }  # fmt: skip
