"""Training by torch's optimisers: the step agrees with torch, and its expansion with the formulas."""

import math
import pickle

import pytest
import torch
from problems import make_problem
from steps_of_torch import OPTIONS, fifty_steps

import smesolve as sme


@pytest.fixture(scope="module")
def problem():
    return make_problem(width=4)


@pytest.mark.parametrize(("optimizer", "options"), OPTIONS)
def test_fifty_steps_are_those_of_torch(problem, optimizer, options, monkeypatch):
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # torch keeps a product of NAdam in it
    training = sme.Training(problem, optimizer, lr=0.05, **options)
    state, kept = fifty_steps(problem, training, optimizer, options)
    buffer = kept.get("momentum_buffer")
    if buffer is not None:  # it is the last one
        start = training.dim - 12 - bool(options.get("dampening"))
        assert torch.allclose(state[start : start + 12], buffer, rtol=1e-11, atol=1e-13)


def test_what_is_observed_is_a_function_of_the_parameters(problem):
    training = sme.Training(problem, torch.optim.Adam, lr=0.1)
    state = training.warm(training.initial(seed=1), 3)
    parameters = training.parameters(state)
    assert parameters.shape == (12,) and state.shape == (training.dim,) == (38,)
    assert training.loss(state) == problem.loss(parameters)

    def largest(theta):
        assert theta.shape[-1] == 12
        return torch.logsumexp(theta, -1)

    table = sme.iterate(
        training, state, 0.1, 2, 4, observables=["loss", "squared_norm", "theta[11]", largest], save=[0]
    ).set_index("observable")
    expected = [problem.loss(parameters), parameters.square().sum(), parameters[11], largest(parameters)]
    assert table["mean"].tolist() == pytest.approx([float(value) for value in expected], rel=1e-14)
    with pytest.raises(sme.SmesolveError, match="outside the 12 parameters"):
        sme.iterate(training, state, 0.1, 2, 4, observables=["theta[12]"])


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.NAdam, torch.optim.RMSprop])
def test_a_cold_start_is_trained_and_no_study_of_the_equation_begins_there(problem, optimizer):
    training = sme.Training(problem, optimizer, lr=0.1)
    cold = training.initial(seed=1)
    assert sme.iterate(training, cold, 0.1, 3, 2).isfinite().all()
    sde = sme.ModifiedEquation(training, 0.1, 1)
    for study in (
        lambda start: sme.weak_error(training, start, [0.1], 0.2, estimator="defects"),
        lambda start: sme.validity_range(training, start, 0.2),
        lambda start: sme.solve(sde, start, [0.0, 0.1], "svag", dt=0.05, paths=2),
    ):
        with pytest.raises(sme.SmesolveError, match=r"theta0 is a cold start .* begin at training\.warm"):
            study(cold)
    warm = training.warm(cold, steps=50)
    assert sme.solve(sde, warm, [0.0, 0.1], "svag", dt=0.05, paths=2).isfinite().all()


def test_dead_units_stay_where_they_are_on_both_sides(problem):
    theta = problem.initial(seed=1)
    theta[:8], theta[8:] = 0.0, 0.0  # neither layer of the network has a gradient
    training = sme.Training(problem, torch.optim.Adam, lr=0.1)
    state = training.warm(training.start(theta), 4)
    assert not state[:36].any()
    sde = sme.ModifiedEquation(training, 0.1, 2)
    assert torch.equal(
        sme.solve(sde, state, [0.0, 0.1], "svag", dt=0.05, paths=2)[-1, :, :36], torch.zeros(2, 36).double()
    )


def test_a_warm_start_is_that_of_the_discrete_run_with_draws_of_its_own(problem):
    training = sme.Training(problem, torch.optim.RMSprop, lr=0.1)
    cold = training.initial(seed=1)
    assert torch.equal(training.warm(cold, 4, seed=1), training.warm(cold, 4, seed=1))
    assert not torch.equal(training.warm(cold, 4, seed=1), training.warm(cold, 4, seed=2))
    assert torch.equal(training.warm(cold, 0), cold)
    first = sme.iterate(training, cold, 0.1, 4, 2, seed=1)[-1]
    assert not any(torch.equal(path, training.warm(cold, 4, seed=1)) for path in first)


