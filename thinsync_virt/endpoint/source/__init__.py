"""The end that has the running domain: snapshot, send, retention of its own points."""
