"""A worker and a caller that speak the wire by hand, over plain nats-py: as an older version of ours, or a newer one.

What `docs/wire.md` says of version 1 is all that they know: no line of the SDK's runs in them. The older one leaves out
every header and member that may be left out; the newer one adds headers, members and kinds of frames that nobody knows.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from uuid import uuid4

import nats
from nats.aio.msg import Msg

Json = dict[str, Any]
_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Dialect:
    """What a version adds to all that it says."""

    def __init__(self, name: str, headers: Mapping[str, str], members: Json, frame: str | None) -> None:
        self.name = name
        self.headers = dict(headers)
        self.members = members
        self.frame = frame
        """A kind of frame that nobody knows yet, sent before each answer."""

    def __repr__(self) -> str:
        return self.name


OLDER = Dialect("older", {}, {}, None)
NEWER = Dialect(
    "newer", {"Fab-Hologram": "7; depth=3", "Fab-Mood": "calm"}, {"hologram": {"depth": [1, None]}}, "hologram"
)


async def open_client(url: str) -> Any:
    """A client of nats-py's, whose types are known in part only."""
    return await cast("Any", nats).connect(url, max_reconnect_attempts=0)


class Peer:
    """One instance of an agent that has the tool `echo`, for calls and for tasks."""

    def __init__(self, client: Any, agent: str, dialect: Dialect) -> None:
        self.agent, self.instance = agent, uuid4().hex
        self._client, self._dialect = client, dialect
        self._digest = uuid4().hex[:16]
        self._works: list[asyncio.Task[None]] = []
        self.heard: list[Mapping[str, str]] = []
        """Headers of the calls and tasks that came."""

    async def start(self) -> None:
        await self._client.subscribe(f"fab.call.{self.agent}.>", queue="pool", cb=self._answer)
        await self._client.subscribe(f"fab.instance.{self.instance}.>", cb=self._answer)
        await self._make_queue()
        self._works = [asyncio.create_task(work) for work in (self._beat(), self._take())]

    async def stop(self) -> None:
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        await self._say_beat("gone")
        await self._client.close()

    # registry

    async def _beat(self) -> None:
        while True:
            await self._say_beat("ready")
            await asyncio.sleep(1.0)  # between two heartbeats, as the older wire has them

    async def _say_beat(self, state: str) -> None:
        beat = {"agent": self.agent, "instance": self.instance, "version": "0.0.1", "digest": self._digest}
        beat |= {"host": "elsewhere", "pid": 7, "started": time.time(), "capacity": 8, "state": state}
        await self._publish(f"fab.beat.{self.agent}.{self.instance}", beat | self._dialect.members)

    def _description(self) -> Json:
        tool = {"name": "echo", "inputSchema": _SCHEMA, "annotations": {"readOnlyHint": True}, **self._dialect.members}
        return {"name": self.agent, "digest": self._digest, "tools": [tool], **self._dialect.members}

    # calls

    async def _answer(self, message: Msg) -> None:
        self.heard.append(message.headers or {})
        if message.subject.endswith("fabric.describe"):
            said = self._description()
        else:
            said = self._result(json.loads(message.data)["arguments"]["text"])
            if self._dialect.frame:
                frame = {**self._dialect.headers, "Fab-Frame": self._dialect.frame}
                await self._client.publish(message.reply, b'{"shape": "cube"}', headers=frame)
        await self._publish(message.reply, said)

    def _result(self, text: str) -> Json:
        content = [{"type": "text", "text": text}]
        return {"content": content, "resultType": "complete", "_meta": {}, **self._dialect.members}

    async def _publish(self, subject: str, said: Json) -> None:
        await self._client.publish(subject, json.dumps(said).encode(), headers=self._dialect.headers or None)

    # tasks

    async def _make_queue(self) -> None:
        config = {"durable_name": f"{self.agent}-normal", "filter_subject": f"fab.task.{self.agent}.normal.*"}
        config |= {"ack_policy": "explicit", "ack_wait": 15_000_000_000, "deliver_policy": "all"}
        config |= {"priority_groups": ["pool"], "priority_policy": "prioritized"}
        body = json.dumps({"stream_name": "FAB_TASKS", "config": config}).encode()
        verb = f"$JS.API.CONSUMER.CREATE.FAB_TASKS.{self.agent}-normal"
        answer = json.loads((await self._client.request(verb, body, timeout=5)).data)
        assert "error" not in answer, answer

    async def _take(self) -> None:
        inbox = self._client.new_inbox()
        waiting = await self._client.subscribe(inbox)
        ask = json.dumps({"batch": 1, "expires": 5_000_000_000, "group": "pool", "priority": 0}).encode()
        while True:
            await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.FAB_TASKS.{self.agent}-normal", ask, reply=inbox)
            message = await waiting.next_msg(timeout=60)
            if message.reply:
                await self._do(message)

    async def _do(self, message: Msg) -> None:
        self.heard.append(message.headers or {})
        task_id, params = message.subject.rpartition(".")[2], json.loads(message.data)
        record = {"id": task_id, "agent": self.agent, "tool": "echo", "state": "completed", "changed": time.time()}
        record |= {"result": self._result(params["arguments"]["text"]), **self._dialect.members}
        stored = await self._client.request(
            f"fab.record.{self.agent}.task.{task_id}",
            json.dumps(record).encode(),
            headers=self._dialect.headers or None,
        )
        assert "error" not in json.loads(stored.data), stored.data
        await self._client.publish(message.reply, b"+ACK")


class Caller:
    """Calls and starts tasks."""

    def __init__(self, client: Any, dialect: Dialect) -> None:
        self._client, self._dialect = client, dialect

    async def call(self, agent: str, tool: str, arguments: Json) -> Json:
        """The result; frames on the way to it are passed over."""
        params = {"name": tool, "arguments": arguments, **self._dialect.members}
        inbox = self._client.new_inbox()
        answers = await self._client.subscribe(inbox)
        headers = self._dialect.headers or None
        await self._client.publish(f"fab.call.{agent}.tools.call", json.dumps(params).encode(), inbox, headers)
        while True:
            message = await answers.next_msg(timeout=10)
            if "Fab-Frame" not in (message.headers or {}):
                return json.loads(message.data)

    async def run_task(self, agent: str, tool: str, arguments: Json) -> Json:
        """The record of a task, once it has ended."""
        task_id, params = uuid4().hex, {"name": tool, "arguments": arguments, **self._dialect.members}
        told = await self._client.subscribe(f"fab.told.{agent}.{task_id}")
        headers = {"Nats-Msg-Id": task_id, **self._dialect.headers}
        body = json.dumps(params).encode()
        stored = await self._client.request(f"fab.task.{agent}.normal.{task_id}", body, headers=headers)
        assert "error" not in json.loads(stored.data), stored.data
        while True:
            message = await told.next_msg(timeout=10)
            with suppress(KeyError):
                record = json.loads(message.data)
                if record["state"] in ("completed", "dead", "cancelled", "expired"):
                    return record
