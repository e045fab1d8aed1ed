"""What `make inspector` calls where nobody says, and how it explains what went wrong. Proves: no row."""

from __future__ import annotations

from typing import Any

import pytest

from clients import run_inspector
from clients.run_inspector import Failed, explained, wanted


def tool(name: str, *required: str, reads: bool = True) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"required": list(required)}, "annotations": {"readOnlyHint": reads}}


Case = tuple[list[dict[str, Any]], str | None, str | None, tuple[str, dict[str, Any]] | None]
TOOLS = [tool("shop_buy", reads=False), tool("shop_find", "what"), tool("shop_list")]


CASES: list[Case] = [
    ([*TOOLS, tool("hello_echo", "text")], None, None, ("hello_echo", {"text": "hello"})),
    (TOOLS, None, None, ("shop_list", {})),
    (TOOLS, "shop_find", '{"what": "tea"}', ("shop_find", {"what": "tea"})),
    (TOOLS, "shop_buy", None, ("shop_buy", {})),
    (TOOLS[:2], None, None, None),
    ([], None, None, None),
]


@pytest.mark.parametrize(("tools", "name", "arguments", "call"), CASES)
def test_without_a_name_it_calls_what_does_no_harm(
    tools: list[dict[str, Any]], name: str | None, arguments: str | None, call: tuple[str, dict[str, Any]] | None
) -> None:
    assert wanted(tools, name, arguments) == call


def test_a_name_that_is_none_is_answered_with_those_there_are() -> None:
    with pytest.raises(Failed, match="no tool no; there are: shop_buy, shop_find, shop_list"):
        wanted(TOOLS, "no", None)


def test_a_wrong_token_is_explained() -> None:
    assert "refuses this token" in explained(1, "Error: HTTP 401 Unauthorized")
    assert explained(7, "odd").endswith("odd")


def test_each_era_is_tried_though_the_first_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def inspect(url: str, token: str | None, era: str, *arguments: str, **_: Any) -> dict[str, Any]:
        if era == "legacy":
            raise Failed("odd")
        return {"tools": TOOLS} if "tools/list" in arguments else {"content": []}

    monkeypatch.setattr(run_inspector, "inspect", inspect)
    assert run_inspector.main("http://x", "t") == 1
    said = capsys.readouterr()
    assert "legacy: odd" in said.err
    assert 'modern: shop_list answers {"content": []}' in said.out
