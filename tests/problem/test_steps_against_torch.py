"""One step of every option against torch.optim.SGD with the same draws, and expected losses by enumeration."""

import itertools

import pytest
import torch
from torch import nn

import smesolve as sme

N, INPUTS, OUTPUTS, LR = 6, 3, 2, 0.1


class Masked(nn.Module):
    """The module that torch trains under a given mask: nn.Dropout multiplies by such a mask."""

    def __init__(self, dropout=None):
        super().__init__()
        self.hidden, self.head, self.dropout = nn.Linear(INPUTS, 4), nn.Linear(4, OUTPUTS), dropout
        self.double()

    def forward(self, x, mask=1.0):
        h = torch.tanh(self.hidden(x))
        return self.head(self.dropout(h) if self.dropout else h * mask)


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, INPUTS, dtype=torch.float64, generator=generator)
    return x, torch.randn(N, OUTPUTS, dtype=torch.float64, generator=generator)


OPTIONS = {
    "plain": {},
    "weight decay": {"weight_decay": 0.3},
    "label noise": {"label_noise": 0.7},
    "parameter noise": {"parameter_noise": 0.4},
    "batches": {"batch_size": 2},
    "batches with replacement": {"batch_size": 4, "replacement": True},
    "masks per sample": {"drop": 0.25},
    "shared masks": {"drop": 0.25, "masks": "shared"},
    "all": {"weight_decay": 0.3, "label_noise": 0.7, "parameter_noise": 0.4, "batch_size": 3, "drop": 0.5},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_is_that_of_torch(name):
    options = dict(OPTIONS[name])
    drop = options.pop("drop", 0.0)
    x, y = data()
    problem = sme.ModuleProblem(Masked(nn.Dropout(drop) if drop else None), x, y, **options)
    theta0, paths = problem.initial(seed=3), 5
    ours = sme.iterate(problem, theta0, LR, 1, paths, seed=7)[-1]
    draw = problem.sample(problem.block_size, 7)  # the masks of iterate's first step
    twin = Masked()
    for path in range(paths):
        mine = {key: part[path] for key, part in draw.items()}
        rows = mine.get("indices", torch.arange(N))
        targets = y[rows] + options.get("label_noise", 0.0) * mine.get("labels", torch.zeros(()))
        shift = options.get("parameter_noise", 0.0) * mine.get("parameters", torch.zeros(problem.dim))
        nn.utils.vector_to_parameters(theta0 + shift, twin.parameters())
        twin.zero_grad()
        outputs = twin(x[rows], mine.get("mask 0", torch.ones(())))
        (nn.functional.mse_loss(outputs, targets, reduction="sum") / 2 / len(rows)).backward()
        gradients = [parameter.grad for parameter in twin.parameters()]
        nn.utils.vector_to_parameters(theta0.clone(), twin.parameters())  # which become views of it
        for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
            parameter.grad = gradient
        torch.optim.SGD(twin.parameters(), lr=LR, weight_decay=options.get("weight_decay", 0.0)).step()
        theirs = nn.utils.parameters_to_vector(twin.parameters()).detach()
        torch.testing.assert_close(ours[path], theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", OPTIONS)
def test_draws_have_the_law_that_the_options_name(name):
    options = dict(OPTIONS[name])
    drop = options.pop("drop", 0.0)
    problem = sme.ModuleProblem(Masked(nn.Dropout(drop) if drop else None), *data(), **options)
    draw, rows = problem.sample(2000, 1), options.get("batch_size", N)
    names = {"batch_size": "indices", "label_noise": "labels", "parameter_noise": "parameters"}
    noises = {names[key] for key in names if key in options} | ({"mask 0"} if drop else set())
    assert set(draw) == (noises or {"paths"})
    if drop:
        assert draw["mask 0"].shape == (2000, 1 if options.get("masks") == "shared" else rows, 4)
        assert set(draw["mask 0"].unique().tolist()) == {0.0, 1 / (1 - drop)}
        assert (draw["mask 0"] == 0).double().mean().item() == pytest.approx(drop, abs=0.03)
    if "indices" in draw:
        repeats = (draw["indices"].sort(-1).values.diff(dim=-1) == 0).any()
        assert bool(repeats) == options.get("replacement", False)
        assert draw["indices"].flatten().bincount(minlength=N).div(2000 * rows / N).sub(1).abs().max() < 0.1
    for normal in ("labels", "parameters"):
        if normal in draw:
            assert draw[normal].mean().abs() < 0.02 and draw[normal].var().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_loss_holds_half_the_decay_and_its_gradient_is_the_mean_gradient(decay):
    x, y = data()
    problem = sme.ModuleProblem(Masked(), x, y, weight_decay=decay)
    theta = problem.initial(seed=3).requires_grad_()
    twin = Masked()
    nn.utils.vector_to_parameters(theta.detach(), twin.parameters())
    expected = ((twin(x) - y).square().sum(1) / 2).mean() + decay / 2 * theta.detach().square().sum()
    assert problem.loss(theta).item() == pytest.approx(expected.item(), rel=1e-13)
    (slope,) = torch.autograd.grad(problem.loss(theta), theta)
    torch.testing.assert_close(problem.mean_gradient(theta.detach()), slope, rtol=0, atol=1e-13)


def test_the_modified_loss_holds_half_the_variance_of_the_labels_for_each_output():
    """E (f - y - s eps)^2 / 2 over eps, whose second moments are those of random signs."""
    x, y = data()
    problem = sme.ModuleProblem(Masked(), x, y, label_noise=0.7)
    theta = problem.initial(seed=3)
    twin = Masked()
    nn.utils.vector_to_parameters(theta, twin.parameters())
    with torch.no_grad():
        outputs = twin(x)
    losses = [
        (outputs - y - 0.7 * torch.tensor(signs, dtype=torch.float64)).square().sum(1).mean() / 2
        for signs in itertools.product([-1.0, 1.0], repeat=OUTPUTS)
    ]
    expected = torch.stack(losses).mean().item()
    assert problem.modified_loss(theta).item() == pytest.approx(expected, rel=1e-13)
    assert problem.modified_loss(theta) - problem.loss(theta) == pytest.approx(0.7**2 * OUTPUTS / 2)
