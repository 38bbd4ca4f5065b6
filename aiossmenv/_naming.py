"""Paths, names, selectors and ARNs; and from a parameter's relative name to the key it has in an environment."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from aiossmenv._errors import InvalidPath, InvalidVariable, KeyCollision

T = TypeVar("T")

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

_SEPARATORS = str.maketrans("/.-", "___")


def upper_snake(name: str) -> str:
    """Return *name* with `/`, `.` and `-` made `_`, in upper case: `db/read-only.url` is `DB_READ_ONLY_URL`."""
    return name.translate(_SEPARATORS).upper()


def name_keys(path: str, names: Iterable[str], to_key: Callable[[str], str]) -> dict[str, str]:
    """
    Map each key to the one name of *names* that it stands for; all are below *path*.

    Raises `KeyCollision` with every pair that maps to one key, `InvalidVariable` where *to_key* fails.
    """
    # Which version of it is read is no part of what it is called.
    pairs = [(key_of(relative_name(path, name).partition(":")[0], to_key, name, path), name) for name in sorted(names)]
    return unique_keys(path, pairs, str)


def unique_keys(path: str, pairs: Iterable[tuple[str, T]], describe: Callable[[T], str]) -> dict[str, T]:
    """Return *pairs* of a key and what it stands for as a dict, or raise `KeyCollision` with all that share a key."""
    things_by_key: dict[str, list[T]] = {}
    for key, thing in pairs:
        things_by_key.setdefault(key, []).append(thing)
    collisions = {key: tuple(map(describe, same)) for key, same in things_by_key.items() if len(same) > 1}
    if collisions:
        texts = "; ".join(f"{key} from {' and '.join(same)}" for key, same in collisions.items())
        raise KeyCollision(
            f"several parameters map to one key: {texts}",
            collisions=collisions,
            path=path,
            remedy="Rename all but one of each, or pass to_key=str to keep names as they are.",
        )
    return {key: same[0] for key, same in things_by_key.items()}


def key_of(relative: str, to_key: Callable[[str], str], parameter: str, path: str) -> str:
    """Return the key of a name; where *to_key* fails, raise `InvalidVariable` with *parameter* and *path*."""
    try:
        key = to_key(relative)
    except Exception as error:
        raise InvalidVariable(
            f"to_key raised {type(error).__name__}", parameter=parameter, path=path, remedy="Correct to_key."
        ) from error
    if not isinstance(key, str):
        raise InvalidVariable(
            f"to_key returned {type(key).__name__}, not str", parameter=parameter, path=path, remedy="Correct to_key."
        )
    return key


def is_name(text: str) -> bool:
    """Whether *text* is as a name of a parameter is, relative to a path."""
    return _RELATIVE.fullmatch(text) is not None


# A secret of Secrets Manager, read through Parameter Store: by name only, decrypted only, alone only.
REFERENCE = "/aws/reference/secretsmanager"


def is_reference(name: str) -> bool:
    """Whether *name* is that of a secret of Secrets Manager."""
    return name.startswith(REFERENCE + "/")


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


def is_below(path: str, name: str, *, recursive: bool) -> bool:
    """Whether *name* is under *path*, and directly under it if that is not to be *recursive*."""
    if is_reference(name):
        return path == REFERENCE
    relative = relative_name(path, name)
    return (path == "/" or relative != name) and (recursive or "/" not in relative)


# The service's limits. That of characters includes the ARN's prefix, which depends on region and account: what is
# longer by itself is refused here, and the rest by the service.
_LEVELS, _CHARACTERS = 15, 1_011
_RESERVED = ("aws", "ssm")
_NAME_REMEDIES = {
    "noun": "name",
    "empty": "Give one like /FAKEBOOK/TEST/DB_URL.",
    "arn": "Write the name in it: {0}. Only the parameters of one's own account are written, by their names.",
    "wildcard": "Write or delete each parameter by its whole name.",
    "several": "Pass each name by itself.",
    "scheme": "Write it without {1} in front: {0}",
}


def readable_name(name: str) -> str:
    """
    Return the *name* of a parameter that may be read, without spaces around it; it may be an ARN, or have a selector.

    Raises `InvalidPath` for what no parameter is called.
    """
    text = name.strip()
    if is_reference(text) or text.startswith("arn:"):
        return text
    base = split_selector(text)[0]
    fault = _mistake(text, _NAME_REMEDIES)
    if not fault and not (_PATH.fullmatch("/" + base.removeprefix("/")) and base.strip("/") and _is_selector(text)):
        fault = (
            "a name is made of single slashes and of letters, digits and _ . -, and may end in :3 or :label",
            "Check for a doubled or a final slash, a space or a character that Parameter Store does not know.",
        )
    if fault:
        raise InvalidPath(fault[0], parameter=name, remedy=fault[1])
    return text


def full_name(name: str) -> str:
    """
    Return the full *name* of a parameter that may be written or deleted, without spaces around it.

    Raises `InvalidPath` for what Parameter Store would refuse.
    """
    text = name.strip()
    fault = _mistake(text, _NAME_REMEDIES)
    first = text.removeprefix("/").partition("/")[0].casefold()
    levels = text.count("/")
    if not fault and ":" in text:
        fault = "a version or a label cannot be written or deleted", f"Write the name: {text.partition(':')[0]}"
    elif not fault and not text.startswith("/"):
        fault = "a full name begins with a slash", f"Write it as /{text}, if that is what you mean."
    elif not fault and (not _PATH.fullmatch(text) or text == "/"):
        fault = (
            "a name is made of single slashes and of letters, digits and _ . -",
            "Check for a doubled or a final slash, a space or a character that Parameter Store does not know.",
        )
    elif not fault and first in _RESERVED:
        fault = 'a name can\'t be prefixed with "aws" or "ssm" (case-insensitive)', "Write it below another path."
    elif not fault and levels > _LEVELS:
        fault = f"a hierarchy has {_LEVELS} levels at most, and this has {levels}", "Take levels out of the name."
    elif not fault and len(text) > _CHARACTERS:
        fault = f"a name has {_CHARACTERS:,} characters at most, and this has {len(text):,}", "Shorten it."
    if fault:
        raise InvalidPath(fault[0], parameter=name, remedy=fault[1])
    return text
