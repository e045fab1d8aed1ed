"""Agent Fabric, the platform: what runs beside the agents. Authors of agents import `fabric_sdk` instead."""

import gc

# Python's 700 objects more are what any import makes: all that is there would be looked at again and again, for a tenth
# of the time in which a process starts, and a thirtieth of each call in which a few dozen are in hand.
gc.set_threshold(10_000)
