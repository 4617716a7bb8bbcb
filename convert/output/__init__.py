"""Types, bytes and metadata of the GGUF files, and writing them."""
