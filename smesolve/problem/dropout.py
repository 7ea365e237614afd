"""Dropout training with squared error: losses, gradients, and the exact noise of the gradient.

With one mask eta shared by all n samples, the gradient of R_S(theta; eta) = 1/(2n) sum_i |f(x_i; eta) - y_i|^2
is J(c), J the pullback (divided by n) of the contributions z_k = A_k h_k, with the cotangents

    c_k = sum_r S_kr z_r + u_k (b - y),      (S, u) = (eta eta^T, eta).

It is linear in the pair (S, u), so each vector field of the theory is one choice of that pair:

    dropout gradient   S = eta eta^T                                              u = eta
    mean gradient      S = 1 1^T + v I                                            u = 1
    noise product      S = sqrt(v) (xi 1^T + 1 xi^T + s diag xi) + v Xi + w diag omega      u = sqrt(v) xi

where xi (m), the upper triangle of the symmetric, zero-diagonal Xi (m(m-1)/2), and omega (m) are independent
standard normals, and v, s, w^2 = E chi^2 are the moments of the mask law (`smesolve.problem.masks`). This is
the Hoeffding expansion of (eta eta^T, eta) with its orthonormal functions of the masks replaced by normals,
hence noise_product has EXACTLY the covariance of the gradient; `smesolve.symbolic.loss_expansion` derives it. For
masks on two values w = 0 and omega is absent: M = m(m+1)/2. An unmasked readout bias b acts as a neuron whose
mask is always 1: its cotangents are sum_r u_r z_r + b - y (mean, dropout) and sum_r u_r z_r (noise).

The pair part has a cheaper form, in which S is of rank three and a diagonal:

    Xi_kr = g e_k e_r  (k != r),      g a standard normal, e_k = +-1 independent fair signs.

These have mean zero, covariance I and no odd moments, as independent normals have; their fourth moments differ, which
moves a weak error by O(lr^2 dt), a term that every scheme here has (`smesolve.solver.schemes`). `with_weak_noise` takes
this form: 2m + 1 normals a step, and no product of size n m^2.

Masks drawn per sample, which torch.nn.Dropout does, have the same mean gradient, and the noise of each sample is
independent of the others'. n m (m+1)/2 normals would be too many, so they have the cheaper form always, with g and e
fresh for each sample: n (2m + 1) normals.

Sources: Zhang, Li, Luo, Xu, "Stochastic modified equations and dynamics of dropout" (ICLR 2024), sections 4.1
(modified loss) and 5.1 (covariance, which this factor reproduces without forming it).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.arguments import checked
from smesolve.errors import SmesolveError
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.masks import BernoulliMasks, MaskLaw, all_masks
from smesolve.problem.networks import DropoutNetwork, Linearisation
from smesolve.problem.parameters import check_parameters
from smesolve.problem.problem import Problem, check_table, check_trailing, finite_data

__all__ = ["DropoutProblem"]


class DropoutProblem(Problem):
    """A network, its data and its mask law: everything that trains under dropout.

    All methods take theta (..., D) with any leading dimensions; masks and normals broadcast against them. Shapes:
    n samples, d inputs, o outputs, m neurons under dropout, D parameters, M normals of a noise product.

    Args:
        network: a `DropoutNetwork`: `TwoLayerNetwork`, `FeatureNetwork` for any features, `LinearNetwork`.
        x: inputs (n, d), or (n, ...) as the network takes them, tensor or array.
        y: targets (n, o), tensor or array.
        keep_prob: probability in (0, 1] that a neuron is kept (torch.nn.Dropout's `p` is 1 - keep_prob).
        masks: "shared" (one Bernoulli mask for all samples of a step), "per_sample" (one for each sample, as
            torch.nn.Dropout draws them), or a `MaskLaw`, shared by all samples; a law brings its own parameters and
            takes the place of keep_prob.

    Raises:
        SmesolveError: for shapes that do not fit, data that are not finite, a missing or second mask law, one whose
            quantile and moments do not agree, or a network with some parameters frozen.
    """

    @checked
    def __init__(
        self,
        network: DropoutNetwork,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        keep_prob: float | None = None,
        masks: str | MaskLaw = "shared",
    ) -> None:
        check_parameters("network", network)
        parameter = next(network.parameters())
        self.network = network
        self.dtype, self.device = parameter.dtype, parameter.device
        self.x = finite_data("x", x, self.dtype, self.device)
        self.y = finite_data("y", y, self.dtype, self.device)
        self.law, self.per_sample = _mask_law(keep_prob, masks)
        moments = (self.law.variance, abs(self.law.skew), self.law.chi_variance)
        if max(moments) > torch.finfo(self.dtype).max ** 0.5:
            raise SmesolveError(
                f"masks must have moments that {self.dtype} holds in products, got {self.law!r}; take masks that "
                "spread less, or a network in float64."
            )
        self.linear_noise = not self.per_sample  # else pairs with signs
        check_table("y", self.y)
        if self.x.ndim < 2:
            check_table("x", self.x)
        if self.x.shape[0] != self.y.shape[0]:
            raise SmesolveError(
                f"x and y must hold the same number of samples, got shapes {tuple(self.x.shape)} and "
                f"{tuple(self.y.shape)}."
            )
        network.check(self.x)
        self.width, self.out_features = network.width, network.out_features
        check_numbers_fit(f"the pairs of {self.width} neurons", 4 * self.width**2, "take a narrower network")
        if self.y.shape[1] != self.out_features:
            raise SmesolveError(
                f"y must have {self.out_features} columns, the network's out_features, got {tuple(self.y.shape)}."
            )
        self.samples = self.x.shape[0]
        self.dim = sum(p.numel() for p in network.parameters())
        self._targets = self.y.mT.contiguous()
        pairs = torch.triu_indices(self.width, self.width, 1, device=self.device)
        # Entry (k, r) of S is read from the vector (diagonal terms, pairs); see _noise_pair.
        position = torch.diag(torch.arange(self.width, device=self.device))
        position[pairs[0], pairs[1]] = self.width + torch.arange(pairs.shape[1], device=self.device)
        self._position = (position + position.triu(1).mT).flatten()
        self._n_pairs = pairs.shape[1]

    @checked
    def with_keep_prob(self, keep_prob: float) -> DropoutProblem:
        """The same network and data under dropout with another keep_prob."""
        other = copy.copy(self)
        other.law = BernoulliMasks(keep_prob)
        return other

    def with_weak_noise(self) -> DropoutProblem:
        """The same training with a noise product of 2m + 1 normals, in law no longer normal: for weak errors alone.

        Its covariance is exact and it has no odd moments. `noise_functions` is None, so control variates do without
        their third part. Masks per sample have no other form.
        """
        other = copy.copy(self)
        other.linear_noise = False
        return other

    # --- sizes ---------------------------------------------------------------------------------------------------

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of one mask: (m,), or (n, m) for masks per sample."""
        return (self.samples, self.width) if self.per_sample else (self.width,)

    @property
    def draw_dim(self) -> int:
        """U: one uniform for each entry of a mask."""
        return math.prod(self.mask_shape)

    @property
    def noise_dim(self) -> int:
        """M = m(m+1)/2 for masks on two values, m more for other laws; 2m + 1, m more, for weak noise; n times that for
        masks per sample.
        """
        others = self.width if self.law.chi_variance else 0
        if self.linear_noise:
            return self.width + self._n_pairs + others
        return (self.samples if self.per_sample else 1) * (2 * self.width + 1 + others)

    @property
    def numbers_per_path(self) -> int:
        """Features, parameters and m x m products."""
        return self.width * self.samples + self.dim + self.width**2

    # --- losses --------------------------------------------------------------------------------------------------

    def contributions(self, theta: Tensor) -> Tensor:
        """z (..., n, m, o): what each neuron adds to each output. Memory n m o a path: small problems and tests."""
        at = self._linearise(theta)
        return torch.einsum("...mn,...om->...nmo", at.features, at.readout)

    def loss(self, theta: Tensor) -> Tensor:
        """R_S(theta) = 1/(2n) sum_i |f(x_i) - y_i|^2 without dropout, (...,). Cost: one forward pass."""
        return self._loss(self._linearise(theta))

    def modified_loss(self, theta: Tensor) -> Tensor:
        """L_S = E R_S(theta; eta) = R_S + v/(2n) sum_ik |z_ik|^2, (...,). Cost: one forward pass.

        Source: Zhang, Li, Luo, Xu (2024), eq. 4.
        """
        at = self._linearise(theta)
        penalty = (at.readout.square().sum(-2) * at.features.square().sum(-1)).sum(-1)
        return self._loss(at) + self.law.variance / (2 * self.samples) * penalty

    def _loss(self, at: Linearisation) -> Tensor:
        return self._residual(at).square().sum((-2, -1)) / (2 * self.samples)

    # --- gradients -----------------------------------------------------------------------------------------------

    def draw(self, uniforms: Tensor) -> Tensor:
        """Masks eta (..., m), or (..., n, m) per sample, from uniforms (..., U)."""
        masks = self.law.quantile(uniforms).to(dtype=self.dtype, device=self.device)
        return masks.unflatten(-1, self.mask_shape)

    @property
    def draw_count(self) -> float:
        """Number of different masks."""
        return math.inf if self.law.support is None else len(self.law.support[0]) ** self.draw_dim

    def all_draws(self) -> tuple[Tensor, Tensor]:
        """Every mask (K, m) or (K, n, m) and its probability (K,); refused beyond 2^22 masks."""
        masks, weights = all_masks(self.law, self.draw_dim)
        return masks.to(dtype=self.dtype, device=self.device).unflatten(-1, self.mask_shape), weights.to(self.device)

    def gradient(self, theta: Tensor, mask: Tensor) -> Tensor:
        """grad R_S(theta; eta), (..., D), for masks eta (..., m), or (..., n, m) per sample. Cost: one gradient.

        Entries of a mask are 0 or 1/keep_prob.
        """
        self._check_mask(mask)
        return self._masked(self._linearise(theta), mask)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """grad L_S(theta) = E grad R_S(theta; eta): (..., D). Cost: one gradient."""
        return self._mean(self._linearise(theta))

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """C(theta) normals: (..., D) from normals (..., M), with covariance Cov(grad R_S(theta; eta)) exactly.

        normals holds xi (m), then Xi's upper triangle row by row (`torch.triu_indices`), then omega (m) for laws
        on more than two values. Cost: one gradient and two products of size n m^2; no D x M or D x D array. For weak
        noise it holds xi (m), normals whose signs are e (m), g, and omega (m), for masks per sample this for each
        sample in turn: linear in the scale of the normals and odd, but for the signs not additive. Cost: little more
        than one gradient, for masks per sample about two.
        """
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)
        return self._noise(self._linearise(theta), normals)

    def gradient_and_mean_gradient(self, theta: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`gradient` and `mean_gradient` at one theta, which share the forward pass."""
        self._check_mask(mask)
        at = self._linearise(theta)
        return self._masked(at, mask), self._mean(at)

    def mean_gradient_and_noise_product(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """`mean_gradient` and `noise_product` at one theta, which share the forward pass."""
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)
        at = self._linearise(theta)
        return self._mean(at), self._noise(at, normals)

    def mean_gradient_noise_product_and_bend(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`mean_gradient`, `noise_product` and Hess L_S grad L_S at one theta, which share the forward pass."""
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)
        at = self._linearise(theta)
        mean = self._mean(at)
        bend = super().hessian_product(theta, mean) if at.tangent is None else self._hessian(at, mean)
        return mean, self._noise(at, normals), bend

    def drift_and_noise(self, theta: Tensor, normals: Tensor, weight: float) -> Tensor:
        """weight `mean_gradient` + `noise_product`: the sum of their pairs (S, u), so one pullback for both."""
        if self.per_sample:
            return super().drift_and_noise(theta, normals, weight)
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)
        at = self._linearise(theta)
        return (self._from_pair if self.linear_noise else self._from_signs)(at, normals, weight)

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Hess L_S(theta) vector: (..., D). Cost: about two gradients, by hand where the network has a tangent."""
        at = self._linearise(theta)
        if at.tangent is None:
            return super().hessian_product(theta, vector)
        return self._hessian(at, vector)

    def _hessian(self, at: Linearisation, vector: Tensor) -> Tensor:
        tangent: Any = at.tangent
        along, variance = tangent(vector), self.law.variance
        A, h, dA, dh = at.readout, at.features, along.readout, along.features
        residual = self._residual(at)
        change = dA @ h + A @ dh
        if along.bias is not None:
            change = change + along.bias
        squares, squares_along = variance * A.square().sum(-2)[..., None], 2 * variance * (A * dA).sum(-2)[..., None]
        features = torch.addcmul(_through(A, residual), squares, h)
        features_along = _product_along(A.mT, residual, dA.mT, change)
        features_along = torch.addcmul(torch.addcmul(features_along, squares_along, h), squares, dh)
        readout_along = residual @ dh.mT + change @ h.mT
        readout_along = torch.addcmul(readout_along, variance * dA, _squares(h)[..., None, :])
        readout_along = torch.addcmul(readout_along, 2 * variance * A, torch.linalg.vecdot(h, dh)[..., None, :])
        bias_along = None if at.bias is None else change.sum(-1, keepdim=True)
        return along.pullback(features, features_along, readout_along, bias_along) / self.samples

    def noise_functions(self, draw: Tensor) -> Tensor | None:
        """The orthonormal functions of the masks that the noise product replaces by normals: (..., M) from (..., m).

        zeta_k / sqrt(v), zeta_k zeta_r / v and chi_k / w: mean zero and covariance I under the law, and
        gradient(theta, mask) = mean_gradient(theta) + noise_product(theta, noise_functions(mask)) for every mask.
        None for weak noise and masks per sample, whose noise product has signs in their place, and for masks that are
        always 1: no function of these has variance 1.
        """
        mask, law = draw, self.law
        if not self.linear_noise or not law.variance:
            return None
        zeta = mask - 1
        unit = zeta / float(law.variance) ** 0.5
        first, second = torch.triu_indices(self.width, self.width, 1, device=self.device)
        parts = [unit, unit[..., first] * unit[..., second]]
        if law.chi_variance:
            parts.append((zeta.square() - law.variance - law.skew * zeta) / law.chi_variance**0.5)
        return torch.cat(parts, dim=-1)

    def noise_factor(self, theta: Tensor) -> Tensor:
        """C(theta) as a matrix: (..., D, M), for masks per sample (..., D, n m (m+1)/2). Small problems and tests."""
        if self.per_sample:  # the samples' noises are independent: each is that of a problem with one sample
            factors = [self._of_sample(i).noise_factor(theta) for i in range(self.samples)]
            return torch.cat(factors, dim=-1) / self.samples
        if not self.linear_noise:
            other = copy.copy(self)
            other.linear_noise = True
            return other.noise_factor(theta)
        return super().noise_factor(theta)

    def _of_sample(self, i: int) -> DropoutProblem:
        """The problem of sample i alone, whose mask is shared by all of its samples."""
        other = copy.copy(self)
        other.x, other.y, other._targets = self.x[i : i + 1], self.y[i : i + 1], self._targets[:, i : i + 1]
        other.samples, other.per_sample, other.linear_noise = 1, False, True
        return other

    # --- kernels: one choice of the pair (S, u) each ---------------------------------------------------------------

    def _linearise(self, theta: Tensor) -> Linearisation:
        check_trailing("theta", theta, (self.dim,), "the problem's dim D", self.dtype)
        return self.network.linearise(theta, self.x)

    def _offset(self, at: Linearisation) -> Tensor:
        """b - y, (..., o, n)."""
        return -self._targets if at.bias is None else at.bias - self._targets

    def _residual(self, at: Linearisation, readout: Tensor | None = None) -> Tensor:
        """sum_r u_r z_r + b - y (..., o, n); the masks u come inside the readout."""
        return (at.readout if readout is None else readout) @ at.features + self._offset(at)

    def _pull(self, at: Linearisation, features: Tensor, readout: Tensor, outputs: Tensor) -> Tensor:
        """J of the cotangents of features (..., m, n), readout (..., o, m) and, for the bias, outputs (..., o, n)."""
        bias = None if at.bias is None else outputs.sum(-1, keepdim=True)
        return at.pullback(features, readout, bias) / self.samples

    def _masked(self, at: Linearisation, mask: Tensor) -> Tensor:
        """S = eta eta^T, u = eta: masking the readout is enough where the samples share their mask."""
        if self.per_sample:
            kept = mask.mT * at.features
            residual = at.readout @ kept + self._offset(at)
            return self._pull(at, mask.mT * (at.readout.mT @ residual), residual @ kept.mT, residual)
        masked = at.readout * mask[..., None, :]
        residual = self._residual(at, masked)
        return self._pull(at, _through(masked, residual), (residual @ at.features.mT) * mask[..., None, :], residual)

    def _mean(self, at: Linearisation) -> Tensor:
        """S = 1 1^T + v I, u = 1: low rank, so the m x m products are avoided."""
        variance = self.law.variance
        residual = self._residual(at)
        penalty = variance * at.readout.square().sum(-2)[..., None]
        features = torch.addcmul(_through(at.readout, residual), penalty, at.features)
        readout = torch.addcmul(residual @ at.features.mT, variance * at.readout, _squares(at.features)[..., None, :])
        return self._pull(at, features, readout, residual)

    def _noise(self, at: Linearisation, normals: Tensor) -> Tensor:
        if self.per_sample:
            return self._noise_per_sample(at, normals)
        return (self._from_pair if self.linear_noise else self._from_signs)(at, normals)

    def _from_pair(self, at: Linearisation, normals: Tensor, weight: float = 0.0) -> Tensor:
        """Noise product plus `weight` times the mean gradient: J of c_k = sum_r S_kr z_r + u_k (b - y).

        No (n, m, o) array: S acts on features as S o A^T A and on the readout as S o h h^T (o: Hadamard product). For
        one output both are in the one product S z. The bias has the weight of its mask.
        """
        offset = self._offset(at)
        S, u = self._pair(normals, weight)
        if self.out_features == 1:
            cotangents = _added_product(u[..., :, None] * offset, S * at.readout, at.features)
            features, readout = at.readout.mT * cotangents, torch.linalg.vecdot(at.features, cotangents)[..., None, :]
        else:
            through = (at.readout * u[..., None, :]).mT @ offset
            features = _added_product(through, S * (at.readout.mT @ at.readout), at.features)
            readout = at.readout @ (S * (at.features @ at.features.mT)) + u[..., None, :] * (offset @ at.features.mT)
        outputs = offset
        if at.bias is not None:
            outputs = (at.readout * u[..., None, :]) @ at.features + weight * offset
        return self._pull(at, features, readout, outputs)

    def _from_signs(self, at: Linearisation, normals: Tensor, weight: float = 0.0) -> Tensor:
        """The same for weak noise: c_k = u_k R + (L + weight R) + v g e_k E + delta_k z_k,

        with R = sum_r z_r + b - y, L = sum_r u_r z_r, E = sum_r e_r z_r, delta = s u - v g + w omega + weight v.
        """
        law, m, o = self.law, self.width, self.out_features
        u, signs = float(law.variance) ** 0.5 * normals[..., :m], normals[..., m : 2 * m].sign()
        pairs = law.variance * normals[..., 2 * m : 2 * m + 1]
        diagonal = law.skew * u - pairs + weight * law.variance
        if law.chi_variance:
            diagonal = diagonal + law.chi_variance**0.5 * normals[..., 2 * m + 1 :]
        plain, masked, signed = torch.broadcast_tensors(
            at.readout, at.readout * u[..., None, :], at.readout * signs[..., None, :]
        )
        R, L, E = (torch.cat([plain, masked, signed], -2) @ at.features).split(o, -2)
        R = R + self._offset(at)
        L = L + weight * R
        E = pairs[..., None] * E
        if o == 1:
            cotangents = torch.addcmul(L, u[..., None], R)
            cotangents = torch.addcmul(cotangents, signs[..., None], E)
            cotangents = torch.addcmul(cotangents, diagonal[..., None] * at.readout.mT, at.features)
            features, readout = at.readout.mT * cotangents, torch.linalg.vecdot(at.features, cotangents)[..., None, :]
            return self._pull(at, features, readout, L)
        cotangents = torch.cat([R, L, E], -2)
        features = torch.addcmul(
            torch.cat([masked, plain, signed], -2).mT @ cotangents,
            (diagonal * at.readout.square().sum(-2))[..., None],
            at.features,
        )
        from_R, from_L, from_E = (cotangents @ at.features.mT).split(o, -2)
        readout = u[..., None, :] * from_R + from_L + signs[..., None, :] * from_E
        readout = readout + at.readout * (diagonal * _squares(at.features))[..., None, :]
        return self._pull(at, features, readout, L)

    def _noise_per_sample(self, at: Linearisation, normals: Tensor) -> Tensor:
        """Cotangents c_k = u_k (e + s z_k) + w omega_k z_k + sum_r u_r z_r + v g e_k (sum_r e_r z_r - e_k z_k)."""
        law, m = self.law, self.width
        normals = normals.unflatten(-1, (self.samples, -1)).mT  # neurons before samples
        u = float(law.variance) ** 0.5 * normals[..., :m, :]
        signs = normals[..., m : 2 * m, :].sign()
        pairs = law.variance * normals[..., 2 * m : 2 * m + 1, :] * signs
        diagonal = law.skew * u - pairs * signs
        if law.chi_variance:
            diagonal = diagonal + law.chi_variance**0.5 * normals[..., 2 * m + 1 :, :]
        linear, signed = at.readout @ (u * at.features), at.readout @ (signs * at.features)
        residual = self._residual(at)
        features = u * (at.readout.mT @ residual) + at.readout.mT @ linear + pairs * (at.readout.mT @ signed)
        features = features + diagonal * at.readout.square().sum(-2)[..., None] * at.features
        readout = residual @ (u * at.features).mT + linear @ at.features.mT + signed @ (pairs * at.features).mT
        readout = readout + at.readout * (diagonal * at.features.square()).sum(-1)[..., None, :]
        return self._pull(at, features, readout, linear)

    def _pair(self, normals: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """(S, u) of the noise product plus `weight` times that of the mean gradient: (..., m, m) and (..., m)."""
        law, m = self.law, self.width
        u = float(law.variance) ** 0.5 * normals[..., :m]
        diagonal = law.skew * u + weight * law.variance
        if law.chi_variance:
            diagonal = diagonal + law.chi_variance**0.5 * normals[..., m + self._n_pairs :]
        entries = torch.cat([diagonal, law.variance * normals[..., m : m + self._n_pairs]], dim=-1)
        S = entries.index_select(-1, self._position).unflatten(-1, (m, m))
        return S + (u + weight)[..., :, None] + u[..., None, :], u + weight

    def _check_mask(self, mask: Tensor) -> None:
        check_trailing(
            "mask", mask, self.mask_shape, "one entry for each neuron" + " and sample" * self.per_sample, self.dtype
        )


def _through(readout: Tensor, outputs: Tensor) -> Tensor:
    """A^T of the outputs' cotangents (..., m, n); for one output a broadcast is cheaper than a matrix product."""
    return readout.mT * outputs if readout.shape[-2] == 1 else readout.mT @ outputs


