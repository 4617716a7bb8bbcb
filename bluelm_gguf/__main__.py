"""`python -m bluelm_gguf` is `bluelm-gguf`."""

from .cli.main import main

main()
