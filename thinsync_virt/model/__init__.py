"""Frozen values that every other part speaks in. No I/O; imports only errors and units."""
