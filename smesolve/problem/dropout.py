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
hence noise_product has EXACTLY the covariance of the gradient; `smesolve.symbolic.structure` derives it. For
masks on two values w = 0 and omega is absent: M = m(m+1)/2. An unmasked readout bias b acts as a neuron whose
mask is always 1: its cotangents are sum_r u_r z_r + b - y (mean, dropout) and sum_r u_r z_r (noise).

Sources: Zhang, Li, Luo, Xu, "Stochastic modified equations and dynamics of dropout" (ICLR 2024), sections 4.1
(modified loss) and 5.1 (covariance, which this factor reproduces without forming it).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from smesolve.problem.masks import BernoulliMasks, MaskLaw
from smesolve.problem.networks import DropoutNetwork, Linearisation
from smesolve.sampling.ensemble import fitting_block_size

__all__ = ["DropoutProblem"]


class DropoutProblem:
    """A network, its data and its mask law: everything that trains under dropout.

    All methods take theta (..., D) with any leading dimensions; masks and normals broadcast against them. Shapes:
    n samples, d inputs, o outputs, m neurons under dropout, D parameters, M Brownian motions.

    Args:
        network: a `DropoutNetwork` such as `TwoLayerNetwork`.
        x: inputs (n, d), tensor or array.
        y: targets (n, o), tensor or array.
        keep_prob: probability in (0, 1] that a neuron is kept (torch.nn.Dropout's `p` is 1 - keep_prob).
        masks: "shared" (one Bernoulli mask for all samples of a step), or a `MaskLaw`, shared as well; a law
            brings its own parameters and takes the place of keep_prob.

    Raises:
        ValueError: for shapes that do not fit, data that are not finite, or a missing or second mask law.
    """

    def __init__(
        self,
        network: DropoutNetwork,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        keep_prob: float | None = None,
        masks: str | MaskLaw = "shared",
    ) -> None:
        parameter = next(network.parameters())
        self.network = network
        self.dtype, self.device = parameter.dtype, parameter.device
        self.x, self.y = self._data("x", x), self._data("y", y)
        self.law = _mask_law(keep_prob, masks)
        if self.x.shape[0] != self.y.shape[0]:
            raise ValueError(
                f"x and y must hold the same number of samples, got shapes {tuple(self.x.shape)} and "
                f"{tuple(self.y.shape)}."
            )
        if self.x.shape[0] == 0:
            raise ValueError("x holds no sample; give at least one.")
        if self.x.shape[1] != network.in_features:
            raise ValueError(
                f"x must have {network.in_features} columns, the network's in_features, got {tuple(self.x.shape)}."
            )
        self.width, self.out_features = network.width, network.out_features
        if self.y.shape[1] != self.out_features:
            raise ValueError(
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

    def _data(self, name: str, values: Tensor | np.ndarray) -> Tensor:
        values = values if isinstance(values, Tensor) else np.array(values)  # torch warns of read-only arrays
        data = torch.as_tensor(values).to(dtype=self.dtype, device=self.device)
        if data.ndim != 2:
            raise ValueError(
                f"{name} must have two dimensions, samples by {'inputs' if name == 'x' else 'outputs'}, got shape "
                f"{tuple(data.shape)}; a vector becomes one column by {name}.reshape(-1, 1)."
            )
        if not data.isfinite().all():
            bad = int((~data.isfinite()).sum())
            raise ValueError(f"{name} has {bad} values that are NaN or infinite; remove those samples or fill them in.")
        return data

    # --- sizes ---------------------------------------------------------------------------------------------------

    @property
    def noise_dim(self) -> int:
        """M = m(m+1)/2 Brownian motions for masks on two values, m more for other laws."""
        return self.width + self._n_pairs + (self.width if self.law.chi_variance else 0)

    @property
    def block_size(self) -> int:
        """Paths that are run together: features, parameters and m x m products of a block fit a cache."""
        return fitting_block_size(self.width * self.samples + self.dim + self.width**2)

    def initial(self, seed: int = 0) -> Tensor:
        """Initial parameters (D,): the modules' own initialisation, drawn from the given seed."""
        network = copy.deepcopy(self.network)
        with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
            torch.manual_seed(seed)
            for module in network.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        return nn.utils.parameters_to_vector(network.parameters()).detach()

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

    def gradient(self, theta: Tensor, mask: Tensor) -> Tensor:
        """grad R_S(theta; eta) for masks eta (..., m), entries 0 or 1/keep_prob: (..., D). Cost: one gradient."""
        self._check("mask", mask, self.width, "one entry for each neuron")
        return self._masked(self._linearise(theta), mask)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """grad L_S(theta) = E grad R_S(theta; eta): (..., D). Cost: one gradient."""
        return self._mean(self._linearise(theta))

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """C(theta) normals: (..., D) from normals (..., M), C C^T = Cov(grad R_S(theta; eta)) exactly.

        normals holds xi (m), then Xi's upper triangle row by row (`torch.triu_indices`), then omega (m) for laws
        on more than two values. Cost: one gradient and two products of size n m^2; no D x M or D x D array.
        """
        self._check("normals", normals, self.noise_dim, "the problem's noise_dim M")
        return self._noise(self._linearise(theta), normals)

    def gradient_and_mean_gradient(self, theta: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`gradient` and `mean_gradient` at one theta, which share the forward pass."""
        self._check("mask", mask, self.width, "one entry for each neuron")
        at = self._linearise(theta)
        return self._masked(at, mask), self._mean(at)

    def mean_gradient_and_noise_product(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """`mean_gradient` and `noise_product` at one theta, which share the forward pass."""
        self._check("normals", normals, self.noise_dim, "the problem's noise_dim M")
        at = self._linearise(theta)
        return self._mean(at), self._noise(at, normals)

    def mask_functions(self, mask: Tensor) -> Tensor:
        """The orthonormal functions of the masks that the noise product replaces by normals: (..., M) from (..., m).

        zeta_k / sqrt(v), zeta_k zeta_r / v and chi_k / w: mean zero and covariance I under the law, and
        gradient(theta, mask) = mean_gradient(theta) + noise_product(theta, mask_functions(mask)) for every mask.
        """
        law = self.law
        zeta = mask - 1
        spread = float(law.variance) ** 0.5
        unit = zeta / spread if spread else torch.zeros_like(zeta)
        first, second = torch.triu_indices(self.width, self.width, 1, device=self.device)
        parts = [unit, unit[..., first] * unit[..., second]]
        if law.chi_variance:
            parts.append((zeta.square() - law.variance - law.skew * zeta) / law.chi_variance**0.5)
        return torch.cat(parts, dim=-1)

    def noise_factor(self, theta: Tensor) -> Tensor:
        """C(theta) as a matrix (..., D, M). Memory D M a path: small problems and tests."""
        columns = torch.eye(self.noise_dim, dtype=self.dtype, device=self.device)
        return self.noise_product(theta[..., None, :], columns).mT

    def covariance(self, theta: Tensor) -> Tensor:
        """Sigma(theta) = Cov(grad R_S(theta; eta)) (..., D, D). Memory D^2 + D M a path: small problems and tests."""
        factor = self.noise_factor(theta)
        return factor @ factor.mT

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Hess L_S(theta) vector: (..., D), by forward differentiation of the mean gradient (about 2 gradients)."""
        # contiguous: forward differentiation refuses tensors that `expand` made
        return torch.func.jvp(self.mean_gradient, (theta.contiguous(),), (vector.contiguous(),))[1]

    # --- stability -----------------------------------------------------------------------------------------------

    def stability_limit(self, theta: Tensor) -> float:
        """2 / lambda_max(Hess L_S(theta)), theta (D,): beyond this lr the mean iteration leaves theta's neighbourhood.

        The largest eigenvalue is by Lanczos (scipy `eigsh`; some 20 Hessian products); infinity where it is <= 0.
        """

        def product(vector: np.ndarray) -> np.ndarray:
            direction = torch.as_tensor(vector.reshape(-1), dtype=self.dtype, device=self.device)
            return self.hessian_product(theta, direction).cpu().numpy()

        if self.dim == 1:
            largest = float(product(np.ones(1))[0])
        else:
            operator = LinearOperator((self.dim, self.dim), matvec=product, dtype=np.float64)
            start = np.ones(self.dim) / np.sqrt(self.dim)
            try:
                largest = float(eigsh(operator, k=1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[0])
            except ArpackNoConvergence as failure:
                raise ArithmeticError(
                    f"the largest Hessian eigenvalue at theta did not converge: {failure}"
                ) from failure
        return 2 / largest if largest > 0 else float("inf")

    # --- kernels: one choice of the pair (S, u) each ---------------------------------------------------------------

    def _linearise(self, theta: Tensor) -> Linearisation:
        self._check("theta", theta, self.dim, "the problem's dim D")
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
        """S = eta eta^T, u = eta: masking the readout is enough."""
        masked = at.readout * mask[..., None, :]
        residual = self._residual(at, masked)
        return self._pull(at, masked.mT @ residual, (residual @ at.features.mT) * mask[..., None, :], residual)

    def _mean(self, at: Linearisation) -> Tensor:
        """S = 1 1^T + v I, u = 1: low rank, so the m x m products are avoided."""
        variance = self.law.variance
        residual = self._residual(at)
        penalty = variance * at.readout.square().sum(-2)[..., None] * at.features
        readout = residual @ at.features.mT + variance * at.readout * at.features.square().sum(-1)[..., None, :]
        return self._pull(at, at.readout.mT @ residual + penalty, readout, residual)

    def _noise(self, at: Linearisation, normals: Tensor) -> Tensor:
        """The m x m matrix S acts on features as S o A^T A and on the readout as S o h h^T: no (n, m, o) array."""
        S, u = self._noise_pair(normals)
        offset = self._offset(at)
        gram = at.readout.mT @ at.readout
        features = (S * gram) @ at.features + u[..., :, None] * (at.readout.mT @ offset)
        readout = at.readout @ (S * (at.features @ at.features.mT)) + u[..., None, :] * (offset @ at.features.mT)
        outputs = offset if at.bias is None else (at.readout * u[..., None, :]) @ at.features
        return self._pull(at, features, readout, outputs)

    def _noise_pair(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """(S, u) of the noise product: (..., m, m) and (..., m)."""
        law, m = self.law, self.width
        spread = float(law.variance) ** 0.5
        u = spread * normals[..., :m]
        diagonal = law.skew * u
        if law.chi_variance:
            diagonal = diagonal + law.chi_variance**0.5 * normals[..., m + self._n_pairs :]
        entries = torch.cat([diagonal, law.variance * normals[..., m : m + self._n_pairs]], dim=-1)
        S = entries.index_select(-1, self._position).unflatten(-1, (m, m))
        return S + u[..., :, None] + u[..., None, :], u

    def _check(self, name: str, values: Tensor, size: int, meaning: str) -> None:
        if values.shape[-1:] != (size,):
            raise ValueError(f"{name} must have shape (..., {size}), {meaning}, got {tuple(values.shape)}.")


def _mask_law(keep_prob: float | None, masks: Any) -> MaskLaw:
    if isinstance(masks, MaskLaw):
        if keep_prob is not None:
            raise ValueError(f"keep_prob={keep_prob} and masks={masks!r} both name a mask law; give one of them.")
        return masks
    if masks != "shared":
        raise ValueError(f'masks must be "shared" or a MaskLaw, got {masks!r}.')
    if keep_prob is None:
        raise ValueError("keep_prob is missing; give a probability in (0, 1], or a mask law as masks=.")
    return BernoulliMasks(keep_prob)
