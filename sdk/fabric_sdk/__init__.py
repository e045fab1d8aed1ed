"""Agent Fabric, as an agent's author sees it: write an `Agent`, run it with `fabric worker`, call it with `Fabric`."""

from fabric_sdk.agent import Agent
from fabric_sdk.authoring.content import Audio, Image, ResourceLink
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import FabricError, Reject, Retry, ToolError, UnknownName
from fabric_sdk.contracts.event import Event
from fabric_sdk.contracts.task import Policy, Record
from fabric_sdk.handle import Task
from fabric_sdk.patterns.stream import Stream

__all__ = [
    "Agent",
    "Audio",
    "Context",
    "Event",
    "Fabric",
    "FabricError",
    "Image",
    "Policy",
    "Record",
    "Reject",
    "ResourceLink",
    "Retry",
    "Stream",
    "Task",
    "ToolError",
    "UnknownName",
]
