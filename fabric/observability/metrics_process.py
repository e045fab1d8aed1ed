"""What every process of the fabric tells of itself: processor, memory, descriptors, its event loop and its connection.

Above: worker and gateway processes. Below: psutil, `metrics`. The names are those that Prometheus's own libraries use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from fabric.observability import metrics_otlp
from fabric.observability.metrics import METRICS
from fabric.observability.metrics_socket import answering, answering_on_bus, supervised
from fabric.observability.otel import has_collector
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.transports.base import ConnectionEvent, Transport

_LAG_SECONDS: Final = 1.0
_LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

LAG: Final = METRICS.histogram(
    "fabric_event_loop_lag_seconds", "How late the event loop wakes who sleeps.", bounds=_LAG_BOUNDS
)
RECONNECTS: Final = METRICS.counter("fabric_nats_reconnects", "Returns of the connection to NATS.")


@asynccontextmanager
async def told(transport: Transport, resource: Mapping[str, str], file: Path | None = None) -> AsyncGenerator[None]:
    """Count what a process is, and tell it to everybody who may ask, while the block runs.

    Args:
        transport: its connection.
        resource: what a collector is told of it.
        file: says where it answers; by default, that which its supervisor wants.
    """
    async with AsyncExitStack() as stack:
        for stop in (*_watched(transport), transport.listen(_connection_changed)):
            stack.callback(stop)
        keeping = [keep_on(_lags, "measuring the event loop's lag")]
        if has_collector("metrics"):
            keeping.append(keep_on(partial(metrics_otlp.push, METRICS, resource), "sending metrics"))
        stack.push_async_callback(end, keeping)
        if (file := file or supervised()) is not None:
            await stack.enter_async_context(answering(METRICS, file))
        await stack.enter_async_context(answering_on_bus(METRICS, transport))
        yield


async def _lags() -> None:
    loop, lag = asyncio.get_running_loop(), LAG.of()
    while True:
        began = loop.time()
        await asyncio.sleep(_LAG_SECONDS)
        lag.record(max(0.0, loop.time() - began - _LAG_SECONDS))


def _connection_changed(event: ConnectionEvent) -> None:
    if event == "connected":
        RECONNECTS.of().add()


def _watched(transport: Transport) -> Iterable[Callable[[], object]]:
    """Everything that is read when somebody asks; each result stops that."""
    RECONNECTS.of()  # so that it is there, with 0, before the first
    me, watch = psutil.Process(), METRICS.watch
    yield watch("fabric_nats_connected", "Whether messages travel now.", lambda: [((), float(transport.connected))])
    yield watch("fabric_build_info", "What runs.", lambda: [((version("agent-fabric"),), 1.0)], labels=("version",))
    yield watch(
        "process_cpu_seconds",
        "Processor time, user and system.",
        lambda: [((), sum(me.cpu_times()[:2]))],
        unit="seconds",
        kind="counter",
    )
    yield watch("process_resident_memory_bytes", "Memory.", lambda: [((), me.memory_info().rss)], unit="bytes")
    yield watch("process_open_fds", "Open descriptors.", lambda: [((), me.num_fds())])
    yield watch("process_threads", "Threads.", lambda: [((), me.num_threads())])
    yield watch(
        "process_start_time_seconds", "Unix time of the start.", lambda: [((), me.create_time())], unit="seconds"
    )
