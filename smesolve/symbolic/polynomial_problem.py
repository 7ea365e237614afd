"""Dropout training with any loss that is a polynomial in the output, by kernels generated from the derivation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations
from math import prod
from typing import Any

import numpy as np
import torch
from sympy import Expr
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.linearization import Linearization
from smesolve.problem.masked_problem import MaskedProblem
from smesolve.problem.masks import MaskLaw
from smesolve.problem.networks import DropoutNetwork, NetworkLinearization
from smesolve.symbolic.kernel_code import kernel_source
from smesolve.symbolic.loss_expansion import LossExpansion

__all__ = ["PolynomialLossProblem"]

MAX_ENTRIES = 2**20
"""Largest number of entries in a tensor of normals of one path: widths up to 1024 for squared error, 101 for a cubic
and 32 for a quartic loss."""


class PolynomialLossProblem(MaskedProblem):
    """Dropout on the last hidden layer with R_S(theta; eta) = 1/n sum_io loss(f_o(x_i; eta), y_io), polynomial in f.

    Mean gradient and noise product are exact for every mask law, and no D x M or D x D array is formed. Their code is
    `source`, generated from `LossExpansion`. A loss of degree p has noise of order up to p in the masks: one normal for
    every set of 1 to p neurons (for masks on two values), M = sum_{j=1}^p binom(m, j). Degree 2 therefore costs as much
    as `DropoutProblem`. From degree 3 on, the cost of a noise product grows like n o m^p: at m = 16 a quartic loss has
    M = 2516 and a tensor of 65536 entries per path, and widths beyond m = 32 are refused.

    Args:
        network: a `DropoutNetwork`.
        x: inputs (n, d).
        y: targets (n, o).
        loss: loss of one output and its target as a function of sympy expressions, such as
            lambda f, y: (f - y)**4 / 4.
        keep_prob: probability in (0, 1] that a neuron is kept.
        law: law of the masks, which all samples share, in place of keep_prob. Default: BernoulliMasks(keep_prob).

    Raises:
        SmesolveError: as `DropoutProblem`; or the loss is not a polynomial, or a tensor of normals has more than 2^20
            entries.
    """

    @entry_point
    def __init__(
        self,
        network: DropoutNetwork,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        loss: Callable[[Expr, Expr], Expr],
        keep_prob: float | None = None,
        law: MaskLaw | None = None,
    ) -> None:
        super().__init__(network, x, y, keep_prob, "shared", law)
        self._loss = loss
        self.expansion = LossExpansion(loss, self.law)
        degree = max((len(degrees) for degrees in self.expansion.patterns), default=1)
        if self.width**degree > MAX_ENTRIES:
            raise SmesolveError(
                f"loss has degree {self.expansion.degree}, so its exact noise needs {self.expansion.count(self.width)} "
                f"normals and tensors of {self.width}^{degree} entries at width {self.width}: take at most "
                f"{int(MAX_ENTRIES ** (1 / degree) + 1e-9)} neurons, a loss of lower degree, or ModuleProblem."
            )
        self.noise_dim = self.expansion.count(self.width)
        self.source = kernel_source(self.expansion)
        """The generated kernels."""
        self.kernel: dict[str, Any] = {}
        exec(compile(self.source, "<dropout kernel>", "exec"), self.kernel)
        self._neurons = {degrees: _distinct_neurons(degrees, self.width) for degrees in self.expansion.patterns}
        """The neurons of each normal (count, k)."""
        self._positions: dict[tuple[int, ...], Tensor] = {}
        start = 0
        for degrees, neurons in self._neurons.items():
            self._positions[degrees] = self._position_of(degrees, neurons, start).to(self.device)
            start += len(neurons)

    def _position_of(self, degrees: tuple[int, ...], neurons: np.ndarray, start: int) -> Tensor:
        """Return the position of each entry of the m^k tensor among the normals; M, that of a 0, for equal neurons."""
        position = np.full((self.width,) * len(degrees), self.noise_dim)
        for order in _symmetries(degrees):
            position[tuple(neurons[:, j] for j in order)] = start + np.arange(len(neurons))
        return torch.from_numpy(position.reshape(-1))

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path: features or contributions, parameters, tensors of normals."""
        entries = sum(position.numel() for position in self._positions.values())
        contributions = self.out_features if self.expansion.degree > 2 else 1
        return self.width * self.samples * contributions + self.dim + entries

    def linearize(self, theta: Tensor) -> Linearization:
        """Return everything at theta, by one forward pass."""
        return _PolynomialLinearization(self, theta)

    def on_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> PolynomialLossProblem:
        """Return the same network and loss on other data."""
        return PolynomialLossProblem(self.network, x, y, self._loss, law=self.law)

    def noise_coordinates(self, draw: Tensor) -> Tensor:
        """Return the orthonormal polynomials of the masks that the noise product replaces by normals, (..., M)."""
        zeta, polynomials = draw - 1, self.expansion.polynomials
        values = {
            degree: sum(float(c) * zeta**i for i, c in enumerate(q)) / float(norm) ** 0.5
            for degree, (q, norm) in enumerate(zip(polynomials.polynomials, polynomials.norms, strict=True))
        }
        parts = [
            prod(values[degree][..., neurons[:, j]] for j, degree in enumerate(degrees))
            for degrees, neurons in self._neurons.items()
        ]
        return torch.cat(parts, dim=-1) if parts else zeta[..., :0]

    def normal_tensors(self, normals: Tensor) -> dict[tuple[int, ...], Tensor]:
        """Return {degrees: symmetric tensor (..., m, ..., m) of normals, 0 where two neurons are equal}."""
        self.check_normals(normals)
        padded = torch.cat([normals, torch.zeros_like(normals[..., :1])], dim=-1)
        return {
            degrees: padded.index_select(-1, position).view(*normals.shape[:-1], *[self.width] * len(degrees))
            for degrees, position in self._positions.items()
        }


