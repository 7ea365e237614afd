"""Schedules of the learning rate of sampled problems and of torch's optimisers, against torch and exact moments."""

import math

import pytest
import torch
from problems import linear_problem, make_problem
from steps_of_torch import OPTIONS, fifty_steps
from torch import nn

import smesolve as sme
from smesolve.comparison.exact import ScheduledMoments, enumerated_expectation
from smesolve.problem.schedule import Piecewise, cosine, step, warm_up

SCHEDULES = [cosine(2.0, 0.1), warm_up(1.0, 0.2), step(1.0, 0.3)]


def module_problem(**options):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layers = nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 2)
    module = nn.Sequential(*layers).double()
    return sme.ModuleProblem(module, x, torch.tensor([0, 1, 1, 0, 1, 0]), loss="cross_entropy", **options)


@pytest.fixture(scope="module")
def problem():
    return make_problem(width=4)


@pytest.mark.parametrize(("optimizer", "options"), OPTIONS)
def test_fifty_steps_are_those_of_torch_with_its_scheduler(problem, optimizer, options, monkeypatch):
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # torch keeps a product of NAdam in it
    schedule = SCHEDULES[len(options) % 3]
    training = sme.ScheduledProblem(sme.Training(problem, optimizer, lr=0.05, **options), schedule)

    def factor(k):
        piece = schedule.piece(k * 0.05) if isinstance(schedule, Piecewise) else schedule
        return float(piece(torch.tensor(k * 0.05, dtype=torch.float64)))

    fifty_steps(problem, training, optimizer, options, factor)


def test_a_module_trains_as_with_every_learning_rate_by_hand():
    problem = module_problem(batch_size=3)
    scheduled, theta, lr = sme.ScheduledProblem(problem, step(0.3, 0.5)), problem.initial(0), 0.1
    paths = sme.iterate(scheduled, theta, lr, 5, 4, seed=2)
    for k in range(5):
        draw = problem.draw(sme.sampling.randomness.keyed_uniforms((problem.block_size, problem.draw_dim), 2, 0, k))
        draw = {name: part[:4] for name, part in draw.items()}
        expected = problem.step(paths[k], draw, lr * (1.0 if k < 3 else 0.5))
        assert torch.allclose(paths[k + 1], expected, rtol=1e-14)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}])
def test_the_slope_of_the_drift_and_the_continued_problem_are_those_of_differences(problem, options):
    schedule = lambda t: 1 + t**2 / 2  # noqa: E731
    training = sme.Training(problem, torch.optim.SGD, lr=0.1, **options)
    scheduled = sme.ScheduledProblem(training, schedule)
    theta, h, t = training.initial(1)[None] + 0.1, 1e-5, 0.4
    difference = (scheduled.at(t + h).mean_gradient(theta) - scheduled.at(t - h).mean_gradient(theta)) / (2 * h)
    assert torch.allclose(scheduled.drift_slope(t, theta), -difference, rtol=1e-8, atol=1e-9)
    ahead = scheduled.continued(t, False, 0.3)
    assert torch.allclose(ahead.mean_gradient(theta), scheduled.at(0.7).mean_gradient(theta), rtol=1e-12)
    assert torch.allclose(ahead.mean_second_term(theta), scheduled.at(0.7).mean_second_term(theta), rtol=1e-12)


def test_dropout_is_continued_beyond_keep_prob_one(problem):
    scheduled = sme.ScheduledProblem(problem, lambda t: 1 - t, lambda t: 1 / (1 + t))  # v = t
    theta = problem.initial(1)[None]
    at = {t: problem.with_keep_prob(1 / (1 + t)).mean_gradient(theta) for t in (0.0, 0.3, 0.6)}
    for t in (0.3, 0.6):
        found = scheduled.continued(0.0, False, t)
        assert torch.allclose(found.mean_gradient(theta), (1 - t) * at[t], rtol=1e-12)
        beyond = scheduled.continued(0.0, False, -t).mean_gradient(theta)
        assert torch.allclose(beyond, (1 + t) * (2 * at[0.0] - at[t]), rtol=1e-12)
    normals = torch.randn(1, problem.noise_dim, dtype=torch.float64)
    expected = 0.7 * problem.with_keep_prob(1 / 1.3).noise_product(theta, normals)
    assert torch.allclose(scheduled.continued(0.0, False, 0.3).noise_product(theta, normals), expected, rtol=1e-12)
    assert not scheduled.continued(0.0, False, -0.3).noise_product(theta, normals).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "options"),
    [(cosine(1.0, 0.1), {"momentum": 0.9}), (step(0.5, 0.3), {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1})],
)
def test_exact_moments_of_momentum_have_slopes_one_and_two_under_a_schedule(schedule, options):
    start = torch.tensor([2.0, -1.5], dtype=torch.float64)
    training = sme.Training(linear_problem(keep_prob=0.8), torch.optim.SGD, lr=0.25, **options)
    state = training.start(start)
    scheduled = sme.ScheduledProblem(training, schedule)
    moments = ScheduledMoments(scheduled, state, 1e-7)
    assert moments.iteration(0.25, 5) == pytest.approx(enumerated_expectation(scheduled, state, 0.25, 5, "loss"), 1e-12)
    for order in (1, 2):
        errors = [moments.error(lr, order, 2.0) for lr in (2.0**-7, 2.0**-8)]
        assert math.log2(abs(errors[0] / errors[1])) == pytest.approx(order, abs=0.2)


