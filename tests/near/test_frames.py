"""Messages between processes of one host, as bytes. Proves: RT-2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.transports.frames import FrameReader, encode_frame

TOKENS = st.text("abcdefgh.*>-_0123456789é", max_size=40)
HEADERS = st.dictionaries(st.text("abcXYZ-", min_size=1, max_size=12), st.text("ab c:1é", max_size=12).map(str.strip))


def _message(subject: str, body: bytes, reply: str, headers: dict[str, str]) -> Message:
    return Message(subject, Body(encoded=body), reply=reply, headers=headers or None)


MESSAGES = st.builds(_message, TOKENS, st.binary(max_size=200), TOKENS, HEADERS)


def told(message: Message) -> tuple[str, str, bytes, dict[str, str]]:
    return message.subject, message.reply, message.body.encoded(), dict(message.headers or {})


@given(messages=st.lists(MESSAGES, max_size=8), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_what_was_written_is_read_whatever_the_pieces_in_which_it_comes(
    messages: list[Message], cuts: list[int]
) -> None:
    stream = b"".join(encode_frame(message)[0] for message in messages)
    reader, read, before = FrameReader(1024), list[Message](), 0
    for cut in (*sorted(cuts), len(stream)):
        read += reader.feed(stream[before:cut])
        before = max(before, min(cut, len(stream)))
    assert [told(message) for message in read] == [told(message) for message in messages]


@given(MESSAGES)
def test_a_frame_tells_how_much_a_broker_would_count(message: Message) -> None:
    frame, size = encode_frame(message)
    assert size <= len(frame)
    assert size >= len(message.body.encoded())
    assert (size == len(message.body.encoded())) == (not message.headers)


@pytest.mark.parametrize("name", ["x" * 65_536, "é" * 32_768])
def test_what_is_too_long_for_a_subject_is_refused_in_words(name: str) -> None:
    for message in (Message(name), Message("a", reply=name)):
        with pytest.raises(InvalidParams, match="is no subject: it is too long"):
            encode_frame(message)
    longest = name[1:]
    (read,) = FrameReader(0).feed(encode_frame(Message(longest, reply=longest))[0])
    assert (read.subject, read.reply) == (longest, longest)


def test_a_frame_that_is_too_large_is_refused_before_it_is_there() -> None:
    frame, _ = encode_frame(Message("a", Body(encoded=b"x" * 300_000)))
    with pytest.raises(ValueError, match="a frame of 300001 bytes"):
        FrameReader(1000).feed(frame[:12])
