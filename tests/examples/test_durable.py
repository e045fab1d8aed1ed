"""The examples of durable work do what they say, on a whole fabric.

Proves: MB-1, MB-2, MB-5, MB-7, MB-8, EV-1, EV-2, EV-3, EV-4, EV-5, PT-2, PT-3, PT-4, RT-8 (each as a user writes it).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from support.running import Running, running_fabric

DURABLE = Path(__file__).parents[2] / "examples" / "durable"

SAID = {
    "tasks": """\
joined: True True True
batch: 2
sold: receipt by 1
counted to: 5
impatient: done
state: queued then receipt
scheduled: ['stocktaking']
cancelled: cancelled
letter: True nobody can order 0 of anything
""",
    "events": """\
live: {'what': 'cups'} order/2
live: {'what': 'cups'} order/24
billed: True
replayed: True
thanked: {'for': 'cups', 'dozens': 2}
""",
    "streams": """\
price: 5 rest: []
instances: 1 True
remembered: 2
in short: {'wants': 'tea'}
""",
}


@pytest.fixture(scope="module")
def fabric() -> Generator[Running]:
    with running_fabric(str(DURABLE / "shop.py")) as running:
        yield running


@pytest.mark.parametrize("name", SAID)
def test_an_example_does_what_it_says(name: str, fabric: Running) -> None:
    env = {**os.environ, "FABRIC_NATS_URL": fabric.nats_url}
    ended = subprocess.run([sys.executable, str(DURABLE / f"{name}.py")], env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    printed = ended.stdout.splitlines()
    assert [line for line in SAID[name].splitlines() if line not in printed] == []
