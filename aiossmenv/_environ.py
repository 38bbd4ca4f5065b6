"""Edits to an environment: what to set, what to unset, what to leave to others."""

import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache
from types import MappingProxyType

from aiossmenv._errors import InvalidVariable
from aiossmenv._models import Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """
    What one publication does to an environment.

    *assign*: variables to set. *unset*: variables to remove. *owned*: what is ours afterwards, with the values we set.
    *shadowed*: keys whose variables are not ours and stay.
    """

    assign: Mapping[str, str] = field(repr=False)
    unset: tuple[str, ...]
    owned: Mapping[str, str] = field(repr=False)
    shadowed: frozenset[str]


def plan_edit(
    target: Mapping[str, str], owned: Mapping[str, str], environ: Mapping[str, str], *, override: bool
) -> Edit:
    """
    Decide how *environ* comes to hold *target*, given what is *owned* by us in it.

    A variable of ours that others changed is written only when its parameter changes and *override* allows it; one
    whose parameter is gone is removed only if it still has the value that we set.
    """
    assign: dict[str, str] = {}
    ours: dict[str, str] = {}
    shadowed: set[str] = set()
    for key, value in target.items():
        if owned.get(key) == value:
            ours[key] = value
        elif override or environ.get(key) in (None, owned.get(key)):
            # Without override: a variable that is not set, or our own, untouched.
            assign[key] = ours[key] = value
        else:
            shadowed.add(key)
    unset = tuple(key for key, value in owned.items() if key not in target and environ.get(key) == value)
    # All of it ours, as it mostly is: the target itself says so, in no memory of its own.
    return Edit(assign=assign, unset=unset, owned=ours if shadowed else target, shadowed=frozenset(shadowed))


def apply_edit(
    edit: Edit, environ: MutableMapping[str, str], slice_size: int = 50
) -> Generator[None, None, str | None]:
    """
    Carry out *edit* in slices, or leave *environ* as it was and return what was wrong.

    Between two slices it yields (putenv takes longer the more variables there are: 50 take 2 ms beside 10,000), so that
    its caller can let other tasks run; closing it early undoes what was done. What was wrong is returned and not
    raised, because a traceback's frames would show the environment and the values.
    """
    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}
    key = ""
    try:
        for number, key in enumerate((*edit.assign, *edit.unset), 1):
            before[key] = environ.get(key)
            if key in edit.assign:
                environ[key] = edit.assign[key]
            else:
                environ.pop(key, None)
            after[key] = environ.get(key)
            if number % slice_size == 0:
                yield
    except BaseException as error:
        for name, old in before.items():
            # A variable that cannot be put back must not keep the others from it, nor be raised.
            with suppress(Exception):
                now = environ.get(name)
                if name in after and now != after[name]:
                    continue  # others have changed it since
                if old is None:
                    environ.pop(name, None)
                elif now != old:
                    environ[name] = old
        if not isinstance(error, Exception):
            raise
        return f"the environment refused {key!r}: {type(error).__name__}"
    return None


