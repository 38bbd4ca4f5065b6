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
    else empty.
    """

    name: str
    value: str = field(repr=False)
    type: ParameterType
    version: int
    last_modified: datetime | None = None
    arn: str = ""
    data_type: str = "text"
    selector: str = ""

    def __repr__(self) -> str:
        return f"<Parameter {self.name}{self.selector} {self.type} version {self.version}>"


Parameter.__module__ = "aiossmenv"


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
    that have no slash at all.
    """
    if path == "/":
        return name.removeprefix("/")
    return name.removeprefix(path + "/")


def base_name(name: str) -> str:
    """Return *name* without its selector, and an ARN as the name that it ends in: what IAM knows the parameter by."""
    if name.startswith("arn:"):
        name = "/" + name.partition(":parameter/")[2]
    return name.partition(":")[0]


def split_names(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, without spaces around them and without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
