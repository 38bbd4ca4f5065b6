"""What may be said of an error of a driver: no value of the credentials, and no frame that holds one."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from aiossmenv._errors import RotationFailed


def without_frames(error: Exception | None) -> Exception | None:
    """Strip an error, and those it came from, of frames and of texts that were not encoded: both hold passwords."""
    stripped: set[BaseException] = set()
    found: list[BaseException | None] = [error]
    while found:
        one = found.pop()
        if one and one not in stripped:
            stripped.add(one.with_traceback(None))
            if isinstance(one, UnicodeEncodeError):
                one.object, one.args = "", (one.encoding, "", one.start, one.end, one.reason)
            found += [one.__cause__, one.__context__]
    return error


def describe(error: BaseException, values: Iterable[str]) -> str:
    """
    Name an error: ours by their text, which holds no value, and others by their type.

    An error with a number, or a SQLSTATE, is a driver's or the system's: that says what it is, and the text quotes user
    names or addresses. Any other gives its text too, unless that holds a part of one of *values*.
    """
    if isinstance(error, RotationFailed):
        return str(error.args[0])
    name = type(error).__name__
    if error.args and isinstance(error.args[0], int):
        return f"{name} {error.args[0]}"
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and re.fullmatch("[0-9A-Z]{5}", state):
        return f"{name} {state}"
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:
        return name
    # A UnicodeError quotes characters of what could not be encoded.
    if not text or isinstance(error, UnicodeError) or _holds_part(text, values):
        return name
    return f"{name}: {text}"


def _holds_part(text: str, values: Iterable[str]) -> bool:
    """Return whether *text* holds one of *values*, a word of it, or eight characters of it in a row."""
    text = text.casefold()
    for value in (spelling.casefold() for whole in values for spelling in _spellings(whole)):
        words = re.findall(r"[^\W_]{3,}", value)
        if any(part in text for part in (value, *words, *(value[at : at + 8] for at in range(len(value) - 7)))):
            return True
    return False


def _spellings(value: str) -> Iterator[str]:
    """Yield a value as a text may quote it: of a JSON object each value in it, and percent-encoding undone."""
    inside: list[Any] = [value]
    with suppress(ValueError, RecursionError):
        found = json.loads(value)
        if isinstance(found, dict | list):
            inside = [found]
    while inside:
        one = inside.pop()
        inside += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
        if isinstance(one, str) and one:
            yield from (one, unquote(one), repr(one)[1:-1])
