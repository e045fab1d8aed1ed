"""Settings from the environment. Proves: OP-1 (validated; a mistake is told with its variable in one line), SE-7."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabric.settings import PoolSettings, Settings, SettingsError, is_loopback, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FABRIC_"):
            monkeypatch.delenv(name)


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[str, ...]:
    """The lines of the error for these environment variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    return raised.value.lines


def test_without_anything_given_the_defaults_stand() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8420)
    assert (settings.nats_url, settings.redis_url, settings.data, settings.token, settings.root) == (None,) * 5
    assert settings.anonymous is False
    assert settings.call_timeout == 300.0
    assert (settings.max_body, settings.max_header, settings.max_concurrent) == (4 * 1024**2, 16 * 1024, 1024)
    assert (settings.allowed_hosts, settings.allowed_origins) == ((), ())


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "NATS_URL": "nats://a:4222, tls://b:4222",
        "NATS_SYSTEM_URL": "nats://sys:sys@a:4222",
        "REDIS_URL": "rediss://cache:6379/1",
        "DATA": "/srv/fabric",
        "LIMITS": "/etc/fabric/limits.yaml",
        "AUDIT": "calls",
        "POLICY": "/etc/fabric/policy.yaml",
        "HOST": "0.0.0.0",
        "PORT": "0",
        "TOKEN": "s3cret",
        "ANONYMOUS": "false",
        "PUBLIC_URL": "https://fabric.example",
        "JWT_ISSUER": "https://login.example",
        "JWT_AUDIENCE": "https://fabric.example/mcp",
        "JWT_JWKS_URL": "https://login.example/jwks.json",
        "JWT_ROLES_CLAIM": "groups",
        "ROOT": "main",
        "CALL_TIMEOUT": "1.5",
        "MAX_BODY": "1MiB",
        "MAX_HEADER": "8192",
        "MAX_CONCURRENT": "7",
        "MAX_CONNECTIONS": "70",
        "CLIENT_TIMEOUT": "2.5",
        "LOG_LEVEL": "DEBUG",
        "TRACE_SAMPLING": "0.5",
        "LOG_FORMAT": "JSON",
        "LOG_FILE": "/var/log/fabric.log",
        "LOG_FILE_SIZE": "1MiB",
        "LOG_FILE_COUNT": "3",
        "METRICS_HOST": "0.0.0.0",
        "METRICS_PORT": "9420",
        "ALLOWED_HOSTS": "a.example, b.example:8420,",
        "POOLS": '{"shop": {"target": "shop:agent"}}',
        "ALLOWED_ORIGINS": "https://a.example,http://localhost:3000",
    }
    assert {name.lower() for name in given} == set(Settings.model_fields)
    for name, value in given.items():
        monkeypatch.setenv(f"FABRIC_{name}", value)
    settings = load_settings()
    assert settings.data == Path("/srv/fabric")
    assert settings.token
    assert settings.token.get_secret_value() == "s3cret"
    assert (settings.max_body, settings.max_header, settings.call_timeout) == (1024**2, 8192, 1.5)
    assert (settings.jwt_issuer, settings.jwt_roles_claim) == ("https://login.example", "groups")
    assert settings.log_level == "debug"
    assert settings.pools == {"shop": PoolSettings.model_validate({"target": "shop:agent"})}
    assert settings.allowed_hosts == ("a.example", "b.example:8420")
    assert settings.allowed_origins == ("https://a.example", "http://localhost:3000")


def test_what_is_given_directly_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABRIC_PORT", "1")
    monkeypatch.setenv("FABRIC_HOST", "::1")
    settings = load_settings(port=2, host=None)
    assert (settings.host, settings.port) == ("::1", 2)


def test_an_empty_variable_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"FABRIC_{name.upper()}", "")
    assert load_settings() == Settings.model_construct()


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("FABRIC_NATS_URL", "http://localhost", "nats:// or tls://"),
        ("FABRIC_NATS_URL", "nats://a,b", "nats:// or tls://"),
        ("FABRIC_REDIS_URL", "localhost:6379", "redis:// or rediss://"),
        ("FABRIC_PORT", "web", "a port from 1 to 65535"),
        ("FABRIC_PORT", "65536", "a port from 1 to 65535"),
        ("FABRIC_ANONYMOUS", "perhaps", "true or false"),
        ("FABRIC_CALL_TIMEOUT", "0", "in seconds, more than 0"),
        ("FABRIC_CALL_TIMEOUT", "inf", "in seconds, more than 0"),
        ("FABRIC_CALL_TIMEOUT", "5 minutes", "in seconds, more than 0"),
        ("FABRIC_MAX_BODY", "lots", "like 4194304 or 4MiB"),
        ("FABRIC_MAX_BODY", "0", "like 4194304 or 4MiB"),
        ("FABRIC_MAX_HEADER", "-1", "like 16384 or 16KiB"),
        ("FABRIC_MAX_CONCURRENT", "0", "1 or more"),
        ("FABRIC_MAX_CONNECTIONS", "0", "1 or more"),
        ("FABRIC_CLIENT_TIMEOUT", "0", "more than 0"),
        ("FABRIC_LOG_LEVEL", "loud", "debug, info, warning, error, critical"),
        ("FABRIC_ALLOWED_ORIGINS", "example.com", "like https://example.com"),
        ("FABRIC_ALLOWED_ORIGINS", "https://example.com/page", "like https://example.com"),
    ],
)
def test_a_wrong_value_is_told_in_one_line_with_its_variable_and_what_is_right(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, right: str
) -> None:
    (line,) = refused(monkeypatch, **{variable: value})
    assert line.startswith(f"{variable}: ")
    assert right in line
    assert "\n" not in line


def test_all_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refused(monkeypatch, FABRIC_PORT="web", FABRIC_MAX_BODY="lots", FABRIC_LOG_LEVEL="loud")
    assert [line.split(":")[0] for line in lines] == ["FABRIC_PORT", "FABRIC_MAX_BODY", "FABRIC_LOG_LEVEL"]


def test_a_password_in_a_wrong_value_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FABRIC_NATS_URL", "FABRIC_REDIS_URL"):
        assert "s3cret" not in "".join(refused(monkeypatch, **{name: "http://user:s3cret@host"}))


def test_secrets_are_not_shown_by_the_settings_either() -> None:
    settings = load_settings(token="s3cret", nats_url="nats://u:s3cret@h", redis_url="redis://:s3cret@h")
    assert "s3cret" not in repr(settings) + str(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_anonymous_is_allowed_on_this_machine(host: str) -> None:
    assert is_loopback(host)
    assert load_settings(host=host, anonymous=True).anonymous


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "localhost.example.com", "127.1"])
def test_anonymous_is_refused_wherever_others_could_reach_it(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    (line,) = refused(monkeypatch, FABRIC_ANONYMOUS="true", FABRIC_HOST=host)
    assert line.startswith("FABRIC_ANONYMOUS: ")
    assert host in line
    assert "set FABRIC_HOST to 127.0.0.1, or FABRIC_ANONYMOUS to false and FABRIC_TOKEN to a secret" in line


def test_a_setting_that_there_is_not_is_told() -> None:
    with pytest.raises(SettingsError, match=r"FABRIC_PROT: there is no such setting; did you mean root or port"):
        load_settings(prot=1)
