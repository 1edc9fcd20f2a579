"""Targets that keep recovery points as files in a directory: raw images, qcow2 files, stream files."""
