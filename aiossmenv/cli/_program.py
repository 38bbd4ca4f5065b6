"""What `exec` starts: a program, its arguments and its environment, and whether the kernel takes them."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from aiossmenv.cli._run import CommandError

# The exit statuses of shells, and of `env`.
NOT_EXECUTABLE, NOT_FOUND = 126, 127

# What chamber's users write where a secret is to stand.
PLACEHOLDER = "chamberme"

# Linux takes a quarter of the stack's limit, at least 128 KiB and at most 6 MiB (bprm_stack_limits in fs/exec.c). For
# one string it takes 32 pages with the NUL (MAX_ARG_STRLEN); macOS has no such limit.
_TOTAL_AT_LEAST = 128 * 1024
_TOTAL_AT_MOST = 6 * 1024 * 1024
_PAGES_OF_ONE = 32
_WINDOWS = 32_767
_POINTER = 8
# So many of the largest variables are named.
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """*path*: the file. *arguments*: the first is the program's name as it was given. *environment*: all of it."""

    path: str
    arguments: tuple[str, ...]
    environment: Mapping[bytes, bytes] = field(repr=False)


def inherited() -> dict[str, str]:
    """Return the environment that this process was started with."""
    # Each byte as it is, whatever the locale: what Parameter Store holds is UTF-8.
    variables = {_text(name): _text(value) for name, value in os.environb.items()}
    if "LC_CTYPE" in variables and _python_set_locale():
        del variables["LC_CTYPE"]
    return variables


def _python_set_locale() -> bool:
    """Whether LC_CTYPE comes from Python, which sets it in the locale C (PEP 538), also for its child processes."""
    try:
        at_start = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.environ["LC_CTYPE"] in {"C.UTF-8", "C.utf8", "UTF-8"} and not any(
        variable.startswith((b"LC_CTYPE=", b"LC_ALL=")) for variable in at_start
    )


def environment(
    base: Mapping[str, str], loaded: Mapping[str, str], *, override: bool, pristine: bool, strict: bool
) -> dict[str, str]:
    """
    Return the environment of the program: *base*, what this process inherited, with what was *loaded*.

    *override*: whether a variable that was inherited is replaced. *pristine*: nothing is inherited. *strict*: a
    placeholder is no value, so it is replaced anyway.
    """
    if pristine:
        return dict(loaded)
    kept = {} if override else {key: value for key, value in base.items() if not (strict and value == PLACEHOLDER)}
    return {**base, **loaded, **kept}


def find(name: str, search_path: str) -> str:
    """Return the file of the program *name*, which is looked for in *search_path* unless there is a slash in it."""
    folders = [""] if "/" in name else search_path.split(os.pathsep)
    files = [os.path.join(folder, name) for folder in folders] if name else []  # noqa: PTH118 - "./x" stays as it is
    there = [file for file in files if os.path.exists(file)]  # noqa: PTH110
    programs = [file for file in there if os.path.isfile(file)]  # noqa: PTH113
    for file in programs:
        if os.access(file, os.X_OK):
            return file
    if programs:
        _refuse(f"{programs[0]} is not executable")
    if there and "/" in name:
        _refuse(f"{name} is not a file")
    return _refuse(f"there is no program {name!r}{'' if '/' in name else ' in PATH'}", status=NOT_FOUND)


def make(command: Sequence[str], variables: Mapping[str, str], *, search_path: str) -> Program:
    """Return the program that *command* names, or raise why it cannot be started with the environment *variables*."""
    program = Program(
        path=find(command[0], search_path),
        arguments=tuple(command),
        environment={_bytes(name): _bytes(value) for name, value in variables.items()},
    )
    one = _PAGES_OF_ONE * os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else None
    fault = oversize(program, total=kernel_limit(), one=one)
    if fault:
        _refuse(fault, "Load fewer or smaller variables: --key names what to load.")
    return program


def kernel_limit() -> int:
    """Return the bytes that the kernel takes for arguments and environment; on Windows characters, of the latter."""
    if sys.platform == "win32":
        return _WINDOWS
    if sys.platform != "linux":
        return os.sysconf("SC_ARG_MAX")
    import resource

    # Not SC_ARG_MAX, which musl always says is 128 KiB.
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    quarter = _TOTAL_AT_MOST if stack == resource.RLIM_INFINITY else stack // 4
    return max(_TOTAL_AT_LEAST, min(quarter, _TOTAL_AT_MOST))


def oversize(program: Program, *, total: int, one: int | None) -> str | None:
    """
    Return what is too large for the kernel, and by how many bytes; no value.

    *total*: bytes that all strings and the pointers to them may take. *one*: bytes that one string may take, if that is
    limited.
    """
    sizes = {_text(name): len(name) + len(value) + len("=\0") for name, value in program.environment.items()}
    arguments = [len(os.fsencode(argument)) + 1 for argument in program.arguments]
    if one is not None:
        faults = [f"{name} by {size - one}" for name, size in sorted(sizes.items()) if size > one]
        faults += [f"argument {number} by {size - one}" for number, size in enumerate(arguments) if size > one]
        if faults:
            return f"too large for the kernel, in bytes: {', '.join(faults)}; NAME=VALUE takes {one - 1} at most"
    strings = len(os.fsencode(program.path)) + 1 + sum(sizes.values()) + sum(arguments)
    excess = strings + _POINTER * (len(sizes) + len(arguments)) - total
    if excess <= 0:
        return None
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_NAMED]
    return (
        f"the arguments and the environment take {total + excess} bytes, {excess} too many for the kernel;"
        f" the largest variables are {', '.join(largest)}"
    )


def replace_process(program: Program) -> NoReturn:
    """Become the program; raises why that is not possible."""
    # Python ignores these from its start, and what is ignored stays so.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execve(program.path, program.arguments, program.environment)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        refuse_start(program, error)


def end_as(status: int) -> NoReturn:
    """
    End this process at once as the program did.

    *status*: its exit status, or the negative number of the signal that killed it.
    """
    import resource

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # closed from the start, or what reads it has ended
            stream.flush()
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        # The program has left the core dump that counts.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -status)
    # Here PID 1 survives, and says it as a shell does. Not sys.exit(): Python would wait for its threads, one of which
    # may wait for the network.
    os._exit(status if status >= 0 else 128 - status)


def refuse_start(program: Program, error: OSError) -> NoReturn:
    """Raise what the kernel's *error* says of the start of *program*."""
    if error.errno == errno.E2BIG:
        text = "the arguments and the environment are too large for the kernel"
    elif error.errno == errno.ENOEXEC:
        text = f"{program.path} is no program for this machine, and no script whose first line begins with #!"
    elif error.errno == errno.ENOENT:
        # The file is there: what is missing is what would run it.
        text = f"{program.path} needs an interpreter or a loader that is not there"
    else:
        text = f"{program.path}: {error.strerror}"
    _refuse(text)


def _refuse(text: str, remedy: str = "", *, status: int = NOT_EXECUTABLE) -> NoReturn:
    """Raise that the program cannot be started."""
    raise CommandError(text, remedy, status=status) from None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
