"""Decomposed calls have the values and the gradients of torch's own."""

import inspect

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap
from torch.nn import functional
from torch.nn.utils import parametrizations

import smesolve as sme
from smesolve.problem.decompositions import Decomposed

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGNS = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0], dtype=torch.float64)[:, None]

FILTERS = parametrizations.weight_norm(nn.Conv1d(4, 3, 2).double())
RECURRENT = {
    "LSTM": nn.LSTM(2, 3, 2, batch_first=True).double(),
    "GRU": nn.GRU(2, 3, bidirectional=True).double(),
    "RNN": nn.RNN(2, 3, nonlinearity="relu").double(),
}
SQUARE, WEIGHTED = nn.LayerNorm((2, 2), bias=False).double(), nn.InstanceNorm1d(2, affine=True).double()
AVERAGED = nn.InstanceNorm1d(2, track_running_stats=True).double().eval()


def hardsigmoid_of(values):
    """Its result is not used."""
    functional.hardsigmoid(values, inplace=True)
    return values


CALLS = {
    "glu": functional.glu,
    "glu of rows": lambda x: functional.glu(x, dim=0),
    "hardsigmoid": lambda x: functional.hardsigmoid(4 * x),
    "hardsigmoid in place": lambda x: hardsigmoid_of(3 * x),
    "weight_norm": parametrizations.weight_norm(nn.Linear(4, 3).double()),
    "weight_norm of columns": parametrizations.weight_norm(nn.Linear(4, 3).double(), dim=1),
    "weight_norm of the whole": parametrizations.weight_norm(nn.Linear(4, 3).double(), dim=None),
    "weight_norm of filters": lambda x: FILTERS(x[..., None].expand(-1, -1, 3)),
    "layer_norm": lambda x: functional.layer_norm(x, (4,), X[0], X[1], eps=0.1),
    "layer_norm of two dimensions": lambda x: torch.layer_norm(x.view(3, 2, 4), (2, 4), X[:2], None),
    "instance_norm": lambda x: functional.instance_norm(x.view(2, 3, 4), weight=X[:3, 0], bias=X[:3, 1]),
    "instance_norm of images": lambda x: functional.instance_norm(x.view(2, 3, 2, 2), weight=X[:3, 2], eps=0.1),
    "huber": lambda x: functional.huber_loss(x, X.flip(0), reduction="none", delta=0.7),
    "mean huber": lambda x: functional.huber_loss(x, X.flip(0)),
    "soft margin": lambda x: functional.soft_margin_loss(x, SIGNS.expand_as(x), reduction="none"),
    "mean soft margin": lambda x: functional.soft_margin_loss(x, SIGNS.expand_as(x)),
    "layer norm": nn.LayerNorm(4).double(),
    "layer norm without weights": nn.LayerNorm(4, elementwise_affine=False, eps=0.1),
    "layer norm of two dimensions": lambda x: SQUARE(x.unflatten(1, (2, 2))),
    "torch's layer norm": lambda x: torch.layer_norm(x, (4,), X[0], X[1]),
    "instance norm": lambda x: WEIGHTED(x.unflatten(1, (2, 2))),
    "instance norm of averages": lambda x: AVERAGED(x.unflatten(1, (2, 2))),
}
BAGS = torch.tensor([[2, 2], [0, 2], [5, 1]])  # the first one holds nothing but padding
CALLS |= {
    f"bags, {mode}, padding {padding}": lambda x, mode=mode, padding=padding: functional.embedding_bag(
        BAGS, x, mode=mode, padding_idx=padding
    )
    for mode in ("sum", "mean", "max")
    for padding in (None, 2, -4)
}
if "weight" in inspect.signature(functional.huber_loss).parameters:  # from torch 2.6 on
    CALLS["weighted huber"] = lambda x: functional.huber_loss(x, X.flip(0), reduction="sum", weight=X.exp())
CALLS |= {name: lambda x, name=name: RECURRENT[name](x.unflatten(1, (2, 2)))[0] for name in RECURRENT}


@pytest.mark.parametrize("case", CALLS)
def test_values_and_gradients_are_torchs(case):
    call = CALLS[case]

    def total(x):
        return call(x).square().sum()

    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(total(x), x)[0]
    torchs, near = call(X).detach(), 1e-7 if "hardsigmoid" in case else 1e-12  # torch takes 1/6 in single precision
    with Decomposed():
        assert torch.allclose(call(X), torchs, rtol=1e-13, atol=1e-15)
        assert torch.allclose(grad(total)(X), expected, rtol=near, atol=1e-14)


