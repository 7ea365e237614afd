"""What a problem of your own must define, and a trial of its definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.step_expansion import check_step
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import check_integer

if TYPE_CHECKING:
    from smesolve.problem.problem import Problem

__all__ = ["check_definition"]

REQUIRED = {
    "dim": "dim (D, the number of parameters)",
    "draw_dim": "draw_dim (the number of uniforms in a draw)",
    "draw": "draw(uniforms)",
    "loss": "loss(theta)",
    "gradient": "gradient(theta, draw)",
}
"""What a problem must define."""

REQUIRED_CLOSED_FORM = {
    "noise_dim": "noise_dim (M, the number of normals in a noise product)",
    "mean_gradient": "mean_gradient(theta)",
    "noise_product": "noise_product(theta, normals)",
}
"""What a problem must also define, unless it sets has_closed_form = False."""


def check_definition(problem: Problem) -> None:
    """Check that the problem defines everything that it must, with the right shapes. Cost: a few calls on 3 paths.

    Raises:
        SmesolveError: an attribute is missing (the message lists all of them), fails, or has another shape or dtype.
    """
    required = REQUIRED | (REQUIRED_CLOSED_FORM if problem.has_closed_form else {})
    missing = [words for name, words in required.items() if not problem.defines(name)]
    if missing:
        sampled = " (the last ones not with has_closed_form = False)" if problem.has_closed_form else ""
        raise SmesolveError(
            f"{type(problem).__name__} must define {', '.join(missing)}{sampled}; see help(smesolve.Problem)."
        )
    paths, dim = 3, check_integer("dim", problem.dim)
    theta = torch.zeros(paths, dim, dtype=problem.dtype, device=problem.device)
    uniforms = keyed_uniforms((paths, check_integer("draw_dim", problem.draw_dim, least=0)), 0, 0, 0)
    draw = call_of_user(f"{type(problem).__name__}.draw", problem.draw, uniforms)
    calls: list[tuple[str, tuple[Any, ...], tuple[int, ...]]] = [
        ("loss", (theta,), (paths,)),
        ("gradient", (theta, draw), (paths, dim)),
    ]
    if problem.has_closed_form:
        noise_dim = check_integer("noise_dim", problem.noise_dim, least=0)
        calls.append(("mean_gradient", (theta,), (paths, dim)))
        calls.append(("noise_product", (theta, theta.new_ones(paths, noise_dim)), (paths, dim)))
    for name, given, shape in calls:
        found = call_of_user(f"{type(problem).__name__}.{name}", getattr(problem, name), *given)
        if not isinstance(found, Tensor) or tuple(found.shape) != shape or found.dtype != problem.dtype:
            raise SmesolveError(
                f"{type(problem).__name__}.{name} must return a {problem.dtype} tensor of shape {shape} for {paths} "
                f"theta of {dim} parameters, got {shown(found)}; all methods take any leading dimensions."
            )
    if problem.defines("step"):
        name = f"{type(problem).__name__}.step"
        check_step(
            name, problem.linear_step, lambda lr: problem.step(theta, draw, lr), theta, -problem.gradient(theta, draw)
        )
