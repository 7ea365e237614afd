"""Adjoints and value Hessians from compiled kernels are those of automatic differentiation."""

import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.comparison import noise_free_path
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.kernels.library import library
from smesolve.problem.observables import named_observables
from smesolve.solver.integration import Integration

LR = 0.3

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels are installed")


def both():
    """A problem by compiled kernels, and by the formulas in torch."""
    problem = make_problem(width=4, out_features=2, bias=True)
    return problem, problem.without_kernels()


@pytest.mark.parametrize("dense_dim", [0, 256])
@pytest.mark.parametrize("order", [None, 1, 2])
def test_adjoints(order, dense_dim, monkeypatch):
    monkeypatch.setattr(noise_free_path, "DENSE_DIM", dense_dim)
    paths = []
    for problem in both():
        theta0 = problem.initial(1)
        process = DropoutIteration(problem, LR)
        if order:
            process = Integration(sme.ModifiedEquation(problem, LR, order), theta0, "small_noise_rk4", LR / 2)
        observables = named_observables(problem, ["loss", "theta[1]", "modified_loss"])
        paths.append(NoiseFreePath.of(process, theta0, [2, 4], observables))
        known = process.noise_free_pullback(theta0[None], 0, theta0[None])
        assert (known is None) == (problem.kernels is None)
    found, expected = paths
    for one, other in zip(found.adjoints, expected.adjoints, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scheduled", [False, True])
def test_adjoints_of_a_schedule_are_automatic_for_the_equation(scheduled):
    problem = make_problem(width=3)
    theta0 = problem.initial()
    if scheduled:
        problem = sme.ScheduledProblem(problem, lambda t: 1 - t / 4)
    process = Integration(sme.ModifiedEquation(problem, LR, 2), theta0, "small_noise_rk4", LR)
    assert (process.noise_free_pullback(theta0[None], 0, theta0[None]) is None) == scheduled


def test_value_hessians():
    found, expected = (
        value_hessians(problem, problem.initial(1), [2 * LR, 4 * LR], named_observables(problem, ["loss"]), LR)
        for problem in both()
    )
    for kind in ("hessians", "quadratics"):
        for one, other in zip(getattr(found, kind), getattr(expected, kind), strict=True):
            torch.testing.assert_close(one.matrices, other.matrices, rtol=1e-11, atol=1e-13)
