"""The documentation, held against the code: docs are programs."""
