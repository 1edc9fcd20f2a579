"""The endpoint's interfaces over ssh."""
