"""The durable half of the broker, spoken over the seam: stored publishes, reads, and a pull loop of our own."""

from fabric_sdk.jetstream.api import (
    JetStream,
    Missing,
    Refused,
    Stored,
    StoredMessage,
    SubjectTaken,
    TooFewServers,
    WrongSequence,
)
from fabric_sdk.jetstream.claims import ClaimLost, Claims
from fabric_sdk.jetstream.pull import Delivery, Pull
from fabric_sdk.jetstream.reading import Reader
from fabric_sdk.jetstream.snapshot import Snapshot, restore
from fabric_sdk.jetstream.table import Row, Table

__all__ = [
    "ClaimLost",
    "Claims",
    "Delivery",
    "JetStream",
    "Missing",
    "Pull",
    "Reader",
    "Refused",
    "Row",
    "Snapshot",
    "Stored",
    "StoredMessage",
    "SubjectTaken",
    "Table",
    "TooFewServers",
    "WrongSequence",
    "restore",
]
