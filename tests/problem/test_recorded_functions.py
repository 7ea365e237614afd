"""Recordings of functions of tensors give the numbers of the functions, to the last bit, or are not used."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import jvp, vmap
from torch.nn import functional

import smesolve as sme
from smesolve.problem import recorded_function
from smesolve.problem.recorded_function import RecordedFunctions

DOUBLE = {"dtype": torch.float64}


class WithNewTensors(nn.Module):
    """Makes tensors from numbers, and writes to one of them and to a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2, **DOUBLE)
        self.register_buffer("count", torch.zeros((), **DOUBLE))

    def forward(self, x):
        weights = torch.tensor([0.5, 2.0], **DOUBLE)
        weights[0] += 1.0
        self.count += 1
        return functional.dropout(self.layer(x), 0.5, self.training).relu_() * weights


MODULES = {
    "relu": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(4, 2)),
    "normalised": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Dropout(0.2), nn.Linear(4, 2)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 3, 2), nn.SiLU(), nn.Dropout1d(0.5), nn.Flatten(), nn.Linear(6, 2)
    ),
    "new tensors": WithNewTensors,
}
NOISES = {
    "masks": {},
    "shared masks, batches": {"masks": "shared", "batch_size": 3},
    "all": {"batch_size": 2, "replacement": True, "weight_decay": 0.1, "label_noise": 0.3, "parameter_noise": 0.1},
}


def data():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(5, k, generator=generator, **DOUBLE) for k in (3, 2))


def problem_of(name, noise="masks"):
    torch.manual_seed(0)
    return sme.ModuleProblem(MODULES[name]().double(), *data(), **NOISES[noise])


def states(problem, paths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return problem.initial(seed=0) + 0.1 * torch.randn(paths, problem.dim, generator=generator, **DOUBLE)


def recordings(problem):
    return problem._of_paths._recorded._recorded


@pytest.mark.parametrize(("name", "noise"), [*((name, "masks") for name in MODULES), *(("relu", n) for n in NOISES)])
def test_a_recorded_gradient_has_the_bits_of_the_gradient(name, noise, monkeypatch):
    problem = problem_of(name, noise)
    theta, draw = states(problem, 6), problem.sample(6, seed=1)
    expected = problem.gradient(theta, draw)
    assert not recordings(problem)
    monkeypatch.setattr(recorded_function, "RECORDED_FROM", 1)
    problem.gradient(states(problem, 6, seed=2), problem.sample(6, seed=2))
    assert [recording is not None for recording in recordings(problem).values()] == [True]
    assert torch.equal(problem.gradient(theta, draw), expected)
    direction = torch.ones_like(theta)
    tangent = jvp(lambda at: problem.gradient(at, draw), (theta,), (direction,))[1]
    steps = [problem.gradient(theta + h * direction, draw) for h in (1e-5, -1e-5)]
    assert (tangent - (steps[0] - steps[1]) / 2e-5).abs().max() < 1e-7


@pytest.mark.parametrize("optimizer", [{"kind": torch.optim.SGD}, {"kind": torch.optim.Adam}])
def test_paths_do_not_depend_on_recordings(optimizer, monkeypatch):
    found = []
    for calls in (10**9, 1, 5):
        monkeypatch.setattr(recorded_function, "RECORDED_FROM", calls)
        training = sme.Training(problem_of("normalised"), optimizer["kind"], lr=0.05)
        small = training.in_blocks_for(8)
        found.append(sme.iterate(small, training.initial(), 0.05, 8, 16, save=[8]))
        assert bool(recordings(training.problem)) == (calls < 10)
    assert all(torch.equal(one, found[0]) for one in found)


def test_mean_gradients_noise_and_losses_are_recorded(monkeypatch):
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    problem = sme.ModuleProblem(module, *data(), batch_size=2, label_noise=0.2)
    theta, normals = states(problem, 6), torch.linspace(-1, 1, 6 * problem.noise_dim, **DOUBLE).view(6, -1)
    functions = {
        "gradient": lambda: problem.mean_gradient(theta),
        "noise": lambda: problem.noise_product(theta, normals),
        "loss": lambda: problem.loss(theta),
        "outputs": lambda: problem.outputs(theta),
    }
    expected = {name: function() for name, function in functions.items()}
    monkeypatch.setattr(recorded_function, "RECORDED_FROM", 1)
    for name, function in functions.items():
        assert torch.equal(function(), expected[name]) and torch.equal(function(), expected[name])
    assert [key[0] for key in recordings(problem)] == list(functions)
    before, problem.x = problem.loss(theta), 2 * problem.x  # the data are arguments, not a part of the recording
    assert not torch.equal(problem.loss(theta), before)
    assert torch.equal(problem.loss(theta[:1]), problem.loss(theta)[:1])


def test_a_function_that_is_not_its_operations_is_called(monkeypatch):
    """Numbers that leave torch, random numbers, and a course that depends on values."""
    monkeypatch.setattr(recorded_function, "RECORDED_FROM", 1)
    theta = torch.arange(6.0, **DOUBLE).view(3, 2)

    def through_numpy(theta):
        return torch.from_numpy(2 * theta.numpy()) + 1

    def by_value(theta):
        return theta if theta.sum() > 20 else 2 * theta

    for function in (through_numpy, by_value):
        functions = RecordedFunctions()
        for at in (theta, theta + 5):
            assert torch.equal(functions.call("f", function, {"theta": at}, []), function(at))
        assert list(functions._recorded.values()) == [None]
    functions = RecordedFunctions()
    first, second = (functions.call("f", lambda theta: theta + torch.rand(2), {"theta": theta}, []) for _ in range(2))
    assert not torch.equal(first, second)


def test_what_nothing_can_be_told_from_is_not_recorded(monkeypatch):
    """One path, paths that share their numbers, and everything that derivatives go through."""
    monkeypatch.setattr(recorded_function, "RECORDED_FROM", 1)
    functions, one = RecordedFunctions(), torch.ones(1, 2, **DOUBLE)
    for theta in (one, one.expand(4, 2)):
        functions.call("f", torch.sin, {"input": theta}, [])
    assert not any(functions._recorded.values())
    functions, theta = RecordedFunctions(), torch.ones(4, 2, **DOUBLE, requires_grad=True)
    functions.call("f", torch.sin, {"input": theta}, []).sum().backward()
    assert torch.equal(theta.grad, theta.detach().cos()) and not functions._recorded
    vmap(lambda at: functions.call("f", torch.sin, {"input": at}, []))(theta.detach()[None])
    assert not functions._recorded


def test_recordings_stay_where_they_were_made(monkeypatch):
    monkeypatch.setattr(recorded_function, "RECORDED_FROM", 1)
    problem = problem_of("relu")
    theta, draw = states(problem, 4), problem.sample(4, seed=1)
    found = problem.gradient(theta, draw)
    for other in (copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
        assert not recordings(other)
        assert torch.equal(other.gradient(theta, draw), found)


def test_there_are_no_more_recordings_than_a_few(monkeypatch):
    monkeypatch.setattr(recorded_function, "RECORDED_FROM", 1)
    functions = RecordedFunctions()
    for paths in range(2, 40):
        functions.call("f", torch.sin, {"input": torch.ones(paths, 1)}, [])
    assert len(functions._recorded) == recorded_function.MOST_RECORDINGS
