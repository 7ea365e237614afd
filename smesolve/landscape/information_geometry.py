"""Information geometry of dropout: its penalty in Fisher form, and the shape of the model manifold.

Penalty. A generalised linear model has outputs f_i = W^T x_i and negative log-likelihood a(f_i) - <y_i, f_i> + const.
Masks on the inputs, of mean 1 and variance v, add delta_i = W^T (zeta o x_i), and the mean loss grows by

    P = 1/n sum_i E[ a(f_i + delta_i) - a(f_i) ] = Q + error,      Q = v/(2n) sum_ik x_ik^2 W_k F_i W_k^T

with F_i = Hess a(f_i) the Fisher information of one sample's outputs: Q = v/2 sum of W_k I_kk W_k^T, a penalty on the
Fisher information (Wager, Wang, Liang, NeurIPS 2013; Kimura, Hino, arXiv 2206.10936). For squared error a is quadratic
and Q = P exactly: with x the hidden features and W the readout, Q = R_1 = L_S - R_S. Otherwise the error is

    E[ a(f + delta) - a(f) - grad a . delta - 1/2 delta^T F delta ],

sampled as it stands: what is known in closed form has no Monte Carlo noise. It is of third order in delta and not in
1 - keep_prob: all moments of a mask are of first order in 1 - keep_prob, so the relative error stays as keep_prob -> 1.

Manifold. theta -> (f(x_i; theta))_i / sqrt(n) is a surface whose metric is the Fisher information. Along a direction u
it moves at velocity J u and with acceleration d^2 f / dt^2; the part of the acceleration that is normal to the tangent
space, over |J u|^2, is the curvature of the surface along u, which no change of parameters can remove.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy.linalg import eigh
from torch import Tensor

from smesolve.arguments import Parameters, checked
from smesolve.errors import SmesolveError, shown
from smesolve.landscape.estimates import Estimate, mean_over
from smesolve.landscape.likelihoods import likelihood_named
from smesolve.landscape.linearised_network import LinearisedNetwork, network_outputs
from smesolve.landscape.operators import SymmetricOperator, fisher_operator
from smesolve.landscape.spectrum import leading_eigenpairs
from smesolve.landscape.traces import traces
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.masks import MaskLaw
from smesolve.problem.one_at_a_time import forward_derivative

__all__ = [
    "ManifoldGeometry",
    "dropout_penalty_error",
    "fisher_penalty",
    "manifold_geometry",
    "penalty_comparison",
]

FEATURES, WEIGHTS = Parameters(("n",), last="d"), Parameters(("d",), last="o")


def _outputs(features: Tensor, weights: Tensor) -> Tensor:
    if features.shape[1] != weights.shape[0] or features.dtype != weights.dtype:
        raise SmesolveError(
            f"weights must have one row for each of the {features.shape[1]} features, and be {features.dtype} as they "
            f"are, got {shown(weights)}."
        )
    return features @ weights


@checked(features=FEATURES, weights=WEIGHTS)
def fisher_penalty(features: Tensor, weights: Tensor, variance: float, likelihood: str = "gaussian") -> float:
    """Q = v/(2n) sum_ik x_ik^2 W_k F_i W_k^T from features x (n, d) and weights W (d, o). Cost: O(n d o).

    Raises:
        SmesolveError: an unknown likelihood.
    """
    law, outputs = likelihood_named(likelihood), _outputs(features, weights)
    terms = (
        x.square() @ law.quadratic(outputs, row.expand_as(outputs)) for x, row in zip(features.mT, weights, strict=True)
    )
    return float(variance / (2 * len(features)) * sum(terms))


@checked(features=FEATURES, weights=WEIGHTS)
def dropout_penalty_error(
    features: Tensor, weights: Tensor, law: MaskLaw, likelihood: str, draws: int = 200, seed: int = 0
) -> Estimate:
    """P - Q with its interval, from independent masks: draws of all samples at once, each with a mask of its own.

    Args:
        features: (n, d).
        weights: (d, o).
        law: of the masks on the features.
        likelihood: a name in `LIKELIHOODS`: "gaussian", for which the error is 0, or "categorical".
        draws: N; cost N n d o.
        seed: of the masks.
    """
    model = likelihood_named(likelihood)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    outputs = _outputs(features, weights)
    with torch.enable_grad():
        slope = torch.func.grad(lambda f: model.partition(f).sum())(outputs)
    values = []
    for _ in range(draws):
        zeta = law.sample(tuple(features.shape), generator).to(features) - 1
        delta = (zeta * features) @ weights
        linear = (slope * delta).sum(-1)
        growth = model.partition(outputs + delta) - model.partition(outputs)
        remainder = growth - linear - model.quadratic(outputs, delta) / 2
        values.append(float(remainder.mean()))
    return mean_over(values)


@checked(features=FEATURES, weights=WEIGHTS)
def penalty_comparison(
    features: Tensor,
    weights: Tensor,
    laws: Mapping[float, MaskLaw],
    likelihood: str = "categorical",
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """The dropout penalty and its Fisher form at several keep probabilities (keys of `laws`).

    Returns:
        A row for each: `keep_prob`, `fisher` (Q), `penalty` (P) and `relative_error` (Q - P)/P, with intervals.
    """
    rows = []
    for keep_prob, law in laws.items():
        quadratic = fisher_penalty(features, weights, float(law.variance), likelihood)
        error = dropout_penalty_error(features, weights, law, likelihood, draws, seed)
        penalty = Estimate(quadratic + error.value, error.stderr, error.freedom)
        size = penalty.value or np.nan  # without weights or features there is no penalty, nor a share of it
        relative = Estimate(-error.value / size, error.stderr * quadratic / size**2, error.freedom)
        fixed = {"keep_prob": keep_prob, "fisher": quadratic}
        rows.append(fixed | penalty.columns("penalty") | relative.columns("relative_error"))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class ManifoldGeometry:
    """The model manifold at one point."""

    trace: Estimate
    """Of the Fisher information."""
    dimension: Estimate
    """(tr F)^2 / tr F^2, the directions that matter."""
    top_eigenvalue: float
    curvature: Estimate
    """Mean over random tangent directions of the normal curvature."""


@checked
def manifold_geometry(
    problem: DropoutProblem, theta: Tensor, probes: int = 60, directions: int = 4, seed: int = 0
) -> ManifoldGeometry:
    """Fisher information (unit-variance normal outputs) and curvature at theta (D,).

    Curvature is along u = J^T w, w random normals on the outputs: directions of parameters that the data see. It is 0
    where J has rank n o, for then the manifold fills the space of outputs: take more samples than D / o. Cost of
    the curvature, with K = min(n o, D): K products with J and J^T, and an eigendecomposition of a K x K array.

    Raises:
        SmesolveError: three K x K arrays do not fit into the machine's memory.
    """
    fisher = fisher_operator(problem, theta)
    measured = traces({"F": fisher}, ["F", "FF"], probes, seed)
    return ManifoldGeometry(
        measured["F"],
        measured.derived(lambda t: t["F"] ** 2 / t["FF"]),
        float(leading_eigenpairs(fisher, 1, tol=1e-4).values[0]),
        mean_over(normal_curvatures(problem, theta, directions, seed)),
    )


def normal_curvatures(problem: DropoutProblem, theta: Tensor, directions: int = 4, seed: int = 0) -> list[float]:
    """sqrt(n) |P_N f''(u, u)| / |J u|^2 along random u = J^T w; P_N projects on the normal space of the manifold."""

    def velocity(point: Tensor, u: Tensor) -> Tensor:
        return forward_derivative(lambda vector: network_outputs(problem, vector), point, u)[1]

    network, normal_part = LinearisedNetwork(problem, theta), _normal_projection(problem, theta)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    curvatures = []
    for _ in range(directions):
        w = torch.from_numpy(generator.standard_normal(network.outputs.numel())).to(theta)
        u = network.pulled(w.view_as(network.outputs)[None])[0]
        speed, acceleration = forward_derivative(partial(velocity, u=u), theta, u)
        normal = normal_part(acceleration.flatten())
        # a tensor's division: NaN where the outputs do not move
        curvatures.append(float(problem.samples**0.5 * normal.norm() / speed.square().sum()))
    return curvatures


def _normal_projection(problem: DropoutProblem, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """The projection of vectors (n o,) on the normal space, from the eigenvectors of J J^T or J^T J, the smaller one.

    J has singular values on all scales, so iterative least squares stops far from the projection: 300 steps of LSMR
    leave a normal part that is 20% to 40% too long on digits (D = 2368). A singular value counts where its square is
    above the rounding of the largest.
    """
    network = LinearisedNetwork(problem, theta)

    def push(rows: Tensor) -> Tensor:
        return network.along(rows)[1].flatten(1)

    def pull(rows: Tensor) -> Tensor:
        return network.pulled(rows.unflatten(1, network.outputs.shape))

    outputs_are_fewer = network.outputs.numel() < len(theta)
    like = network.outputs.flatten() if outputs_are_fewer else theta
    size = len(like)
    check_numbers_fit(f"the tangent space of the {size} directions", 3 * size**2, "take fewer samples")
    product = (lambda rows: push(pull(rows))) if outputs_are_fewer else (lambda rows: pull(push(rows)))
    values, vectors = eigh(SymmetricOperator(like, product, 3 * problem.floats_per_path) @ np.eye(size))
    kept = values > size * torch.finfo(theta.dtype).eps * values[-1]
    basis, squares = torch.from_numpy(vectors[:, kept]).to(theta), torch.from_numpy(values[kept]).to(theta)

    def normal_part(vector: Tensor) -> Tensor:
        if outputs_are_fewer:
            return vector - basis @ (basis.mT @ vector)
        coordinates = (basis.mT @ pull(vector[None])[0]) / squares
        return vector - push((basis @ coordinates)[None])[0]

    return normal_part
