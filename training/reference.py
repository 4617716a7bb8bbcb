"""The torch model behind the API that training.world.evaluate asks for: to measure an unconverted run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from bluelm_gguf.demo.views import TILE, views
from training.data import Tokens
from training.export import load


class TorchModel:
    def __init__(self, run: Path, checkpoint: str = "last.pt"):
        from tokenizers import Tokenizer

        self.model = load(run, checkpoint)
        self.tk = Tokenizer.from_file(str(run / "tokenizer.json"))
        self.tokens = Tokens(self.tk)
        self.end = self.tk.token_to_id("<|im_end|>")

    @torch.no_grad()
    def encode(self, image: np.ndarray, *, tiler=None) -> torch.Tensor:
        """[tokens, n_embd]"""
        if tiler:  # the thumbnail alone
            from PIL import Image

            seen = np.asarray(Image.fromarray(image).resize((TILE, TILE), Image.BICUBIC))[None]
        else:
            seen = views(image)
        zero = torch.zeros(len(seen), dtype=torch.long)
        _, z = self.model.encode(torch.from_numpy(seen).float() / 127.5 - 1, zero, zero)
        return z.reshape(-1, z.shape[-1])

    @torch.no_grad()
    def generate(self, prompt: str, *, images=(), max_tokens: int = 32) -> SimpleNamespace:
        """The likeliest answer; without a cache, the prompts being short."""
        llm = self.model.llm
        image = images[0] if len(images) else torch.zeros(0, self.model.config.llm_width)
        ids = list(self.tokens.question(prompt, True, len(images) > 0))
        out: list[int] = []
        prefix = torch.tensor(self.tokens.prefix)
        while len(out) < max_tokens:
            x = torch.cat([llm.embed(prefix), image, llm.embed(torch.tensor(ids + out))])[None]
            t = x.shape[1]
            h = llm(x, torch.arange(t)[None], torch.full((t, t), -1e9).triu(1)[None, None])
            token = int(llm.head(h[0, -1]).argmax())
            if token == self.end:
                break
            out.append(token)
        return SimpleNamespace(text=self.tk.decode(out))
