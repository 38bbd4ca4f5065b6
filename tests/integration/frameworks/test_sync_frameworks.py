"""Frameworks that load before any event loop runs, as processes of their own: Alembic and Django."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from embedded import Store

EXAMPLES = Path(__file__).parents[3] / "examples"
SECRET = "hunter2hunter2"


async def run(*arguments: str, folder: Path, **variables: str) -> tuple[int, str, str]:
    """Run a module of Python in a folder; returns its status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "always::ResourceWarning", "-m", *arguments),
        cwd=folder,
        env=os.environ | {"SSM_PATH": "/FAKEBOOK/TEST/", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def put(ssm: Store, values: dict[str, str]) -> None:
    """Write parameters."""
    for name, value in values.items():
        kind = "StringList" if name == "ALLOWED_HOSTS" else "SecureString"
        await asyncio.to_thread(ssm.put, f"/FAKEBOOK/TEST/{name}", value, kind)


def tables(path: Path) -> set[str]:
    """Return the names of the tables of a database."""
    database = sqlite3.connect(path)
    try:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        database.close()


# --- Alembic


_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "0001", None, None, None


def upgrade():
    op.create_table("books", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("books")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a folder with a migration, and with our example as its env.py."""
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\n")
    shutil.copy(EXAMPLES / "alembic_env.py", scripts / "env.py")
    (scripts / "versions" / "0001_books.py").write_text(_MIGRATION)
    return tmp_path


async def test_alembic(ssm: Store, project: Path) -> None:
    """Alembic migrates the database that Parameter Store names, there and back."""
    await put(ssm, {"DATABASE_URL": f"sqlite:///{project}/app.db", "OTHER": SECRET})

    assert (0, "", "") == await run("alembic", "upgrade", "head", folder=project)
    assert {"alembic_version", "books"} == tables(project / "app.db")
    assert (0, "", "") == await run("alembic", "downgrade", "base", folder=project)
    assert {"alembic_version"} == tables(project / "app.db")


async def test_alembic_offline(ssm: Store, project: Path) -> None:
    """Alembic prints the statements for a database that it does not reach."""
    await put(ssm, {"DATABASE_URL": "sqlite:////nowhere/app.db"})

    status, out, err = await run("alembic", "upgrade", "head", "--sql", folder=project)

    assert (0, "") == (status, err)
    assert "CREATE TABLE books" in out


async def test_alembic_without_its_url(ssm: Store, project: Path) -> None:
    """Without the parameter Alembic ends with our error, which names it."""
    await put(ssm, {"OTHER": SECRET})

    status, _, err = await run("alembic", "upgrade", "head", folder=project)

    assert 1 == status
    assert "none of the keys is there: /FAKEBOOK/TEST/DATABASE_URL" in err.splitlines()[-1]
    assert not list(project.glob("*.db"))


# --- Django


async def django(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Run a command of Django with our example as its settings."""
    return await run(
        *("django", *arguments),
        folder=folder,
        PYTHONPATH=os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")])),
        DJANGO_SETTINGS_MODULE="django_settings",
    )


async def test_django(ssm: Store, tmp_path: Path) -> None:
    """Django checks its settings and migrates the database that one parameter describes as JSON."""
    database = {"db": {"engine": "django.db.backends.sqlite3", "name": str(tmp_path / "app.db")}}
    await put(ssm, {"SECRET_KEY": SECRET * 5, "ALLOWED_HOSTS": "a.test,b.test", "DATABASE": json.dumps(database)})

    status, out, err = await django("check", "--database", "default", folder=tmp_path)
    assert (0, "System check identified no issues (0 silenced).\n", "") == (status, out, err)
    status, out, err = await django("migrate", "--verbosity", "0", folder=tmp_path)
    assert (0, "", "") == (status, out, err)
    assert {"auth_user", "django_content_type"} <= tables(tmp_path / "app.db")
    status, out, err = await django("shell", "--command", _PRINT, folder=tmp_path)
    assert (0, "['a.test', 'b.test'] False\n", "") == (status, out.splitlines(keepends=True)[-1], err)


_PRINT = "from django.conf import settings; import os; print(settings.ALLOWED_HOSTS, 'SECRET_KEY' in os.environ)"


async def test_django_with_a_value_that_is_wrong(ssm: Store, tmp_path: Path) -> None:
    """Django ends with our error, which says where the value is wrong and quotes nothing of it."""
    await put(ssm, {"SECRET_KEY": SECRET, "DATABASE": f'{{"db": {{"password": "{SECRET}", }}}}'})

    status, out, err = await django("check", folder=tmp_path)

    assert 1 == status
    assert "aiossmenv.ExpansionFailed: the value cannot be expanded as json: " in err
    assert "(parameter /FAKEBOOK/TEST/DATABASE, path /FAKEBOOK/TEST, region eu-central-1)" in err
    assert SECRET not in out + err
