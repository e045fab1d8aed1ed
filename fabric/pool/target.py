"""Finds what a worker shall serve: `module:object` or `path/to/file.py:object`.

Above: worker processes and the command line. Below: Python's import system, `connectors.hosted` for server objects
of other libraries. Every mistake of the user's becomes one sentence with the place and the mend.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from fabric_sdk import Agent
from fabric_sdk.contracts.description import Json
from fabric_sdk.contracts.errors import ConfigurationError, FabricError
from fabric_sdk.worker import Servable

_USUAL_NAMES: Final = ("agent", "server", "mcp", "app")


def load(target: str, *, name: str | None = None, traits: Json | None = None) -> Servable:
    """What `target` names, ready to be served.

    Args:
        target: `module:object` or `file.py:object`; without `:object`, one of the usual names is taken. A function
            is called and its result served.
        name: the agent's name in place of its own; only for servers of other libraries.
        traits: capabilities and labels (`description.checked_traits`); for those alone, too.

    Raises:
        ConfigurationError: it cannot be imported, is not there, or is nothing that can be served.
    """
    where, _, attribute = target.partition(":")
    module = _import(where)
    found = _find(module, attribute, target)
    if inspect.isfunction(found):
        found = _run(found, target)
    if isinstance(found, Agent):
        if name is not None and name != found.name:
            raise ConfigurationError(f"{target} is an Agent called {found.name!r}", fix="rename it in its own code")
        if any((traits or {}).values()):
            raise ConfigurationError(f"{target} is an Agent", fix="say what it can do, and its labels, in its own code")
        return found
    if _comes_from(found, "mcp", "fastmcp"):
        from fabric.connectors.hosted import HostedServer  # imports the MCP SDK, which plain agents do without

        return HostedServer(found, name=name, traits=traits)
    raise ConfigurationError(
        f"{target} is of type {type(found).__name__}, which cannot be served",
        fix="name a fabric_sdk.Agent, or a server object of the mcp SDK or of fastmcp",
    )


def _import(where: str) -> ModuleType:
    if not where:
        raise ConfigurationError("no target", fix="write module:object or path/to/file.py:object")
    if where.endswith(".py") or "/" in where:
        path = Path(where).resolve()
        if not path.is_file():
            raise ConfigurationError(f"there is no file {where}", fix="check the path")
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None  # a path that ends in .py always has both
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        return _guarded(lambda: spec.loader.exec_module(module) or module, where)  # type: ignore[union-attr]
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise ConfigurationError(f"there is no module {where!r}", fix="check the name, or run from the folder it is in")
    return _guarded(lambda: importlib.import_module(where), where)


def _guarded(work: Any, where: str) -> Any:
    """Run foreign code; say where it broke in one line."""
    try:
        return work()
    except FabricError:
        raise
    except SyntaxError as wrong:
        raise ConfigurationError(f"{where} is not valid Python: {wrong.msg} (line {wrong.lineno})") from None
    except BaseException as failure:
        if isinstance(failure, (KeyboardInterrupt, GeneratorExit)):
            raise
        absent = isinstance(failure, ModuleNotFoundError)
        raise ConfigurationError(
            f"{where} cannot be imported: {described(failure)}",
            fix="install it into the environment that `fabric` itself is installed in" if absent else None,
        ) from failure


def described(failure: BaseException) -> str:
    """What went wrong in foreign code, and where, in one line."""
    frames = [frame for frame in traceback.extract_tb(failure.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())}{place}"


def _find(module: ModuleType, attribute: str, target: str) -> Any:
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ConfigurationError(
                    f"{target}: there is no {part!r} in {getattr(found, '__name__', found)}",
                    fix="write the name of the agent or server there, or leave it out: the usual ones are found",
                )
            found = getattr(found, part)
        return found
    for usual in _USUAL_NAMES:
        if hasattr(module, usual):
            return getattr(module, usual)
    raise ConfigurationError(
        f"{target} has none of {', '.join(_USUAL_NAMES)}", fix=f"write {target}:NAME with the object's name"
    )


def _run(factory: Any, target: str) -> Any:
    required = [p for p in inspect.signature(factory).parameters.values() if p.default is p.empty]
    if required:
        raise ConfigurationError(f"{target} is a function that wants {required[0].name!r}", fix="name one without")
    return _guarded(factory, target)


def _comes_from(found: Any, *packages: str) -> bool:
    return any(kind.__module__.partition(".")[0] in packages for kind in type(found).__mro__)
