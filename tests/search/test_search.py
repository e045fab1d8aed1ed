"""The search for tools: the right one first, whatever the question is made of, also among ten thousand.

Proves: GW-8 (search over large sets of tools).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.search.index import ToolIndex
from fabric.search.tool import MOST_FOUND, SEARCH_TOOL, answer
from fabric.search.words import MOST_CHARACTERS, MOST_WORDS, asked_for, words_of
from fabric_sdk.contracts.errors import InvalidParams

Json = dict[str, Any]


def tool(name: str, description: str = "", **parameters: str) -> Json:
    properties = {each: {"type": "string", "description": said} for each, said in parameters.items()}
    return {"name": name, "description": description, "inputSchema": {"type": "object", "properties": properties}}


TOOLS = [
    tool("shop_createInvoice", "Writes a bill for a customer.", customer="Whose bill it is."),
    tool("shop_refund-payment", "Gives money back.", payment="Which one.", amount="In cents."),
    tool("mail.send", "Sends a message to a customer, with an invoice if there is one.", to="An address."),
    tool("HTTPServer_restart", "Stops it and starts it again."),
    tool("weather", "How warm it will be in a città or 北京.", town="Where."),
    {"name": "untitled", "title": "Translate a document", "inputSchema": {"type": "object"}},
]


@pytest.fixture(scope="module")
def index() -> ToolIndex:
    return ToolIndex(TOOLS)


def names(index: ToolIndex, question: str, limit: int = MOST_FOUND) -> list[str]:
    return [found["name"] for found in index.search(question, limit)]


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("create an invoice", "shop_createInvoice"),
        ("createInvoice", "shop_createInvoice"),
        ("CREATING INVOICES", "shop_createInvoice"),
        ("refund", "shop_refund-payment"),
        ("refund_payment", "shop_refund-payment"),
        ("cents", "shop_refund-payment"),
        ("amount", "shop_refund-payment"),
        ("send", "mail.send"),
        ("http server", "HTTPServer_restart"),
        ("citta", "weather"),
        ("北京", "weather"),
        ("translating", "untitled"),
    ],
)
def test_the_best_comes_first(index: ToolIndex, question: str, first: str) -> None:
    assert names(index, question)[0] == first


def test_a_name_says_more_than_a_description_and_that_more_than_a_parameter() -> None:
    index = ToolIndex([tool("a", "x", y="invoice"), tool("b", "invoice x"), tool("invoice", "x")])
    assert names(index, "invoice") == ["invoice", "b", "a"]


def test_only_what_is_allowed_is_found_and_only_so_many(index: ToolIndex) -> None:
    assert len(index.search("customer invoice", 1)) == 1
    assert [each["name"] for each in index.search("invoice", 1, lambda name: name.startswith("mail"))] == ["mail.send"]
    assert index.search("invoice", 5, lambda _: False) == []


def test_words_inside_a_schema_are_found_however_it_is_nested() -> None:
    inner: Json = {"properties": {"postCode": {"title": "Zip", "description": "Where it goes."}}}
    schema: Json = {"properties": {"to": {"anyOf": [{"items": inner}]}}, "$defs": {"X": {"properties": {"deep": {}}}}}
    assert words_of({"name": "t", "inputSchema": schema}).parameters.lower().split() == (
        ["to", "postcode", "post", "code", "zip", "where", "it", "goes", "deep"]
    )
    endless: Json = {}
    endless |= {"properties": {"again": endless}}
    assert words_of({"name": "t", "inputSchema": endless}).parameters
    nested: Json = {"items": []}
    for _ in range(5000):
        nested = {"items": [nested]}
    assert words_of({"name": "t", "inputSchema": nested}).parameters == ""


@pytest.mark.parametrize("schema", [None, 5, "x", [], [5], {"properties": []}, {"properties": {"a": 5}}, {"$defs": 1}])
def test_a_schema_that_is_none_is_passed_over(schema: Any) -> None:
    index = ToolIndex([{"name": "odd", "title": 5, "description": None, "annotations": 1, "inputSchema": schema}])
    assert names(index, "odd") == ["odd"]


HOSTILE = [
    "", " ", "\x00", "\ud800", '"', '""', "'", "*", "a*", "^a", "NOT", "invoice AND", "(", "invoice OR", "NEAR(a b)",
    "name:invoice", "-invoice", "{a b}:c", "'; DROP TABLE tools; --", "+", "…", "🙂", "_", "a" * MOST_CHARACTERS,
    "NEAR " * 200, "x\r\n",
]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(HOSTILE) | st.text() | st.text(st.sampled_from('abc"*^:(){}- NOTRAD'), max_size=30))
def test_no_question_is_syntax(question: str) -> None:
    found = names(ToolIndex(TOOLS), question)
    assert len(found) == len(set(found))
    assert len(asked_for(question)) <= MOST_WORDS
    if any(word in ("invoice", "invoices") for word in question.lower().split()):
        assert "shop_createInvoice" in found


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 20), st.sampled_from(["red", "green", "blue"]), max_size=15),
    st.dictionaries(st.integers(0, 20), st.sampled_from(["red", "green", "blue"]), max_size=15),
)
def test_an_index_from_the_one_before_finds_what_a_new_one_finds(first: dict[int, str], second: dict[int, str]) -> None:
    before, after = ([tool(f"t{n}", f"{color} thing") for n, color in each.items()] for each in (first, second))
    old = ToolIndex(before)
    copied, new = ToolIndex(after, before=old), ToolIndex(after)
    for question in ("red", "green blue", "t3", "thing"):
        assert sorted(names(copied, question)) == sorted(names(new, question))
        assert set(names(old, question)) == set(names(ToolIndex(before), question)), "the old one is as it was"
    assert len(copied) == len(after)


async def test_ten_thousand_tools_are_indexed_beside_the_loop_and_searched_at_once() -> None:
    tools = [tool(f"agent{n % 100}_do{n}", f"Handles thing number {n} of the kind {n % 37}.") for n in range(10_000)]
    start = time.process_time()
    index = await asyncio.to_thread(ToolIndex, tools)
    built = time.process_time() - start
    changed = [*tools[:-1], tool("new_one", "An unheard-of marvel.")]
    start = time.process_time()
    again = await asyncio.to_thread(ToolIndex, changed, before=index)
    assert time.process_time() - start < built / 2
    assert names(again, "marvel") == ["new_one"]
    assert names(index, "marvel") == []
    assert names(again, "do4321")[0] == "agent21_do4321"
    start = time.process_time()
    assert len(again.search("handles the thing of a kind", 10)) == 10
    assert time.process_time() - start < 0.5


def test_an_answer_holds_all_that_a_model_needs_to_call(index: ToolIndex) -> None:
    result = answer(index, {"query": "refund", "limit": 1}, lambda _: True)
    assert result["structuredContent"] == {"tools": [TOOLS[1]]}
    assert orjson.loads(result["content"][0]["text"]) == result["structuredContent"]
    assert result["isError"] is False
    jsonschema_rs.validator_for(SEARCH_TOOL["outputSchema"]).validate(result["structuredContent"])
    assert answer(index, {"query": "zebra"}, lambda _: True)["structuredContent"] == {"tools": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "query must be a string"),
        ({"query": None}, "query must be a string"),
        ({"query": ["a"]}, "query must be a string"),
        ({"query": "a" * (MOST_CHARACTERS + 1)}, "at most 1000 characters"),
        ({"query": "a", "limit": 0}, "limit must be a whole number from 1 to 50"),
        ({"query": "a", "limit": 51}, "limit must be"),
        ({"query": "a", "limit": True}, "limit must be"),
        ({"query": "a", "limit": 1.5}, "limit must be"),
        ({"query": "a", "limit": None}, "limit must be"),
        ({"query": "a", "more": 1, "and": 2}, "takes query and limit, not and, more"),
    ],
)
def test_arguments_that_do_not_fit_are_told_and_the_schema_says_the_same(
    index: ToolIndex, arguments: Json, said: str
) -> None:
    with pytest.raises(InvalidParams, match=said):
        answer(index, arguments, lambda _: True)
    assert not jsonschema_rs.validator_for(SEARCH_TOOL["inputSchema"]).is_valid(arguments)


def test_a_question_at_every_edge_of_the_schema_is_answered(index: ToolIndex) -> None:
    for arguments in ({"query": ""}, {"query": "a" * MOST_CHARACTERS, "limit": 50}, {"query": "a", "limit": 1}):
        assert jsonschema_rs.validator_for(SEARCH_TOOL["inputSchema"]).is_valid(arguments)
        answer(index, arguments, lambda _: True)
