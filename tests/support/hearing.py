"""What is said while something happens: printed, logged, warned, raised or shown; and the pieces that hold a secret."""

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

# Found whole wherever it is quoted, escaped or not, and however short the part that is shown.
CORE = "Qz7XkV9w"
SECRET = f"{CORE}\"'\\ /+&%\t\nü{CORE}"


SHAPES = [shape.casefold() for shape in shapes(CORE)]


class Ear(logging.Handler):
    """Hears all that is said; *found* are the pieces of it that hold the secret, *ran* and *seen* what made them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.deaf = False
        self.records = 0
        self.found: list[str] = []
        self.failure: BaseException | None = None
        self.ran: set[types.CodeType] = set()
        self.seen: set[type] = set()

    def hear(self, kind: str, said: str) -> None:
        """Search a piece of what was said."""
        text = said.casefold()
        for at in {text.find(shape) for shape in SHAPES} - {-1}:
            self.found.append(f"{kind}: ...{said[max(0, at - 300) : at + 100]}...")

    def emit(self, record: logging.LogRecord) -> None:
        """Hear a record, its parts and the frames of its exception, from any logger."""
        if self.deaf:
            return
        self.records += 1
        self.hear(f"log of {record.name}", f"{self.format(record)} {vars(record)!r}")
        if record.exc_info and record.exc_info[1]:
            self.caught(record.exc_info[1], whose="theirs")

    def shown(self, *things: object) -> None:
        """Hear the repr of things and of all in them, by themselves and within others."""
        for thing in things:
            self.seen.add(type(thing))
            cache: TTLCache[int, object] = TTLCache(9, 60)
            cache[0] = thing
            held = [thing, (thing,), {thing.__class__: thing}, types.MappingProxyType({"it": thing}), cache]
            held += [Held(thing), Model(it=thing), types.SimpleNamespace(it=thing), partial(print, thing)]
            for one in held:
                self.hear(f"repr in {type(one).__name__}", f"{one!r} {one} {rich.pretty.pretty_repr(one)}")
            self.hear("str", f"{thing} {thing!s:>5}")

    def look_round(self) -> None:
        """Hear the repr of every object of ours that there is, and of every task."""
        for thing in gc.get_objects():
            if str(type(thing).__module__).startswith("aiossmenv"):
                with suppress(AttributeError):  # of what was not made whole
                    self.hear(f"repr of {type(thing).__qualname__}", repr(thing))
        for task in asyncio.all_tasks():
            self.hear("task", repr(task))

    def caught(self, error: object, *, whose: str = "ours") -> None:
        """
        Hear an exception, those behind it, and the variables of our frames in them, in three ways of showing them.
        """
        while isinstance(error, BaseException):
            self.seen.add(type(error))
            if whose == "ours" or isinstance(error, AiossmenvError):
                self.hear("exception", f"{error} {error!r} {error.args!r} {vars(error)!r} {type(error).__name__}")
            for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
                self.caught(inner, whose=whose)
            for frame, line in traceback.walk_tb(error.__traceback__):
                if is_ours(frame.f_code.co_filename):
                    self._frame(f"{Path(frame.f_code.co_filename).name} line {line}", frame, line)
            trace = traceback.TracebackException.from_exception(error, capture_locals=True)
            for summary in trace.stack:
                if is_ours(summary.filename):
                    self.hear(f"traceback of {summary.filename}:{summary.lineno}", f"{summary.locals}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def _frame(self, where: str, frame: types.FrameType, line: int) -> None:
        """Hear the variables as rich unfolds them, and the dotted names in the line as cgitb looks them up."""
        for name, value in frame.f_locals.items():
            self.hear(f"{name} at {where}", str(rich.pretty.traverse(value)))
        for dotted in re.findall(r"[A-Za-z_][\w.]*", linecache.getline(frame.f_code.co_filename, line)):
            first, *rest = dotted.split(".")
            with suppress(Exception):  # not there, or not made whole
                value = frame.f_locals[first]
                for name in rest:
                    value = getattr(value, name)
                self.hear(f"{dotted} at {where}", repr(value))

    @contextmanager
    def failing(self, *kinds: type[BaseException], whose: str = "ours") -> Iterator[None]:
        """Expect an exception, and hear it."""
        with pytest.raises(kinds) as caught:
            yield
        self.caught(caught.value, whose=whose)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear everything until the block ends."""
        out, root = io.StringIO(), logging.getLogger()
        before = root.level, root.handlers, sys.unraisablehook, sys.getprofile()
        sys.unraisablehook = lambda said: self.caught(said.exc_value)
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
        self.hear("output", out.getvalue())
        for warning in warned:
            self.hear("warning", f"{warning} {warning.source!r}")

    def _ran(self, frame: types.FrameType, event: str, _: object) -> None:
        if event == "call" and is_ours(frame.f_code.co_filename):
            self.ran.add(frame.f_code)


@dataclass
class Held:
    """A dataclass of a user's."""

    it: object


@dataclass(frozen=True)
class Derived(Parameter):
    """One that derives from ours, and so has a repr made of its fields."""

    team: str = field(default="", kw_only=True)


class Model(BaseModel):
    """A model of a user's."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    it: Any


@dataclass
class Stage:
    """What scenes are played on."""

    ear: Ear
    ssm: Store
    server: MariaDB

    def put(self, name: str, value: str = SECRET, kind: str = "SecureString") -> None:
        """Write a parameter, unheard: who writes it is another client, and no part of the package."""
        self.ear.deaf = True
        try:
            self.ssm.put(name, value, kind)
        finally:
            self.ear.deaf = False


Scene = Callable[[Stage], Coroutine[object, None, None]]
SCENES: dict[str, Scene] = {}


def scene(play: Scene) -> Scene:
    """Have *play* played."""
    SCENES[play.__name__] = play
    return play
