"""What reads the files that `aiossmenv export` writes: real programs, or their rules where they are not installed."""

import base64
import io
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import dotenv

SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox", "zsh") if shutil.which(shell)]


def by_shell(shell: str, script: str, source: str) -> dict[str, str]:
    """Return the variables after *shell* ran *script*, which finds *source* in its standard input."""
    command = [shell, "sh"] if shell == "busybox" else [shell]
    done = subprocess.run(
        [*command, "-c", f"{script}\nexec env -0"], input=source.encode(), capture_output=True, env={}, check=False
    )
    assert (0, b"") == (done.returncode, done.stderr)
    pairs = (item.partition("=") for item in done.stdout.decode().split("\0") if item)
    return {key: value for key, _, value in pairs if key not in {"PWD", "SHLVL", "_", "OLDPWD"}}


def by_dotenv(text: str, *, interpolate: bool = False) -> dict[str, str | None]:
    """Return what python-dotenv reads in a file."""
    opened = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    return dotenv.dotenv_values(stream=opened, interpolate=interpolate)


_COMPOSE_ESCAPE = re.compile(r'\\(?:[abcfnrtv$"\\]|0\d{0,3})')
_COMPOSE_CHARS = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"'}


def by_compose(text: str) -> dict[str, str]:
    r"""
    Return what Docker Compose reads, by dotenv/parser.go of compose-spec/compose-go.

    It keeps a backslash that is not before the quote that ends the value; in double quotes escapes are decoded then.
    What it would replace, `$`, is not expected in double quotes, nor without quotes.
    """
    values: dict[str, str] = {}
    while text:
        key, _, rest = text.partition("=")
        quote = rest[:1]
        if quote not in {"'", '"'}:
            line, _, text = rest.partition("\n")
            values[key] = line.partition(" #")[0].rstrip()
            assert "$" not in values[key]
            continue
        chars, escaped, at = "", False, 1
        while rest[at] != quote or escaped:
            char = rest[at]
            at += 1
            if char == "\\" and not escaped:
                escaped = True
                continue
            chars += "\\" + char if escaped and char != quote else char
            escaped = False
        if quote == '"':
            assert "$" not in chars
            chars = _COMPOSE_ESCAPE.sub(lambda match: _COMPOSE_CHARS[match[0][1:]], chars)
        values[key] = chars
        text = rest[at + 1 :].removeprefix("\n")
    return values


def by_docker_rules(data: bytes) -> dict[str, str]:
    r"""
    Return what `docker run --env-file` reads, by pkg/kvfile/kvfile.go of docker/cli.

    Lines end with \n or \r\n; below 64 KiB; leading white space is dropped; # begins a comment at the begin of a line
    only; the first = ends the key, which has no blank; the rest of the line is the value, as it is.
    """
    values: dict[str, str] = {}
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for raw in lines:
        assert len(raw) < 65_536
        line = raw.removesuffix(b"\r").decode().lstrip()
        if line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert key
            assert not {" ", "\t"} & set(key)
            if equals:
                values[key] = value
    return values


def by_docker(data: bytes) -> dict[str, str]:
    """Return what the program `docker` sends to a daemon that creates a container with this env file."""
    with _daemon() as (url, created), tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        subprocess.run(
            ["docker", "-H", url, "create", "--env-file", file.name, "image"], check=True, capture_output=True
        )
    pairs = (item.partition("=") for item in created[0])
    return {key: value for key, _, value in pairs}


@contextmanager
def _daemon() -> Iterator[tuple[str, list[list[str]]]]:
    created: list[list[str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"OK")

        do_HEAD = do_GET  # noqa: N815 - so it is called there

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            created.append(json.loads(body)["Env"])
            self._answer(b'{"Id": "1", "Warnings": []}', 201)

        def _answer(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Api-Version", "1.43")
            self.send_header("Ostype", "linux")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}", created
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_HCL_LINE = re.compile(r'([A-Za-z_][\w-]*) = "((?:[^"\\\n]|\\.)*)"\n')
_HCL_TOKEN = re.compile(r"\\U(?P<number>[0-9a-f]{8})|\\(?P<char>.)|(?P<two>\$\$\{|%%\{)")


def by_hcl_rules(text: str) -> dict[str, str]:
    """Return the strings of a tfvars file, by the specification of HCL; one that is a template is an error."""

    def decoded(match: re.Match[str]) -> str:
        if match["number"]:
            return chr(int(match["number"], 16))
        return match["two"][1:] if match["two"] else {"n": "\n", "r": "\r", "t": "\t"}.get(match["char"], match["char"])

    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        line = _HCL_LINE.match(text, at)
        assert line
        assert not re.search(r"[$%]\{", _HCL_TOKEN.sub("-", line[2]))
        values[line[1]] = _HCL_TOKEN.sub(decoded, line[2])
        at = line.end()
    return values


def by_terraform(text: str, keys: list[str]) -> dict[str, str]:
    """Return the variables that the program `terraform` reads in a tfvars file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.tf").write_text("".join(f'variable "{key}" {{ type = string }}\n' for key in keys))
        (folder / "it.tfvars").write_text(text, encoding="utf-8", newline="")
        asked = "base64encode(jsonencode({" + ",".join(f"{key}=var.{key}" for key in keys) + "}))\n"
        done = subprocess.run(
            ["terraform", "console", "-var-file", "it.tfvars"],
            input=asked.encode(),
            cwd=folder,
            env={"CHECKPOINT_DISABLE": "1", "PATH": "/usr/bin:/usr/local/bin"},
            capture_output=True,
            check=True,
        )
    return cast("dict[str, str]", json.loads(base64.b64decode(done.stdout.decode().strip().strip('"'))))
