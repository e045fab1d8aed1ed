"""Layers of values, each from one place; laid over each other they give one value for each name, and where it is from.

Above: `loading`, `mistakes`. Below: `document`, pydantic-settings, which reads the environment. Pure but for that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast, get_args

from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError as Undecodable

from fabric.settings.document import Document, Key
from fabric.settings.keys import POOLS, is_secret, variable
from fabric.settings.mistakes import SettingsError
from fabric.settings.model import Settings
from fabric.settings.places import ENVIRONMENT

ENV: Final = "env"
"""The table of a file whose tables are laid over the rest of it, one for each name that `FABRIC_ENV` may have."""


class Origin(NamedTuple):
    """Where a value is from."""

    kind: Literal["command line", "environment", "secret file", "file", "default"]
    where: str
    """In words that lead there."""


class Layer(NamedTuple):
    """What one place says."""

    values: Mapping[str, Any]
    origin: Callable[[Key], Origin]


class Merged(NamedTuple):
    """What all of them say together."""

    values: dict[str, Any]
    origins: dict[Key, Origin]


def merge(layers: Sequence[Layer]) -> Merged:
    """The first that says something of a name is heard; tables are put together."""
    values: dict[str, Any] = {}
    origins: dict[Key, Origin] = {}
    for layer in reversed(layers):
        _lay(values, layer, origins)
    return Merged(values, origins)


def _lay(below: dict[str, Any], layer: Layer, origins: dict[Key, Origin], table: Key = ()) -> None:
    for name, value in layer.values.items():
        key = (*table, name)
        origins[key] = layer.origin(key)
        if (inner := as_table(value)) is None:
            below[name] = value
        else:
            below[name] = as_table(below.get(name)) or {}
            _lay(below[name], Layer(inner, layer.origin), origins, key)


def of_command_line(given: Mapping[str, Any]) -> Layer:
    """What was typed; `None` for what was not."""
    return Layer({name: value for name, value in given.items() if value is not None}, _always("command line"))


def of_defaults(defaults: Mapping[str, Any]) -> Layer:
    """What this process takes in place of the model's defaults."""
    return Layer(defaults, _always("default"))


def of_environment() -> Layer:
    """The variables `FABRIC_<NAME>`.

    Raises:
        SettingsError: one that has to be JSON is none.
    """
    try:
        values = EnvSettingsSource(Settings)()
    except Undecodable:
        raise SettingsError([f'{variable(POOLS)}: it has to be JSON, like {{"NAME": {{…}}}}']) from None
    return Layer(values, _from_variable)


def of_secret_files(contents: Mapping[str, str]) -> Layer:
    """What stands in the files that `FABRIC_<NAME>_FILE` name."""
    return Layer(contents, _from_secret_file)


def of_file(document: Document, environment: str | None) -> list[Layer]:
    """The file, and before it what it says of this environment.

    Raises:
        SettingsError: it says nothing of it.
    """
    tables = as_table(document.values.get(ENV, {}))
    if tables is None or None in map(as_table, tables.values()):
        line = document.lines[(ENV,)]
        raise SettingsError([f"{document.path}:{line}: {ENV}: it takes tables, each called [{ENV}.NAME]"])
    base = {name: value for name, value in document.values.items() if name != ENV}
    layers = [_of_table(document, base, ())]
    if environment:
        if environment not in tables:
            known = ", ".join(sorted(tables)) or "none"
            raise SettingsError(
                [f"{ENVIRONMENT}: there is no [{ENV}.{environment}] in {document.path}; there are: {known}"]
            )
        layers.insert(0, _of_table(document, tables[environment], (ENV, environment)))
    return layers


def secret_files() -> dict[str, Path]:
    """Those that the environment names, by their settings."""
    named = {name: os.environ.get(f"{variable(name)}_FILE") for name in Settings.model_fields if is_secret(name)}
    return {name: Path(path) for name, path in named.items() if path}


def _of_table(document: Document, values: Mapping[str, Any], table: Key) -> Layer:
    def origin(key: Key) -> Origin:
        return Origin("file", f"{document.path}:{document.line((*table, *key))}")

    return Layer(_located(values, document.path.parent), origin)


def _located(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Files are named from where the file stands that names them, wherever the command is run."""
    located = {
        name: str(folder / value) if _is_path(name) and isinstance(value, str) else value
        for name, value in values.items()
    }
    if (pools := as_table(located.get(POOLS))) is not None:
        located[POOLS] = {name: _located_pool(pool, folder) for name, pool in pools.items()}
    return located


def _located_pool(pool: Any, folder: Path) -> Any:
    members = as_table(pool) or {}
    target = members.get("target")
    if isinstance(target, str) and target.partition(":")[0].endswith(".py"):
        return {**members, "target": str(folder / target)}
    return pool


def as_table(value: object) -> dict[str, Any] | None:
    """`value`, if it is a table."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _from_variable(key: Key) -> Origin:
    return Origin("environment", variable(key[0]))


def _from_secret_file(key: Key) -> Origin:
    return Origin("secret file", f"{variable(key[0])}_FILE")


def _is_path(name: str) -> bool:
    found = Settings.model_fields.get(name)
    return found is not None and Path in (found.annotation, *get_args(found.annotation))


def _always(kind: Literal["command line", "default"]) -> Callable[[Key], Origin]:
    return lambda key: Origin(kind, kind)
