"""Laws of the random variables of an iteration, and among them the laws of dropout masks.

A mask eta is a random variable of mean 1 that multiplies a neuron's output. With zeta = eta - 1,
v = E zeta^2 and s = E zeta^3 / v, projecting zeta^2 on {1, zeta} gives

    zeta^2 = v + s zeta + chi,      E chi = E[chi zeta] = 0,      E chi^2 = E zeta^4 - v^2 - s^2 v.

The remainder chi vanishes exactly for laws on two values, which dropout has: eta in {0, 1/keep_prob}.
A law enters derivation and kernels through its central moments alone; parameters may be sympy symbols, so that the
symbolic derivation uses the same law as the numbers.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.arguments import KEEP_PROB, POSITIVE, Number, SymbolOr, checked

__all__ = ["BernoulliMasks", "FiniteMasks", "GaussianMasks", "Law", "MaskLaw", "UniformMasks", "all_masks"]

ROUNDING = 1e-12
"""Share of E zeta^4 under which E chi^2 counts as zero."""

MAX_MASKS = 2**22
"""Masks that an enumeration may visit."""

CHECKED_UNIFORMS = 2**16
"""Uniforms for which a law is checked."""

TOLERATED = {2: 0.1, 3: 0.5}
"""Relative differences of central moments: those of heavy-tailed laws are cut by the midpoint rule."""


class Law(ABC):
    """The law of one random variable X; those of different variables are independent."""

    @property
    @abstractmethod
    def mean(self) -> Any:
        """E X: a number or a sympy expression."""

    @abstractmethod
    def central_moment(self, j: int) -> Any:
        """E (X - E X)^j: a number, or a sympy expression where the law's parameters are symbols."""

    @property
    def support(self) -> tuple[list[Any], list[Any]] | None:
        """Values of X and their probabilities, or None where X takes infinitely many values."""
        return None


