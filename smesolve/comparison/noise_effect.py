"""The effect of the noise of dropout on the mean of an observable, beyond its drift, to leading order in lr.

Dropout and descent on L_S = R_S + R_1 have the same mean step. With one step P of dropout, one step D of the descent,
and v_k(s) = g(D^(K-k) s), the difference of their means is a telescoping sum of the defects of single steps,

    E g(dropout_K) - g(descent_K) = sum_k E[(P - D) v_{k+1}(dropout_k)]
                                  = lr^2/2 sum_k Sigma(descent_k) : Hess v_{k+1}(descent_{k+1}) (1 + O(lr)),         (1)

of order lr at a fixed time. No Hessian is formed. With z_k = gradient(descent_k, mask) - grad L_S(descent_k), of mean 0
and covariance Sigma, the two runs

    theta'_k+1 = theta'_k - lr grad L_S(theta'_k) -+ lr z_k                                                          (2)

from the same start have the descent as their midpoint, up to second order in the noise, and

    E [g(theta'+_K) + g(theta'-_K)]/2 - g(descent_K)                                                                 (3)

is (1) to leading order, because the noises of different steps are independent. Terms of first order in the noise cancel
in each pair. So the spread of one pair is of size lr, like the effect, and not of size sqrt(lr).

Unlike derivatives, pairs include the effect of kinks, and of observables that jump, such as an accuracy.

Source: the telescoping sum of Talay & Tubaro (Stochastic Anal. Appl. 8, 1990), as for `smesolve.comparison.defects`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.observables import Observable
from smesolve.problem.problem import Problem
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import (
    check_callable,
    check_integer,
    check_mapping,
    check_parameters,
    check_positive,
    check_seed,
)

__all__ = ["noise_effect", "paired_ends"]


@entry_point
@torch.no_grad()
def noise_effect(
    problem: Problem, starts: Tensor, lr: float, steps: int, observables: Mapping[str, Observable], seed: int = 0
) -> pd.DataFrame:
    """Estimate what the noise adds to the mean of each observable after some steps, by one pair of runs per start.

    Args:
        problem: what is trained; its mean gradient must have a closed form.
        starts: (B, D).
        lr: learning rate.
        steps: number of steps K.
        observables: functions of parameters (..., D) by name.
        seed: root seed of the masks.

    Returns:
        A row for each run and observable: `descent`, its value after the descent on L_S, and `effect` (3). The mean of
        `effect` over pairs is (1) up to a relative O(lr). Cost: three mean gradients and one gradient per step and
        start.

    Raises:
        SmesolveError: bad arguments, or a mean gradient without a closed form.
    """
    starts = check_parameters("starts", starts, problem, ("B",))
    check_positive("lr", lr)
    check_integer("steps", steps)
    observables = check_mapping("observables", observables, check_callable)
    check_seed("seed", seed)
    if not problem.has_closed_form:
        raise SmesolveError(
            f"problem must have a mean gradient in closed form, got {problem!r}; take a DropoutProblem with squared "
            "error."
        )

    def draw(step: int) -> Any:
        return problem.draw(keyed_uniforms((len(starts), problem.draw_dim), seed, 0, step))

    descent, *pair = paired_ends(problem, starts, lr, steps, draw)
    rows = []
    for name, function in observables.items():
        value, above, below = (function(end).double().cpu() for end in (descent, *pair))
        effect = (above + below) / 2 - value  # (3)
        rows += [
            {"run": run, "observable": name, "descent": float(value[run]), "effect": float(effect[run])}
            for run in range(len(starts))
        ]
    return pd.DataFrame(rows)


def paired_ends(
    problem: Problem, starts: Tensor, lr: float, steps: int, draw: Callable[[int], Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ends (B, D) of the descent and of both runs (2), with the draws (B, ...) of each step."""
    descent = above = below = starts
    for step in range(steps):
        at = problem.at(step * lr)
        mean = at.mean_gradient(descent)
        noise = lr * (at.gradient(descent, draw(step)) - mean)
        above, below = (
            state - lr * at.mean_gradient(state) + sign * noise for state, sign in ((above, -1), (below, 1))
        )  # (2)
        descent = descent - lr * mean
    return descent, above, below
