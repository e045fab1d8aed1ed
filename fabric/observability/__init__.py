"""How the fabric is watched: which requests are traced, what processes count, and how both are told.

Above: worker and gateway processes, the command line. Below: the SDK, prometheus-client, OpenTelemetry. A fabric
that nobody watches behaves the same.
"""