@pytest.mark.parametrize("case", CALLS)
def test_paths_are_batched_and_gradients_have_derivatives(case):
    call = CALLS[case]

    def slope(x):
        return grad(lambda x: call(x).square().sum())(x)

    with Decomposed():
        if case not in RECURRENT:  # these take batched inputs where their weights are batched, too
            assert torch.allclose(vmap(call)(torch.stack([X, 2 * X]))[1], call(2 * X), rtol=1e-12)
        bend = jvp(slope, (X,), (X.flip(1),))[1]
        difference = (slope(X + 1e-6 * X.flip(1)) - slope(X - 1e-6 * X.flip(1))) / 2e-6
    assert torch.allclose(bend, difference, rtol=1e-5, atol=1e-7)


NORMS = {
    "layer norm": nn.LayerNorm(6),
    "layer norm without weights": nn.LayerNorm(6, elementwise_affine=False),
    "instance norm": nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2), nn.Flatten()),
    "group norm": nn.GroupNorm(2, 6),
    "rms norm": nn.RMSNorm(6),
}


@pytest.mark.parametrize("case", NORMS)
def test_curvatures_of_normalised_layers_are_those_of_double_backward(case):
    """torch's forward derivative of a gradient that is batched over paths is wrong for layer and instance norms."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), NORMS[case], nn.Tanh(), nn.Linear(6, 1)).double()
    problem = sme.ModuleProblem(net, X, X[:, :1])
    theta = problem.initial(seed=None)
    first, second = torch.linspace(-1, 1, len(theta)).double(), torch.linspace(1, 2, len(theta)).double().cos()

    def loss(vector):
        parts = {name: vector[part] for name, part in problem.parameter_slices.items()}
        shaped = {name: parts[name].view_as(value) for name, value in net.named_parameters()}
        return (torch.func.functional_call(net, shaped, (X,)) - X[:, :1]).square().sum() / 2 / len(X)

    product = torch.autograd.functional.hvp(loss, theta, first)[1]
    assert torch.allclose(problem.hessian_product(theta, first), product, rtol=1e-9, atol=1e-12)
    both = torch.stack([theta, 1.1 * theta])
    assert torch.allclose(problem.hessian_product(both, first.expand_as(both))[0], product, rtol=1e-9, atol=1e-12)

    ends = [torch.autograd.functional.hvp(loss, theta + side * second, first)[1] for side in (1e-5, -1e-5)]
    third = (ends[0] - ends[1]) / 2e-5
    assert torch.allclose(problem.third_derivative(theta, second, first), third, rtol=1e-6, atol=1e-7)


def test_functions_whose_curvature_torch_has_wrong_are_refused():
    class Solved(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(4, dtype=torch.float64) + 0.1)

        def forward(self, x):
            return torch.linalg.solve(torch.eye(4, dtype=x.dtype) + self.weight @ self.weight.mT, x.mT).mT[:, :1]

    with pytest.raises(sme.SmesolveError, match="derivative of the gradient of module must have the derivative of"):
        sme.ModuleProblem(Solved(), X, X[:, :1])


NORMALISED = {
    "LayerNorm": nn.LayerNorm(6),
    "InstanceNorm1d": nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()),
    "GroupNorm": nn.GroupNorm(2, 6),
    "RMSNorm": nn.RMSNorm(6),
    "BatchNorm1d": nn.BatchNorm1d(6).eval(),
}


@pytest.mark.parametrize("layer", NORMALISED)
def test_normalised_modules_have_derivatives_of_batches_of_gradients(layer):
    """Those for the weights of layer_norm and instance_norm are without some terms in torch 2.13."""
    module = nn.Sequential(nn.Linear(4, 6), NORMALISED[layer], nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 1)).double()
    problem = sme.ModuleProblem(module, X, SIGNS)
    draw, generator = problem.sample(3, seed=0), torch.Generator().manual_seed(1)
    theta, direction = torch.randn(2, 3, problem.dim, generator=generator, dtype=torch.float64)
    bend = jvp(lambda at: problem.gradient(at, draw), (theta,), (direction,))[1]
    there, back = (problem.gradient(theta + h * direction, draw) for h in (1e-6, -1e-6))
    assert torch.allclose(bend, (there - back) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", [nn.HuberLoss(reduction="none"), nn.SoftMarginLoss(reduction="none")])
def test_losses_of_torch_train_modules(loss):
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 1)).double()

    def of_samples(outputs, targets):
        return loss(outputs, targets)[:, 0]

    problem = sme.ModuleProblem(module, X, SIGNS, loss=of_samples)
    theta = problem.initial(0)
    nn.utils.vector_to_parameters(theta.clone(), module.eval().parameters())
    assert torch.allclose(problem.loss(theta), loss(module(X), SIGNS).mean().detach(), rtol=1e-12)
    assert problem.hessian_product(theta, theta).isfinite().all()
