"""Networks with dropout on their last hidden layer.

Such a network is f(x; eta) = sum_r eta_r z_r(x) + b with the contributions z_r = A_r h_r(x) of the m
neurons: features h (m), readout A (o, m), unmasked readout bias b (o). `Linearisation` is all that the
rest of the package needs of a network: the values (h, A, b) at theta and the pullback to theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from smesolve.arguments import checked
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.activations import ACTIVATIONS, Activation, curvatures, slopes

__all__ = ["DropoutNetwork", "LinearNetwork", "Linearisation", "Tangent", "TwoLayerNetwork"]


@dataclass(frozen=True)
class Linearisation:
    """A network at theta: what its outputs are made of, and the way back to the parameters.

    Neurons come before samples, so that the features of many paths are one matrix product.
    """

    features: Tensor
    """h (..., m, n)."""
    readout: Tensor
    """A (..., o, m)."""
    bias: Tensor | None
    """b (..., o, 1), or None."""
    pullback: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """Cotangents of features (..., m, n), readout (..., o, m), bias (..., o, 1) -> (..., D); their leading dimensions
    may be more than theta's."""
    tangent: Callable[[Tensor], Tangent] | None = None
    """The derivative of all this along a direction (..., D); None where automatic differentiation has to do."""


@dataclass(frozen=True)
class Tangent:
    """The derivative of a `Linearisation` along a direction in the parameters."""

    features: Tensor
    readout: Tensor
    bias: Tensor | None
    pullback: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    """Derivative of the pullback from the features' cotangent and from the derivatives of the three cotangents."""


