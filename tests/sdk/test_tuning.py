"""What a worker's environment may say of how it takes tasks.

Proves: MB-4 (the weights are the user's to set).
"""

from __future__ import annotations

import pytest

from fabric_sdk import tuning
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.streams import TASK_ACK_WAIT
from fabric_sdk.routing.tasks import WEIGHTS, Turns


def test_nothing_said_means_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuning.VARIABLES:
        monkeypatch.setenv(name, "")
    assert (tuning.ack_wait(), tuning.weights()) == (TASK_ACK_WAIT, WEIGHTS)


def test_weights_are_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tuning.CLASS_WEIGHTS, "4, 3, 2, 1")
    turns = Turns(tuning.weights())
    served = [turns.next(dict.fromkeys(WEIGHTS, 1)) for _ in range(100)]
    assert [served.count(priority) for priority in WEIGHTS] == [40, 30, 20, 10]


@pytest.mark.parametrize(
    "wrong", ["1", "1,2,3", "1,2,3,4,5", "1,2,3,0", "1,2,3,-4", "a,b,c,d", "1,2,3,1001", "1.5,1,1,1"]
)
def test_weights_that_cannot_be_are_refused_in_words(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tuning.CLASS_WEIGHTS, wrong)
    with pytest.raises(ConfigurationError, match="critical, high, normal, low"):
        tuning.weights()


def test_an_ack_wait_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tuning.ACK_WAIT, "2.5")
    assert tuning.ack_wait() == 2.5
