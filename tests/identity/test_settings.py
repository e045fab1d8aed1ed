"""What is set of an issuer is whole and safe, or refused in one line that says the fix. Proves: SE-1, OP-1"""

from __future__ import annotations

import pytest

from fabric.settings import PREFIX, SettingsError, load_settings

GOOD = {
    "jwt_issuer": "https://login.example.com/realms/a",
    "jwt_audience": "https://fabric.example.com/mcp",
    "jwt_jwks_url": "https://login.example.com/jwks.json",
}


def refused(**given: str) -> str:
    """The one line of the error for these settings."""
    with pytest.raises(SettingsError) as raised:
        load_settings(**given)
    (line,) = raised.value.lines
    return line


def test_an_issuer_is_set_whole() -> None:
    settings = load_settings(**GOOD, public_url="https://fabric.example.com")
    assert (settings.jwt_issuer, settings.jwt_roles_claim) == (GOOD["jwt_issuer"], "roles")


@pytest.mark.parametrize("missing", GOOD)
@pytest.mark.parametrize("also", [None, *GOOD])
def test_an_issuer_in_part_is_refused(missing: str, also: str | None) -> None:
    given = {name: value for name, value in GOOD.items() if name not in (missing, also)}
    line = refused(**given)
    assert line.startswith(PREFIX)
    assert f"{PREFIX}{missing.upper()}" in line.partition("so set")[2]
    assert "or none of them" in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("jwt_issuer", "login.example.com", "https:// or http://"),
        ("jwt_issuer", "https://login.example.com/#a", "without ?, # and spaces"),
        ("jwt_issuer", "https://login.example.com/?a", "without ?, # and spaces"),
        ("jwt_issuer", "https://", "names no host"),
        ("jwt_issuer", "https://ex ample", "without ?, # and spaces"),
        ("jwt_issuer", "https://example.com/\x7f", "without ?, # and spaces"),
        ("jwt_issuer", "https://[::", "FABRIC_JWT_ISSUER"),
        ("jwt_jwks_url", "http://login.example.com/jwks.json", "keys of their own"),
        ("jwt_jwks_url", "ftp://login.example.com/jwks.json", "https:// or http:// or file://"),
        ("jwt_jwks_url", "https:///jwks.json", "name a host"),
        ("jwt_jwks_url", "file://etc/jwks.json", "starts with another /"),
        ("public_url", "fabric.example.com", "https:// or http://"),
    ],
)
def test_a_wrong_address_is_told_with_what_is_right(name: str, value: str, words: str) -> None:
    line = refused(**{**GOOD, name: value})
    assert line.startswith(f"{PREFIX}{name.upper()}: ")
    assert words in line


@pytest.mark.parametrize("url", ["http://localhost:8080/jwks", "http://[::1]/jwks", "file:///etc/fabric/jwks.json"])
def test_keys_may_come_from_this_machine(url: str) -> None:
    assert load_settings(**{**GOOD, "jwt_jwks_url": url}).jwt_jwks_url == url