def test_a_step_of_ones_own(problem):
    """Sign-like descent with memory: tanh of the mean of gradients."""

    def step(state, draw, lr):
        theta, m = state.split(12, -1)
        m = m + 2 * lr * (problem.gradient(theta, draw) - m)
        return torch.cat([(theta - lr * torch.tanh(5 * m)).expand(m.shape), m], -1)

    training = sme.Training(problem, step, lr=0.1, memory=torch.zeros(12, dtype=torch.float64))
    state = training.warm(training.initial(seed=1), 2)
    draw = problem.sample(3, seed=1)
    first, second = training.step_terms(state.expand(3, -1), draw, 2)
    g, m = problem.gradient(state[:12], draw), state[12:]
    field = 2 * (g - m)
    assert torch.allclose(first, torch.cat([-torch.tanh(5 * m).expand(3, -1), field], -1), rtol=1e-12)
    expected = torch.cat([-5 * field / torch.cosh(5 * m) ** 2, torch.zeros_like(field)], -1)
    assert torch.allclose(second, expected, rtol=1e-12)
    assert torch.allclose(training.gradient(state, draw), -first, rtol=1e-14)
    for wrong in (lambda s, d, lr: s + 1, lambda s, d, lr: s[..., :3], lambda s, d, lr: 1 / 0):
        with pytest.raises(sme.SmesolveError, match="step must"):
            sme.Training(problem, wrong, lr=0.1)


def test_options_that_a_training_does_not_take(problem):
    for options, words in (
        ({"betas": (0.9, 1.0)}, "Adam of torch refuses betas"),
        ({"betas": (0.9,)}, "betas must hold 2 values"),
        ({"betas": 0.9}, "betas must be a sequence"),
        ({"eps": math.nan}, "eps must"),
        ({"eps": True}, "eps must"),
        ({"maximize": 1}, "maximize must be True or False"),
        ({"foreach": "yes"}, "foreach must be True or False"),
        ({"amsgrad": True}, "amsgrad takes the largest"),
        ({"memory": torch.zeros(1)}, "memory is for a step of your own"),
    ):
        with pytest.raises(sme.SmesolveError, match=words):
            sme.Training(problem, torch.optim.Adam, 0.1, **options)
    with pytest.raises(TypeError, match="SGD has no option momentun; did you mean 'momentum'"):
        sme.Training(problem, torch.optim.SGD, 0.1, momentun=0.9)
    with pytest.raises(sme.SmesolveError, match="optimizer must be one of SGD, Adam"):
        sme.Training(problem, torch.optim.Adagrad, 0.1)
    training = sme.Training(problem, torch.optim.Adam, 0.1, betas=(0.5, 0.9))
    for lr, words in ((0.3, r"lr=0\.3 is above 0\.2"), (1, r"lr=1 is above 0\.2")):
        with pytest.raises(sme.SmesolveError, match=words):
            sme.iterate(training, training.initial(), lr, 2, 2)
    with pytest.raises(sme.SmesolveError, match="problem must have gradients, neither a schedule nor"):
        sme.Training(training, torch.optim.SGD, 0.1)
    shuffled = sme.ShuffledEpochs(problem.network, problem.x, problem.y, batch_size=1)
    with pytest.raises(sme.SmesolveError, match=r"nor a step of its own .* got ShuffledEpochs"):
        sme.Training(shuffled, torch.optim.Adam, 0.1)
    with pytest.raises(sme.SmesolveError, match="changes gradients, not steps"):
        sme.AveragedProblem(training, 2)
    same = pickle.loads(pickle.dumps(training))
    state, draw = training.warm(training.initial(), 1), problem.sample(2, 0)
    assert torch.equal(same.step(state, draw, 0.1), training.step(state, draw, 0.1))


def test_no_factor_of_nadam_is_negative(problem):
    beta, decay = 0.9, 0.96**50.0
    for momentum_decay, factor in ((0.0, 1 - beta / 2), (50.0, 1 - decay)):
        training = sme.Training(problem, torch.optim.NAdam, 0.01, betas=(beta, 0.99), momentum_decay=momentum_decay)
        assert training.largest_lr == pytest.approx(0.01 / factor)


def test_a_cold_start_without_noise_counts_all_parameters():
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)
    quiet = sme.ModuleProblem(torch.nn.Linear(2, 1).double(), x, x[:, :1], loss="squared_error")
    training = sme.Training(quiet, torch.optim.Adam, lr=0.01)
    with pytest.raises(sme.SmesolveError, match="in 3 of 3 parameters"):
        training.check_start("theta0", training.initial(seed=0))
