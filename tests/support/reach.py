"""
Everything that is reachable from an exception: its text, attributes, causes, and the variables of all their frames.
"""

import base64
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType

TESTS = str(Path(__file__).parents[1])


def shapes(text: str) -> Iterator[str]:
    """Yield *text* as it is, in hexadecimal, and as it appears in base64 at each of the three offsets."""
    yield text
    yield text.encode().hex()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + text.encode()).decode()
        yield encoded[-(-offset * 8 // 6) : (offset + len(text)) * 8 // 6]


def holds(error: BaseException, secret: str) -> list[str]:
    """Return the places reachable from *error* that hold *secret* in any shape; frames of the tests are ignored."""
    sought = [shape.casefold() for shape in shapes(secret)]
    found = []
    for place, content in reached(error):
        text = content.decode("latin-1") if isinstance(content, bytes) else content
        if any(shape in text.casefold() for shape in sought):
            found.append(f"{place}: {text[:200]}")
    shown: traceback.TracebackException | None
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    while shown is not None:
        found += [
            f"captured in {summary.filename}:{summary.lineno}"
            for summary in shown.stack
            if not summary.filename.startswith(TESTS)
            and any(shape in f"{summary.locals}".casefold() for shape in sought)
        ]
        shown = shown.__cause__ or shown.__context__
    return found


def reached(error: BaseException) -> Iterator[tuple[str, str | bytes]]:
    """Yield each text and each byte string that is reachable from *error*, and where it is."""
    seen: set[int] = set()
    left: list[tuple[str, object]] = [(type(error).__name__, error)]
    while left:
        place, thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, str | bytes):
            yield place, thing
        elif isinstance(thing, bytearray | memoryview):
            yield place, bytes(thing)
        elif isinstance(thing, Mapping) and not hasattr(thing, "__sentry_repr__"):
            left += [(f"{place}[{key!r}]", value) for key, value in dict(thing).items()]
        elif isinstance(thing, list | tuple | set | frozenset):
            left += [(f"{place}[]", value) for value in thing]
        elif isinstance(thing, TracebackType | FrameType):
            left += _frames(place, thing)
        elif isinstance(thing, BaseException):
            names = ("args", "exceptions", "__cause__", "__context__", "__traceback__")
            more: dict[str, object] = {name: getattr(thing, name, None) for name in names} | vars(thing)
            left += [(f"{place}.{name}", value) for name, value in more.items() if value is not None]
            yield place, _text_of(thing)
        else:
            yield place, _text_of(thing)


def _frames(place: str, thing: TracebackType | FrameType) -> Iterator[tuple[str, object]]:
    trace = thing if isinstance(thing, TracebackType) else None
    for frame, line in traceback.walk_tb(trace) if trace else [(thing, 0)]:
        assert isinstance(frame, FrameType)
        name = frame.f_code.co_filename
        if not name.startswith(TESTS):
            for variable, value in frame.f_locals.items():
                yield f"{place} {name}:{line} {variable}", value


def _text_of(thing: object) -> str:
    try:
        return f"{thing!r} {thing}"
    except Exception as error:  # the repr of a half-initialised object
        return type(error).__name__
