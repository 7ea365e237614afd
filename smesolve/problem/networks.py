"""Networks with dropout on their last hidden layer.

Such a network is f(x; eta) = sum_r eta_r z_r(x) + b with the contributions z_r = A_r h_r(x) of the m neurons: features
h (m), readout A (o, m), unmasked readout bias b (o). The rest of the package uses its `NetworkLinearization` only: the
values (h, A, b) at theta and the pullback to theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, invalid, shown
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.activations import ACTIVATIONS, Activation, curvatures, slopes
from smesolve.problem.function_trial import check_derivative, check_rows
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.validation import check_device, check_dtype, check_flag, check_integer, check_optional

__all__ = ["DropoutNetwork", "LinearNetwork", "NetworkLinearization", "Tangent", "TwoLayerNetwork"]


@dataclass(frozen=True)
class NetworkLinearization:
    """A network at theta: features, readout and bias, and the pullback of their cotangents to the parameters.

    Neurons come before samples, so that one matrix product gives the features of many paths.
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
    """The derivative of all of these along a direction (..., D), or None if automatic differentiation is to be used."""


@dataclass(frozen=True)
class Tangent:
    """The derivative of a `NetworkLinearization` along a direction in the parameters."""

    features: Tensor
    readout: Tensor
    bias: Tensor | None
    pullback: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    """(cotangent of the features, derivatives of the three cotangents) -> the derivative of the pullback, (..., D)."""


class DropoutNetwork(nn.Module):
    """A network with dropout on its last hidden layer. `smesolve.DropoutProblem` takes any subclass.

    A subclass has parameters, and defines the sizes below and `linearize`.
    """

    in_features: int
    """d."""
    width: int
    """m, the neurons under dropout."""
    out_features: int
    """o."""

    def linearize(self, theta: Tensor, x: Tensor) -> NetworkLinearization:
        """Return the network at theta (..., D) on inputs x (n, d). Must be differentiable by `torch.func`."""
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Check that the network can take inputs x."""
        if tuple(x.shape[1:]) != (self.in_features,):
            raise SmesolveError(
                f"x must have {self.in_features} columns, the network's in_features, got {tuple(x.shape)}; make a "
                "network for these inputs."
            )


class TwoLayerNetwork(DropoutNetwork):
    """f(x) = A sigma(W x [+ w0]) [+ b]: one hidden layer of `width` neurons, linear readout.

    Parameters in the order of `torch.nn.utils.parameters_to_vector`: hidden.weight (m, d), hidden.bias
    (m), readout.weight (o, m), readout.bias (o).

    Args:
        in_features: d.
        width: m, the neurons under dropout.
        out_features: o.
        activation: a name in `ACTIVATIONS`, or a differentiable elementwise callable.
        bias: whether both layers have a bias. The readout bias is not under dropout.
        dtype: torch.float64 or torch.float32. Weak errors of 1e-6 need float64.
        device: device of the parameters. Default: torch's default device.

    Raises:
        SmesolveError: sizes are not positive integers or do not fit the memory, or another argument has another type.
    """

    @entry_point
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
        self.in_features = check_integer("in_features", in_features)
        self.width = check_integer("width", width)
        self.out_features = check_integer("out_features", out_features)
        _check_weights_fit(in_features=in_features, width=width, out_features=out_features)
        dtype, device = check_dtype("dtype", dtype), check_optional("device", device, check_device)
        bias = check_flag("bias", bias)
        if not isinstance(activation, str):
            _check_elementwise(activation, dtype, device)
            self.activation = activation
        elif activation in ACTIVATIONS:
            self.activation = ACTIVATIONS[activation]
        else:
            raise invalid("activation", f"be one of {', '.join(ACTIVATIONS)} or a callable", activation)
        self.hidden = nn.Linear(in_features, width, bias=bias, dtype=dtype, device=device)
        self.readout = nn.Linear(width, out_features, bias=bias, dtype=dtype, device=device)
        self._sizes = [parameter.numel() for parameter in self.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (..., n, o) without dropout."""
        outputs: Tensor = self.readout(self.activation(self.hidden(x)))
        return outputs

    def linearize(self, theta: Tensor, x: Tensor) -> NetworkLinearization:
        """Return the network at theta, by one matrix product over all paths. A pullback costs another one."""
        weight, hidden_bias, readout, bias = self._split(theta)
        pre = self._pre_activations(weight, hidden_bias, x)
        features = self.activation(pre)
        slope = slopes(self.activation, pre, features)

        def pull(backward: Tensor, readout_cotangent: Tensor, bias_cotangent: Tensor | None) -> Tensor:
            """Return the pullback of the cotangent of the pre-activations."""
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
            slope_along = curvatures(self.activation, pre, features, slope) * pre_along
            return Tangent(
                slope * pre_along,
                readout_along,
                bias_along,
                lambda cotangent, along, *others: pull(torch.addcmul(cotangent * slope_along, along, slope), *others),
            )

        return NetworkLinearization(
            features, readout, bias, lambda cotangent, *others: pull(cotangent * slope, *others), tangent
        )

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Return hidden weight (..., m d) and bias (..., m, 1), readout weight (..., o, m) and bias (..., o, 1)."""
        parts = iter(theta.split(self._sizes, dim=-1))
        weight = next(parts)
        hidden_bias = next(parts)[..., None] if self.hidden.bias is not None else None
        readout = next(parts).reshape(*theta.shape[:-1], self.out_features, self.width)
        return weight, hidden_bias, readout, next(parts)[..., None] if self.readout.bias is not None else None

    def _pre_activations(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """Return W x + w0 (..., m, n), by one matrix product over all paths: (paths m, d) x (d, n)."""
        pre = (weight.reshape(-1, self.in_features) @ x.mT).reshape(*weight.shape[:-1], self.width, x.shape[0])
        return pre if bias is None else pre + bias


class LinearNetwork(DropoutNetwork):
    """f(x) = A x with dropout on the inputs: linear regression, or a readout trained on fixed features x.

    Its gradient is affine in theta, so `smesolve.comparison.exact` has the exact moments of iteration and equation. See
    Clara, Langer, Schmidt-Hieber (JMLR 2024) for the iteration.

    Args:
        in_features: d, the inputs, which are also the neurons under dropout (m = d).
        out_features: o.
        dtype: torch.float64 or torch.float32.
        device: device of the parameters. Default: torch's default device.

    Raises:
        SmesolveError: sizes are not positive integers or do not fit the memory, or another argument has another type.
    """

    @entry_point
    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features = self.width = check_integer("in_features", in_features)
        self.out_features = check_integer("out_features", out_features)
        _check_weights_fit(in_features=in_features, out_features=out_features)
        dtype, device = check_dtype("dtype", dtype), check_optional("device", device, check_device)
        self.readout = nn.Linear(in_features, out_features, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (..., n, o) without dropout."""
        outputs: Tensor = self.readout(x)
        return outputs

    def linearize(self, theta: Tensor, x: Tensor) -> NetworkLinearization:
        """Return the network at theta, with the inputs as features. The pullback is the cotangent of the readout."""
        features = x.mT.expand(*theta.shape[:-1], -1, -1)

        def matrix(vector: Tensor) -> Tensor:
            return vector.reshape(*vector.shape[:-1], self.out_features, self.width)

        def tangent(direction: Tensor) -> Tangent:
            along = matrix(direction)
            return Tangent(torch.zeros_like(features), along, None, lambda cotangent, *others: others[1].flatten(-2))

        return NetworkLinearization(
            features, matrix(theta), None, lambda cotangent, readout, bias: readout.flatten(-2), tangent
        )