class DropoutNetwork(nn.Module):
    """A network with dropout on its last hidden layer; `smesolve.DropoutProblem` takes any subclass.

    A subclass has parameters, the sizes below, and `linearise`.
    """

    in_features: int
    """d."""
    width: int
    """m, the neurons under dropout."""
    out_features: int
    """o."""

    def linearise(self, theta: Tensor, x: Tensor) -> Linearisation:
        """The network at theta (..., D) on inputs x (n, d); differentiable by `torch.func`."""
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Refuse inputs x that the network cannot take, by one sentence."""
        if tuple(x.shape[1:]) != (self.in_features,):
            raise SmesolveError(
                f"x must have {self.in_features} columns, the network's in_features, got {tuple(x.shape)}."
            )


class TwoLayerNetwork(DropoutNetwork):
    """f(x) = A sigma(W x [+ w0]) [+ b]: one hidden layer of `width` neurons, linear readout.

    Parameters in the order of `torch.nn.utils.parameters_to_vector`: hidden.weight (m, d), hidden.bias
    (m), readout.weight (o, m), readout.bias (o).

    Args:
        in_features: d.
        width: m, the neurons under dropout.
        out_features: o.
        activation: a name in `ACTIVATIONS`, or an elementwise differentiable callable.
        bias: give both layers a bias. The readout bias is not under dropout.
        dtype: float64 unless told otherwise: weak errors of 1e-6 are measured.
        device: where the parameters live.
    """

    @checked
    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int = 1,
        activation: str | Activation = "tanh",
        bias: bool = False,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check_weights_fit(in_features=in_features, width=width, out_features=out_features)
        self.in_features, self.width, self.out_features = in_features, width, out_features
        if isinstance(activation, str):
            if activation not in ACTIVATIONS:
                raise SmesolveError(
                    f"activation must be one of {', '.join(ACTIVATIONS)} or a callable, got {activation!r}."
                )
            activation = ACTIVATIONS[activation]
        else:
            _check_elementwise(activation, dtype, device)
        self.activation = activation
        self.hidden = nn.Linear(in_features, width, bias=bias, dtype=dtype, device=device)
        self.readout = nn.Linear(width, out_features, bias=bias, dtype=dtype, device=device)
        self._sizes = [parameter.numel() for parameter in self.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., n, o) without dropout."""
        return self.readout(self.activation(self.hidden(x)))

    def linearise(self, theta: Tensor, x: Tensor) -> Linearisation:
        """One GEMM forward over all paths; a pullback costs another."""
        weight, hidden_bias, readout, bias = self._split(theta)
        pre = self._pre_activations(weight, hidden_bias, x)
        features = self.activation(pre)
        slope = slopes(self.activation, pre, features)

        def pull(backward: Tensor, readout_cotangent: Tensor, bias_cotangent: Tensor | None) -> Tensor:
            """From the cotangent of the pre-activations."""
            # transposed: BLAS is up to twice as fast at (d, n) x (n, paths m) as at (paths m, n) x (n, d)
            weight_cotangent = (x.mT @ backward.reshape(-1, x.shape[0]).mT).mT
            pieces = [weight_cotangent.reshape(*backward.shape[:-2], math.prod(self.hidden.weight.shape))]
            if hidden_bias is not None:
                pieces.append(backward.sum(-1))
            pieces.append(readout_cotangent.flatten(-2))
            if bias_cotangent is not None:
                pieces.append(bias_cotangent[..., 0])
            return torch.cat(pieces, dim=-1)

        def tangent(direction: Tensor) -> Tangent:
            weight_along, hidden_bias_along, readout_along, bias_along = self._split(direction)
            pre_along = self._pre_activations(weight_along, hidden_bias_along, x)
            bend = curvatures(self.activation, pre, features, slope) * pre_along
            return Tangent(
                slope * pre_along,
                readout_along,
                bias_along,
                lambda cotangent, along, *others: pull(torch.addcmul(cotangent * bend, along, slope), *others),
            )

        return Linearisation(
            features, readout, bias, lambda cotangent, *others: pull(cotangent * slope, *others), tangent
        )

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Hidden weight (..., m d), hidden bias (..., m, 1), readout weight (..., o, m), readout bias (..., o, 1)."""
        parts = iter(theta.split(self._sizes, dim=-1))
        weight = next(parts)
        hidden_bias = next(parts)[..., None] if self.hidden.bias is not None else None
        readout = next(parts).reshape(*theta.shape[:-1], self.out_features, self.width)
        return weight, hidden_bias, readout, next(parts)[..., None] if self.readout.bias is not None else None

    def _pre_activations(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """W x + w0 (..., m, n) by one GEMM over all paths: (paths m, d) x (d, n)."""
        pre = (weight.reshape(-1, self.in_features) @ x.mT).reshape(*weight.shape[:-1], self.width, x.shape[0])
        return pre if bias is None else pre + bias


class LinearNetwork(DropoutNetwork):
    """f(x) = A x with dropout on the inputs: linear regression, or a readout trained on fixed features x.

    Its gradient is affine in theta, so `smesolve.comparison.exact` knows all moments of iteration and equation. See
    Clara, Langer, Schmidt-Hieber (JMLR 2024) for the iteration.

    Args:
        in_features: d, the inputs and the neurons under dropout (m = d).
        out_features: o.
        dtype: float64 unless told otherwise.
        device: where the parameters live.
    """

    @checked
    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check_weights_fit(in_features=in_features, out_features=out_features)
        self.in_features = self.width = in_features
        self.out_features = out_features
        self.readout = nn.Linear(in_features, out_features, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., n, o) without dropout."""
        return self.readout(x)

    def linearise(self, theta: Tensor, x: Tensor) -> Linearisation:
        """Features are the inputs; the pullback is the readout's cotangent only."""
        features = x.mT.expand(*theta.shape[:-1], -1, -1)

        def matrix(vector: Tensor) -> Tensor:
            return vector.reshape(*vector.shape[:-1], self.out_features, self.width)

        def tangent(direction: Tensor) -> Tangent:
            along = matrix(direction)
            return Tangent(torch.zeros_like(features), along, None, lambda cotangent, *others: others[1].flatten(-2))

        return Linearisation(
            features, matrix(theta), None, lambda cotangent, readout, bias: readout.flatten(-2), tangent
        )


def _check_weights_fit(**sizes: int) -> None:
    """Refuse layers of these sizes whose weights the machine cannot hold."""
    weights = sum(inputs * outputs for inputs, outputs in pairwise(sizes.values()))
    named = ", ".join(f"{name}={size}" for name, size in sizes.items())
    check_numbers_fit(f"the weights for {named}", weights, "take a smaller network")


def _check_elementwise(activation: Activation, dtype: torch.dtype, device: torch.device | str | None) -> None:
    """Refuse an activation of the user's that does not map a tensor to one of the same shape and dtype."""
    trial = torch.linspace(-1, 1, 6, dtype=dtype, device=device).reshape(2, 3)
    values = call_of_user("activation", activation, trial)
    if not isinstance(values, Tensor) or values.shape != trial.shape or values.dtype != dtype:
        raise SmesolveError(
            f"activation must map a tensor to one of the same shape and dtype, elementwise, got {shown(values)} from "
            f"{shown(trial)}."
        )
