"""Who is there: tokens become identities. Above: the gateway, the agent `access`. Below: the fabric's tables, PyJWT."""
