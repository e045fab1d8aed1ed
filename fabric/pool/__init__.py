"""Pools: worker processes that serve one target, started by `fabric worker` and `fabric up`."""