class MaskLaw(Law):
    """The law of one mask variable eta, E eta = 1; masks of different neurons are independent.

    A law of one's own defines `central_moment` and `quantile`, and `support` where eta takes finitely
    many values (enumeration needs it). Everything else follows.
    """

    mean = 1

    @abstractmethod
    def quantile(self, uniforms: Tensor) -> Tensor:
        """The value eta = F^{-1}(u) for each u in [0, 1), of the same shape: one uniform a mask."""

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
        fourth = self.central_moment(4)
        rest = fourth - self.variance**2 - self.skew**2 * self.variance
        # what rounding leaves of a law on two values that does not say so, which may be negative
        return 0.0 if isinstance(rest, Real) and rest <= ROUNDING * fourth else rest

    def check_moments(self) -> None:
        """Refuse a law whose quantile and central moments are not those of one law of mean 1.

        By the midpoint rule for 2^16 uniforms: it finds what is wrong by more than a few per cent of the law's spread.
        """
        if not isinstance(self.variance, Real):
            raise ValueError(f"{self!r} has symbols for parameters: kernels need a law of numbers.")
        uniforms = (torch.arange(CHECKED_UNIFORMS, dtype=torch.float64) + 0.5) / CHECKED_UNIFORMS
        masks = self.quantile(uniforms)
        mean, variance = float(masks.mean()), float(self.variance)
        spread = max(variance, float(masks.var())) ** 0.5
        name = type(self).__name__
        if not abs(mean - 1) <= 0.02 * spread + 1e-6:
            raise ValueError(f"masks must have mean 1, but {name}.quantile gives {mean:.4g}; divide it by that.")
        for j in (2, 3):
            found, stated = float(((masks - 1) ** j).mean()), float(self.central_moment(j))
            if not abs(found - stated) <= TOLERATED[j] * max(abs(stated), spread**j):
                raise ValueError(
                    f"masks must be of one law, but {name}.quantile has the central moment {found:.4g} of order {j} "
                    f"and {name}.central_moment({j}) gives {stated:.4g}; mend one of them."
                )

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Independent masks of the given shape (float64)."""
        return self.quantile(torch.from_numpy(rng.random(shape)))


class BernoulliMasks(MaskLaw):
    """Dropout: eta = 1/keep_prob with probability keep_prob, else 0.

    v = (1 - keep_prob)/keep_prob and s = 1/keep_prob - 2. keep_prob may be a sympy symbol: the symbolic
    derivation uses the same law as the numbers.
    """

    def __init__(self, keep_prob: Any) -> None:
        self.keep_prob = SymbolOr(KEEP_PROB)("keep_prob", keep_prob, {})

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


class GaussianMasks(MaskLaw):
    """eta = 1 + sqrt(variance) N(0, 1), Gaussian multiplicative noise (Srivastava et al., JMLR 2014, sec. 10).

    s = 0 and E chi^2 = 2 variance^2: m more Brownian motions than dropout has.
    """

    def __init__(self, variance: Any) -> None:
        self._variance = SymbolOr(POSITIVE)("variance", variance, {})

    def central_moment(self, j: int) -> Any:
        """E zeta^j = (j - 1)!! variance^(j/2) for even j, else 0."""
        return 0 if j % 2 else math.prod(range(1, j, 2)) * self._variance ** (j // 2)

    def quantile(self, uniforms: Tensor) -> Tensor:
        """1 + sqrt(variance) Phi^{-1}(u); u = 0, which 2^-53 of all uniforms are, is read as the least u above it."""
        return 1 + float(self._variance) ** 0.5 * torch.special.ndtri(uniforms.clamp(min=2.0**-54))

    def __repr__(self) -> str:
        return f"GaussianMasks(variance={self._variance})"


class UniformMasks(MaskLaw):
    """eta uniform on [1 - half_width, 1 + half_width]: variance half_width^2/3, s = 0."""

    def __init__(self, half_width: Any) -> None:
        self._half_width = SymbolOr(POSITIVE)("half_width", half_width, {})

    def central_moment(self, j: int) -> Any:
        """E zeta^j = half_width^j / (j + 1) for even j, else 0."""
        return 0 if j % 2 else self._half_width**j / (j + 1)

    def quantile(self, uniforms: Tensor) -> Tensor:
        """1 + half_width (2u - 1)."""
        return 1 + float(self._half_width) * (2 * uniforms - 1)

    def __repr__(self) -> str:
        return f"UniformMasks(half_width={self._half_width})"


class FiniteMasks(MaskLaw):
    """eta = values[i] with probability probabilities[i]; the mean must be 1.

    Raises:
        ValueError: values that are not distinct, probabilities that are not positive or do not add up to 1, another
            mean than 1.
    """

    @checked(values=SymbolOr(Number()), probabilities=SymbolOr(Number()))
    def __init__(self, values: Sequence[Any], probabilities: Sequence[Any]) -> None:
        self._values, self._probabilities = list(values), list(probabilities)
        if len(self._values) != len(self._probabilities):
            raise ValueError(
                f"values and probabilities must be of the same length, got {len(self._values)} and "
                f"{len(self._probabilities)}: give one probability for each value."
            )
        if len(set(self._values)) < len(self._values):
            raise ValueError(f"values must be distinct, got {self._values}: add up the probabilities of equal values.")
        if any(isinstance(q, Real) and not float(q) > 0 for q in self._probabilities):
            raise ValueError(
                f"probabilities must be positive, got {self._probabilities}: leave out values that are never taken."
            )
        total = sum(self._probabilities)
        if not _equals_one(total):
            raise ValueError(f"probabilities must add up to 1, got {total}: divide them by their sum.")
        mean = sum(q * value for value, q in zip(self._values, self._probabilities, strict=True))
        if not _equals_one(mean):
            raise ValueError(
                f"the mean of the masks must be 1, got {mean} for values {self._values}: divide the values by the mean."
            )

    def central_moment(self, j: int) -> Any:
        """E zeta^j = sum_i q_i (value_i - 1)^j."""
        return sum(q * (value - 1) ** j for value, q in zip(self._values, self._probabilities, strict=True))

    @property
    def support(self) -> tuple[list[Any], list[Any]]:
        """Values and probabilities as they were given."""
        return self._values, self._probabilities

    def quantile(self, uniforms: Tensor) -> Tensor:
        """values[i] where u lies between the cumulated probabilities i and i + 1."""
        values, probabilities = (
            torch.tensor([float(number) for number in part], dtype=uniforms.dtype, device=uniforms.device)
            for part in self.support
        )
        return values[torch.searchsorted(probabilities.cumsum(0)[:-1], uniforms, right=True)]

    def __repr__(self) -> str:
        return f"FiniteMasks(values={self._values}, probabilities={self._probabilities})"


def _equals_one(number: Any) -> bool:
    """Up to the rounding of floats; a sympy expression may be left to the derivation, which finds out."""
    return not isinstance(number, Real) or abs(float(number) - 1) < 1e-12


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
