"""A resource: an author's function behind MCP's `resources/read`, at one URI or at all that a template matches.

Above: `Agent`. Below: `Signature`. Templates are RFC 6570 level 1 and `{+name}`, read backwards: `{name}` matches
within one path segment, `{+name}` across segments.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final
from urllib.parse import unquote

from pydantic import ValidationError
from pydantic_core import to_json

from fabric_sdk.authoring.signature import Function, Signature, explain
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams

_EXPRESSION: Final = re.compile(r"\{(\+?)([A-Za-z_][A-Za-z0-9_]*)\}")


class Resource:
    """One resource or resource template: its MCP description, and how to read it."""

    def __init__(
        self,
        uri: str,
        function: Function,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
    ) -> None:
        self._signature = Signature(function)
        self.uri = uri
        self._mime_type = mime_type
        self.variables = [match[2] for match in _EXPRESSION.finditer(uri)]
        if sorted(self.variables) != sorted(self._signature.parameters):
            raise ConfigurationError(
                f"{uri!r} names {self.variables}, {self._signature.name} takes {list(self._signature.parameters)}",
                fix="give each variable of the template a parameter of the same name",
            )
        self.is_template = bool(self.variables)
        self._pattern = re.compile(_pattern(uri))
        described = {
            "uriTemplate" if self.is_template else "uri": uri,
            "name": name or self._signature.name,
            "title": title,
            "description": description or self._signature.summary,
            "mimeType": mime_type,
        }
        self.described = {key: value for key, value in described.items() if value is not None}

    def match(self, uri: str) -> dict[str, str] | None:
        """The variables of `uri` if this resource answers to it."""
        found = self._pattern.fullmatch(uri)
        return None if found is None else {name: unquote(value) for name, value in found.groupdict().items()}

    async def read(self, uri: str, variables: dict[str, str], context: Context) -> dict[str, Any]:
        """Run the function and return one MCP resource content."""
        try:
            arguments = self._signature.checked(variables)
        except ValidationError as wrong:
            raise InvalidParams(f"{uri}: {explain(wrong)}") from None
        value = await self._signature.run(arguments, context)
        content: dict[str, Any] = {"uri": uri}
        if isinstance(value, bytes):
            content["mimeType"] = self._mime_type or "application/octet-stream"
            content["blob"] = base64.b64encode(value).decode()
        elif isinstance(value, str):
            content["mimeType"] = self._mime_type or "text/plain"
            content["text"] = value
        else:
            content["mimeType"] = self._mime_type or "application/json"
            content["text"] = to_json(value).decode()
        return content


def _pattern(template: str) -> str:
    """The regular expression that reads a template backwards."""
    parts: list[str] = []
    end = 0
    for match in _EXPRESSION.finditer(template):
        parts.append(re.escape(template[end : match.start()]))
        parts.append(f"(?P<{match[2]}>{'.+' if match[1] else '[^/?#]+'})")
        end = match.end()
    rest = template[end:]
    if "{" in rest or "}" in rest:
        raise ConfigurationError(f"{template!r} is not a template this SDK reads", fix="use {name} or {+name}")
    parts.append(re.escape(rest))
    return "".join(parts)
