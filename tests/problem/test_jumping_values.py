"""Values that jump are found, however they are written, and nothing is made of their derivatives."""

import numpy as np
import pytest
import torch
from problems import make_problem
from test_kinks import Applied, X, Y
from torch import nn
from torch.nn import functional

import smesolve as sme
from smesolve.experiments.shared.problems import outside_theorems
from smesolve.problem.kinks import jumps, kinks


def problem_with(activation):
    torch.manual_seed(0)
    return sme.ModuleProblem(Applied(activation).double(), X, Y)


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (torch.sign, "sign"),
        (torch.sgn, "sign"),
        (torch.round, "round"),
        (torch.floor, "floor"),
        (torch.ceil, "ceil"),
        (torch.trunc, "trunc"),
        (torch.frac, "frac"),
        (lambda h: torch.fmod(h, 0.3), "fmod"),
        (lambda h: h % 0.3, "remainder"),
        (lambda h: torch.div(h, 0.3, rounding_mode="floor"), "floor_divide"),
        (nn.Hardshrink(), "hardshrink"),
        (nn.Threshold(0.1, 20.0), "threshold"),
        (lambda h: (h > 0).to(h), "gt"),
        (lambda h: h.masked_fill(h < 0.1, 0.0), "lt"),
        (lambda h: torch.where(torch.logical_and(h >= 0, h <= 1), 1 - h, h), "ge"),
        (lambda h: h.flip(1).gather(1, h.argsort(1)), "sort"),
        (lambda h: h[:, :2].repeat(1, 2) * torch.searchsorted(torch.tensor([0.0, 0.5]).to(h), h), "searchsorted"),
    ],
)
def test_operations_whose_value_jumps_are_named(activation, name):
    problem = problem_with(activation)
    theta0 = problem.initial(seed=0)
    assert name in jumps(problem.loss, theta0)
    assert name in kinks(problem, theta0)


@pytest.mark.parametrize(
    ("activation", "kinked"),
    [
        (lambda h: torch.where(h > 0, h, 0 * h), True),  # relu, written as a comparison
        (lambda h: (h > 0).to(h) * h, True),
        (lambda h: h.gather(1, h.argsort(1)), True),
        (lambda h: functional.max_pool1d(h, 2).repeat(1, 2), True),
        (nn.Threshold(0.0, 0.0), True),
        (lambda h: torch.where(h > 0, h**2, 0 * h), False),
        (lambda h: torch.where(h.square() < 1e-6, 1 - h**2 / 6, torch.sin(h) / torch.where(h == 0, 1.0, h)), False),
        (lambda h: torch.where(h > 1e6, 0 * h, h), False),  # a guard against what does not happen
        (lambda h: torch.tanh(h).nan_to_num(), False),
        (lambda h: h * (torch.linspace(-1, 1, 4).to(h) > 0), False),  # a comparison that no parameter is in
    ],
)
def test_values_that_join_without_a_jump_are_told_from_jumps(activation, kinked):
    problem = problem_with(activation)
    theta0 = problem.initial(seed=0)
    assert jumps(problem.loss, theta0) == []
    assert bool(kinks(problem, theta0)) == kinked


def test_what_is_written_into_a_part_of_a_tensor_depends_on_parameters():
    def observable(theta):
        parts = torch.zeros_like(theta)
        parts[..., 1:] = theta[..., 1:]
        return torch.sign(parts.flip(-1)).sum(-1)

    assert jumps(observable, torch.tensor([0.5, -0.5], dtype=torch.float64)) == ["sign"]


def test_tensors_without_a_storage_are_no_obstacle():
    rows = torch.eye(2, dtype=torch.float64).to_sparse()

    def observable(theta):
        return torch.sign(torch.sparse.mm(rows, theta.reshape(-1, 2).mT)).sum()

    assert jumps(observable, torch.tensor([0.5, -0.5], dtype=torch.float64)) == ["sign"]


def stepped(theta):
    return theta[..., 0] + (theta[..., 1] > 0).to(theta)


def test_an_observable_that_jumps_has_a_difference_of_means_and_nothing_made_of_derivatives():
    problem = make_problem()
    theta0, given = problem.initial(seed=0), {"horizon": 0.4, "orders": [1], "paths": 64, "observables": [stepped]}
    with pytest.warns(RuntimeWarning, match="observable 'stepped' jumps, at gt: no theorem"):
        study = sme.weak_error(problem, theta0, [0.2, 0.1], **given)
    assert set(study.table.estimator) == {"difference"}
    assert study.constants.empty and study.fit().predicted_constant.isna().all()
    with pytest.raises(sme.SmesolveError, match="'stepped' jumps, and defects are made of derivatives"):
        sme.weak_error(problem, theta0, [0.2, 0.1], estimator="defects", **given)
    with pytest.raises(sme.SmesolveError, match="'stepped' jumps, and a range of validity"):
        sme.validity_range(problem, theta0, horizon=0.4, orders=[1], observables=[stepped])


def test_the_loss_of_a_module_that_jumps_is_an_observable_that_jumps():
    torch.manual_seed(0)
    layers = nn.Linear(2, 4), Rounded(), nn.Dropout(0.2), nn.Linear(4, 1)
    problem = sme.ModuleProblem(nn.Sequential(*layers).double(), X, Y)
    theta0 = problem.initial(seed=0)
    assert outside_theorems(problem, theta0).startswith("floor has values that jump.")
    with pytest.warns(RuntimeWarning, match="'loss' jumps, at floor"):
        study = sme.weak_error(problem, theta0, [0.1], horizon=0.2, orders=[1], paths=8)
    assert set(study.table.estimator) == {"difference"} and np.isfinite(study.table.error).all()
    smooth = sme.weak_error(problem, theta0, [0.1], horizon=0.2, orders=[1], paths=8, observables=["squared_norm"])
    assert set(smooth.table.estimator) == {"defects"}


class Rounded(nn.Module):
    """Numbers of one digit beside the number itself, so that the gradient sees only one of them."""

    def forward(self, h):
        return h + torch.floor(4 * h) / 4
