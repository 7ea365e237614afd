"""The noise scale against enumeration, its intervals by counting."""

import itertools
import math

import numpy as np
import pytest
import torch
from problems import linear_problem, make_problem
from torch import nn

import smesolve as sme
from smesolve.comparison.exact import enumerated_expectation
from smesolve.landscape import hessian_operator, noise_scale, random_gradients


def test_all_masks_give_the_exact_scale():
    problem = make_problem(width=4)
    theta = problem.initial(seed=1)
    found = noise_scale(problem, theta, draws=16)
    mean, covariance = problem.mean_gradient(theta), problem.covariance(theta)
    assert found.trace.value == pytest.approx(float(covariance.trace()), rel=1e-12)
    assert found.squared_gradient.value == pytest.approx(float(mean @ mean), rel=1e-12)
    expected = float(covariance.trace() / (mean @ mean))
    assert [found.scale.low, found.scale.value, found.scale.high] == pytest.approx([expected] * 3, rel=1e-12)


def test_intervals_hold_the_exact_scale():
    problem = make_problem(width=8)
    theta = problem.initial(seed=1)
    exact = noise_scale(problem, theta, draws=256)
    held = np.zeros(3)
    for seed in range(40):
        found = noise_scale(problem, theta, draws=100, seed=seed)
        for k, name in enumerate(("trace", "squared_gradient", "scale")):
            one = getattr(found, name)
            held[k] += one.low <= getattr(exact, name).value <= one.high
            assert one.low < one.value < one.high
    assert (held >= 34).all()  # of 38 expected; fewer than 34 have probability 0.003


def test_batches_of_one_sample_have_the_covariance_of_samples():
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)
    y = torch.sin(3 * x[:, :1])
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    problem = sme.ModuleProblem(module, x, y, batch_size=1)
    theta = problem.initial(seed=0)
    each = torch.stack([sme.ModuleProblem(module, x[i : i + 1], y[i : i + 1]).mean_gradient(theta) for i in range(6)])
    mean = each.mean(0)
    exact = float((each - mean).square().sum(-1).mean() / mean.square().sum())
    found = noise_scale(problem, theta, draws=6).scale
    assert [found.low, found.value, found.high] == pytest.approx([exact] * 3, rel=1e-12)
    assert noise_scale(problem, theta, draws=5).trace.half > 0  # sampled


def _sequences(samples, batch, batches):
    """Yield all sequences of batches as a shuffled epoch takes them, with the samples in every order."""
    for order in itertools.permutations(range(samples)):
        yield torch.tensor(order[: batch * batches]).unflatten(0, (batches, batch))


X = torch.linspace(-1, 2, 8, dtype=torch.float64).reshape(4, 2)
Y = torch.sin(3 * X[:, :1])


@pytest.mark.parametrize("masks", ["shared", "per_sample"])
@pytest.mark.parametrize("keep", [None, 0.8])
@pytest.mark.parametrize("batching", ["one of four", "two of four", "two with replacement", "epochs of two"])
def test_few_batches_and_masks_are_enumerated(batching, keep, masks):
    dropout = [] if keep is None else [nn.Dropout(1 - keep)]
    module = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), *dropout, nn.Linear(1, 1)).double()
    size, replacement, epochs = (1 if "one" in batching else 2), "replacement" in batching, "epochs" in batching
    if epochs:
        problem = sme.ShuffledEpochs(module, X, Y, "squared_error", masks, batch_size=size)
        chosen = list(_sequences(4, 2, 2))
    else:
        problem = sme.ModuleProblem(module, X, Y, "squared_error", masks, size, replacement)
        ordered = itertools.product(range(4), repeat=size) if replacement else itertools.permutations(range(4), size)
        chosen = [torch.tensor(each) for each in ordered]
    theta, total, square, weight = problem.initial(seed=1), 0.0, 0.0, 0.0
    shape = () if keep is None else problem.sample(1, seed=0)["mask 0"].shape[1:]
    for indices in chosen:
        for kept in itertools.product((0, 1), repeat=math.prod(shape) if shape else 0):
            draw = {"indices": indices}
            if shape:
                draw["mask 0"] = torch.tensor(kept, dtype=torch.float64).reshape(shape) / keep
            one = math.prod(keep if on else 1 - keep for on in kept) / len(chosen)
            gradient = problem.gradient(theta, draw)
            total, square, weight = total + one * gradient, square + one * gradient.square().sum(), weight + one
    assert weight == pytest.approx(1.0, rel=1e-12)
    mean = float(total.square().sum())
    found = noise_scale(problem, theta, draws=4096)
    assert found.squared_gradient.value == pytest.approx(mean, rel=1e-10)
    assert found.squared_gradient.half == found.trace.half == 0
    if epochs and keep is None:  # the sum over all batches has no noise
        assert found.trace.value == found.scale.value == 0.0
        return
    assert found.trace.value == pytest.approx(float(square) - mean, rel=1e-10)
    expected = (float(square) - mean) / mean
    assert [found.scale.low, found.scale.value, found.scale.high] == pytest.approx([expected] * 3, rel=1e-10)


