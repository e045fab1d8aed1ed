"""A little of everything that a fabric does, for whoever watches it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
from gateway.client import headers, meta, request
from support.running import Running

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def call(
    running: Running,
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    token: str | None = None,
    timeout: float = 30.0,
    **more: Any,
) -> httpx.Response:
    """One call as an MCP client sends it, in a trace that is sampled."""
    params = {"name": name, "arguments": {**(arguments or {}), **more}, "_meta": meta(traceparent=TRACEPARENT)}
    lines = headers("tools/call", name, token=token or running.token)
    content = json.dumps(request("tools/call", params))
    return httpx.post(running.mcp_url, content=content, headers=lines, trust_env=False, timeout=timeout)


def page(url: str) -> str:
    """What Prometheus reads."""
    accept = "application/openmetrics-text; version=1.0.0"
    response = httpx.get(url, headers={"accept": accept}, trust_env=False)
    assert response.status_code == 200, response.text
    return response.text


def total(text: str, name: str, labels: Mapping[str, str]) -> float:
    """The sum of the series of this name that have at least these labels."""
    found = 0.0
    for line in text.splitlines():
        series, _, rest = line.partition(" ")
        if series.partition("{")[0] == name and all(f'{label}="{value}"' in series for label, value in labels.items()):
            found += float(rest.partition(" ")[0])
    return found
