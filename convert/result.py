"""What a conversion gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ConversionResult:
    """What was written, or with dry_run would be.

    Attributes:
        llm_path: the LLM; None with vision_only.
        mmproj_path: tower and projector; None with llm_only and for text-only checkpoints.
        llm_types: (type, tensors, bytes), largest first.
        mmproj_types: likewise.
        notes: what the user should know: padding, dropped tensors, types other than asked for.
        checkpoint_bytes: of the files that hold the checkpoint's weights.
        output_bytes: of the files written; with dry_run of their tensors.
        is_dry_run: nothing was written.
        convert_memory_bytes: most that the conversion takes, roughly, all processes together.
        run_memory_bytes: weights, and the KV cache of an LLM at `run_n_ctx` tokens.
        run_n_ctx: tokens of context.
    """

    llm_path: Path | None
    mmproj_path: Path | None
    llm_types: list[tuple[str, int, int]] = field(default_factory=list)
    mmproj_types: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checkpoint_bytes: int = 0
    output_bytes: int = 0
    is_dry_run: bool = False
    convert_memory_bytes: int = 0
    run_memory_bytes: int = 0
    run_n_ctx: int = 0

    def table(self) -> str:
        """Tensors and bytes by type, and sizes before and after, as text."""
        files = [(self.llm_path, self.llm_types), (self.mmproj_path, self.mmproj_types)]
        named = [(path.name, rows) for path, rows in files if path is not None]
        width = max([40, *(len(name) for name, _ in named)])
        lines = [f"{'file':<{width}} {'type':<6} {'tensors':>8} {'bytes':>15}"]
        for name, rows in named:
            lines += [f"{name:<{width}} {kind:<6} {count:>8} {size:>15,}" for kind, count, size in rows]
        about = "about " if self.is_dry_run else ""
        part = f" ({self.output_bytes / self.checkpoint_bytes:.0%})" if self.checkpoint_bytes else ""
        lines.append(f"checkpoint {_gb(self.checkpoint_bytes)} -> {about}{_gb(self.output_bytes)}{part}")
        if self.is_dry_run:
            cache = f" with {self.run_n_ctx} tokens of context" if self.run_n_ctx else ""
            lines.append(
                f"memory: about {_gb(self.convert_memory_bytes)} to convert; to run{cache} "
                f"{_gb(self.run_memory_bytes)} (weights{' and KV cache' if cache else ''})"
            )
            lines.append("dry run: nothing was written")
        return "\n".join(lines)


def _gb(n: int) -> str:
    """Bytes as file managers show them."""
    return f"{n / 1e9:.2f} GB" if n >= 10**9 else f"{n / 1e6:.1f} MB" if n >= 10**6 else f"{n / 1e3:.1f} kB"
