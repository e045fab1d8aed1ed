"""Who may what, as data: the agent `access`, and mounts. Above: `fabric up`, commands. Below: `identity`, tables."""
