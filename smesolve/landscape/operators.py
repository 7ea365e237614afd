"""Curvature and noise at a point theta as scipy linear operators: products only, no D x D array.

Every operator is symmetric and takes blocks of vectors. Notation, for a network f(x_i) = A h_i + b with m neurons under
dropout (h_i their features, z_ir = A_r h_ir their contributions, e = f - y, v the variance of the masks):

    Hessian              of L_S = E R_S(.; eta), or of R_S
    Gauss-Newton of R_S  1/n sum_i J_i^T J_i,  J_i the Jacobian of f(x_i)
    Gauss-Newton of L_S  1/n sum_i [ J_i^T J_i + v sum_r Z_ir^T Z_ir ],  Z_ir the Jacobian of z_ir
    Fisher information   1/n sum_i J_i^T F_i J_i,  F_i that of the likelihood of one sample's outputs
    covariance           Sigma = Cov(grad R_S(theta; eta)) = C C^T, exact
    batch of one         1/n sum_i [ J_i^T (e_i e_i^T + v sum_r z_ir z_ir^T) J_i + v sum_r Z_ir^T e_i e_i^T Z_ir ]

The last is the approximate covariance of Zhang, Li, Luo, Xu (ICLR 2024), section 5.2: what the gradient of ONE random
sample under a random mask has as second moment, up to terms of higher order in the masks. It is not the covariance of
full-batch dropout, Sigma.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.arguments import Parameters, checked
from smesolve.entry_point import plain_surroundings
from smesolve.errors import SmesolveError, shown
from smesolve.landscape.likelihoods import likelihood_named
from smesolve.landscape.linearised_network import LinearisedNetwork
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import Linearisation
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import fitting_block_size

__all__ = [
    "SymmetricOperator",
    "batch_of_one_operator",
    "covariance_operator",
    "fisher_operator",
    "gauss_newton_operator",
    "gradient_term_operator",
    "hessian_operator",
    "loss_hessian_operator",
    "pair_term_operator",
    "sampled_covariance_operator",
]


class SymmetricOperator(LinearOperator):
    """A symmetric D x D operator from a product on rows.

    Args:
        theta: (D,), for size, dtype and device.
        product: (B, D) -> (B, D), row by row.
        numbers_per_vector: what `product` holds in memory for one row; rows are multiplied in blocks that fit a cache.
    """

    def __init__(self, theta: Tensor, product: Callable[[Tensor], Tensor], numbers_per_vector: int) -> None:
        super().__init__(np.float64, (theta.numel(), theta.numel()))
        self._like, self._product = theta, product
        self._rows = fitting_block_size(numbers_per_vector)

    def _matmat(self, X: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.ascontiguousarray(X.T)).to(self._like)
        with plain_surroundings(), torch.no_grad():
            blocks = [self._product(block.contiguous()) for block in rows.split(self._rows)]
        return torch.cat(blocks).double().cpu().numpy().T

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(x.reshape(-1, 1))[:, 0]

    def _adjoint(self) -> SymmetricOperator:
        return self


# --- Hessians ----------------------------------------------------------------------------------------------------


@checked
def hessian_operator(problem: Problem, theta: Tensor) -> SymmetricOperator:
    """Hess L_S(theta), theta (D,). Cost of a product: about two gradients."""
    return SymmetricOperator(
        theta, lambda rows: problem.hessian_product(theta.expand_as(rows), rows), problem.numbers_per_path
    )


@checked
def loss_hessian_operator(problem: Problem, theta: Tensor) -> SymmetricOperator:
    """Hess R_S(theta) of the loss without dropout, theta (D,). Cost of a product: about four gradients."""
    gradient = torch.func.grad(lambda points: problem.loss(points).sum())
    return SymmetricOperator(
        theta,
        lambda rows: forward_derivative(gradient, theta.expand_as(rows), rows)[1],
        2 * problem.numbers_per_path,
    )


# --- operators of the linearised network -------------------------------------------------------------------------


@checked
def gauss_newton_operator(problem: DropoutProblem, theta: Tensor, modified: bool = True) -> SymmetricOperator:
    """Gauss-Newton part of Hess L_S(theta), or of Hess R_S(theta) where not `modified`. Cost: about two gradients."""
    variance = float(problem.law.variance) if modified else 0.0

    def cotangents(at: Linearisation, tangent: Linearisation, outputs: Tensor) -> _Cotangents:
        inner = (at.readout * tangent.readout).sum(-2)[..., None] * at.features
        features = variance * (inner + at.readout.square().sum(-2)[..., None] * tangent.features)
        overlaps = (tangent.features * at.features).sum(-1)[..., None, :]
        readout = variance * (tangent.readout * at.features.square().sum(-1) + at.readout * overlaps)
        return outputs, features, readout

    return _linearised_operator(problem, LinearisedNetwork(problem, theta), theta, cotangents)


@checked
def fisher_operator(problem: DropoutProblem, theta: Tensor, likelihood: str = "gaussian") -> SymmetricOperator:
    """Fisher information of one sample, averaged over the data, with the network's outputs as parameters of a law.

    Args:
        problem: for its network and inputs; targets do not enter.
        theta: (D,).
        likelihood: a name in `LIKELIHOODS`: "gaussian" (unit variance: the Gauss-Newton operator of R_S) or
            "categorical" (outputs are logits).

    Cost of a product: about two gradients.

    Raises:
        SmesolveError: an unknown likelihood.
    """
    law, network = likelihood_named(likelihood), LinearisedNetwork(problem, theta)

    def cotangents(at: Linearisation, tangent: Linearisation, outputs: Tensor) -> _Cotangents:
        return law.information(network.outputs.mT, outputs.mT).mT, 0.0, 0.0

    return _linearised_operator(problem, network, theta, cotangents)


@checked
def batch_of_one_operator(problem: DropoutProblem, theta: Tensor) -> SymmetricOperator:
    """The papers' approximate covariance of a step on one random sample under a random mask (module docstring).

    Source: Zhang, Li, Luo, Xu (ICLR 2024), section 5.2, l_{i,1} and l_{i,2}, here for any number of outputs.
    Cost: about two gradients.
    """
    variance = float(problem.law.variance)
    network = LinearisedNetwork(problem, theta)
    error = network.outputs - problem.y.mT
    pulled = network.at.readout.mT @ error

    def cotangents(at: Linearisation, tangent: Linearisation, outputs: Tensor) -> _Cotangents:
        spread = at.readout @ (at.features.square() * (at.readout.mT @ outputs))
        main = error * (error * outputs).sum(-2, keepdim=True) + variance * spread
        # e_i . Z_ir u, for neuron r and sample i
        along = (tangent.readout.mT @ error) * at.features + pulled * tangent.features
        return main, variance * pulled * along, variance * (error @ (along * at.features).mT)

    return _linearised_operator(problem, network, theta, cotangents)


_Cotangents = tuple[Tensor, Tensor | float, Tensor | float]


def _linearised_operator(
    problem: DropoutProblem,
    network: LinearisedNetwork,
    theta: Tensor,
    cotangents: Callable[[Linearisation, Linearisation, Tensor], _Cotangents],
) -> SymmetricOperator:
    """An operator 1/n (pullback of cotangents)(of the tangents along the vector).

    `cotangents` maps (network, its tangent, tangent of the outputs (..., o, n)) to the cotangents of outputs, and what
    is added to those of features (..., m, n) and readout (..., o, m).
    """

    def product(rows: Tensor) -> Tensor:
        return network.pulled(*cotangents(network.at, *network.along(rows))) / problem.samples

    return SymmetricOperator(theta, product, 3 * problem.numbers_per_path)


# --- covariance --------------------------------------------------------------------------------------------------


@checked
def covariance_operator(problem: Problem, theta: Tensor) -> SymmetricOperator:
    """Sigma(theta) = Cov(gradient), theta (D,), exact. Cost of a product: about three gradients.

    Raises:
        SmesolveError: the noise is known by sampling alone; take `sampled_covariance_operator`.
    """
    check_linear_noise(problem)
    return _factor_operator(problem, theta, lambda normals: problem.noise_product(theta, normals))


def check_linear_noise(problem: Problem) -> None:
    """Refuse a problem whose noise product is no matrix times its normals."""
    if not problem.linear_noise:
        raise SmesolveError(
            f"problem has no linear noise product ({type(problem).__name__} with sampled, per-sample or weak noise): "
            "take masks='shared', or sampled_covariance_operator and sampled_traces on draws of its noise."
        )


@checked
def gradient_term_operator(problem: DropoutProblem, theta: Tensor) -> SymmetricOperator:
    """The part of Sigma that vanishes where grad L_S does: v sum_k g_k g_k^T, g_k = the block of neuron k in grad L_S.

    Column k of C is sqrt(v) (g_k + cross_k), cross_k in the blocks of the other neurons; this is the first term of
    Sigma_kk in Zhang, Li, Luo, Xu (ICLR 2024), section 5.1. Exact for networks in which each parameter belongs to one
    neuron; where neurons share parameters, as below the last hidden layer, g_k is what neuron k adds to grad L_S.

    Raises:
        SmesolveError: the masks are not those of dropout, 0 or 1/keep_prob, or not shared by the samples: then no
            part of Sigma has this form.
    """
    return _factor_operator(problem, theta, _gradient_factor(problem, theta))


@checked
def pair_term_operator(problem: DropoutProblem, theta: Tensor) -> SymmetricOperator:
    """The part of Sigma that stays at critical points: columns cross_k and all pairs.

    Sigma = gradient term + pair term + v sum_k (g_k cross_k^T + cross_k g_k^T); the last has no trace, as the two have
    no block in common, and it vanishes with grad L_S as well.

    Raises:
        SmesolveError: as `gradient_term_operator`.
    """
    own = _gradient_factor(problem, theta)
    return _factor_operator(problem, theta, lambda normals: problem.noise_product(theta, normals) - own(normals))


def _gradient_factor(problem: DropoutProblem, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """normals (..., M) -> sqrt(v) sum_k xi_k g_k: the cotangents of the mean gradient, times xi_k on neuron k."""
    check_linear_noise(problem)
    variance = float(problem.law.variance)
    # Own cotangents are e + (1 + s) z_k, those of the mean gradient e + v z_k; for masks 0 or 1/keep_prob 1 + s = v.
    if variance and abs(1 + problem.law.skew - variance) > 1e-12 * (1 + variance):
        raise SmesolveError(f"masks must be those of dropout, 0 or 1/keep_prob, for this term, got {problem.law!r}.")
    network = LinearisedNetwork(problem, theta)
    at, error = network.at, network.outputs - problem.y.mT
    features = at.readout.mT @ error + variance * at.readout.square().sum(-2)[..., None] * at.features
    readout = error @ at.features.mT + variance * at.readout * at.features.square().sum(-1)

    def factor(normals: Tensor) -> Tensor:
        xi = variance**0.5 * normals[..., : problem.width]
        # The readout's bias has no mask, so it is in no neuron's block.
        bias = None if at.bias is None else at.bias.new_zeros(*xi.shape[:-1], *at.bias.shape)
        return at.pullback(xi[..., None] * features, xi[..., None, :] * readout, bias) / problem.samples

    return factor


def _factor_operator(problem: Problem, theta: Tensor, factor: Callable[[Tensor], Tensor]) -> SymmetricOperator:
    """C C^T: the transposed product is one pullback through the factor, which is linear in its normals (B, M)."""

    def product(rows: Tensor) -> Tensor:
        origin = rows.new_zeros(rows.shape[0], problem.noise_dim)
        with torch.enable_grad():
            _, transposed = torch.func.vjp(factor, origin)
        return factor(transposed(rows)[0])

    return SymmetricOperator(theta, product, 3 * (problem.numbers_per_path + problem.noise_dim))


DRAWS = Parameters(("N",))
"""Independent draws (N, D)."""


def check_draws(name: str, draws: Tensor, dim: int, dtype: torch.dtype, other: str) -> None:
    """Refuse draws (N, D), the argument `name`, of another dimension or dtype than those of the argument `other`."""
    if draws.shape[-1] != dim or draws.dtype != dtype:
        raise SmesolveError(f"{name} must be {dtype} of shape (N, {dim}), to go with {other}, got {shown(draws)}.")


@checked(gradients=DRAWS, mean=Parameters())
def sampled_covariance_operator(gradients: Tensor, mean: Tensor) -> SymmetricOperator:
    """1/N sum_j (g_j - mean)(g_j - mean)^T from N gradients (N, D) and their known mean (D,): unbiased for Sigma.

    `smesolve.landscape.traces.sampled_covariance_error` says how far it is from Sigma. Memory N D; cost of a product:
    two products of size N D.
    """
    check_draws("gradients", gradients, len(mean), mean.dtype, "mean")
    centred = gradients - mean
    return SymmetricOperator(mean, lambda rows: (rows @ centred.mT) @ centred / len(centred), len(centred))
