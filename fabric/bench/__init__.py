"""What the product costs: each benchmark runs the product and the bare library doing the same job, in turns.

Above: `fabric bench`. Below: embedded servers, supervision, pools and the gateway, started as users start them. A ratio
of two numbers taken in the same minute says more than either: the machine's mood is in both.

    comparison  turns, medians, ratio       ground   the servers and processes that a benchmark runs on
    drive       calls from this process     load     wrk, and the request that it sends
    memory      call.memory                 floors   the bare libraries' side, in processes of its own
    calls       call.nats.*, call.host.*    echo     the agent that is called
    durable     task.*, event.*, stream.*   many     the agent with many tools
    gateway     gateway.*                   suite    all benchmarks by name, and where results are written
    everything  gateway.full*, many_tools
"""
