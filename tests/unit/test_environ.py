"""Edits of an environment: planned as data, applied completely or not at all, and never to variables of others."""

import dataclasses
from collections.abc import Mapping, MutableMapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aiossmenv import InvalidVariable, Parameter
from aiossmenv._environ import PROTECTED, Edit, apply_edit, check_variables, plan_edit, read_by_sdk

KEYS = "ABCD"
VARIABLES = st.dictionaries(st.sampled_from(KEYS), st.sampled_from("xy"))
SECRET = "hunter2"


class Refusing(dict[str, str]):
    """An environment that rejects one key, on assignment and on removal."""

    def __init__(self, variables: Mapping[str, str], rejected: str) -> None:
        """Take *variables*, and the key to reject."""
        super().__init__(variables)
        self.rejected = rejected

    def __setitem__(self, key: str, value: str) -> None:
        if key == self.rejected:
            raise OSError(f"no room for {value}")
        super().__setitem__(key, value)

    def pop(self, key: str, *default: object) -> object:  # type: ignore[override]
        """Remove a key, unless it is the rejected one."""
        if key == self.rejected and key in self:
            raise OSError(f"cannot part with {self[key]}")
        return super().pop(key, *default)


def applied(edit: Edit, environ: MutableMapping[str, str], slice_size: int = 500) -> str | None:
    """Apply an edit to its end, and return its error."""
    slices = apply_edit(edit, environ, slice_size)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            fault: str | None = end.value
            return fault


def published(
    target: Mapping[str, str], owned: Mapping[str, str], environ: MutableMapping[str, str], *, override: bool = True
) -> tuple[Mapping[str, str], frozenset[str]]:
    """Publish, and return the owned and the shadowed variables."""
    edit = plan_edit(target, owned, environ, override=override)
    assert applied(edit, environ) is None
    return edit.owned, edit.shadowed


@given(VARIABLES, VARIABLES, VARIABLES, st.booleans())
def test_environment_matches_the_target(
    others: dict[str, str], first: dict[str, str], second: dict[str, str], override: bool
) -> None:
    """After each publication the environment is what others had, plus every target variable that is not shadowed."""
    environ = dict(others)

    owned, shadowed = published(first, {}, environ, override=override)
    assert others | {key: value for key, value in first.items() if key not in shadowed} == environ
    assert (set() if override else others.keys() & first.keys()) == shadowed
    assert first.keys() - shadowed == owned.keys()

    owned, shadowed = published(second, owned, environ, override=override)
    kept = {key: value for key, value in others.items() if override is False or key not in first}
    assert kept | {key: value for key, value in second.items() if key not in shadowed} == environ
    assert second.keys() - shadowed == owned.keys()


@given(VARIABLES, VARIABLES, VARIABLES, st.booleans())
def test_publishing_twice_changes_nothing(
    target: dict[str, str], owned: dict[str, str], environ: dict[str, str], override: bool
) -> None:
    """Whatever others did in between, applying an edit again or planning a new one changes nothing."""
    edit = plan_edit(target, owned, environ, override=override)
    applied(edit, environ)
    once = dict(environ)

    applied(edit, environ)
    again = plan_edit(target, edit.owned, environ, override=override)

    assert once == environ
    assert ({}, ()) == (again.assign, again.unset)
    assert (edit.owned, edit.shadowed) == (again.owned, again.shadowed)


@given(VARIABLES, VARIABLES, VARIABLES, st.booleans())
def test_variables_of_others_are_untouched(
    target: dict[str, str], owned: dict[str, str], environ: dict[str, str], override: bool
) -> None:
    """
    A variable that is neither a target nor ours stays, and so does one of ours to which another writer gave a new
    value.
    """
    theirs = {key: value for key, value in environ.items() if key not in target and owned.get(key) != value}

    published(target, owned, environ, override=override)

    assert theirs == {key: value for key, value in environ.items() if key not in target}


def test_removed_only_while_the_value_is_unchanged() -> None:
    """If a parameter disappears, its variable is removed, unless another writer changed or removed it."""
    owned = {"A": "x", "B": "x", "C": "x"}
    environ = {"A": "x", "B": "theirs"}

    assert ({}, frozenset()) == published({}, owned, environ)
    assert {"B": "theirs"} == environ


