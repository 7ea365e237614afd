"""Numbers that methods of problems take at every call: what is no number is answered by one sentence."""

import inspect
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from malformed import objection
from problems import make_problem
from torch import nn

import smesolve as sme
from smesolve.landscape import AblatedIteration, PenalisedIteration
from smesolve.problem.derived_problem import ScaledProblem
from smesolve.problem.schedule import cosine, step

X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
Y = X.sum(-1, keepdim=True)
DROPOUT = make_problem(width=3)
MODULE = sme.ModuleProblem(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.Linear(2, 1)).double(), X, Y)
EPOCHS = sme.ShuffledEpochs(nn.Linear(2, 1).double(), X, Y, batch_size=2)
MOMENTUM = sme.Training(DROPOUT, torch.optim.SGD, 0.1, momentum=0.5)


def _own_step(state, draw, lr):
    return state - lr * DROPOUT.gradient(state, draw)


PROBLEMS = {
    "dropout": DROPOUT,
    "module": MODULE,
    "epochs": EPOCHS,
    "momentum": MOMENTUM,
    "adam": sme.Training(MODULE, torch.optim.Adam, 0.1),
    "own step": sme.Training(DROPOUT, _own_step, 0.1),
    "averaged": sme.AveragedProblem(DROPOUT, 2),
    "scaled": ScaledProblem(EPOCHS, 0.5),
    "smooth": sme.ScheduledProblem(DROPOUT, lr_factor=cosine(1.0), keep_prob=lambda t: 0.8 - 0.1 * t),
    "piecewise": sme.ScheduledProblem(MOMENTUM, lr_factor=step(0.5, 0.1)),
    "without schedules": sme.ScheduledProblem(DROPOUT),
}
FINITE = [math.nan, math.inf, -math.inf, np.float64("nan"), 10**400, torch.tensor([0.1]), torch.tensor(1j)]
NO_NUMBERS = ["a", "0.1", None, [0.1], {}, True, 1j, Decimal("0.1"), np.array(0.1), np.array([0.1]), torch.tensor(True)]
NUMBERS = {
    "lr": (0.1, [-0.1, -1, *FINITE]),
    "time": (0.25, FINITE),
    "ahead": (0.25, FINITE),
    "factor": (0.5, FINITE),
    "horizon": (1.0, [-0.1, *FINITE]),
    "count": (2, [0, -1, 1.5, 1.0, *FINITE]),
    "paths": (2, [0, -1, 1.5, 1.0, *FINITE]),
}
"""Argument -> a valid number, and numbers that it cannot be."""

LACKING = ["must define", "closed form", "step of your own"]
"""Words of the errors of methods that a problem lacks, whatever they are given."""

ELSEWHERE = {"small_noise_rk4", "sample", "of_problem"}
"""A method of kernels, and those whose arguments `test_malformed_calls` tries, some of them with None for a default."""


def _methods(problem):
    """Return the public methods that take one of the numbers, by name."""
    found = inspect.getmembers(problem, inspect.ismethod)
    named = {name: method for name, method in found if not name.startswith("_") and name not in ELSEWHERE}
    return {name: method for name, method in named.items() if inspect.signature(method).parameters.keys() & NUMBERS}


def _valid(problem, method):
    theta = problem.initial() if method.__name__ == "stability_limit" else problem.initial()[None]
    values = {"theta": theta, "draw": problem.sample(1, seed=0), "left_limit": False}
    values |= {"problem": problem.trained, "normals": torch.ones(1, problem.noise_dim, dtype=torch.float64)}
    values |= {key: number for key, (number, _) in NUMBERS.items()}
    names = [key for key, each in inspect.signature(method).parameters.items() if each.kind is not each.VAR_KEYWORD]
    return {key: values[key] for key in names}


CALLS = [
    (kind, name, key)
    for kind, problem in PROBLEMS.items()
    for name, method in _methods(problem).items()
    for key in sorted(inspect.signature(method).parameters.keys() & NUMBERS)
]


