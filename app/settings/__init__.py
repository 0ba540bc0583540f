"""What can be set, from the environment and `.env`: see `fields` for what, `environment` for how."""

from app.settings.environment import find_unknown, load_settings, read_environment
from app.settings.fields import Environment, LogFormat, LogLevel, Settings, TimescalePolicy, name_variable
from app.settings.guide import write_guide
from app.settings.texts import is_secret, write_example

__all__ = [
    "Environment",
    "LogFormat",
    "LogLevel",
    "Settings",
    "TimescalePolicy",
    "find_unknown",
    "is_secret",
    "load_settings",
    "name_variable",
    "read_environment",
    "write_example",
    "write_guide",
]
