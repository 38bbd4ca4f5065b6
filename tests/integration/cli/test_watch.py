"""`aiossmenv exec --watch`: a command that is restarted when its variables change."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from command import aiossmenv, invoke
from embedded import Store
from faults import FaultProxy, error
from watched import put, rotate, watched

# A service: it says what it was started with, what signals it gets, and ends in its own way.
SERVICE = """
trap 'echo HUP' HUP; trap 'echo USR1' USR1; trap 'echo TERM; exit 3' TERM
echo "start $A $B"
while :; do sleep 0.01; done
"""
# It counts its interrupts, and reads lines of the terminal.
INTERACTIVE = """
import os, signal
interrupts = 0
def interrupt(*_):
    global interrupts
    interrupts += 1
    print("INT", interrupts)
signal.signal(signal.SIGINT, interrupt)
print("ready", os.environ["A"])
while True:
    print("read", input())
"""
QUICK = ("--ttl", "0.05", "--quiet", "0.05")


def state(pid: str) -> str | None:
    """Return the letter of a process's state, Z if it has ended and was not waited for, `None` if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def children(pid: int) -> list[str]:
    """Return the ids of the children of a process's first thread."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_a_change_restarts_the_command(ssm: Store, tmp_path: Path) -> None:
    """It is told to end, and started with the new values; a value that is written again changes nothing."""
    await put(ssm, A="1", B="1")

    async with watched(tmp_path, *QUICK, "/APP", "--", "sh", "-c", SERVICE) as running:
        await running.until(lambda lines: lines == ["start 1 1"])
        await put(ssm, A="1")
        await asyncio.sleep(0.3)
        await put(ssm, A="2")
        lines = await running.until(lambda lines: len(lines) >= 3)
        running.process.send_signal(signal.SIGTERM)
        status = await running.ended()

    assert ["start 1 1", "TERM", "start 2 1"] == lines
    assert 3 == status
    assert "" == running.err.read_text()


async def test_a_signal_may_tell_the_command_of_a_change(ssm: Store, tmp_path: Path) -> None:
    """With `--on-change signal:NAME` it goes on, gets one signal for each change, and its end by a signal is ours."""
    await put(ssm, A="1", B="1")

    async with watched(tmp_path, *QUICK, "--on-change", "signal:hup", "/APP", "--", "sh", "-c", SERVICE) as running:
        await running.until(lambda lines: lines == ["start 1 1"])
        await put(ssm, A="2", B="2")
        await running.until(lambda lines: lines[1:] == ["HUP"])
        await put(ssm, A="3")
        await running.until(lambda lines: lines[1:] == ["HUP", "HUP"])
        # The same value again.
        await put(ssm, A="3")
        # What reaches us reaches the command, once.
        running.process.send_signal(signal.SIGUSR1)
        await running.until(lambda lines: lines[3:] == ["USR1"])
        await asyncio.sleep(0.5)
        lines = running.lines
        running.process.send_signal(signal.SIGUSR2)
        status = await running.ended()

    assert ["start 1 1", "HUP", "HUP", "USR1"] == lines
    assert -signal.SIGUSR2 == status


async def test_a_signal_during_a_restart_is_not_lost(ssm: Store, tmp_path: Path) -> None:
    """What comes while the old one ends reaches it, and SIGTERM means that no new one is started."""
    await put(ssm, A="1", B="1")
    slow = SERVICE.replace("TERM; exit 3", "TERM; ended=1").replace("while :", "while [ ! $ended ] || [ ! -e go ]")
    assert slow != SERVICE

    async with watched(tmp_path, *QUICK, "/APP", "--", "sh", "-c", f"cd {tmp_path}; {slow} exit 4") as running:
        await running.until(lambda lines: lines == ["start 1 1"])
        await put(ssm, A="2")
        await running.until(lambda lines: lines[-1] == "TERM")
        running.process.send_signal(signal.SIGUSR1)
        await running.until(lambda lines: lines[-1] == "USR1")
        (tmp_path / "go").touch()
        await running.until(lambda lines: lines[-1] == "start 2 1")
        (tmp_path / "go").unlink()
        await put(ssm, A="3")
        await running.until(lambda lines: lines.count("TERM") == 2)
        running.process.send_signal(signal.SIGTERM)
        await running.until(lambda lines: lines.count("TERM") == 3)
        (tmp_path / "go").touch()
        status = await running.ended()

    assert ["start 1 1", "TERM", "USR1", "start 2 1", "TERM", "TERM"] == running.lines
    assert 4 == status


async def test_a_restart_ends_all_that_the_command_started(ssm: Store, tmp_path: Path) -> None:
    """What is left is told to end, what ignores that is killed; after an end of its own the command's rest lives on."""
    await put(ssm, A="1")
    loop = "while :; do sleep 0.01; done"
    service = f"""
    case $A in
        1) sh -c 'trap "echo told; exit" TERM; {loop}' &
           sh -c 'trap "" TERM; echo $$; exec sleep 60' &
           trap 'exit 0' TERM; sleep 0.2; echo ready; {loop} ;;
        2) trap '' TERM; echo ready; exec sleep 60 ;;
        3) sleep 60 & echo $!; exit 5
    esac
    """

    async with watched(tmp_path, *QUICK, "--stop-timeout", "0.5", "/APP", "--", "sh", "-c", service) as running:
        await running.until(lambda lines: lines[1:] == ["ready"])
        await put(ssm, A="2")
        await running.until(lambda lines: lines[2:] == ["told", "ready"])
        await put(ssm, A="3")
        status = await running.ended()

    stubborn, *_, left = running.lines
    alive = state(left)
    os.kill(int(left), signal.SIGKILL)
    assert 5 == status
    assert "did not end within 0.5 s of SIGTERM" in running.err.read_text()
    assert "S" == alive
    assert state(stubborn) in {None, "Z"}


