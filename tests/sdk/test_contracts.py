"""What travels: bodies made once, errors that survive the wire, subjects built in one place. Proves: RT-1, PT-1."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_sdk.contracts import envelope, errors, subjects
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.contracts.errors import FabricError, from_wire, to_wire
from fabric_sdk.contracts.scope import Scope, Trace
from fabric_sdk.patterns.call import Call

text = st.text(st.characters(codec="utf-8"))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def kinds_of(kind: type[FabricError]) -> list[type[FabricError]]:
    """A class of errors and all below it."""
    return [kind, *(below for each in kind.__subclasses__() for below in kinds_of(each))]


KINDS = [kind for kind in kinds_of(FabricError) if kind.__module__ == errors.__name__]


# Bodies


@given(json_values)
def test_a_body_comes_back_from_its_bytes(value: Any) -> None:
    assert Body(encoded=Body(value).encoded()).value() == value


def test_a_body_is_encoded_at_most_once_and_decoded_at_most_once() -> None:
    with (
        patch.object(envelope.orjson, "dumps", wraps=orjson.dumps) as dumps,
        patch.object(envelope.orjson, "loads", wraps=orjson.loads) as loads,
    ):
        made = Body({"a": 1})
        assert made.encoded() is made.encoded()
        assert made.value() is made.value()
        assert (dumps.call_count, loads.call_count) == (1, 0)
        received = Body(encoded=b'{"a":1}')
        assert received.encoded() == b'{"a":1}'
        assert loads.call_count == 0, "who merely passes it on never opens it"
        assert received.value() is received.value()
        assert (dumps.call_count, loads.call_count) == (1, 1)


def test_the_bytes_of_a_body_stay_as_they_came() -> None:
    odd = b' {"a" : 1.0, "a": 2} '
    body = Body(encoded=odd)
    assert body.value() == {"a": 2}
    assert body.encoded() is odd


def test_bodies_of_nothing() -> None:
    assert (EMPTY.value(), EMPTY.encoded()) == (None, b"")
    assert (Body(None).value(), Body(None).encoded()) == (None, b"null")
    assert Body(encoded=b"").value() is None


@pytest.mark.parametrize("broken", [b"{", b"nope", b"\xff", b"[1,]", b"NaN"])
def test_bytes_that_are_no_json_are_a_value_error(broken: bytes) -> None:
    body = Body(encoded=broken)
    for _ in range(2):
        with pytest.raises(ValueError, match=r".+"):
            body.value()
        with pytest.raises(ValueError, match=r".+"):
            body.members()
    assert body.encoded() == broken


@pytest.mark.parametrize("value", [None, [], "a", 1, True])
def test_only_an_object_has_members(value: Any) -> None:
    with pytest.raises(ValueError, match="not a JSON object but"):
        Body(value).members()
    assert Body({"a": 1}).members() == {"a": 1}


def test_a_value_without_a_json_form_is_a_type_error() -> None:
    for value in (object(), {"a": {1, 2}}, "\ud800"):
        with pytest.raises(TypeError):
            Body(value).encoded()


def test_bodies_and_messages_show_themselves_without_being_opened() -> None:
    body = Body(encoded=b'{"a":1}')
    assert repr(body) == "Body(b'{\"a\":1}')"
    assert repr(Body([1])) == "Body([1])"
    assert "a.b" in repr(Message("a.b", body, reply="r", headers={"x": "y"}))
    assert "{" in repr(body)


# Errors


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_says_something_without_being_told(kind: type[FabricError]) -> None:
    error = kind()
    assert str(error).endswith(".")
    assert str(kind("words", fix="do this")) == "words (do this)"
    assert error.data is None
    assert inspect.getdoc(kind)
    assert not (kind.retryable and kind.code == FabricError.code), "what may be repeated has a code of its own"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_code_comes_back_as_the_error_that_it_is_the_code_of(kind: type[FabricError]) -> None:
    received = type(from_wire(to_wire(kind("words"))))
    assert received.code == kind.code
    own = [each for each in KINDS if each.code == kind.code]
    assert kind.code < 0 or all(issubclass(each, received) for each in own), (
        "a code of ours names one error and its kinds"
    )


@given(st.sampled_from(KINDS), text, st.none() | text, json_values)
def test_an_error_survives_the_wire(kind: type[FabricError], message: str, fix: str | None, data: Any) -> None:
    sent = kind(message, fix=fix, data=data)
    wire = json.loads(json.dumps(to_wire(sent)))
    received = from_wire(wire)
    assert to_wire(received) == wire, "and is the same when it is handed on"
    assert received.code == kind.code
    assert str(received) == str(sent)
    assert received.data == data
    may_repeat, may_have_begun = (kind.retryable, kind.started)
    if kind is not errors.TransportClosed:  # of no meaning to anybody else
        assert received.retryable == may_repeat
    if kind not in (errors.UnknownAgent, errors.UnknownName, errors.ConfigurationError):
        assert received.started == may_have_begun


@given(st.integers(-(2**31), 2**31), text, json_values)
def test_an_unknown_code_keeps_its_code_and_claims_nothing(code: int, message: str, data: Any) -> None:
    known = {kind.code for kind in KINDS}
    error = from_wire({"code": code, "message": message, "data": data})
    assert error.code == to_wire(error)["code"] == code
    if code not in known:
        assert type(error) is errors.HandlerFailed
        assert not error.retryable
        assert error.started
    assert errors.HandlerFailed.code == -32603, "the class is not changed by its instances"


@given(st.dictionaries(st.sampled_from(["code", "message", "data", "other"]), json_values))
def test_any_object_stands_for_an_error(wire: dict[str, Any]) -> None:
    error = from_wire(wire)
    assert isinstance(error, FabricError)
    assert isinstance(error.code, int)
    orjson.dumps(to_wire(error))


def test_codes_stand_where_json_rpc_and_mcp_leave_room() -> None:
    codes = {kind.code for kind in KINDS}
    own = {code for code in codes if code > 0}
    assert own == {4100, 4130, 4220, 4280, 4290, 4990, 5020, 5021, 5030, 5031, 5040}
    assert codes - own == {-32021, -32601, -32602, -32603}


# Subjects


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True), st.text(max_size=20))
def test_an_agents_name_is_a_dns_label(label: str, other: str) -> None:
    assert subjects.checked_agent_name(label) == label
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", other, re.ASCII) is None:
        with pytest.raises(errors.ConfigurationError):
            subjects.checked_agent_name(other)


@pytest.mark.parametrize("token", ["", "a.b", "*", ">", "a b", "a\r\n", "é", "x" * 129])
def test_what_cannot_stand_in_a_subject_is_refused(token: str) -> None:
    with pytest.raises(errors.ConfigurationError) as refused:
        subjects.checked_token(token)
    assert refused.value.fix
    with pytest.raises(errors.ConfigurationError):
        subjects.direct(token, "tools/call")


@given(st.floats(1, 4e9), st.integers(0, 2**53))
def test_a_deadline_rides_in_the_address_of_the_answer(due: float, number: int) -> None:
    address = subjects.reply("0123abcd", due, number)
    read = subjects.due_of(address)
    assert read is not None
    assert due - 0.001 <= read <= due, "never later than the caller meant"
    assert subjects.number_of(address) == str(number)
    assert subjects.due_of(subjects.alive(address, "instance")) is None
    assert subjects.alive(address, "instance") == "fab.reply.0123abcd.alive.instance"


@pytest.mark.parametrize(
    "foreign", ["", "_INBOX.a.b", "fab.reply.c.now.1", "fab.reply.c.1", "a.b.c.1.2", "fab.reply.c.²3.1"]
)
def test_a_foreign_address_has_no_deadline(foreign: str) -> None:
    assert subjects.due_of(foreign) is None


def test_every_subject_starts_with_the_version_of_the_wire() -> None:
    built = [
        subjects.call("a", "tools/call"),
        subjects.calls("a"),
        subjects.direct("i", "tools/call"),
        subjects.directs("i"),
        subjects.control("a"),
        subjects.beat("a", "i"),
        subjects.reply("c", 1.0, 1),
        subjects.replies("c"),
        subjects.CATALOGUE_CHANGED,
        subjects.BEATS,
    ]
    assert {subject.split(".")[0] for subject in built} == {"fab"}
    assert subjects.call("a", "resources/read") == "fab.call.a.resources.read"
    assert subjects.service("STATS", "a", "i") == "$SRV.STATS.a.i"


# Calls and descriptions


def test_a_call_without_facts_to_tell_has_no_headers() -> None:
    scope = Scope(1.0)
    assert Call("a", "tools/call", EMPTY, scope).headers() is None
    assert Call("a", "tools/call", EMPTY, scope).subject() == "fab.call.a.tools.call"
    assert Call("a", "tools/call", EMPTY, scope, instance="i").subject() == "fab.instance.i.tools.call"
    trace = Trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    assert trace.trace_id == "a" * 32
    call = Call("a", "tools/call", EMPTY, Scope(1.0, "alice", trace), key="k")
    assert call.headers() == {"Fab-Key": "k", "Fab-Principal": "alice", "traceparent": trace.traceparent}
    call = Call("a", "tools/call", EMPTY, Scope(1.0, None, trace._replace(tracestate="v=1")))
    assert call.headers() == {"traceparent": trace.traceparent, "tracestate": "v=1"}


@pytest.mark.parametrize(
    "malformed",
    [
        *("", "00-a-b-01", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", "00-" + "a" * 32 + "-" + "0" * 16 + "-01"),
        *("00-" + "A" * 32 + "-" + "b" * 16 + "-01", "00-" + "a" * 32 + "-" + "b" * 16 + "-01\r\nX: y", None),
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",  # a version that W3C rules out
    ],
)
def test_a_malformed_trace_is_ignored(malformed: str | None) -> None:
    assert Trace.of(malformed) is None


def test_a_trace_state_that_cannot_travel_is_left_behind() -> None:
    good = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert Trace.of(good, "v=1,w=2") == Trace(good, "v=1,w=2")
    for bad in ("v=1\r\nX: y", "v=é", "x" * 513, "", None):
        assert Trace.of(good, bad) == Trace(good)


def test_descriptions_and_beats_take_what_later_versions_add() -> None:
    described = Description.model_validate({"name": "a", "tools": [{"name": "t"}], "from": "the future"})
    assert described.tools == [{"name": "t"}]
    beat = {"agent": "a", "instance": "i", "version": "1", "digest": "d", "host": "h", "pid": 1, "started": 1.0}
    assert Beat.model_validate({**beat, "capacity": 1, "mood": "good"}).state == "ready"
