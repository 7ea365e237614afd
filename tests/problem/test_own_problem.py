"""A problem defined by the user, as in the README: missing parts are named, and every part of the package takes it."""

import pickle

import numpy as np
import pytest
import torch

import smesolve as sme

X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None].expand(-1, 2) * torch.tensor([1.0, 0.5]) + 0.1
Y = (X[:, 0] > 0).double()


class FlippedLabels(sme.Problem):
    """Logistic regression whose labels are flipped with probability q, anew in each step."""

    q, dim, draw_dim, noise_dim = 0.1, X.shape[1], len(X), len(X)

    def draw(self, uniforms):
        return torch.where(uniforms < self.q, 1 - Y, Y)

    def loss(self, theta):
        return torch.nn.functional.softplus((1 - 2 * Y) * (theta @ X.mT)).mean(-1)

    def gradient(self, theta, draw):
        return (torch.sigmoid(theta @ X.mT) - draw) @ X / len(X)

    def mean_gradient(self, theta):
        return self.gradient(theta, Y + self.q * (1 - 2 * Y))

    def noise_product(self, theta, normals):
        return (self.q * (1 - self.q)) ** 0.5 * normals @ X / len(X)


class Sampled(sme.Problem):
    """The same problem, as if its mean gradient were not known."""

    has_closed_form = False
    q, dim, draw_dim = FlippedLabels.q, FlippedLabels.dim, FlippedLabels.draw_dim
    draw, loss, gradient = FlippedLabels.draw, FlippedLabels.loss, FlippedLabels.gradient


THETA0 = torch.tensor([0.3, -0.2], dtype=torch.float64)


def test_the_covariance_is_that_of_all_draws():
    problem = FlippedLabels()
    flips = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * len(X))
    weights = (problem.q**flips * (1 - problem.q) ** (1 - flips)).prod(-1)
    gradients = problem.gradient(THETA0, torch.where(flips > 0, 1 - Y, Y))
    mean = weights @ gradients
    covariance = (gradients - mean).mT @ (weights[:, None] * (gradients - mean))
    assert torch.allclose(problem.mean_gradient(THETA0), mean, rtol=1e-12)
    assert torch.allclose(problem.covariance(THETA0), covariance, rtol=1e-12)
    at = problem.linearize(THETA0)
    assert torch.allclose(at.covariance(), covariance, rtol=1e-12)
    assert torch.allclose(problem.covariance(THETA0.expand(3, -1)), covariance.expand(3, -1, -1), rtol=1e-12)
    vector = torch.tensor([1.0, 2.0], dtype=torch.float64)
    hessian = torch.func.jacfwd(problem.mean_gradient)(THETA0)
    assert torch.allclose(at.hessian_product(vector), hessian @ vector, rtol=1e-12)
    normals = torch.ones(len(X), dtype=torch.float64)
    assert torch.allclose(at.noisy_mean_gradient(normals, 0.5), 0.5 * mean + at.noise_product(normals), rtol=1e-12)


def test_it_goes_through_iterate_solve_and_weak_error():
    problem = FlippedLabels()
    paths = sme.iterate(problem, THETA0, lr=0.5, steps=4, paths=4000)
    equation = sme.ModifiedEquation(problem, lr=0.5, order=2)
    solved = sme.solve(equation, THETA0, [0.0, 2.0], dt=0.25, paths=4000)
    spread = (paths[-1].var(0) / 4000 + solved[-1].var(0) / 4000).sqrt()
    assert ((paths[-1].mean(0) - solved[-1].mean(0)).abs() < 5 * spread + 0.02).all()
    study = sme.weak_error(
        problem, THETA0, lrs=[0.5, 0.25], horizon=2.0, paths=1024, rel_tol=None, observables=["loss"]
    )
    assert study.table.resolved.all()
    for made in (sme.AveragedProblem(problem, 2), sme.ScheduledProblem(problem, lambda t: 1 - t / 4)):
        assert sme.iterate(made, THETA0, 0.5, 2, 4).isfinite().all()
        assert sme.solve(sme.ModifiedEquation(made, 0.5), THETA0, [0.0, 0.5], dt=0.25, paths=4).isfinite().all()


