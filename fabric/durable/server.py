"""What the broker says of how it keeps things: which server it is, and how full its streams are.

Above: `fabric doctor`. Below: the SDK's JetStream. Asked as any client may ask: no system account is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fabric_sdk import Fabric
from fabric_sdk.contracts.envelope import EMPTY, Message
from fabric_sdk.contracts.streams import CATALOGUE
from fabric_sdk.jetstream import Missing

_WHO: Final = "$SYS.REQ.USER.INFO"
"""NATS's own: answered by the server that this client is connected to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """How full a stream is, or all that one account may store."""

    name: str
    messages: int
    size: int
    """Bytes."""
    most_messages: int = 0
    most_size: int = 0
    """Zero: no bound."""
    replicas: int = 1
    """On how many servers it is kept."""

    @property
    def share(self) -> float:
        """The part of what there is room for that is taken: 1 is full, and refuses what is new."""
        parts = (self.messages, self.most_messages), (self.size, self.most_size)
        return max((taken / most for taken, most in parts if most > 0), default=0.0)


async def server_id(fabric: Fabric) -> str:
    """Which server this client is connected to."""
    said = (await fabric.jetstream.ask(Message(_WHO, EMPTY))).body.members()
    return str(said.get("server", {}).get("id", ""))


async def fills(fabric: Fabric) -> list[Fill]:
    """How full the account and those streams are that exist by now.

    Raises:
        FabricError: JetStream does not answer, or not for this account.
    """
    account = await fabric.jetstream.request("INFO")
    most = account.get("limits", {}).get("max_storage", 0)
    found = [Fill(name="account", messages=0, size=account.get("storage", 0), most_size=most)] if most > 0 else []
    for stream in CATALOGUE:
        try:
            about = await fabric.jetstream.request(f"STREAM.INFO.{stream.name}")
        except Missing:
            continue
        if about["config"]["storage"] == "file":  # what is in memory may get lost, and takes no room
            found.append(_fill(stream.name, about))
    return found


def _fill(name: str, about: Mapping[str, Any]) -> Fill:
    state, config = about["state"], about["config"]
    bounded = config["discard"] == "new"  # else it is meant to be full, and drops what is oldest
    return Fill(
        name=name,
        messages=state["messages"],
        size=state["bytes"],
        most_messages=config.get("max_msgs", 0) if bounded else 0,
        most_size=config.get("max_bytes", 0) if bounded else 0,
        replicas=config["num_replicas"],
    )
