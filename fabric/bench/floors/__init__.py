"""The other side of each benchmark: the bare libraries doing the same job, each a process of its own.

worker   answers requests with nats-py
forward  HTTP in, one nats-py request, HTTP out
sdk      the official MCP SDK's low-level server, which answers the call itself
"""

import gc

gc.set_threshold(700, 10, 10)  # Python's own, which this package's are not
