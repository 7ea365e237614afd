"""Functions of users that mix rows, draw, or lose a derivative are refused; those with kinks are not."""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

import smesolve as sme
from smesolve.problem.function_trial import check_derivative, check_rows
from smesolve.problem.observables import measured_observables, named_observables

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.sin(2 * X[:, :1])
POINT = torch.linspace(-0.9, 1.3, 5, dtype=torch.float64)
DIRECTION = torch.linspace(1.0, 2.0, 5, dtype=torch.float64)
PROBLEM = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), X, Y, keep_prob=0.8)
THETA0 = PROBLEM.initial(seed=0)
WRITES = "must leave what it is given unchanged"
LOST, MIXED, OTHER = "must have the derivative of its values", "by itself, but its value for one", "is called again"


class Reversed(torch.autograd.Function):
    """The identity, with the gradient of its negative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values):
        return values.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, cotangent):
        return -cotangent


# --- the trial itself -------------------------------------------------------------------------------------------------

FAITHFUL = {
    "smooth": lambda v: v.sin(),
    "kinks": lambda v: v.relu() - (v - 0.1).abs(),
    "jumps": lambda v: v.floor(),
    "undefined": lambda v: v.sqrt(),
    "large": lambda v: 1e200 * v.cosh(),
    "constant": lambda v: torch.ones_like(v),
}
UNFAITHFUL = {
    "detach": lambda v: v.detach().sin(),
    "a factor": lambda v: v.detach() * v,
    "data": lambda v: v.data.exp(),
    "a small part": lambda v: v.sin() + 0.05 * v.detach(),
    "rounding with a gradient": lambda v: v + (v.square() - v).detach(),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", FAITHFUL)
def test_derivatives_of_values_are_taken(case, dtype):
    check_derivative("f", FAITHFUL[case], POINT.to(dtype), DIRECTION.to(dtype))


@pytest.mark.parametrize("case", UNFAITHFUL)
def test_other_derivatives_are_refused(case):
    with pytest.raises(sme.SmesolveError, match=f"f {LOST}"):
        check_derivative("f", UNFAITHFUL[case], POINT, DIRECTION)


def test_a_function_may_begin_where_it_is_tried():
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    check_derivative("f", lambda t: torch.sin(2 * t.clamp(min=0)), zero, one, 2 * one, one_sided=True)
    with pytest.raises(sme.SmesolveError, match="torch's is 0 where differences give 1"):
        check_derivative("f", lambda t: t.abs(), zero, one, one_sided=True)


def test_kinks_of_wide_networks_are_no_fault():
    """Of 2,048 units and 3 samples some switch between the points of a difference quotient."""
    for dtype, seed in ((torch.float64, 0), (torch.float32, 1), (torch.float32, 2)):
        generator = torch.Generator().manual_seed(seed)
        x, weight, readout = (torch.randn(*s, generator=generator).to(dtype) for s in ((3, 8), (2048, 8), (2048, 1)))

        def loss(vector, x=x, readout=readout):
            return (torch.relu(x @ vector.view(2048, 8).mT) @ readout).square().mean() / 2048

        direction = torch.randn(2048 * 8, generator=generator).to(dtype)
        check_derivative("loss", loss, weight.flatten(), direction)
        check_derivative("slope", torch.func.grad(loss), weight.flatten(), direction)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda rows: rows[:, 0] - rows[:, 0].mean(), MIXED),
        (lambda rows: rows[:, 0].sort().values, MIXED),
        (lambda rows: rows[0].sum().expand(len(rows)), MIXED),
        (lambda rows: rows.sum().expand(len(rows)), MIXED),
        (lambda rows: rows[:, 0] / len(rows), MIXED),
        (lambda rows: rows[:, 0] + torch.rand(len(rows), dtype=rows.dtype), OTHER),
    ],
)
def test_rows_are_treated_one_by_one(function, words):
    rows = torch.tensor([[0.3, 1.0], [-0.2, 2.0], [0.9, -1.0]], dtype=torch.float64)
    with pytest.raises(sme.SmesolveError, match=words):
        check_rows("f", function, rows)
    check_rows("f", lambda rows: rows.square().sum(-1) / 0 * rows[:, 0], rows)


# --- where it is used -------------------------------------------------------------------------------------------------


def module():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 1)).double()


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.net, self.function = module(), function

    def forward(self, x):
        return self.function(self.net(x))


@pytest.mark.parametrize("function", [lambda o: o * o.detach(), lambda o: o + (o.round() - o).detach(), Reversed.apply])
def test_modules_whose_gradient_is_not_that_of_their_loss(function):
    with pytest.raises(sme.SmesolveError, match=f"loss of module {LOST}"):
        sme.ModuleProblem(Wrapped(function), X, Y)


LOSSES = {
    "outputs (n, 1) and targets (n,)": (lambda f, y: (f - y).square().mean(1), Y[:, 0], MIXED),
    "a sum over samples": (lambda f, y: (f - y).square().sum(0), Y[:, 0], MIXED),
    "centred outputs": (lambda f, y: (f - f.mean(0) - y).square().sum(1), Y, MIXED),
    "a mean for all": (lambda f, y: (f - y).square().mean().expand(len(f)), Y, MIXED),
    "a weight by hand": (lambda f, y: (f - y).square().sum(1) / len(f), Y, MIXED),
    "a weight of each": (lambda f, y: (f - y).square().sum(1) * torch.arange(6), Y, "loss work on some of the samples"),
    "noise": (lambda f, y: (f - y + torch.randn_like(f)).square().sum(1), Y, OTHER),
    "single precision": (lambda f, y: (f - y).float().square().sum(1), Y, "one torch.float64 number for each"),
    "a detached weight": (lambda f, y: (f - y).square().sum(1) * f[:, 0].detach(), Y, LOST),
}


@pytest.mark.parametrize("case", LOSSES)
def test_losses_are_those_of_each_sample(case):
    loss, y, words = LOSSES[case]
    for batch_size in (None, 2):
        with pytest.raises(sme.SmesolveError, match=words):
            sme.ModuleProblem(module(), X, y, loss=loss, batch_size=batch_size)


def clamped(outputs, targets):
    return (outputs - targets.clamp_(0, 1)).square().sum(1)


def test_losses_that_write_into_targets():
    targets = Y.clone()
    for batch_size in (None, 2):
        with pytest.raises(sme.SmesolveError, match=f"loss {WRITES}"):
            sme.ModuleProblem(module(), X, targets, loss=clamped, batch_size=batch_size)
    assert torch.equal(targets, Y)


class Overwriting(sme.Problem):
    """|theta|^2 / 2, with one method that writes into theta."""

    dim = draw_dim = noise_dim = 2

    def __init__(self, method):
        self.method = method

    def _given(self, method, theta):
        return theta.mul_(1.5) if method == self.method else theta

    def draw(self, uniforms):
        return uniforms - 0.5

    def loss(self, theta):
        return self._given("loss", theta).square().sum(-1) / 2

    def gradient(self, theta, draw):
        return self._given("gradient", theta) + draw

    def mean_gradient(self, theta):
        return self._given("mean_gradient", theta) + 0

    def noise_product(self, theta, normals):
        return normals + 0 * self._given("noise_product", theta)


@pytest.mark.parametrize("method", ["loss", "gradient", "mean_gradient", "noise_product"])
def test_methods_that_write_into_theta(method):
    start = torch.ones(2, dtype=torch.float64)
    sme.iterate(Overwriting("none"), start, 0.1, 2, 4)
    with pytest.raises(sme.SmesolveError, match=f"Overwriting.{method} {WRITES}"):
        sme.iterate(Overwriting(method), start, 0.1, 2, 4)
    assert torch.equal(start, torch.ones(2, dtype=torch.float64))


def test_observables_that_write_into_theta():
    def first(theta):
        theta[..., 1] = 0.0
        return theta[..., 0]

    for measure in (
        lambda: sme.iterate(PROBLEM, THETA0, 0.2, 1, 4, observables=[first]),
        lambda: sme.weak_error(PROBLEM, THETA0, [0.2], 0.2, observables=[first], paths=4),
    ):
        with pytest.raises(sme.SmesolveError, match=f"observable 'first' {WRITES}"):
            measure()


def test_losses_that_squeeze_are_taken():
    squeezed = sme.ModuleProblem(module(), X, Y, loss=lambda f, y: (f.squeeze() - y.squeeze()).square() / 2)
    theta = squeezed.initial(seed=0)
    assert torch.equal(squeezed.loss(theta), sme.ModuleProblem(module(), X, Y).loss(theta))


@pytest.mark.parametrize(
    ("activation", "words"),
    [
        (lambda z: torch.tanh(z) * z.detach(), LOST),
        (lambda z: torch.from_numpy(z.numpy()), "whose derivative torch takes, must work"),
        (lambda z: z.softmax(-1), MIXED),
        (nn.Dropout(0.5), OTHER),
        (nn.PReLU().double(), "must have no parameters of its own"),
    ],
)
def test_activations_are_functions_of_each_number(activation, words):
    with pytest.raises(sme.SmesolveError, match=f"activation.* {words}"):
        sme.TwoLayerNetwork(2, 3, activation=activation)


def test_schedules_have_their_slope():
    with pytest.raises(sme.SmesolveError, match=f"lr_factor {LOST}"):
        sme.ScheduledProblem(PROBLEM, lambda t: 1 - t.detach() / 4)
    with pytest.raises(sme.SmesolveError, match=f"keep_prob {LOST}"):
        later = sme.Piecewise([0.1], [lambda t: 0.8 + 0 * t, lambda t: 0.8 + 0.1 * t.data])
        sme.ScheduledProblem(PROBLEM, keep_prob=later)


@pytest.mark.parametrize(
    ("observable", "words"),
    [(lambda t: t[..., 0] - t[..., 0].mean(), MIXED), (lambda t: t.sum().expand(t.shape[:-1]), MIXED)],
)
def test_observables_that_mix_paths(observable, words):
    for measure in (
        lambda: measured_observables(PROBLEM, THETA0, {"g": observable}),
        lambda: sme.weak_error(PROBLEM, THETA0, [0.2], 0.2, observables={"g": observable}, paths=4),
        lambda: sme.iterate(PROBLEM, THETA0, 0.2, 1, 4, observables=[observable]),
    ):
        with pytest.raises(sme.SmesolveError, match=f"observable .* {words}"):
            measure()


def test_observables_whose_derivative_is_taken(monkeypatch):
    observables = {"g": lambda t: t.square().sum(-1) * t.detach()[..., 0]}
    with pytest.raises(sme.SmesolveError, match=f"observable 'g' {LOST}"):
        named_observables(PROBLEM, observables)
    assert sme.iterate(PROBLEM, THETA0, 0.2, 1, 4, observables=observables)["mean"].notna().all()
    monkeypatch.setitem(sme.OBSERVABLES, "mine", lambda problem: lambda theta: theta.sum().expand(theta.shape[:-1]))
    with pytest.raises(sme.SmesolveError, match=f"observable 'mine' .*{MIXED}"):
        named_observables(PROBLEM, ["mine"])


class Quartic(sme.Problem):
    """R_S = sum theta^4 / 4, and a gradient that is off by -1 or 1 in each coordinate."""

    dim = draw_dim = noise_dim = 2

    def draw(self, uniforms):
        return 2.0 * (uniforms < 0.5) - 1

    def loss(self, theta):
        return theta.pow(4).sum(-1) / 4

    def gradient(self, theta, draw=0.0):
        return theta.pow(3) + draw

    mean_gradient = gradient

    def noise_product(self, theta, normals):
        return normals


START = torch.tensor([1.0, 0.5], dtype=torch.float64)


def by_leaf(self, theta, draw=0.0):
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(self.loss(leaf).sum(), leaf)[0] + draw


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (lambda self, theta, draw=0.0: theta.data**3 + draw, LOST),
        (by_leaf, "mean_gradient must work on what it is given here"),
        (lambda self, theta, draw=0.0: torch.from_numpy(theta.numpy() ** 3) + draw, "mean_gradient must work"),
    ],
)
def test_problems_whose_gradient_has_no_derivative_are_iterated_only(gradient, words):
    """With the derivative lost, order 2 would have the drift of order 1, and no learning rate would be too large."""
    problem = type("Mine", (Quartic,), {"gradient": gradient, "mean_gradient": gradient})()
    assert sme.iterate(problem, START, 0.1, 2, 4).isfinite().all()
    first = sme.ModifiedEquation(problem, 0.1, 1)
    assert sme.solve(first, START, [0.0, 0.1], "euler", dt=0.05, paths=4).isfinite().all()
    for use in (
        lambda: problem.stability_limit(START),
        lambda: sme.weak_error(problem, START, [0.1], 0.1, paths=4),
        lambda: sme.solve(sme.ModifiedEquation(problem, 0.1, 2), START, [0.0, 0.1], "euler", dt=0.05, paths=4),
    ):
        with pytest.raises(sme.SmesolveError, match=words):
            use()


def test_no_estimator_takes_the_derivative_of_the_gradient_of_a_draw():
    """Where the mean gradient is known, defects take differences of values only."""
    lost = lambda self, theta, draw: theta.detach() ** 3 + draw  # noqa: E731
    for estimator in ("difference", "defects"):
        tables = [
            sme.weak_error(type("Mine", (Quartic,), more)(), START, [0.1], 0.1, paths=4, estimator=estimator).table
            for more in ({}, {"gradient": lost})
        ]
        pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("loss", lambda self, theta: theta[..., 0] - theta[..., 0].mean(), MIXED),
        ("gradient", lambda self, theta, draw: theta + draw + torch.randn_like(theta), OTHER),
        ("noise_product", lambda self, theta, normals: normals - normals.mean(0), MIXED),
    ],
)
def test_problems_that_mix_paths_or_draw(name, method, words):
    problem = type("Mine", (Quartic,), {name: method})()
    with pytest.raises(sme.SmesolveError, match=f"Mine.{name} .*{words}"):
        sme.iterate(problem, START, 0.1, 2, 4)


STEPS = {
    "a number": (lambda s, g, lr: s - float(lr) * g, LOST),
    "a branch": (lambda s, g, lr: s - lr * g if lr > 0 else s, LOST),
    "a modulus": (lambda s, g, lr: s - abs(lr) * g, LOST),
    "a root": (lambda s, g, lr: s - lr**0.5 * g, "smooth function of lr at lr=0, but its derivative"),
    "noise": (lambda s, g, lr: s - lr * (g + torch.randn_like(s)), "must draw no random numbers but those of its draw"),
    "single precision": (lambda s, g, lr: (s - lr * g).float(), "must return a torch.float64 tensor"),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_are_smooth_in_the_learning_rate(case):
    """Otherwise the equation would have no drift, or none that is known."""
    step, words = STEPS[case]
    with pytest.raises(sme.SmesolveError, match=f"step.* {words}"):
        sme.Training(PROBLEM, lambda state, draw, lr: step(state, PROBLEM.gradient(state, draw), lr), 0.1)


def test_a_step_may_begin_with_a_memory_of_zeros():
    """At the first step the root of the second moment has no derivative; from the second one on it has."""
    dim = PROBLEM.dim

    def step(state, draw, lr):
        theta, v = state.split(dim, -1)
        g = PROBLEM.gradient(theta, draw)
        v = v + lr * (g * g - v)
        return torch.cat([theta - lr * g / (v.sqrt() + 1e-3), v], -1)

    own = sme.Training(PROBLEM, step, 0.1, memory=torch.zeros(dim, dtype=torch.float64))
    assert sme.iterate(own, own.initial(seed=0), 0.1, 3, 2).isfinite().all()


def test_cross_entropy_with_weights_of_classes_is_taken():
    labels, weight = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    net = nn.Sequential(nn.Linear(2, 3)).double()
    problem = sme.ModuleProblem(net, X, labels, lambda f, y: functional.cross_entropy(f, y, weight, reduction="none"))
    expected = functional.cross_entropy(net(X), labels, weight, reduction="none").mean()
    assert torch.allclose(problem.loss(problem.initial(seed=None)), expected, rtol=1e-12)
