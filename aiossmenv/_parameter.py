"""A parameter as it was read, and the grammar of paths and names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from aiossmenv._errors import InvalidPath

ParameterType = Literal["String", "StringList", "SecureString"]

# Letters, digits and these, says PutParameter's documentation; a path may be the bare slash.
_RELATIVE = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")
_PATH = re.compile(rf"/(?:{_RELATIVE.pattern})?")
# A version's number or a label, says the documentation of LabelParameterVersion.
_SELECTOR = re.compile(r"[A-Za-z0-9_.-]+")
# What is taken for a path by mistake.
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")
_VARIABLE = re.compile(r"[${}]|%\w+%")
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


def normal_path(path: str, source: str = "") -> str:
    """
    Return *path* without its final slash, or raise `InvalidPath`; `/` stays as it is.

    *source*: the variable that the path comes from, for the error.
    """
    text = path.strip()
    fault = _mistake(text, _PATH_REMEDIES)
    normal = text[:-1] if text.endswith("/") and text != "/" else text
    if not fault and (text == REFERENCE or is_reference(text)):
        fault = "secrets of Secrets Manager cannot be listed", f"Name each in keys=['{REFERENCE}/ID']."
    elif not fault and ":" in text and text.startswith("/"):
        parent, _, name = normal.rpartition("/")
        remedy = f"Read one parameter with load_env('{parent or '/'}', keys=['{name}'])."
        fault = "a path has no version and no label", remedy
    elif not fault and not text.startswith("/"):
        fault = "a path begins with a slash", f"Write it as /{text.rstrip('/')}/, if that is what you mean."
    elif not fault and (not _PATH.fullmatch(normal) or text == "//"):
        fault = (
            "a path is made of single slashes and of letters, digits and _ . -",
            "Check for a doubled slash, a space or a character that Parameter Store does not know.",
        )
    if fault:
        text, remedy = fault
        raise InvalidPath(f"{source}: {text}" if source else text, path=path, remedy=remedy)
    return normal


def normal_key(key: str, paths: Iterable[str]) -> str:
    """
    Return the name that *key* means: a full one below one of the normal *paths*, a relative one, or a secret's.

    Raises `InvalidPath` for what can be neither.
    """
    text = key.strip()
    # At once, because there may be thousands of these, and this is on the event loop.
    if _RELATIVE.fullmatch(text) or is_reference(text):
        return text
    fault = _mistake(text, _KEY_REMEDIES)
    name = text.rstrip("/")
    base = split_selector(name)[0]
    if not fault and not (_PATH.fullmatch("/" + base.removeprefix("/")) and base.strip("/") and _is_selector(name)):
        fault = (
            "a name is made of single slashes and of letters, digits and _ . -, and may end in :3 or :label",
            "Check for a doubled slash, a space or a character that Parameter Store does not know.",
        )
    elif not fault and base.startswith("/") and nearest(paths, base) is None:
        stem = base.rpartition("/")[0]
        fault = (
            f"this full name is below none of the paths: {', '.join(paths) or 'there are none'}",
            f"Pass '{stem or '/'}' as a path, too, or write it relative to the paths: '{name.lstrip('/')}'.",
        )
    if fault:
        raise InvalidPath(fault[0], parameter=key, remedy=fault[1])
    return name


def nearest(paths: Iterable[str], name: str) -> str | None:
    """Return the one of *paths* that the full *name* is most closely below, or `None`."""
    above = [path for path in paths if name.startswith(path.rstrip("/") + "/")]
    return max(above, key=len, default=None)


def _is_selector(name: str) -> bool:
    _, colon, selector = name.partition(":")
    return not colon or bool(_SELECTOR.fullmatch(selector))


# A remedy for each mistake: {0} is what the text probably means.
_PATH_REMEDIES = {
    "noun": "path",
    "empty": "Give one like /FAKEBOOK/TEST/.",
    "arn": "Write the path in it: {0}",
    "wildcard": "Everything under a path is read, so write {0}",
    "several": "Pass several paths as several arguments: load_env('/A/', '/B/').",
    "scheme": "Write it without {1} in front: {0}",
}
_KEY_REMEDIES = {
    "noun": "name",
    "empty": "Give a name like DB_URL, or pass no keys= to read everything under the paths.",
    "arn": "Write the name in it, {0}, or read it by its ARN with ParameterStore().get().",
    "wildcard": "Each name in keys= is whole; pass no keys= to read everything under the paths.",
    "several": "Pass several names as a list: keys=['DB_URL', 'DB_USER'].",
    "scheme": "Write it without {1} in front: {0}",
}


def _mistake(text: str, remedies: Mapping[str, str]) -> tuple[str, str] | None:  # noqa: C901, PLR0911 - a table
    """Return what is wrong with a path or a name that was meant for something else, and the remedy."""
    if not text:
        return f"the {remedies['noun']} is empty", remedies["empty"]
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        return (
            "there are quotes around it",
            f"Write {text.strip(_QUOTES)} without them; in an env file of Docker quotes are a part of the value.",
        )
    if text.startswith("arn:"):
        if ":secretsmanager:" in text:
            return "this is the ARN of a secret", f"Write keys=['{REFERENCE}/ID'], with the name of the secret as ID."
        name = "/" + text.partition(":parameter")[2].strip("/*").partition(":")[0]
        return "this is an ARN", remedies["arn"].format(name)
    if _DRIVE.match(text):
        return (
            "this is a path of Windows",
            "Write it like /FAKEBOOK/TEST/. If the shell made it of that, as Git Bash does, set MSYS_NO_PATHCONV=1.",
        )
    if "\\" in text:
        return "there are backslashes in it", f"Write it with slashes: {text.replace(chr(92), '/')}"
    if _VARIABLE.search(text):
        return (
            "there is a variable in it that nothing replaced",
            "Pass the value itself: an f-string, or os.environ['NAME'].",
        )
    if scheme := _SCHEME.match(text):
        rest = text[scheme.end() :].strip("/")
        if scheme[0].startswith("http"):
            return "this is a URL", "Write the name in Parameter Store, like /FAKEBOOK/TEST/."
        return "this is a URL", remedies["scheme"].format("/" + rest, scheme[0].rstrip("/"))
    if "*" in text or "?" in text:
        head = re.split(r"[*?]", text)[0]
        return "there is a wildcard in it", remedies["wildcard"].format(head[: head.rfind("/") + 1] or "/")
    if any(separator in text for separator in (",", ";", "\n", ":/")):
        return "these are several in one text", remedies["several"]
    return None


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
