"""What callers may have to catch is where they import everything else from. Proves: no row."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from typing import Any

import fabric_sdk
from fabric_sdk import Fabric, FabricError
from fabric_sdk.transports.memory import MemoryTransport

_BELOW = {"transport", "caller", "jetstream"}
"""What a client stands on: no author speaks to it."""
_RAISES = re.compile(r"^ *Raises:\n(.*?)(?:\n\n|\Z)", re.DOTALL | re.MULTILINE)


def every_error() -> set[str]:
    """The names of all errors of the fabric's, wherever they are defined."""
    for module in pkgutil.walk_packages(fabric_sdk.__path__, "fabric_sdk."):
        importlib.import_module(module.name)
    found, look = set[str](), [FabricError]
    while look:
        kind = look.pop()
        found.add(kind.__name__)
        look += kind.__subclasses__()
    return found


def _is_ours(thing: Any) -> bool:
    return thing.__module__.startswith("fabric_sdk.")


def classes_in(hint: Any) -> Iterator[type]:
    """The SDK's classes that a type speaks of."""
    if isinstance(hint, type) and _is_ours(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from classes_in(part)


def public_functions() -> dict[str, Any]:
    """The methods of all that is exported, of what a client consists of, and of what these hand out."""
    look: list[Any] = [getattr(fabric_sdk, name) for name in fabric_sdk.__all__]
    look += [type(part) for name, part in vars(Fabric(MemoryTransport())).items() if name not in _BELOW]
    functions: dict[str, Any] = {}
    seen = set[Any]()
    while look:
        if (kind := look.pop()) in seen:
            continue
        seen.add(kind)
        for name, member in inspect.getmembers_static(kind):
            function: Any = getattr(member, "__func__", member.fget if isinstance(member, property) else member)
            if name.startswith("_") or not inspect.isfunction(function) or not _is_ours(function):
                continue
            functions[f"{kind.__name__}.{name}"] = function
            hints = typing.get_type_hints(inspect.unwrap(function))
            look += classes_in(hints.get("return"))
    return functions


def test_every_error_that_a_public_docstring_names_can_be_imported_from_the_sdk() -> None:
    errors, functions = every_error(), public_functions()
    named = {
        (name, word)
        for name, function in functions.items()
        for raises in _RAISES.findall(inspect.getdoc(function) or "")
        for word in set(re.findall(r"\w+", raises)) & errors
    }
    assert {
        ("Task.result", "TaskDead"),
        ("AgentClient.start", "QueueFull"),
        ("Conversation.append", "Conflict"),
        ("Schemas.register", "IncompatibleSchema"),
    } <= named
    assert not [each for each in named if each[1] not in fabric_sdk.__all__]


def test_what_is_exported_is_there_and_in_order() -> None:
    assert sorted(fabric_sdk.__all__) == fabric_sdk.__all__
    assert all(hasattr(fabric_sdk, name) for name in fabric_sdk.__all__)
