"""Curvature and noise at a point theta as scipy linear operators: products only, no D x D array.

Every operator is symmetric and takes blocks of vectors. For a network f(x_i) = A h_i + b with m neurons under dropout,
let h_i be their features, z_ir = A_r h_ir their contributions, e = f - y, v the variance of the masks, and J_i, Z_ir
the Jacobians of f(x_i) and z_ir:

    Hessian of L_S = E R_S(.; eta), or of R_S                                                                        (1)
    Gauss-Newton of R_S  1/n sum_i J_i^T J_i                                                                         (2)
    Gauss-Newton of L_S  1/n sum_i [ J_i^T J_i + v sum_r Z_ir^T Z_ir ]                                               (3)
    Fisher information   1/n sum_i J_i^T F_i J_i,  F_i that of the likelihood of one sample's outputs                (4)
    batch of one         1/n sum_i [ J_i^T (e_i e_i^T + v sum_r z_ir z_ir^T) J_i + v sum_r Z_ir^T e_i e_i^T Z_ir ]   (5)
    covariance           Sigma = Cov(grad R_S(theta; eta)) = C C^T                                                   (6)
                         = v sum_k (g_k + cross_k)(g_k + cross_k)^T + pairs                                          (7)

g_k is the block of neuron k in grad L_S, and column k of C is sqrt(v) (g_k + cross_k), cross_k in the blocks of the
other neurons. (5) is the approximate covariance of Zhang, Li, Luo, Xu (ICLR 2024), section 5.2: the second moment of
the gradient of ONE random sample under a random mask, up to terms of higher order in the masks. It is not the
covariance Sigma of full-batch dropout.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from smesolve.entry_point import entry_point, plain_surroundings
from smesolve.errors import SmesolveError, invalid
from smesolve.landscape.likelihoods import likelihood_named
from smesolve.landscape.linearised_network import LinearisedNetwork
from smesolve.problem.definition import check_derivatives
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import NetworkLinearization
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import fitting_block_size
from smesolve.validation import check_flag, check_instance, check_parameters, check_problem, check_tensor

__all__ = [
    "SymmetricOperator",
    "batch_of_one_operator",
    "check_linear_noise",
    "check_sampled_noise",
    "conservative_problem",
    "covariance_operator",
    "dropout_problem",
    "fisher_operator",
    "gauss_newton_operator",
    "gradient_term_operator",
    "hessian_operator",
    "loss_hessian_operator",
    "pair_term_operator",
    "sampled_covariance_operator",
]


LARGEST_DRAW = 1e40
"""Largest entry, and largest inverse of the largest entry, of draws whose moments are measured."""


class SymmetricOperator(LinearOperator):  # type: ignore[misc]  # scipy has no stubs
    """A symmetric D x D operator from a product (B, D) -> (B, D), row by row, like theta (D,) in dtype and device.

    The working arrays of the product have `floats_per_vector` floats for one row: rows are multiplied in blocks that
    fit into a cache.
    """

    def __init__(self, theta: Tensor, product: Callable[[Tensor], Tensor], floats_per_vector: int) -> None:
        super().__init__(np.float64, (theta.numel(), theta.numel()))
        self._like, self._product = theta, product
        self._rows = fitting_block_size(floats_per_vector)

    def _matmat(self, X: np.ndarray) -> np.ndarray:
        if X.dtype.kind not in "fiub":
            raise invalid("the vectors in a product with an operator", "be real numbers", X)
        rows = torch.from_numpy(np.ascontiguousarray(X.T)).to(self._like)
        with plain_surroundings(), torch.no_grad():
            blocks = [self._product(block.contiguous()) for block in torch.split(rows, self._rows)]
        return torch.cat(blocks).double().cpu().numpy().T

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(x.reshape(-1, 1))[:, 0]

    def _adjoint(self) -> SymmetricOperator:
        return self


def dropout_problem(problem: Problem) -> DropoutProblem:
    """Return a `DropoutProblem`, the argument `problem`."""
    return check_instance("problem", problem, DropoutProblem, "a DropoutProblem")


def conservative_problem(problem: Problem) -> Problem:
    """Return a problem whose mean gradient is the gradient of a loss, the argument `problem`."""
    check_problem("problem", problem)
    if not problem.conservative:
        raise SmesolveError(
            f"problem must have the gradient of a loss, got {problem!r}; take the problem that is trained, not its "
            "training."
        )
    return problem


# --- Hessians ---------------------------------------------------------------------------------------------------------


@entry_point
def hessian_operator(problem: Problem, theta: Tensor) -> SymmetricOperator:
    """Return Hess L_S(theta) of (1), theta (D,). Cost of a product: about two gradients.

    Raises:
        SmesolveError: bad arguments, such as the state of an optimiser, or a loss without second derivatives.
    """
    theta = check_parameters("theta", theta, conservative_problem(problem))
    check_derivatives(problem, theta)
    return SymmetricOperator(
        theta, lambda rows: problem.hessian_product(theta.expand_as(rows), rows), problem.floats_per_path
    )


@entry_point
def loss_hessian_operator(problem: Problem, theta: Tensor) -> SymmetricOperator:
    """Return Hess R_S(theta) of the loss without dropout (1), theta (D,). Cost of a product: about four gradients.

    Raises:
        SmesolveError: bad arguments, such as the state of an optimiser.
    """
    theta = check_parameters("theta", theta, conservative_problem(problem))
    gradient = torch.func.grad(lambda points: problem.loss(points).sum())
    return SymmetricOperator(
        theta,
        lambda rows: forward_derivative(gradient, theta.expand_as(rows), rows)[1],
        2 * problem.floats_per_path,
    )


# --- operators of the linearised network ------------------------------------------------------------------------------


@entry_point
def gauss_newton_operator(problem: DropoutProblem, theta: Tensor, modified: bool = True) -> SymmetricOperator:
    """Return the Gauss-Newton part (3) of Hess L_S(theta), or (2) of Hess R_S(theta) if not `modified`.

    Cost of a product: about two gradients.
    """
    theta = check_parameters("theta", theta, dropout_problem(problem))
    check_flag("modified", modified)
    variance = float(problem.law.variance) if modified else 0.0

    def cotangents(at: NetworkLinearization, tangent: NetworkLinearization, outputs: Tensor) -> _Cotangents:
        inner = (at.readout * tangent.readout).sum(-2)[..., None] * at.features
        features = variance * (inner + at.readout.square().sum(-2)[..., None] * tangent.features)
        overlaps = (tangent.features * at.features).sum(-1)[..., None, :]
        readout = variance * (tangent.readout * at.features.square().sum(-1) + at.readout * overlaps)
        return outputs, features, readout

    return _linearised_operator(problem, LinearisedNetwork(problem, theta), theta, cotangents)


@entry_point
def fisher_operator(problem: DropoutProblem, theta: Tensor, likelihood: str = "gaussian") -> SymmetricOperator:
    """Return the Fisher information (4) of one sample, averaged over the data.

    Cost of a product: about two gradients.

    Args:
        problem: problem with the network and the inputs; targets do not enter.
        theta: parameters (D,).
        likelihood: a name in `LIKELIHOODS`: "gaussian" (unit variance: the Gauss-Newton operator of R_S) or
            "categorical" (outputs are logits).
    """
    theta = check_parameters("theta", theta, dropout_problem(problem))
    law, network = likelihood_named(likelihood), LinearisedNetwork(problem, theta)

    def cotangents(at: NetworkLinearization, tangent: NetworkLinearization, outputs: Tensor) -> _Cotangents:
        return law.information(network.outputs.mT, outputs.mT).mT, 0.0, 0.0

    return _linearised_operator(problem, network, theta, cotangents)


@entry_point
def batch_of_one_operator(problem: DropoutProblem, theta: Tensor) -> SymmetricOperator:
    """Return the papers' approximate covariance (5) of a step on one random sample under a random mask.

    Source: Zhang, Li, Luo, Xu (ICLR 2024), section 5.2, l_{i,1} and l_{i,2}, here for any number of outputs.
    Cost of a product: about two gradients.
    """
    theta = check_parameters("theta", theta, dropout_problem(problem))
    variance = float(problem.law.variance)
    network = LinearisedNetwork(problem, theta)
    error = network.outputs - problem.y.mT
    pulled = network.at.readout.mT @ error

    def cotangents(at: NetworkLinearization, tangent: NetworkLinearization, outputs: Tensor) -> _Cotangents:
        spread = at.readout @ (at.features.square() * (at.readout.mT @ outputs))
        main = error * (error * outputs).sum(-2, keepdim=True) + variance * spread  # J_i^T (...) J_i of (5)
        # e_i . Z_ir u, for neuron r and sample i
        along = (tangent.readout.mT @ error) * at.features + pulled * tangent.features
        return main, variance * pulled * along, variance * (error @ (along * at.features).mT)

    return _linearised_operator(problem, network, theta, cotangents)


_Cotangents = tuple[Tensor, Tensor | float, Tensor | float]


def _linearised_operator(
    problem: DropoutProblem,
    network: LinearisedNetwork,
    theta: Tensor,
    cotangents: Callable[[NetworkLinearization, NetworkLinearization, Tensor], _Cotangents],
) -> SymmetricOperator:
    """Return the operator 1/n (pullback of cotangents)(of the tangents along the vector).

    `cotangents` maps (network, its tangent, tangent of the outputs (..., o, n)) to the cotangents of the outputs, and
    to terms added to those of features (..., m, n) and readout (..., o, m).
    """

    def product(rows: Tensor) -> Tensor:
        return network.pulled(*cotangents(network.at, *network.along(rows))) / problem.samples

    return SymmetricOperator(theta, product, 3 * problem.floats_per_path)


# --- covariance -------------------------------------------------------------------------------------------------------


@entry_point
def covariance_operator(problem: Problem, theta: Tensor) -> SymmetricOperator:
    """Return the exact covariance (6) of the gradient, theta (D,). Cost of a product: about three gradients.

    Raises:
        SmesolveError: bad arguments, or a noise that is known only by sampling; take `sampled_covariance_operator`.
    """
    theta = check_parameters("theta", theta, conservative_problem(problem))
    check_linear_noise(problem)
    return _factor_operator(problem, theta, lambda normals: problem.noise_product(theta, normals))


def check_linear_noise(problem: Problem) -> None:
    """Refuse a problem whose noise product is not linear in its normals."""
    if not problem.linear_noise:
        raise SmesolveError(
            f"problem must have a noise product that is linear in its normals, got {type(problem).__name__} with "
            "sampled, per-sample or weak noise; take masks='shared', or sampled_covariance_operator and sampled_traces "
            "on draws of its noise."
        )


@entry_point
def gradient_term_operator(problem: DropoutProblem, theta: Tensor) -> SymmetricOperator:
    """Return v sum_k g_k g_k^T, the part of Sigma in (7) that vanishes where grad L_S does.

    This is the first term of Sigma_kk in Zhang, Li, Luo, Xu (ICLR 2024), section 5.1, for networks in which each
    parameter belongs to one neuron. Where neurons share parameters, as below the last hidden layer, g_k is the
    contribution of neuron k to grad L_S.

    Raises:
        SmesolveError: bad arguments, or masks that are not those of dropout, 0 or 1/keep_prob, or that the samples do
            not share: no part of Sigma has this form then.
    """
    theta = check_parameters("theta", theta, dropout_problem(problem))
    return _factor_operator(problem, theta, _gradient_factor(problem, theta))


@entry_point
def pair_term_operator(problem: DropoutProblem, theta: Tensor) -> SymmetricOperator:
    """Return the part of Sigma in (7) that does not vanish at critical points: columns cross_k and all pairs.

    Sigma = gradient term + pair term + v sum_k (g_k cross_k^T + cross_k g_k^T). The last term has trace 0, as the two
    vectors have no block in common, and it vanishes with grad L_S as well.

    Raises:
        SmesolveError: as `gradient_term_operator`.
    """
    theta = check_parameters("theta", theta, dropout_problem(problem))
    own = _gradient_factor(problem, theta)
    return _factor_operator(problem, theta, lambda normals: problem.noise_product(theta, normals) - own(normals))


def _gradient_factor(problem: DropoutProblem, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """Return normals (..., M) -> sqrt(v) sum_k xi_k g_k: cotangents of the mean gradient, times xi_k on neuron k."""
    check_linear_noise(problem)
    variance = float(problem.law.variance)
    # Own cotangents are e + (1 + s) z_k, those of the mean gradient e + v z_k; for masks 0 or 1/keep_prob 1 + s = v.
    if variance and abs(1 + problem.law.skew - variance) > 1e-12 * (1 + variance):
        raise SmesolveError(
            f"problem must have the masks of dropout, 0 or 1/keep_prob, for this term, got {problem.law!r}; give "
            "keep_prob instead of another mask law."
        )
    network = LinearisedNetwork(problem, theta)
    at, error = network.at, network.outputs - problem.y.mT
    features = at.readout.mT @ error + variance * at.readout.square().sum(-2)[..., None] * at.features
    readout = error @ at.features.mT + variance * at.readout * at.features.square().sum(-1)

    def factor(normals: Tensor) -> Tensor:
        xi = variance**0.5 * normals[..., : problem.width]
        # The readout's bias has no mask, so it is in no neuron's block.
        bias = None if at.bias is None else at.bias.new_zeros(*xi.shape[:-1], *at.bias.shape)
        pulled: Tensor = at.pullback(xi[..., None] * features, xi[..., None, :] * readout, bias)
        return pulled / problem.samples

    return factor


def _factor_operator(problem: Problem, theta: Tensor, factor: Callable[[Tensor], Tensor]) -> SymmetricOperator:
    """Return C C^T; the product with C^T is one pullback through the factor, which is linear in its normals."""

    def product(rows: Tensor) -> Tensor:
        origin = rows.new_zeros(rows.shape[0], problem.noise_dim)
        with torch.enable_grad():
            _, transposed = torch.func.vjp(factor, origin)
        result: Tensor = factor(transposed(rows)[0])
        return result

    return SymmetricOperator(theta, product, 3 * (problem.floats_per_path + problem.noise_dim))


def check_sampled_noise(name: str, draws: Tensor, dim: int, dtype: torch.dtype | None, other: str) -> Tensor:
    """Return independent draws (N, D), the argument `name`, whose D and dtype match those of the argument `other`.

    Their size is such that the third powers of their squares are floats. Default for the dtype: torch.float64 or
    torch.float32.
    """
    draws = check_tensor(name, draws, "D", ("N",))
    largest = float(draws.abs().max())
    if largest and not 1 / LARGEST_DRAW <= largest <= LARGEST_DRAW:
        must = f"have a largest entry from {1 / LARGEST_DRAW:g} to {LARGEST_DRAW:g}, or 0"
        raise invalid(name, must, largest, "multiply all of them by a constant")
    if draws.shape[-1] != dim or (dtype is not None and draws.dtype != dtype):
        raise invalid(name, f"be {dtype or draws.dtype} of shape (N, {dim}), to go with {other}", draws)
    return draws


@entry_point
def sampled_covariance_operator(gradients: Tensor, mean: Tensor) -> SymmetricOperator:
    """Return 1/N sum_j (g_j - mean)(g_j - mean)^T from N gradients (N, D) with mean (D,), which is unbiased for Sigma.

    `sampled_covariance_error` estimates its distance from Sigma. Memory N D; cost of a product: two products of size
    N D.
    """
    mean = check_tensor("mean", mean, "D")
    gradients = check_sampled_noise("gradients", gradients, len(mean), mean.dtype, "mean")
    centred = gradients - mean
    return SymmetricOperator(mean, lambda rows: (rows @ centred.mT) @ centred / len(centred), len(centred))
