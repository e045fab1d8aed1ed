"""The JSON Schema of `fabric.toml`: editors complete, explain and check by it.

Above: `fabric config schema`. Below: the model.
"""

from __future__ import annotations

from typing import Any, Final

from fabric.settings.layers import ENV
from fabric.settings.model import Settings

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Of the whole file, with its tables `[env.NAME]`, which hold what the file may hold, but for further such."""
    said = Settings.model_json_schema(mode="validation")
    definitions = said.pop("$defs")
    for name, field in said["properties"].items():
        field["description"] = str(Settings.model_fields[name].description)
        field.pop("title", None)
    pools = said["properties"]["pools"]
    overlay: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": said["properties"]}
    pool = definitions["PoolSettings"]
    # A table [env.NAME.pools.POOL] says what differs there, and need not say the rest again.
    definitions["PoolDifference"] = {**pool, "required": []}
    definitions["Environment"] = {
        **overlay,
        "properties": {**overlay["properties"], "pools": _pools(pools, "PoolDifference")},
    }
    environments = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Environment"}}
    return {
        "$schema": _DIALECT,
        "title": "fabric.toml",
        **overlay,
        "properties": {
            **said["properties"],
            "pools": _pools(pools, "PoolSettings"),
            ENV: {**environments, "description": "what differs where FABRIC_ENV says so"},
        },
        "$defs": definitions,
    }


def _pools(pools: dict[str, Any], of: str) -> dict[str, Any]:
    (pattern,) = pools["patternProperties"]
    return {**pools, "patternProperties": {pattern: {"$ref": f"#/$defs/{of}"}}, "additionalProperties": False}
