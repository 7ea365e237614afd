"""Expectations of the discrete iteration over all sequences of draws."""

from __future__ import annotations

import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.module_draws import of_parts
from smesolve.problem.observables import Observable, named_observables
from smesolve.problem.problem import Problem
from smesolve.validation import check_integer, check_observable, check_parameters, check_positive

__all__ = ["enumerated_expectation"]

MAX_SEQUENCES = 2**22
"""Sequences of draws that an enumeration may visit."""


@entry_point
def enumerated_expectation(
    problem: Problem, theta0: Tensor, lr: float, steps: int, observable: str | Observable
) -> float:
    """Compute E g(theta_steps) of the iteration over all sequences of draws.

    Args:
        problem: what is trained; its draws must be enumerable.
        theta0: (D,), the start.
        lr: learning rate.
        steps: number of steps.
        observable: g, a name or a callable as `weak_error` takes it.

    Raises:
        SmesolveError: bad arguments, or more than 2^22 sequences.

    Cost per sequence: one gradient, and memory for its parameters.
    """
    theta0 = check_parameters("theta0", theta0, problem)
    lr, steps = check_positive("lr", lr), check_integer("steps", steps)
    (function,) = named_observables(problem, [check_observable("observable", observable)]).values()
    count = len(problem.all_draws()[1])
    if count**steps > MAX_SEQUENCES:
        raise SmesolveError(f"steps={steps} makes {count}^{steps} sequences, more than {MAX_SEQUENCES}; take fewer.")
    theta, weight = theta0[None], torch.ones(1, dtype=torch.float64, device="cpu")
    for step in range(steps):
        now = problem.at(step * lr)
        draws, weights = now.all_draws()
        theta = now.step(theta[:, None], of_parts(lambda part: part[None], draws), lr).flatten(0, 1)
        weight = (weight[:, None] * weights.to(weight)).flatten()
    return float(weight @ function(theta).to(weight))
