"""A detector that searches output, logs, warnings, exceptions and reprs for a secret."""

import asyncio
import gc
import io
import linecache
import logging
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import rich.pretty
from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict

from aiossmenv import (
    AiossmenvError,
    Parameter,
)
from embedded import MariaDB, Store
from face import is_ours
from reach import shapes

# Both ends of SECRET are CORE, and no escape changes CORE, so a search finds it in a quote, an escape or an excerpt.
CORE = "Qz7XkV9w"
SECRET = f"{CORE}\"'\\ /+&%\t\nü{CORE}"


SHAPES = [shape.casefold() for shape in shapes(CORE)]


class LeakDetector(logging.Handler):
    """
    Collects all output; *found* lists the texts that contain the secret, *ran* the code and *seen* the types that
    produced them.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.paused = False
        self.records = 0
        self.found: list[str] = []
        self.failure: BaseException | None = None
        self.ran: set[types.CodeType] = set()
        self.seen: set[type] = set()

    def search(self, kind: str, shown: str) -> None:
        """Search one text."""
        text = shown.casefold()
        for at in {text.find(shape) for shape in SHAPES} - {-1}:
            self.found.append(f"{kind}: ...{shown[max(0, at - 300) : at + 100]}...")

    def emit(self, record: logging.LogRecord) -> None:
        """Search a log record of any logger, its fields and the frames of its exception."""
        if self.paused:
            return
        self.records += 1
        self.search(f"log of {record.name}", f"{self.format(record)} {vars(record)!r}")
        if record.exc_info and record.exc_info[1]:
            self.check_exception(record.exc_info[1], whose="theirs")

    def check_repr(self, *things: object) -> None:
        """Search the repr of each thing, on its own and inside containers."""
        for thing in things:
            self.seen.add(type(thing))
            cache: TTLCache[int, object] = TTLCache(9, 60)
            cache[0] = thing
            held = [thing, (thing,), {thing.__class__: thing}, types.MappingProxyType({"it": thing}), cache]
            held += [Held(thing), Model(it=thing), types.SimpleNamespace(it=thing), partial(print, thing)]
            for one in held:
                self.search(f"repr in {type(one).__name__}", f"{one!r} {one} {rich.pretty.pretty_repr(one)}")
            self.search("str", f"{thing} {thing!s:>5}")

    def check_all_objects(self) -> None:
        """Search the repr of every live object of the package, and of every task."""
        for thing in gc.get_objects():
            if str(type(thing).__module__).startswith("aiossmenv"):
                with suppress(AttributeError):  # a half-initialised object
                    self.search(f"repr of {type(thing).__qualname__}", repr(thing))
        for task in asyncio.all_tasks():
            self.search("task", repr(task))

    def check_exception(self, error: object, *, whose: str = "ours") -> None:
        """
        Search an exception, its chain and the variables of our frames, as three kinds of traceback tools show them.
        """
        while isinstance(error, BaseException):
            self.seen.add(type(error))
            if whose == "ours" or isinstance(error, AiossmenvError):
                self.search("exception", f"{error} {error!r} {error.args!r} {vars(error)!r} {type(error).__name__}")
            for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
                self.check_exception(inner, whose=whose)
            for frame, line in traceback.walk_tb(error.__traceback__):
                if is_ours(frame.f_code.co_filename):
                    self._frame(f"{Path(frame.f_code.co_filename).name} line {line}", frame, line)
            trace = traceback.TracebackException.from_exception(error, capture_locals=True)
            for summary in trace.stack:
                if is_ours(summary.filename):
                    self.search(f"traceback of {summary.filename}:{summary.lineno}", f"{summary.locals}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def _frame(self, where: str, frame: types.FrameType, line: int) -> None:
        """Search the variables as rich expands them, and the dotted names of the line as cgitb evaluates them."""
        for name, value in frame.f_locals.items():
            self.search(f"{name} at {where}", str(rich.pretty.traverse(value)))
        for dotted in re.findall(r"[A-Za-z_][\w.]*", linecache.getline(frame.f_code.co_filename, line)):
            first, *rest = dotted.split(".")
            with suppress(Exception):  # not there, or half-initialised
                value = frame.f_locals[first]
                for name in rest:
                    value = getattr(value, name)
                self.search(f"{dotted} at {where}", repr(value))

    @contextmanager
    def expecting(self, *kinds: type[BaseException], whose: str = "ours") -> Iterator[None]:
        """Expect an exception, and search it."""
        with pytest.raises(kinds) as caught:
            yield
        self.check_exception(caught.value, whose=whose)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Search everything that is logged, printed or warned until the block ends."""
        out, root = io.StringIO(), logging.getLogger()
        before = root.level, root.handlers, sys.unraisablehook, sys.getprofile()
        sys.unraisablehook = lambda shown: self.check_exception(shown.exc_value)
        root.handlers = [self]
        root.setLevel(logging.DEBUG)
        sys.setprofile(self._ran)
        try:
            with redirect_stdout(out), redirect_stderr(out), warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                yield
        finally:
            sys.setprofile(before[3])
            root.setLevel(before[0])
            root.handlers, sys.unraisablehook = before[1:3]
        self.search("output", out.getvalue())
        for warning in warned:
            self.search("warning", f"{warning} {warning.source!r}")

    def _ran(self, frame: types.FrameType, event: str, _: object) -> None:
        if event == "call" and is_ours(frame.f_code.co_filename):
            self.ran.add(frame.f_code)


@dataclass
class Held:
    """A dataclass of a user."""

    it: object


@dataclass(frozen=True)
class Derived(Parameter):
    """A subclass of a class of ours whose generated repr shows its fields."""

    team: str = field(default="", kw_only=True)


class Model(BaseModel):
    """A model of a user."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    it: Any


@dataclass
class Context:
    """What each scenario gets."""

    detector: LeakDetector
    ssm: Store
    server: MariaDB

    def put(self, name: str, value: str = SECRET, kind: str = "SecureString") -> None:
        """Write a parameter without a search: the client that writes is not a part of the package."""
        self.detector.paused = True
        try:
            self.ssm.put(name, value, kind)
        finally:
            self.detector.paused = False


Scenario = Callable[[Context], Coroutine[object, None, None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(run: Scenario) -> Scenario:
    """Register a scenario."""
    SCENARIOS[run.__name__] = run
    return run
