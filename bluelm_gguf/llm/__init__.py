"""The language model: prompt, KV cache, sampling."""
