"""What the noise adds to a mean, to leading order: exact over all sequences of masks, and against dropout itself."""

from itertools import product

import numpy as np
import pytest
import torch
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.exact import enumerated_expectation
from smesolve.comparison.noise_effect import noise_effect, paired_ends
from smesolve.errors import SmesolveError
from smesolve.sampling.randomness import keyed_uniforms


def enumerated_effect(problem, theta0, lr, steps, function):
    """The mean of the effect over all sequences of masks."""
    masks, weights = problem.all_draws()
    sequences = list(product(range(len(weights)), repeat=steps))
    chosen = [masks[[sequence[step] for sequence in sequences]] for step in range(steps)]
    weight = torch.stack([weights[list(sequence)].prod() for sequence in sequences])
    starts = theta0.expand(len(sequences), -1)
    descent, above, below = paired_ends(problem, starts, lr, steps, lambda step: chosen[step])
    return float(weight @ ((function(above) + function(below)) / 2 - function(descent)))


def test_for_affine_gradients_and_squares_the_effect_is_the_trace_of_the_spread():
    """E|theta|^2 - |descent|^2 = tr C with C' = J C J^T + lr^2 Sigma(descent), whatever lr is."""
    problem, lr, steps = linear_problem(), 0.3, 3
    theta = theta0 = problem.initial(seed=1)
    jacobian = torch.eye(2, dtype=torch.float64) - lr * torch.func.jacrev(problem.mean_gradient)(theta0)
    spread = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(steps):
        spread = jacobian @ spread @ jacobian.T + lr**2 * problem.covariance(theta)
        theta = theta - lr * problem.mean_gradient(theta)
    effect = enumerated_effect(problem, theta0, lr, steps, lambda state: state.square().sum(-1))
    assert effect == pytest.approx(float(spread.trace()), rel=1e-12)


@pytest.mark.parametrize("name", ["loss", "squared_norm"])
def test_the_effect_is_that_of_dropout_up_to_a_share_that_falls_with_lr(name):
    problem, steps = make_problem(width=2), 4
    theta0 = problem.initial(seed=1)
    function = {"loss": problem.loss, "squared_norm": lambda state: state.square().sum(-1)}[name]
    misses = []
    for lr in (0.2, 0.1, 0.05):
        descent = theta0
        for _ in range(steps):
            descent = descent - lr * problem.mean_gradient(descent)
        exact = enumerated_expectation(problem, theta0, lr, steps, name) - float(function(descent))
        misses.append(enumerated_effect(problem, theta0, lr, steps, function) / exact - 1)
    assert np.abs(misses[2]) < 0.05
    assert np.abs(misses[1]) / np.abs(misses[0]) < 0.7 and np.abs(misses[2]) / np.abs(misses[1]) < 0.7


def test_a_pair_has_its_own_masks_at_each_step():
    problem = make_problem(width=3)
    starts = torch.stack([problem.initial(seed=k) for k in range(3)])
    table = noise_effect(problem, starts, 0.1, 4, {"loss": problem.loss}, seed=7)
    draws = [problem.draw(keyed_uniforms((3, problem.draw_dim), 7, 0, step)) for step in range(4)]
    descent, above, below = paired_ends(problem, starts, 0.1, 4, draws.__getitem__)
    effect = (problem.loss(above) + problem.loss(below)) / 2 - problem.loss(descent)
    assert table.run.tolist() == [0, 1, 2] and set(table.observable) == {"loss"}
    assert np.array_equal(table.effect, effect.numpy()) and np.array_equal(table.descent, problem.loss(descent).numpy())
    assert (table.effect != 0).all()


def test_a_mean_gradient_known_by_sampling_only_is_refused():
    module = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(2, 1))
    problem = sme.ModuleProblem(module.double(), np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(SmesolveError, match="problem must have a mean gradient in closed form"):
        noise_effect(problem, problem.initial(seed=0)[None], 0.1, 2, {"loss": problem.loss})
