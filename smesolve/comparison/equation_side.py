"""One side of a weak error: the modified equation of one order, solved with one dt, and the bias of that solution.

With V(dt) = E g of the scheme's solution and V_0(dt) its value without noise, the bias is split into

    V(dt) - V(0) = [V_0(dt) - V_0(0)] + [N(dt) - N(0)],      N = V - V_0.

The first bracket is known without sampling: V_0(0) is an ordinary differential equation. (V_0 counts as zero where the
mean gradient itself is known by sampling alone.) For the second, N(dt) - N(dt/2) is averaged over pairs of paths with
common noise; its leading term falls at least like dt, so |N(dt) - N(0)| <= 2 |N(dt) - N(dt/2)|.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.integrate import solve_ivp
from torch import Tensor

from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.estimate import Sampler, difference
from smesolve.comparison.observables import Observable
from smesolve.sampling.ensemble import Process
from smesolve.solver.brownian import grid_steps
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES

__all__ = ["EquationSide"]

ODE_TOLERANCE = 1e-10
"""Relative tolerance of the noise-free path."""


class EquationSide:
    """Samples of the equation at dt and, for its bias, of the same paths at dt/2.

    Args:
        equation: the modified equation.
        theta0: (D,), the start.
        times: of observation.
        observables: by name.
        scheme: a name in `SCHEMES`.
        dt: step.
        seed: root seed of the Brownian motion.
        control_of: makes the control variates of a process with a given step, or None.
    """

    def __init__(
        self,
        equation: ModifiedEquation,
        theta0: Tensor,
        times: Sequence[float],
        observables: Mapping[str, Observable],
        scheme: str,
        dt: float,
        seed: int,
        control_of: Callable[[Process, float], ControlVariate | None],
    ) -> None:
        self.equation, self.scheme, self.dt = equation, scheme, dt
        self._theta0, self._times, self._observables = theta0, times, observables
        samplers = []
        for step, nested in ((dt, 2), (dt / 2, 1)):
            process = integration(equation, theta0, scheme, step, seed, nested, antithetic=True)
            label = f"lr {equation.lr:g}, order {equation.order}, dt {step:g}"
            saved = [grid_steps(time, step, "time") for time in times]
            samplers.append(Sampler(process, theta0, saved, observables, control_of(process, step), label))
        self.coarse, self.fine = samplers

        if not equation.problem.exact:  # no noise-free part is known: the difference of the samples is all there is
            self._noise_free_bias = self._noise_free_difference = np.zeros(())
            return
        coarse, fine = (self._noise_free(sampler.process) for sampler in samplers)
        self._noise_free_bias = coarse - self._without_scheme()
        self._noise_free_difference = coarse - fine

    @property
    def cost(self) -> float:
        """Gradients a path takes over one lr, about."""
        scheme = SCHEMES[self.scheme]
        gradients = scheme.drift_evaluations + 1.5 * scheme.noise_products
        gradients += 4 * scheme.corrections * (self.equation.order - 1)
        return gradients * self.equation.lr / self.dt

    def bias(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The scheme's bias at dt, its standard error, and the spread of one pair of paths; each (T, O).

        NaN where paths diverged.
        """
        pairs = difference(self.coarse, self.fine)
        bias = self._noise_free_bias + 2 * (pairs.mean - self._noise_free_difference)
        return bias, 2 * pairs.stderr, 2 * pairs.stderr * pairs.paths**0.5

    def _without_scheme(self) -> np.ndarray:
        """Observables along dy/dt = drift(y), (T, O)."""

        def drift(t: float, y: np.ndarray) -> np.ndarray:
            return self.equation.f(t, self._theta0.new_tensor(y)[None])[0].cpu().numpy()

        path = solve_ivp(
            drift,
            (0.0, self._times[-1]),
            self._theta0.cpu().numpy(),
            method="DOP853",
            t_eval=self._times,
            rtol=ODE_TOLERANCE,
            atol=ODE_TOLERANCE * max(1e-3, float(self._theta0.abs().max())),
        )
        if not path.success:
            raise ArithmeticError(
                f"the noise-free path of order {self.equation.order} did not converge: {path.message}"
            )
        states = self._theta0.new_tensor(path.y.T)
        return np.stack([g(states).cpu().numpy() for g in self._observables.values()], axis=-1)

    def _noise_free(self, process: Process) -> np.ndarray:
        """Observables on the scheme's path without noise, (T, O)."""
        saved = [grid_steps(time, process.dt, "time") for time in self._times]
        state, rows = self._theta0[None], []
        for k in range(saved[-1]):
            state, _ = process.noise_free_step(state, k)
            if k + 1 in saved:
                rows.append([float(g(state)[0]) for g in self._observables.values()])
        return np.array(rows)
