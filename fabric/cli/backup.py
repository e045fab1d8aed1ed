"""`fabric backup` and `fabric restore`: all that a fabric keeps, as one file, and back.

Above: `main`. Below: `fabric.backup`. A fabric that runs is saved while it works; of one that does not, NATS is started
for as long, on its data folder. Only one that does not run is restored.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from fabric.backup import Archive, Manifest, Step, StillRunning, open_archive, save, write_archive
from fabric.backup import restore as restore_archive
from fabric.backup.configuration import TOKEN, WouldOverwrite, files_of, lay_out, refuse_to_overwrite
from fabric.cli.connection import refuse_others
from fabric.cli.console import err, out, print_json, run, seen
from fabric.cli.options import ConfigOption, DataOption, JsonOption
from fabric.cli.processes import Shown
from fabric.embedded import DataFolder, probe_nats
from fabric.embedded.folder import default_path
from fabric.node import run_broker
from fabric.settings import load_settings
from fabric.settings.loading import gather, resolve
from fabric.settings.places import find
from fabric.whereabouts import Whereabouts
from fabric_sdk.contracts.errors import TransportUnavailable
from fabric_sdk.jetstream import JetStream
from fabric_sdk.transports.nats import NatsTransport

_MEBIBYTE: Final = 1024 * 1024

ReplaceOption = Annotated[bool, typer.Option("--force", help="Replace a file of that name.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Lose what the fabric holds now.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only read the backup, and say whether it is whole.")]
ConfigurationOption = Annotated[
    Path | None, typer.Option("--configuration", help="Put the saved configuration files into this folder.")
]


@dataclass(frozen=True, slots=True)
class _Broker:
    """The NATS server that keeps a fabric's data."""

    url: str
    folder: DataFolder | None = None
    """Where it was started for this command."""


def backup(
    path: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="Where to; into a folder, under a name of today.")
    ],
    force: ReplaceOption = False,
    json_output: JsonOption = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Save all that a fabric keeps, and its configuration, while it works or not, into one file."""
    target = path / f"fabric-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup" if path.is_dir() else path
    began = time.monotonic()
    run(_save(target, data, config, force=force))
    with open_archive(target) as archive:
        archive.verify()
        _tell("saved", archive, time.monotonic() - began, json_output=json_output)


def restore(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What `fabric backup` wrote.")],
    force: ForceOption = False,
    check: CheckOption = False,
    configuration: ConfigurationOption = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Put everything back into a fabric that does not run."""
    began = time.monotonic()
    run(_check(path) if check else _restore(path, data, force, configuration))
    with open_archive(path) as archive:
        _tell("whole" if check else "restored", archive, time.monotonic() - began, json_output=json_output)


async def _save(target: Path, data: Path | None, config: Path | None, *, force: bool) -> None:
    if not force:
        _refuse_another(target)
    configuration = resolve(gather(find(config)), {})
    url, folder = configuration.settings.nats_url, data or configuration.settings.data or default_path()
    async with _running_or_started(url if data is None else None, folder) as broker:
        version, progress = (await probe_nats(broker.url)).version, _Progress("saving")
        with write_archive(target) as draft:
            async with _jetstream(broker.url) as jetstream:
                files = files_of(configuration, folder)
                async for step in save(jetstream, draft, nats=version, configuration=files):
                    progress(step)


def _refuse_another(target: Path) -> None:
    if target.exists():
        raise WouldOverwrite(f"{target} is there already", fix="name another file, or add --force to replace it")


async def _check(path: Path) -> None:
    with open_archive(path) as archive:
        archive.verify()
        _token_of(archive)


