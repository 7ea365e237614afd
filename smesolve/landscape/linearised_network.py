"""The network at one point theta: its outputs f (o, n), and products with their Jacobian J (o n, D)."""

from __future__ import annotations

from torch import Tensor

from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import NetworkLinearization
from smesolve.problem.one_at_a_time import forward_derivative

__all__ = ["LinearisedNetwork", "network_outputs"]


def network_outputs(problem: DropoutProblem, theta: Tensor) -> Tensor:
    """Return f (..., o, n) without dropout at theta (..., D). Cost: one forward pass."""
    return _outputs(problem.network.linearize(theta, problem.x))


def _outputs(at: NetworkLinearization) -> Tensor:
    """Return readout times features, plus the bias."""
    outputs = at.readout @ at.features
    return outputs if at.bias is None else outputs + at.bias


class LinearisedNetwork:
    """The network of a problem and its derivative at theta (D,)."""

    def __init__(self, problem: DropoutProblem, theta: Tensor) -> None:
        self._problem, self._theta = problem, theta
        self.at = problem.network.linearize(theta, problem.x)
        self.outputs = _outputs(self.at)
        """The outputs f (o, n)."""

    def along(self, directions: Tensor) -> tuple[NetworkLinearization, Tensor]:
        """Return the derivatives of features, readout and bias along u (B, D), and of the outputs, J u (B, o, n).

        Cost: about two gradients.
        """

        def parts(points: Tensor) -> tuple[Tensor, ...]:
            at = self._problem.network.linearize(points, self._problem.x)
            return (at.features, at.readout) if at.bias is None else (at.features, at.readout, at.bias)

        at, points = self.at, self._theta.expand_as(directions).contiguous()
        features, readout, *bias = forward_derivative(parts, points, directions)[1]
        tangent = NetworkLinearization(features, readout, bias[0] if bias else None, at.pullback)
        change: Tensor = readout @ at.features + at.readout @ features
        return tangent, change + bias[0] if bias else change

    def pulled(self, outputs: Tensor, features: Tensor | float = 0.0, readout: Tensor | float = 0.0) -> Tensor:
        """Return J^T (B, D) of cotangents (B, o, n) of the outputs. Cost: one gradient.

        `features` and `readout` are added to the cotangents of the features (B, m, n) and of the readout (B, o, m).
        """
        bias = None if self.at.bias is None else outputs.sum(-1, keepdim=True)
        pulled: Tensor = self.at.pullback(
            self.at.readout.mT @ outputs + features, outputs @ self.at.features.mT + readout, bias
        )
        return pulled
