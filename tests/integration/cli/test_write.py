"""`set` and `delete`, and their prompts on a terminal."""

import pexpect
import pytest

from command import invoke, invoke_in_thread, on_terminal, run
from embedded import Store
from faults import FaultProxy, error


def value(ssm: Store, name: str) -> str:
    """Return what the store holds."""
    found: str = ssm.client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    return found


def key_and_type(ssm: Store, name: str) -> tuple[str, str]:
    """Return the KMS key and the type of the newest version."""
    newest = ssm.client.get_parameter_history(Name=name)["Parameters"][-1]
    return newest.get("KeyId", ""), newest["Type"]


@pytest.mark.parametrize(
    ("given", "written"),
    [("secret\n", "secret"), ("secret\r\n", "secret"), ("secret", "secret"), ("a\nb\n", "a\nb\n"), (" x ", " x ")],
)
def test_set_from_standard_input(ssm: Store, given: str, written: str) -> None:
    """One line loses its line break; several lines, such as a certificate, stay as they are."""
    done = invoke("set", "/APP/A", stdin=given)

    assert (0, "/APP/A: new, version 1\n") == (done.status, done.out)
    assert written == value(ssm, "/APP/A")
    assert ("alias/aws/ssm", "SecureString") == key_and_type(ssm, "/APP/A")


def test_set_says_which_version_it_replaces(ssm: Store) -> None:
    """The version before and the new one are printed, and nothing of the value."""
    ssm.put("/APP/A", "before")

    done = invoke("set", "/APP/A", "after")

    assert "/APP/A: version 1 -> version 2\n" == done.out
    assert "after" == value(ssm, "/APP/A")


async def test_set_keeps_type_and_key(ssm: Store, proxy: FaultProxy) -> None:
    """A new version has the type and the KMS key of the one before: PutParameter by itself takes the default key."""
    ssm.client.put_parameter(Name="/APP/A", Value="1", Type="SecureString", KeyId="alias/ours")
    ssm.put("/APP/B", "1", "StringList")

    for name in ("/APP/A", "/APP/B"):
        assert 0 == (await invoke_in_thread("set", name, "2")).status

    # Of what is sent, because moto keeps the key by itself.
    sent = [call.body for call in proxy.calls if call.operation == "PutParameter"]
    assert [("alias/ours", "SecureString"), (None, "StringList")] == [(put.get("KeyId"), put["Type"]) for put in sent]


def test_set_new(ssm: Store) -> None:
    """With `--new` a parameter that is there stays as it is, and the error speaks of the option."""
    ssm.put("/APP/A", "1")

    done = invoke("set", "--new", "/APP/A", "2")

    assert (1, "") == (done.status, done.out)
    assert "--new" in done.err
    assert "1" == value(ssm, "/APP/A")


def test_set_with_everything(ssm: Store) -> None:
    """Type, tier, description and tags arrive, for a parameter that is there, too."""
    for _ in range(2):
        done = invoke(
            *("set", "/APP/A", "x", "--type", "String", "--tier", "Advanced"),
            *("--description", "what it is", "--tag", "team=payments", "--tag", "a=b=c"),
        )
        assert 0 == done.status, done.err

    (described,) = ssm.client.describe_parameters(ParameterFilters=[{"Key": "Name", "Values": ["/APP/A"]}])[
        "Parameters"
    ]
    tags = ssm.client.list_tags_for_resource(ResourceType="Parameter", ResourceId="/APP/A")["TagList"]
    assert ("String", "Advanced", "what it is") == (described["Type"], described["Tier"], described["Description"])
    assert {"team": "payments", "a": "b=c"} == {tag["Key"]: tag["Value"] for tag in tags}


def test_set_of_what_is_not_text(ssm: Store) -> None:
    """Bytes that are not UTF-8 are refused with their place, and nothing is written."""
    done = run("set", "/APP/A", stdin=b"geheim\xff\xfe")

    assert 1 == done.status
    assert "byte 7" in done.err
    assert "geheim" not in done.err
    assert [] == ssm.client.describe_parameters()["Parameters"]


def test_prompt(ssm: Store) -> None:
    """On a terminal the value is asked for twice, and is not shown; two that differ are asked for again."""
    child = on_terminal("set", "/APP/A")
    for answer in ("geheim", "anders", "geheim", "geheim"):
        child.expect("(Value of /APP/A|Repeat for confirmation).*: ?")
        child.waitnoecho()
        child.sendline(answer)
    child.expect(pexpect.EOF)

    printed = child.before or ""
    assert "new, version 1" in printed
    assert "geheim" not in printed
    assert 0 == child.wait()
    assert "geheim" == value(ssm, "/APP/A")


def test_an_interrupted_prompt_writes_nothing(ssm: Store) -> None:
    """Ctrl-C at a prompt ends the command at once."""
    child = on_terminal("set", "/APP/A")
    child.expect("Value of /APP/A.*: ?")
    child.waitnoecho()
    child.sendcontrol("c")
    child.expect(pexpect.EOF)

    assert 1 == child.wait()
    assert [] == ssm.client.describe_parameters()["Parameters"]


def test_delete(ssm: Store) -> None:
    """Several parameters are deleted; one that is not there is an error after that."""
    ssm.put("/APP/A", "1")
    ssm.put("/APP/B", "1")

    done = invoke("delete", "--yes", "/APP/A", "/APP/NOT", "/APP/B")

    assert (1, "/APP/A: deleted\n/APP/B: deleted\n") == (done.status, done.out)
    assert "/APP/NOT" in done.err
    assert [] == ssm.client.describe_parameters()["Parameters"]


def test_delete_asks(ssm: Store) -> None:
    """Without `--yes` it asks on a terminal, and refuses where there is none."""
    ssm.put("/APP/A", "1")

    assert 1 == invoke("delete", "/APP/A").status
    for answer, status in (("n", 1), ("y", 0)):
        assert "1" == value(ssm, "/APP/A")
        child = on_terminal("delete", "/APP/A")
        child.expect("Delete /APP/A")
        child.sendline(answer)
        child.expect(pexpect.EOF)
        assert status == child.wait()
    assert [] == ssm.client.describe_parameters()["Parameters"]


async def test_set_without_the_right_to_read(ssm: Store, proxy: FaultProxy) -> None:
    """
    A role that may only write is told to name type and key: a version with the default key could be read by others.
    """
    proxy.add(error("AccessDeniedException"), when=lambda call: call.operation != "PutParameter")

    refused = await invoke_in_thread("set", "/APP/A", "x")
    written = await invoke_in_thread("set", "/APP/A", "x", "--type", "SecureString", "--key-id", "alias/ours")

    assert (1, "") == (refused.status, refused.out)
    assert "pass --type and --key-id, or --new" in refused.err
    assert (0, "/APP/A: an unknown version -> version 1\n") == (written.status, written.out)
    assert ("alias/ours", "SecureString") == key_and_type(ssm, "/APP/A")
