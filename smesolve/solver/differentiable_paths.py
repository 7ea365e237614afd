"""Paths that can be differentiated with respect to the start and the parameters of an equation.

The derivative of a path is taken with its random numbers held fixed, so that means over paths satisfy

    d/dp E phi(Theta_T) = E d/dp phi(Theta_T(p)),                                                                   (1)

for p = theta0, lr or keep_prob: drift and noise are smooth in p, and Brownian increments, or the draws of a gradient
scheme, do not depend on it. Reverse-mode differentiation keeps the intermediate results of every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smesolve.errors import SmesolveError
from smesolve.machine_memory import free_memory
from smesolve.problem.observables import Observables
from smesolve.sampling.ensemble import Chain, check_block_steps
from smesolve.solver.modified_equation import ModifiedEquation

__all__ = ["check_differentiable", "differentiable_paths"]


def check_differentiable(sde: Any, theta0: Tensor, workers: int | None, observables: Observables | None) -> None:
    """Refuse arguments of `solve` whose result has no derivative, or not with respect to all that require one."""
    if isinstance(sde, ModifiedEquation) and sde.order not in (1, 2):
        why = "resums by Lanczos' method" if sde.order == "quadratic" else "jumps at random times"
        raise SmesolveError(
            f"differentiable=True is for equations of order 1 and 2, but that of order={sde.order!r} {why}; take "
            "another order, or leave it out."
        )
    if observables is not None:
        raise SmesolveError(
            "differentiable=True returns paths, and the table of observables has no gradients; leave observables out "
            "and apply the functions to the paths, such as problem.loss(paths[-1]).mean()."
        )
    if workers not in (None, 1):
        raise SmesolveError(
            f"workers={workers} has no meaning beside differentiable=True, as no graph goes from one process to "
            "another; leave it out."
        )
    parameters = dict(sde.named_parameters()) if isinstance(sde, nn.Module) else {}
    scalars = {name: getattr(sde, name, None) for name in ("lr", "keep_prob")}
    for name, tensor in ({"theta0": theta0} | scalars | parameters).items():
        if isinstance(tensor, Tensor) and tensor.requires_grad and tensor.is_inference():
            raise SmesolveError(
                f"{name} requires a gradient, but it was made in torch.inference_mode(), whose tensors have none; make "
                "it, or a clone of it, outside."
            )


def differentiable_paths(
    process: Chain,
    theta0: Tensor,
    paths: int,
    saved: list[int],
    floats_per_step: float,
    max_memory: float | None = None,
) -> Tensor:
    """Return whole paths at the saved step numbers, (T, paths, D), with their graph.

    The paths equal those of `collect_paths` up to rounding: blocks are not run whole if fewer paths are wanted.

    Args:
        process: an SDE under a scheme.
        theta0: (D,), the start of every path.
        paths: number of paths.
        saved: strictly increasing step numbers, the first of which is the start.
        floats_per_step: floats that the graph keeps per step and path, approximately.
        max_memory: bytes that the graph may take. Default: the free memory of this machine.

    Raises:
        SmesolveError: the graph does not fit the memory, or no input requires a gradient.
    """
    size = floats_per_step * paths * (saved[-1] - saved[0]) * theta0.element_size()
    limit = free_memory() if max_memory is None else max_memory
    if size > limit:
        whose = f"the free memory of {limit:.3g}" if max_memory is None else f"max_memory={limit:g}"
        raise SmesolveError(
            f"{whose} bytes is less than the {size:.3g} bytes or so of the graph that differentiable=True keeps for "
            f"{paths} paths of {saved[-1] - saved[0]} steps; take fewer paths and add up the gradients of several "
            "seeds, or take fewer steps."
        )
    blocks = -(-paths // process.block_size)
    check_block_steps(
        f"{paths} paths of {saved[-1]} steps", blocks * (saved[-1] - saved[0]), None, "take fewer paths, or fewer steps"
    )
    parts = []
    for block in range(blocks):
        theta = theta0.expand(min(process.block_size, paths - block * process.block_size), -1)
        states = [theta]
        for step in range(saved[0], saved[-1]):
            theta = process.advance(theta, block, step)
            if not (theta.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(theta)):
                raise SmesolveError(
                    "differentiable=True, but nothing requires a gradient; set .requires_grad_() on theta0, or give "
                    "ModifiedEquation lr or keep_prob as a tensor that requires one, or leave differentiable out."
                )
            if step + 1 == saved[len(states)]:
                states.append(theta)
        parts.append(torch.stack(states))
    return torch.cat(parts, dim=1)
