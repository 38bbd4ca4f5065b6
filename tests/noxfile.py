"""
The sessions that `tests/run` runs; for one of them: `.venv/nox/bin/nox -f tests/noxfile.py -s lint`, `-l` lists all.

The sessions on the chosen interpreter share one environment, in which the package is installed as users install it. The
others have their own. Only tests that depend on the interpreter, the loop or the SDK's release run again there.
"""

import os
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
MYSQL = VENV / "mysql"
CHOSEN = f"{sys.version_info.major}.{sys.version_info.minor}"
PAGES = [
    "aiossmenv",
    *(f"aiossmenv.{page}" for page in ("cli", "fastapi", "mysql", "pydantic", "sqlalchemy", "testing")),
]

SSM = "tests/integration/ssm"
FRAMEWORKS = "tests/integration/frameworks"
DATABASES = "tests/integration/databases"
CLI = "tests/integration/cli"
LOOPS = [f"{SSM}/test_{name}.py" for name in ("engine", "refresh", "loops", "closing")]
# Tests without a server that may depend on the interpreter, and those of them that may depend on the loop.
UNIT = [
    *(f"tests/unit/test_{name}.py" for name in ("concurrency", "env", "events", "reader_cases", "surface", "rotating")),
    *(f"tests/unit/test_{name}.py" for name in ("rotating_refresh", "rotating_edges", "sync", "testing")),
]
ON_LOOP = [f"tests/unit/test_{name}.py" for name in ("concurrency", "env", "events", "rotating_edges", "sync")]
SDK = [
    *(f"{SSM}/test_{name}.py" for name in ("configuration", "sources", "pinning", "tls", "contract")),
]

nox.options.default_venv_backend = "none"
nox.options.stop_on_first_error = False