@pytest.mark.parametrize(("override", "value"), [(True, "new"), (False, "theirs")])
def test_foreign_change_stays_until_the_parameter_changes(value: str, *, override: bool) -> None:
    """A change by another writer stays until the parameter changes, and with override=False it stays then too."""
    environ = {"A": "theirs"}

    owned, shadowed = published({"A": "old"}, {"A": "old"}, environ, override=override)
    assert {"A": "theirs"} == environ
    assert frozenset() == shadowed

    owned, shadowed = published({"A": "new"}, owned, environ, override=override)
    assert {"A": value} == environ
    assert ({} if shadowed else {"A": "new"}) == owned
    assert (frozenset() if override else {"A"}) == shadowed


def test_without_override_existing_variables_stay() -> None:
    """With override=False an existing variable, even an empty one, stays, is listed as shadowed, and is never ours."""
    environ = {"A": "theirs", "B": "", "C": "x"}

    owned, shadowed = published(dict.fromkeys("ABCD", "x"), {}, environ, override=False)

    assert {"A": "theirs", "B": "", "C": "x", "D": "x"} == environ
    assert set("ABC") == shadowed
    assert {"D": "x"} == owned


def test_shadowed_key_that_disappears_is_set() -> None:
    """If another writer removes a shadowed variable, the next publication sets it, and it is ours."""
    environ = {"A": "theirs"}
    owned, _ = published({"A": "x"}, {}, environ, override=False)
    del environ["A"]

    owned, shadowed = published({"A": "x"}, owned, environ, override=False)

    assert ({"A": "x"}, frozenset()) == (environ, shadowed)
    assert {"A": "x"} == owned


def test_own_variables_are_updated_without_override() -> None:
    """With override=False a variable that we set is still updated and removed."""
    environ: dict[str, str] = {}
    owned, _ = published({"A": "old", "B": "old"}, {}, environ, override=False)
    del environ["B"]

    owned, shadowed = published({"A": "new", "B": "new"}, owned, environ, override=False)

    assert ({"A": "new", "B": "new"}, frozenset()) == (environ, shadowed)
    published({}, owned, environ, override=False)
    assert {} == environ


@given(VARIABLES, VARIABLES, VARIABLES, st.sampled_from(KEYS))
def test_all_or_nothing(target: dict[str, str], owned: dict[str, str], before: dict[str, str], rejected: str) -> None:
    """If the environment rejects one key, every variable keeps its old value, and the error names the key."""
    environ = Refusing(before, rejected)
    edit = plan_edit(target, owned, environ, override=True)
    assume(rejected in edit.assign or rejected in edit.unset)

    fault = applied(edit, environ)

    assert before == environ
    assert f"the environment refused '{rejected}': OSError" == fault


def test_failed_undo_of_one_variable() -> None:
    """If one variable cannot be restored, the others still are, and no exception shows a value."""

    class Stubborn(dict[str, str]):
        def __setitem__(self, key: str, value: str) -> None:
            if key == "C" or self.get(key) == "new":
                raise OSError(value)
            super().__setitem__(key, value)

    environ = Stubborn(A="old")
    edit = plan_edit({"A": "new", "B": "new", "C": "new"}, {}, environ, override=True)

    assert "the environment refused 'C': OSError" == applied(edit, environ)
    assert {"A": "new"} == environ


@given(VARIABLES, VARIABLES, VARIABLES, st.integers(1, 5))
def test_edit_pauses_after_each_slice(
    target: dict[str, str], owned: dict[str, str], environ: dict[str, str], size: int
) -> None:
    """An edit pauses after each slice of variables, and the slices give the same result as one step."""
    edit = plan_edit(target, owned, environ, override=True)
    at_once, in_slices = dict(environ), dict(environ)
    applied(edit, at_once)

    pauses = list(apply_edit(edit, in_slices, size))

    assert (len(edit.assign) + len(edit.unset)) // size == len(pauses)
    assert at_once == in_slices


def test_slice_size() -> None:
    """At the first pause exactly the first slice is applied; by default a slice has 50 variables."""
    variables = {f"V{number:04}": "x" for number in range(1200)}
    for slices, size in ((lambda e, v: apply_edit(e, v, 7), 7), (apply_edit, 50)):
        environ: dict[str, str] = {}
        going = slices(plan_edit(variables, {}, environ, override=True), environ)
        next(going)
        assert list(variables)[:size] == list(environ)
        going.close()


