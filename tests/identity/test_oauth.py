"""Challenges and metadata: what a client reads is what was meant, whatever a token had in it. Proves: SE-1"""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.identity.oauth import Refusal, challenge, metadata, metadata_url

PARAMETERS = re.compile(r'(?:([a-z_]+)="([^"\\]*)"(?:, (?=[a-z])|$))')


def read(value: bytes) -> dict[str, str]:
    """A challenge as a client reads it."""
    scheme, _, rest = value.decode("ascii").partition(" ")
    assert scheme == "Bearer"
    found = list(PARAMETERS.finditer(rest))
    assert "".join(each[0] for each in found) == rest
    return {each[1]: each[2] for each in found}


def test_without_a_token_a_client_learns_where_to_get_one() -> None:
    assert challenge() == b"Bearer"
    where = metadata_url("https://fabric.example.com/mcp")
    assert challenge(metadata=where) == (
        b'Bearer resource_metadata="https://fabric.example.com/.well-known/oauth-protected-resource/mcp"'
    )


def test_a_step_up_names_all_scopes_that_are_needed() -> None:
    said = challenge(error="insufficient_scope", description="more is needed", scopes={"mcp:write", "mcp:read"})
    expected = {"error": "insufficient_scope", "error_description": "more is needed", "scope": "mcp:read mcp:write"}
    assert read(said) == expected


@given(
    error=st.sampled_from(get_args(Refusal)) | st.none(),
    description=st.text() | st.none(),
    scopes=st.sets(st.from_regex(r"[\x21\x23-\x5b\x5d-\x7e]{1,20}", fullmatch=True)),
)
def test_a_challenge_is_one_readable_line(error: Refusal | None, description: str | None, scopes: set[str]) -> None:
    said = challenge(error=error, description=description, scopes=scopes)
    assert not set(said) - set(range(0x20, 0x7F))
    found = read(said)
    assert found.get("error") == error
    assert set(found.get("scope", "").split()) == scopes
    assert len(found.get("error_description", "")) == len(description or "")


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("https://a.example/mcp", "https://a.example/.well-known/oauth-protected-resource/mcp"),
        ("https://a.example", "https://a.example/.well-known/oauth-protected-resource"),
        ("https://a.example/", "https://a.example/.well-known/oauth-protected-resource"),
        ("http://127.0.0.1:8420/x/mcp", "http://127.0.0.1:8420/.well-known/oauth-protected-resource/x/mcp"),
    ],
)
def test_metadata_is_where_rfc_9728_says(resource: str, expected: str) -> None:
    assert metadata_url(resource) == expected


def test_metadata_names_the_issuer_where_there_is_one() -> None:
    resource = "https://a.example/mcp"
    assert metadata(resource, None) == {"resource": resource, "bearer_methods_supported": ["header"]}
    said = metadata(resource, "https://login.example", {"b", "a"})
    assert (said["authorization_servers"], said["scopes_supported"]) == (["https://login.example"], ["a", "b"])
