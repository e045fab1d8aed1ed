"""Processes that are started together, kept running, and gone when their parent is gone.

Above: `fabric.embedded` and the command line. Below: the standard library; no broker, no gateway, no agent is known.

    spec        what a process is                    supervisor  starts, keeps and stops them
    policy      when to restart one (pure)           copies      many of one process
    events      what is reported                     child       the life of one process
    launch      one run of it, tied to ours          guard       the tie, run inside the new process
    output      its log file                         errors      what goes wrong, and what to do next
"""

from __future__ import annotations

from fabric.process.copies import Copies
from fabric.process.errors import ProcessStartError, SupervisorStopped
from fabric.process.events import (
    Exited,
    OnEvent,
    ProcessEvent,
    ProcessStatus,
    Ready,
    Restarting,
    Started,
    State,
    Stopped,
    Unhealthy,
)
from fabric.process.launch import Tether
from fabric.process.policy import HealthPolicy, RestartPolicy
from fabric.process.spec import Probe, ProcessSpec
from fabric.process.supervisor import Supervisor

__all__ = [
    "Copies",
    "Exited",
    "HealthPolicy",
    "OnEvent",
    "Probe",
    "ProcessEvent",
    "ProcessSpec",
    "ProcessStartError",
    "ProcessStatus",
    "Ready",
    "RestartPolicy",
    "Restarting",
    "Started",
    "State",
    "Stopped",
    "Supervisor",
    "SupervisorStopped",
    "Tether",
    "Unhealthy",
]
