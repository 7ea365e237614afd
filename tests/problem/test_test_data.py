"""Test losses and accuracies agree with torch's for one network after the other."""

import math

import pytest
import torch
from torch import nn

import smesolve as sme
from smesolve.problem.observables import OBSERVABLES, is_piecewise_constant, named_observables

GENERATOR = torch.Generator().manual_seed(0)
X, X_TEST = (torch.randn(n, 3, generator=GENERATOR, dtype=torch.float64) for n in (12, 7))
LABELS, LABELS_TEST = X[:, :3].argmax(1), X_TEST[:, :3].argmax(1)
ONE_HOT, ONE_HOT_TEST = (torch.eye(3, dtype=torch.float64)[labels] for labels in (LABELS, LABELS_TEST))


def two_layers():
    network = sme.TwoLayerNetwork(3, 4, 3, "tanh", bias=True)
    return sme.DropoutProblem(network, X, ONE_HOT, keep_prob=0.8).with_test_data(X_TEST, ONE_HOT_TEST)


def deep():
    network = sme.FeatureNetwork(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 3)).double()
    return sme.DropoutProblem(network, X, ONE_HOT, 0.5, masks="per_sample").with_test_data(X_TEST, ONE_HOT_TEST)


def classifier():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 3)).double()
    problem = sme.ModuleProblem(module, X, LABELS, loss="cross_entropy", batch_size=4, weight_decay=0.1)
    return problem.with_test_data(X_TEST, LABELS_TEST)


def scheduled():
    return sme.ScheduledProblem(two_layers(), lr_factor=lambda t: 1 - t / 4)


def averaged():
    return sme.AveragedProblem(sme.DropoutProblem(two_layers().network, X, ONE_HOT, 0.8), 2).with_test_data(
        X_TEST, ONE_HOT_TEST
    )


def polynomial():
    network = sme.TwoLayerNetwork(3, 2, 3)
    problem = sme.symbolic.PolynomialLossProblem(network, X, ONE_HOT, lambda f, y: (f - y) ** 2 / 2, keep_prob=0.8)
    return problem.with_test_data(X_TEST, ONE_HOT_TEST)


def outputs_of(problem, theta, x):
    nn.utils.vector_to_parameters(theta, problem.network.parameters())
    with torch.no_grad():
        return problem.network.eval()(x)


@pytest.mark.parametrize("make", [two_layers, deep, classifier, scheduled, averaged, polynomial])
def test_losses_and_accuracies_are_those_of_the_network(make):
    problem = make()
    starts = torch.stack([problem.initial(seed) for seed in range(5)]).view(5, 1, -1)
    found = {name: OBSERVABLES[name](problem)(starts) for name in ("test_loss", "accuracy", "test_accuracy")}
    assert all(values.shape == (5, 1) for values in found.values())
    for seed, theta in enumerate(starts[:, 0]):
        seen, unseen = (outputs_of(problem, theta, x) for x in (X, X_TEST))
        assert found["accuracy"][seed, 0] == (seen.argmax(1) == LABELS).double().mean()
        assert found["test_accuracy"][seed, 0] == (unseen.argmax(1) == LABELS_TEST).double().mean()
        loss = (unseen - ONE_HOT_TEST).square().sum(1).mean() / 2
        if make is classifier:
            loss = nn.functional.cross_entropy(unseen, LABELS_TEST)
        assert found["test_loss"][seed, 0] == pytest.approx(float(loss), rel=1e-12)


def test_paths_do_not_depend_on_test_data():
    problem, without = classifier(), classifier()
    without.test = None
    theta0 = problem.initial()
    paths = [sme.iterate(each, theta0, 0.1, 3, paths=4) for each in (problem, without)]
    assert torch.equal(*paths)


@pytest.mark.parametrize("y", [X[:, :1], X, 2 * ONE_HOT, torch.full_like(X, 1 / 3)])
def test_an_accuracy_without_classes_is_refused(y):
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(3, 2, y.shape[1]), X, y, keep_prob=0.8)
    with pytest.raises(sme.SmesolveError, match="'accuracy' needs classes"):
        named_observables(problem, ["accuracy"])


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [(X_TEST[:, :2], ONE_HOT_TEST, "x must have 3 columns"), (X_TEST, ONE_HOT_TEST[:-1], "same number of samples")],
)
def test_test_data_that_do_not_fit_are_refused(x, y, words):
    with pytest.raises(sme.SmesolveError, match=words):
        two_layers().with_test_data(x, y)


def test_an_accuracy_is_piecewise_constant_and_a_loss_is_not():
    problem = two_layers()
    named = named_observables(problem, ["loss", "test_loss", "accuracy", "test_accuracy", "theta[0]"])
    assert [name for name, g in named.items() if is_piecewise_constant(g, problem.initial())] == [
        "accuracy",
        "test_accuracy",
    ]


def test_the_weak_error_of_an_accuracy_is_a_difference_of_means_without_a_prediction():
    problem = two_layers()
    theta0 = problem.initial()
    study = sme.weak_error(problem, theta0, [0.4], 1.2, orders=[1], observables=["accuracy", "loss"], paths=256)
    row = study.table[study.table.observable == "accuracy"].iloc[-1]
    assert 0 < row.discrete < 1 and row.low <= row.error <= row.high and row.high > row.low
    plain = sme.iterate(problem, theta0, 0.4, 3, paths=4000, seed=9, save=[3], observables=["accuracy"]).iloc[0]
    assert abs(row.discrete - plain["mean"]) < 4 * math.hypot(row.discrete_stderr, plain.stderr)
    assert list(study.constants.observable.unique()) == ["loss"]
    with pytest.raises(sme.SmesolveError, match="'accuracy' jumps"):
        sme.weak_error(problem, theta0, [0.4], 1.2, observables=["accuracy"], estimator="defects")