def test_shuffled_epochs_follow_a_schedule_with_all_their_batches():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    epochs = sme.ShuffledEpochs(nn.Linear(2, 1).double(), x, x[:, :1], batch_size=2)
    scheduled, theta = sme.ScheduledProblem(epochs, cosine(1.0, 0.2)), epochs.initial(0)
    paths = sme.iterate(scheduled, theta, 0.25, 4, 3)
    draw = epochs.draw(sme.sampling.randomness.keyed_uniforms((epochs.block_size, epochs.draw_dim), 0, 0, 2))
    factor = 0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2
    draw = {name: part[:3] for name, part in draw.items()}
    assert torch.allclose(paths[3], epochs.step(paths[2], draw, factor * 0.25), rtol=1e-13)
    at = scheduled.at(0.5)
    for power, (mine, theirs) in enumerate(
        zip(at.step_terms(paths[2], draw, 3), epochs.step_terms(paths[2], draw, 3), strict=True), start=1
    ):
        assert torch.allclose(mine, factor**power * theirs, rtol=1e-12)


@pytest.mark.slow
def test_stability_limits_are_those_of_the_largest_factor():
    problem = linear_problem()
    theta = torch.tensor([2.0, -1.5], dtype=torch.float64)
    training = sme.Training(problem, torch.optim.SGD, lr=0.1, momentum=0.8)
    state = training.start(theta)
    for schedule, worst in ((warm_up(0.5), 1.0), (step(0.5, 3.0), 3.0), (cosine(1.0), 1.0)):
        found = sme.ScheduledProblem(training, schedule).stability_limit(state, 1.0)
        assert found == pytest.approx(training.with_lr_factor(worst).stability_limit(state), rel=1e-9)
    assert training.with_lr_factor(3.0).stability_limit(state) < training.stability_limit(state)


def test_test_data_and_parameters_are_those_of_the_training(problem):
    x, y = problem.x[:2] + 1, problem.y[:2]
    for base in (problem, sme.Training(problem, torch.optim.Adam, lr=0.1)):
        scheduled = sme.ScheduledProblem(base, cosine(1.0)).with_test_data(x, y)
        state = scheduled.initial(2)
        table = sme.iterate(scheduled, state, 0.1, 2, 4, observables=["test_loss", "loss"], save=[0])
        expected = [problem.on_data(x, y).loss(problem.initial(2)), problem.loss(problem.initial(2))]
        assert table["mean"].tolist() == pytest.approx([float(value) for value in expected], rel=1e-12)
        assert torch.equal(scheduled.parameters(scheduled.theta_from(problem.to_module(state[:12]))), state[:12])


def test_what_no_schedule_can_multiply_is_refused(problem):
    def own(state, draw, lr):
        return state - lr * problem.gradient(state, draw)

    class Own(sme.DropoutProblem):
        linear_step = False

        def step(self, theta, draw, lr):
            return theta - torch.tanh(lr * self.gradient(theta, draw))

    cases = [
        (sme.Training(problem, own, lr=0.1), "step of your own"),
        (
            Own(problem.network, problem.x, problem.y, keep_prob=0.8),
            r"does not say what a schedule .* define with_lr_factor\(factor\)",
        ),
        (sme.ScheduledProblem(problem, torch.cos), "would lose the schedule"),
    ]
    for trained, words in cases:
        with pytest.raises(sme.SmesolveError, match=words):
            sme.ScheduledProblem(trained, cosine(1.0))
    sampled = module_problem()
    with pytest.raises(sme.SmesolveError, match="keep_prob can follow a schedule in a DropoutProblem"):
        sme.ScheduledProblem(sampled, keep_prob=lambda t: 0.8 - 0 * t)
    rough = sme.ScheduledProblem(problem, lambda t: torch.sqrt(t))
    with pytest.raises(sme.SmesolveError, match="lr_factor must have finite first and second derivatives, but at time"):
        rough.continued(0.0, False, 0.1)
