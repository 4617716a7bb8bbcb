"""Recognises layouts of checkpoints and brings them to one set of names."""
