"""The driver: asks both ends, plans, moves the stream, confirms."""
