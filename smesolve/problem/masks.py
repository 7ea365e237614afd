"""Laws of the random variables of an iteration, in particular of dropout masks.

A mask eta is a random variable of mean 1 that multiplies a neuron's output. With zeta = eta - 1,
v = E zeta^2 and s = E zeta^3 / v, projecting zeta^2 on {1, zeta} gives

    zeta^2 = v + s zeta + chi,      E chi = E[chi zeta] = 0,      E chi^2 = E zeta^4 - v^2 - s^2 v.

The remainder chi vanishes for laws on at most two values, such as dropout with eta in {0, 1/keep_prob}, and for no
others. A law enters derivation and kernels through its central moments only. Its parameters may be sympy symbols, so
that the symbolic derivation uses the same law as the numerical kernels.
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

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.quantile_moments import QuantileMoments, quantile_moments
from smesolve.validation import check_expression, check_integer, check_keep_prob, check_list, check_positive

__all__ = [
    "BernoulliMasks",
    "FiniteMasks",
    "GaussianMasks",
    "Law",
    "MaskLaw",
    "UniformMasks",
    "all_masks",
    "standard_normals",
]

ROUNDING = 1e-12
"""Relative size of rounding errors: of E chi^2 = 0 relative to E zeta^4, and of the values of a mask."""

MAX_MASKS = 2**22
"""Largest number of masks that an enumeration may visit."""

HIGHEST_MOMENT = 4
"""Order of the highest central moment that losses, gradients and their noise depend on, by `MaskLaw.chi_variance`."""

TOLERATED = 1e-4
"""Tolerated relative difference between a stated moment and the moment of the quantile, beside its error bound."""

DECIDED = 5e-3
"""Relative error bound above which a moment cannot be checked."""

NEGLIGIBLE = 1e-3
"""Share of E |zeta|^j that replaces smaller central moments of order j as the scale of a comparison."""

LEAST_PROBABILITY = 2.0**-43
"""Smallest probability of a value. Uniforms are multiples of 2^-53, so smaller ones would be off by more than 0.1%."""


class Law(ABC):
    """The law of one random variable X. Different variables are independent."""

    @property
    @abstractmethod
    def mean(self) -> Any:
        """E X: a number or a sympy expression."""

    @abstractmethod
    def central_moment(self, j: int) -> Any:
        """Return E (X - E X)^j: a number, or a sympy expression where the law's parameters are symbols."""

    @property
    def support(self) -> tuple[list[Any], list[Any]] | None:
        """Values of X and their probabilities, or None where X takes infinitely many values."""
        return None


