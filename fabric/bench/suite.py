"""All benchmarks by name, and the file that keeps the results of the last run.

Above: `fabric bench`. Below: the benchmarks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from fabric.bench import calls, durable, everything, gateway, memory
from fabric.bench.comparison import Benchmark, Result
from fabric.bench.load import require_wrk
from fabric_sdk.contracts.errors import ConfigurationError

BENCHMARKS: Final = {
    benchmark.name: benchmark
    for benchmark in (
        memory.MEMORY,
        calls.THROUGHPUT,
        calls.LATENCY,
        calls.HOST_THROUGHPUT,
        calls.HOST_LATENCY,
        gateway.TOOLS_CALL,
        gateway.VS_SDK,
        gateway.OBSERVED,
        everything.FULL,
        everything.FULL_VS_SDK,
        everything.FULL_VS_SDK_TOOLS,
        everything.FULL_VS_MCPSERVER,
        everything.many_tools(),
        durable.TASK_START,
        durable.TASK_RUN,
        durable.EVENT_PUBLISH,
        durable.EVENT_CONSUME,
        durable.STREAM_MESSAGES,
    )
}

GOALS: Final = {
    "call.memory": 0.20,
    "call.nats.throughput": 0.70,
    "call.nats.latency": 0.70,
    "gateway.tools_call": 0.60,
    "gateway.vs_sdk": 4.0,
    "gateway.observed": 0.90,
    "gateway.full": 0.55,
    "gateway.full_vs_sdk": 5.0,
    "gateway.many_tools": 0.95,
    "task.start": 0.70,
    "task.run": 0.50,
    "event.publish": 0.70,
    "event.consume": 0.60,
    "stream.messages": 0.60,
}
"""The ratios that a release has to show, of those benchmarks that have one to reach."""

_RESULTS: Final = Path("loadtests", "results", "latest.json")


def chosen(names: Sequence[str], tools: int | None) -> list[Benchmark]:
    """The benchmarks of these names, in that order; all of them for none.

    Args:
        names: of benchmarks.
        tools: how many `gateway.many_tools` has, if not as many as it is meant for.

    Raises:
        ConfigurationError: there is no benchmark of a name, or a program that one needs is missing.
    """
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise ConfigurationError(f"there is no benchmark {unknown[0]!r}", fix=f"there are {', '.join(BENCHMARKS)}")
    large = everything.many_tools(tools)
    found = BENCHMARKS | {large.name: large}
    benchmarks = [found[name] for name in names or found]
    if any(benchmark.needs_wrk for benchmark in benchmarks):
        require_wrk()
    return benchmarks


def write(results: Sequence[Result]) -> Path:
    """Write the results into the project around the current folder, or into the current folder if there is none."""
    here = Path.cwd()
    project = next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)
    path = project / _RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return path
