"""
`exec --watch`: keeps a program running with the newest variables.

The program leads a process group of its own, as under tini and envconsul: a restart can then end all that it started,
and a terminal sends Ctrl-C to the program and not to us as well. We give it the terminal, because a group in the
background may neither read it nor set its modes. A signal that reaches us goes to the program alone, as it would
without us: what a server passes on to its workers is its own affair.

Only this module waits for children, by SIGCHLD. A watcher of asyncio would compete with what PID 1 has to do, which is
to wait for each orphan.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiossmenv._env import Env
from aiossmenv.cli._program import Program, refuse_start

logger = logging.getLogger("aiossmenv")

_PASSED_ON = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTSTP")
# After one of these the program is to end, so it is not started again.
_ENDING = {"SIGTERM", "SIGINT", "SIGQUIT"}
# Changes that never pause are waited for so many times the quiet time.
_QUIET_AT_MOST = 10
# Seconds between two looks at what cannot be awaited.
_LOOK = 0.05
# Seconds that a program is given to set its handlers of signals.
_HANDLERS_SET = 1.0
# Seconds after which a child process that nothing waited for is taken for an orphan.
_UNCLAIMED = 5.0

Variables = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    What a change leads to.

    *signum*: what is sent, 0 to restart. *splay*: seconds that are waited at random, at most. *quiet*: seconds without
    a change that are waited for. *stop_timeout*: seconds from SIGTERM to SIGKILL.
    """

    signum: int
    splay: float
    quiet: float
    stop_timeout: float


def parse_on_change(text: str) -> int:
    """Return the signal of `signal:NAME`, 0 for `restart`; raises `ValueError`."""
    if text == "restart":
        return 0
    kind, _, name = text.partition(":")
    names = {signum.name.removeprefix("SIG"): signum for signum in signal.Signals}
    signum = names.get(name.upper().removeprefix("SIG"))
    if kind != "signal" or signum is None:
        raise ValueError(f"{text!r} is neither restart nor signal: and a name, as signal:HUP")
    return signum


class _FirstOfOutage(logging.Filter):
    """Of the warnings of refreshes that fail in a row, only the first passes."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = asyncio.Event()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is logged."""
        if record.module != "_refresher":
            return True
        before = self.failing.is_set()
        self.failing.set()
        return not before


