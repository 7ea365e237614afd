"""The numeric kernels equal the symbolic derivation: explicit for small networks, structural for any width."""

import numpy as np
import pytest
import torch
from problems import make_problem
from symbolic_problems import two_layer_dropout

import smesolve as sme
from smesolve.symbolic import modified_equation


@pytest.mark.parametrize("sizes", [(2, 1, 1), (3, 2, 2)])
def test_drift_and_factor_equal_the_explicit_derivation(sizes):
    width, out_features, samples = sizes
    problem = make_problem(width=width, out_features=out_features, samples=samples)
    iteration = two_layer_dropout(
        samples, 2, width, out_features, "tanh", keep_prob=0.8, data=(problem.x.tolist(), problem.y.tolist())
    )
    theta = torch.randn(3, problem.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for order in (1, 2):
        derived = modified_equation(iteration, order=order).to_torch({}, lr=0.1)
        numeric = sme.ModifiedEquation(problem, lr=0.1, order=order)
        assert torch.allclose(derived.f(0.0, theta), numeric.f(0.0, theta), rtol=1e-12, atol=1e-13)
        factor = 0.1**0.5 * problem.noise_factor(theta)
        assert torch.allclose(derived.g(0.0, theta), factor, rtol=1e-12, atol=1e-13)


def test_columns_are_the_projections_of_the_gradient_on_the_orthonormal_functions_of_the_masks():
    """C_j = E[gradient phi_j(masks)]: the factor is the chaos expansion itself, not just any square root."""
    from smesolve.problem.masks import all_masks

    problem = make_problem(width=3, out_features=2, keep_prob=0.6)
    theta = problem.initial()
    masks, weights = all_masks(problem.law, 3)
    unit = (masks - 1) / problem.law.variance**0.5
    pairs = torch.stack([unit[:, k] * unit[:, r] for k, r in zip(*np.triu_indices(3, 1), strict=True)], 1)
    gradients = problem.gradient(theta, masks)
    for j, phi in enumerate(torch.cat([unit, pairs], 1).mT):
        column = (weights * phi) @ gradients
        assert torch.allclose(problem.noise_factor(theta)[:, j], column, rtol=1e-12, atol=1e-13)
