"""What `doctor` finds, as lines, as JSON and as an exit status."""

import pytest

from aiossmenv import StoreUnavailable
from aiossmenv.cli._findings import (
    Finding,
    Level,
    as_json,
    as_lines,
    counted,
    named,
    of_error,
    without_repeats,
    would_load,
)

ARN = "arn:aws:ssm:eu-central-1:111122223333:parameter/APP"


@pytest.mark.parametrize(("level", "works"), [("ok", True), ("note", True), ("warning", True), ("error", False)])
def test_only_an_error_makes_load_env_fail(level: Level, works: bool) -> None:
    """The exit status, the JSON and the last line agree."""
    findings = [Finding("ok", "a", "b"), Finding(level, "c", "d")]

    assert works is would_load(findings)
    assert works is as_json(findings)["would_load"]
    assert ("works" if works else "fails") in as_lines(findings, "/APP")[-1]


def test_each_remedy_is_a_line_of_its_own() -> None:
    """A line says how bad it is and what it is about, the next one what to do, and the last one counts."""
    assert [
        "error    reads: denied",
        "         -> Allow it.",
        "warning  clock: off",
        "",
        "load_env of /APP fails here: 1 error, 1 warning.",
    ] == as_lines([Finding("error", "reads", "denied", "Allow it."), Finding("warning", "clock", "off")], "/APP")


def test_json_has_the_arns_to_copy() -> None:
    """The ARNs of a remedy come without the sentence around them."""
    finding = Finding("error", "reads", "denied", f"Allow it on both {ARN} and {ARN}/*.")

    assert [f"{ARN}", f"{ARN}/*"] == finding.arns
    assert [
        {
            "level": "error", "subject": "reads", "text": "denied", "remedy": finding.remedy,
            "arns": [ARN, f"{ARN}/*"],
        }
    ] == as_json([finding])["findings"]  # fmt: skip


def test_an_error_says_what_it_is_about() -> None:
    """The name or the path of an error is in the finding; a full stop is not doubled."""
    error = StoreUnavailable("it is not there.", path="/APP", region="eu-central-1", remedy="Wait.")

    assert Finding("error", "reads", "it is not there (/APP)", "Wait.") == of_error("error", "reads", error)
    assert "it is not there" == of_error("error", "reads", StoreUnavailable("it is not there.")).text


def test_one_error_is_said_once() -> None:
    """What two checks meet is said by the first; what is fine is said of each."""
    fine, denied = Finding("ok", "a", "allowed"), Finding("error", "a", "denied", "Allow it.")

    findings = [fine, Finding("ok", "b", "allowed"), denied, Finding("error", "b", "denied", "Allow it.")]

    assert findings[:3] == without_repeats(findings)


def test_many_names_are_cut() -> None:
    """A text names a few, and counts the others."""
    assert "a, b and 1 more" == named(["a", "b", "c"], 2)
    assert "a, b" == named(["a", "b"], 2)
    assert ["1 read", "2,000 reads"] == [counted(1, "read"), counted(2000, "read")]