def _added_product(summand: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """summand + left @ right, in one pass where all of them hold one matrix for each path."""
    if summand.ndim == left.ndim == right.ndim == 3 and summand.shape[0] == left.shape[0] == right.shape[0]:
        return torch.baddbmm(summand, left, right)
    return summand + left @ right


def _product_along(left: Tensor, right: Tensor, left_along: Tensor, right_along: Tensor) -> Tensor:
    """left_along right + left right_along, as one product."""
    return torch.cat(torch.broadcast_tensors(left_along, left), -1) @ torch.cat(
        torch.broadcast_tensors(right, right_along), -2
    )


def _squares(features: Tensor) -> Tensor:
    """sum_i h_ki^2 (..., m)."""
    return torch.linalg.vecdot(features, features)


def _mask_law(keep_prob: float | None, masks: Any) -> tuple[MaskLaw, bool]:
    """The law, and whether each sample has a mask of its own."""
    if isinstance(masks, MaskLaw):
        if keep_prob is not None:
            raise SmesolveError(f"keep_prob={keep_prob} and masks={masks!r} both name a mask law; give one of them.")
        masks.check_moments()
        return masks, False
    if masks not in ("shared", "per_sample"):
        raise SmesolveError(f'masks must be "shared", "per_sample" or a MaskLaw, got {masks!r}.')
    if keep_prob is None:
        raise SmesolveError("keep_prob is missing; give a probability in (0, 1], or a mask law as masks=.")
    return BernoulliMasks(keep_prob), masks == "per_sample"
