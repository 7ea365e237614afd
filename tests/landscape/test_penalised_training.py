"""Each training takes the step of its penalised loss, computed by differentiating the loss as it is written down."""

import pytest
import torch
from problems import make_problem, plain_gradient

from smesolve.errors import SmesolveError
from smesolve.landscape import (
    PENALISED_FLOWS,
    PENALISED_TRAININGS,
    PenalisedIteration,
    first_penalty,
    flow,
    second_penalty,
    train_by_flow,
)
from smesolve.sampling.randomness import keyed_uniforms

LR = 0.1


@pytest.fixture
def problem():
    return make_problem(width=3, out_features=2, keep_prob=0.7)


def expected_step(problem, training, theta, mask):
    def gradient(point):
        return plain_gradient(problem, point, mask)

    whole = plain_gradient(problem, theta, torch.ones_like(mask))
    r1 = torch.func.grad(lambda point: first_penalty(problem, point))(theta)
    r2 = torch.func.grad(lambda point: LR / 4 * gradient(point).square().sum())(theta)  # for this mask
    direction = {
        "R_S": whole,
        "R_S + R_1": whole + r1,
        "R_S + R_2": whole + r2,
        "dropout": gradient(theta),
        "dropout - R_1": gradient(theta) - r1,
        "dropout - R_2": gradient(theta) - r2,
    }[training]
    return theta - LR * direction


@pytest.mark.parametrize("training", PENALISED_TRAININGS)
def test_a_step_descends_on_the_penalised_loss(problem, training):
    starts = torch.stack([problem.initial(seed=k) for k in range(2)])
    process = PenalisedIteration(problem, LR, seed=5, training=training, runs=2)
    masks = problem.draw(keyed_uniforms((2, problem.draw_dim), 5, 0, 3))
    for start, mask, end in zip(starts, masks, process.advance(starts, 0, 3), strict=True):
        assert torch.allclose(end, expected_step(problem, training, start, mask), rtol=1e-12, atol=1e-14)


def test_the_mean_of_the_second_penalty_over_all_masks_is_its_gradient(problem):
    theta = problem.initial(seed=2)
    masks, weights = problem.all_draws()
    steps = torch.stack([expected_step(problem, "R_S + R_2", theta, mask) for mask in masks])
    penalised = torch.func.grad(lambda point: problem.loss(point) + second_penalty(problem, point, LR))(theta)
    assert torch.allclose(weights @ steps, theta - LR * penalised, rtol=1e-12, atol=1e-14)


def test_an_unknown_training_is_refused(problem):
    with pytest.raises(SmesolveError, match="training must be one of 'R_S', 'R_S \\+ R_1'"):
        PenalisedIteration(problem, LR, training="R_1")


@pytest.mark.parametrize("training", PENALISED_FLOWS)
def test_flows_are_those_of_a_solver_of_order_8(problem, training):
    starts = torch.stack([problem.initial(seed=k) for k in range(2)])
    ends = train_by_flow(problem, starts, training, 10.0, tolerance=1e-5)
    for start, end in zip(starts, ends, strict=True):
        exact = flow(problem, start, training, LR, 10.0)
        assert torch.allclose(end, exact, rtol=1e-3, atol=1e-3)
        assert (end - start).norm() > 0.1


def test_a_flow_is_the_limit_of_descents(problem):
    starts = problem.initial(seed=0)[None]
    end = train_by_flow(problem, starts, "flow of R_S + R_1", 2.0, tolerance=1e-7)
    errors = []
    for lr in (0.02, 0.01):
        process = PenalisedIteration(problem, lr, seed=0, training="R_S + R_1")
        theta = starts
        for step in range(round(2.0 / lr)):
            theta = process.advance(theta, 0, step)
        errors.append(float((theta - end).norm()))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": "dropout"}, "training must be one of 'flow of R_S', 'flow of R_S \\+ R_1'"),
        ({"horizon": 0.0}, "horizon must be"),
        ({"tolerance": -1.0}, "tolerance must lie in"),
    ],
)
def test_bad_flows_are_refused(problem, changes, message):
    arguments = {"training": "flow of R_S", "horizon": 1.0} | changes
    with pytest.raises(SmesolveError, match=message):
        train_by_flow(problem, problem.initial(seed=0)[None], **arguments)
