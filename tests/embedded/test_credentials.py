"""Passwords of the private servers. Proves: SE-7 (secrets only in private files, never shown)."""

from __future__ import annotations

import pytest

from fabric.embedded import DataFolder, DataFolderError
from fabric.embedded.credentials import load_credentials

pytestmark = pytest.mark.anyio


async def test_passwords_are_made_once_and_stay(folder: DataFolder) -> None:
    first = load_credentials(folder)
    assert load_credentials(folder) == first
    secrets = (first.nats, first.nats_system, first.valkey)
    assert len(set(secrets)) == 3
    assert all(len(secret) >= 32 for secret in secrets)
    assert not any(secret in repr(first) for secret in secrets)


async def test_their_file_is_private_even_if_it_was_not(folder: DataFolder) -> None:
    load_credentials(folder)
    file = folder.path / "credentials.json"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    load_credentials(folder)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", '{"nats": "only"}'])
async def test_a_damaged_file_is_named_with_the_way_out(folder: DataFolder, damaged: str) -> None:
    folder.write("credentials.json", damaged)
    with pytest.raises(DataFolderError, match=r"credentials.json is damaged \(remove it"):
        load_credentials(folder)
