"""
A Parameter Store for benchmarks: fast, in a process of its own, on loopback, on a free port.

It speaks the JSON protocol of `GetParametersByPath`, `GetParameters` and `GetParameter`, waits a set time before each
answer as a network would, can have a quota, and counts calls, throttled calls and decryptions. The emulators that the
tests use take milliseconds for a page, and longer the more parameters there are; here each answer is put together
from pieces that were made when the parameter was written, so that it is the client that is measured.

`Store` starts it in another process, `Control` tells it what to hold; as a script this file is that process.
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
# What a page of the service, and a call for names, holds at most.
_MOST = 10
# Bytes that KMS adds to a value: the key's id, the nonce and the tag. Only the size matters here.
_ENVELOPE = 150
_EPOCH = 1767225600.0
_CONTROL = "/control"


@dataclass(frozen=True, slots=True)
class _Stored:
    """A parameter as JSON, once as it is read decrypted and once as it is not."""

    version: int
    opened: bytes
    sealed: bytes


class _Bucket:
    """A quota: *rate* calls a second, and *rate* at once."""

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


class _Refused(Exception):
    """An error answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.body = json.dumps({"__type": code, "message": message}).encode()


class _Parameters:
    """All parameters, and what the three operations say of them."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.throttled = 0
        self.decrypted = 0
        self.bucket: _Bucket | None = None
        self._random = random.Random(20)
        self._stored: dict[str, _Stored] = {}
        self._tokens: dict[str, int] = {}
        # A listing is sorted when it is first asked for, and not again before a parameter comes or goes.
        self._below = functools.cache(self._sorted_below)

    def put(self, name: str) -> None:
        """Write a parameter with a new value of 40 characters, whether or not it is there."""
        version = self._stored[name].version + 1 if name in self._stored else 1
        value = self._random.randbytes(20).hex()
        ciphertext = base64.b64encode(self._random.randbytes(_ENVELOPE + len(value))).decode()
        shown = {
            "ARN": f"arn:aws:ssm:{REGION}:111122223333:parameter{name}",
            "DataType": "text",
            # Seconds with milliseconds, as the service gives them.
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
        """Forget all parameters."""
        self._stored.clear()
        self._below.cache_clear()

    def answer(self, operation: str, asked: Json) -> bytes:
        """Return the body that answers what is *asked*."""
        self.calls[operation] += 1
        if self.bucket and not self.bucket.take():
            self.throttled += 1
            raise _Refused("ThrottlingException", "Rate exceeded")
        decrypt = bool(asked.get("WithDecryption", False))
        match operation:
            case "GetParametersByPath":
                return self._by_path(asked, decrypt=decrypt)
            case "GetParameters":
                return self._by_name(asked["Names"], decrypt=decrypt)
            case "GetParameter":
                stored = self._find(asked["Name"])
                if stored is None:
                    # The service gives no text.
                    raise _Refused("ParameterNotFound", "")
                return b'{"Parameter": %b}' % self._shown([stored], decrypt=decrypt)
        raise _Refused("UnknownOperationException", operation)

    def _by_path(self, asked: Json, *, decrypt: bool) -> bytes:
        size = asked.get("MaxResults", _MOST)
        if not 1 <= size <= _MOST:
            raise _Refused("ValidationException", "MaxResults is from 1 to 10")
        below = self._below(asked["Path"].rstrip("/"), bool(asked.get("Recursive", False)))
        begin = 0
        if "NextToken" in asked:
            if asked["NextToken"] not in self._tokens:
                raise _Refused("InvalidNextToken", "The specified token isn't valid.")
            begin = self._tokens[asked["NextToken"]]
        end = begin + size
        page = self._shown([self._stored[name] for name in below[begin:end]], decrypt=decrypt)
        if end >= len(below):
            return b'{"Parameters": [%b]}' % page
        return b'{"Parameters": [%b], "NextToken": "%b"}' % (page, self._token(end))

    def _by_name(self, names: list[str], *, decrypt: bool) -> bytes:
        if not 1 <= len(names) <= _MOST:
            raise _Refused("ValidationException", "Names has 1 to 10 members")
        found = {name: self._find(name) for name in sorted(names)}
        page = self._shown([stored for stored in found.values() if stored], decrypt=decrypt)
        unknown = json.dumps([name for name, stored in found.items() if stored is None]).encode()
        return b'{"Parameters": [%b], "InvalidParameters": %b}' % (page, unknown)

    def _find(self, name: str) -> _Stored | None:
        base, _, version = name.partition(":")
        stored = self._stored.get(base)
        return None if stored is None or version not in ("", str(stored.version)) else stored

    def _shown(self, page: list[_Stored], *, decrypt: bool) -> bytes:
        if decrypt:
            self.decrypted += len(page)
        return b", ".join([stored.opened if decrypt else stored.sealed for stored in page])

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
    """What all connections share."""

    def __init__(self) -> None:
        self._parameters = _Parameters()
        self._idle_at = time.process_time()
        self.delay = 0.0

    def answer(self, path: str, target: str, body: bytes) -> tuple[float, int, bytes]:
        """Return after how many seconds to answer a request, with which status and what."""
        asked = json.loads(body)
        if path == _CONTROL:
            return 0.0, 200, json.dumps(self._control(asked)).encode()
        try:
            return self.delay, 200, self._parameters.answer(target.rpartition(".")[2], asked)
        except _Refused as refused:
            return self.delay, 400, refused.body

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
    As much of HTTP as the SDKs use: requests with a length, one after the other, on a connection that stays open.

    A server of aiohttp takes half a millisecond for each call, which those who call concurrently would wait for.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when a request is whole."""
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
            # Asleep, and not at work: what is asked for at the same time is answered at the same time.
            self._loop.call_later(delay, self._send, status, body)
        else:
            self._send(status, body)

    def _send(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d -\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


@dataclass(frozen=True, slots=True)
class Counts:
    """
    What arrived since the last `reset()`.

    *calls*: by operation. *throttled*: of them. *decrypted*: `SecureString`s that were read decrypted, each of which
    is a call of KMS. *processor*: seconds of processor time that the store itself took.
    """

    calls: dict[str, int]
    throttled: int
    decrypted: int
    processor: float

    @property
    def total(self) -> int:
        """All calls."""
        return sum(self.calls.values())


def relative_name(path: str, number: int) -> str:
    """Return what the *number*th parameter that the store puts under *path* is called there, from 0."""
    # The path's end is in it, so that no two paths have one key.
    return f"{path.rpartition('/')[2]}-{number % 50:02d}/setting-{number:05d}"


def parameter_name(path: str, number: int) -> str:
    """Return its whole name."""
    return f"{path}/{relative_name(path, number)}"


def parameter_key(path: str, number: int) -> str:
    """Return the key that `load_env()` makes of it."""
    return relative_name(path, number).replace("-", "_").replace("/", "_").upper()


class Control:
    """What is done to the store on this port. The methods wait for HTTP."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.tls_port = 0
        self.bundle = ""

    def environment(self, scheme: str = "http") -> dict[str, str]:
        """
        Return the variables with which any SDK finds this store, and nothing else of this machine's configuration.

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
            # No proxy for loopback; and macOS cannot look for one after a fork.
            "NO_PROXY": "*",
        }

    def configure(self, paths: dict[str, int] | None = None, *, delay: float = 0.0, quota: float | None = None) -> None:
        """
        Begin anew, with all counts at 0.

        *paths*: path -> how many `SecureString`s there are under it; `None`: as before. *delay*: seconds before each
        answer. *quota*: calls a second, and as many at once; beyond it a call is throttled; `None`: no quota.
        """
        more = {} if paths is None else {"fill": paths}
        self._order({"delay": delay, "quota": quota, "reset": True, **more})

    def change(self, names: Iterable[str]) -> None:
        """Write new values to these parameters."""
        self._order({"put": list(names)})

    def counts(self) -> Counts:
        """Return what was counted since this was last asked."""
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
    """A Parameter Store in a process of its own, until the block ends."""

    def __init__(self) -> None:
        super().__init__(0)

    def __enter__(self) -> Self:
        # Not at the top, for the process that is started here needs neither.
        sys.path.append(str(Path(__file__).parents[1] / "support"))
        from botocore.httpsession import get_cert_path

        from certificates import Authority

        self._folder = tempfile.TemporaryDirectory()
        # A key as long as AWS's, for the longer one takes longer.
        authority = Authority(Path(self._folder.name), "RSA")
        certificate = authority.issue()
        # What a client trusts is more than our authority, as it is in production: to read that is what takes its time.
        bundle = authority.folder / "bundle.pem"
        bundle.write_bytes(Path(get_cert_path(True)).read_bytes() + authority.bundle.read_bytes())
        self.bundle = str(bundle)
        # The process reads from this pipe and ends when it is closed: it cannot outlive us, however we end.
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(certificate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        ports = self._process.stdout.readline().split()
        if not ports:
            # It has printed why.
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