def test_without_a_closed_form_gradients_serve():
    sampled = Sampled()
    assert torch.allclose(sampled.reference_gradient(THETA0), FlippedLabels().mean_gradient(THETA0), atol=0.1)
    equation = sme.ModifiedEquation(sampled, 0.5, 1)
    assert sme.solve(equation, THETA0, [0.0, 1.0], "svag", dt=0.125, paths=4).isfinite().all()
    with pytest.raises(sme.SmesolveError, match="needs drift and noise in closed form"):
        sme.solve(equation, THETA0, [0.0, 1.0], dt=0.125, paths=4)
    study = sme.weak_error(sampled, THETA0, [0.5], 1.0, orders=(1,), dt=0.125, paths=64, rel_tol=None)
    assert len(study.table)
    averaged = sme.AveragedProblem(sampled, 2)
    assert sme.iterate(averaged, THETA0, 0.5, 2, 4).isfinite().all()
    with pytest.raises(sme.SmesolveError, match="Sampled must define noise_product for this"):
        sampled.noise_product(THETA0, THETA0)
    with pytest.raises(sme.SmesolveError, match="closed form for schedules"):
        sme.ScheduledProblem(sampled, lambda t: 1 - t)


def use(problem):
    return {
        "iterate": lambda: sme.iterate(problem, THETA0, 0.1, 2, 2),
        "equation": lambda: sme.ModifiedEquation(problem, 0.1),
        "weak_error": lambda: sme.weak_error(problem, THETA0, [0.1], 0.1),
        "averaged": lambda: sme.AveragedProblem(problem, 2),
        "scheduled": lambda: sme.ScheduledProblem(problem, lambda t: 1 - t),
    }


@pytest.mark.parametrize("name", use(None))
def test_all_that_is_missing_is_listed_in_one_sentence(name):
    class Unfinished(sme.Problem):
        dim = 2

        def loss(self, theta):
            return theta.sum(-1)

    with pytest.raises(sme.SmesolveError) as caught:
        use(Unfinished())[name]()
    sentence = str(caught.value)
    assert sentence.startswith("Unfinished must define draw_dim") and "\n" not in sentence
    for missing in ("draw(uniforms)", "gradient(theta, draw)", "noise_dim", "mean_gradient(theta)", "noise_product("):
        assert missing in sentence
    assert "loss(theta)" not in sentence and "dim (D" not in sentence
    with pytest.raises(sme.SmesolveError, match="problem must be a Problem"):
        use("tanh")[name]()


def test_what_an_own_problem_lacks_is_said_when_it_is_asked_for():
    problem = FlippedLabels()
    for call, sentence in (
        (problem.initial, "has no network whose parameters could be drawn; define initial"),
        (lambda: problem.modified_loss(THETA0), "must define modified_loss for this"),
        (problem.all_draws, "cannot be enumerated"),
        (lambda: sme.weak_error(problem, THETA0, [0.1], 0.1, observables=["modified_loss"]), "modified_loss"),
    ):
        with pytest.raises(sme.SmesolveError, match=sentence):
            call()
    assert repr(problem) == "FlippedLabels(1 samples, D=2, M=6)"
    assert torch.equal(pickle.loads(pickle.dumps(problem)).loss(THETA0), problem.loss(THETA0))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("gradient", lambda self, theta, draw: theta.sum()),
        ("loss", lambda self, theta: theta.float().sum(-1)),
        ("mean_gradient", lambda self, theta: theta @ torch.ones(3)),
        ("noise_product", lambda self, theta, normals: normals),
        ("draw", lambda self, uniforms: 1 / 0),
        ("noise_dim", -1),
    ],
)
def test_a_wrong_shape_or_a_failing_method_is_said_at_the_start(name, method):
    problem = type("Mine", (FlippedLabels,), {name: method})()
    for call in use(problem).values():
        with pytest.raises(sme.SmesolveError, match=name):
            call()
    with pytest.raises(sme.SmesolveError, match=r"dim must be an integer of Python, .*; write int\(dim\)"):
        type("Mine", (FlippedLabels,), {"dim": np.int64(2)})().check()
    with pytest.raises(sme.SmesolveError, match="dim must be a positive integer"):
        type("Mine", (FlippedLabels,), {"dim": 2.5})().check()


def test_sizes_may_be_set_in_the_constructor():
    class Wide(FlippedLabels):
        def __init__(self):
            self.dim, self.draw_dim, self.noise_dim = 2, len(X), len(X)

    assert torch.equal(sme.iterate(Wide(), THETA0, 0.1, 2, 2), sme.iterate(FlippedLabels(), THETA0, 0.1, 2, 2))
