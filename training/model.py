"""The demo model in torch: SigLIP ViT, 2x2 token downsampler, two-layer MLP, Llama decoder.

Compact modules for training; export.py writes them under the names of transformers and checks that both
agree. The ViT and the decoder also run on windows of a tile: positions are passed in.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

PATCH, SIDE, CELLS = 14, 27, 14  # pixels a patch, patches a side, tokens a side after the 2x2 merge


@dataclass
class Config:
    vit_width: int = 192
    vit_layers: int = 5
    vit_heads: int = 6
    vit_ffn: int = 768
    proj_hidden: int = 768
    llm_width: int = 256
    llm_layers: int = 5
    llm_heads: int = 4
    llm_ffn: int = 512
    vocab: int = 0
    rope_theta: float = 10000.0
    pos_dims: int = (
        64  # the last channels of the ViT start out as the 2-D sin-cos position, the rest as the patch
    )

    as_dict = asdict


PRESETS = {
    "cpu": Config(),
    "cuda": Config(
        vit_width=384,
        vit_layers=8,
        vit_heads=12,
        vit_ffn=1536,
        proj_hidden=1024,
        llm_width=512,
        llm_layers=6,
        llm_heads=8,
        llm_ffn=1536,
        pos_dims=64,
    ),
}


def sincos(pos_dims: int) -> torch.Tensor:
    """[27, 27, pos_dims]: for 8 (pos_dims / 8) frequencies sin and cos of the row, then of the column."""
    n = pos_dims // 4
    freq = math.pi * 0.55 * (0.06 ** (torch.arange(n) / (n - 1)))
    angle = torch.arange(SIDE)[:, None] * freq[None]
    axis = torch.cat([angle.sin(), angle.cos()], -1) * math.sqrt(2)
    return torch.cat([axis[:, None].expand(SIDE, SIDE, -1), axis[None].expand(SIDE, SIDE, -1)], -1), freq


def dct_basis(count: int) -> torch.Tensor:
    """[count, 3 * 14 * 14] rows of low 2-D cosine frequencies of luma, then blue-yellow and red-green."""
    n = PATCH
    k = torch.arange(n)
    c = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / n)
    c = c / c.norm(dim=1, keepdim=True)
    order = sorted(
        ((u, v) for u in range(n) for v in range(n)), key=lambda p: (p[0] + p[1], abs(p[0] - p[1]))
    )
    colour = torch.tensor([[0.577, 0.577, 0.577], [0.41, 0.41, -0.816], [0.707, -0.707, 0.0]])
    luma = count // 2
    rest = (count - luma + 1) // 2
    rows = []
    for channel, m in ((0, luma), (1, rest), (2, count - luma - rest)):
        rows += [torch.einsum("c,y,x->cyx", colour[channel], c[u], c[v]).reshape(-1) for u, v in order[:m]]
    return torch.stack(rows)


def attention(q, k, v, mask=None):
    """Softmax attention, [B, H, T, head_dim]; mask is added to the scores.

    On CPUs two bf16 matmuls (AMX) beat the fused kernel, whose backward pass does not use them: 11 against
    95 ms for [48, 6, 100, 32] on one core.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ v


