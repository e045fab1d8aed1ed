"""Agent Fabric, as an agent's author sees it: write an `Agent`, run it with `fabric worker`, call it with `Fabric`."""

from fabric_sdk.agent import Agent
from fabric_sdk.attempt import Superseded
from fabric_sdk.authoring.content import Audio, Image, ResourceLink
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import (
    AgentUnavailable,
    AnswerRequired,
    CallCancelled,
    CapabilityMissing,
    ConfigurationError,
    DeadlineExceeded,
    FabricError,
    HandlerFailed,
    InvalidParams,
    KeyReused,
    MessageTooLarge,
    Overloaded,
    QuestionLost,
    QueueFull,
    Reject,
    Retry,
    StreamClosed,
    StreamLost,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    ToolError,
    TransportClosed,
    TransportUnavailable,
    UnencodableResult,
    UnknownAgent,
    UnknownMethod,
    UnknownName,
    UnknownTask,
    UnreadableRecord,
    WorkerLost,
)
from fabric_sdk.contracts.event import Event
from fabric_sdk.contracts.task import Policy, Record
from fabric_sdk.handle import Task
from fabric_sdk.jetstream import ClaimLost
from fabric_sdk.patterns.conversation import Conflict
from fabric_sdk.patterns.schema import IncompatibleSchema
from fabric_sdk.patterns.stream import Stream
from fabric_sdk.routing.expressions import TransformationFailed

__all__ = [
    "Agent",
    "AgentUnavailable",
    "AnswerRequired",
    "Audio",
    "CallCancelled",
    "CapabilityMissing",
    "ClaimLost",
    "ConfigurationError",
    "Conflict",
    "Context",
    "DeadlineExceeded",
    "Event",
    "Fabric",
    "FabricError",
    "HandlerFailed",
    "Image",
    "IncompatibleSchema",
    "InvalidParams",
    "KeyReused",
    "MessageTooLarge",
    "Overloaded",
    "Policy",
    "QuestionLost",
    "QueueFull",
    "Record",
    "Reject",
    "ResourceLink",
    "Retry",
    "Stream",
    "StreamClosed",
    "StreamLost",
    "Superseded",
    "Task",
    "TaskCancelled",
    "TaskDead",
    "TaskExpired",
    "ToolError",
    "TransformationFailed",
    "TransportClosed",
    "TransportUnavailable",
    "UnencodableResult",
    "UnknownAgent",
    "UnknownMethod",
    "UnknownName",
    "UnknownTask",
    "UnreadableRecord",
    "WorkerLost",
]
