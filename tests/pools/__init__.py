"""Pools of workers: what they serve, how they live."""
