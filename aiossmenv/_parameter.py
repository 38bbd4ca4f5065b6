"""A parameter as it was read, and the grammar of paths and names."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from aiossmenv._errors import InvalidPath

ParameterType = Literal["String", "StringList", "SecureString"]

# Letters, digits and these, says PutParameter's documentation; a path may be the bare slash.
_PATH = re.compile(r"/(?:[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)?")
# 15 levels and 1,011 characters (which include the ARN's prefix) are the service's limits; it says so itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """
    One parameter in plaintext, as one read returned it.

    *name*: full name, as `/FAKEBOOK/TEST/DB_URL`. *value*: plaintext; never in the repr. *type*: `String`,
    `StringList` or `SecureString`. *version*: from 1; 0 for a reference to Secrets Manager. *last_modified*: with
    time zone. *arn*, *data_type*: as the service gave them. *selector*: `:3` or `:label` when asked for by one,
    else empty. *version_id*: that of a secret in Secrets Manager, else empty.
    """

    name: str
    value: str = field(repr=False)
    type: ParameterType
    version: int
    last_modified: datetime | None = None
    arn: str = ""
    data_type: str = "text"
    selector: str = ""
    version_id: str = ""

    def __repr__(self) -> str:
        return f"<Parameter {self.name}{self.selector} {self.type} version {self.version}>"


Parameter.__module__ = "aiossmenv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """
    A `SecureString` as a read without decryption returned it: everything but the value.

    *digest*: SHA-256 of the ciphertext, 32 bytes. The ciphertext itself, which looks like a value, is not kept.
    """

    name: str
    type: ParameterType
    version: int
    last_modified: datetime | None
    arn: str
    digest: bytes
    selector: str = ""

    def opens_as(self, parameter: Parameter, digest: bytes | None) -> bool:
        """
        Whether *parameter*, whose ciphertext had *digest* if that is known, is what this would decrypt to.

        Compared for equality, never for order: a parameter that was deleted and made anew starts at version 1.
        """
        return (
            digest in (None, self.digest)
            and (self.arn, self.type, self.version, self.last_modified)
            == (parameter.arn, parameter.type, parameter.version, parameter.last_modified)
        )  # fmt: skip


Reading = Parameter | Sealed


def is_older(read: Reading, than: Reading) -> bool:
    """
    Whether *read* comes from a replica that lags behind *than*: its version is lower *and* its date earlier.

    A lower version with a later date is a parameter that was deleted and made anew. A label moves back to an older
    version by intent, so what was read by a selector never lags.
    """
    if read.selector or read.last_modified is None or than.last_modified is None:
        return False
    return read.version < than.version and read.last_modified < than.last_modified


# A secret of Secrets Manager, read through Parameter Store: by name only, decrypted only, alone only.
REFERENCE = "/aws/reference/secretsmanager"


def is_reference(name: str) -> bool:
    """Whether *name* is that of a secret of Secrets Manager."""
    return name.startswith(REFERENCE + "/")


def asked_name(parameter: Parameter) -> str:
    """Return the name that *parameter* was asked for by, with its selector; that of a secret has it in its name."""
    return parameter.name if is_reference(parameter.name) else parameter.name + parameter.selector


def split_selector(name: str) -> tuple[str, str]:
    """Return *name* without its selector, and that without its colon or empty: `/A/X`, `3` of `/A/X:3`."""
    if ":" not in name or is_reference(name):
        return name, ""
    if name.startswith("arn:"):
        # Five colons belong to the ARN: arn:aws:ssm:REGION:ACCOUNT:parameter/A/X:3
        stem, resource, rest = name.partition(":parameter/")
        base, _, selector = rest.partition(":")
        return stem + resource + base, selector
    base, _, selector = name.partition(":")
    return base, selector


def base_name(name: str) -> str:
    """Return *name* without its selector, and an ARN as the name that it ends in: what IAM knows the parameter by."""
    base, _ = split_selector(name)
    return "/" + base.partition(":parameter/")[2] if base.startswith("arn:") else base


def answers(asked: str, read: Reading) -> bool:
    """
    Whether *read* is the answer to *asked*, a name or an ARN, with a selector or without.

    The service echoes a name's spelling, but answers an ARN of one's own account with the plain name.
    """
    base, _ = split_selector(asked)
    if base.startswith("arn:") and read.arn:
        return base == read.arn
    return base_name(asked).lstrip("/") == base_name(read.name).lstrip("/")


def normal_path(path: str) -> str:
    """Return *path* without its final slash, or raise `InvalidPath`; `/` stays as it is."""
    text = path.strip()
    if not text:
        raise InvalidPath("the path is empty", path=path, remedy="Give one like /FAKEBOOK/TEST/.")
    if not text.startswith("/"):
        raise InvalidPath(
            "a path begins with a slash",
            path=path,
            remedy=f"Write it as /{text.rstrip('/')}/, if that is what you mean.",
        )
    normal = text[:-1] if text.endswith("/") and text != "/" else text
    if not _PATH.fullmatch(normal) or text == "//":
        raise InvalidPath(
            "a path is made of single slashes and of letters, digits and _ . -",
            path=path,
            remedy="Check for a doubled slash, a space or a character that Parameter Store does not know.",
        )
    return normal


def relative_name(path: str, name: str) -> str:
    """
    Return what *name* is called below *path* (a normal one): `A/X` for `/A/A/X` below `/A`.

    A name that is not below it is returned whole; the service does not give one. Below `/` there are also names
    that have no slash at all. A secret of Secrets Manager is called by its id, wherever.
    """
    if is_reference(name):
        return name.removeprefix(REFERENCE + "/")
    if path == "/":
        return name.removeprefix("/")
    return name.removeprefix(path + "/")


def split_names(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, without spaces around them and without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
