"""Derivatives at plain points are those of torch.func and of closed forms."""

import subprocess
import sys

import pytest
import torch

import smesolve as sme
from smesolve.problem.kernels.library import TORCH, kernels_in_use
from smesolve.problem.reverse_derivative import linear_transpose, scalar_hessian_product, value_and_gradient


def cubic(theta):
    return (theta**3).sum(-1) + theta[..., 0] * theta[..., 1]


POINTS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)


def test_values_and_gradients_of_rows():
    value, gradient = value_and_gradient(cubic, POINTS)
    assert torch.equal(value, cubic(POINTS)) and not value.requires_grad
    assert torch.equal(gradient, torch.func.vmap(torch.func.grad(cubic))(POINTS))
    assert torch.equal(value_and_gradient(cubic, POINTS[0])[1], gradient[0])


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
def test_gradients_where_torch_records_nothing(surroundings):
    with surroundings():
        assert torch.equal(value_and_gradient(cubic, POINTS.clone())[1], value_and_gradient(cubic, POINTS)[1])


def test_a_function_may_be_constant_or_change_its_argument():
    assert torch.equal(value_and_gradient(lambda theta: torch.ones(len(theta)), POINTS)[1], torch.zeros_like(POINTS))
    before = POINTS.clone()
    _, gradient = value_and_gradient(lambda theta: theta.mul_(2).sum(-1), POINTS)
    assert torch.equal(gradient, torch.full_like(POINTS, 2.0)) and torch.equal(POINTS, before)


def test_hessian_products_of_rows():
    vectors = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]], dtype=torch.float64)
    expected = 6 * POINTS * vectors
    expected[:, :2] += vectors[:, :2].flip(-1)
    assert torch.allclose(scalar_hessian_product(cubic, POINTS, vectors), expected, rtol=1e-14)
    assert torch.equal(scalar_hessian_product(lambda theta: theta.sum(-1), POINTS[0], vectors), 0 * vectors)


def test_the_transpose_of_a_noise_product():
    generator = torch.Generator().manual_seed(0)
    network = sme.TwoLayerNetwork(2, 3)
    x, y = torch.randn(5, 2, generator=generator), torch.randn(5, 1, generator=generator)
    problem = sme.DropoutProblem(network, x.double(), y.double(), keep_prob=0.8)
    theta, rows = problem.initial(seed=0), torch.randn(4, problem.dim, generator=generator, dtype=torch.float64)
    found = linear_transpose(lambda normals: problem.noise_product(theta, normals), torch.zeros(4, 6).double(), rows)
    assert torch.allclose(found, rows @ problem.noise_factor(theta), rtol=1e-12, atol=1e-14)


STUDY = """
import sys, torch
import smesolve as sme
generator = torch.Generator().manual_seed(0)
x, y = torch.randn(5, {inputs}, generator=generator).double(), torch.randn(5, 1, generator=generator).double()
problem = sme.DropoutProblem(sme.TwoLayerNetwork({inputs}, 3), x, y, keep_prob=0.8)
for estimator in ("difference", "defects"):
    sme.weak_error(problem, problem.initial(seed=0), lrs=[0.1], horizon=0.2, paths=16, workers=1, estimator=estimator)
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.skipif(kernels_in_use() == TORCH, reason="formulas in torch are differentiated by torch.func")
@pytest.mark.parametrize("inputs", [2, 90])  # dense Hessians of value functions, and Hessians of low rank
def test_a_study_of_dropout_does_not_load_the_compiler(inputs):
    command = [sys.executable, "-c", STUDY.format(inputs=inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