class _Protected(tuple[str, ...]):
    """The default, whose repr in `help(load_env)` is short."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "PROTECTED"


# Variables that make a program load or run other code. The right to write a parameter must not be a right to run code.
# The table of bad variables of sudo (`env_delete`) and the "unsecure" ones of glibc are where most of them come from.
PROTECTED = _Protected((
    # Which file a program's name stands for; the last two on Windows.
    "PATH", "PATHEXT", "COMSPEC",
    # Libraries that the dynamic loader puts into each program: Linux, macOS, AIX, HP-UX, IRIX.
    "LD_*", "DYLD_*", "LDR_*", "LIBPATH", "SHLIB_PATH", "_RLD*",
    # Modules that the C library loads, a program that it runs, and how its loader and allocator work.
    "GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES",
    # Modules and engines that OpenSSL and Kerberos load, plug-ins of MySQL's client, drivers of ODBC.
    "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "KRB5_CONFIG*", "LIBMYSQL_PLUGIN*", "ODBC*INI",
    # Files that a shell runs when it starts, and text that it runs or splits commands by. ENV is not here: only an
    # interactive shell reads it, and many services are told their stage by it.
    "BASH_ENV", "ZDOTDIR", "FPATH", "BASH_FUNC_*", "BASH_LOADABLES_PATH", "BASHOPTS", "SHELLOPTS", "IFS",
    "PROMPT_COMMAND", "PS[0-4]", "NULLCMD", "READNULLCMD",
    # Where Python finds modules, or what it imports, when it starts, warns or stops at a breakpoint.
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX",
    "PYTHONEXECUTABLE", "PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONWARNINGS", "PYTHONCASEOK", "PYTHON_PRESITE",
    # Modules that the AWS SDK for Python imports, and options of gunicorn, which name a file of Python.
    "BOTOCORE_EXPERIMENTAL__PLUGINS", "GUNICORN_CMD_ARGS",
    # The same of other languages.
    "PERL5*", "PERLLIB", "PERLIO_DEBUG", "RUBYOPT", "RUBYLIB", "GEM_HOME", "GEM_PATH", "BUNDLE_GEMFILE",
    "NODE_OPTIONS", "NODE_PATH", "NODE_REPL_EXTERNAL_MODULE", "LUA_INIT*", "LUA_PATH*", "LUA_CPATH*",
    "PHPRC", "PHP_INI_SCAN_DIR", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_HOME", "CLASSPATH",
    "DOTNET_STARTUP_HOOKS", "DOTNET_ADDITIONAL_DEPS", "CORECLR_PROFILER*", "COR_PROFILER*", "ERL_*FLAGS",
    # Programs that git runs, and where it finds configuration and hooks, which name others.
    "GIT_SSH*", "GIT_*EDITOR", "GIT_PAGER", "GIT_ASKPASS", "GIT_EXTERNAL_DIFF", "GIT_PROXY_COMMAND", "GIT_EXEC_PATH",
    "GIT_TEMPLATE_DIR", "GIT_CONFIG*", "GIT_DIR", "GIT_COMMON_DIR",
    # Programs that other tools run, and options of tools that name a program.
    "SHELL", "EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "SSH_ASKPASS", "SUDO_ASKPASS",
    "RSYNC_RSH", "SVN_SSH", "CVS_RSH", "TAR_OPTIONS", "MAKEFLAGS", "MAKEFILES", "VIMINIT", "EXINIT",
))  # fmt: skip

# What the AWS SDK and the HTTP and TLS libraries below it read.
_READ_BY_SDK = (
    "AWS_*", "BOTO_*", "*_PROXY", "*_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_*", "SSLKEYLOGFILE",
)  # fmt: skip


def read_by_sdk(edit: Edit) -> dict[str, tuple[str, ...]]:
    """Return which variables that the AWS SDK reads *edit* `sets` and `unsets`, sorted."""
    matches = _pattern(_READ_BY_SDK)
    variables = {"sets": edit.assign, "unsets": edit.unset}
    return {verb: tuple(sorted(name for name in names if matches(name))) for verb, names in variables.items()}


def steering(keys: Iterable[str], patterns: tuple[str, ...] = PROTECTED) -> list[str]:
    """Return those of *keys*, sorted, that fit a pattern of variables that make programs run other code."""
    is_protected = _pattern(tuple(map(_as_named, patterns)))
    return sorted(key for key in keys if is_protected(_as_named(key)))


def check_variables(
    parameters: Mapping[str, Parameter],
    checked: Mapping[str, Parameter] = MappingProxyType({}),
    *,
    protected: tuple[str, ...] = (),
    encoding: str = "utf-8",
) -> None:
    """
    Raise `InvalidVariable` for all of *parameters*, by key and not *checked* before, that no environment may have.

    These are the ones that it cannot hold, in *encoding*, and those whose key fits a pattern of *protected*.
    """
    is_protected = _pattern(tuple(map(_as_named, protected)))
    faults: dict[str, tuple[str, str]] = {}
    for key, parameter in parameters.items():
        if checked.get(key) is parameter:
            continue
        if is_protected(_as_named(key)):
            faults[key] = ("would make programs run other code", _PROTECTED)
        elif fault := _fault(key, parameter, encoding):
            faults[key] = fault
    if faults:
        keys = sorted(faults)
        raise InvalidVariable(
            "; ".join(f"{key!r} of {parameters[key].name} {faults[key][0]}" for key in keys),
            parameter=", ".join(parameters[key].name for key in keys),
            remedy=" ".join(dict.fromkeys(faults[key][1] for key in keys)),
        )


_CORRECT = "Correct it, or pass environ=None to fill no environment."
_PROTECTED = "Rename it, give it another key with to_key, or pass protected= with a list of your own: () allows all."
_ENCODING = "Run in a UTF-8 locale (LANG=C.UTF-8 or PYTHONUTF8=1), or pass environ=None to fill no environment."


# Windows ignores the case of variables; elsewhere PATH and Path are two variables, and only PATH has a meaning.
_as_named: Callable[[str], str] = str.upper if sys.platform == "win32" else str


@cache
def _pattern(patterns: tuple[str, ...]) -> Callable[[str], object]:
    # Most patterns are names: to look these up takes a tenth of the time, of which there may be 10,000.
    names = frozenset(pattern for pattern in patterns if not re.search(r"[*?[]", pattern))
    match = re.compile("|".join(translate(pattern) for pattern in patterns if pattern not in names) or "(?!)").match
    return lambda name: name in names or match(name)


def _fault(key: str, parameter: Parameter, encoding: str) -> tuple[str, str] | None:
    if not key:
        return "is empty and cannot name an environment variable", _CORRECT
    if "=" in key or "\0" in key:
        return "cannot name an environment variable", _CORRECT
    if "\0" in parameter.value:
        return "has a NUL in its value, which no environment variable can hold", _CORRECT
    if not _encodes(key, "utf-8") or not _encodes(parameter.value, "utf-8"):
        return "holds a character that no environment variable can hold", _CORRECT
    if encoding != "utf-8" and not (_encodes(key, encoding) and _encodes(parameter.value, encoding)):
        return f"holds a character that the locale's encoding, {encoding}, does not have", _ENCODING
    return None


def _encodes(text: str, encoding: str) -> bool:
    # As os.environ does it.
    try:
        text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
