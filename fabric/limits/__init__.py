"""How much each client, tool and agent may use: decided here and now, evened out between gateways a moment later."""
