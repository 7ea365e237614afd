"""Dropout training with squared error.

With one mask eta shared by all n samples, the loss is

    (1)  R_S(theta; eta) = 1/(2n) sum_i |f(x_i; eta) - y_i|^2,      f(x; eta) = sum_r eta_r z_r(x) + b,

and its gradients, their mean and their noise are in `smesolve.problem.dropout_linearization`. `noise_product` has
exactly the covariance of the gradient. For masks shared by all samples, its normals stand for orthonormal functions of
the masks, with moments v, s, w^2 = E chi^2 of the mask law:

    (2)  zeta_k / sqrt(v),   zeta_k zeta_r / v  (k < r),   chi_k / w,      zeta = eta - 1, chi = zeta^2 - v - s zeta.

Masks drawn per sample, as torch.nn.Dropout draws them, have the same mean gradient, and the noise of each sample is
independent of the noise of the others. As n m (m+1)/2 normals would be too many, such masks always have the cheaper
form (4) of `smesolve.problem.dropout_noise`, with signs and normals of its own for each sample: n (2m + 1) normals.

Source: Zhang, Li, Luo, Xu, "Stochastic modified equations and dynamics of dropout" (ICLR 2024), section 5.1 for the
covariance, which this factor reproduces without forming it.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.differentiable_scalar import as_scalar, value_of
from smesolve.problem.dropout_linearization import DropoutLinearization
from smesolve.problem.dropout_noise import PairNoise
from smesolve.problem.kernels.fused import FusedKernels, ReadoutKernels
from smesolve.problem.leading_dimensions import check_leading
from smesolve.problem.masked_problem import MaskedProblem
from smesolve.problem.masks import BernoulliMasks, MaskLaw
from smesolve.problem.networks import DropoutNetwork
from smesolve.validation import check_integer, check_keep_prob

__all__ = ["DropoutProblem"]


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
        """Return the problem of sample i only, with linear noise.

        Raises:
            SmesolveError: i is no integer from 0 to n - 1.
        """
        i = check_integer("i", i, 0, self.samples - 1)
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
        check_leading(theta, "increments", increments)
        return self.kernels.small_noise_rk4(theta, self.law, increments, self.linear_noise, order, lr, dt, split)

    def noise_coordinates(self, draw: Tensor) -> Tensor | None:
        """Return (2), the orthonormal functions of the masks that the noise product replaces by normals: (..., M).

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
        rows = unit.movedim(-1, 0).contiguous()  # whole rows are gathered five times as fast as columns
        pairs = rows.index_select(0, first) * rows.index_select(0, second)
        parts = [unit, pairs.movedim(0, -1)]
        if law.chi_variance:
            parts.append((zeta.square() - law.variance - law.skew * zeta) / law.chi_variance**0.5)
        return torch.cat(parts, dim=-1)