def test_the_number_of_draws_is_that_of_batches_times_masks():
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1)).double()
    of_batch = {"loss": "squared_error", "masks": "shared", "batch_size": 2}
    assert sme.ModuleProblem(module, X, Y, **of_batch).draw_count == 6 * 2**3
    assert sme.ModuleProblem(module, X, Y, replacement=True, **of_batch).draw_count == 10 * 2**3
    assert sme.ShuffledEpochs(module, X, Y, **of_batch).draw_count == 6 * 2**6
    assert sme.ModuleProblem(module, X, Y, label_noise=0.1, **of_batch).draw_count == math.inf
    wide = nn.Sequential(nn.Linear(2, 3000), nn.Dropout(0.5), nn.Linear(3000, 1)).double()
    assert sme.ModuleProblem(wide, X, Y).draw_count == math.inf
    with pytest.raises(sme.SmesolveError, match="cannot be enumerated"):
        sme.ModuleProblem(wide, X, Y).all_draws()


def test_enumerated_batches_are_those_of_a_training_run():
    problem = sme.ModuleProblem(nn.Linear(2, 1).double(), X, Y, batch_size=2)
    theta = problem.initial(seed=0)
    expected = 0.0
    for first, second in itertools.product(itertools.combinations(range(4), 2), repeat=2):
        state = theta
        for batch in (first, second):
            state = problem.step(state, {"indices": torch.tensor(batch)}, 0.1)
        expected += float(problem.loss(state)) / 36
    assert enumerated_expectation(problem, theta, 0.1, 2, "loss") == pytest.approx(expected, rel=1e-12)
    averaged = sme.AveragedProblem(problem, 2)
    assert enumerated_expectation(averaged, theta, 0.1, 1, "loss") == pytest.approx(
        sum(
            float(problem.loss(theta - 0.05 * (problem.gradient(theta, a) + problem.gradient(theta, b)))) / 36
            for a, b in itertools.product(
                [{"indices": torch.tensor(c)} for c in itertools.combinations(range(4), 2)], repeat=2
            )
        ),
        rel=1e-12,
    )


def test_where_the_gradient_vanishes_the_scale_has_no_upper_end():
    problem = linear_problem(in_features=12)
    theta = problem.initial(seed=0)
    for _ in range(4000):
        theta = theta - 0.2 * problem.mean_gradient(theta)
    found = noise_scale(problem, theta, draws=200)
    assert found.scale.high == np.inf and 0 < found.scale.low < np.inf
    assert "inf" in str(found)


def test_a_state_is_no_point():
    training = sme.Training(make_problem(), torch.optim.SGD, 0.1, momentum=0.9)
    with pytest.raises(sme.SmesolveError, match="problem must be the one that is trained"):
        noise_scale(training, training.initial())
    with pytest.raises(sme.SmesolveError, match="problem must have the gradient of a loss"):
        hessian_operator(training, training.initial())


@pytest.mark.parametrize("options", [{}, {"batch_size": 6}, {"label_noise": 1e-10}])
def test_noise_that_is_not_above_rounding_has_the_scale_0(options):
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)
    problem = sme.ModuleProblem(nn.Linear(2, 1).double(), x, x[:, :1], loss="squared_error", **options)
    theta = problem.initial(seed=0)
    assert random_gradients(problem, theta, 70).shape == (70, problem.dim)
    found = noise_scale(problem, theta, draws=70)
    assert (found.scale.value, found.scale.low, found.scale.high) == (0.0, 0.0, 0.0)
    assert found.squared_gradient.value == pytest.approx(float(problem.mean_gradient(theta).square().sum()), rel=1e-9)
    zero = sme.ModuleProblem(nn.Linear(2, 1).double(), 0 * x, 0 * x[:, :1], loss="squared_error", **options)
    if "label_noise" not in options:
        assert np.isnan(noise_scale(zero, torch.zeros_like(theta), draws=70).scale.value)