class Supervisor:
    """
    Runs the program that *make* returns for the variables that *select* takes from *env*.

    It ends when the program does; what it then returns is the exit status, or the negative number of a signal.
    """

    def __init__(
        self, env: Env, select: Callable[[Variables], Variables], make: Callable[[Variables], Program], policy: Policy
    ) -> None:
        self._env = env
        self._select = select
        self._make = make
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        # What the program has; its process, if one runs; and how that ends.
        self._variables: Variables = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] = self._loop.create_future()
        # Signals that came while no program ran, and whether one came that is to end it.
        self._held: list[int] = []
        self._ending = False
        self._terminal = _open_terminal()

    async def run(self) -> int:
        """Run the program to its end."""
        unsubscribe = self._env.on_change(lambda _: self._changed.set())
        for name in _PASSED_ON:
            signum = getattr(signal, name)
            # What is ignored, as SIGHUP under nohup, is ignored by the program too.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._loop.add_signal_handler(signum, self._pass_on, signum)
        self._loop.add_signal_handler(signal.SIGCONT, self._resume)
        self._loop.add_signal_handler(signal.SIGCHLD, self._wait_for_children)
        outages = asyncio.create_task(self._tell_outages(), name="aiossmenv outages")
        try:
            self._start(self._select(self._env.snapshot))
            while (variables := await self._next_variables()) is not None:
                if self._policy.signum:
                    self._variables = variables
                    self._send(self._policy.signum)
                    continue
                logger.info("the variables have changed: restarting")
                status = await self._stop()
                if self._ending:
                    return status
                self._start(variables)
            return self._ended.result()
        finally:
            outages.cancel()
            unsubscribe()
            if self._process:
                await self._stop()

    def _start(self, variables: Variables) -> None:
        program = self._make(variables)
        self._variables = variables
        self._ended = self._loop.create_future()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is the user's
                program.arguments,
                executable=program.path,
                env=program.environment,
                process_group=0,
                # What we have inherited is for the program; what is our own is not inheritable.
                close_fds=False,
            )
        except OSError as error:
            refuse_start(program, error)
        if self._give_terminal():
            # It may have read the terminal before, and is stopped then.
            self._send_group(signal.SIGCONT, self._process.pid)
        for signum in self._held:
            # Not at once: until the program has set its handlers, most signals end it.
            self._loop.call_later(_HANDLERS_SET, self._pass_on, signum)
        self._held.clear()

    async def _next_variables(self) -> Variables | None:
        """Return the variables when those that the program has are old, or `None` when it has ended."""
        settled = asyncio.create_task(self._settled(), name="aiossmenv changes")
        try:
            either: set[asyncio.Future[Any]] = {settled, self._ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return None if self._ended.done() else settled.result()
        finally:
            settled.cancel()

    async def _settled(self) -> Variables:
        """Return the variables when they differ from those of the program, and when no more change is under way."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(random.random() * self._policy.splay)  # noqa: S311 - no secret
            quiet, began = self._policy.quiet, self._loop.time()
            # One of two parameters may have been written after it was read: another read must find no more changes.
            while quiet:
                self._changed.clear()
                await asyncio.sleep(quiet)
                try:
                    await self._env.refresh()
                except Exception:
                    # Until a read succeeds these may be half a set, and the program keeps what it has.
                    await asyncio.sleep(self._env.status.next_refresh or quiet)
                    continue
                if not self._changed.is_set() or self._loop.time() - began >= _QUIET_AT_MOST * quiet:
                    break
            self._changed.clear()
            variables = self._select(self._env.snapshot)
            if variables != self._variables and not self._ending:
                return variables

    async def _stop(self) -> int:
        """End the program and all of its process group; return its status."""
        process, ended, timeout = self._process, self._ended, self._policy.stop_timeout
        assert process
        deadline = self._loop.time() + timeout
        self._send(signal.SIGTERM)
        # One that is stopped would not notice.
        self._send_group(signal.SIGCONT, process.pid)
        await asyncio.wait({ended}, timeout=timeout)
        if not ended.done():
            logger.warning("the command did not end within %g s of SIGTERM, and is killed", timeout)
            self._send_group(signal.SIGKILL, process.pid)
            await asyncio.wait({ended})
        # What it has started and left.
        self._send_group(signal.SIGTERM, process.pid)
        while self._send_group(0, process.pid) and _any_runs(process.pid):
            if self._loop.time() >= deadline:
                self._send_group(signal.SIGKILL, process.pid)
                await asyncio.sleep(_LOOK)
                break
            await asyncio.sleep(_LOOK)
        return ended.result()

    async def _tell_outages(self) -> None:
        """Log the first failure of an outage, and its end."""
        first = _FirstOfOutage()
        logger.addFilter(first)
        while True:
            await first.failing.wait()
            while self._env.status.failures:  # noqa: ASYNC110 - a refresh that changed nothing is told to nothing
                await asyncio.sleep(_LOOK)
            first.failing.clear()
            logger.warning("refreshes of %s succeed again", self._env._publisher.where)

    # Signals.

    def _pass_on(self, signum: int) -> None:
        """Pass on a signal that reached us."""
        self._ending = self._ending or signal.Signals(signum).name in _ENDING
        if self._process:
            self._send(signum)
        elif not self._ending:
            self._held.append(signum)

    def _send(self, signum: int) -> None:
        # Its process id is its own until we have waited for it.
        if self._process:
            try:
                os.kill(self._process.pid, signum)
            except PermissionError:
                logger.warning("the command runs as another user, and cannot be sent signal %d", signum)

    @staticmethod
    def _send_group(signum: int, group: int) -> bool:
        """Send a signal to all of a process group; return whether there is one."""
        try:
            os.killpg(group, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    # Child processes.

    def _wait_for_children(self, unclaimed: int = 0) -> None:
        """Learn what became of the program, and wait for orphans, which are ours if we are PID 1."""
        while self._process:
            pid, status = os.waitpid(self._process.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                break
            if os.WIFSTOPPED(status):
                self._suspend()
                continue
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._process = None
            self._take_terminal(pid)
            self._ended.set_result(os.waitstatus_to_exitcode(status))
        while (pid := _first_ended()) and not (self._process and self._process.pid == pid):
            if pid != unclaimed and os.getpgid(pid) == os.getpgrp():
                # It probably gave credentials to the SDK, and asyncio waits for it. If not, it was here before us.
                self._loop.call_later(_UNCLAIMED, self._wait_for_children, pid)
                break
            os.waitpid(pid, os.WNOHANG)

    # The terminal, and the job control of the shell that started us.

    def _give_terminal(self) -> bool:
        """Put the program into the foreground if we are; return whether it is."""
        if not self._process or _foreground(self._terminal) != os.getpgrp() or not _is_free():
            return False
        _set_foreground(self._terminal, self._process.pid)
        return True

    def _take_terminal(self, group: int) -> None:
        """Put us into the foreground if the program was."""
        if _foreground(self._terminal) == group:
            _set_foreground(self._terminal, os.getpgrp())

    def _suspend(self) -> None:
        """Stop as the program did, so that the shell takes the terminal back."""
        if self._terminal is None:
            return
        stops = self._loop.remove_signal_handler(signal.SIGTSTP)
        self._loop.remove_signal_handler(signal.SIGCONT)
        # All of our group, as a terminal does: it may be a script. The kernel ignores it where no shell would continue
        # us.
        os.killpg(os.getpgrp(), signal.SIGTSTP)
        if stops:
            self._loop.add_signal_handler(signal.SIGTSTP, self._pass_on, signal.SIGTSTP)
        self._loop.add_signal_handler(signal.SIGCONT, self._resume)
        self._resume()

    def _resume(self) -> None:
        """Continue the program, in the foreground if we are."""
        self._give_terminal()
        if self._process:
            self._send_group(signal.SIGCONT, self._process.pid)


def _any_runs(group: int) -> bool:
    """Whether a process of the group runs; one that has ended may be there long if PID 1 does not wait for it."""
    try:
        processes = [name for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - names are what is needed
    except OSError:
        return True  # macOS, whose PID 1 waits
    for name in processes:
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            if int(its_group) == group and state not in {b"Z", b"X"}:
                return True
    return False


def _first_ended() -> int:
    """Return the id of a child process that has ended and that was not waited for, 0 if there is none."""
    if not hasattr(os, "waitid"):
        return 0  # macOS before Python 3.13, where we are not PID 1
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found else 0


def _open_terminal() -> int | None:
    """Return our terminal, or `None` if there is none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None


def _foreground(terminal: int | None) -> int:
    """Return the process group in the foreground, 0 if there is no terminal or if it hung up."""
    try:
        return os.tcgetpgrp(terminal) if terminal is not None else 0
    except OSError:
        return 0


def _is_free() -> bool:
    """Whether no program behind a pipe, such as less, may read the terminal in our process group."""
    try:
        return os.isatty(0) and not stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return True  # standard output is closed


def _set_foreground(terminal: int | None, group: int) -> None:
    assert terminal is not None
    # A group in the background that does this is stopped by SIGTTOU, unless that is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        with contextlib.suppress(OSError):  # the terminal hung up, or the group has ended
            os.tcsetpgrp(terminal, group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
