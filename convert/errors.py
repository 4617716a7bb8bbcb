"""What can go wrong in a conversion.

    ConversionError(ValueError)
      CheckpointError        a file of the checkpoint is missing, damaged or contradicts another
      UnsupportedModelError  a sound checkpoint of a kind that this converter does not know
      TensorError            weights missing, left over, misshapen, NaN or infinite
      TokenizerError         the tokenizer is missing, damaged or of a kind that llama.cpp cannot reproduce
      ImportanceError        the importance matrix is missing, damaged or was measured on another model
      OutputError            the result cannot be written or quantised

Every message is one line (TensorError, ImportanceError: one more per tensor) that says what is wrong, with
which file, and what to do. No file is left behind.
"""

from __future__ import annotations


class ConversionError(ValueError):
    """Base of everything that `convert` raises on bad input."""


class CheckpointError(ConversionError):
    """A file of the checkpoint is missing, damaged or contradicts another."""


class UnsupportedModelError(ConversionError):
    """A sound checkpoint of a kind that this converter does not know."""


class TensorError(ConversionError):
    """Weights are missing, left over, misshapen, NaN or infinite."""


class TokenizerError(ConversionError):
    """The tokenizer is missing, damaged or of a kind that llama.cpp cannot reproduce."""


class OutputError(ConversionError):
    """The result cannot be written or quantised."""


class ImportanceError(ConversionError):
    """The importance matrix is missing, damaged or was measured on another model."""