class _PolynomialLinearization(Linearization):
    """The generated kernels at theta, on one forward pass."""

    problem: PolynomialLossProblem

    def __init__(self, problem: PolynomialLossProblem, theta: Tensor) -> None:
        super().__init__(problem, theta)
        self._at, self._kernel = problem.network_at(theta), problem.kernel

    @property
    def _arguments(self) -> tuple[Tensor, Tensor, Tensor | float, Tensor]:
        return self._at.features, self._at.readout, _bias(self._at), self.problem.targets

    def loss(self) -> Tensor:
        outputs = self._at.readout @ self._at.features + _bias(self._at)
        loss: Tensor = self._kernel["loss"](outputs, self.problem.targets)
        return loss.sum((-2, -1)) / self.problem.samples

    def modified_loss(self) -> Tensor:
        """Return L_S by one matrix product for each power sum."""
        loss: Tensor = self._kernel["mean_loss"](*self._arguments)
        return loss.sum((-2, -1)) / self.problem.samples

    def gradient(self, draw: Tensor) -> Tensor:
        """Return the pullback of c_k = eta_k loss'(f(eta), y) for masks eta (..., m)."""
        self.problem.check_mask(draw)
        masked = self._at.readout * draw[..., None, :]
        slope = self._kernel["slope"](masked @ self._at.features + _bias(self._at), self.problem.targets)
        return self._pull(masked.mT @ slope, (slope @ self._at.features.mT) * draw[..., None, :], lambda: slope)

    def mean_gradient(self) -> Tensor:
        """Return grad L_S by two matrix products for each cumulant."""
        features, readout, outputs = self._kernel["mean"](*self._arguments)
        return self._pull(features, readout, lambda: outputs)

    def noise_product(self, normals: Tensor) -> Tensor:
        tensors = self.problem.normal_tensors(normals)
        if not tensors:
            return self.theta * normals.sum(-1, keepdim=True)  # no normals: their sum is 0
        return self._pull(*self._kernel["noise"](*self._arguments, tensors))

    def noisy_mean_gradient(self, normals: Tensor, weight: float) -> Tensor:
        """Return weight `mean_gradient` + `noise_product` by one pullback."""
        tensors = self.problem.normal_tensors(normals)
        if not tensors:
            return super().noisy_mean_gradient(normals, weight)
        return self._pull(*self._kernel["drift_and_noise"](*self._arguments, tensors, weight))

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector; by generated code where the network has a tangent."""
        if self._at.tangent is None:
            return super().hessian_product(vector)
        along = self._at.tangent(vector)
        change = along.features, along.readout, 0.0 if along.bias is None else along.bias
        features, features_along, readout_along, outputs = self._kernel["mean_along"](*self._arguments, *change)
        bias_along = None if self._at.bias is None else outputs.sum(-1, keepdim=True)
        return along.pullback(features, features_along, readout_along, bias_along) / self.problem.samples

    def _pull(self, features: Tensor, readout: Tensor, outputs: Callable[[], Tensor]) -> Tensor:
        """Return the cotangents of the parameters; only a readout bias needs those of the outputs."""
        bias = None if self._at.bias is None else outputs().sum(-1, keepdim=True)
        return self._at.pullback(features, readout, bias) / self.problem.samples


def _bias(at: NetworkLinearization) -> Tensor | float:
    return 0.0 if at.bias is None else at.bias


def _distinct_neurons(degrees: tuple[int, ...], width: int) -> np.ndarray:
    """Return all choices of distinct neurons for the degrees, increasing where degrees are equal: (count, k)."""

    def choices(degrees: tuple[int, ...]) -> list[tuple[int, ...]]:
        if not degrees:
            return [()]
        size = degrees.count(degrees[0])
        rests = choices(degrees[size:])
        return [
            (*first, *rest)
            for first in combinations(range(width), size)
            for rest in rests
            if not set(first) & set(rest)
        ]

    return np.array(choices(degrees), dtype=np.int64).reshape(-1, len(degrees))


def _symmetries(degrees: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the permutations of the slots that keep the degrees."""
    slots = range(len(degrees))
    return [
        order
        for order in permutations(slots)
        if all(degrees[j] == degrees[i] for i, j in zip(slots, order, strict=True))
    ]
