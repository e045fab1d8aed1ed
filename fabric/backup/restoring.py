"""An archive becomes a fabric again: every stream, every consumer, as they were.

Above: the command. Below: snapshots. Nothing is touched before all of the archive was read and found whole, and nothing
is written over that somebody did not mean to lose.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from fabric.backup.archive import Archive
from fabric.backup.manifest import NUMBERS, Damaged, StreamPart, is_older
from fabric.backup.saving import Step, streams_of
from fabric.backup.settling import settle
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Message
from fabric_sdk.jetstream import JetStream, Missing, Refused
from fabric_sdk.jetstream import restore as restore_stream

_LISTEN_SECONDS: Final = 1.0
_NAME_IN_USE: Final = frozenset((10058, 10130))


class NotEmpty(errors.ConfigurationError):
    """There is something that would be lost."""


class StillRunning(errors.ConfigurationError):
    """Somebody works with what is to be replaced."""


async def restore(jetstream: JetStream, archive: Archive, *, nats: str, force: bool) -> AsyncGenerator[Step]:
    """Put everything back; goes on as long as it is asked for the next step.

    Raises:
        Damaged: the archive is not whole; nothing was changed.
        NotEmpty: the fabric holds messages, and nobody said `force`; nothing was changed.
        StillRunning: agents run on it; nothing was changed.
        ConfigurationError: the server is older than the one that packed; nothing was changed.
        FabricError: the server does not answer, or refuses; what is there by then is not whole.
    """
    archive.verify()
    if is_older(nats, archive.manifest.nats):
        raise errors.ConfigurationError(
            f"the streams were packed by nats-server {archive.manifest.nats}, and this is {nats}, which is older",
            fix="restore to a server of that release or a later one",
        )
    await _refuse_if_running(jetstream)
    there = await streams_of(jetstream)
    if not force:
        _refuse_if_not_empty(there)
    for each in there:
        with suppress(Missing):
            await jetstream.request(f"STREAM.DELETE.{each['config']['name']}")
    for part in archive.manifest.streams:
        yield await _restored(jetstream, archive, part)
    await settle(jetstream, archive)


async def _refuse_if_running(jetstream: JetStream) -> None:
    try:
        first = await jetstream.ask(Message(subjects.service("PING")), _LISTEN_SECONDS)
        running = "" if first.header(subjects.Header.STATUS) else str(first.body.members().get("name", "an agent"))
    except errors.TransportUnavailable:
        return
    if running:
        raise StillRunning(
            f"agents run on this fabric: {running} answers",
            fix="stop `fabric up`, all workers and all gateways, then restore",
        )


def _refuse_if_not_empty(there: list[dict[str, Any]]) -> None:
    filled = [f"{each['config']['name']} {each['state']['messages']}" for each in there if each["state"]["messages"]]
    if filled:
        raise NotEmpty(
            f"this fabric holds messages: {', '.join(filled)}", fix="add --force to lose them, or restore elsewhere"
        )


async def _restored(jetstream: JetStream, archive: Archive, part: StreamPart) -> Step:
    """One stream."""
    config = part.config
    try:
        now = await restore_stream(jetstream, config, part.state, partial(archive.pieces, part))
    except Refused as refused:
        if refused.err_code not in _NAME_IN_USE:
            raise
        raise StillRunning(
            f"somebody made {part.name} anew meanwhile", fix="stop all gateways, then restore with --force"
        ) from None
    different = [name for name in NUMBERS if now[name] != part.state[name]]
    if different and not config.get("max_age") and not config.get("allow_msg_ttl"):  # those go by themselves
        raise Damaged(f"{part.name} came back otherwise than it was: {', '.join(different)}")
    return Step(part.name, part.size, part.messages, done=True)
