"""Adam on all runs at once is torch's Adam on each of them, with the gradients of the module's own losses."""

import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.errors import SmesolveError
from smesolve.landscape import ADAM_TRAININGS, first_penalty, train_by_adam
from smesolve.sampling.randomness import keyed_uniforms


@pytest.mark.parametrize("training", ADAM_TRAININGS)
def test_each_run_is_that_of_torch(training):
    problem = make_problem(width=3, bias=True)
    starts = torch.stack([problem.initial(seed=k) for k in range(2)])
    states = train_by_adam(problem, starts, 0.05, [0, 7], training, seed=3)
    assert torch.equal(states[0], starts)
    for run, start in enumerate(starts):
        network = sme.TwoLayerNetwork(2, 3, 1, "tanh", bias=True)
        torch.nn.utils.vector_to_parameters(start, network.parameters())
        optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
        for step in range(7):
            masks = problem.draw(keyed_uniforms((2, problem.draw_dim), 3, 0, step))
            mask = masks[run] if training == "dropout" else torch.ones(3, dtype=torch.float64)
            optimiser.zero_grad()
            hidden = torch.tanh(network.hidden(problem.x)) * mask
            ((network.readout(hidden) - problem.y).square().sum() / 2 / problem.samples).backward()
            if training == "R_S + R_1":
                vector = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
                extra = torch.func.grad(lambda point: first_penalty(problem, point))(vector)
                sizes = [parameter.numel() for parameter in network.parameters()]
                for parameter, part in zip(network.parameters(), extra.split(sizes), strict=True):
                    parameter.grad += part.view_as(parameter)
            optimiser.step()
        end = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
        assert torch.allclose(states[1, run], end, rtol=1e-10, atol=1e-12)


def test_an_unknown_training_is_refused():
    problem = make_problem()
    with pytest.raises(SmesolveError, match="training must be one of"):
        train_by_adam(problem, problem.initial(seed=0)[None], 0.1, [1], "noise only")
