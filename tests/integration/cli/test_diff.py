"""`aiossmenv diff`."""

import json
import os
from pathlib import Path

import pytest

from command import Done, invoke
from embedded import Store


@pytest.fixture
def two(ssm: Store) -> Store:
    """Give a store with two paths that differ in three keys."""
    for name, value in {"A": "s3cr3t", "B": "s3cr3t", "db/url": "s3cr3t"}.items():
        ssm.put(f"/ONE/{name}", value)
    for name, value in {"B": "0ther", "C": "s3cr3t", "DB_URL": "s3cr3t"}.items():
        ssm.put(f"/TWO/{name}", value)
    return ssm


def rows(done: Done) -> dict[str, str]:
    """Return what is said of each key."""
    lines = [line.split(maxsplit=1) for line in done.out.splitlines()]
    return {cells[0]: cells[1].strip() for cells in lines if len(cells) == 2 and cells[0] != "key"}


def test_it_names_the_keys_that_differ(two: Store) -> None:
    """Each key has a line, whatever the parameter's spelling is, and no value is shown."""
    done = invoke("diff", "/ONE", "/TWO/")

    assert (1, "") == (done.status, done.err)
    assert {"A": "only in /ONE", "B": "different", "C": "only in /TWO/"} == rows(done)
    assert "s3cr3t" not in done.out
    assert "0ther" not in done.out


def test_equal_sides_say_nothing(two: Store) -> None:
    """The exit status is 0 if nothing differs."""
    assert (0, "", "") == _all(invoke("diff", "/ONE", "/ONE/"))


def _all(done: Done) -> tuple[int, str, str]:
    return done.status, done.out, done.err


def test_json_is_for_programs(two: Store) -> None:
    """The three groups are lists of keys, and the exit status is the same."""
    done = invoke("diff", "/ONE", "/TWO", "--json")

    assert 1 == done.status
    assert {"only_in_first": ["A"], "only_in_second": ["C"], "different": ["B"]} == json.loads(done.out)
    assert {"only_in_first": [], "only_in_second": [], "different": []} == json.loads(
        invoke("diff", "/ONE", "/ONE", "--json").out
    )


def test_a_side_may_be_a_file(two: Store, tmp_path: Path) -> None:
    """A file is told by its suffix, by being there, or by --format, on either side."""
    named, other = tmp_path / "app.env", tmp_path / "settings"
    named.write_text("A=s3cr3t\nB=0ther\nDB_URL=s3cr3t\n")
    other.write_text('{"A": "s3cr3t", "B": "0ther", "db": {"url": "s3cr3t"}}')

    # As a shell passes `<(command)`: neither a name with a suffix nor what looks like a file.
    reads, writes = os.pipe()
    os.write(writes, named.read_bytes())
    os.close(writes)

    for done in (
        invoke("diff", "/ONE", f"/dev/fd/{reads}", "--format", "dotenv"),
        invoke("diff", "-", "/ONE", "--format", "dotenv", stdin=named.read_text()),
        invoke("diff", "/ONE", str(named)),
        invoke("diff", str(named), "/ONE"),
        invoke("diff", "/ONE", str(other), "--format", "json"),
        invoke("diff", "/ONE", "-", "--format", "dotenv", stdin=named.read_text()),
    ):
        assert (1, {"B": "different"}) == (done.status, rows(done))
    os.close(reads)
    assert (2, "") == _all(invoke("diff", str(named), "/ONE", "--format", "json"))[:2]


def test_what_export_wrote_does_not_differ(two: Store, tmp_path: Path) -> None:
    """An export and its path are equal, in each format that is read."""
    two.put("/ONE/ODD", "'$(x)\r\n\\ é`")
    for suffix in (".env", ".json", ".yaml"):
        file = str(tmp_path / f"it{suffix}")
        assert 0 == invoke("export", "/ONE", "-o", file).status
        assert (0, "", "") == _all(invoke("diff", file, "/ONE"))


@pytest.mark.parametrize("missing", ["/NOT/THERE", "no.env", "/ONE/x y", "no.tfvars"])
def test_an_error_is_not_taken_for_a_difference(two: Store, missing: str) -> None:
    """The exit status of every error is 2, and nothing is printed."""
    done = invoke("diff", "/ONE", missing)

    assert (2, "") == (done.status, done.out)
    assert missing in done.err


def test_errors_of_use_and_of_files(two: Store, tmp_path: Path) -> None:
    """A folder is no file, a file without a format is no guess, and names of one key are no set."""
    unknown, colliding = tmp_path / "x.txt", tmp_path / "x.env"
    unknown.write_text("A=1")
    colliding.write_text("A=1\na=2\n")

    for name, said in ((unknown, "--format"), (colliding, "two values of 'A' and 'a'"), (tmp_path, "EmptyPath")):
        done = invoke("diff", "/ONE", str(name))
        assert (2, "") == (done.status, done.out)
        assert said in done.err
    assert 2 == invoke("diff", "/ONE").status


def test_an_empty_side_is_an_error_unless_that_is_wanted(two: Store, tmp_path: Path) -> None:
    """A path that is misspelled does not look like one without parameters; an empty file is one without keys."""
    empty = tmp_path / ".env"
    empty.write_text("")

    assert 2 == invoke("diff", "/NOT/THERE", "/ONE").status
    assert 3 == len(rows(invoke("diff", "/NOT/THERE", "/ONE", "--allow-empty")))
    assert 3 == len(rows(invoke("diff", "/ONE", str(empty))))


def test_a_denied_read_is_an_error_of_one_line(two: Store) -> None:
    """Without credentials it ends with 2 and says why."""
    del os.environ["AWS_ACCESS_KEY_ID"]

    done = invoke("diff", "/ONE", "/TWO")

    assert (2, "", 1) == (done.status, done.out, len(done.err.splitlines()))
    assert "AccessDenied" in done.err
