"""Logging of the platform's own processes: one line an event, which says by itself who and what it is about.

Above: worker and gateway processes, `fabric mcp`. Below: `logging`, which everybody speaks, and structlog, which words
it: colours on a terminal, JSON elsewhere and in files. Who asks, the trace, the task and the agent are read from the
context variables that calls have anyway, when a line is written. Libraries speak only when something is wrong.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from io import StringIO, TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final, Protocol, TextIO
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import SecretStr

from fabric.settings import Settings
from fabric.settings.keys import is_secret
from fabric.settings.passing import PROCESS
from fabric.unseen import seen, seen_in_json
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.scope import Trace, current_asker, current_scope

# structlog takes rich where it finds it, to show exceptions in a way that is not wanted here: it would be a sixth of a
# worker's start.
_hidden = {} if "rich" in sys.modules else {"rich": None}
sys.modules.update(_hidden)  # pyright: ignore[reportCallIssue, reportArgumentType]
try:
    import structlog
    from structlog.typing import EventDict, ExcInfo, Processor
finally:
    for _name in _hidden:
        del sys.modules[_name]

_QUIET = ("mcp", "uvicorn", "asyncio", "nats", "httpx", "watchfiles")
_MOST_TOLD: Final = 1000
_HIDDEN: Final = "***"
_SECRET: Final = re.compile(
    r"(?i:(?<=bearer )[^\s\"',\\]+)|(?<=://)[^\s/@\"']*:[^\s/@\"']+(?=@)|\bfab_[0-9a-f]+_[\w-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*"
)
"""What looks like a bearer's token, a password in an address, an API key of ours, or a JSON Web Token."""
_LEAST: Final = 6
"""Characters of a secret that may be looked for: a shorter one is part of too much else."""


class Speaking(Protocol):
    """Whoever a gateway works for now."""

    @property
    def principal(self) -> str | None: ...


speaking: ContextVar[Speaking | None] = ContextVar("speaking", default=None)
"""Set by a gateway as soon as it knows who sent a request."""


class Once:
    """Warns of each thing once; what comes from the bus may have no end, so beyond a thousand it falls silent."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: set[object] = set()

    def warning(self, about: object, message: str, *arguments: object) -> None:
        """Warn, unless it was done for `about` before."""
        if about not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(about)
            self._log.warning(message, *arguments)


def configure(settings: Settings) -> None:
    """Log as the settings want it: to standard error, and to a file where one is named.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    stream = logging.StreamHandler()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    stream.setFormatter(_formatter(_text(colors=sys.stderr.isatty()) if as_text else _JSON, settings))
    handlers: list[logging.Handler] = [stream]
    if settings.log_file is not None:
        handlers.append(_file(settings.log_file, settings))
    logging.basicConfig(handlers=handlers, force=True)
    set_level(settings.log_level)


def set_level(level: str) -> None:
    """Log at another level from now on."""
    logging.getLogger().setLevel(level.upper())
    for library in _QUIET:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))


class _Private(RotatingFileHandler):
    """A file for this user alone, also after it was moved aside."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding=self.encoding)


def _file(path: Path, settings: Settings) -> logging.Handler:
    """A file that is moved aside when it is full; each of several processes has its own, named after it."""
    if process := os.environ.get(PROCESS):
        path = path.with_name(f"{path.stem}.{process}{path.suffix}")
    try:
        size, count = int(settings.log_file_size), settings.log_file_count
        handler = _Private(path, maxBytes=size, backupCount=count, encoding="utf-8")
    except OSError as failure:
        raise ConfigurationError(
            f"the log cannot be written to {path}: {failure.strerror}", fix="give FABRIC_LOG_FILE another path"
        ) from None
    handler.setFormatter(_formatter(_JSON, settings))
    return handler


# from an event to a line


def context(_: Any, __: str, event: EventDict) -> EventDict:
    """Who and what the line is about, as far as that is known here."""
    if process := os.environ.get(PROCESS):
        event["process"] = process
    scope, asker, sender = current_scope.get(), current_asker.get(), speaking.get()
    if isinstance(asker, Context):
        event.update(agent=asker.agent, instance=asker.instance)
        if asker.task is not None:
            event.update(task_id=asker.task.id, attempt=asker.task.attempt)
    about = scope or sender
    if about is not None and about.principal is not None:
        event["principal"] = about.principal
    trace = getattr(about, "trace", None)
    if isinstance(trace, Trace):
        event["trace_id"] = trace.trace_id
    return event


def on_one_line(_: Any, __: str, event: EventDict) -> EventDict:
    """What is said, with nothing in it that would begin a line or speak to a terminal."""
    return {name: seen(value, but="\t") if isinstance(value, str) else value for name, value in event.items()}


def _dumped(event: EventDict, **_: Any) -> str:
    return seen_in_json(orjson.dumps(event, default=str).decode())


_JSON: Final[Sequence[Processor]] = (
    structlog.processors.format_exc_info,
    structlog.processors.EventRenamer("message"),
    structlog.processors.JSONRenderer(serializer=_dumped),
)


def _text(*, colors: bool) -> Sequence[Processor]:
    return (on_one_line, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback))


def _traceback(to: TextIO, failure: ExcInfo) -> None:
    """Write a traceback without the values of variables, set in: no line of what was raised looks like ours."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, failure)
    to.write(seen(plain.getvalue(), but="\n\t").replace("\n", "\n  "))


class _Masking(structlog.stdlib.ProcessorFormatter):
    """Words a line, and hides in it what is secret, however it came there."""

    secrets: Sequence[str] = ()

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record), self.secrets)


def _formatter(render: Sequence[Processor], settings: Settings) -> logging.Formatter:
    formatter = _Masking(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            context,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    formatter.secrets = given(settings)
    return formatter


# what is secret


def masked(text: str, secrets: Sequence[str] = ()) -> str:
    """`text` without these secrets, and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return _SECRET.sub(_HIDDEN, text)


def given(settings: Settings) -> list[str]:
    """Of this process: the tokens and passwords in its settings, wherever they came from, the longest first."""
    found: set[str] = set()
    for name in filter(is_secret, Settings.model_fields):
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
        passwords = [urlsplit(url).password or "" for url in text.split(",")] if name.endswith("_url") else [text]
        found.update(each for password in passwords for each in (password, unquote(password)) if len(each) >= _LEAST)
    return sorted(found, key=len, reverse=True)
