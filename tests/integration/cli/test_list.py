"""`aiossmenv list`."""

import json

from command import invoke
from embedded import Store


def test_it_lists_what_is_under_a_path(ssm: Store) -> None:
    """Each parameter is a line with its key, and no value is shown."""
    ssm.put("/APP/db/password", "not-shown")
    ssm.put("/APP/URL", "nor-this", "String")

    done = invoke("list", "/APP")

    assert 0 == done.status
    lines = [line.split() for line in done.out.splitlines() if "/APP" in line]
    assert [["URL", "/APP/URL", "String", "1"], ["DB_PASSWORD", "/APP/db/password", "SecureString", "1"]] == [
        line[:4] for line in lines
    ]
    assert "not" not in done.out
    assert "nor" not in done.out


def test_values_need_two_options_where_the_output_is_no_terminal(ssm: Store) -> None:
    """`--reveal` alone is refused, because a pipe or a file keeps what is written to it."""
    ssm.put("/APP/A", "value")

    refused, shown = invoke("list", "/APP", "--reveal"), invoke("list", "/APP", "--reveal", "--pipe", "--json")

    assert (1, "") == (refused.status, refused.out)
    assert "--pipe" in refused.err
    assert ["value"] == [item["value"] for item in json.loads(shown.out)]
