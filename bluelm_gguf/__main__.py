"""`python -m bluelm_gguf` is `bluelm-gguf`."""

from .cli import main

main()
