"""Source and target ends of a replication."""
