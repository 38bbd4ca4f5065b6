"""The stores that one contract suite runs on: in memory, and over HTTP behind a proxy that injects faults."""

from typing import Any

import boto3

from aiossmenv import ParameterStore
from aiossmenv._models import ParameterType
from aiossmenv.testing import MemoryStore
from embedded import REGION, Store
from faults import Call, FaultProxy, error, hang, throttled

REFERENCE = "/aws/reference/secretsmanager/db/main"


class InMemory(MemoryStore):
    """The in-memory store, as store and as backend."""

    @property
    def store(self) -> ParameterStore:
        """The store itself."""
        return self

    def secret(self, value: str) -> None:
        """Write the secret of Secrets Manager that REFERENCE names."""
        self.set(REFERENCE, value)

    def request_count(self) -> int:
        """The number of requests that arrived."""
        return len(self.calls)

    def tags_of(self, name: str) -> dict[str, str]:
        """The tags of a parameter."""
        return dict(self.tags.get(name, {}))

    def operations(self) -> list[str]:
        """The operations that were requested."""
        return [call.action.partition(":")[2] for call in self.calls]


class Wire:
    """An emulator over HTTP behind a proxy that answers with error texts recorded from AWS."""

    def __init__(self, ssm: Store, proxy: FaultProxy, store: ParameterStore) -> None:
        self.ssm = ssm
        self.proxy = proxy
        self.store = store
        self.secrets: Any = boto3.client(
            "secretsmanager",
            region_name=REGION,
            endpoint_url=ssm.endpoint_url,
            aws_access_key_id="embedded",
            aws_secret_access_key="embedded",
        )

    def set(self, name: str, value: str, type: ParameterType = "SecureString") -> None:  # noqa: A002 - the name that MemoryStore uses
        """See `InMemory`."""
        self.ssm.put(name, value, type)

    def remove(self, name: str) -> None:
        """See `InMemory`."""
        self.ssm.delete(name)

    def label(self, name: str, label: str, version: int | None = None) -> None:
        """See `InMemory`."""
        which = {} if version is None else {"ParameterVersion": version}
        self.ssm.client.label_parameter_version(Name=name, Labels=[label], **which)

    def secret(self, value: str) -> None:
        """See `InMemory`."""
        try:
            self.secrets.create_secret(Name="db/main", SecretString=value)
        except self.secrets.exceptions.ResourceExistsException:
            self.secrets.put_secret_value(SecretId="db/main", SecretString=value)

    def request_count(self) -> int:
        """See `InMemory`."""
        return self.proxy.count()

    def throttle(self, times: int | None = None) -> None:
        """See `InMemory`."""
        self.proxy.add(throttled(), times=times or float("inf"))

    def fail(self, times: int | None = None) -> None:
        """See `InMemory`."""
        self.proxy.add(error("InternalServerError", status=500), times=times or float("inf"))

    def hang(self, times: int | None = None) -> None:
        """See `InMemory`."""
        self.proxy.add(hang(), times=times or float("inf"))

    def deny(self, action: str, resource: str = "*") -> None:
        """See `InMemory`."""
        service, _, operation = action.partition(":")

        def concerned(call: Call) -> bool:
            body = call.body
            requested = [*body.get("Names", ()), body.get("Name"), body.get("Path"), body.get("ResourceId")]
            uses_key = body.get("WithDecryption") if operation == "Decrypt" else body.get("Type") == "SecureString"
            return resource in ("*", *requested) and (service == "ssm" or bool(uses_key))

        if service == "secretsmanager":
            fault = error("ValidationException", "An error occurred while calling one AWS dependency service.")
            self.proxy.add(fault, operation="GetParameter", when=lambda call: call.body["Name"] == REFERENCE)
            return
        where = {
            "ssm": f"arn:aws:ssm:{REGION}:111122223333:parameter",
            "kms": f"arn:aws:kms:{REGION}:111122223333:key/00000000-0000-0000-0000-000000000000",
        }[service]
        where += ("/C" if resource == "*" else resource) if service == "ssm" else ""
        text = (
            f"User: arn:aws:sts::111122223333:assumed-role/app/i-0 is not authorized to perform: {action} on resource:"
            f" {where} because no identity-based policy allows the {action} action"
        )
        self.proxy.add(
            error("AccessDeniedException", text), operation=operation if service == "ssm" else None, when=concerned
        )

    def heal(self) -> None:
        """See `InMemory`."""
        self.proxy._rules.clear()

    def tags_of(self, name: str) -> dict[str, str]:
        """See `InMemory`."""
        listed = self.ssm.client.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)["TagList"]
        return {tag["Key"]: tag["Value"] for tag in listed}

    def operations(self) -> list[str]:
        """See `InMemory`."""
        return [call.operation for call in self.proxy.calls]


Backend = InMemory | Wire
