"""An LLM's GGUF that somebody else made, to go with the mmproj of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..decoders.decoder import Decoder
from ..errors import CheckpointError
from .gguf_head import read_head


@dataclass(frozen=True)
class GivenLlm:
    """What matters of the file.

    Attributes:
        path: the file.
        arch: general.architecture.
        n_embd: width of its embeddings.
        n_layer: number of blocks, if it says so.
        n_vocab: number of tokens, if it has a tokenizer.
        pair_id: bluelm.pair_id; None in other converters' files.
    """

    path: Path
    arch: str
    n_embd: int
    n_layer: int | None
    n_vocab: int | None
    pair_id: str | None

    def check(self, decoder: Decoder) -> list[str]:
        """Compares it with the LLM that a checkpoint describes.

        Returns:
            What differs without keeping the two from working together.

        Raises:
            CheckpointError: the widths differ, so that no picture could be shown to it.
        """
        if self.n_embd != decoder.n_embd:
            raise CheckpointError(
                f"{self.path} takes embeddings of width {self.n_embd}, and the checkpoint's projector makes "
                f"{decoder.n_embd}; give the GGUF that was made of this checkpoint's LLM"
            )
        notes = []
        for what, theirs, ours in (
            ("architecture", self.arch, decoder.ARCH),
            ("number of blocks", self.n_layer, decoder.n_layer),
            ("number of tokens", self.n_vocab, decoder.n_vocab),
        ):
            if theirs is not None and theirs != ours:
                notes.append(f"{self.path.name}: its {what} is {theirs}, the checkpoint's LLM has {ours}")
        if self.pair_id is None:
            notes.append(
                f"{self.path.name} has no pair id, so that only widths tell whether it and the mmproj belong "
                "together"
            )
        return notes


def read_llm(path: str | Path) -> GivenLlm:
    """Reads the head of an LLM's GGUF.

    Raises:
        CheckpointError: missing, no GGUF, damaged, or no LLM.
    """
    path = Path(path)
    try:
        head = read_head(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; give the LLM's GGUF file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a directory; give the LLM's GGUF file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise CheckpointError(f"{path} is no GGUF file (version 2 or 3) or is damaged") from None
    values = head.values
    arch = values.get("general.architecture")
    n_embd = values.get(f"{arch}.embedding_length")
    if arch == "clip" or values.get("general.type") == "mmproj":
        raise CheckpointError(f"{path} is an mmproj, a vision file; give the LLM's GGUF file")
    if not isinstance(arch, str) or not isinstance(n_embd, int):
        raise CheckpointError(f"{path} names no LLM's architecture and width; give the LLM's GGUF file")
    n_layer, pair_id = values.get(f"{arch}.block_count"), values.get("bluelm.pair_id")
    return GivenLlm(
        path,
        arch,
        n_embd,
        n_layer if isinstance(n_layer, int) else None,
        head.n_tokens or None,
        pair_id if isinstance(pair_id, str) else None,
    )
