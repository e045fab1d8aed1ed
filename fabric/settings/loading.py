"""The settings, from all places: command line, environment, secret files, the file's environment, the file, defaults.

Above: every process and command. Below: `layers`, `document`, `places`. What is read (`gather`) and what it means
(`resolve`) are two steps, so that whoever follows the files can tell whether anything is new.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from fabric import files
from fabric.settings import layers
from fabric.settings.document import Document, DocumentError, Key, parse
from fabric.settings.keys import POOLS, variable
from fabric.settings.layers import Merged, Origin, merge, secret_files
from fabric.settings.mistakes import SettingsError, unknown, wrong
from fabric.settings.model import Settings
from fabric.settings.places import CONFIG, ENVIRONMENT, find

NAMING: Final = ("policy", "limits")
"""The settings whose files hold more than a secret."""

MOST_BYTES: Final = 1_048_576
"""Of the file, and so of every file that it names …"""
MOST_SECRET: Final = 65_536
"""… and of a secret."""


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
    file = find()
    try:
        return resolve(gather(file), given).settings
    except SettingsError as mistake:
        if file is not None and mistake.lines[0].startswith(f"{file}:"):
            mistake.fix = f"mend it, by `fabric config check`; until then, {CONFIG}={os.devnull} goes without that file"
        raise


def gather(file: Path | None) -> Inputs:
    """Read the file and the secret files.

    Raises:
        SettingsError: one cannot be read.
    """
    try:
        content = files.read_whole(file, MOST_BYTES) if file is not None else b""
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
    said = _merged(inputs, given, defaults, environment)
    settings, mistakes = _meant(said)
    if mistakes:
        raise SettingsError(mistakes)
    return _configuration(settings, said, inputs)


def examine(inputs: Inputs, environment: str) -> tuple[Configuration, list[str]]:
    """What they mean as far as they are right, for whoever looks at the files and pools that they name; and a line for
    each mistake.

    Raises:
        SettingsError: it is no TOML, or says nothing of this environment.
    """
    said = _merged(inputs, {}, None, environment)
    settings, mistakes = _meant(said)
    return _configuration(settings, said, inputs), mistakes


def _merged(
    inputs: Inputs, given: Mapping[str, Any], defaults: Mapping[str, Any] | None, environment: str | None
) -> Merged:
    named = os.environ.get(ENVIRONMENT) if environment is None else environment
    of_file = layers.of_file(_document(inputs.file, inputs.content), named) if inputs.file is not None else []
    return merge(
        [
            layers.of_command_line(given),
            layers.of_environment(),
            layers.of_secret_files(inputs.secrets),
            *of_file,
            layers.of_defaults(defaults or {}),
        ]
    )


def _meant(said: Merged) -> tuple[Settings, list[str]]:
    """The settings as far as they are right, and a line for each that is wrong."""
    mistakes = unknown(*said)
    known = {name: value for name, value in said.values.items() if name in Settings.model_fields}
    try:
        return Settings(**known), mistakes
    except ValidationError as error:
        mistakes += wrong(error, said.origins)
        right = _right(known, error)
    try:
        return Settings(**right), mistakes
    except ValidationError as error:  # rules over several settings, which pydantic asks once each by itself is right
        away = {variable(name) for name in known.keys() - right.keys()}
        rules = [rule for rule in wrong(error, said.origins) if not any(name in rule for name in away)]
        mistakes += [rule for rule in rules if rule not in mistakes]
        return Settings(**{name: right[name] for name in (*NAMING, POOLS) if name in right}), mistakes


def _right(values: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """Values without those that an error is about; a pool without its target has one that harms nobody."""
    places = {tuple(part for part in detail["loc"] if isinstance(part, str)) for detail in error.errors()}
    right = _without(values, places)
    if POOLS in right:
        right[POOLS] = {name: {"target": "module:object", **pool} for name, pool in right[POOLS].items()}
    return right


def _without(values: Mapping[str, Any], places: Set[Key], table: Key = ()) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        key = (*table, name)
        if key not in places and (*key, "[key]") not in places:
            inner = layers.as_table(value)
            kept[name] = value if inner is None else _without(inner, places, key)
    return kept


def _configuration(settings: Settings, said: Merged, inputs: Inputs) -> Configuration:
    return Configuration(settings, {".".join(key): origin for key, origin in said.origins.items()}, inputs.file)


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
    named = f"{variable(name)}_FILE"
    try:
        secret = files.read_whole(path, MOST_SECRET).decode().strip()
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it is no text"
        raise SettingsError([f"{named}: {path} cannot be read: {reason}"]) from None
    if not secret:
        raise SettingsError([f"{named}: {path} is empty"])
    return secret
