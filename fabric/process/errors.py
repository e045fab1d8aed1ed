"""What can go wrong for the person who starts processes; each error says what to do next.

Above: everything in `fabric.process`. Below: the fabric's root error.
"""

from __future__ import annotations

from pathlib import Path

from fabric_sdk.contracts.errors import FabricError


class ProcessStartError(FabricError):
    """A process could not be started."""

    def __init__(self, name: str, reason: str, *, lines: tuple[str, ...] = (), log: Path | None = None) -> None:
        """`reason` completes "<name> …"; `lines` are the last of its output, `log` the file with all of it."""
        self.name, self.reason, self.lines = name, reason, lines
        said = "".join(f"\n  {line}" for line in lines)
        super().__init__(
            f"{name} {reason}{'; the last it said:' + said if said else ''}",
            fix=f"all of its output is in {log}" if log else "its output is above",
        )


class SupervisorStopped(FabricError):
    """The supervisor is stopping and starts nothing more."""
