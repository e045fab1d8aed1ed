"""What a soak looks at: memory and open descriptors of every process, again and again.

Above: `run`. Below: psutil. Whether a line goes up is `judging`'s business; drawing it is `plot`'s.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Final

import psutil

from loadtests.ground import Ground
from loadtests.judging import trend

Samples = dict[str, list[tuple[float, float]]]
"""By process and figure (`gateway 4711 memory`), its samples: seconds since the start, and MiB or a count."""

_LEAST: Final = {"memory": 16.0, "descriptors": 20.0}
"""Growth below which nothing leaks that matters: MiB, and a count."""
_INDEX: Final = 1 / 1024
"""MiB that NATS may take for each message that it keeps: their subjects are in memory."""
_PART: Final = 0.1
_FEWEST: Final = 12
"""Samples without which nothing can be said of a process."""


class Watch:
    """Samples every so often, in a thread of its own, until it is stopped."""

    def __init__(self, ground: Ground, between: float) -> None:
        self.samples: Samples = defaultdict(list)
        self._ground, self._between = ground, between
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> Samples:
        """All samples."""
        self._stop.set()
        self._thread.join()
        return dict(self.samples)

    def _run(self) -> None:
        while not self._stop.wait(self._between):
            at = time.monotonic() - self._began
            for kind, processes in self._ground.processes().items():
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        name = f"{kind} {process.pid}"
                        self.samples[f"{name} memory"].append((at, process.memory_info().rss / 1024**2))
                        self.samples[f"{name} descriptors"].append((at, process.num_fds()))


def leaks(samples: Samples, kept: int) -> list[str]:
    """What clearly goes up, in words, though only so many tasks and events were `kept`."""
    said: list[str] = []
    for name, values in samples.items():
        figure, line = name.rpartition(" ")[2], trend(values)
        least = _LEAST[figure] + (kept * _INDEX if name.startswith("nats-server") and figure == "memory" else 0)
        if len(values) >= _FEWEST and line.is_up(least=least, part=_PART):
            said.append(f"{name}: grew by {line.growth:.1f}, usually {line.middle:.1f}")
    return said
