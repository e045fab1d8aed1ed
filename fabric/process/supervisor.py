"""Starts processes in layers, keeps them running, and stops them in the reverse order.

Above: `copies`, `fabric.node`, `fabric.embedded`, the command line's `worker` and `gateway`. Below: `child`, one per
process. It refuses to know what the processes are and how events are shown.
"""

from __future__ import annotations

import asyncio
from typing import Self

from fabric.process.child import Child, Conduct
from fabric.process.errors import SupervisorStopped
from fabric.process.events import OnEvent, ProcessEvent, ProcessStatus
from fabric.process.launch import Tether
from fabric.process.policy import HealthPolicy, RestartPolicy
from fabric.process.spec import ProcessSpec


def _ignore(event: ProcessEvent) -> None:
    """Nobody listens."""


class Supervisor:
    """Runs processes that end when it ends, even when it is killed; restarts those that fail, for as long as it runs.

    What is started by one call of `start` forms a layer: started at once, stopped at once. Layers are stopped in
    the reverse order of their start, so that what came first, like a broker, is there until the last.

        async with Supervisor(print) as supervisor:
            await supervisor.start(broker)
            await supervisor.start(*workers)
    """

    def __init__(
        self,
        on_event: OnEvent = _ignore,
        *,
        restart: RestartPolicy | None = None,
        health: HealthPolicy | None = None,
        tether: Tether | None = None,
    ) -> None:
        """`tether` is how children are tied to this process; `None` takes the platform's."""
        self._conduct = Conduct(
            on_event, restart or RestartPolicy(), health or HealthPolicy(), tether or Tether.of_platform()
        )
        self._layers: list[list[Child]] = []
        self._dropping: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._hurry()  # who was cancelled on the way here, by a second signal, say, is not cancelled again
        await self.stop()

    async def start(self, *specs: ProcessSpec) -> None:
        """Start these together and wait until all are ready: one layer.

        Raises ProcessStartError if one ends, or is not ready in time, in its first run; then all of this layer are
        stopped again and forgotten. SupervisorStopped once `stop` was called. ValueError for a name already taken.
        """
        self._refuse_if_stopping()
        self._refuse_taken(specs)
        layer = [Child(spec, self._conduct) for spec in specs]
        self._layers.append(layer)
        try:
            await asyncio.gather(*(child.ready() for child in layer))
        except BaseException:
            await self._drop(*layer)
            raise

    async def replace(self, name: str, spec: ProcessSpec | None = None) -> None:
        """Stop one process and start it anew, as `spec` if given; it keeps its place in the order.

        Returns when the new one is ready. Raises ProcessStartError if its first run fails; it is then restarted like
        any other process that fails. For no gap at all, start one under another name before removing the old, as
        `Copies` does.
        """
        if spec is not None and spec.name != name:
            self._refuse_taken((spec,))
        while True:
            self._refuse_if_stopping()
            layer, old = self._find(name)
            await old.stop()
            # Another task may have put a new one in its place meanwhile; that one has to be stopped first, too.
            if old in layer and not self._stopping:
                break
        layer[layer.index(old)] = child = Child(spec or old.spec, self._conduct)
        await child.ready()

    async def remove(self, *names: str) -> None:
        """Stop these processes at once and forget them. KeyError for an unknown name."""
        await self._drop(*(self._find(name)[1] for name in names))

    async def stop(self) -> None:
        """Stop every layer, the last first: SIGTERM, then SIGKILL after each one's grace. Nothing starts after this.

        When the caller is cancelled meanwhile, or left the supervisor's block by a cancellation, each layer has about a
        second left; when it is cancelled again, what has been asked to stop still does, and the rest goes with this
        process.
        """
        self._stopping = True
        try:
            await self._drop_all()
        except asyncio.CancelledError:
            self._hurry()
            await self._drop_all()
            raise

    def statistics(self) -> tuple[ProcessStatus, ...]:
        """Every process, in the order of their start."""
        return tuple(child.status for layer in self._layers for child in layer)

    def _hurry(self) -> None:
        for layer in self._layers:
            for child in layer:
                child.hurry()

    async def _drop_all(self) -> None:
        while self._layers:
            await self._drop(*self._layers[-1])

    async def _drop(self, *children: Child) -> None:
        # A caller that is cancelled while waiting must not leave stopped processes on the list.
        dropping = asyncio.create_task(self._stop_and_forget(children))
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)
        await asyncio.shield(dropping)

    async def _stop_and_forget(self, children: tuple[Child, ...]) -> None:
        await asyncio.gather(*(child.stop() for child in children))
        for layer in self._layers:
            layer[:] = [child for child in layer if child not in children]
        self._layers = [layer for layer in self._layers if layer]

    def _find(self, name: str) -> tuple[list[Child], Child]:
        for layer in self._layers:
            for child in layer:
                if child.spec.name == name:
                    return layer, child
        raise KeyError(name)

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise SupervisorStopped

    def _refuse_taken(self, specs: tuple[ProcessSpec, ...]) -> None:
        names = [status.name for status in self.statistics()] + [spec.name for spec in specs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"a supervisor holds one process of a name; twice: {', '.join(sorted(twice))}")
