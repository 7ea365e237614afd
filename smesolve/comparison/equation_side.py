"""One side of a weak error: the modified equation of one order, solved with one dt, and the bias of that solution.

With V(dt) = E g of the scheme's solution and V_0(dt) its value without noise, the bias is split into

    V(dt) - V(0) = [V_0(dt) - V_0(0)] + [N(dt) - N(0)],      N = V - V_0.

The first bracket is known without sampling: V_0(0) is an ordinary differential equation. For the second, N(dt) -
N(dt/2) is averaged over pairs of paths with common noise; its leading term falls at least like dt, so |N(dt) - N(0)| <=
2 |N(dt) - N(dt/2)|.

V_0 counts as zero where the mean gradient itself is known by sampling alone, and where the network has kinks: the error
of one path jumps with dt, as a step meets a kink here or there, which the mean over paths does not; and the ordinary
differential equation may slide along a kink, where no solver of high order goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.draw_control import DrawControl
from smesolve.comparison.estimate import Estimate, PairSampler, Sampler, Statistics, merged
from smesolve.comparison.observables import Observable
from smesolve.problem.kinks import kinks
from smesolve.sampling.ensemble import Process
from smesolve.sampling.parallel import Task
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.time_grid import grid_numbers

__all__ = ["EquationSide", "block_cost", "in_pairs", "paired_blocks", "step_cost"]

ODE_TOLERANCE, COARSER = 1e-12, 100.0
"""Relative tolerance of the noise-free path in float64, and the factor of that of the solution it is compared with."""

NOISE_COST, HESSIAN_COST = 1.5, 4.0
"""Gradients that a noise product and a Hessian product cost, about."""

PAIRED_SHARE, PAIRED_PATHS = 4, 64
"""One in so many blocks is of pairs, and all blocks of the first so many paths: the coefficients of the control
variates are fitted on them."""


def in_pairs(block: int, size: int) -> bool:
    """Whether a block of so many paths comes in pairs where nothing else is asked for."""
    return block % PAIRED_SHARE == 0 or block * size < PAIRED_PATHS


def paired_blocks(blocks: int, size: int) -> int:
    """How many of the first so many blocks come in pairs where nothing else is asked for."""
    all_in_pairs = min(blocks, -(-PAIRED_PATHS // size))
    return all_in_pairs + -(-blocks // PAIRED_SHARE) - -(-all_in_pairs // PAIRED_SHARE)


def step_cost(order: int, scheme: str) -> float:
    """Gradients that a step of the scheme takes, about."""
    declared = SCHEMES[scheme]
    noise, corrections = NOISE_COST * declared.noise_products, HESSIAN_COST * declared.corrections * (order - 1)
    return declared.drift_evaluations + noise + corrections


def block_cost(order: int, scheme: str, dt: float, horizon: float, size: int) -> float:
    """Gradients that a block takes, about."""
    return step_cost(order, scheme) * horizon / dt * size


class EquationSide:
    """Statistics of the equation at dt and, for its bias, of pairs with the same paths at dt/2.

    Args:
        equation: the modified equation.
        theta0: (D,), the start.
        times: of observation.
        observables: by name.
        scheme: a name in `SCHEMES`.
        dt: step.
        seed: root seed of the Brownian motion.
        control_of: makes the control variates of a process with a given step, or None.
        keep: number of paths whose values at the last time are kept.
        exact: of a side of the same equation with another dt (`EquationSide.exact`), not computed anew.
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
        control_of: Callable[[Process, float], ControlVariate | DrawControl | None],
        keep: int = 0,
        exact: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.equation, self.scheme, self.dt = equation, scheme, dt
        self._theta0, self._times, self._observables = theta0, times, observables
        samplers = []
        cost = block_cost(equation.order, scheme, dt, times[-1], equation.block_size)
        for step, nested in ((dt, 2), (dt / 2, 1)):
            process = integration(equation, theta0, scheme, step, seed, nested, antithetic=True)
            saved = grid_numbers(times, step, "times")
            samplers.append(Sampler(process, theta0, saved, observables, control_of(process, step), keep, cost))
        name = f"lr {equation.lr!r}, order {equation.order}, dt {dt!r}"
        self._alone, self._paired = name, f"{name}, pairs"
        self.work = {self._alone: samplers[0], self._paired: PairSampler(*samplers, 3 * cost)}
        self._pairs = bytearray()
        """For each block that is done, whether it came in pairs: a byte, as there may be a million blocks."""
        self.statistics: Statistics | None = None
        """Of the paths at dt, or None while there are none."""
        self.difference: Statistics | None = None
        """Of the pairs, or None while there are none."""

        if not equation.problem.has_closed_form or kinks(equation.problem, theta0):  # the pairs are all there is
            nothing = np.zeros((len(times), len(observables)))
            self._noise_free_bias, self._noise_free_difference, self.exact = nothing, nothing, (nothing, nothing)
            return
        coarse, fine = (self._noise_free(sampler.process) for sampler in samplers)
        self.exact = self._without_scheme() if exact is None else exact
        """V_0(0), and a bound on the error of its solution; each (T, O)."""
        self._noise_free_bias = coarse - self.exact[0]
        self._noise_free_difference = coarse - fine

    @property
    def cost(self) -> float:
        """Gradients a path takes over one lr, about."""
        return step_cost(self.equation.order, self.scheme) * self.equation.lr / self.dt

    @property
    def tolerance(self) -> np.ndarray:
        """Bound on the error of the noise-free solution, which the bias is measured against (T, O)."""
        return self.exact[1]

    # --- sampling --------------------------------------------------------------------------------------------------

    def tasks(self, paths: int, pairs: int | None) -> Iterator[Task]:
        """The blocks that are missing for so many paths and pairs, in order; one of pairs gives the paths at dt too.

        By default every fourth block and the first 64 paths come in pairs: whether a block does depends on its number
        alone, so that more paths never make a block run again. More pairs are taken from new blocks first.
        """
        size, new, lacking = self.equation.block_size, self._new(paths), self._lacking(pairs)
        old = (block for block in range(new.start) if not self._pairs[block])
        for block in islice(old, max(0, lacking - len(new))):
            yield self._paired, block
        for block in new:
            chosen = in_pairs(block, size) if pairs is None else block - new.start < lacking
            yield self._paired if chosen else self._alone, block

    def tasks_cost(self, paths: int, pairs: int | None) -> float:
        """The work of these tasks."""
        size, new = self.equation.block_size, self._new(paths)
        if pairs is None:
            chosen = paired_blocks(new.stop, size) - paired_blocks(new.start, size)
        else:
            chosen = min(self._lacking(pairs), len(new) + self._pairs.count(0))
        alone = max(0, len(new) - chosen)
        return chosen * self.work[self._paired].cost + alone * self.work[self._alone].cost

    def _new(self, paths: int) -> range:
        """The blocks that so many paths add."""
        done = len(self._pairs)
        return range(done, max(done, -(-paths // self.equation.block_size)))

    def _lacking(self, pairs: int | None) -> int:
        """How many blocks must come in pairs that did not."""
        return max(0, -(-(pairs or 0) // self.equation.block_size) - self._pairs.count(1))

    def add(self, task: Task, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the result of a task."""
        name, block = task
        if block >= len(self._pairs):
            self.statistics = merged(self.statistics, Statistics.from_arrays(arrays))
            self._pairs.append(0)
        if name == self._paired:
            self.difference = merged(self.difference, Statistics.from_arrays(arrays, PairSampler.PREFIX))
            self._pairs[block] = 1

    def bias_of(self, pairs: Estimate) -> np.ndarray:
        """The scheme's bias at dt from the mean difference of pairs (T, O); NaN where paths diverged."""
        return self._noise_free_bias + 2 * (pairs.mean - self._noise_free_difference)

    def _without_scheme(self) -> tuple[np.ndarray, np.ndarray]:
        """Observables along dy/dt = drift(t, y), and a bound on their error; each (T, O).

        The bound is the distance to the solution at a tolerance 100 times as large, whose error it is. The error of a
        solver is proportional to its tolerance only in the limit of many steps: in a few steps that of a tolerance ten
        times as small was 0.7 times as large. Rounding leaves no value better than the finer tolerance.
        """
        tolerance = max(ODE_TOLERANCE, torch.finfo(self._theta0.dtype).eps)
        fine, coarse = self._solved(tolerance), self._solved(COARSER * tolerance)
        return fine, np.maximum(np.abs(fine - coarse), tolerance * np.abs(fine))

    def _solved(self, tolerance: float) -> np.ndarray:
        """Observables along dy/dt = drift(t, y), (T, O), from one break of a schedule to the next."""
        state, rows, last = self._theta0.cpu().numpy(), [], self._times[-1]
        edges = [0.0, *(time for time in self.equation.problem.breaks if time < last), last]
        for begin, end in pairwise(edges):

            def drift(t: float, y: np.ndarray, middle: float = (begin + end) / 2) -> np.ndarray:
                return self.equation.drift(t, self._theta0.new_tensor(y)[None], t >= middle)[0].cpu().numpy()

            observed = [time for time in self._times if begin < time <= end]
            path = solve_ivp(
                drift,
                (begin, end),
                state,
                method="DOP853",
                t_eval=sorted({*observed, end}),
                rtol=tolerance,
                atol=tolerance * max(1e-3, float(self._theta0.abs().max())),
            )
            if not path.success:
                raise ArithmeticError(
                    f"the noise-free path of order {self.equation.order} did not converge: {path.message}"
                )
            states = self._theta0.new_tensor(path.y.T[: len(observed)])
            rows.append(np.stack([g(states).cpu().numpy() for g in self._observables.values()], axis=-1))
            state = path.y[:, -1]
        return np.concatenate(rows)

    def _noise_free(self, process: Process) -> np.ndarray:
        """Observables on the scheme's path without noise, (T, O)."""
        saved = grid_numbers(self._times, process.dt, "times")
        state, rows = self._theta0[None], []
        for k in range(saved[-1]):
            state, _ = process.noise_free_step(state, k)
            if k + 1 in saved:
                rows.append([float(g(state)[0]) for g in self._observables.values()])
        return np.array(rows)