class MaskLaw(Law):
    """The law of one mask eta with E eta = 1. Masks of different neurons are independent.

    A law of your own defines `central_moment` and `quantile`, and `support` if eta takes finitely many values
    (enumeration needs it). Everything else has a default.
    """

    mean = 1

    @abstractmethod
    def quantile(self, uniforms: Tensor) -> Tensor:
        """Return eta = F^{-1}(u) for each u in [0, 1), of the same shape: one uniform per mask."""

    @property
    def variance(self) -> Any:
        """v = E zeta^2."""
        return self.central_moment(2)

    @property
    def skew(self) -> Any:
        """s = E zeta^3 / E zeta^2, the slope in the regression of zeta^2 on zeta (0 for masks that are always 1)."""
        variance = self.variance
        return self.central_moment(3) / variance if variance != 0 else 0.0

    @property
    def chi_variance(self) -> Any:
        """E chi^2: 0 for a law on two values, which then needs m fewer Brownian motions."""
        if self.support is not None and len(self.support[0]) <= 2:
            return 0.0
        fourth = self.central_moment(4)
        rest = fourth - self.variance**2 - self.skew**2 * self.variance
        # Rounding leaves such a rest, which may be negative, for a law on two values that does not state its support.
        return 0.0 if isinstance(rest, Real) and rest <= ROUNDING * fourth else rest

    def check_moments(self) -> None:
        """Check that quantile, central moments and support belong to one law of mean 1.

        All moments that the package needs are compared, up to rounding and the error bound of `quantile_moments`.

        Raises:
            SmesolveError: they disagree, or the moments of the quantile cannot be computed accurately enough to decide.
        """
        name = type(self).__name__
        stated = [self._finite_moment(j) for j in range(2, HIGHEST_MOMENT + 1)]
        found = quantile_moments(self._checked_quantile, HIGHEST_MOMENT)
        mean, bound = 1 + float(found.values[0]), float(found.bounds[0])
        if not abs(mean - 1) <= bound + TOLERATED * min(1.0, float(found.absolute[0])):
            raise SmesolveError(f"law must have mean 1, but {name}.quantile gives {mean:.6g}; divide it by that.")
        for j, moment in enumerate(stated, start=2):
            value, bound, scale = (
                float(array[j - 1]) for array in (found.values, found.bounds, NEGLIGIBLE * found.absolute)
            )
            if not abs(value - moment) <= bound + TOLERATED * max(abs(moment), scale):
                raise SmesolveError(
                    f"law must be consistent, but {name}.quantile has the central moment {value:.6g} of order {j} "
                    f"and {name}.central_moment({j}) gives {moment:.6g}; correct one of them."
                )
            if not bound <= DECIDED * max(abs(moment), scale):
                raise SmesolveError(
                    f"law must be consistent, but whether the central moment {moment:.6g} of order {j} of {name} is "
                    f"that of its quantile cannot be decided: {value:.6g} +- {bound:.2g} comes from uniforms of 53 "
                    "bits; take a law with lighter tails, or one that differs from 1 by more than rounding."
                )
        if self.support is not None:
            self._check_support(found, [1.0, 0.0, *stated])

    def _finite_moment(self, j: int) -> float:
        """Return a central moment as a number."""

        def given() -> Any:
            try:
                return self.central_moment(j)
            except ArithmeticError:  # OverflowError, or numpy's FloatingPointError
                return math.inf

        moment = call_of_user(f"{type(self).__name__}.central_moment", given)
        if getattr(moment, "free_symbols", None):
            raise SmesolveError(f"{self!r} has symbols for parameters: kernels need a law of numbers.")
        moment = call_of_user(f"{type(self).__name__}.central_moment", float, moment)
        if not math.isfinite(moment):
            raise SmesolveError(
                f"law must have finite central moments up to order {HIGHEST_MOMENT}, but that of order {j} of "
                f"{self!r} is {moment}; take masks that spread less."
            )
        return float(moment)

    def _checked_quantile(self, uniforms: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(uniforms)
        masks = call_of_user(f"{type(self).__name__}.quantile", self.quantile, given)
        if not isinstance(masks, Tensor) or masks.shape != given.shape or masks.dtype != given.dtype:
            raise SmesolveError(
                f"{type(self).__name__}.quantile must map uniforms to masks, a tensor of the same shape and dtype, got "
                f"{shown(masks)} from {shown(given)}; let it act on each uniform."
            )
        return masks.numpy()

    def _check_support(self, found: QuantileMoments, moments: Sequence[float]) -> None:
        """Check that the support agrees with moments and quantile."""
        name = type(self).__name__
        support: Any = self.support
        values, probabilities = (np.array([float(number) for number in part]) for part in support)
        for j, given in enumerate(moments):
            terms = probabilities * (values - 1) ** j
            moment, scale = float(terms.sum()), float(np.abs(terms).sum())
            rounding = (
                j * ROUNDING * float((probabilities * np.abs(values) * np.abs(values - 1) ** max(j - 1, 0)).sum())
            )
            if not abs(moment - given) <= rounding + TOLERATED**2 * scale:
                raise SmesolveError(
                    f"law must be consistent, but {name}.support has the central moment {moment:.6g} of order {j} "
                    f"where {given:.6g} is right by {name}.central_moment; correct one of them."
                )
        order = np.argsort(values)
        place = np.searchsorted(values[order][:-1] + np.diff(values[order]) / 2, found.points)
        nearest = values[order][place]
        strange = np.abs(found.points - nearest) > ROUNDING * (1 + np.abs(nearest))
        if strange.any():
            raise SmesolveError(
                f"law must be consistent, but {name}.quantile takes the value {found.points[strange][0]:.6g}, which "
                f"{name}.support does not hold; correct one of them."
            )
        frequencies = np.bincount(place, found.weights, len(values))
        for value, given, frequency in zip(values[order], probabilities[order], frequencies, strict=True):
            if not abs(frequency - given) <= found.undecided + TOLERATED * given:
                raise SmesolveError(
                    f"law must be consistent, but {name}.quantile takes the value {value:.6g} with probability "
                    f"{frequency:.6g} and {name}.support gives {given:.6g}; correct one of them."
                )

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Return independent masks of the given shape (float64)."""
        return self.quantile(torch.from_numpy(rng.random(shape)))


class BernoulliMasks(MaskLaw):
    """Dropout: eta = 1/keep_prob with probability keep_prob, else 0.

    v = (1 - keep_prob)/keep_prob and s = 1/keep_prob - 2.

    Args:
        keep_prob: number in (0, 1], or a sympy expression.

    Raises:
        SmesolveError: keep_prob is outside (0, 1], or too small for uniforms of 53 bits.
    """

    def __init__(self, keep_prob: Any) -> None:
        self.keep_prob = check_expression("keep_prob", keep_prob, check_keep_prob)
        if isinstance(keep_prob, Real) and float(keep_prob) < LEAST_PROBABILITY:
            raise SmesolveError(
                f"keep_prob must be at least {LEAST_PROBABILITY:.2g}, got {keep_prob}: masks are drawn from uniforms "
                "of 53 bits, which keep a neuron less often or never; take a larger one."
            )

    def central_moment(self, j: int) -> Any:
        """Return E zeta^j = (1 - keep) (-1)^j + keep (1/keep - 1)^j."""
        check_integer("j", j, 0)
        keep = self.keep_prob
        return (1 - keep) * (-1) ** j + keep * (1 / keep - 1) ** j

    @property
    def support(self) -> tuple[list[Any], list[Any]]:
        """0 and 1/keep_prob."""
        return [0, 1 / self.keep_prob], [1 - self.keep_prob, self.keep_prob]

    def quantile(self, uniforms: Tensor) -> Tensor:
        """Return 0 for u < 1 - keep_prob, else 1/keep_prob."""
        # in place: booleans, and their conversion, would take twice as long
        kept: Tensor = uniforms.clone().ge_(1 - self.keep_prob)
        return kept.div_(float(self.keep_prob))

    def __repr__(self) -> str:
        return f"BernoulliMasks(keep_prob={self.keep_prob})"


def standard_normals(uniforms: Tensor) -> Tensor:
    """Return Phi^{-1}(u) for uniforms in [0, 1); u = 0, of probability 2^-53, is read as 2^-54."""
    normals: Tensor = torch.special.ndtri(uniforms.clamp(min=2.0**-54))
    return normals


class GaussianMasks(MaskLaw):
    """eta = 1 + sqrt(variance) N(0, 1), Gaussian multiplicative noise (Srivastava et al., JMLR 2014, sec. 10).

    s = 0 and E chi^2 = 2 variance^2, so that m more Brownian motions are needed than for dropout.

    Args:
        variance: positive number, or a sympy expression.
    """

    def __init__(self, variance: Any) -> None:
        self._variance = check_expression("variance", variance, check_positive)

    def central_moment(self, j: int) -> Any:
        """Return E zeta^j = (j - 1)!! variance^(j/2) for even j, else 0."""
        check_integer("j", j, 0)
        return 0 if j % 2 else math.prod(range(1, j, 2)) * self._variance ** (j // 2)

    def quantile(self, uniforms: Tensor) -> Tensor:
        """Return 1 + sqrt(variance) Phi^{-1}(u)."""
        return 1 + float(self._variance**0.5) * standard_normals(uniforms)

    def __repr__(self) -> str:
        return f"GaussianMasks(variance={self._variance})"


class UniformMasks(MaskLaw):
    """eta uniform on [1 - half_width, 1 + half_width]: variance half_width^2/3, s = 0.

    Args:
        half_width: positive number, or a sympy expression.
    """

    def __init__(self, half_width: Any) -> None:
        self._half_width = check_expression("half_width", half_width, check_positive)

    def central_moment(self, j: int) -> Any:
        """Return E zeta^j = half_width^j / (j + 1) for even j, else 0."""
        check_integer("j", j, 0)
        return 0 if j % 2 else self._half_width**j / (j + 1)

    def quantile(self, uniforms: Tensor) -> Tensor:
        """Return 1 + half_width (2u - 1)."""
        return 1 + float(self._half_width) * (2 * uniforms - 1)

    def __repr__(self) -> str:
        return f"UniformMasks(half_width={self._half_width})"


class FiniteMasks(MaskLaw):
    """eta = values[i] with probability probabilities[i]. The mean must be 1.

    Args:
        values: distinct numbers or sympy expressions.
        probabilities: one for each value; positive, with the sum 1.

    Raises:
        SmesolveError: values are not distinct, probabilities are not positive or do not add up to 1, or the mean is not
            1.
    """

    @entry_point
    def __init__(self, values: Sequence[Any], probabilities: Sequence[Any]) -> None:
        self._values = check_list("values", values, check_expression)
        self._probabilities = check_list("probabilities", probabilities, check_expression)
        if len(self._values) != len(self._probabilities):
            raise SmesolveError(
                f"values and probabilities must be of the same length, got {len(self._values)} and "
                f"{len(self._probabilities)}: give one probability for each value."
            )
        if len(set(self._values)) < len(self._values):
            raise SmesolveError(f"values must be distinct, got {self._values}; add up the probabilities of equal ones.")
        if any(isinstance(q, Real) and not float(q) > 0 for q in self._probabilities):
            raise SmesolveError(
                f"probabilities must be positive, got {self._probabilities}: leave out values that are never taken."
            )
        if any(isinstance(q, Real) and float(q) < LEAST_PROBABILITY for q in self._probabilities):
            raise SmesolveError(
                f"probabilities must be at least {LEAST_PROBABILITY:.2g}, got {self._probabilities}: masks are drawn "
                "from uniforms of 53 bits, which take rarer values less often or never; leave those values out."
            )
        total = sum(self._probabilities)
        if not _equals_one(total):
            raise SmesolveError(f"probabilities must add up to 1, got {total}: divide them by their sum.")
        mean = sum(q * value for value, q in zip(self._values, self._probabilities, strict=True))
        if not _equals_one(mean):
            raise SmesolveError(
                f"the mean of the masks must be 1, got {mean} for values {self._values}: divide the values by the mean."
            )

    def central_moment(self, j: int) -> Any:
        """Return E zeta^j = sum_i q_i (value_i - 1)^j."""
        check_integer("j", j, 0)
        return sum(q * (value - 1) ** j for value, q in zip(self._values, self._probabilities, strict=True))

    @property
    def support(self) -> tuple[list[Any], list[Any]]:
        """The given values and probabilities."""
        return self._values, self._probabilities

    def quantile(self, uniforms: Tensor) -> Tensor:
        """Return values[i] with p_0 + ... + p_(i-1) <= u < p_0 + ... + p_i, p being the probabilities."""
        values, probabilities = (
            torch.tensor([float(number) for number in part], dtype=uniforms.dtype, device=uniforms.device)
            for part in self.support
        )
        return values[torch.searchsorted(probabilities.cumsum(0)[:-1], uniforms, right=True)]

    def __repr__(self) -> str:
        return f"FiniteMasks(values={self._values}, probabilities={self._probabilities})"


def _equals_one(number: Any) -> bool:
    """Return whether a number is 1 up to rounding. Sympy expressions pass: the derivation checks them."""
    return not isinstance(number, Real) or abs(float(number) - 1) < 1e-12


def all_masks(law: MaskLaw, count: int) -> tuple[Tensor, Tensor]:
    """Return all values (K, count) of `count` independent mask variables, and their probabilities (K,).

    Raises:
        SmesolveError: the law has infinitely many values, or there are more than 2^22 masks.
    """
    if law.support is None:
        raise SmesolveError(f"{law!r} takes infinitely many values and cannot be enumerated; use Monte Carlo.")
    values, probabilities = law.support
    if len(values) ** count > MAX_MASKS:
        raise SmesolveError(f"{len(values)}^{count} masks are more than {MAX_MASKS}; take a narrower network.")
    masks = torch.tensor(list(itertools.product(values, repeat=count)), dtype=torch.float64, device="cpu")
    weights = torch.tensor(list(itertools.product(probabilities, repeat=count)), dtype=torch.float64, device="cpu")
    return masks, weights.prod(-1)
