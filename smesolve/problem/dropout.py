"""Dropout training with squared error: losses, gradients, and the exact noise of the gradient.

With one mask eta shared by all n samples, the gradient of

    (1)  R_S(theta; eta) = 1/(2n) sum_i |f(x_i; eta) - y_i|^2,      f(x; eta) = sum_r eta_r z_r(x) + b,

is J(c), where J is the pullback (divided by n) of the contributions z_k = A_k h_k, and c are the cotangents

    (2)  c_k = eta_k R(eta),      R(eta) = sum_r eta_r z_r + b - y.

Their mean, which has S = 1 1^T + v I and u = 1 in `smesolve.problem.dropout_noise`, gives the gradient of L_S:

    (3)  c_k = R + v z_k,      R = R(1),
    (4)  L_S = E R_S(theta; eta) = R_S + v/(2n) sum_ik |z_ik|^2.

`noise_product` replaces the rest by normals and has exactly the covariance of the gradient. For masks shared by all
samples, the normals stand for orthonormal functions of the masks, with moments v, s, w^2 = E chi^2 of the mask law:

    (5)  zeta_k / sqrt(v),   zeta_k zeta_r / v  (k < r),   chi_k / w,      zeta = eta - 1, chi = zeta^2 - v - s zeta.

Masks drawn per sample, as torch.nn.Dropout draws them, have the same mean gradient, and the noise of each sample is
independent of the noise of the others. As n m (m+1)/2 normals would be too many, such masks always have the cheaper
form (4) of `smesolve.problem.dropout_noise`, with signs and normals of its own for each sample: n (2m + 1) normals.

Sources: Zhang, Li, Luo, Xu, "Stochastic modified equations and dynamics of dropout" (ICLR 2024), equation 4 for the
modified loss, section 5.1 for the covariance, which this factor reproduces without forming it.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.differentiable_scalar import as_scalar, value_of
from smesolve.problem.dropout_noise import Cotangents, PairNoise, per_sample_noise, sign_noise, squared_norms
from smesolve.problem.kernels.fused import FusedKernels, ReadoutKernels
from smesolve.problem.linearization import Linearization
from smesolve.problem.masked_problem import MaskedProblem
from smesolve.problem.masks import BernoulliMasks, MaskLaw
from smesolve.problem.networks import DropoutNetwork, NetworkLinearization, Tangent
from smesolve.validation import check_keep_prob

__all__ = ["DropoutLinearization", "DropoutProblem"]


class DropoutProblem(MaskedProblem):
    """A network, its data and its mask law: training under dropout with squared error.

    All methods take theta (..., D) with any leading dimensions; masks and normals broadcast against them. Shapes:
    n samples, d inputs, o outputs, m neurons under dropout, D parameters, M normals per noise product.

    M = m(m+1)/2 for masks with two values that all samples share: xi (m), then the upper triangle of Xi row by row
    (`torch.triu_indices`). Other laws take m more, omega. Weak noise (`with_weak_noise`) has M = 2m + 1, or 3m + 1 for
    other laws, and masks per sample n times as many.

    Args:
        network: a `DropoutNetwork`: `TwoLayerNetwork`, `FeatureNetwork` for any features, `LinearNetwork`.
        x: inputs (n, d), or (n, ...) as the network takes them, tensor or array.
        y: targets (n, o), tensor or array.
        keep_prob: probability in (0, 1] that a neuron is kept (torch.nn.Dropout's `p` is 1 - keep_prob).
        masks: "shared", with one mask for all samples of a step, or "per_sample", with one mask for each sample, as
            torch.nn.Dropout draws them.
        law: law of the masks, in place of keep_prob. Default: BernoulliMasks(keep_prob).

    Raises:
        SmesolveError: shapes do not fit; data are not finite; neither or both of keep_prob and law are given; quantile
            and moments of the law do not agree; or some parameters of the network are frozen.
    """

    @entry_point
    def __init__(
        self,
        network: DropoutNetwork,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        keep_prob: float | None = None,
        masks: str = "shared",
        law: MaskLaw | None = None,
    ) -> None:
        super().__init__(network, x, y, keep_prob, masks, law)
        self.pair_noise = PairNoise(self.width, self.device)
        self._take_kernels()
        self._take_linear_noise(not self.per_sample)

    def _take_kernels(self) -> None:
        """Choose the compiled kernels of the whole network, or else of its readout."""
        self.kernels = FusedKernels.of(self.network, self.x, self.targets, self.per_sample)
        of_readout = None if self.kernels else ReadoutKernels.of(self.network, self.targets, self.per_sample)
        self.readout_kernels = of_readout

    def without_kernels(self) -> DropoutProblem:
        """Return the same problem without compiled kernels: formulas in torch compute everything."""
        other = copy.copy(self)
        other.kernels = other.readout_kernels = None
        return other

    def _take_linear_noise(self, linear: bool) -> None:
        """Choose linear noise, of independent normals, or noise with signs, and count its normals."""
        self.linear_noise = linear
        others = self.width if self.law.chi_variance else 0
        if linear:
            self.noise_dim = self.width + self.pair_noise.pairs + others
        else:
            self.noise_dim = (self.samples if self.per_sample else 1) * (2 * self.width + 1 + others)

    @entry_point
    def with_keep_prob(self, keep_prob: float) -> DropoutProblem:
        """Return the same network and data under dropout with another keep_prob.

        Raises:
            SmesolveError: keep_prob is outside (0, 1], or the masks have another law, which no keep_prob describes.
        """
        if not isinstance(self.law, BernoulliMasks):
            raise SmesolveError(
                f"keep_prob={keep_prob} does not describe the masks of this problem, {self.law!r}; make a "
                "DropoutProblem with law=... instead."
            )
        other = copy.copy(self)
        other.law = BernoulliMasks(check_keep_prob("keep_prob", keep_prob))
        return other

    def _repr_latex_(self) -> str:
        masks = r"\eta_{r,i}" if self.per_sample else r"\eta_r"
        keep = (
            rf",\; \mathrm{{keep\_prob}} = {value_of(self.law.keep_prob):g}"
            if isinstance(self.law, BernoulliMasks)
            else ""
        )
        return (
            rf"$\displaystyle R_S(\theta; \eta) = \frac{{1}}{{2n}} \sum_{{i=1}}^n \Big| \sum_{{r=1}}^m {masks}\, "
            rf"z_r(x_i; \theta) - y_i \Big|^2,\quad n = {self.samples},\; m = {self.width},\; D = {self.dim}{keep}$"
        )

    def on_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> DropoutProblem:
        """Return the same network on other data, without dropout."""
        return DropoutProblem(self.network, x, y, keep_prob=1.0)

    def with_weak_noise(self) -> DropoutProblem:
        """Return the same problem with weak noise: a noise product of 2m + 1 normals, or 3m + 1, for weak errors only.

        Its covariance is exact and it has no odd moments, but it is not normal. As `noise_coordinates` returns None,
        control variates lack their third part. Masks per sample always have weak noise.
        """
        return self.with_noise(linear=False)

    def with_noise(self, *, linear: bool) -> DropoutProblem:
        """Return the same problem with linear noise, of independent normals, or with the noise with signs.

        Raises:
            SmesolveError: linear noise for masks per sample, which always have the noise with signs.
        """
        if linear and self.per_sample:
            raise SmesolveError("linear=True needs masks='shared', got masks per sample; take linear=False.")
        other = copy.copy(self)
        other._take_linear_noise(linear)
        return other

    def of_sample(self, i: int) -> DropoutProblem:
        """Return the problem of sample i only, with linear noise."""
        other = copy.copy(self)
        other.x, other.y, other.targets = self.x[i : i + 1], self.y[i : i + 1], self.targets[:, i : i + 1]
        other.samples, other.per_sample, other.draw_dim = 1, False, self.width
        other._take_kernels()
        other._take_linear_noise(True)
        return other

    @property
    def in_threads(self) -> bool:  # type: ignore[override]
        """Whether compiled kernels compute the training step. False for a subclass, whose state threads might share."""
        return type(self) is DropoutProblem and self.kernels is not None and self.kernels.suit()

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path: features, parameters and m x m products."""
        return self.width * self.samples + self.dim + self.width**2

    def linearize(self, theta: Tensor) -> DropoutLinearization:
        """Return everything at theta, by one forward pass."""
        return DropoutLinearization(self, theta)

    def small_noise_rk4(
        self, theta: Tensor, increments: Tensor, order: int, lr: float, dt: float, split: bool
    ) -> tuple[Tensor, ...] | None:
        """Return a whole step by one kernel; None if it cannot take the tensors, or a subclass has other formulas."""
        if type(self) is not DropoutProblem or self.kernels is None:
            return None
        if theta.shape[-1] != self.dim or not self.kernels.suit(theta, increments):
            return None
        self.check_normals(increments)
        return self.kernels.small_noise_rk4(theta, self.law, increments, self.linear_noise, order, lr, dt, split)

    def noise_coordinates(self, draw: Tensor) -> Tensor | None:
        """Return (5), the orthonormal functions of the masks that the noise product replaces by normals: (..., M).

        gradient(theta, mask) = mean_gradient(theta) + noise_product(theta, noise_coordinates(mask)) for every mask.
        None for weak noise and masks per sample, whose noise product has signs in place of pairs, and for masks that
        are always 1, of which no function has variance 1.
        """
        law = self.law
        if not self.linear_noise or not law.variance:
            return None
        zeta = draw - 1
        unit = zeta / as_scalar(law.variance) ** 0.5
        first, second = torch.triu_indices(self.width, self.width, 1, device=self.device)
        parts = [unit, unit[..., first] * unit[..., second]]
        if law.chi_variance:
            parts.append((zeta.square() - law.variance - law.skew * zeta) / law.chi_variance**0.5)
        return torch.cat(parts, dim=-1)


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
        """Return (1) without dropout: (...,)."""
        if kernels := self._kernels():
            return kernels.loss(self.theta, 0.0)
        return self.residual.square().sum((-2, -1)) / (2 * self.problem.samples)

    def modified_loss(self) -> Tensor:
        """Return (4): (...,)."""
        if kernels := self._kernels():
            return kernels.loss(self.theta, float(self.problem.law.variance))
        penalty = (self.network.readout.square().sum(-2) * self.network.features.square().sum(-1)).sum(-1)
        scale = as_scalar(self.problem.law.variance) / (2 * self.problem.samples)
        modified: Tensor = self.loss() + scale * penalty
        return modified

    def gradient(self, draw: Tensor) -> Tensor:
        """Return J of (2) for masks (..., m), or (..., n, m) per sample, as `DropoutProblem.draw` returns them."""
        self.problem.check_mask(draw)
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
        """Return J of (3). Its S is of rank one plus a diagonal, so no m x m product is formed."""
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

    def noise_product(self, normals: Tensor) -> Tensor:
        """Return C(theta) normals, with exactly the covariance Cov(grad R_S(theta; eta)).

        No D x M or D x D array is formed. Noise with signs is an odd function of the normals and proportional to their
        scale, but not additive. Cost: one gradient and two products of size n m^2; for weak noise little more than one
        gradient, for masks per sample two gradients.
        """
        return self._noise(normals, 0.0)

    def noisy_mean_gradient(self, normals: Tensor, weight: float) -> Tensor:
        """Return weight `mean_gradient` + `noise_product`, by one pullback."""
        return self._noise(normals, weight)

    def _noise(self, normals: Tensor, weight: float) -> Tensor:
        problem, law = self.problem, self.problem.law
        problem.check_normals(normals)
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
        self.problem.check_normals(normals)
        return kernels.parts(self.theta, self.problem.law, normals, self.problem.linear_noise)

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector. It is the derivative of (3) in closed form if the network has a tangent."""
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
        """Return the derivative of J of (3) along a tangent (dh, dA, db) of the network."""
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
