"""Evens out a vision tower's channels before its matrices are quantised, without changing the function.

A channel whose activations reach far (an outlier channel) has small weights behind it, and both sides suffer
when numbers in 8 or 4 bits share scales: the weights vanish beside those of other channels, and the
activations push all others down (SmoothQuant, arXiv 2211.10438). Dividing a channel's activations and
multiplying its weights by the same factor changes nothing in exact arithmetic:

    LayerNorm -> Q, K, V      the norm's weight and bias are divided, the matrices' columns multiplied
    LayerNorm -> FFN up       likewise
    V -> attention output     V's rows and bias are divided (attention is linear in V), the columns multiplied

Factors are powers of two, so nothing is rounded either; where no channel stands out they are all 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..checkpoint.directory import Checkpoint, Float32
from ..tensors import TensorSpec

LIMIT = 12  # factors from 2^-12 to 2^12


def factors(activations: Float32, weights: Float32) -> Float32:
    """Powers of two near sqrt(activation / weight), around a median of 1.

    Args:
        activations: how far each channel's activations reach.
        weights: how far its weights reach. Zeros count as very little, not as nothing.
    """
    with np.errstate(divide="ignore"):
        exponents = np.log2(_floored(activations) / _floored(weights)) / 2
    exponents -= np.median(exponents)
    result: Float32 = np.exp2(np.clip(np.round(exponents), -LIMIT, LIMIT)).astype(np.float32)
    return result


def _floored(values: Float32) -> Float32:
    largest = float(values.max(initial=0))
    floored: Float32 = np.maximum(values, largest * 1e-4 if largest > 0 else 1)
    return floored


def rebalance(checkpoint: Checkpoint, specs: list[TensorSpec]) -> list[TensorSpec]:
    """The tensor table of a vision file, with every block's channels evened out as the tensors are read."""
    table = {spec.name: spec for spec in specs}

    def read(name: str) -> Float32:
        return table[name].load(checkpoint)

    def scale(name: str, by: Callable[[], Float32], *, rows: bool) -> None:
        original = scaled[name].transform

        def transform(values: Float32, *others: Float32) -> Float32:
            if original is not None:
                values = original(values, *others)
            if rows:  # of a matrix, or the elements of a vector
                f = by()[: len(values)]
                return values / (f[:, None] if values.ndim == 2 else f)
            return values * by()[None, :]

        spec = scaled[name]
        scaled[name] = replace(spec, transform=transform, out_shape=spec.stored_shape, row_wise=False)

    scaled = dict(table)
    n_blocks = sum(name.endswith(".ln1.weight") for name in table)
    for i in range(n_blocks):
        blk = f"v.blk.{i}"
        for norm, matrices in (("ln1", ("attn_q", "attn_k", "attn_v")), ("ln2", ("ffn_up",))):
            weight, bias = f"{blk}.{norm}.weight", f"{blk}.{norm}.bias"
            behind = [f"{blk}.{matrix}.weight" for matrix in matrices]

            def of_norm(weight: str = weight, bias: str = bias, behind: list[str] = behind) -> Float32:
                reach = 3 * np.abs(read(weight)) + np.abs(read(bias))  # a normalised value is about -3..3
                return factors(reach, np.max([np.abs(read(name)).max(axis=0) for name in behind], axis=0))

            by = functools.cache(of_norm)
            scale(weight, by, rows=True)
            scale(bias, by, rows=True)
            for name in behind:
                scale(name, by, rows=False)

        def of_values(blk: str = blk) -> Float32:
            v, gain = read(f"{blk}.attn_v.weight"), read(f"{blk}.ln1.weight")
            mean = v @ read(f"{blk}.ln1.bias") + read(f"{blk}.attn_v.bias")
            reach = np.abs(mean) + 2 * np.sqrt(np.square(v * gain).sum(axis=1))
            return factors(reach, np.abs(read(f"{blk}.attn_out.weight")).max(axis=0))

        by = functools.cache(of_values)
        scale(f"{blk}.attn_v.weight", by, rows=True)
        scale(f"{blk}.attn_v.bias", by, rows=True)
        scale(f"{blk}.attn_out.weight", by, rows=False)
    return [scaled[spec.name] for spec in specs]
