"""`list`, `get` and `history`."""

import json
import re

import pytest

from aiossmenv.cli._output import visible
from command import invoke, invoke_in_thread
from embedded import Store
from faults import FaultProxy, error


def rows(out: str) -> list[list[str]]:
    """Return the cells of the rows of a table whose cells have no spaces."""
    return [line.split() for line in out.splitlines() if "/" in line]


# --- list


def test_list(ssm: Store) -> None:
    """Each parameter is a line with its key, its name and its KMS key, and no value is shown."""
    ssm.put("/APP/db/password", "not-shown")
    ssm.put("/APP/URL", "nor-this", "String")

    done = invoke("list", "/APP")

    assert (0, "") == (done.status, done.err)
    (_, *first), (_, *second) = rows(done.out)
    assert ["URL", "DB_PASSWORD"] == [row[0] for row in rows(done.out)]
    assert ["/APP/URL", "String", "1"] == first[:3]
    assert ["/APP/db/password", "SecureString", "1"] == second[:3]
    assert "alias/aws/ssm" == second[-1]
    assert "not" not in done.out
    assert "nor" not in done.out


def test_list_of_several_paths(ssm: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths come as arguments or from SSM_PATH, as for `load_env`, and a key is relative to its path."""
    ssm.put("/APP/A", "1", "String")
    ssm.put("/MORE/deep/B", "2", "String")
    monkeypatch.setenv("SSM_PATH", "/APP, /MORE")

    assert [["A", "/APP/A"], ["B", "/MORE/deep/B"]] == [
        row[:2] for row in rows(invoke("list", "/APP", "/MORE/deep/").out)
    ]
    assert [["A", "/APP/A"], ["DEEP_B", "/MORE/deep/B"]] == [row[:2] for row in rows(invoke("list").out)]


def test_values_need_two_options_where_the_output_is_no_terminal(ssm: Store) -> None:
    """`--reveal` alone is refused, because a pipe or a file keeps what is written to it."""
    ssm.put("/APP/A", "value")

    for command in (["list", "/APP"], ["get", "/APP/A"], ["history", "/APP/A"]):
        refused = invoke(*command, "--reveal")
        assert (1, "") == (refused.status, refused.out)
        assert "--pipe" in refused.err
        shown = invoke(*command, "--reveal", "--pipe", "--json")
        assert ["value"] == [item["value"] for item in json.loads(shown.out)]
        assert "value" in invoke(*command, "--reveal", "--pipe").out
        assert '"value"' not in invoke(*command, "--json").out


def test_what_steers_a_terminal_is_spelled_out(ssm: Store) -> None:
    """A value cannot move the cursor, change colours or break the table."""
    ssm.put("/APP/A", "\x1b[31mred\nline\t[bold]x[/bold] Grüße \u202e")

    out = invoke("get", "/APP/A", "--reveal", "--pipe").out

    assert r"\x1b[31mred\nline\t[bold]x[/bold] Grüße \u202e" in out
    assert "\x1b" not in out


def test_visible() -> None:
    """What can be printed stays as it is."""
    assert "a ß 漢 😀" == visible("a ß 漢 😀")
    assert r"\x00\x07\x9b" == visible("\x00\x07\x9b")


@pytest.mark.parametrize(
    ("code", "said"),
    [("AccessDeniedException", "ssm:DescribeParameters"), ("ValidationException", "Check how the path")],
)
async def test_list_without_descriptions(ssm: Store, proxy: FaultProxy, code: str, said: str) -> None:
    """Where parameters cannot be described, all but the KMS keys is listed, and a line says why."""
    ssm.put("/APP/A", "1")
    proxy.add(error(code), when=lambda call: call.operation == "DescribeParameters")

    done = await invoke_in_thread("list", "/APP")

    assert 0 == done.status
    assert [["A", "/APP/A", "SecureString", "1"]] == [row[:4] for row in rows(done.out)]
    assert "alias" not in done.out
    assert re.search(f"the KMS keys are not shown: .*({said})", done.err)


# --- get


def test_get(ssm: Store) -> None:
    """Parameters are shown by name, with their selectors; without --reveal nothing is decrypted."""
    ssm.put("/APP/A", "one")
    ssm.put("/APP/A", "two")
    ssm.put("/APP/B", "three", "String")

    done = invoke("get", "/APP/A:1", "/APP/A", "/APP/B")

    assert 0 == done.status
    assert [["/APP/A:1", "SecureString", "1"], ["/APP/A", "SecureString", "2"], ["/APP/B", "String", "1"]] == [
        row[:3] for row in rows(done.out)
    ]
    assert "three" not in done.out


def test_get_raw(ssm: Store) -> None:
    """`--raw` gives the value of one parameter, byte for byte."""
    ssm.put("/APP/A", "  two words\n")

    assert "  two words\n" == invoke("get", "--raw", "/APP/A").out
    assert 2 == invoke("get", "--raw", "/APP/A", "/APP/B").status


def test_get_of_what_is_not_there(ssm: Store) -> None:
    """One name that is not there is an error, and nothing is printed."""
    ssm.put("/APP/A", "one")

    done = invoke("get", "/APP/A", "/APP/NOT")

    assert (1, "") == (done.status, done.out)
    assert "ParameterNotFound" in done.err
    assert "/APP/NOT" in done.err


# --- history


def test_history(ssm: Store) -> None:
    """Each version is a row, the newest last, with its labels."""
    ssm.put("/APP/A", "one")
    ssm.put("/APP/A", "two")
    ssm.client.label_parameter_version(Name="/APP/A", ParameterVersion=1, Labels=["live"])

    done = invoke("history", "/APP/A")

    assert 0 == done.status
    versions = [line.split() for line in done.out.splitlines() if "SecureString" in line]
    assert ["1", "2"] == [row[0] for row in versions]
    assert "live" in versions[0]
    assert "live" not in versions[1]
    assert "one" not in done.out
    shown = json.loads(invoke("history", "/APP/A", "--reveal", "--pipe", "--json").out)
    assert [(1, "one", ["live"]), (2, "two", [])] == [(v["version"], v["value"], v["labels"]) for v in shown]
