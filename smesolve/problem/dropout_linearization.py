"""Losses, gradients and noise of dropout training with squared error at one theta, by one forward pass.

With the loss R_S(theta; eta) = 1/(2n) sum_i |R_i(eta)|^2, R(eta) = sum_r eta_r z_r + b - y, of
`smesolve.problem.dropout`, the gradient is J(c), where J is the pullback (divided by n) of the contributions
z_k = A_k h_k, and c are the cotangents

    (1)  c_k = eta_k R(eta).

Their mean, which has S = 1 1^T + v I and u = 1 in `smesolve.problem.dropout_noise`, gives the gradient of L_S:

    (2)  c_k = R + v z_k,      R = R(1),
    (3)  L_S = E R_S(theta; eta) = R_S + v/(2n) sum_ik |z_ik|^2.

Source: Zhang, Li, Luo, Xu, "Stochastic modified equations and dynamics of dropout" (ICLR 2024), equation 4 for the
modified loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smesolve.problem.differentiable_scalar import as_scalar
from smesolve.problem.dropout_noise import Cotangents, per_sample_noise, sign_noise, squared_norms
from smesolve.problem.kernels.fused import FusedKernels, ReadoutKernels
from smesolve.problem.leading_dimensions import check_leading
from smesolve.problem.linearization import Linearization
from smesolve.problem.networks import NetworkLinearization, Tangent

if TYPE_CHECKING:
    from smesolve.problem.dropout import DropoutProblem

__all__ = ["DropoutLinearization"]


class DropoutLinearization(Linearization):
    """A `DropoutProblem` at theta (..., D).

    Compiled kernels have a forward pass of their own. Elsewhere the formulas share one forward pass and the residual R.
    """

    problem: DropoutProblem

    def __init__(self, problem: DropoutProblem, theta: Tensor) -> None:
        super().__init__(problem, theta)
        problem.check_theta(theta)
        # No `cached_property`: until Python 3.12 it has one lock for all objects. A thread that waits in it for the
        # module would block the one that has the module and needs another linearization.
        self._network: NetworkLinearization | None = None
        self._residual: Tensor | None = None

    @property
    def network(self) -> NetworkLinearization:
        """The network at theta."""
        if self._network is None:
            self._network = self.problem.network_at(self.theta)
        return self._network

    @property
    def residual(self) -> Tensor:
        """R = sum_r z_r + b - y, (..., o, n)."""
        if self._residual is None:
            self._residual = self.network.readout @ self.network.features + self._offset
        return self._residual

    def _kernels(self, *tensors: Tensor) -> FusedKernels | None:
        """Return the kernels of the whole network if they can take theta and these tensors, else None."""
        kernels = self.problem.kernels
        return kernels if kernels is not None and kernels.suit(self.theta, *tensors) else None

    def _readout(self, *tensors: Tensor) -> ReadoutKernels | None:
        """Return the kernels of the readout if they can take the network's tensors and these, else None."""
        kernels, at = self.problem.readout_kernels, self.network
        return kernels if kernels and kernels.suit(at.features, at.readout, *tensors) else None

    @property
    def _offset(self) -> Tensor:
        """b - y, (..., o, n)."""
        bias, targets = self.network.bias, self.problem.targets
        return -targets if bias is None else bias - targets

    def loss(self) -> Tensor:
        """Return R_S(theta), without dropout: (...,)."""
        if kernels := self._kernels():
            return kernels.loss(self.theta, 0.0)
        return self.residual.square().sum((-2, -1)) / (2 * self.problem.samples)

    def modified_loss(self) -> Tensor:
        """Return (3): (...,)."""
        if kernels := self._kernels():
            return kernels.loss(self.theta, float(self.problem.law.variance))
        penalty = (self.network.readout.square().sum(-2) * self.network.features.square().sum(-1)).sum(-1)
        scale = as_scalar(self.problem.law.variance) / (2 * self.problem.samples)
        modified: Tensor = self.loss() + scale * penalty
        return modified

    def gradient(self, draw: Tensor) -> Tensor:
        """Return J of (1) for masks (..., m), or (..., n, m) per sample, as `DropoutProblem.draw` returns them."""
        self.problem.check_mask(draw)
        check_leading(self.theta, "draw", draw, 2 if self.problem.per_sample else 1)
        if kernels := self._kernels(draw):
            return kernels.gradient(self.theta, draw)
        at = self.network
        if readout_kernels := self._readout(draw):
            return at.pullback(*readout_kernels.gradient(at, draw))
        if self.problem.per_sample:
            kept = draw.mT * at.features
            residual = at.readout @ kept + self._offset
            return self._pull((draw.mT * (at.readout.mT @ residual), residual @ kept.mT, residual))
        masked = at.readout * draw[..., None, :]  # masks shared by all samples come inside the readout
        residual = masked @ at.features + self._offset
        return self._pull((_through(masked, residual), (residual @ at.features.mT) * draw[..., None, :], residual))

    def mean_gradient(self) -> Tensor:
        """Return J of (2). Its S is of rank one plus a diagonal, so no m x m product is formed."""
        if kernels := self._kernels():
            return kernels.mean_gradient(self.theta, self.problem.law)
        if readout_kernels := self._readout():
            return self.network.pullback(*readout_kernels.mean_gradient(self.network, self.problem.law))
        at, variance = self.network, self.problem.law.variance
        penalty = variance * at.readout.square().sum(-2)[..., None]
        features = torch.addcmul(_through(at.readout, self.residual), penalty, at.features)
        readout = torch.addcmul(
            self.residual @ at.features.mT, variance * at.readout, squared_norms(at.features)[..., None, :]
        )
        return self._pull((features, readout, self.residual))

    def gradient_and_mean(self, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Return `gradient` and `mean_gradient`. The kernels share the forward pass."""
        kernels = self._kernels(draw)
        if kernels is None:
            return super().gradient_and_mean(draw)
        self.problem.check_mask(draw)
        check_leading(self.theta, "draw", draw, 2 if self.problem.per_sample else 1)
        return kernels.gradient_and_mean(self.theta, self.problem.law, draw)

    def noise_product(self, normals: Tensor) -> Tensor:
        """Return C(theta) normals, with exactly the covariance Cov(grad R_S(theta; eta)).

        No D x M or D x D array is formed. Noise with signs is an odd function of the normals and proportional to their
        scale, but not additive. Cost: one gradient and two products of size n m^2; for weak noise little more than one
        gradient, for masks per sample two gradients.
        """
        return self.noisy_mean_gradient(normals, 0.0)

    def noisy_step(self, normals: Tensor, weight: float, scale: float) -> Tensor:
        """Return theta + scale `noisy_mean_gradient`."""
        if kernels := self._kernels(normals):
            problem = self.problem
            self._check_normals(normals)
            return kernels.noisy_step(self.theta, problem.law, normals, problem.linear_noise, weight, scale)
        return super().noisy_step(normals, weight, scale)

    def noisy_mean_gradient(self, normals: Tensor, weight: float) -> Tensor:
        """Return weight `mean_gradient` + `noise_product`, by one pullback."""
        problem, law = self.problem, self.problem.law
        self._check_normals(normals)
        if kernels := self._kernels(normals):
            return kernels.noise(self.theta, law, normals, problem.linear_noise, weight)
        at = self.network
        if readout_kernels := self._readout(normals):
            return at.pullback(*readout_kernels.noise(at, law, normals, problem.linear_noise, weight))
        if problem.per_sample:
            return self._pull(per_sample_noise(at, self.residual, law, normals, weight))
        noise = problem.pair_noise.cotangents if problem.linear_noise else sign_noise
        return self._pull(noise(at, self._offset, law, normals, weight))

    def mean_noise_and_curvature(self, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean gradient g, the noise product, and Hess L_S g, each (..., D)."""
        kernels = self._kernels(normals)
        if kernels is None:
            return super().mean_noise_and_curvature(normals)
        self._check_normals(normals)
        return kernels.parts(self.theta, self.problem.law, normals, self.problem.linear_noise)

    def _check_normals(self, normals: Tensor) -> None:
        self.problem.check_normals(normals)
        check_leading(self.theta, "normals", normals)

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector. It is the derivative of (2) in closed form if the network has a tangent."""
        kernels = self._kernels(vector)
        if kernels and vector.shape[-1] == self.problem.dim:
            return kernels.hessian_product(self.theta, self.problem.law, vector)
        if self.network.tangent is None:
            return super().hessian_product(vector)
        return self._along(self.network.tangent(vector))

    def third_derivative(self, first: Tensor, second: Tensor) -> Tensor:
        """Return D^3 L_S(theta)[first, second]."""
        kernels = self._kernels(first, second)
        if kernels and first.shape[-1] == second.shape[-1] == self.problem.dim:
            return kernels.third_derivative(self.theta, self.problem.law, first, second)
        return super().third_derivative(first, second)

    def _along(self, along: Tangent) -> Tensor:
        """Return the derivative of J of (2) along a tangent (dh, dA, db) of the network."""
        at, variance = self.network, self.problem.law.variance
        A, h, dA, dh = at.readout, at.features, along.readout, along.features
        change = dA @ h + A @ dh  # dR
        if along.bias is not None:
            change = change + along.bias
        squares, squares_along = variance * A.square().sum(-2)[..., None], 2 * variance * (A * dA).sum(-2)[..., None]
        features = torch.addcmul(_through(A, self.residual), squares, h)  # A^T (R + v z)
        features_along = _product_along(A.mT, self.residual, dA.mT, change)
        features_along = torch.addcmul(torch.addcmul(features_along, squares_along, h), squares, dh)
        readout_along = self.residual @ dh.mT + change @ h.mT  # of (R + v z) h^T
        readout_along = torch.addcmul(readout_along, variance * dA, squared_norms(h)[..., None, :])
        readout_along = torch.addcmul(readout_along, 2 * variance * A, torch.linalg.vecdot(h, dh)[..., None, :])
        bias_along = None if at.bias is None else change.sum(-1, keepdim=True)
        return along.pullback(features, features_along, readout_along, bias_along) / self.problem.samples

    def noise_factor(self) -> Tensor:
        """Return C(theta), the factor of linear noise, (..., D, M), with n M columns for masks per sample."""
        problem = self.problem
        if problem.per_sample:  # the samples' noises are independent: each is that of a problem with one sample
            factors = [problem.of_sample(i).noise_factor(self.theta) for i in range(problem.samples)]
            return torch.cat(factors, dim=-1) / problem.samples
        if not problem.linear_noise:
            return problem.with_noise(linear=True).noise_factor(self.theta)
        return super().noise_factor()

    def _pull(self, cotangents: Cotangents) -> Tensor:
        """Return J of cotangents."""
        features, readout, outputs = cotangents
        bias = None if self.network.bias is None else outputs.sum(-1, keepdim=True)
        return self.network.pullback(features, readout, bias) / self.problem.samples


def _through(readout: Tensor, outputs: Tensor) -> Tensor:
    """Return A^T of the outputs' cotangents (..., m, n); for one output a broadcast is faster than a matrix product."""
    return readout.mT * outputs if readout.shape[-2] == 1 else readout.mT @ outputs


def _product_along(left: Tensor, right: Tensor, left_along: Tensor, right_along: Tensor) -> Tensor:
    """Return left_along right + left right_along, as one product."""
    return torch.cat(torch.broadcast_tensors(left_along, left), -1) @ torch.cat(
        torch.broadcast_tensors(right, right_along), -2
    )
