"""The modified equation without noise, an ordinary differential equation, and its solution by a scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from smesolve.problem.observables import Observable
from smesolve.sampling.ensemble import Process
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.ode import solve_ode

__all__ = ["NoiseFreeSolution", "observed_along_scheme"]

TOLERANCE, COARSER = 1e-12, 100.0
"""Relative tolerance of the solution in float64, and the factor between it and the tolerance of the solution with which
it is compared."""


@dataclass(frozen=True)
class NoiseFreeSolution:
    """Observables along dy/dt = drift(t, y), and a bound on their error; arrays (T, O).

    The bound is the distance to a solution whose tolerance is 100 times as large, which is the error of that solution.
    The error of a solver is proportional to its tolerance only in the limit of many steps: in a few steps, a tolerance
    ten times as small had 0.7 times the error. The relative bound is at least the finer tolerance, because of rounding.
    """

    values: np.ndarray
    error: np.ndarray

    @classmethod
    def of(
        cls,
        equation: ModifiedEquation,
        theta0: Tensor,
        times: Sequence[float],
        observables: Mapping[str, Observable],
    ) -> NoiseFreeSolution:
        """Solve the equation without noise from theta0 (D,), anew at every break of a schedule.

        Raises:
            ArithmeticError: the solver did not converge.
        """
        breaks, last = equation.problem.breaks, times[-1]
        pieces = list(pairwise([0.0, *(time for time in breaks if time < last), last]))

        def solved(tolerance: float) -> np.ndarray:
            """Return observables along the solution (T, O)."""
            state, rows = theta0, []
            for begin, end in pieces:

                def drift(t: float, theta: Tensor, middle: float = (begin + end) / 2) -> Tensor:
                    return equation.drift(t, theta[None], t >= middle)[0]

                observed = [time for time in times if begin < time <= end]
                name = f"noise-free path of order {equation.order}"
                path = solve_ode(drift, state, (begin, end), tolerance, times=sorted({*observed, end}), name=name)
                states = theta0.new_tensor(path.y.T[: len(observed)])
                rows.append(np.stack([g(states).cpu().numpy() for g in observables.values()], axis=-1))
                state = theta0.new_tensor(path.y[:, -1])
            return np.concatenate(rows)

        tolerance = max(TOLERANCE, torch.finfo(theta0.dtype).eps)
        fine, coarse = solved(tolerance), solved(COARSER * tolerance)
        return cls(fine, np.maximum(np.abs(fine - coarse), tolerance * np.abs(fine)))


def observed_along_scheme(
    process: Process, theta0: Tensor, saved: Sequence[int], observables: Mapping[str, Observable]
) -> np.ndarray:
    """Return observables on the noise-free path of a scheme at the saved step numbers (T, O)."""
    state, rows = theta0[None], []
    for step in range(saved[-1]):
        state, _ = process.noise_free_step(state, step)
        if step + 1 in saved:
            rows.append([float(g(state)[0]) for g in observables.values()])
    return np.array(rows)
