"""libbluelm and the machine."""
