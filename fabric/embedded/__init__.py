"""Private servers for who has none: a real nats-server and a real valkey-server, started from their packages.

Above: `fabric.node`, the command line, benchmarks. Below: `fabric.process`. No client library of either server is used,
and nothing is known of what is sent through them or kept in them.

    nats_server    one of the two             folder       where they keep their data, and the lock on it
    valkey_server  the other                  credentials  their passwords
    probe          is a named server usable?  ports        where they listen
    wire           their first words          binaries     where their programs are
    errors         what goes wrong, and what to do next
"""

from __future__ import annotations

from fabric.embedded.errors import (
    AccessDenied,
    BinaryMissing,
    DataFolderError,
    DataFolderInUse,
    NothingListens,
    ServerUnusable,
    TooOld,
    WrongProtocol,
)
from fabric.embedded.folder import DataFolder, ephemeral_data_folder, open_data_folder
from fabric.embedded.nats_server import MAX_PAYLOAD, NatsServer, start_nats
from fabric.embedded.probe import NatsFacts, RedisFacts, probe_nats, probe_redis
from fabric.embedded.valkey_server import ValkeyServer, start_valkey

__all__ = [
    "MAX_PAYLOAD",
    "AccessDenied",
    "BinaryMissing",
    "DataFolder",
    "DataFolderError",
    "DataFolderInUse",
    "NatsFacts",
    "NatsServer",
    "NothingListens",
    "RedisFacts",
    "ServerUnusable",
    "TooOld",
    "ValkeyServer",
    "WrongProtocol",
    "ephemeral_data_folder",
    "open_data_folder",
    "probe_nats",
    "probe_redis",
    "start_nats",
    "start_valkey",
]
