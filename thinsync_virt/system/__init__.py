"""The only place where commands are run and devices opened."""
