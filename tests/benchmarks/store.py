"""
A Parameter Store for benchmarks: fast, in its own process, on a free port of loopback.

It implements the JSON protocol of `GetParametersByPath`, `GetParameters` and `GetParameter`, waits a set time before
each answer like a network, can have a quota, and counts calls, throttled calls and decryptions. The emulators that the
tests use take milliseconds for a page, and longer for more parameters. Here each parameter is serialized when it is
written, so that the measured time is the client's.

`Store` starts it in another process, and `Control` sets its contents; as a script, this file is that process.
"""

import asyncio
import base64
import functools
import hashlib
import http.client
import json
import random
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]

REGION = "eu-central-1"
# The maximum of a page, and of a call by name.
_MOST = 10
# Bytes that KMS adds to a value: the key's id, the nonce and the tag. Only the size matters here.
_ENVELOPE = 150
_EPOCH = 1767225600.0
_CONTROL = "/control"


@dataclass(frozen=True, slots=True)
class _Stored:
    """A parameter as JSON, with its plaintext and with its ciphertext."""

    version: int
    plaintext: bytes
    ciphertext: bytes


class _Bucket:
    """A quota of *rate* calls a second, with a burst of *rate*."""

    def __init__(self, rate: float) -> None:
        self._rate = self._tokens = rate
        self._filled = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._rate, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _ServiceError(Exception):
    """An error answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.body = json.dumps({"__type": code, "message": message}).encode()


class _Parameters:
    """All parameters, and the answers of the three operations."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.throttled = 0
        self.decrypted = 0
        self.bucket: _Bucket | None = None
        self._random = random.Random(20)
        self._stored: dict[str, _Stored] = {}
        self._tokens: dict[str, int] = {}
        # A listing is sorted at its first request, and again only after a parameter was added or removed.
        self._below = functools.cache(self._sorted_below)

    def put(self, name: str) -> None:
        """Create or update a parameter, with a new value of 40 characters."""
        version = self._stored[name].version + 1 if name in self._stored else 1
        value = self._random.randbytes(20).hex()
        ciphertext = base64.b64encode(self._random.randbytes(_ENVELOPE + len(value))).decode()
        shown = {
            "ARN": f"arn:aws:ssm:{REGION}:111122223333:parameter{name}",
            "DataType": "text",
            # Seconds with milliseconds, as in the service's answers.
            "LastModifiedDate": round(_EPOCH + version + self._random.random(), 3),
            "Name": name,
            "Type": "SecureString",
            "Version": version,
        }
        if name not in self._stored:
            self._below.cache_clear()
        self._stored[name] = _Stored(
            version,
            json.dumps(shown | {"Value": value}).encode(),
            json.dumps(shown | {"Value": ciphertext}).encode(),
        )

    def clear(self) -> None:
        """Remove all parameters."""
        self._stored.clear()
        self._below.cache_clear()

    def answer(self, operation: str, fields: Json) -> bytes:
        """Return the body of the answer to a request."""
        self.calls[operation] += 1
        if self.bucket and not self.bucket.take():
            self.throttled += 1
            raise _ServiceError("ThrottlingException", "Rate exceeded")
        decrypt = bool(fields.get("WithDecryption", False))
        match operation:
            case "GetParametersByPath":
                return self._by_path(fields, decrypt=decrypt)
            case "GetParameters":
                return self._by_name(fields["Names"], decrypt=decrypt)
            case "GetParameter":
                stored = self._find(fields["Name"])
                if stored is None:
                    # The service sends no text here either.
                    raise _ServiceError("ParameterNotFound", "")
                return b'{"Parameter": %b}' % self._joined([stored], decrypt=decrypt)
        raise _ServiceError("UnknownOperationException", operation)

    def _by_path(self, fields: Json, *, decrypt: bool) -> bytes:
        size = fields.get("MaxResults", _MOST)
        if not 1 <= size <= _MOST:
            raise _ServiceError("ValidationException", "MaxResults is from 1 to 10")
        below = self._below(fields["Path"].rstrip("/"), bool(fields.get("Recursive", False)))
        begin = 0
        if "NextToken" in fields:
            if fields["NextToken"] not in self._tokens:
                raise _ServiceError("InvalidNextToken", "The specified token isn't valid.")
            begin = self._tokens[fields["NextToken"]]
        end = begin + size
        page = self._joined([self._stored[name] for name in below[begin:end]], decrypt=decrypt)
        if end >= len(below):
            return b'{"Parameters": [%b]}' % page
        return b'{"Parameters": [%b], "NextToken": "%b"}' % (page, self._token(end))

    def _by_name(self, names: list[str], *, decrypt: bool) -> bytes:
        if not 1 <= len(names) <= _MOST:
            raise _ServiceError("ValidationException", "Names has 1 to 10 members")
        found = {name: self._find(name) for name in sorted(names)}
        page = self._joined([stored for stored in found.values() if stored], decrypt=decrypt)
        unknown = json.dumps([name for name, stored in found.items() if stored is None]).encode()
        return b'{"Parameters": [%b], "InvalidParameters": %b}' % (page, unknown)

    def _find(self, name: str) -> _Stored | None:
        base, _, version = name.partition(":")
        stored = self._stored.get(base)
        return None if stored is None or version not in ("", str(stored.version)) else stored

    def _joined(self, page: list[_Stored], *, decrypt: bool) -> bytes:
        if decrypt:
            self.decrypted += len(page)
        return b", ".join([stored.plaintext if decrypt else stored.ciphertext for stored in page])

    def _token(self, offset: int) -> bytes:
        token = base64.b64encode(hashlib.sha512(b"%d" % offset).digest() * 3).decode()
        self._tokens[token] = offset
        return token.encode()

    def _sorted_below(self, path: str, recursive: bool) -> tuple[str, ...]:
        root = path + "/"
        return tuple(
            sorted(
                name
                for name in self._stored
                if name.startswith(root) and (recursive or "/" not in name.removeprefix(root))
            )
        )


