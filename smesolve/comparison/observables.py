"""Observables g(theta), whose expectations are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from smesolve.arguments import checked, evaluated, shown
from smesolve.problem.problem import Problem

__all__ = ["OBSERVABLES", "Observable", "named_observables"]

Observable = Callable[[Tensor], Tensor]
"""theta (..., D) -> (...,), differentiable by `torch.func`; smooth, as the theorem of weak order asks."""

OBSERVABLES: dict[str, Callable[[Problem], Observable]] = {
    "loss": lambda problem: problem.loss,
    "modified_loss": lambda problem: problem.modified_loss,
    "squared_norm": lambda problem: lambda theta: theta.square().sum(-1),
}
"""Observables by name, made for a problem; add to it to name one of your own."""


@checked
def named_observables(problem: Problem, observables: Sequence[str | Observable]) -> dict[str, Observable]:
    """Observables by name, from names in `OBSERVABLES`, coordinates "theta[3]", and callables (their `__name__`).

    Raises:
        ValueError: an unknown name, a coordinate outside the parameters, a callable that does not map (B, D) to (B,)
            or that torch cannot differentiate.
    """
    result: dict[str, Observable] = {}
    for observable in observables:
        name, function = _resolve(problem, observable)
        if name in result:
            raise ValueError(f"observables holds {name!r} twice; leave one out, or give the callable another __name__.")
        result[name] = function
    return result


def _resolve(problem: Problem, observable: str | Observable) -> tuple[str, Observable]:
    if callable(observable):
        name = getattr(observable, "__name__", repr(observable))
        points = torch.zeros(3, problem.dim, dtype=problem.dtype, device=problem.device)
        trial = evaluated(f"observable {name!r}", observable, points)
        if not isinstance(trial, Tensor) or trial.shape != (3,) or trial.dtype != problem.dtype:
            raise ValueError(
                f"observable {name!r} must map theta (..., D) to (...,), but it maps (3, {problem.dim}) to "
                f"{tuple(trial.shape) if isinstance(trial, Tensor) and trial.shape != (3,) else shown(trial)}."
            )
        evaluated(f"observable {name!r}, whose derivative torch takes,", torch.func.grad(observable), points[0])
        return name, observable
    coordinate = re.fullmatch(r"theta\[(\d+)\]", observable)
    if coordinate:
        index = int(coordinate[1])
        if index >= problem.dim:
            raise ValueError(f"observable {observable!r} lies outside the {problem.dim} parameters.")
        return observable, lambda theta: theta[..., index]
    if observable not in OBSERVABLES:
        raise ValueError(
            f"observable must be one of {', '.join(OBSERVABLES)}, a coordinate such as 'theta[0]', or a callable, "
            f"got {observable!r}."
        )
    return observable, OBSERVABLES[observable](problem)
