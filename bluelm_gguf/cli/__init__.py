"""The `bluelm-gguf` command."""