class _Server:
    """The state that all connections share."""

    def __init__(self) -> None:
        self._parameters = _Parameters()
        self._idle_at = time.process_time()
        self.delay = 0.0

    def answer(self, path: str, target: str, body: bytes) -> tuple[float, int, bytes]:
        """Return the delay in seconds, the status and the body of the answer to a request."""
        fields = json.loads(body)
        if path == _CONTROL:
            return 0.0, 200, json.dumps(self._control(fields)).encode()
        try:
            return self.delay, 200, self._parameters.answer(target.rpartition(".")[2], fields)
        except _ServiceError as error:
            return self.delay, 400, error.body

    def _control(self, order: Json) -> Json:
        parameters = self._parameters
        if "fill" in order:
            parameters.clear()
            for path, count in order["fill"].items():
                for number in range(count):
                    parameters.put(parameter_name(path, number))
        for name in order.get("put", ()):
            parameters.put(name)
        if "delay" in order:
            self.delay = order["delay"]
        if "quota" in order:
            parameters.bucket = _Bucket(order["quota"]) if order["quota"] else None
        counts = {
            "calls": dict(parameters.calls),
            "throttled": parameters.throttled,
            "decrypted": parameters.decrypted,
            "processor": time.process_time() - self._idle_at,
        }
        if order.get("reset"):
            parameters.calls.clear()
            parameters.throttled = parameters.decrypted = 0
            self._idle_at = time.process_time()
        return counts


