"""What travels: a `Message` with a body that is encoded at most once and decoded at most once.

Above: transports, patterns, worker. Below: orjson. Knows no subjects, no broker, no MCP.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

from fabric_sdk.contracts.errors import InvalidParams

_ABSENT: Final = object()


class Body:
    """A JSON value as Python value, as bytes, or both; each form is made on first use.

    In one process the value is handed over as it is (RT-1); between processes only the bytes travel, and whoever
    merely passes a body on never decodes it.
    """

    __slots__ = ("_encoded", "_value")

    def __init__(self, value: Any = _ABSENT, *, encoded: bytes | None = None) -> None:
        self._value = value
        self._encoded: bytes | None = encoded

    def value(self) -> Any:
        """The Python value.

        Raises:
            ValueError: the bytes are not JSON.
        """
        if self._value is _ABSENT:
            self._value = orjson.loads(self._encoded or b"null")
        return self._value

    def members(self) -> dict[str, Any]:
        """The Python value of a JSON object.

        Raises:
            ValueError: it is not JSON, or not an object.
        """
        value = self.value()
        if not isinstance(value, dict):
            raise ValueError(f"not a JSON object but {type(value).__name__}")
        return cast("dict[str, Any]", value)

    def encoded(self) -> bytes:
        """The JSON bytes.

        Raises:
            TypeError: the value has no JSON form.
        """
        if self._encoded is None:
            self._encoded = orjson.dumps(self._value)
        return self._encoded

    @property
    def known(self) -> Any:
        """The Python value, where it came or was made before; else `None`."""
        return None if self._value is _ABSENT else self._value

    @property
    def wire(self) -> bytes | None:
        """The JSON bytes, where they came or were made before."""
        return self._encoded

    def __repr__(self) -> str:
        return f"Body({self._encoded if self._value is _ABSENT else self._value!r})"


EMPTY: Final = Body(None, encoded=b"")


def stated(what: str, value: Any) -> Body:
    """What somebody wants kept, encoded at once: `what` it is, in words, and its `value`.

    Raises:
        InvalidParams: it has no JSON form.
    """
    body = Body(value)
    try:
        # orjson writes what is not finite as null, and says nothing.
        if b"null" in body.encoded():
            json.dumps(value, allow_nan=False, default=_inside)
    except (TypeError, ValueError) as unfit:
        raise InvalidParams(
            f"{what} has no JSON form: {unfit}", fix="use text, finite numbers, true, false, None, lists and dicts"
        ) from None
    return body


def _inside(value: Any) -> Any:
    """What is in a value that orjson alone can write."""
    return (
        [getattr(value, each.name) for each in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else None
    )


class Message:
    """One message: where to, what, where an answer goes, and the few routing facts as headers."""

    __slots__ = ("body", "headers", "reply", "subject")

    def __init__(
        self, subject: str, body: Body = EMPTY, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.subject = subject
        self.body = body
        self.reply = reply
        self.headers = headers

    def header(self, name: str) -> str | None:
        """The value of header `name`, or `None`."""
        return self.headers.get(name) if self.headers else None

    def __repr__(self) -> str:
        return f"Message({self.subject!r}, reply={self.reply!r}, headers={dict(self.headers or {})!r})"
