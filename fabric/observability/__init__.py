"""How the fabric is watched: what its processes count, and how that is told.

Above: worker and gateway processes, the command line. Below: the SDK, prometheus-client, OpenTelemetry. Nothing here
decides anything: a fabric that nobody watches behaves the same.
"""
