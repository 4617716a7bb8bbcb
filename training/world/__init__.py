"""The next demo model's world: it is trained and measured with it until a pair of it is shipped.

`python -m training.world eval -m LLM.gguf --mmproj MM.gguf` measures a pair on pictures never trained on,
`draw` writes some of them. The shipped pair's world is bluelm_gguf/demo.
"""
