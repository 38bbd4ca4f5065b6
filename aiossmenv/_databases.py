"""
What kinds of database differ in: connect options, read from the values of keys, and what an error of a login means.

What reads a value raises nothing, and what raises holds no value: a traceback may show all local variables.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from aiossmenv._errors import RotationFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """
    A kind of database.

    *name*: for a text. *schemes*: of its URLs, without a driver. *engines*: what AWS secrets call it. *example*: a URL.
    *query*: the options that its URL may have. *rejected*: error codes of a login that mean that the credentials are
    not valid (any more, or yet). *transient*: those that mean that a later login may succeed. *latin1*: its drivers
    encode a password as Latin-1, although the server was told it in UTF-8.
    """

    name: str
    schemes: frozenset[str]
    engines: frozenset[str]
    example: str
    rejected: frozenset[int | str]
    transient: frozenset[int | str]
    query: frozenset[str]
    latin1: bool = False

    def classify(self, error: Exception) -> Literal["auth_failed", "transient"] | None:
        """Return what an error of a login means; see `Rotating`."""
        code = _code(error)
        if code in self.rejected:
            return "auth_failed"
        if code in self.transient or (code is None and _is_of_the_network(error)):
            return "transient"
        return None

    def connect_options(self, keys: Mapping[str, str], values: Mapping[str, str]) -> dict[str, Any]:
        """
        Return the connect options that the *values* of keys hold.

        Args:
            keys: Options -> keys. `dsn` is a URL or a JSON secret, and `host` may have a port; of two keys that say one
                option, the more special one wins.
            values: Keys -> values.

        Returns:
            `host`, `port` (a number), `user`, `password` (as the drivers take it), `database`, and what else *keys* or
            a URL names; an empty value is left out.

        Raises:
            RotationFailed: A value is not what its option needs.
        """
        in_order = sorted(keys.items(), key=lambda item: {"dsn": 0, "host": 1}.get(item[0], 2))
        for option, key in in_order:
            if self.read(option, values[key]) is None:
                raise RotationFailed(
                    f"{key} is not {self._shape(option)}", remedy="Correct it, or what `keys` says of it."
                )
            if option == "dsn" and not self._is_of_this_kind(values[key]):
                raise RotationFailed(
                    f"{key} is the secret of another kind of database: its `engine` is not one of {self.name}",
                    remedy=f"Map `dsn` to the key of a {self.name} secret.",
                )
        read = [self.read(option, values[key]) or {} for option, key in in_order]
        found = {option: value for options in read for option, value in options.items() if value != ""}
        if self.latin1 and "password" in found:
            # With "surrogatepass" nothing raises here. The server then rejects such a password.
            found["password"] = found["password"].encode(errors="surrogatepass").decode("latin-1")
        return found

    def read(self, option: str, text: str) -> dict[str, Any] | None:
        """Return the connect options that the value of a key holds, or `None` if it is not what *option* needs."""
        with suppress(ValueError, RecursionError):
            if option == "dsn":
                return _read_secret(json.loads(text)) if text.lstrip().startswith("{") else self._read_url(text)
            if option == "host":
                return _read_address(text)
            return {option: _number(text) if option == "port" else text}
        return None

    def _shape(self, option: str) -> str:
        match option:
            case "dsn":
                return (
                    f"a URL, as {self.example}, percent-encoded and with no other option, nor a JSON object with"
                    " username and password"
                )
            case "host":
                return "a host, or host:port where the port is a number (of a whole URL the option is `dsn`)"
        return "the number of a port"

    def _is_of_this_kind(self, text: str) -> bool:
        """Return whether a secret is one of this kind of database, as far as it says."""
        engine = json.loads(text).get("engine") if text.lstrip().startswith("{") else None
        return not engine or str(engine).lower() in self.engines

    def _read_url(self, text: str) -> dict[str, Any] | None:
        url = urlsplit(text)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        # Of a password with a bare / ? or # in it, which ends a host, the rest would be found in these.
        rest = f"{url.path[1:]}{url.query}#{url.fragment}"
        if url.scheme.partition("+")[0] not in self.schemes or not url.hostname or query.keys() - self.query:
            return None
        if "@" in rest or "/" in rest or not rest.endswith("#"):
            return None
        found = {"host": url.hostname, "user": url.username, "password": url.password, "database": url.path[1:]}
        port = {} if url.port is None else {"port": url.port}
        return {option: unquote(value) for option, value in found.items() if value} | port | query


def _read_secret(secret: dict[str, Any]) -> dict[str, Any] | None:
    names = {"user": "username", "password": "password", "host": "host", "database": "dbname"}
    found = {option: secret[name] for option, name in names.items() if secret.get(name) is not None}
    if not found.keys() >= {"user", "password"} or not all(isinstance(value, str) for value in found.values()):
        return None
    return found | ({"port": _number(str(secret["port"]))} if secret.get("port") else {})


def _read_address(text: str) -> dict[str, Any] | None:
    if "/" in text or "@" in text:
        return None
    # `host`, `host:port`, `[::1]` or `[::1]:port`; a bare IPv6 address has no port.
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return {"host": host, "port": _number(port.removeprefix(":"))} if port else {"host": host}
    return {"host": host, "port": _number(port)} if colon and ":" not in host else {"host": text}


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError
    return int(text)


def _is_of_the_network(error: Exception) -> bool:
    # A certificate that is refused is a ValueError too, and a file that is not there stays so.
    return isinstance(error, OSError) and not isinstance(error, ValueError | FileNotFoundError | PermissionError)


def _code(error: Exception) -> int | str | None:
    """Return the number that MySQL's drivers give an error, or the SQLSTATE that PostgreSQL's do."""
    if error.args and isinstance(error.args[0], int) and not isinstance(error, OSError):
        return error.args[0]
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return state
    connection = getattr(error, "pgconn", None)
    if connection is None:
        return None
    # psycopg has no SQLSTATE of a failed login, and the text is in the server's language. A server asks for the
    # password only if it is ready to check it.
    return "28P01" if connection.used_password else "08001"


MYSQL = Database(
    name="MySQL",
    schemes=frozenset({"mysql", "mariadb"}),
    engines=frozenset({"mysql", "mariadb", "aurora", "aurora-mysql"}),
    example="mysql://user:password@host:3306/db?charset=utf8mb4",
    query=frozenset({"charset"}),
    latin1=True,
    # 3118 is MySQL's 4151. 4150 and 3955 are in neither: the account is blocked because of too many bad logins.
    rejected=frozenset({1044, 1045, 1698, 1820, 1862, 3118, 4151}),
    transient=frozenset({1040, 1053, 1203, 1226, 2003, 2006, 2013}),
)
# https://www.postgresql.org/docs/current/errcodes-appendix.html
POSTGRESQL = Database(
    name="PostgreSQL",
    schemes=frozenset({"postgresql", "postgres"}),
    engines=frozenset({"postgres", "postgresql", "aurora-postgresql"}),
    example="postgresql://user:password@host:5432/db?sslmode=require",
    query=frozenset({"sslmode"}),
    # The password or the user is wrong or not allowed, or has no right to connect to the database.
    rejected=frozenset({"28P01", "28000", "42501"}),
    # Connection exceptions, too many connections, and a server that starts, stops or recovers.
    transient=frozenset({"08000", "08001", "08003", "08004", "08006", "53300", "57P01", "57P02", "57P03"}),
)
