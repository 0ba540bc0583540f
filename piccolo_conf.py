"""What Piccolo's commands use: the database of DATABASE_URL, or the embedded one, with the same settings as the service."""

import atexit
import sys

from piccolo.conf.apps import AppRegistry

from app.embedded import open_embedded
from app.engine import make_engine
from app.errors import AurumError
from app.settings import load_settings


def _find_dsn() -> str:
    if settings.database_url is not None:
        return settings.database_url
    server = open_embedded(settings.data_dir, settings.pg_bin)
    atexit.register(server.release)
    return server.dsn


try:
    settings = load_settings()
    DB = make_engine(_find_dsn(), timescale=settings.timescale.value)
except AurumError as error:
    sys.exit(f"{error.code}: {error}")

APP_REGISTRY = AppRegistry(apps=["app.piccolo_app"])
