"""Laws of the dropout masks.

A mask eta is a random variable of mean 1 that multiplies a neuron's output. With zeta = eta - 1,
v = E zeta^2 and s = E zeta^3 / v, projecting zeta^2 on {1, zeta} gives

    zeta^2 = v + s zeta + chi,      E chi = E[chi zeta] = 0,      E chi^2 = E zeta^4 - v^2 - s^2 v.

The remainder chi vanishes exactly for laws on two values, which dropout has: eta in {0, 1/keep_prob}.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BernoulliMasks", "MaskLaw", "all_masks"]

MAX_MASKS = 2**22
"""Masks that an enumeration may visit."""


class MaskLaw(ABC):
    """The law of one mask variable eta, E eta = 1; masks of different neurons are independent.

    A law of one's own defines `central_moment` and `quantile`, and `support` where eta takes finitely
    many values (enumeration needs it). Everything else follows.
    """

    @abstractmethod
    def central_moment(self, j: int) -> Any:
        """E (eta - 1)^j: a float, or a sympy expression where the law's parameters are symbols."""

    @abstractmethod
    def quantile(self, uniforms: Tensor) -> Tensor:
        """The value eta = F^{-1}(u) for each u in (0, 1), of the same shape: one uniform a mask."""

    @property
    def support(self) -> tuple[list[Any], list[Any]] | None:
        """Values of eta and their probabilities, or None where eta takes infinitely many values."""
        return None

    @property
    def variance(self) -> Any:
        """v = E zeta^2."""
        return self.central_moment(2)

    @property
    def skew(self) -> Any:
        """s = E zeta^3 / E zeta^2, the slope of zeta^2 on zeta (0 for masks that are always 1)."""
        variance = self.variance
        return self.central_moment(3) / variance if variance != 0 else 0.0

    @property
    def chi_variance(self) -> Any:
        """E chi^2: 0 for a law on two values, which then needs m fewer Brownian motions."""
        if self.support is not None and len(self.support[0]) <= 2:
            return 0.0
        return self.central_moment(4) - self.variance**2 - self.skew**2 * self.variance

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Independent masks of the given shape (float64)."""
        return self.quantile(torch.from_numpy(rng.random(shape)))


class BernoulliMasks(MaskLaw):
    """Dropout: eta = 1/keep_prob with probability keep_prob, else 0.

    v = (1 - keep_prob)/keep_prob and s = 1/keep_prob - 2. keep_prob may be a sympy symbol: the symbolic
    derivation uses the same law as the numbers.
    """

    def __init__(self, keep_prob: Any) -> None:
        if isinstance(keep_prob, Real) and not 0 < keep_prob <= 1:
            raise ValueError(
                f"keep_prob must lie in (0, 1], got {keep_prob}: it is the probability that a neuron is kept "
                "(torch.nn.Dropout's p is 1 - keep_prob)."
            )
        self.keep_prob = keep_prob

    def central_moment(self, j: int) -> Any:
        """E zeta^j = (1 - keep) (-1)^j + keep (1/keep - 1)^j."""
        keep = self.keep_prob
        return (1 - keep) * (-1) ** j + keep * (1 / keep - 1) ** j

    @property
    def support(self) -> tuple[list[Any], list[Any]]:
        """0 and 1/keep_prob."""
        return [0, 1 / self.keep_prob], [1 - self.keep_prob, self.keep_prob]

    def quantile(self, uniforms: Tensor) -> Tensor:
        """0 for u < 1 - keep_prob, else 1/keep_prob."""
        return (uniforms >= 1 - self.keep_prob).to(uniforms.dtype) / self.keep_prob

    def __repr__(self) -> str:
        return f"BernoulliMasks(keep_prob={self.keep_prob})"


def all_masks(law: MaskLaw, count: int) -> tuple[Tensor, Tensor]:
    """All values (K, count) of `count` independent mask variables and their probabilities (K,), for laws with support.

    Raises:
        ValueError: the law has infinitely many values, or there are more than 2^22 masks.
    """
    if law.support is None:
        raise ValueError(f"{law!r} takes infinitely many values and cannot be enumerated; use Monte Carlo.")
    values, probabilities = law.support
    if len(values) ** count > MAX_MASKS:
        raise ValueError(f"{len(values)}^{count} masks are more than {MAX_MASKS}; take a narrower network.")
    masks = torch.tensor(list(itertools.product(values, repeat=count)), dtype=torch.float64)
    weights = torch.tensor(list(itertools.product(probabilities, repeat=count)), dtype=torch.float64)
    return masks, weights.prod(-1)
