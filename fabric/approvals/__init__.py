"""What a person has to allow first: questions, kept until they are answered, and grants that are remembered.

Above: the gateway, which asks; `fabric up`, commands. Below: policy, tables, tasks.

    model     questions, and what an answer makes of them (pure)
    store     their rows, and what follows from an answer
    service   the agent `approvals`
"""
