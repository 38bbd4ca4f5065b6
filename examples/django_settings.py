"""
Settings of Django from Parameter Store: `SSM_PATH=/FAKEBOOK/TEST/ python manage.py runserver`.

The path holds SECRET_KEY, ALLOWED_HOSTS, a StringList, and DATABASE, which holds several values as JSON:
{"db": {"engine": "django.db.backends.mysql", "name": "app", "host": "...", "user": "...", "password": "..."}}.
"""

from aiossmenv import load_env_sync

# No variables are set, so child processes do not inherit the secrets.
env = load_env_sync(expand={"DATABASE": "json"}, required=["SECRET_KEY", "DB_ENGINE", "DB_NAME"], environ=None)

SECRET_KEY = env["SECRET_KEY"]
ALLOWED_HOSTS = env.get("ALLOWED_HOSTS", "localhost").split(",")
DATABASES = {"default": {key: env.get(f"DB_{key}", "") for key in ("ENGINE", "NAME", "HOST", "USER", "PASSWORD")}}

INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
