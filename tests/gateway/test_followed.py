"""What a gateway follows beside its work is followed on after a failure, and the failure is told.

Proves: CM-2, SE-1
"""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest
from support.nats_server import private_nats
from support.waiting import until

from fabric.gateway.app import PATH, Gateway
from fabric.identity.keys import KeyStore, KnownKeys, new_key
from fabric.settings import load_settings
from fabric_sdk import Fabric, cancelling
from fabric_sdk.jetstream import Refused


async def test_a_key_is_refused_once_it_is_revoked_though_following_keys_failed_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One refusal of the broker, of a gateway that came back to it, and revoked keys were good until a restart."""
    monkeypatch.setattr(cancelling, "_ANEW_SECONDS", 0.01)
    follow, runs = KnownKeys.run, 0

    async def refused_once(keys: KnownKeys) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise Refused("JetStream refuses: maximum consumers limit reached (10026)")
        await follow(keys)

    monkeypatch.setattr(KnownKeys, "run", refused_once)
    with private_nats('jetstream { store_dir: "js" }\n') as nats:
        async with Fabric.connect(nats.url) as fabric:
            gateway = Gateway(fabric, load_settings(token="operators"))
            key, token = new_key("somebody")
            transport = httpx.ASGITransport(cast("Any", gateway))
            async with gateway.run(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:

                async def knock() -> int:
                    """405: whoever is let in and does not POST."""
                    return (await http.get(PATH, headers={"authorization": f"Bearer {token}"})).status_code

                await KeyStore(fabric.jetstream).add(key)
                await until(knock, lambda status: status == 405, what="the key")
                await KeyStore(fabric.jetstream).remove(key.id)
                await until(knock, lambda status: status == 401, what="the revoked key")
    assert "following who may come in failed; it begins anew" in caplog.text
