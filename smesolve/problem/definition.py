"""What a problem of your own must define, and a trial of its definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, call_of_user, invalid, shown
from smesolve.problem.function_trial import called, check_derivative, check_rows
from smesolve.problem.step_expansion import check_step
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import check_integer

if TYPE_CHECKING:
    from smesolve.problem.problem import Problem

__all__ = ["check_definition", "check_derivatives"]

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
    paths, dim = 3, _size("dim", problem.dim, 1)
    theta = torch.zeros(paths, dim, dtype=problem.dtype, device=problem.device)
    uniforms = keyed_uniforms((paths, _size("draw_dim", problem.draw_dim)), 0, 0, 0)
    draw = call_of_user(f"{type(problem).__name__}.draw", problem.draw, uniforms)
    calls: list[tuple[str, tuple[Any, ...], tuple[int, ...]]] = [
        ("loss", (theta,), (paths,)),
        ("gradient", (theta, draw), (paths, dim)),
    ]
    if problem.has_closed_form:
        noise_dim = _size("noise_dim", problem.noise_dim)
        calls.append(("mean_gradient", (theta,), (paths, dim)))
        calls.append(("noise_product", (theta, theta.new_ones(paths, noise_dim)), (paths, dim)))
    for name, given, shape in calls:
        found = call_of_user(f"{type(problem).__name__}.{name}", getattr(problem, name), *given)
        if not isinstance(found, Tensor) or tuple(found.shape) != shape or found.dtype != problem.dtype:
            raise SmesolveError(
                f"{type(problem).__name__}.{name} must return a {problem.dtype} tensor of shape {shape} for {paths} "
                f"theta of {dim} parameters, got {shown(found)}; all methods take any leading dimensions."
            )
    if "_rows_tried" not in vars(problem):  # once: it takes a dozen calls
        _check_rows(problem, [name for name, _, _ in calls], uniforms)
        vars(problem)["_rows_tried"] = True
    if problem.defines("step"):
        name = f"{type(problem).__name__}.step"
        check_step(
            name, problem.linear_step, lambda lr: problem.step(theta, draw, lr), theta, -problem.gradient(theta, draw)
        )


def _size(name: str, value: Any, least: int = 0) -> int:
    """Return a size after checking that it is a Python integer, which torch needs."""
    size = check_integer(name, value, least)
    if not isinstance(value, int):
        raise invalid(name, "be an integer of Python", value, f"write int({name})")
    return size


def _check_rows(problem: Problem, names: list[str], uniforms: Tensor) -> None:
    """Check that the named methods treat each path by itself, draw no random numbers, and leave theta unchanged."""
    paths = len(uniforms)
    theta = _numbers(paths * problem.dim, problem).view(paths, problem.dim)
    normals = _numbers(paths * problem.noise_dim, problem).view(paths, problem.noise_dim)
    others: dict[str, Callable[[Tensor], tuple[Any, ...]]] = {
        "gradient": lambda rows: (problem.draw(uniforms[rows]),),
        "noise_product": lambda rows: (normals[rows],),
    }
    for name in names:
        method, rest = getattr(problem, name), others.get(name, lambda rows: ())
        what = f"{type(problem).__name__}.{name}"

        def values(rows: Tensor, what: str = what, method: Any = method, rest: Any = rest) -> Tensor:
            return called(what, lambda at: method(at, *rest(rows)), theta[rows])

        call_of_user(what, check_rows, what, values, torch.arange(paths, device="cpu"))


def check_derivatives(problem: Problem, theta: Tensor, draws: bool = False) -> None:
    """Check the derivatives of a gradient near theta (D,), which equations of order 2 and stability limits use.

    A gradient that the user wrote may cut off its derivative. With `draws`, the gradient of one draw is checked, too,
    for problems without a closed form, whose equations use its derivative. Cost: five gradients each.

    Raises:
        SmesolveError: the derivatives disagree with the values of the gradient, or cannot be computed.
    """
    name = type(problem).__name__
    numbers, small = _numbers(len(theta), problem), 1e-3 * (1 + theta.abs().max())
    direction = torch.where(theta == 0, small * numbers.abs(), theta * numbers)
    theta = theta + 0.01 * direction  # beside kinks at a start such as 0, and where positive numbers stay positive
    product = problem.hessian_product if problem.conservative else None
    what = f"{name}.{'mean_gradient' if problem.has_closed_form else 'gradient'}"
    along = None if product is None else call_of_user(f"the derivative of {what}", product, theta, direction)
    check_derivative(what, problem.reference_gradient, theta, direction, along)
    if draws:
        draw = problem.sample(1, seed=0)
        check_derivative(f"{name}.gradient", lambda at: problem.gradient(at, draw), theta[None], direction[None])


def _numbers(count: int, problem: Problem) -> Tensor:
    """Return different numbers of size 1 without simple relations between them: (count,)."""
    return torch.sin(torch.arange(1.0, count + 1, dtype=torch.float64, device="cpu")).to(problem.device, problem.dtype)
