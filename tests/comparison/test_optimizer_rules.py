"""Scaling rules applied to trainings: drift and noise of the equation are what the rule says, by enumeration."""

import pytest
import torch

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.optimizer_rules import optimizer_rules
from smesolve.experiments import SamplingEffort
from smesolve.experiments.scaling.rule import scaling_rule_study
from smesolve.problem.averaged_problem import AveragedProblem

X = torch.tensor([[1.0, 0.3], [-0.4, 1.2], [0.8, -0.7]], dtype=torch.float64)
Y = torch.tensor([[0.9], [-0.3], [0.5]], dtype=torch.float64)
READOUT = sme.DropoutProblem(sme.LinearNetwork(2), X, Y, keep_prob=0.8)
SCALAR = sme.DropoutProblem(sme.LinearNetwork(1), X[:1, :1], Y[:1], keep_prob=0.8)
MINIMUM = 0.8 * Y[0] / X[0, :1]
"""Of SCALAR: the mean gradient x (x theta / keep_prob - y) vanishes."""


def moments(problem, state):
    """Mean and covariance of F, over all draws."""
    draws, weights = problem.all_draws()
    values = problem.step_terms(state.expand(len(weights), -1), draws, 1)[0]
    mean = weights @ values
    return mean, (values - mean).mT @ (weights[:, None] * (values - mean))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
def test_the_linear_rule_leaves_the_equation_of_descent_unchanged(options):
    training = sme.Training(READOUT, torch.optim.SGD, lr=0.05, **options)
    state = training.warm(training.initial(seed=1), 3)
    (rule,) = optimizer_rules(training)
    made, start, lr = rule.applied(training, state, 0.05, 3)
    assert torch.equal(start, state) and lr == pytest.approx(0.15)
    assert torch.allclose(made.mean_gradient(start), training.mean_gradient(state), rtol=1e-13)
    assert torch.allclose(lr * made.covariance(start), 0.05 * training.covariance(state), rtol=1e-12)
    expected = {"lr": 2, "1 - momentum": 1} if options else {"lr": 1}
    assert rule.options == expected and rule.name == "linear"


def test_plain_descent_needs_no_training():
    (rule,) = optimizer_rules(READOUT)
    made, _, lr = rule.applied(READOUT, READOUT.initial(), 0.1, 4)
    assert isinstance(made, AveragedProblem) and made.count == 4 and lr == pytest.approx(0.4)
    assert str(rule) == "lr ~ kappa, steps ~ 1/kappa"


ADAPTIVE = [
    (torch.optim.Adam, {"betas": (0.9, 0.95), "eps": 0.1}, ["beta_1", "beta_2"]),
    (torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.3}, ["beta_1", "beta_2"]),
    (torch.optim.RMSprop, {"alpha": 0.9, "eps": 0.1}, ["alpha"]),
]


@pytest.mark.parametrize(("optimizer", "options", "decays"), ADAPTIVE)
def test_the_square_root_rule_where_the_gradient_vanishes(optimizer, options, decays):
    """There every entry of the drift, and the noise of all but v, changes by the powers of the rule."""
    training = sme.Training(SCALAR, optimizer, lr=0.1, **options)
    state = training.warm(training.start(MINIMUM), 12)
    state[0] = MINIMUM
    rule = optimizer_rules(training)[0]
    assert rule.name == "square root" and all(rule.options[f"1 - {name}"] == 1 for name in decays)
    made, start, lr = rule.applied(training, state, 0.05, 2)
    assert lr == pytest.approx(0.05 * 2**0.5)
    powers = torch.tensor(
        [
            0.0,
            *(float(rule.buffers[name]) for name in training.buffers),
            *[0.0] * (training.dim - 1 - len(training.buffers)),
        ]
    ).double()
    assert torch.allclose(start, 2.0**powers * state, rtol=1e-14)
    (b, Sigma), (b_made, Sigma_made) = moments(training, state), moments(made, start)
    assert torch.allclose(b_made, 2.0 ** (powers + 0.5) * b, rtol=1e-12, atol=1e-14)  # x - tau, tau = -1/2
    kept = [k for k in range(training.dim) if powers[k] == 0]
    ratio = 2.0 ** (powers[:, None] + powers + 0.5)
    assert torch.allclose(lr * Sigma_made[kept][:, kept], (ratio * 0.05 * Sigma)[kept][:, kept], rtol=1e-12, atol=1e-15)
    assert Sigma[kept][:, kept].any()


@pytest.mark.parametrize(("optimizer", "options", "decays"), ADAPTIVE)
def test_the_linear_rule_of_adaptive_optimizers_without_noise(optimizer, options, decays):
    exact = sme.DropoutProblem(sme.LinearNetwork(1), X[:1, :1], Y[:1], keep_prob=1.0)
    training = sme.Training(exact, optimizer, lr=0.1, **options)
    state = training.warm(training.initial(seed=1), 6)
    rule = optimizer_rules(training)[1]
    made, start, lr = rule.applied(training, state, 0.1, 4)
    assert rule.name == "linear" and torch.equal(start, state) and lr == pytest.approx(0.4)
    assert torch.allclose(moments(made, start)[0], moments(training, state)[0], rtol=1e-12, atol=1e-15)


def test_what_has_no_rule_is_refused():
    for optimizer, options in (
        (torch.optim.NAdam, {}),
        (torch.optim.RMSprop, {"momentum": 0.9}),
        (torch.optim.RMSprop, {"centered": True}),
    ):
        with pytest.raises(sme.SmesolveError, match=r"optimizer must be one whose scaling rule is derived, got"):
            optimizer_rules(sme.Training(READOUT, optimizer, 0.1, **options))

    def step(state, draw, lr):
        return state - lr * READOUT.gradient(state, draw)

    with pytest.raises(sme.SmesolveError, match="got a step of its own"):
        optimizer_rules(sme.Training(READOUT, step, 0.1))
    with pytest.raises(sme.SmesolveError, match="problem must not depend on time"):
        scaling_rule_study(sme.ScheduledProblem(READOUT), READOUT.initial(), [0.1], [2], 0.2)
    training = sme.Training(READOUT, torch.optim.Adam, 0.1, betas=(0.5, 0.9))
    with pytest.raises(sme.SmesolveError, match=r"kappa=4 makes 1 - beta_1 = 2 by the square root rule"):
        optimizer_rules(training)[0].applied(training, training.initial(), 0.1, 4)


def test_changes_of_the_mean_are_those_of_exact_moments():
    theta0, lr, horizon = READOUT.initial(seed=1), 0.1, 0.8
    study = scaling_rule_study(READOUT, theta0, [lr], [2, 4], horizon, effort=SamplingEffort(paths=4096))
    start = float(READOUT.loss(theta0))

    def mean(kappa):
        averaged = AveragedProblem(READOUT, kappa)
        return LinearMoments(averaged, theta0).iteration(kappa * lr, round(horizon / (kappa * lr)))

    for row in study.table.itertuples():
        exact = (mean(row.kappa) - mean(1)) / abs(mean(1) - start)
        half = row.relative - row.relative_low
        assert abs(row.relative - exact) < 2 * half and 0 < half < 0.05
        assert row.scaled_lr == pytest.approx(row.kappa * lr)
    scale = study.noises.noise_scale.item()
    assert scale == pytest.approx(
        float(READOUT.covariance(theta0).trace() / READOUT.mean_gradient(theta0).square().sum())
    )
    assert study.reach().noise_scale.item() == scale and "linear rule" in study.summary()
