"""Keyed random numbers: every draw is named, none depends on what was drawn before it.

The uniforms behind the masks and the normals behind the Brownian motions are keyed by (seed, stream, path block, step)
through `numpy.random.SeedSequence`. A result therefore does not depend on how paths are split into batches, on the
number of workers or on an interruption, and the two streams are independent.

All draws are made by numpy on the CPU, in float64, and moved to the device and dtype of the problem: CPU and GPU,
float64 and float32 see the same draws. What is computed from them differs between devices only by rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["STREAMS", "keyed_generator", "keyed_normals", "keyed_uniforms"]

STREAMS = {"masks": 0, "normals": 1, "gradients": 2, "defects": 3, "warm": 4, "areas": 5}
"""Each use of randomness has a stream of its own."""


def keyed_generator(seed: int, stream: str, block: int = 0, step: int = 0) -> np.random.Generator:
    """Return the generator of one key (SFC64); it takes some 15 microseconds."""
    key = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], block, step))
    return np.random.Generator(np.random.SFC64(key))


def keyed_uniforms(shape: tuple[int, ...], seed: int, block: int, step: int) -> Tensor:
    """Return uniforms in [0, 1) for the masks of one block of paths at one step (float64)."""
    return torch.from_numpy(keyed_generator(seed, "masks", block, step).random(shape))


def keyed_normals(shape: tuple[int, ...], seed: int, block: int, step: int, stream: str = "normals") -> Tensor:
    """Return standard normals for the Brownian motions of one block of paths over one step (float64).

    The stream "areas" has those of their time integrals, independent of the increments.
    """
    return torch.from_numpy(keyed_generator(seed, stream, block, step).standard_normal(shape))