async def test_an_outage_changes_nothing(ssm: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """The command keeps running while nothing can be read, one warning says so, and afterwards it is restarted."""
    await put(ssm, A="1", B="1")

    async with watched(tmp_path, *QUICK, "/APP", "--", "sh", "-c", SERVICE) as running:
        await running.until(lambda lines: lines == ["start 1 1"])
        # Tried again until the deadline, and then what no retry can heal, again and again.
        proxy.add(error("InternalServerError", status=500), times=5)
        proxy.add(error("AccessDeniedException"))
        await put(ssm, A="not-shown")
        while proxy.answered < 8:
            await asyncio.sleep(0.01)
        during = running.lines
        proxy.clear()
        lines = await running.until(lambda lines: len(lines) >= 3)
        await running.until(lambda _: "succeed again" in running.err.read_text())

    assert ["start 1 1"] == during
    assert ["start 1 1", "TERM", "start not-shown 1"] == lines
    failed, again = running.err.read_text().splitlines()
    assert "warning: refresh of /APP failed, 1 in a row" in failed
    assert "warning: refreshes of /APP succeed again" in again


@pytest.mark.parametrize(
    ("then", "status", "said"),
    [
        ("exit 9", 9, ""),
        ("kill -SEGV $$", -signal.SIGSEGV, ""),
        ("rm -f run", 127, "there is no program './run'"),
        ('echo "#!/no/such" >new; chmod +x new; mv new run', 126, "interpreter"),
    ],
)  # fmt: skip
async def test_a_restart_that_fails_is_an_end(
    ssm: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, then: str, status: int, said: str
) -> None:
    """It is not tried again: what supervises us decides, by the status that a first start would have."""
    await put(ssm, A="1")
    script = f"#!/bin/sh\n[ $A = 1 ] || {{ {then}; exit; }}\necho start\ntrap '{then}; exit' TERM\n"
    (tmp_path / "run").write_text(f"{script}while :; do sleep 0.01; done\n")
    (tmp_path / "run").chmod(0o755)
    monkeypatch.chdir(tmp_path)

    async with watched(tmp_path, *QUICK, "/APP", "--", "./run") as running:
        await running.until(lambda lines: lines == ["start"])
        await put(ssm, A="2")
        ended = await running.ended()

    assert status == ended
    assert said in running.err.read_text()
    assert [] == list(tmp_path.glob("core*"))


@contextlib.contextmanager
def bash() -> Iterator["pexpect.spawn[str]"]:
    """Run a shell with job control on a terminal of its own."""
    shell = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], encoding="utf-8", timeout=15, echo=False)
    try:
        shell.sendline("PS1='prom''pt> '")
        shell.expect("prompt> ")
        yield shell
    finally:
        shell.close(force=True)


