"""Trials of the schemes that users write, before anything is integrated with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, call_of_user, invalid, shown
from smesolve.problem.differentiable_scalar import value_of
from smesolve.problem.function_trial import called, check_rows
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.schemes.scheme import Scheme
from smesolve.solver.sde_contract import states_near

__all__ = ["checked_weights", "try_step"]

LARGEST_SUM = 1e-6
"""Largest error of a sum of weights."""


@torch.no_grad()
def try_step(name: str, scheme: type[Scheme], sde: PerturbedSDE, theta0: Tensor, noise_dim: int, dt: float) -> None:
    """Try one step of a scheme of the user's for three paths near theta0 (D,), with M = `noise_dim`.

    Each call takes a new instance, as a scheme may have a state.

    Raises:
        SmesolveError: the step fails, does not return three tensors (B, D) of the dtype of theta0, writes into the
            states, draws random numbers, or does not treat each path by itself.
    """
    what, dim = f"the step of scheme={name!r}", theta0.numel()
    increments = dt**0.5 * states_near(theta0.new_ones(noise_dim))
    start = torch.cat([states_near(theta0), increments], dim=1)

    def step(rows: Tensor) -> Tensor:
        y, dW = rows.split([dim, noise_dim], dim=1)
        parts = call_of_user(what, scheme().step, sde, 0.0, dt, y, dW)
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise invalid(what, "return the new states, their prediction and the noise", parts)
        for part in parts:
            if not isinstance(part, Tensor) or part.shape != y.shape or part.dtype != y.dtype:
                raise invalid(what, f"return {y.dtype} tensors of shape {tuple(y.shape)} for {len(y)} paths", part)
        return torch.cat(parts, dim=1)

    called(what, step, start)
    check_rows(what, step, start)


def checked_weights(scheme: type[GradientScheme], ratio: Any) -> tuple[list[Any], list[Any]]:
    """Return means and deviations of the weights of a scheme for ratio = lr/dt, a number or a tensor of shape ().

    Raises:
        SmesolveError: they are not two lists of equally many numbers, at least two, or the weights do not sum to 1 for
            both signs of the deviations.
    """
    what = f"the weights of scheme {scheme.__name__}"
    found = call_of_user(what, scheme.weights, ratio)
    try:
        means, deviations = map(list, found)
        sums = [sum(map(value_of, part)) for part in (means, deviations)]
    except (TypeError, ValueError):
        raise invalid(what, "be two lists of numbers, the means and the deviations", found) from None
    if len(means) != len(deviations) or len(means) < 2:
        raise invalid(what, "be as many means as deviations, at least two", found)
    if abs(sums[0] - 1) > LARGEST_SUM or abs(sums[1]) > LARGEST_SUM:
        raise SmesolveError(
            f"{what} must have means that sum to 1 and deviations that sum to 0, so that a step is one along the mean "
            f"gradient, got the sums {shown(sums[0])} and {shown(sums[1])}."
        )
    return means, deviations
