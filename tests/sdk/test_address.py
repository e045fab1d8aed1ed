"""Addresses are shown without what is secret in them. Proves: SE-7."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_sdk.contracts.address import shown

hosts = st.from_regex(r"[a-z]{1,8}(\.[a-z]{2,4})?(:[0-9]{2,5})?", fullmatch=True)
schemes = st.sampled_from(["nats", "tls", "redis", "rediss", "ws"])
secrets = st.text(min_size=1, max_size=12).filter(lambda text: "://" not in text)
"""Also such as should have been quoted, and were not."""


@st.composite
def servers(draw: st.DrawFn) -> tuple[str, str]:
    """A server's address, and what may be shown of it."""
    scheme, host, user = draw(schemes), draw(hosts), draw(secrets)
    password = draw(secrets | secrets.map(quote))
    return f"{scheme}://{user}:{password}@{host}", f"{scheme}://{host}"


@given(st.lists(servers(), min_size=1, max_size=4), st.sampled_from([",", ", "]))
def test_of_every_server_user_and_password_are_left_out(given: list[tuple[str, str]], comma: str) -> None:
    assert shown(comma.join(address for address, _ in given)) == ", ".join(open_ for _, open_ in given)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://token@127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("user:password@127.0.0.1", "127.0.0.1"),
        ("nats://u:p@a:1,u:p@b:2", "nats://b:2"),  # too little rather than too much
        ("redis://:p@ss@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://127.0.0.1/0?password=secret", "redis://127.0.0.1/0"),
        ("", ""),
        (",", ","),
    ],
)
def test_whatever_is_written_for_an_address(address: str, expected: str) -> None:
    assert shown(address) == expected
