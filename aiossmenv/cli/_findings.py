"""Pure: what `doctor` finds, as lines for people, as JSON for programs, and as an exit status."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from aiossmenv._errors import AiossmenvError

Level = Literal["ok", "note", "warning", "error"]

_WIDTH = len("warning")
# So many names are written out.
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was found.

    *level*: an `error` makes `load_env` fail. *subject*: what it is about. *remedy*: what to do.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""

    @property
    def arns(self) -> list[str]:
        """The ARNs in the remedy, to copy."""
        return [arn.rstrip(".,;") for arn in re.findall(r"arn:\S+", self.remedy)]


def of_error(level: Level, subject: str, error: AiossmenvError) -> Finding:
    """Return what an error of the library says."""
    where = error.parameter or error.path
    text = str(error.args[0]).removesuffix(".")
    return Finding(level, subject, f"{text} ({where})" if where else text, error.remedy or "")


def without_repeats(findings: Iterable[Finding]) -> list[Finding]:
    """Return *findings* without errors that say of another subject what an earlier one says."""
    first: dict[tuple[str, str, str], Finding] = {}
    for found in findings:
        subject = "" if found.level == "error" else found.subject
        first.setdefault((subject, found.text, found.remedy), found)
    return list(first.values())


def would_load(findings: Iterable[Finding]) -> bool:
    """Return whether `load_env` works."""
    return all(found.level != "error" for found in findings)


def as_lines(findings: Sequence[Finding], where: str) -> list[str]:
    """Return *findings* as lines, each remedy on a line of its own, and a verdict on *where*."""
    lines: list[str] = []
    for found in findings:
        lines.append(f"{found.level:{_WIDTH}}  {found.subject}: {found.text}")
        if found.remedy:
            lines.append(f"{'':{_WIDTH}}  -> {found.remedy}")
    counts = {level: sum(found.level == level for found in findings) for level in ("error", "warning")}
    counted = ", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in counts.items())
    return [*lines, "", f"load_env of {where} {'works' if would_load(findings) else 'fails'} here: {counted}."]


def as_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Return *findings* for a program."""
    return {
        "would_load": would_load(findings),
        "findings": [
            {
                "level": found.level, "subject": found.subject, "text": found.text, "remedy": found.remedy,
                "arns": found.arns,
            }
            for found in findings
        ],
    }  # fmt: skip


def named(names: Sequence[str], most: int = _NAMED) -> str:
    """Return *names* for a text, the first ones if there are many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Return how many there are of what *noun* says."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