@given(VARIABLES, VARIABLES, VARIABLES, st.integers(1, 3), st.integers(0, 5))
def test_closing_early_undoes_what_was_done(
    target: dict[str, str], owned: dict[str, str], before: dict[str, str], size: int, pauses: int
) -> None:
    """An edit that is closed between two slices restores every variable."""
    environ = dict(before)
    slices = apply_edit(plan_edit(target, owned, environ, override=True), environ, size)
    for _ in range(pauses):
        if next(slices, "end") == "end":
            return

    slices.close()

    assert before == environ


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_thrown_exceptions_undo_the_edit(kind: type[BaseException]) -> None:
    """
    A thrown BaseException undoes the edit and propagates; a thrown error undoes it and is returned without its text.
    """
    environ = {"A": "old", "B": "old"}
    slices = apply_edit(plan_edit({"A": "new", "C": "new"}, environ, environ, override=True), environ, 1)
    assert [None, None] == [next(slices), next(slices)]

    with pytest.raises((KeyboardInterrupt, StopIteration)) as caught:
        slices.throw(kind(SECRET))

    assert {"A": "old", "B": "old"} == environ
    if kind is ValueError:
        assert "the environment refused 'C': ValueError" == getattr(caught.value, "value", None)
    else:
        assert kind is caught.type


def test_undo_writes_only_what_the_edit_changed() -> None:
    """An undo restores only what this edit wrote, and does not write a variable that already has its old value."""
    written: list[str] = []

    class Recording(Refusing):
        """An environment that records every write."""

        def __setitem__(self, key: str, value: str) -> None:
            written.append(f"{key}={value}")
            super().__setitem__(key, value)

    environ = Recording({"A": "old", "B": "old"}, "B")

    applied(plan_edit({"A": "new", "B": "new"}, {}, environ, override=True), environ)

    assert ["A=new", "B=new", "A=old"] == written


def test_no_text_shows_a_value() -> None:
    """Neither the repr of an edit nor a rejection shows a value, whatever the environment's error says."""
    environ = Refusing({"A": SECRET, "B": SECRET}, "B")
    edit = plan_edit({"A": SECRET + "2"}, {"A": SECRET, "B": SECRET}, environ, override=True)

    assert SECRET not in repr(edit)
    assert SECRET not in str(applied(edit, environ))


