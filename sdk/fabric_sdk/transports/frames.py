"""Messages as bytes between two processes of one host: the sizes of the four parts, then the parts.

Above: `sockets`, and who is at its ends: `callers`, `nearest`. Below: struct. Pure but for the bytes that wait for
their rest. A frame without a subject is a word between the two ends themselves.
"""

from __future__ import annotations

import struct
from typing import Final

from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.transports.headers import encode_headers, read_headers

_SIZES: Final = struct.Struct("<IIHH")  # body, headers, subject, reply
_LONGEST: Final = 0xFFFF  # a subject, and a reply
_ROOM: Final = 2 * _LONGEST


def encode_frame(message: Message) -> tuple[bytes, int]:
    """`message` as it travels, and how many bytes its headers and its body have together.

    Raises:
        TypeError: its body has no JSON form.
        InvalidParams: its subject, or that of the answer, is too long.
    """
    body, head = message.body.encoded(), encode_headers(message.headers)
    subject, reply = message.subject.encode(), message.reply.encode()
    if max(len(subject), len(reply)) > _LONGEST:
        told = f"{message.subject[:64]!r}…, with the answer to {message.reply[:64]!r}"
        raise InvalidParams(f"{told}, is no subject: it is too long")
    sizes = _SIZES.pack(len(body), len(head), len(subject), len(reply))
    return b"".join((sizes, subject, reply, head, body)), len(head) + len(body)


class FrameReader:
    """Puts what comes in pieces together again."""

    def __init__(self, most: int) -> None:
        """No message may have more than `most` bytes of headers and body."""
        self._most = most + _ROOM
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0
        """Bytes without which nothing is whole: pieces of a large frame are put together once."""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole with `data`, in order.

        Raises:
            ValueError: this is no frame, or too large a one.
        """
        if self._have:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pieces)
        messages: list[Message] = []
        at, end, self._need = 0, len(data), _SIZES.size
        while end - at >= _SIZES.size:
            body, head, subject, reply = _SIZES.unpack_from(data, at)
            begin = at + _SIZES.size
            if body + head + subject + reply > self._most:
                raise ValueError(f"a frame of {body + head + subject + reply} bytes")
            next_at = begin + subject + reply + head + body
            if next_at > end:
                self._need = next_at - at
                break
            messages.append(_message(data, begin, begin + subject, begin + subject + reply, next_at - body, next_at))
            at = next_at
        rest = data[at:]
        self._pieces, self._have = ([rest], len(rest)) if rest else ([], 0)
        return messages


def _message(data: bytes, subject: int, reply: int, head: int, body: int, end: int) -> Message:
    """The message whose parts begin at these places."""
    return Message(
        data[subject:reply].decode(),
        Body(encoded=data[body:end]),
        reply=data[reply:head].decode(),
        headers=read_headers(data[head:body]) if body > head else None,
    )
