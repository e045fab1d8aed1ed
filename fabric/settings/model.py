"""Every setting of the platform: its name, its default, what it may be, and whether it changes while processes run.

Above: all others here. Below: pydantic-settings. It refuses to know where values come from and what they are used for.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from fabric_sdk.contracts.errors import ConfigurationError

PREFIX = "FABRIC_"
NATS_SYSTEM_URL = f"{PREFIX}NATS_SYSTEM_URL"
"""Of all workers, only the agent that audits replicas is given it."""

BAD_USAGE = 2
"""Exit code of a program that cannot work for a mistake that no restart mends."""

NATS_SCHEMES = ("nats", "tls")
REDIS_SCHEMES = ("redis", "rediss")

LIVE: Final[JsonDict] = {"x-live": True}
"""Marks a setting that changes while processes run: whoever uses it listens to `fabric.live`."""
SECRET: Final[JsonDict] = {"writeOnly": True}
"""Marks a setting that may hold a secret: never shown, and also taken from the file that `<VARIABLE>_FILE` names."""


def _split(value: object) -> object:
    """A list as people write it in an environment variable: separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


PoolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_List = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class PoolSettings(BaseModel):
    """One pool of worker processes that `fabric up` starts, and `fabric worker NAME` by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(min_length=1, description="what it serves: module:object or file.py:object")
    processes: int = Field(1, ge=1, json_schema_extra=LIVE, description="how many worker processes, 1 or more")
    concurrency: int = Field(64, ge=1, description="how many calls, and tasks, each handles at once, 1 or more")
    name: str | None = Field(None, min_length=1, description="the agent's name, in place of the server's own")
    capabilities: tuple[str, ...] = Field((), description="what a server of another library can do, a list of words")
    labels: dict[str, str] = Field({}, description="by what such a server is found, as a table of names and values")


class Settings(BaseSettings):
    """A field's description is what its error message tells people, and what docs/settings.md says."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    # The addresses may hold passwords, so `repr` leaves them out.
    nats_url: str | None = Field(
        None,
        repr=False,
        json_schema_extra=SECRET,
        description="the address of your NATS server, like nats://127.0.0.1:4222",
    )
    nats_system_url: str | None = Field(
        None,
        repr=False,
        json_schema_extra=SECRET,
        description="the address of your NATS servers for a user of their system account, like nats://sys:…@host:4222; "
        "with it, the replicas of all streams are compared in the background",
    )
    redis_url: str | None = Field(
        None,
        repr=False,
        json_schema_extra=SECRET,
        description="the address of your Redis server, like redis://127.0.0.1:6379",
    )
    data: Path | None = Field(None, description="the folder for the data of the private servers")
    host: str = Field("127.0.0.1", min_length=1, description="the address to listen on, like 127.0.0.1")
    port: int = Field(8420, ge=0, le=65_535, description="a port from 1 to 65535, or 0 for any free one")
    token: SecretStr | None = Field(
        None, min_length=1, json_schema_extra=SECRET, description="the token that clients have to send"
    )
    anonymous: bool = Field(False, description="true or false: whether clients without a token are served")
    public_url: str | None = Field(
        None, description="the address by which clients reach the gateway from outside, like https://fabric.example.com"
    )
    jwt_issuer: str | None = Field(
        None,
        description="who issues JSON Web Tokens (`iss`), like https://login.example.com; none are taken without",
    )
    jwt_audience: str | None = Field(
        None, min_length=1, description="whom those tokens are for (`aud`), like https://fabric.example.com/mcp"
    )
    jwt_jwks_url: str | None = Field(
        None,
        description="where the issuer's public keys are, like https://login.example.com/jwks.json or "
        "file:///etc/fabric/jwks.json; http:// from this machine only",
    )
    jwt_roles_claim: str = Field("roles", min_length=1, description="the claim that lists a token's roles")
    policy: Path | None = Field(
        None,
        json_schema_extra=LIVE,
        description="the file that says who may do what, or a folder of such *.yaml; see policy.md",
    )
    root: str | None = Field(None, min_length=1, description="the name of the agent whose tools get no prefix")
    call_timeout: float = Field(
        300.0, gt=0, allow_inf_nan=False, description="how long a call may take, in seconds, more than 0"
    )
    max_body: ByteSize = Field(
        ByteSize(4 * 1024 * 1024), ge=1, description="the size that a request may have, like 4194304 or 4MiB"
    )
    max_header: ByteSize = Field(
        ByteSize(16 * 1024), ge=1, description="the size that a request's headers may have, like 16384 or 16KiB"
    )
    max_concurrent: int = Field(1024, ge=1, description="how many requests are served at once, 1 or more")
    max_connections: int = Field(8192, ge=1, description="how many connections are open at once, 1 or more")
    limits: Path | None = Field(
        None,
        json_schema_extra=LIVE,
        description="the file of what each client, tool and agent may use; without one, none hold",
    )
    audit: Annotated[Literal["off", "security", "calls"], BeforeValidator(_lower)] = Field(
        "security", description="one of off, security, calls: what is noted of who did what; see audit.md"
    )
    client_timeout: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="how long a client may take to send a request, or read nothing of an answer, in seconds, "
        "more than 0; a large request gets a second more for each 16 KiB",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = Field(
        "info",
        json_schema_extra=LIVE,
        description="one of debug, info, warning, error, critical; unless set, `fabric up`, `fabric worker` and "
        "`fabric gateway --replicas` take warning, as they tell in words what happens to their processes",
    )
    trace_sampling: float = Field(
        0.1,
        ge=0,
        le=1,
        allow_inf_nan=False,
        json_schema_extra=LIVE,
        description="the share of requests that are traced where their clients do not say, from 0 to 1",
    )
    log_format: Annotated[Literal["auto", "text", "json"], BeforeValidator(_lower)] = Field(
        "auto", description="one of auto, text, json: auto is text on a terminal and JSON elsewhere"
    )
    log_file: Path | None = Field(
        None, description="a file that log lines go to as well, as JSON; each process adds its name to it"
    )
    log_file_size: ByteSize = Field(
        ByteSize(10 * 1024 * 1024), ge=1024, description="the size at which that file is moved aside, like 10MiB"
    )
    log_file_count: int = Field(5, ge=1, description="how many files that were moved aside are kept, 1 or more")
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="the address on which /metrics listens for Prometheus, like 127.0.0.1"
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="the port of /metrics, from 1 to 65535, or 0 for any free one; without one, `fabric up` takes any, "
        "and gateways and pools by themselves serve none",
    )
    allowed_hosts: _List = Field((), description="host names, separated by commas, that clients may ask for")
    allowed_origins: _List = Field(
        (), description="origins of web pages, separated by commas, like https://example.com"
    )

    pools: dict[PoolName, PoolSettings] = Field(
        {},
        description="the pools that `fabric up` starts, as [pools.NAME] tables of the file; as JSON in the environment",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is handed: `loading` puts the places together, and knows which value came from which."""
        return (init_settings,)

    @field_validator("nats_url", "nats_system_url")
    @classmethod
    def _is_nats(cls, value: str | None) -> str | None:
        # Several servers of one cluster are separated by commas.
        for url in (value or "").split(",") if value else ():
            _check_scheme(url.strip(), NATS_SCHEMES)
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value is not None:
            _check_scheme(value, REDIS_SCHEMES)
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            scheme, separator, host = origin.partition("://")
            if not (scheme and separator and host) or "/" in host:
                raise ValueError(f"{origin} is not an origin: scheme://host or scheme://host:port, and no path")
        return value

    @field_validator("public_url", "jwt_issuer")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is not None:
            _check_scheme(value, ("https", "http"))
            # A # stands between an issuer and its subjects; paths are put in front of and behind a public address.
            if "?" in value or "#" in value or not value.isascii() or not value.isprintable() or " " in value:
                raise ValueError("it has to be a plain address, without ?, # and spaces")
            if not urlsplit(value).hostname:
                raise ValueError("it names no host")
        return value

    @field_validator("jwt_jwks_url")
    @classmethod
    def _is_key_set(cls, value: str | None) -> str | None:
        if value is not None:
            _check_scheme(value, ("https", "http", "file"))
            parts = urlsplit(value)
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                raise ValueError("over plain http anybody on the way could put in keys of their own")
            if bool(parts.hostname) == (parts.scheme == "file"):
                raise ValueError("it has to name a host, or after file:// a path that starts with another /")
        return value

    @model_validator(mode="after")
    def _tokens_are_checked_whole(self) -> Self:
        given = {"issuer": self.jwt_issuer, "audience": self.jwt_audience, "jwks_url": self.jwt_jwks_url}
        missing = [f"{PREFIX}JWT_{name.upper()}" for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise ValueError(
                f"{missing[0]}: it is missing beside the other {PREFIX}JWT_ settings; a token is taken if it is of one "
                f"issuer, for one audience and signed with a known key, so set {' and '.join(missing)}, or none of them"
            )
        return self

    @model_validator(mode="after")
    def _anonymous_stays_here(self) -> Self:
        if self.anonymous and not is_loopback(self.host):
            raise ValueError(
                f"{PREFIX}ANONYMOUS: without tokens the fabric may listen on this machine only, not on {self.host}; "
                f"set {PREFIX}HOST to 127.0.0.1, or {PREFIX}ANONYMOUS to false and {PREFIX}TOKEN to a secret"
            )
        return self

    def check_gateway(self) -> None:
        """See that a gateway by itself has all it needs.

        Raises:
            ConfigurationError: NATS or a token is missing.
        """
        if self.nats_url is None:
            raise ConfigurationError("the gateway needs NATS", fix="set FABRIC_NATS_URL, or start it with `fabric up`")
        if self.token is None and not self.anonymous:
            raise ConfigurationError(
                "the gateway needs a token", fix="set FABRIC_TOKEN, or FABRIC_ANONYMOUS=true on loopback"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_scheme(url: str, schemes: tuple[str, ...]) -> None:
    if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(f"it has to start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
