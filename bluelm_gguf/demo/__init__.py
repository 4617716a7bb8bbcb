"""The embedded demo model: the pictures it was trained on (scenes, questions) and its evaluation.

`python -m bluelm_gguf.demo eval` measures it on pictures that were never trained on, `draw` writes some of
them. The pair of files lies in `data/`; training/ in the project's repository makes it.
"""
