"""
Alembic's env.py for a database whose URL is in Parameter Store: `SSM_PATH=/FAKEBOOK/TEST/ alembic upgrade head`.

The path holds DATABASE_URL. Save this as the env.py that `alembic init` made, and set target_metadata for autogenerate.
"""

from alembic import context
from sqlalchemy import create_engine

from aiossmenv import load_env_sync

# Only what a migration needs is read, and no variable is set.
env = load_env_sync(keys=["DATABASE_URL"], required=["DATABASE_URL"], environ=None)
target_metadata = None

if context.is_offline_mode():
    context.configure(url=env["DATABASE_URL"], target_metadata=target_metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(env["DATABASE_URL"]).connect() as connection:
        context.configure(connection=connection, target_metadata=target_metadata)
        with context.begin_transaction():
            context.run_migrations()
