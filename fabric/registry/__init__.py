"""Who is there: heartbeats from the bus become leases in Redis, and leases become the catalogue."""
