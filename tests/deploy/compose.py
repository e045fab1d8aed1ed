"""What a compose file says of its services, and what that is on this machine, without a container engine.

Above: `stack`, which starts it. Below: YAML. Each service has a loopback address of its own, where its container would
have one, and a folder of its own in place of its root: names of services become addresses, and absolute paths that are
mounted become paths into that folder, in commands, in the environment and in mounted configuration.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

_INTERPOLATED: Final = re.compile(r"\$(\$|\{(\w+)(?::?-([^}]*))?\})")
_ANY: Final = re.compile(r"\b0\.0\.0\.0\b|(?<![\w.-])(?:localhost|127\.0\.0\.1)(?=:\d|\s+ping\b)")
"""What a container says for itself: it is alone with its loopback, and one of many here."""
_TEMPORARY: Final = "/tmp"
_WRITTEN: Final = "deploy"
"""Mounted files of this folder are configuration, in which names are to be replaced; all else is mounted as it is."""


@dataclass(frozen=True)
class Mount:
    """One path of a container."""

    target: str
    source: Path
    writable: bool = False


@dataclass(frozen=True)
class Service:
    """One service, as its file has it."""

    name: str
    image: str
    address: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    health: tuple[str, ...]
    after: frozenset[str]
    """Services that have to be healthy before this one is started."""


def services(file: Path, volumes: Path, secrets: Path, env: Mapping[str, str]) -> dict[str, Service]:
    """All services of a compose file; named volumes and secrets are found in those folders."""
    document: dict[str, Any] = yaml.safe_load(_interpolate(file.read_text(), env))
    given = {name: secrets / Path(about["file"]).name for name, about in document["secrets"].items()}

    def one(number: int, name: str, about: Mapping[str, Any]) -> Service:
        test = about.get("healthcheck", {}).get("test", [])
        return Service(
            name=name,
            image=about["image"],
            address=f"127.0.77.{number + 10}",
            command=tuple(about.get("command", ())),
            environment={key: str(value) for key, value in about.get("environment", {}).items()},
            mounts=tuple(_mounts(about, file.parent, volumes, given)),
            health=tuple(test[1:] if test[:1] == ["CMD"] else ["sh", "-c", *test[1:]]) if test else (),
            after=frozenset(about.get("depends_on", {})),
        )

    return {name: one(number, name, about) for number, (name, about) in enumerate(document["services"].items())}


def _interpolate(text: str, env: Mapping[str, str]) -> str:
    """Variables as compose fills them in."""
    return _INTERPOLATED.sub(lambda found: found[0] if found[1] == "$" else env.get(found[2]) or found[3] or "", text)


def _mounts(about: Mapping[str, Any], base: Path, volumes: Path, secrets: Mapping[str, Path]) -> Iterator[Mount]:
    for each in about.get("volumes", ()):
        source, target, *mode = each.split(":")
        if source.startswith("."):
            yield Mount(target, (base / source).resolve(), writable="ro" not in mode)
        elif source.startswith("/"):
            yield Mount(target, Path(source), writable="ro" not in mode)
        else:
            yield Mount(target, volumes / source, writable=True)
    if "tmpfs" in about:
        yield Mount(_TEMPORARY, volumes, writable=True)
    for name in about.get("secrets", ()):
        yield Mount(f"/run/secrets/{name}", secrets[name])


class Place:
    """Where one service runs: its folder in place of a root, and what its words become there."""

    def __init__(self, service: Service, root: Path, addresses: Mapping[str, str], repository: Path) -> None:
        self.service, self.root, self._addresses = service, root, addresses
        self._repository = repository
        targets = sorted((mount.target for mount in service.mounts), key=len, reverse=True)
        self._paths = re.compile(rf"(?<![\w./])(?:{'|'.join(map(re.escape, targets))})(?![\w-])") if targets else None
        names = sorted(addresses, key=len, reverse=True)
        self._names = re.compile(rf"(?<![\w.-])(?<!\w/)({'|'.join(names)})(?=:\d| \d)")

    def lay(self) -> None:
        """Make its folder, with all that is mounted in it."""
        for mount in self.service.mounts:
            at = self.root / mount.target.lstrip("/")
            at.parent.mkdir(parents=True, exist_ok=True)
            if mount.target == _TEMPORARY:
                at.mkdir()
            elif mount.writable:
                mount.source.mkdir(parents=True, exist_ok=True)
                at.symlink_to(mount.source)
            elif mount.target.startswith("/run/secrets/") or self._is_configuration(mount.source):
                self._copy(mount.source, at)
            else:
                at.symlink_to(mount.source)

    def _is_configuration(self, source: Path) -> bool:
        return source.is_relative_to(self._repository / _WRITTEN)

    def _copy(self, source: Path, at: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, at, copy_function=lambda one, other: self._copy(Path(one), Path(other)))
        else:
            at.write_text(self.here(source.read_text()))

    def here(self, text: str) -> str:
        """What a container's text says on this machine."""
        text = self._names.sub(lambda found: self._addresses[found[1]], text)
        text = _ANY.sub(self.service.address, text)
        return self._paths.sub(lambda found: f"{self.root}{found[0]}", text) if self._paths else text

    def shell(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """A command as compose runs it: `$$` is a dollar sign."""
        return tuple(self.here(part.replace("$$", "$")) for part in command)

    def environment(self, path: str) -> dict[str, str]:
        """Its environment: nothing of this machine's but what programs need to be found."""
        own = {name: self.here(value) for name, value in self.service.environment.items()}
        return {"PATH": path, "HOME": str(self.root), "TMPDIR": str(self.root / "tmp"), "LANG": "C.UTF-8"} | own
