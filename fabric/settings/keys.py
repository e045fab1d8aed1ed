"""Names with dots: `port`, `pools.greeter.processes`. What changes live goes by them, and so does what is shown.

Above: `layers`, `passing`, `fabric.live`, the command line. Below: the model.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pydantic.fields import FieldInfo

from fabric.settings.model import PREFIX, PoolSettings, Settings

POOLS = "pools"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.partition('.')[0].upper()}"


def field(key: str) -> FieldInfo | None:
    """What the model says of a key; nothing of one that there is not, and of a whole pool."""
    name, *inner = key.split(".", 2)
    if name == POOLS and inner:
        return PoolSettings.model_fields.get(inner[-1]) if len(inner) > 1 else None
    return Settings.model_fields.get(name)


def is_live(key: str) -> bool:
    """Whether it changes while processes run."""
    return _marked(field(key), "x-live")


def is_secret(key: str) -> bool:
    """Whether it may hold a secret."""
    return _marked(field(key), "writeOnly")


def flat(settings: Settings) -> dict[str, Any]:
    """All values by their keys."""
    return dict(_items(settings))


def changed(old: Settings, new: Settings) -> list[str]:
    """The keys that differ; a pool that is new or gone is one key."""
    before, after = flat(old), flat(new)
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    whole = [f"{POOLS}.{name}" for name in sorted(old.pools.keys() ^ new.pools.keys())]
    return [key for key in keys if key.rpartition(".")[0] not in whole] + whole


def merged(old: Settings, new: Settings) -> Settings:
    """`old`, with all of `new` that changes live."""
    live = {name: getattr(new, name) for name in Settings.model_fields if is_live(name)}
    parts = [name for name in PoolSettings.model_fields if is_live(f"{POOLS}.*.{name}")]
    pools = {
        name: pool.model_copy(update={part: getattr(new.pools[name], part) for part in parts if name in new.pools})
        for name, pool in old.pools.items()
    }
    return old.model_copy(update={**live, POOLS: pools})


def _items(settings: Settings) -> Generator[tuple[str, Any]]:
    for name in Settings.model_fields:
        if name != POOLS:
            yield name, getattr(settings, name)
    for name, pool in settings.pools.items():
        for part in PoolSettings.model_fields:
            yield f"{POOLS}.{name}.{part}", getattr(pool, part)


def _marked(found: FieldInfo | None, mark: str) -> bool:
    extra = found.json_schema_extra if found is not None else None
    return not callable(extra) and bool(extra and extra.get(mark))
