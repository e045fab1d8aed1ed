"""The settings, from all places: command line, environment, secret files, the file's environment, the file, defaults.

Above: every process and command. Below: `layers`, `document`, `places`. What is read (`gather`) and what it means
(`resolve`) are two steps, so that whoever follows the files can tell whether anything is new.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from fabric.settings import layers
from fabric.settings.document import Document, DocumentError, parse
from fabric.settings.layers import Origin, merge, secret_files
from fabric.settings.mistakes import SettingsError, unknown, wrong
from fabric.settings.model import Settings
from fabric.settings.places import ENVIRONMENT, find


class Inputs(NamedTuple):
    """What the files hold."""

    file: Path | None
    content: bytes
    secrets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and where they are from."""

    settings: Settings
    origins: Mapping[str, Origin]
    """By key; what is not here is a default."""
    file: Path | None


def load_settings(**given: Any) -> Settings:
    """The settings; those `given` (from a command line, `None` for not given) come first.

    Raises:
        SettingsError: one line for each wrong setting.
        ConfigurationError: the file that is named is not there.
    """
    return resolve(gather(find()), given).settings


def gather(file: Path | None) -> Inputs:
    """Read the file and the secret files.

    Raises:
        SettingsError: one cannot be read.
    """
    try:
        content = file.read_bytes() if file is not None else b""
    except OSError as failure:
        raise SettingsError([f"{file}: {failure.strerror}"]) from None
    return Inputs(file, content, {name: _secret(name, path) for name, path in secret_files().items()})


def resolve(
    inputs: Inputs,
    given: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    environment: str | None = None,
) -> Configuration:
    """What they mean, together with what was typed and the environment's variables.

    Args:
        inputs: the files.
        given: from a command line, `None` for what was not typed.
        defaults: in place of the model's.
        environment: in place of `FABRIC_ENV`.

    Raises:
        SettingsError: one line for each wrong setting.
    """
    named = os.environ.get(ENVIRONMENT) if environment is None else environment
    of_file = layers.of_file(_document(inputs.file, inputs.content), named) if inputs.file is not None else []
    values, origins = merge(
        [
            layers.of_command_line(given),
            layers.of_environment(),
            layers.of_secret_files(inputs.secrets),
            *of_file,
            layers.of_defaults(defaults or {}),
        ]
    )
    mistakes = unknown(values, origins)
    try:
        settings = Settings(**{name: value for name, value in values.items() if name in Settings.model_fields})
    except ValidationError as error:
        raise SettingsError([*mistakes, *wrong(error, origins)]) from None
    if mistakes:
        raise SettingsError(mistakes)
    return Configuration(settings, {".".join(key): origin for key, origin in origins.items()}, inputs.file)


def environments(inputs: Inputs) -> list[str]:
    """The environments that the file has something to say of.

    Raises:
        SettingsError: it is no TOML.
    """
    tables = _document(inputs.file, inputs.content).values.get(layers.ENV) if inputs.file is not None else None
    return sorted(tables) if isinstance(tables, dict) else []  # pyright: ignore[reportUnknownArgumentType]


def _document(file: Path, content: bytes) -> Document:
    try:
        return parse(file, content)
    except DocumentError as broken:
        raise SettingsError([f"{file}:{broken.line}: {broken.reason}"]) from None


def _secret(name: str, path: Path) -> str:
    """The text of a secret file, without white space around it: most ways of writing one end it with a line."""
    variable = f"{layers.variable(name)}_FILE"
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it is no text"
        raise SettingsError([f"{variable}: {path} cannot be read: {reason}"]) from None
    if not secret:
        raise SettingsError([f"{variable}: {path} is empty"])
    return secret