async def test_a_terminal_is_the_commands(ssm: Store) -> None:
    """It reads the terminal, Ctrl-C reaches it once, and Ctrl-Z, bg and fg of a shell do what they do without us."""
    await put(ssm, A="1", B="1")

    def use() -> None:
        with bash() as shell:
            command = aiossmenv("exec", "--watch", *QUICK, "/APP", "--", sys.executable, "-u", "-c", INTERACTIVE)
            shell.sendline(shlex.join(command))
            shell.expect("ready 1")
            shell.sendline("typed")
            shell.expect("read typed")
            shell.sendintr()
            shell.expect("INT 1\r\n")
            shell.sendline("more")
            shell.expect("read more")
            shell.send("\x1a")
            shell.expect("Stopped.*prompt> ")
            # In the background it may not read, and is stopped again.
            shell.sendline("bg; sleep 0.3; echo 'in' the background")
            shell.expect("in the background.*prompt> ")
            shell.sendline("fg")
            shell.sendline("again")
            shell.expect("read again")
            shell.sendintr()
            shell.expect("INT 2\r\n")
            # The new one has the terminal, too.
            ssm.put("/APP/A", "2")
            shell.expect("ready 2")
            shell.sendline("typed")
            shell.expect("read typed")
            shell.send("\x1c")
            shell.expect("Quit.*prompt> ")
            shell.sendline("echo status $?; jobs; exit 0")
            shell.expect("status 131\r\n")
            shell.expect(pexpect.EOF)
            assert "aiossmenv" not in str(shell.before)

    await asyncio.to_thread(use)


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_terminal_that_hangs_up_ends_both(ssm: Store, *, stopped: bool) -> None:
    """It ends a command in the foreground and one that is stopped, and nothing of us stays."""
    await put(ssm, A="1")
    service = f"print(os.getppid(), os.getpid(), 'pids')\n{INTERACTIVE}"

    def use() -> list[str]:
        with bash() as shell:
            command = aiossmenv(
                "exec", "--watch", *QUICK, "/APP", "--", sys.executable, "-u", "-c", f"import os; {service}"
            )
            shell.sendline(shlex.join(command))
            shell.expect(r"(\d+) (\d+) pids.*ready 1")
            assert isinstance(shell.match, re.Match)
            pids = list(shell.match.groups())
            if stopped:
                shell.send("\x1a")
                shell.expect("Stopped.*prompt> ")
        return pids

    pids = await asyncio.to_thread(use)

    end = time.monotonic() + 10
    while {None, "Z"} < {None, "Z", *map(state, pids)}:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def test_in_a_pipeline_the_terminal_is_the_readers(ssm: Store) -> None:
    """Behind a pipe a pager may read the terminal; Ctrl-C still reaches the command once, and Ctrl-Z stops both."""
    await put(ssm, A="1", B="1")
    service = "trap 'echo INT; count=x$count; [ $count != xx ] || exit 0' INT; echo ready; while :; do sleep 0.01; done"
    reader = (
        "import signal, sys; signal.signal(2, signal.SIG_IGN); print('passed on', input())\n"
        "print('got', open('/dev/tty').readline())\n"
        "for line in sys.stdin: print('passed on', line)\n"
        "print('closed')"
    )

    def use() -> None:
        with bash() as shell:
            command = shlex.join(aiossmenv("exec", "--watch", *QUICK, "/APP", "--", "sh", "-c", service))
            shell.sendline(f"{command} | {shlex.join([sys.executable, '-u', '-c', reader])}")
            shell.expect("passed on ready")
            shell.sendline("typed")
            shell.expect("got typed")
            shell.sendintr()
            shell.expect("passed on INT")
            shell.send("\x1a")
            shell.expect("Stopped.*prompt> ")
            shell.sendline("fg")
            time.sleep(0.3)
            shell.sendintr()
            shell.expect("passed on INT")
            shell.expect("closed.*prompt> ")
            assert "passed on" not in str(shell.before)

    await asyncio.to_thread(use)


