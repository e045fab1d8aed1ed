"""MCP's own rules for headers and errors over HTTP: the library's module that has them, without the library.

Above: `rpc`, `view`, `forward`, `modern`. Below: `mcp.shared.inbound`, which needs no other part of its package; but
whoever imports it by its name loads the package first, with its client, its server and the models of every revision:
a third of the time in which a gateway starts, and of its memory.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mcp.shared import inbound as _inbound

_NAME: Final = "mcp.shared.inbound"


def _alone() -> Any:
    """The module, made from its file; the one that is loaded, where somebody has use for the package anyway."""
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    package = find_spec("mcp")  # which loads nothing
    assert package is not None
    assert package.origin is not None
    spec = spec_from_file_location(f"{__name__}.alone", Path(package.origin).parent / "shared" / "inbound.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _inbound = _alone()

ERROR_CODE_HTTP_STATUS: Final = _inbound.ERROR_CODE_HTTP_STATUS
NAME_BEARING_METHODS: Final = _inbound.NAME_BEARING_METHODS
decode_header_value = _inbound.decode_header_value
find_invalid_x_mcp_header = _inbound.find_invalid_x_mcp_header
validate_mcp_param_headers = _inbound.validate_mcp_param_headers
x_mcp_header_map = _inbound.x_mcp_header_map