def interpreter(version: str) -> str | None:
    """Return the path of an interpreter of *version*, or None; a command that pyenv offers may not run."""
    program = 'import ensurepip, sys; print("%d.%d" % sys.version_info[:2])'
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for candidate in (f"python{version}", *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))):
        try:
            found = subprocess.run([candidate, "-c", program], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if found.stdout.strip() == version:
            return candidate
    return None


def environment(session: nox.Session, name: str, python: str = sys.executable, *newer: str) -> Path:
    """
    Return the program folder of an environment with the package and the test dependencies; *newer* is installed last.
    """
    folder, group = VENV / name, "dev" if python == sys.executable else "test"
    if not (folder / "complete").exists():
        session.run(python, "-m", "venv", "--clear", str(folder), external=True)
        # Without --no-compile pip would compile all of moto and botocore, and most of it is never imported.
        options = ("--quiet", "--disable-pip-version-check", "install", "--no-compile")
        pip = (str(folder / "bin" / "python"), "-m", "pip", *options)
        session.run(*pip, "--upgrade", "pip>=25.1", external=True)  # first version with dependency groups
        extras = "mysql,sqlalchemy,fastapi,pydantic,dotenv,cli"
        session.run(*pip, f"{ROOT}[{extras}]", "--group", f"{ROOT}/pyproject.toml:{group}", external=True)
        if newer:
            # pip warns about a conflict with aioboto3, and installs them anyway.
            session.run(*pip, "--upgrade", *newer, external=True)
        (folder / "complete").touch()
    return folder / "bin"


def run(session: nox.Session, programs: Path, *command: str, **variables: str) -> None:
    """Run a program of an environment, in the project's directory."""
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    with session.chdir(ROOT):
        session.run(str(programs / command[0]), *command[1:], external=True, env={"PATH": path, **variables})


def test(session: nox.Session, programs: Path, *arguments: str, **variables: str) -> None:
    """Run pytest with its summary line last."""
    command = ("pytest", "-q", "-p", "no:cacheprovider", *arguments)
    run(session, programs, *command, **variables)


def measured(session: nox.Session, *arguments: str, **variables: str) -> None:
    """Run pytest on the chosen interpreter; with COVERAGE=1 record coverage, which takes half as long again."""
    file, programs = str(VENV / "coverage" / session.name), environment(session, f"tests-{CHOSEN}")
    if os.environ.get("COVERAGE"):
        command = ("coverage", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        run(session, programs, *command, COVERAGE_FILE=file, **variables)
    else:
        test(session, programs, *arguments, **variables)


@nox.session
def install(session: nox.Session) -> None:
    """Install the current package, and unpack a MySQL meanwhile if Debian has one."""
    unpacking = None if (MYSQL / "unpacked").exists() else unpack_mysql()
    complete = (VENV / f"tests-{CHOSEN}" / "complete").exists()
    programs = environment(session, f"tests-{CHOSEN}")
    if complete:
        run(session, programs, "python", "-m", "pip", "--quiet", "install", "--force-reinstall", "--no-deps", ".")
    (VENV / "coverage").mkdir(exist_ok=True)
    for file in (VENV / "coverage").iterdir():
        file.unlink()
    if unpacking and unpacking.wait():
        session.run("rm", "-rf", str(MYSQL), external=True)
        session.warn("LEFT OUT: everything on MySQL, because Debian's mysql-server-core could not be unpacked")
    elif unpacking:
        (MYSQL / "unpacked").touch()


def unpack_mysql() -> "subprocess.Popen[bytes]":
    """Begin to unpack Debian's MySQL. No stable release has one; that of unstable runs from a directory."""
    sources = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    mirror = next((source for source in sources if "security" not in source), "")
    command = ("mmdebstrap", "--quiet", "--variant=extract", '--aptopt=Acquire::Check-Valid-Until "false"')
    what = ("--include=mysql-server-core,openssl", "sid", str(MYSQL), f"deb [trusted=yes] {mirror} sid main")
    return subprocess.Popen(["sh", "-c", 'rm -rf "$1" && shift && exec "$@"', "sh", str(MYSQL), *command, *what])


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, docstrings and the direction of imports."""
    programs = environment(session, f"tests-{CHOSEN}")
    run(session, programs, "ruff", "check", "--quiet", ".")
    run(session, programs, "ruff", "format", "--check", "--quiet", ".")
    run(session, programs, "lint-imports", "--no-logo")
    run(session, programs, "interrogate", "--quiet", "tests")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and basedpyright."""
    programs = environment(session, f"tests-{CHOSEN}")
    run(session, programs, "mypy")
    run(session, programs, "basedpyright")


@nox.session
def unit(session: nox.Session) -> None:
    """Run the tests without a server."""
    measured(session, "tests/unit")


@nox.session
def ssm(session: nox.Session) -> None:
    """Run the tests with an emulated Parameter Store, with and without TLS, with faults."""
    measured(session, SSM)


@nox.session
def frameworks(session: nox.Session) -> None:
    """Run the tests of programs and frameworks, and those of secrecy."""
    measured(session, FRAMEWORKS, "tests/integration/test_secrets.py")


@nox.session
def cli(session: nox.Session) -> None:
    """Run the tests of the command line."""
    measured(session, CLI)


@nox.session
def databases(session: nox.Session) -> None:
    """Run the tests on a real MariaDB and a real MySQL."""
    measured(session, DATABASES, MYSQL_ROOT=str(MYSQL) if (MYSQL / "unpacked").exists() else "")


@nox.session
def uvloop(session: nox.Session) -> None:
    """Run the tests that depend on the loop on uvloop."""
    pools = [f"{DATABASES}/test_{name}.py" for name in ("pool", "engine")]
    programs = environment(session, f"tests-{CHOSEN}")
    test(session, programs, "tests/integration/test_loop.py", *ON_LOOP, *LOOPS, *pools, TEST_LOOP="uvloop", **FAST)


@nox.session
def newest_sdk(session: nox.Session) -> None:
    """
    Run the tests that depend on the SDK with its newest release, which is newer than the one that aioboto3 requires.
    """
    folder = VENV / "tests-newest-sdk"
    if not (folder / "complete").exists():
        base = environment(session, f"tests-{CHOSEN}")
        session.run(sys.executable, "-m", "venv", "--clear", str(folder), external=True)
        # All else is of the chosen interpreter. pip warns about a conflict with aioboto3, and installs them anyway.
        packages = f"lib/python{CHOSEN}/site-packages"
        (folder / packages / "base.pth").write_text(f"{base.parent / packages}\n")
        pip = (str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
        session.run(*pip, "--no-compile", "--upgrade", "aiobotocore", "boto3", external=True)
        (folder / "complete").touch()
    run(session, folder / "bin", "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", QUICK, *SDK, **FAST)


@nox.session
@nox.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def python(session: nox.Session, version: str) -> None:
    """Run the tests that depend on the interpreter on another one, if it is installed."""
    found = interpreter(version)
    if version == CHOSEN or found is None:
        session.skip(f"Python {version} is not installed, or is the chosen one")
    forks = f"{FRAMEWORKS}/test_forks.py"
    # One of them has the SQLAlchemy that most have today, and is between two that run the rest.
    if version == "3.12":
        programs = environment(session, f"tests-{version}", found, "sqlalchemy[asyncio]<2.1")
        test(session, programs, *ON_LOOP, forks, f"{DATABASES}/test_engine.py", **FAST)
    else:
        programs = environment(session, f"tests-{version}", found)
        test(session, programs, *UNIT, *LOOPS, forks, **FAST)


@nox.session
def coverage(session: nox.Session) -> None:
    """Report the coverage of the sessions on the chosen interpreter, if it was recorded."""
    programs, file = environment(session, f"tests-{CHOSEN}"), str(VENV / "coverage" / "all")
    parts = [str(path) for path in sorted((VENV / "coverage").iterdir())]
    if not parts:
        session.skip("call tests/run with COVERAGE=1")
    run(session, programs, "coverage", "combine", "--quiet", *parts, COVERAGE_FILE=file)
    run(session, programs, "coverage", "report", COVERAGE_FILE=file)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the API pages from the docstrings into .venv/docs; a warning fails."""
    programs = environment(session, f"tests-{CHOSEN}")
    run(session, programs, "python", "-m", "pip", "--quiet", "install", "--group", "docs")
    pdoc = ("python", "-W", "error", "-m", "pdoc", "--docformat", "google", "--output-directory")
    run(session, programs, *pdoc, str(VENV / "docs"), *PAGES)


# Tests that only wait are not repeated.
QUICK = "not until_the_deadline"
# Repeated runs use fewer examples, and no MySQL.
FAST = {"HYPOTHESIS_PROFILE": "fast", "MYSQL_ROOT": ""}
