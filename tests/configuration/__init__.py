"""The configuration: where settings come from, and how they change while the fabric runs."""
