"""From a definition and the facts of this host to the domain that is registered here. Pure."""
