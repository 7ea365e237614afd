"""Steps of a training beside those of torch.optim itself, with the same draws."""

import torch

OPTIONS = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"weight_decay": 0.1, "maximize": True}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.9}),
    (torch.optim.SGD, {"momentum": 0.7, "dampening": 0.3, "weight_decay": 0.2}),
    (torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    (torch.optim.Adam, {"maximize": True, "betas": (0.0, 0.99)}),
    (torch.optim.AdamW, {}),
    (torch.optim.AdamW, {"weight_decay": 0.5, "betas": (0.8, 0.95)}),
    (torch.optim.NAdam, {}),
    (torch.optim.NAdam, {"momentum_decay": 0.1, "weight_decay": 0.2}),
    (torch.optim.NAdam, {"betas": (0.7, 0.9), "weight_decay": 0.2, "decoupled_weight_decay": True}),
    (torch.optim.RMSprop, {}),
    (torch.optim.RMSprop, {"alpha": 0.8, "eps": 1e-4, "weight_decay": 0.1}),
    (torch.optim.RMSprop, {"centered": True, "alpha": 0.9, "maximize": True}),
    (torch.optim.RMSprop, {"momentum": 0.9}),
    (torch.optim.RMSprop, {"momentum": 0.5, "centered": True, "alpha": 0.9, "weight_decay": 0.1}),
]
"""Optimisers and options whose steps are compared."""


def fifty_steps(problem, training, optimizer, options, factor=None):
    """Compare 50 steps of a training at lr = 0.05, under a schedule with torch's LambdaLR, and return both ends."""
    state = training.initial(seed=3)
    parameter = torch.nn.Parameter(problem.initial(seed=3).clone())
    other = optimizer([parameter], lr=0.05, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(other, factor or (lambda k: 1.0))
    for k in range(50):
        draw = problem.sample(1, seed=5, step=k)[0]
        parameter.grad = problem.gradient(parameter.detach(), draw)
        other.step()
        scheduler.step()
        state = training.at(k * 0.05).step(state, draw, 0.05)
        assert torch.allclose(training.parameters(state), parameter.detach(), rtol=1e-12, atol=1e-12)
    assert float((parameter.detach() - problem.initial(seed=3)).abs().max()) > 0.01
    return state, other.state[parameter]
