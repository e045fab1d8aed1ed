"""Agent Fabric, the platform: what runs beside the agents. Authors of agents import `fabric_sdk` instead."""