def _check_weights_fit(**sizes: int) -> None:
    """Check that the machine can hold the weights of layers of these sizes."""
    weights = sum(inputs * outputs for inputs, outputs in pairwise(sizes.values()))
    named = ", ".join(f"{name}={size}" for name, size in sizes.items())
    check_numbers_fit(f"the weights for {named}", weights, "take a smaller network")


def _check_elementwise(activation: Activation, dtype: torch.dtype, device: torch.device | str | None) -> None:
    """Check that an activation that the user wrote is a function of each number, with the derivative of its values."""
    if isinstance(activation, nn.Module) and any(True for _ in activation.parameters()):
        raise SmesolveError(
            f"activation must have no parameters of its own, got {shown(activation)}; put it into the features of a "
            "FeatureNetwork."
        )
    trial = torch.linspace(-1, 1, 6, dtype=dtype, device=device).reshape(2, 3)
    values = call_of_user("activation", activation, trial)
    if not isinstance(values, Tensor) or values.shape != trial.shape or values.dtype != dtype:
        raise SmesolveError(
            f"activation must map a tensor to one of the same shape and dtype, elementwise, got {shown(values)} from "
            f"{shown(trial)}; let it act on each entry and convert nothing."
        )
    numbers = torch.sin(torch.arange(1.0, 65.0, dtype=dtype, device=device))  # so many that random calls differ
    check_rows("activation", activation, numbers, "number")
    check_derivative("activation", activation, numbers, torch.ones_like(numbers))

    def slope(at: Tensor) -> Tensor:
        return forward_derivative(activation, at, torch.ones_like(at))[1]

    check_derivative("slope of activation", slope, numbers, torch.ones_like(numbers))
