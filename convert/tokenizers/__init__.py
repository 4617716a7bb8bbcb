"""Tokenizers as llama.cpp's metadata."""
