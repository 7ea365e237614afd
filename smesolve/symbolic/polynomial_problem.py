"""Dropout training with any loss that is polynomial in the output, by kernels that the derivation generates."""

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
from smesolve.errors import SmesolveError, invalid
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.masks import MaskLaw
from smesolve.problem.networks import DropoutNetwork, Linearisation
from smesolve.problem.problem import Problem, check_trailing
from smesolve.symbolic.kernel_code import kernel_source
from smesolve.symbolic.loss_expansion import LossExpansion

__all__ = ["PolynomialLossProblem"]

MAX_ENTRIES = 2**20
"""Entries of a path's largest tensor of normals: widths up to 1024 for squared error, 101 for cubic, 32 for quartic
loss."""


class PolynomialLossProblem(Problem):
    """Dropout on the last hidden layer with R_S(theta; eta) = 1/n sum_io loss(f_o(x_i; eta), y_io), polynomial in f.

    Mean gradient and noise product are exact for every mask law, and no D x M or D x D array is formed; the code is
    `source`, generated from `LossExpansion`. A loss of degree p has noise of order up to p in the masks: one normal for
    every set of 1 to p neurons (for masks on two values), M = sum_{j=1}^p binom(m, j). Degree 2 therefore costs as much
    as `DropoutProblem`. From degree 3 on, the cost of a noise product grows like n o m^p: a quartic loss has M = 2516
    and a tensor of 65536 entries for each path at m = 16, and is refused beyond m = 32.

    Args:
        network: a `DropoutNetwork`.
        x: inputs (n, d).
        y: targets (n, o).
        loss: loss of one output and its target, as sympy expressions: lambda f, y: (f - y)**4 / 4.
        keep_prob: probability in (0, 1] that a neuron is kept.
        masks: "shared", or a `MaskLaw` shared by all samples.

    Raises:
        SmesolveError: as `DropoutProblem`; if the loss is no polynomial, if masks are drawn per sample, or if a tensor
            of normals has more than 2^20 entries.
    """

    @entry_point
    def __init__(
        self,
        network: DropoutNetwork,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        loss: Callable[[Expr, Expr], Expr],
        keep_prob: float | None = None,
        masks: str | MaskLaw = "shared",
    ) -> None:
        dropout = DropoutProblem(network, x, y, keep_prob, masks)
        if dropout.per_sample:
            raise invalid("masks", 'be "shared" or a MaskLaw for polynomial losses', masks)
        self._dropout = dropout
        """Checked data and draws, which do not depend on the loss."""
        self.network: DropoutNetwork = network
        self.x, self.y, self.samples = dropout.x, dropout.y, dropout.samples
        self.dtype, self.device, self.law = dropout.dtype, dropout.device, dropout.law
        self.dim, self.draw_dim = dropout.dim, dropout.draw_dim
        self.width, self.out_features = dropout.width, dropout.out_features
        self._targets = self.y.mT.contiguous()
        self.expansion = LossExpansion(loss, self.law)
        degree = max((len(degrees) for degrees in self.expansion.patterns), default=1)
        if self.width**degree > MAX_ENTRIES:
            raise SmesolveError(
                f"loss has degree {self.expansion.degree}, so its exact noise needs {self.expansion.count(self.width)} "
                f"normals and tensors of {self.width}^{degree} entries at width {self.width}: take at most "
                f"{int(MAX_ENTRIES ** (1 / degree) + 1e-9)} neurons, a loss of lower degree, or ModuleProblem."
            )
        self.source = kernel_source(self.expansion)
        """The generated kernels."""
        self._kernel: dict[str, Any] = {}
        exec(compile(self.source, "<dropout kernel>", "exec"), self._kernel)
        self._neurons = {degrees: _distinct_neurons(degrees, self.width) for degrees in self.expansion.patterns}
        """The neurons of each normal (count, k)."""
        self._positions: dict[tuple[int, ...], Tensor] = {}
        start = 0
        for degrees, neurons in self._neurons.items():
            self._positions[degrees] = self._position_of(degrees, neurons, start).to(self.device)
            start += len(neurons)

    def _position_of(self, degrees: tuple[int, ...], neurons: np.ndarray, start: int) -> Tensor:
        """Return the position of each entry of the tensor m^k among the normals; M, a zero, where neurons are equal."""
        position = np.full((self.width,) * len(degrees), self.noise_dim)
        for order in _symmetries(degrees):
            position[tuple(neurons[:, j] for j in order)] = start + np.arange(len(neurons))
        return torch.from_numpy(position.reshape(-1))

    @property
    def noise_dim(self) -> int:
        """M, one normal for every set of neurons with their degrees."""
        return self.expansion.count(self.width)

    @property
    def numbers_per_path(self) -> int:
        """Floats in the working arrays of one path: features or contributions, parameters, tensors of normals."""
        entries = sum(position.numel() for position in self._positions.values())
        contributions = self.out_features if self.expansion.degree > 2 else 1
        return self.width * self.samples * contributions + self.dim + entries

    def draw(self, uniforms: Tensor) -> Tensor:
        """Return masks eta (..., m) from uniforms (..., m)."""
        return self._dropout.draw(uniforms)

    @property
    def draw_count(self) -> float:
        """Number of different masks."""
        return self._dropout.draw_count

    def all_draws(self) -> tuple[Tensor, Tensor]:
        """Return every mask (K, m) and its probability (K,)."""
        return self._dropout.all_draws()

    def noise_functions(self, draw: Tensor) -> Tensor:
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

    # --- losses and gradients ----------------------------------------------------------------------------------------

    def loss(self, theta: Tensor) -> Tensor:
        """Return R_S(theta), the loss without dropout, (...,). Cost: one forward pass."""
        at = self._linearise(theta)
        loss: Tensor = self._kernel["loss"](at.readout @ at.features + _bias(at), self._targets)
        return loss.sum((-2, -1)) / self.samples

    def modified_loss(self, theta: Tensor) -> Tensor:
        """Return L_S = E R_S(theta; eta), (...,). Cost: one forward pass and a matrix product for each power sum."""
        loss: Tensor = self._kernel["mean_loss"](*self._arguments(self._linearise(theta)))
        return loss.sum((-2, -1)) / self.samples

    def gradient(self, theta: Tensor, mask: Tensor) -> Tensor:
        """Return grad R_S(theta; eta) for masks eta (..., m): c_k = eta_k loss'(f(eta), y). Cost: one gradient."""
        check_trailing("mask", mask, (self.width,), "one entry for each neuron", self.dtype)
        at = self._linearise(theta)
        masked = at.readout * mask[..., None, :]
        slope = self._kernel["slope"](masked @ at.features + _bias(at), self._targets)
        return self._pull(at, masked.mT @ slope, (slope @ at.features.mT) * mask[..., None, :], lambda: slope)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Return grad L_S(theta), (..., D). Cost: one gradient and two matrix products for each cumulant."""
        at = self._linearise(theta)
        features, readout, outputs = self._kernel["mean"](*self._arguments(at))
        return self._pull(at, features, readout, lambda: outputs)

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Return C(theta) normals, (..., D) from normals (..., M), with C C^T = Cov(gradient) exactly."""
        at, tensors = self._linearise(theta), self._tensors(normals)
        if not tensors:
            return theta * normals.sum(-1, keepdim=True)  # no normals: their sum is 0
        return self._pull(at, *self._kernel["noise"](*self._arguments(at), tensors))

    def drift_and_noise(self, theta: Tensor, normals: Tensor, weight: float) -> Tensor:
        """Return weight `mean_gradient` + `noise_product` by one pullback."""
        at, tensors = self._linearise(theta), self._tensors(normals)
        if not tensors:
            return super().drift_and_noise(theta, normals, weight)
        return self._pull(at, *self._kernel["drift_and_noise"](*self._arguments(at), tensors, weight))

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector, (..., D). Cost: about two gradients where the network has a tangent."""
        at = self._linearise(theta)
        if at.tangent is None:
            return super().hessian_product(theta, vector)
        along = at.tangent(vector)
        change = along.features, along.readout, 0.0 if at.bias is None else along.bias
        features, features_along, readout_along, outputs = self._kernel["mean_along"](*self._arguments(at), *change)
        bias_along = None if at.bias is None else outputs.sum(-1, keepdim=True)
        return along.pullback(features, features_along, readout_along, bias_along) / self.samples

    def _linearise(self, theta: Tensor) -> Linearisation:
        check_trailing("theta", theta, (self.dim,), "the problem's dim D", self.dtype)
        return self.network.linearise(theta, self.x)

    def _arguments(self, at: Linearisation) -> tuple[Tensor, Tensor, Tensor | float, Tensor]:
        return at.features, at.readout, _bias(at), self._targets

    def _tensors(self, normals: Tensor) -> dict[tuple[int, ...], Tensor]:
        """Return {degrees: symmetric tensor (..., m, ..., m) of normals, 0 where two neurons are equal}."""
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)
        padded = torch.cat([normals, torch.zeros_like(normals[..., :1])], dim=-1)
        return {
            degrees: padded.index_select(-1, position).view(*normals.shape[:-1], *[self.width] * len(degrees))
            for degrees, position in self._positions.items()
        }

    def _pull(self, at: Linearisation, features: Tensor, readout: Tensor, outputs: Callable[[], Tensor]) -> Tensor:
        """Return the cotangents of the parameters; only a readout bias needs those of the outputs."""
        bias = None if at.bias is None else outputs().sum(-1, keepdim=True)
        return at.pullback(features, readout, bias) / self.samples


def _bias(at: Linearisation) -> Tensor | float:
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
