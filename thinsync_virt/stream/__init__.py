"""The wire format: a sans-I/O codec."""
