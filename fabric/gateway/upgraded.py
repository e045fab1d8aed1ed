"""Where a WebSocket meets the network: uvicorn's protocol, which here waits for nobody for ever.

Above: `process`; `listen` and `app`, for the path. Below: uvicorn and websockets. Frames are bounded by uvicorn's
settings; `listen` hands a connection over once its client asks for it.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

PATH: Final = "/ws"
"""The one path at which a WebSocket is opened; elsewhere, who offers one is served by HTTP."""

_REFUSED: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Upgraded(WebSocketsSansIOProtocol):
    """A connection whose client answers pings, or loses it."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated:  # the request, which is whole, has a body or is otherwise none of RFC 6455
            self.transport.write(b"".join(self.conn.data_to_send()) or _REFUSED)
            self.transport.close()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()  # what waits for this client would be kept until it is read, which is never
