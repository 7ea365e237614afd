"""Observables g(theta), whose expectations are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.problem import Problem
from smesolve.validation import MOST_ENTRIES, check_observables, check_problem

__all__ = ["OBSERVABLES", "Observable", "grows_polynomially", "named_observables"]

Observable = Callable[[Tensor], Tensor]
"""A map of theta (..., D) to (...,), differentiable by `torch.func`; smooth, as the theorem of weak order asks."""

OBSERVABLES: dict[str, Callable[[Problem], Observable]] = {
    "loss": lambda problem: problem.loss,
    "modified_loss": lambda problem: problem.modified_loss,
    "squared_norm": lambda problem: lambda theta: theta.square().sum(-1),
}
"""Observables by name, made for a problem. Add to it to name your own."""

MAX_DEGREE = 16
"""Growth like a higher power of theta counts as faster than any polynomial."""

RAYS = 8
"""Rays along which the growth of an observable is evaluated."""


@entry_point
def named_observables(problem: Problem, observables: Sequence[str | Observable]) -> dict[str, Observable]:
    """Return observables by name, of names in `OBSERVABLES`, coordinates "theta[3]", and callables (their `__name__`).

    They are functions of the parameters, and take an optimiser's state where the problem has one.

    Raises:
        SmesolveError: an unknown name, a coordinate outside the parameters, a callable that does not map (B, D) to (B,)
            or that torch cannot differentiate.
    """
    problem, observables = check_problem("problem", problem), check_observables("observables", observables)
    if len(observables) > MOST_ENTRIES:
        raise SmesolveError(
            f"observables has {len(observables)} entries, more than {MOST_ENTRIES}; give fewer, or a callable that "
            "computes what you want of many."
        )
    result: dict[str, Observable] = {}
    for observable in observables:
        name, function = _resolve(problem.trained, observable)
        if name in result:
            raise SmesolveError(f"observables holds {name!r} twice; leave one out, or rename the callable.")
        result[name] = function if problem.trained is problem else _of_parameters(problem, function)
    return result


def _of_parameters(problem: Problem, observable: Observable) -> Observable:
    """Return an observable of the parameters in an optimiser's state as a function of that state."""
    return lambda state: observable(problem.parameters(state))


def _resolve(problem: Problem, observable: str | Observable) -> tuple[str, Observable]:
    if callable(observable):
        name = getattr(observable, "__name__", repr(observable))
        points = torch.zeros(3, problem.dim, dtype=problem.dtype, device=problem.device)
        trial = call_of_user(f"observable {name!r}", observable, points)
        if not isinstance(trial, Tensor) or trial.shape != (3,):
            raise SmesolveError(
                f"observable {name!r} must map theta (..., D) to (...,), but it maps (3, {problem.dim}) to "
                f"{tuple(trial.shape) if isinstance(trial, Tensor) else shown(trial)}."
            )
        if trial.dtype != problem.dtype:
            raise SmesolveError(
                f"observable {name!r} must return numbers of the problem's {problem.dtype}, but returns "
                f"{trial.dtype}; convert them, for example by .to({problem.dtype}), or take the real part."
            )
        call_of_user(f"observable {name!r}, whose derivative torch takes,", torch.func.grad(observable), points[0])
        elsewhere = torch.linspace(-1.3, 2.1, points.numel()).to(points).view(3, -1)
        if not torch.equal(*(observable(elsewhere).nan_to_num(nan=1e30) for _ in range(2))):
            raise SmesolveError(
                f"observable {name!r} must be a function of theta, but it returns other values when it is called "
                "again; let it draw no random numbers (a module in training mode does: call its eval())."
            )
        return name, observable
    coordinate = re.fullmatch(r"theta\[(\d+)\]", observable)
    if coordinate:
        index = int(coordinate[1])
        if index >= problem.dim:
            raise SmesolveError(f"observable {observable!r} lies outside the {problem.dim} parameters.")
        return observable, lambda theta: theta[..., index]
    if observable not in OBSERVABLES:
        raise SmesolveError(
            f"observable must be one of {', '.join(OBSERVABLES)}, a coordinate such as 'theta[0]', or a callable, "
            f"got {observable!r}."
        )
    return observable, OBSERVABLES[observable](problem)


def grows_polynomially(observable: Observable, theta0: Tensor) -> bool:
    """Return whether |g| grows at most like a power of |theta|, as far as a few rays from the origin show.

    The theorem of weak order asks for it, and not only for its proof: where the noise grows with theta, the solution of
    the modified equation has the tails of a lognormal law, and E exp(|theta|) is infinite.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    rays = torch.randn(RAYS, theta0.numel(), generator=generator, dtype=torch.float64, device="cpu")
    rays = (rays / rays.norm(dim=1, keepdim=True)).to(theta0)
    # Powers up to 24 of the far distance are finite in this type.
    far = max(1.0, float(theta0.norm())) * torch.finfo(theta0.dtype).max ** (1 / 24)
    near = far**0.5
    sizes = [observable(distance * rays).abs().double() for distance in (near, far)]
    known = ~(sizes[0].isnan() | sizes[1].isnan())
    growth = (sizes[1].clamp(min=1.0).log() - sizes[0].clamp(min=1.0).log()) / np.log(far / near)
    return not bool(((growth > MAX_DEGREE) | growth.isnan())[known].any())
