"""Settings: one typed model, read from a command line, the environment, secret files and a file, in this order.

Above: the whole platform. Below: pydantic-settings, tomllib. docs/settings.md tells how to write them.

    model      what there is, and what it may be     layers     one value for each name, and where it is from
    keys       names with dots                       loading    all places put together
    document   TOML with its lines                   mistakes   what is wrong, in one line each
    places     which file                            passing    how a supervisor hands them to its processes
                                                     schema     JSON Schema, for editors
"""

from __future__ import annotations

from fabric.settings.loading import Configuration, load_settings
from fabric.settings.mistakes import SettingsError
from fabric.settings.model import (
    BAD_USAGE,
    LIVE,
    NATS_SYSTEM_URL,
    PREFIX,
    SECRET,
    PoolSettings,
    Settings,
    is_loopback,
)

__all__ = [
    "BAD_USAGE",
    "LIVE",
    "NATS_SYSTEM_URL",
    "PREFIX",
    "SECRET",
    "Configuration",
    "PoolSettings",
    "Settings",
    "SettingsError",
    "is_loopback",
    "load_settings",
]
