"""The end that holds the replica: receive, seal, switch, retention of its own points."""
