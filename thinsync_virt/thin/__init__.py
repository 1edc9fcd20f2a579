"""dm-thin's metadata, read by ourselves: blocks in, extents out."""
