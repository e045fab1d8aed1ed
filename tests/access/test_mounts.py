"""Mounts: what can be one, what it shows, and that no two share a prefix. Proves: GW-2"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fabric.access.mounts import ROWS, Mount, MountStore, mount_of, refusal
from fabric_sdk import Fabric
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import InvalidParams, UnknownName
from fabric_sdk.contracts.subjects import checked_agent_name

PAY = Mount(agent="shop", prefix="pay", target="payments")


@pytest.mark.parametrize(
    ("tools", "tool", "shown"),
    [
        (None, "anything", True),
        (("read",), "read", True),
        (("read",), "read_all", False),
        (("read_*", "list"), "read_all", True),
        (("read_*", "list"), "Read_all", False),
        (("get_[ab]",), "get_c", False),
        (("get_?",), "get_c", True),
    ],
)
def test_a_mount_shows_all_tools_or_those_that_match(tools: Any, tool: str, shown: bool) -> None:
    assert PAY.model_copy(update={"tools": tools}).shows(tool) is shown


@pytest.mark.parametrize(
    "wrong",
    [{"agent": "Shop"}, {"prefix": "a_b"}, {"prefix": ""}, {"target": "*"}, {"tools": []}, {"tools": ["a b"]}],
)
def test_what_cannot_be_a_mount_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mount(**{**PAY.model_dump(), **wrong})
    assert mount_of({**PAY.model_dump(mode="json"), **wrong}) is None


@given(st.from_type(object) | st.dictionaries(st.sampled_from(list(Mount.model_fields)), st.text()))
def test_whatever_a_row_holds_it_is_a_mount_or_none(value: Any) -> None:
    found = mount_of(value)
    assert found is None or checked_agent_name(found.prefix)


def test_an_agent_is_not_mounted_in_itself_nor_two_under_one_prefix() -> None:
    other = PAY.model_copy(update={"target": "other"})
    assert refusal(PAY, None) is refusal(PAY, PAY) is None
    assert "in itself" in str(refusal(PAY.model_copy(update={"target": "shop"}), None))
    assert "fabric unmount shop pay" in str(refusal(other, PAY))


async def test_of_many_that_mount_under_one_prefix_one_does(fabric: Fabric) -> None:
    store = MountStore(fabric.jetstream)
    wanted = [PAY.model_copy(update={"target": f"other-{number}"}) for number in range(10)]
    done = await asyncio.gather(*map(store.add, wanted), return_exceptions=True)
    assert sorted(str(type(each)) for each in done) == sorted(map(str, [type(None), *[InvalidParams] * 9]))
    assert await store.all() == [wanted[done.index(None)]]


async def test_of_many_that_unmount_the_same_none_fails_but_by_being_late(fabric: Fabric) -> None:
    store = MountStore(fabric.jetstream)
    await store.add(PAY)
    done = await asyncio.gather(*(store.remove("shop", "pay") for _ in range(5)), return_exceptions=True)
    assert PAY in done
    assert all(each == PAY or isinstance(each, UnknownName) for each in done), done
    assert await store.all() == []


async def test_what_is_no_row_of_ours_hides_nothing_and_gives_way(fabric: Fabric) -> None:
    store = MountStore(fabric.jetstream)
    other = PAY.model_copy(update={"prefix": "other"})
    await store.add(other)
    for number, body in enumerate((Body({"agent": 7}), Body(encoded=b"odd"), Body(None))):
        await fabric.jetstream.store(f"{ROWS}shop.{'pay' if not number else f'odd-{number}'}", body)
    assert await store.all() == [other]
    await store.add(PAY)
    assert await store.all("shop") == [other, PAY]