class VitBlock(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        d = c.vit_width
        self.heads = c.vit_heads
        self.ln1, self.ln2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(d, d) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(d, c.vit_ffn), nn.Linear(c.vit_ffn, d)

    def forward(self, x):
        n, t, d = x.shape
        y = self.ln1(x)
        q, k, v = (f(y).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(attention(q, k, v).transpose(1, 2).reshape(n, t, d))
        return x + self.fc2(F.gelu(self.fc1(self.ln2(x)), approximate="tanh"))


class Vit(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.patch = nn.Linear(3 * PATCH * PATCH, c.vit_width)
        self.pos = nn.Parameter(torch.zeros(SIDE, SIDE, c.vit_width))
        self.blocks = nn.ModuleList(VitBlock(c) for _ in range(c.vit_layers))

    def forward(self, pixels, rows, cols):
        """pixels [N, 14 h, 14 w, 3] in -1..1; rows, cols [N]: the window's first patch -> [N, h, w, D]."""
        n, hh, ww, _ = pixels.shape
        h, w = hh // PATCH, ww // PATCH
        x = (
            pixels[:, : h * PATCH, : w * PATCH]
            .reshape(n, h, PATCH, w, PATCH, 3)
            .permute(0, 1, 3, 5, 2, 4)
            .reshape(n, h, w, -1)
        )
        i = rows[:, None, None] + torch.arange(h, device=x.device)[None, :, None]
        j = cols[:, None, None] + torch.arange(w, device=x.device)[None, None, :]
        x = self.patch(x) + self.pos[i, j]
        x = x.view(n, h * w, -1)
        for block in self.blocks:
            x = block(x)
        return x.view(n, h, w, -1)


class Projector(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.linear_1 = nn.Linear(4 * c.vit_width, c.proj_hidden)
        self.linear_2 = nn.Linear(c.proj_hidden, c.llm_width)

    def forward(self, x):
        """[N, h, w, D] -> [N, cells, n_embd]; an odd side gets one zero row or column at the end."""
        n, h, w, d = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        h, w = (h + 1) // 2, (w + 1) // 2
        x = x.view(n, h, 2, w, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(n, h * w, 4 * d)
        return self.linear_2(F.gelu(self.linear_1(x)))


class RmsNorm(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


class LlmBlock(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        d = c.llm_width
        self.heads = c.llm_heads
        self.n1, self.n2 = RmsNorm(d), RmsNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(d, c.llm_ffn, bias=False), nn.Linear(d, c.llm_ffn, bias=False)
        self.down = nn.Linear(c.llm_ffn, d, bias=False)

    def forward(self, x, cos, sin, mask):
        n, t, d = x.shape
        y = self.n1(x)
        q, k, v = (f(y).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        half = q.shape[-1] // 2
        q, k = (a * cos + torch.cat([-a[..., half:], a[..., :half]], -1) * sin for a in (q, k))
        y = attention(q, k, v, mask)
        x = x + self.o(y.transpose(1, 2).reshape(n, t, d))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llm(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.embed = nn.Embedding(c.vocab, c.llm_width)
        self.blocks = nn.ModuleList(LlmBlock(c) for _ in range(c.llm_layers))
        self.norm = RmsNorm(c.llm_width)
        self.head = nn.Linear(c.llm_width, c.vocab, bias=False)
        self.head_dim, self.theta = c.llm_width // c.llm_heads, c.rope_theta

    def forward(self, x, pos, mask):
        """x [B, T, n_embd], pos [B, T], mask [B, 1, T, T] (added to the scores) -> normed hidden states."""
        exponent = torch.arange(0, self.head_dim, 2, device=x.device) / self.head_dim
        angle = pos[..., None].float() * self.theta**-exponent  # float32, whatever the weights are
        angle = torch.cat([angle, angle], -1)[:, None]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.norm(x)


class AuxHeads(nn.Module):
    """Dense targets for training, thrown away at export."""

    def __init__(self, c: Config, sizes: dict[str, int], patch: dict[str, int]):
        super().__init__()
        self.cell_norm, self.patch_norm = RmsNorm(c.llm_width), nn.LayerNorm(c.vit_width)
        self.cell = nn.ModuleDict({k: nn.Linear(c.llm_width, n) for k, n in sizes.items()})
        self.patch = nn.ModuleDict({k: nn.Linear(c.vit_width, n) for k, n in patch.items()})


class Demo(nn.Module):
    def __init__(self, c: Config, cell_sizes: dict[str, int], patch_sizes: dict[str, int]):
        super().__init__()
        self.config = c
        self.vit, self.proj, self.llm = Vit(c), Projector(c), Llm(c)
        self.aux = AuxHeads(c, cell_sizes, patch_sizes)

    @torch.no_grad()
    def initialise(self, sample: torch.Tensor):
        """`sample`: pixels [N, h, w, 3] in -1..1, for the scale of the patch embedding."""
        c = self.config
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=1 / math.sqrt(m.in_features))
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for blocks, names in ((self.vit.blocks, ("out", "fc2")), (self.llm.blocks, ("o", "down"))):
            for b in blocks:
                for name in names:
                    getattr(b, name).weight.mul_(0.5 / math.sqrt(len(blocks)))
        for head in (*self.aux.cell.values(), *self.aux.patch.values()):
            nn.init.zeros_(head.weight)
        nn.init.normal_(self.llm.embed.weight, std=0.5)
        nn.init.normal_(self.llm.head.weight, std=0.02)
        content = c.vit_width - c.pos_dims
        basis = dct_basis(content)
        n, hh, ww, _ = sample.shape
        h, w = hh // PATCH, ww // PATCH
        x = (
            sample[:, : h * PATCH, : w * PATCH]
            .reshape(n, h, PATCH, w, PATCH, 3)
            .permute(0, 1, 3, 5, 2, 4)
            .reshape(-1, 588)
        )
        y = x @ basis.T
        std, mean = y.std(0), y.mean(0)
        scale = 0.8 / std.clamp(min=std.max() * 0.004)
        self.vit.patch.weight.zero_()
        self.vit.patch.weight[:content] = basis * scale[:, None]
        self.vit.patch.bias.zero_()
        self.vit.patch.bias[:content] = -mean * scale
        table, freq = sincos(c.pos_dims)
        self.vit.pos.zero_()
        self.vit.pos[..., content:] = table
        # Heads that look at a neighbour: q holds the position turned by the offset, k the position itself.
        offsets = [
            [(0, -1), (0, 1), (-1, 0), (1, 0), (0, 0)],
            [(-2, -1), (1, -2), (2, 1), (-1, 2)],
            [(-3, 0), (0, 3), (3, 0), (0, -3)],
        ]
        hd, m = c.vit_width // c.vit_heads, c.pos_dims // 4
        pairs = min(hd // 4, m)  # sin-cos pairs an axis that fit into the head
        chosen = torch.linspace(0, m - 1, pairs).round().long()
        for block, heads in zip(self.vit.blocks, offsets, strict=False):
            for h, (dy, dx) in enumerate(heads):
                q, k = torch.zeros(hd, c.vit_width), torch.zeros(hd, c.vit_width)
                row = 0
                for axis, d in ((0, dy), (1, dx)):
                    base = content + axis * 2 * m
                    for f in chosen.tolist():
                        s, co = base + f, base + m + f
                        cos, sin = math.cos(d * freq[f].item()), math.sin(d * freq[f].item())
                        q[row, s], q[row, co] = cos, sin  # sin(x + d)
                        q[row + 1, co], q[row + 1, s] = cos, -sin  # cos(x + d)
                        k[row, s] = k[row + 1, co] = 1.0
                        row += 2
                gain = 1.6
                block.q.weight[h * hd : (h + 1) * hd] = q * gain
                block.k.weight[h * hd : (h + 1) * hd] = k * gain

    def encode(self, pixels, rows, cols):
        features = self.vit(pixels, rows, cols)
        return features, self.proj(features)

    def answer_states(self, image, image_pos, prefix, qa_ids, qa_pos, qa_seg):
        """Hidden states of the packed questions and answers, each of which sees the image and itself only.

        image [B, N, n_embd], image_pos [B, N], prefix [P] ids, qa_* [B, T] -> [B, T, n_embd]
        """
        b, n = image_pos.shape
        t, p = qa_ids.shape[1], prefix.shape[0]
        x = torch.cat(
            [
                self.llm.embed(prefix)[None].expand(b, -1, -1),
                image.to(self.llm.embed.weight.dtype),
                self.llm.embed(qa_ids),
            ],
            1,
        )
        pos = torch.cat([torch.arange(p, device=x.device)[None].expand(b, -1), image_pos, qa_pos], 1)
        total = p + n + t
        seg = torch.cat([torch.zeros(b, p + n, dtype=torch.long, device=x.device), qa_seg], 1)
        causal = torch.ones(total, total, dtype=torch.bool, device=x.device).tril()
        mask = ((seg[:, None, :] == 0) | (seg[:, None, :] == seg[:, :, None])) & causal
        mask = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill_(~mask, -1e9)
        return self.llm(x, pos, mask[:, None])[:, p + n :]
