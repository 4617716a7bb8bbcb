"""GGUF files: heads, pairs, what they need of memory."""