async def test_it_waits_for_orphans_and_not_for_the_sdks_processes(
    ssm: Store, config_file: Path, tmp_path: Path
) -> None:
    """Whatever ends below us is waited for, as PID 1 must, and a process that gives credentials is left to the SDK."""
    await put(ssm, A="1")
    # Credentials that end soon are asked for again and again; each process ends amid many orphans.
    answer = '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "%FT%TZ"}'
    (tmp_path / "give").write_text(f"echo >>{tmp_path}/asked; date -u -d +30sec '+{answer}'")
    config_file.write_text(f"[default]\nregion = eu-central-1\ncredential_process = sh {tmp_path}/give\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.pop(name)
    service = "while :; do (sleep 0.001 &); (setsid sleep 0.001 &); done"
    adopt = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execv(sys.executable, sys.argv[1:])"

    async with watched(
        tmp_path, *QUICK, "/APP", "--", "sh", "-c", service, before=(sys.executable, "-c", adopt)
    ) as running:
        while not (tmp_path / "asked").exists() or len((tmp_path / "asked").read_text()) < 10:
            assert running.process.poll() is None, running.err.read_text()
            await asyncio.sleep(0.05)
        ended = [child for child in children(running.process.pid) if state(child) == "Z"]
        await running.until(lambda _: "Z" not in map(state, ended))

    assert "" == running.err.read_text()


async def test_each_rotation_is_one_restart_with_a_whole_set(ssm: Store, tmp_path: Path) -> None:
    """Two parameters that are written one after the other always match; `tests/benchmarks/exec.py` does it 50 times."""
    starts = await rotate(ssm, tmp_path, 8)

    assert [f"{number} {number}" for number in range(9)] == starts
    assert "" == (tmp_path / "err").read_text()


async def test_a_signal_between_two_programs_is_kept(ssm: Store, tmp_path: Path) -> None:
    """What comes while only the old one's rest runs reaches the new one, and SIGTERM means that there is none."""
    await put(ssm, A="1", B="1")
    service = f"sh -c 'trap \"\" TERM; exec sleep 60' & {SERVICE}"

    options = (*QUICK, "--stop-timeout", "2")
    async with watched(tmp_path, *options, "/APP", "--", "sh", "-c", service) as running:

        async def change(value: str) -> None:
            await put(ssm, A=value)
            await running.until(lambda lines: lines[-1] == "TERM")
            while [child for child in children(running.process.pid) if state(child) != "Z"]:
                await asyncio.sleep(0.01)

        await running.until(lambda lines: lines == ["start 1 1"])
        await change("2")
        running.process.send_signal(signal.SIGUSR1)
        await running.until(lambda lines: lines[2:] == ["start 2 1", "USR1"])
        await change("3")
        running.process.send_signal(signal.SIGTERM)
        status = await running.ended()

    assert ["start 1 1", "TERM", "start 2 1", "USR1", "TERM"] == running.lines
    assert 3 == status


async def test_the_program_inherits_what_we_did(ssm: Store, tmp_path: Path) -> None:
    """What was ignored stays ignored, descriptors stay open, no value is in our process; `setpriv` ends it with us."""
    await put(ssm, A="not-shown", B="1")
    inspect = f"grep SigIgn /proc/self/status | grep -o '.......$'; echo /proc/$$/fd/*; {SERVICE}"
    before = ("sh", "-c", "trap '' HUP; exec 7</dev/null; exec \"$@\"", "sh")

    plain = await asyncio.to_thread(
        subprocess.check_output, [*before, "sh", "-c", inspect.partition("trap")[0]], text=True
    )
    command = ("setpriv", "--pdeathsig", "TERM", "sh", "-c", inspect)
    async with watched(tmp_path, "--ttl", "60", "/APP", "--", *command, before=before) as running:
        ignored, descriptors, _ = await running.until(lambda lines: len(lines) == 3)
        running.process.send_signal(signal.SIGHUP)
        ours = Path(f"/proc/{running.process.pid}")
        shown = (ours / "cmdline").read_bytes() + (ours / "environ").read_bytes()
        running.process.kill()
        await running.ended()
        while running.lines[-1] != "TERM":
            await asyncio.sleep(0.01)

    assert plain.splitlines()[0] == ignored
    names = [[Path(name).name for name in line.split()] for line in (plain.splitlines()[1], descriptors)]
    assert names[0] == names[1]
    assert "HUP" not in running.lines
    assert b"not-shown" not in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ttl", "5"), "--ttl needs --watch"),
        (("--stop-timeout", "5"), "--stop-timeout needs --watch"),
        (("--watch", "--ttl", "0"), "--ttl"),
        (("--watch", "--quiet", "-1"), "--quiet"),
        (("--watch", "--on-change", "signal:NONE"), "'signal:NONE' is neither restart nor signal:"),
        (("--watch", "--on-change", "stop"), "'stop' is neither"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options: tuple[str, ...], said: str) -> None:
    """A wrong use says which option it is, with status 2, before anything is read."""
    done = invoke("exec", *options, "/APP", "--", "false")

    assert (2, "") == (done.status, done.out)
    assert said in done.err
