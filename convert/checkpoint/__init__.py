"""Reads checkpoints: directories, weight files of each format, config.json."""
