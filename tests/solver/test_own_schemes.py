"""Schemes that users write are tried before anything is integrated with them."""

import re

import pytest
import torch
from problems import make_problem

import smesolve as sme

PROBLEM = make_problem(width=3)
THETA0 = PROBLEM.initial()


def euler(self, sde, t0, t1, y, dW):
    drift, noise = sde.drift_and_noise(t0, y, dW)
    return y + drift * (t1 - t0) + noise, y + drift * (t1 - t0), noise


class Own(sme.Scheme):
    """Euler's scheme, written again."""

    noise_time, weak_error = 1.0, "dt"
    drift_evaluations = corrections = noise_products = 1
    step = euler


class OwnWeights(sme.GradientScheme):
    """Two gradients and no further noise."""

    drift_evaluations = 2

    @staticmethod
    def weights(ratio):
        return (0.5, 0.5), (0.0, 0.0)


def solved(monkeypatch, scheme):
    monkeypatch.setitem(sme.SCHEMES, "own", scheme)
    return sme.solve(sme.ModifiedEquation(PROBLEM, 0.1), THETA0, [0.0, 0.2], "own", dt=0.05, paths=2, seed=1)


def test_what_is_as_it_should_be_is_taken(monkeypatch):
    again = sme.solve(sme.ModifiedEquation(PROBLEM, 0.1), THETA0, [0.0, 0.2], "euler", dt=0.05, paths=2, seed=1)
    assert torch.allclose(solved(monkeypatch, Own), again, rtol=0, atol=1e-14)
    assert solved(monkeypatch, OwnWeights).isfinite().all()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda self, sde, t0, t1, y, dW: y, "must return the new states, their prediction and the noise, got"),
        (lambda self, sde, t0, t1, y, dW: (y[:1], y, y), "tensors of shape (3, 9) for 3 paths, got"),
        (lambda self, sde, t0, t1, y, dW: (y.float(), y, y), "must return torch.float64 tensors"),
        (lambda self, sde, t0, t1, y, dW: (y.numpy(), y, y), "must return torch.float64 tensors"),
        (lambda self, sde, t0, t1, y, dW: (y - y.mean(0), y, y), "must treat each path by itself"),
        (lambda self, sde, t0, t1, y, dW: (y + torch.randn_like(y), y, y), "other values when it is called again"),
        (lambda self, sde, t0, t1, y, dW: (y.add_(dW.sum()), y, y), "must leave what it is given unchanged"),
        (lambda self, y: y, "must work on what it is given here, but a trial call failed (TypeError"),
    ],
)
def test_a_step_that_would_go_wrong_later_is_refused(monkeypatch, step, words):
    with pytest.raises(sme.SmesolveError, match=rf"the step of scheme='own' .*{re.escape(words)}"):
        solved(monkeypatch, type("Wrong", (Own,), {"step": step}))


def test_a_scheme_that_cannot_be_made_is_refused(monkeypatch):
    with pytest.raises(sme.SmesolveError, match=r"scheme='own' must work .* \(TypeError"):
        solved(monkeypatch, type("Wrong", (Own,), {"__init__": lambda self, needed: None}))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (([0.5, 0.5], [0.0]), "must be as many means as deviations, at least two"),
        (([1.0], [0.0]), "must be as many means as deviations, at least two"),
        ((["a", "b"], [0.0, 0.0]), "must be two lists of numbers"),
        (None, "must be two lists of numbers"),
        (([1.0, 1.0], [0.0, 0.0]), "got the sums 2.0 and 0.0"),
        (([0.5, 0.5], [0.1, 0.1]), "got the sums 1.0 and 0.2"),
    ],
)
def test_weights_that_would_integrate_another_equation_are_refused(monkeypatch, weights, words):
    wrong = type("Wrong", (OwnWeights,), {"weights": staticmethod(lambda ratio: weights)})
    with pytest.raises(sme.SmesolveError, match=rf"the weights of scheme Wrong .*{re.escape(words)}"):
        solved(monkeypatch, wrong)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"noise_time": "a"}, r"noise_time of scheme='own' must lie in \[0, 1\]"),
        ({"noise_time": 7}, r"noise_time of scheme='own' must lie in \[0, 1\]"),
        ({"weak_error": 2}, r"weak_error of scheme='own' must be a string"),
        ({"drift_evaluations": -1}, r"drift_evaluations of scheme='own' must be a number of at least 0"),
    ],
)
def test_a_measurement_refuses_impossible_properties(monkeypatch, declared, words):
    monkeypatch.setitem(sme.SCHEMES, "own", type("Wrong", (Own,), declared))
    with pytest.raises(sme.SmesolveError, match=words):
        sme.weak_error(PROBLEM, THETA0, [0.1], 0.2, scheme="own")
