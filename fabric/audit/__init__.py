"""Who did what, and what came of it: noted off the hot path, kept by the broker so that a change of it shows (ADR 16).

Above: the gateway and the platform's agents, which note; commands. Below: JetStream.

    entry    what is noted (pure)
    chain    batches, each of which names the one before it (pure)
    trail    from a process's memory to the stream
    reading  from the stream: searched, followed, verified
    acts     what the platform's own agents are told to do
    service  the agent `audit`
"""
