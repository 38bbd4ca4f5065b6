"""
A loader of the SDK's models that reads only what our operations need.

It saves about a seventh of the time from the start of a process to its first answer, and keeps the SDK's parser from
holding the interpreter for 65 ms. Where anything about a model is not as expected, the SDK's own loader reads it.
"""

import contextlib
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_OPERATIONS = (
    *("GetParametersByPath", "GetParameters", "GetParameter", "PutParameter", "DeleteParameters"),
    *("GetParameterHistory", "DescribeParameters", "AddTagsToResource"),
)


def quick_loader() -> Any:
    """
    Return a loader of the SDK's models that reads only what is needed.

    The SDK's own lists 400 directories and all in them to learn whether there is an "ssm", parses two megabytes of
    legacy endpoints although it finds endpoints by rules, and one megabyte of a model with 146 operations, of which we
    call eight; that is most of the time to make a client, and the parser holds the loop from its thread. Whatever is
    not as expected is left to the SDK's own loader.
    """
    from botocore.loaders import JSONFileLoader, Loader

    class FileLoader(JSONFileLoader):  # type: ignore[misc] # untyped base
        def load_file(self, file_path: str) -> Any:
            packed = Path(f"{file_path}.json.gz")
            part = None
            if "ssm" in packed.parts and packed.name.startswith("service-2.") and packed.is_file():
                with contextlib.suppress(Exception):
                    part = _part(gzip.decompress(packed.read_bytes()).decode())
            return part or super().load_file(file_path)

    class QuickLoader(Loader):  # type: ignore[misc] # untyped base
        def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - the base's signature
            folders = [Path(path) for path in self.search_paths if Path(path).is_dir()]
            return sorted({service.name for folder in folders for service in folder.iterdir()})

        def load_data_with_path(self, name: str) -> Any:
            if name == "endpoints":
                with contextlib.suppress(Exception):
                    # The same partitions as the rules have, without exceptions for single services: the rules have
                    # those.
                    partitions, path = super().load_data_with_path("partitions")
                    return {"version": 3, "partitions": list(map(_partition, partitions["partitions"]))}, path
            return super().load_data_with_path(name)

    return QuickLoader(file_loader=FileLoader())


def _part(text: str) -> dict[str, Any] | None:
    """
    Return what our operations need of a service's model, without parsing the rest.

    The SDK's models are written with a member to a line and two spaces to a level; `None` for one that is not.
    """
    version, _, rest = text.partition('\n  "operations":{')
    parts = (dict(_members(part)) for part in rest.partition('\n  "shapes":{')[::2])
    try:
        packed_operations, packed_shapes = parts
        operations = {name: _parsed(packed_operations[name]) for name in _OPERATIONS}
        shapes: dict[str, Any] = {}
        left: list[Any] = [operations]
        while left:
            match left.pop():
                case dict() as members:
                    left += members.values()
                    name = members.get("shape")
                    if isinstance(name, str) and name not in shapes:
                        shapes[name] = _parsed(packed_shapes[name])
                        left.append(shapes[name])
                case list() as items:
                    left += items
        head: dict[str, Any] = json.loads(version.rstrip(" \n,") + "}")
    except (KeyError, ValueError):
        return None
    return head | {"operations": operations, "shapes": shapes}


def _members(part: str) -> Iterator[tuple[str, str]]:
    """Yield the members of the second level: their names, and what begins with their values."""
    for member in part.split('\n    "')[1:]:
        name, _, value = member.partition('":')
        yield name, value


def _parsed(begun: str) -> Any:
    return json.JSONDecoder().raw_decode(begun)[0]


def _partition(partition: Mapping[str, Any]) -> dict[str, Any]:
    plain, dual = partition["outputs"]["dnsSuffix"], partition["outputs"]["dualStackDnsSuffix"]
    return {
        "partition": partition["id"],
        "partitionName": partition["id"],
        "dnsSuffix": plain,
        "regionRegex": partition["regionRegex"],
        "regions": {region: {} for region in partition["regions"]},
        "services": {},
        "defaults": {
            "hostname": "{service}.{region}.{dnsSuffix}",
            "protocols": ["https"],
            "signatureVersions": ["v4"],
            "variants": [
                {"hostname": "{service}-fips.{region}.{dnsSuffix}", "dnsSuffix": plain, "tags": ["fips"]},
                {"hostname": "{service}.{region}.{dnsSuffix}", "dnsSuffix": dual, "tags": ["dualstack"]},
                {"hostname": "{service}-fips.{region}.{dnsSuffix}", "dnsSuffix": dual, "tags": ["dualstack", "fips"]},
            ],
        },
    }
