"""How the HTTP floors are served: uvicorn as the product's gateway runs it, on a socket that listens already.

Above: `forward`, `sdk`, `mcpserver`. Below: uvicorn, uvloop, httptools.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import uvicorn

from fabric.pool.ready import ReadyFile


async def serve(app: Any, *, ready: Path, descriptor: int) -> None:
    """Serve `app` until SIGTERM."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
    with ReadyFile.of(ready), socket.socket(fileno=descriptor) as listener:
        await uvicorn.Server(config).serve([listener])