async def _restore(path: Path, data: Path | None, force: bool, configuration: Path | None) -> None:
    settings = load_settings()
    url, folder = settings.nats_url if data is None else None, data or settings.data or default_path()
    with open_archive(path) as archive:
        token = _token_of(archive)
        if configuration is not None:
            refuse_to_overwrite(archive, configuration)
        async with _started(url, folder) as broker:
            if not force:
                _refuse_another_token(token, broker.folder)
            version, progress = (await probe_nats(broker.url)).version, _Progress("restoring")
            async with _jetstream(broker.url) as jetstream:
                async for step in restore_archive(jetstream, archive, nats=version, force=force):
                    progress(step)
            if broker.folder is not None and token is not None:
                broker.folder.write(TOKEN, token)
        others = [name for name in archive.manifest.configuration if name != TOKEN]
        if configuration is not None:
            lay_out(archive, configuration)
        elif others:
            names = escape(seen(", ".join(others)))
            err.print(f"[dim]not restored: {names}; --configuration FOLDER lays them out[/]", soft_wrap=True)


def _token_of(archive: Archive) -> str | None:
    return archive.text(TOKEN) if TOKEN in archive.manifest.configuration else None


def _refuse_another_token(token: str | None, folder: DataFolder | None) -> None:
    there = None if folder is None else folder.read(TOKEN)
    if token is not None and there not in (None, token):
        raise WouldOverwrite(
            "this data folder has a token, and not the one that was saved",
            fix="add --force to lose it, or restore elsewhere",
        )


# which broker


@asynccontextmanager
async def _running_or_started(url: str | None, folder: Path) -> AsyncGenerator[_Broker]:
    """The broker of the fabric that runs, or that of one that does not, started for as long."""
    if url is None and (found := Whereabouts.of(folder)) is not None:
        url = found.nats_url
    if url is not None:
        yield _Broker(url)
        return
    _refuse_none(folder)
    async with _started(url, folder) as broker:
        yield broker


def _refuse_none(folder: Path) -> None:
    if not folder.is_dir():
        raise TransportUnavailable(
            "there is no fabric here", fix="name its folder with --data, or its NATS server with FABRIC_NATS_URL"
        )


@asynccontextmanager
async def _started(url: str | None, folder: Path) -> AsyncGenerator[_Broker]:
    """The broker that is named, or a private one on the data folder of a fabric that does not run."""
    if url is not None:
        yield _Broker(url)
        return
    if (found := Whereabouts.of(folder)) is not None:
        raise StillRunning(f"the fabric runs, as process {found.pid}", fix=f"stop it first: kill {found.pid}")
    async with run_broker(folder, Shown()) as (held, private):
        yield _Broker(private, held)


@asynccontextmanager
async def _jetstream(url: str) -> AsyncGenerator[JetStream]:
    await refuse_others(url)
    transport = await NatsTransport.connect(url, name="fabric backup")
    jetstream = JetStream(transport)
    try:
        yield jetstream
    finally:
        await jetstream.close()
        await transport.close()


# what is said


class _Progress:
    """Tells of each stream once it is done, and now and then of a long one."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._told = time.monotonic()

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        if step.done or now - self._told > 1.0:
            self._told = now
            err.print(
                f"[dim]{self._doing} {seen(step.stream)}: {step.messages} messages, {_mib(step.size)} MiB"
                f"{'' if step.done else ' so far'}[/]"
            )


def _tell(what: str, archive: Archive, seconds: float, *, json_output: bool) -> None:
    manifest, size = archive.manifest, archive.path.stat().st_size
    if json_output:
        print_json(_facts(archive.path, manifest, size, seconds))
        return
    messages = sum(part.messages for part in manifest.streams)
    out.print(
        f"{what}: {escape(seen(str(archive.path)))}, {len(manifest.streams)} streams, {messages} messages, "
        f"{_mib(size)} MiB, {seconds:.1f} s",
        soft_wrap=True,
    )


def _facts(path: Path, manifest: Manifest, size: int, seconds: float) -> dict[str, Any]:
    return {
        "file": str(path),
        "made": manifest.made,
        "bytes": size,
        "seconds": round(seconds, 3),
        "streams": [
            {"name": part.name, "messages": part.messages, "bytes": part.size, "sha256": part.sha256}
            for part in manifest.streams
        ],
        "configuration": [
            {"name": name, "bytes": part.size, "sha256": part.sha256} for name, part in manifest.configuration.items()
        ],
        "left_out": list(manifest.left_out),
    }


def _mib(size: int) -> str:
    return f"{size / _MEBIBYTE:.1f}"