class _Connection(asyncio.Protocol):
    """
    The part of HTTP that the SDKs use: requests with a length, one after the other, on a persistent connection.

    An aiohttp server takes half a millisecond for each call, and concurrent clients would wait for it.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport for the answers."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when a request is complete."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        request, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if not end or len(rest) < length:
            return
        self._received = rest[length:]
        path, target = request.split(" ")[1], headers.get("x-amz-target", "")
        delay, status, body = self._server.answer(path, target, rest[:length])
        if delay:
            # Use a timer, not a blocking sleep: concurrent requests are answered at the same time.
            self._loop.call_later(delay, self._send, status, body)
        else:
            self._send(status, body)

    def _send(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d -\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


@dataclass(frozen=True, slots=True)
class Counts:
    """
    What arrived since the last reset.

    *calls*: by operation. *throttled*: the throttled calls among them. *decrypted*: the `SecureString`s that were
    decrypted, each of which is a KMS call. *processor*: the store's own processor time in seconds.
    """

    calls: dict[str, int]
    throttled: int
    decrypted: int
    processor: float

    @property
    def total(self) -> int:
        """The sum of all calls."""
        return sum(self.calls.values())


def relative_name(path: str, number: int) -> str:
    """Return the name, relative to *path*, of the parameter with this number, from 0."""
    # The name contains the last part of the path, so that no two paths share a key.
    return f"{path.rpartition('/')[2]}-{number % 50:02d}/setting-{number:05d}"


def parameter_name(path: str, number: int) -> str:
    """Return the full name of that parameter."""
    return f"{path}/{relative_name(path, number)}"


def parameter_key(path: str, number: int) -> str:
    """Return the key that `load_env()` gives that parameter."""
    return relative_name(path, number).replace("-", "_").replace("/", "_").upper()


class Control:
    """Controls the store on a port. Its methods block on HTTP."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.tls_port = 0
        self.bundle = ""

    def environment(self, scheme: str = "http") -> dict[str, str]:
        """
        Return the variables with which any SDK finds this store, and none of this machine's other configuration.

        *scheme*: `https` for the port with TLS, which only the `Store` itself knows.
        """
        port = self.port if scheme == "http" else self.tls_port
        return {
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_SSM": f"{scheme}://127.0.0.1:{port}",
            "AWS_CA_BUNDLE": self.bundle,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # No proxy for loopback; and on macOS the proxy lookup fails after a fork.
            "NO_PROXY": "*",
        }

    def configure(self, paths: dict[str, int] | None = None, *, delay: float = 0.0, quota: float | None = None) -> None:
        """
        Start again with all counts at 0.

        *paths*: the number of `SecureString`s under each path; `None` keeps them. *delay*: seconds before each answer.
        *quota*: calls per second, and the size of the burst; a call beyond it is throttled; `None` means no quota.
        """
        more = {} if paths is None else {"fill": paths}
        self._order({"delay": delay, "quota": quota, "reset": True, **more})

    def change(self, names: Iterable[str]) -> None:
        """Write new values to these parameters."""
        self._order({"put": list(names)})

    def counts(self) -> Counts:
        """Return the counts since the last call."""
        return Counts(**self._order({"reset": True}))

    def _order(self, order: Json) -> Json:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", _CONTROL, json.dumps(order))
            answer: Json = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer


class Store(Control):
    """A Parameter Store in its own process, until the block ends."""

    def __init__(self) -> None:
        super().__init__(0)

    def __enter__(self) -> Self:
        # Imported here, because the process that is started below needs neither.
        sys.path.append(str(Path(__file__).parents[1] / "support"))
        from botocore.httpsession import get_cert_path

        from certificates import Authority

        self._folder = tempfile.TemporaryDirectory()
        # RSA with 2048 bits like AWS, because a longer key takes longer.
        authority = Authority(Path(self._folder.name), "RSA")
        certificate = authority.issue()
        # As in production, a client trusts more than our authority; reading the large bundle is what takes time.
        bundle = authority.folder / "bundle.pem"
        bundle.write_bytes(Path(get_cert_path(True)).read_bytes() + authority.bundle.read_bytes())
        self.bundle = str(bundle)
        # The process reads from this pipe and ends when it closes, so it ends even if this process is killed.
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(certificate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        ports = self._process.stdout.readline().split()
        if not ports:
            # The process has printed the reason.
            raise SystemExit(self._process.wait())
        self.port, self.tls_port = map(int, ports)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._folder.cleanup()


async def _serve(certificate: str) -> None:
    state = _Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    servers = [
        await asyncio.get_running_loop().create_server(lambda: _Connection(state), "127.0.0.1", 0, ssl=encrypted)
        for encrypted in (None, context)
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
