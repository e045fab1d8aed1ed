"""`fabric config`: is the configuration right, what holds and where is it from, and what may be in it.

Above: `main`. Below: `fabric.settings`. Secrets are never shown.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from pydantic import ByteSize, SecretStr

from fabric.cli.console import fail, out, print_json, table
from fabric.cli.options import ConfigOption, JsonOption
from fabric.cli.variables import warn_of_variables
from fabric.named_files import check as check_files
from fabric.pool.specs import PoolSpec
from fabric.settings import PoolSettings, Settings, SettingsError
from fabric.settings.keys import POOLS, flat, is_live, is_secret, variable
from fabric.settings.layers import Origin
from fabric.settings.loading import NAMING, Inputs, environments, examine, gather, resolve
from fabric.settings.places import ENVIRONMENT, find, usual
from fabric.settings.schema import schema as json_schema
from fabric_sdk.contracts.address import shown
from fabric_sdk.contracts.errors import ConfigurationError

app = typer.Typer(name="config", help="The configuration: fabric.toml, environment, secrets.", no_args_is_help=True)

EnvOption = Annotated[str | None, typer.Option("--env", help="Which [env.NAME] of the file. [FABRIC_ENV]")]

_DEFAULT: Final = Origin("default", "default")
_HIDDEN: Final = "********"
_NOTHING: Final = Settings.model_construct()
_ANY: Final = PoolSettings.model_construct(target="module:object")


@app.command()
def check(config: ConfigOption = None, environment: EnvOption = None) -> None:
    """Tell every mistake, with its line; of all environments that the file has, unless one is named."""
    warn_of_variables()
    try:
        inputs = gather(find(config))
        one = environment or os.environ.get(ENVIRONMENT)
        names = [one] if one else ["", *environments(inputs)]
        mistakes = dict.fromkeys(line for name in names for line in _mistakes(inputs, name))
        if mistakes:
            raise SettingsError(sorted(mistakes, key=partial(_line, inputs.file)))
    except ConfigurationError as mistake:
        fail(mistake)
    where = inputs.file or f"no {' and no '.join(map(str, usual()))}: the environment"
    out.print(f"{where}: no mistake", soft_wrap=True)


@app.command()
def show(config: ConfigOption = None, environment: EnvOption = None, json_output: JsonOption = False) -> None:
    """Show every setting, where it is from, and whether it changes while the fabric runs."""
    try:
        found = resolve(gather(find(config)), {}, environment=environment)
    except ConfigurationError as mistake:
        fail(mistake)
    rows = [
        {
            "setting": key,
            "value": _visible(key, value),
            "from": found.origins.get(key, _DEFAULT).where,
            "live": is_live(key),
        }
        for key, value in flat(found.settings).items()
    ]
    if json_output:
        print_json(rows)
        return
    here = f"{Path.cwd()}{os.sep}"
    table(
        ("SETTING", "VALUE", "FROM", "LIVE"),
        [
            (row["setting"], _words(row["value"]), str(row["from"]).removeprefix(here), "yes" if row["live"] else "")
            for row in rows
        ],
        whole=("SETTING", "LIVE"),
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of fabric.toml; its first line tells editors where it is: `#:schema fabric.schema.json`."""
    print_json(json_schema())


def _mistakes(inputs: Inputs, environment: str) -> Generator[str]:
    try:
        found, mistakes = examine(inputs, environment)
    except ConfigurationError as mistake:
        yield from str(mistake).splitlines()
        return
    yield from mistakes

    def where(key: str) -> str:
        origin = found.origins.get(key, _DEFAULT)
        _, dot, inner = key.partition(".")
        return f"{origin.where}: {key}" if origin.kind == "file" else f"{variable(key)}{dot}{inner}"

    for name in NAMING:
        path = getattr(found.settings, name)
        try:
            check_files(_NOTHING, _NOTHING.model_copy(update={name: path}))
        except ConfigurationError as mistake:
            at = re.compile(rf"{re.escape(str(path))}\S*:\d+: ")
            yield from (line if at.match(line) else f"{where(name)}: {line}" for line in str(mistake).splitlines())
    for name, pool in found.settings.pools.items():
        for part in PoolSettings.model_fields:
            key, value = f"{POOLS}.{name}.{part}", getattr(pool, part)
            try:
                PoolSpec.configured(name, _ANY.model_copy(update={part: value}))
            except ConfigurationError as mistake:
                yield f"{where(key)}: {mistake}"


def _line(file: Path | None, mistake: str) -> float:
    """On which line of the file a mistake stands; what stands elsewhere comes after."""
    place, _, _ = mistake.removeprefix(f"{file}:").partition(":")
    return int(place) if place.isdecimal() else math.inf


def _visible(key: str, value: Any) -> Any:
    """As JSON has it, but for what is secret in it."""
    if isinstance(value, SecretStr):
        return _HIDDEN
    if is_secret(key) and value is not None:
        return shown(value)
    return str(value) if isinstance(value, Path) else value


def _words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, ByteSize):
        return value.human_readable()
    if isinstance(value, tuple):
        return ", ".join(map(str, cast("tuple[object, ...]", value)))
    return str(value).lower() if isinstance(value, bool) else str(value)
