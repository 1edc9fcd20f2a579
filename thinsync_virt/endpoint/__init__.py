"""Source and target ends of a replication: snapshots, transfers, points."""