def test_the_methods_are_found():
    methods = {name for _, name, _ in CALLS}
    assert {"step", "mean_step", "step_noise", "reference_step", "step_terms", "check_lr"} <= methods
    assert {"at", "continued", "drift_slope", "with_lr_factor", "lr_factor_at", "in_blocks_for"} <= methods


@pytest.mark.parametrize(("kind", "name", "key"), CALLS)
def test_what_is_no_number_is_answered_by_one_sentence(kind, name, key):
    problem = PROBLEMS[kind]
    method = getattr(problem, name)
    for value in [*NO_NUMBERS, *NUMBERS[key][1]]:
        try:
            found = method(**_valid(problem, method) | {key: value})
        except Exception as error:
            assert (why := objection(error, [key, *LACKING])) is None, f"{key}={value!r}: {why}"
        else:
            raise AssertionError(f"{name}({key}={value!r}) returns {found!r}")


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("lr", [0, 0.0, 1, np.float64(0.1), torch.tensor(0.1, dtype=torch.float64)])
def test_numbers_and_tensors_of_dimension_0_are_learning_rates(kind, lr):
    problem = PROBLEMS[kind]
    lr = min(lr, problem.largest_lr)
    theta, draw = problem.initial()[None], problem.sample(1, seed=0)
    torch.testing.assert_close(problem.step(theta, draw, lr), problem.step(theta, draw, float(lr)), equal_nan=True)
    if not lr and kind != "adam":  # whose cold start is not smooth in lr
        assert torch.equal(problem.step(theta, draw, lr), theta)


def test_times_and_factors_may_be_tensors_and_negative():
    scheduled = PROBLEMS["smooth"]
    at, expected = (scheduled.at(time) for time in (torch.tensor(0.5, dtype=torch.float64), 0.5))
    theta, draw = DROPOUT.initial()[None], DROPOUT.sample(1, seed=0)
    assert torch.equal(at.step(theta, draw, 0.1), expected.step(theta, draw, 0.1))
    assert torch.equal(ScaledProblem(DROPOUT, -1).step(theta, draw, 0.1), theta + 0.1 * DROPOUT.gradient(theta, draw))


@pytest.mark.parametrize("kind", [AblatedIteration, PenalisedIteration])
@pytest.mark.parametrize("key", ["block", "step"])
def test_places_of_iterations_are_integers(kind, key):
    process = kind(DROPOUT, 0.1, 0, runs=2)
    theta = torch.stack([DROPOUT.initial()] * 2)
    assert process.advance(theta, 0, 2**33).shape == theta.shape
    for value in [-1, 1.5, 1.0, *NO_NUMBERS, *FINITE]:
        with pytest.raises(sme.SmesolveError, match=f"{key} must be"):
            process.advance(theta, **{"block": 0, "step": 0, key: value})


@pytest.mark.parametrize("draw", ["a", None, {}, {"indices": None}, {"indices": torch.zeros(1, 4)}])
def test_an_epoch_says_what_its_draws_are(draw):
    for call in (EPOCHS.gradient, lambda *given: EPOCHS.step(*given, 0.1), lambda *given: EPOCHS.step_terms(*given, 2)):
        with pytest.raises(sme.SmesolveError, match="draw"):
            call(EPOCHS.initial()[None], draw)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_learning_rate_of_numpy_is_taken_at_its_value(name):
    """numpy would compute 1 - lr in the precision of lr: Adam's betas were off by 1e-7."""
    problem, lr = PROBLEMS[name], np.float32(0.1)
    theta, draw = problem.initial(seed=0)[None], problem.sample(1, seed=0)
    assert torch.equal(problem.step(theta, draw, lr), problem.step(theta, draw, float(lr)))


@pytest.mark.parametrize("value", [-1, 5, 1.5, *NO_NUMBERS])
def test_a_sample_has_a_number(value):
    assert DROPOUT.of_sample(DROPOUT.samples - 1).samples == 1
    with pytest.raises(sme.SmesolveError, match="i must be"):
        DROPOUT.of_sample(value if value != 5 else DROPOUT.samples)
