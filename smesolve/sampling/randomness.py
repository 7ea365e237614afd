"""Keyed random numbers: every draw is named, none depends on what was drawn before it.

The uniforms behind the masks and the normals behind the Brownian motions are keyed by (seed, stream, path block, step)
through `numpy.random.SeedSequence`. A result therefore does not depend on how paths are split into batches, on the
number of workers or on an interruption, and the two streams are independent.

A `SeedSequence` hashes its words one after the other into a pool of four. Keys of the same path block differ in the
last word, the step, so numpy makes the pool of the words before it, and the last word is hashed here for `CHUNK` steps
at once (O'Neill, "Developing a seed_seq alternative", 2015; the constants are those of numpy, whose streams are fixed).
A test holds the result to numpy's.

All draws are made by numpy on the CPU, in float64, and moved to the device and dtype of the problem: CPU and GPU,
float64 and float32 see the same draws. What is computed from them differs between devices only by rounding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

__all__ = ["STREAMS", "keyed_generator", "keyed_normals", "keyed_uniforms"]

STREAMS = {"masks": 0, "normals": 1, "gradients": 2, "defects": 3, "warm": 4, "areas": 5}
"""Each use of randomness has a stream of its own."""


CHUNK = 64
"""Number of consecutive steps whose seeds are hashed together."""

POOL = 4
"""Number of 32-bit words in the pool of a `SeedSequence`."""

STATE_WORDS = 6
"""Number of 32-bit words in the seed of SFC64."""

WORD, HALF = 2**32, np.uint32(16)

POOL_HASH, STATE_HASH = (0x43B0D7E5, 0x931E8875), (0x8B51F9DD, 0x58F38DED)
"""First hash constant and the factor to the next one: for words that enter the pool, and for words read from it."""

MIX = np.array([[0xCA01F9DD], [0x4973F715]], dtype=np.uint32)


class _Seed(ISeedSequence):
    """The seed of one SFC64 generator, computed beforehand."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the seed (3,) uint64, which is all that SFC64 asks for."""
        assert n_words == len(self._words) and dtype == self._words.dtype
        return self._words


def keyed_generator(seed: int, stream: str, block: int = 0, step: int = 0) -> np.random.Generator:
    """Return the generator (SFC64) of `SeedSequence(seed, spawn_key=(stream's number, block, step))`.

    Cost: about 1 microsecond, where numpy takes 10 for the whole hash.
    """
    if step >= WORD:
        key: ISeedSequence = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], block, step))
    else:
        key = _Seed(_seeds(seed, stream, block, step // CHUNK)[step % CHUNK])
    return np.random.Generator(np.random.SFC64(cast(np.random.SeedSequence, key)))  # numpy's stubs know no interface


@lru_cache(maxsize=1024)
def _seeds(seed: int, stream: str, block: int, chunk: int) -> np.ndarray:
    """Return the seeds (CHUNK, 3) uint64 of the steps from `chunk` times CHUNK on."""
    pool = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], block)).pool[:, None]
    steps = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.uint32)
    hashed_before = POOL * (max(POOL, _word_count(seed)) + 1 + _word_count(block))
    pool = MIX[0] * pool - MIX[1] * _hashed(steps, _constants(*POOL_HASH, hashed_before, POOL + 1))
    pool = pool ^ (pool >> HALF)
    state = _hashed(np.resize(pool, (STATE_WORDS, CHUNK)), _constants(*STATE_HASH, 0, STATE_WORDS + 1))
    low, high = state[::2].astype(np.uint64), state[1::2].astype(np.uint64)
    seeds: np.ndarray = np.ascontiguousarray((low | (high << np.uint64(32))).T)  # SFC64 reads the memory of a row
    return seeds


def _hashed(words: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """Return the hashes (K, CHUNK) uint32 of words by K + 1 constants (K + 1, 1), modulo 2^32."""
    products = (words ^ constants[:-1]) * constants[1:]
    hashed: np.ndarray = products ^ (products >> HALF)
    return hashed


def _constants(start: int, factor: int, begin: int, count: int) -> np.ndarray:
    """Return start factor^k, k = begin, ..., begin + count - 1, modulo 2^32: (count, 1) uint32."""
    powers = [start * pow(factor, k, WORD) % WORD for k in range(begin, begin + count)]
    return np.array(powers, dtype=np.uint32)[:, None]


def _word_count(number: int) -> int:
    """Return the number of 32-bit words in which numpy writes a number."""
    return max(1, -(-number.bit_length() // 32))


def keyed_uniforms(shape: tuple[int, ...], seed: int, block: int, step: int) -> Tensor:
    """Return uniforms in [0, 1) for the masks of one block of paths at one step (float64)."""
    return torch.from_numpy(keyed_generator(seed, "masks", block, step).random(shape))


def keyed_normals(shape: tuple[int, ...], seed: int, block: int, step: int, stream: str = "normals") -> Tensor:
    """Return standard normals for the Brownian motions of one block of paths over one step (float64).

    The stream "areas" holds the normals of their time integrals, which are independent of the increments.
    """
    return torch.from_numpy(keyed_generator(seed, stream, block, step).standard_normal(shape))