def test_edit_is_frozen() -> None:
    """An edit is immutable data."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan_edit({}, {}, {}, override=True).unset = ("A",)  # type: ignore[misc]


def made(value: str) -> Parameter:
    """Return a parameter with this value."""
    return Parameter(name="/P/odd", value=value, type="SecureString", version=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", SECRET),
        ("A=B", SECRET),
        ("A\0", SECRET),
        ("A", f"{SECRET}\0"),
        ("A", f"{SECRET}\ud800"),
        ("A\ud800", SECRET),
    ],
)
def test_impossible_variables_are_rejected(key: str, value: str) -> None:
    """
    A key or value that no variable can hold is `InvalidVariable`; it names the parameter and the remedy, not the value.
    """
    with pytest.raises(InvalidVariable) as caught:
        check_variables({"FINE": made("fine"), key: made(value)})

    assert "/P/odd" == caught.value.parameter
    assert caught.value.remedy
    assert repr(key) in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("key", ["A", "a b", "Ä", "A\udc80", "2", "A\nB"])
@pytest.mark.parametrize("value", ["", " x ", "a=b\n", "Ä😀", "\udc80"])
def test_possible_variables_pass(key: str, value: str) -> None:
    """Odd keys and values that a variable can hold pass: bytes that are not UTF-8, line ends, keys without letters."""
    check_variables({key: made(value)})


def test_checked_parameters_are_not_checked_again() -> None:
    """The same parameter object under the same key is not checked again; another object is."""
    bad = made(f"{SECRET}\0")

    check_variables({"A": bad}, {"A": bad})
    for checked in ({}, {"B": bad}, {"A": made(f"{SECRET}\0")}):
        with pytest.raises(InvalidVariable):
            check_variables({"A": bad}, checked)


@pytest.mark.parametrize(
    "key",
    [
        *("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "GCONV_PATH", "GLIBC_TUNABLES"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONBREAKPOINT", "PYTHONWARNINGS", "PYTHONUSERBASE"),
        *("BASH_ENV", "IFS", "SHELLOPTS", "PS4", "PROMPT_COMMAND", "BASH_FUNC_ls%%"),
        *("NODE_OPTIONS", "NODE_PATH", "PERL5LIB", "PERL5OPT", "RUBYOPT", "RUBYLIB"),
        *("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "DOTNET_STARTUP_HOOKS"),
        *("GIT_SSH", "GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "GIT_SEQUENCE_EDITOR", "GIT_CONFIG_COUNT"),
        *("EDITOR", "PAGER", "BROWSER", "OPENSSL_CONF", "BOTOCORE_EXPERIMENTAL__PLUGINS"),
    ],
)
def test_keys_that_run_code_are_protected(key: str) -> None:
    """By default a key that makes a program load or run other code is rejected, whatever its value."""
    with pytest.raises(InvalidVariable, match="would make programs run other code") as caught:
        check_variables({key: made(SECRET)}, protected=PROTECTED)
    assert "/P/odd" == caught.value.parameter
    assert "protected=" in str(caught.value)
    assert SECRET not in str(caught.value)
    check_variables({key: made(SECRET)}, protected=tuple(pattern for pattern in PROTECTED if pattern[:2] != key[:2]))


@pytest.mark.parametrize(
    "key",
    [
        *(
            "DB_URL",
            "APP_PATH",
            "PATHS",
            "Path",
            "path",
            "LD",
            "OLD_PATH",
            "ENVIRONMENT",
            "APP_ENV",
            "PYTHONUNBUFFERED",
        ),
        *(
            "GIT_SHA",
            "GIT_TOKEN",
            "PYTHONHASHSEED",
            "NODE_ENV",
            "JAVA_OPTS_FILE",
            "AWS_REGION",
            "HTTPS_PROXY",
            "LANG",
            "TZ",
        ),
    ],
)
def test_other_keys_are_not_protected(key: str) -> None:
    """
    A key that only resembles a protected one passes, and so does one in another case, which POSIX treats as another
    name.
    """
    check_variables({key: made(SECRET)}, protected=PROTECTED)


def test_custom_protected_list() -> None:
    """Custom names and patterns replace the default list; an empty list protects nothing."""
    check_variables({"PATH": made("x")}, protected=("APP_*",))
    check_variables({"PATH": made("x")})
    with pytest.raises(InvalidVariable, match="'APP_X'"):
        check_variables({"APP_X": made("x")}, protected=("APP_*",))


def test_all_faults_are_reported_at_once() -> None:
    """One error lists all keys that cannot be set, sorted, each with its parameter and reason, but no checked ones."""
    named = {
        key: Parameter(name=f"/P/{name}", value=value, type="SecureString", version=1)
        for key, name, value in (
            ("Z\0", "z", "1"),
            ("PATH", "path", "1"),
            ("A", "a", "1\0"),
            ("LD_X", "ld", "1"),
            ("B", "b", "1"),
        )
    }
    with pytest.raises(InvalidVariable) as caught:
        check_variables(named, protected=PROTECTED)
    assert "/P/a, /P/ld, /P/path, /P/z" == caught.value.parameter
    text = str(caught.value)
    places = [text.index(f"{key!r} of /P/") for key in ("A", "LD_X", "PATH", "Z\0")]
    assert sorted(places) == places
    assert "/P/b" not in text
    assert text.count("Correct it") == text.count("Rename it") == 1

    with pytest.raises(InvalidVariable) as caught:
        check_variables(named, {"PATH": named["PATH"]}, protected=PROTECTED)
    assert "/P/a, /P/ld, /P/z" == caught.value.parameter


@pytest.mark.parametrize(("key", "value"), [("A", "grün"), ("Ä", "x")])
def test_locale_without_a_character(key: str, value: str) -> None:
    """If the locale's encoding lacks a character, the error names the parameter, the encoding and the remedy."""
    check_variables({key: made(value)})
    with pytest.raises(InvalidVariable, match="encoding, ascii, does not have.*PYTHONUTF8=1") as caught:
        check_variables({key: made(value)}, encoding="ascii")
    assert "/P/odd" == caught.value.parameter
    assert "grün" not in str(caught.value)


def test_variables_that_the_sdk_reads() -> None:
    """Variables of the AWS SDK, of proxies and of certificates are found and sorted; other variables are not."""
    read = ["AWS_PROFILE", "AWS_REGION", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "no_proxy"]
    others = ["DB_URL", "MY_AWS_REGION", "PROXY", "APP_REGION"]
    target, owned = dict.fromkeys([*reversed(read), *others], "x"), {"AWS_ROLE_ARN": "x", "X": "x"}

    edit = plan_edit(target, owned, dict(owned), override=True)

    assert {"sets": tuple(read), "unsets": ("AWS_ROLE_ARN",)} == read_by_sdk(edit)
