"""Agent Fabric, as an agent's author sees it: write an `Agent`, run it with `fabric worker`, call it with `Fabric`."""

from fabric_sdk.agent import Agent
from fabric_sdk.authoring.content import Audio, Image, ResourceLink
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import FabricError, ToolError, UnknownName

__all__ = ["Agent", "Audio", "Context", "Fabric", "FabricError", "Image", "ResourceLink", "ToolError", "UnknownName"]
