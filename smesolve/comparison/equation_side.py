"""One side of a weak error: the modified equation of one order, solved with one dt, and the bias of that solution.

The solution without noise, V_0 of `smesolve.comparison.solver_bias`, counts as zero where the mean gradient has no
closed form, and where the network has kinks. At kinks, the error of one path jumps as a function of dt, unlike the mean
over paths, and the ordinary differential equation may slide along a kink, where solvers of high order fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from smesolve.comparison.control_variate import control_of
from smesolve.comparison.cost import step_cost
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.noise_free_equation import NoiseFreeSolution, observed_along_scheme
from smesolve.comparison.path_statistics import PathStatistics, merged
from smesolve.comparison.sampler import PairSampler, Sampler
from smesolve.comparison.solver_bias import SolverBias
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import ValueHessians
from smesolve.problem.kinks import kinks
from smesolve.sampling.parallel import Task
from smesolve.sampling.runner import Work
from smesolve.solver.integration import integration
from smesolve.solver.modified_equation import ModifiedEquation

__all__ = ["EquationSide", "in_pairs", "paired_blocks"]

PAIRED_SHARE, PAIRED_PATHS = 8, 64
"""By default one block in `PAIRED_SHARE` comes in pairs, and so do all blocks of the first `PAIRED_PATHS` paths, as the
coefficients of control variates and the bias of a small study need them."""


def in_pairs(block: int, size: int) -> bool:
    """Return whether a block of `size` paths comes in pairs by default."""
    return block % PAIRED_SHARE == 0 or block * size < PAIRED_PATHS


def paired_blocks(blocks: int, size: int) -> int:
    """Return how many of the first `blocks` blocks, of `size` paths each, come in pairs by default."""
    all_in_pairs = min(blocks, -(-PAIRED_PATHS // size))
    return all_in_pairs + -(-blocks // PAIRED_SHARE) - -(-all_in_pairs // PAIRED_SHARE)


class EquationSide:
    """Statistics of the equation at dt and, for its bias, of pairs with the same paths at dt/2.

    `seed` is the root seed of the Brownian motion. The Hessians of the value functions are for control variates of
    second order, and `solution` is the noise-free solution of the same equation. Default: it is computed.
    """

    def __init__(
        self,
        design: StudyDesign,
        equation: ModifiedEquation,
        dt: float,
        seed: int,
        hessians: ValueHessians | None = None,
        solution: NoiseFreeSolution | None = None,
    ) -> None:
        self.equation, self.order, self.dt = equation, equation.order, dt
        theta0, observables, size = design.theta0, design.observables, equation.block_size
        coarse, fine = self._samplers(design, seed, hessians)
        name = f"lr {equation.lr!r}, order {equation.order}, dt {dt!r}, blocks of {size}"
        self._single, self._paired = name, f"{name}, pairs"
        self.work: dict[str, Work] = {self._single: coarse, self._paired: PairSampler(coarse, fine, 3 * coarse.cost)}
        """Blocks of paths at dt, and blocks of pairs, each a path at dt and one at dt/2, by name."""
        self._block_size = size
        self._pairs = bytearray()
        """For each finished block 1 if it came in pairs, else 0; bytes, as there may be a million blocks."""
        self.statistics: PathStatistics | None = None
        """Statistics of the paths at dt, or None while there are no paths."""
        self.difference: PathStatistics | None = None
        """Statistics of the differences of pairs, or None while there are no pairs."""

        nothing = np.zeros((len(design.times), len(observables)))
        self._noise_free_bias = self._noise_free_difference = nothing
        exact = equation.order == "poisson"  # its paths have no bias: both paths of a pair are equal
        if exact or not design.problem.has_closed_form or kinks(design.problem, theta0):  # only pairs measure the bias
            self.solution = NoiseFreeSolution(nothing, nothing)
            return
        self.solution = solution or NoiseFreeSolution.of(equation, theta0, design.times, observables)
        """V_0(0), and a bound on its error."""
        at_dt, at_half = (
            observed_along_scheme(part.process, theta0, part.saved, observables) for part in (coarse, fine)
        )
        self._noise_free_bias, self._noise_free_difference = at_dt - self.solution.values, at_dt - at_half

    def _samplers(self, design: StudyDesign, seed: int, hessians: ValueHessians | None) -> list[Sampler]:
        """Return the samplers at dt and at dt/2, which see one Brownian motion."""
        samplers = []
        cost = step_cost(self.order, design.scheme) * design.horizon / self.dt * self.equation.block_size
        for dt, nested in ((self.dt, 2), (self.dt / 2, 1)):
            process = integration(self.equation, design.theta0, design.scheme, dt, seed, nested, antithetic=True)
            saved = design.steps(dt)
            control = control_of(design, process, saved, self.equation.lr, dt, hessians)
            samplers.append(Sampler(process, design.theta0, saved, design.observables, control, design.keep, cost))
        return samplers

    # --- sampling --------------------------------------------------------------------------------------------------

    def tasks(self, paths: int, pairs: int | None) -> Iterator[Task]:
        """Yield the missing blocks for this number of paths and of pairs, in order.

        A block of pairs yields its paths at dt as well. By default every eighth block and the first 64 paths come in
        pairs: this depends only on the number of a block, so that no block runs again for more paths. Further pairs are
        taken from new blocks first.
        """
        size = self._block_size
        new = range(len(self._pairs), max(len(self._pairs), -(-paths // size)))
        lacking = max(0, -(-(pairs or 0) // size) - self._pairs.count(1))
        old = (block for block in range(new.start) if not self._pairs[block])
        for block in islice(old, max(0, lacking - len(new))):
            yield self._paired, block
        for block in new:
            chosen = in_pairs(block, size) if pairs is None else block - new.start < lacking
            yield self._paired if chosen else self._single, block

    def add(self, task: Task, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the result of a task."""
        name, block = task
        if block >= len(self._pairs):
            self.statistics = merged(self.statistics, PathStatistics.from_arrays(arrays))
            self._pairs.append(0)
        if name == self._paired:
            self.difference = merged(self.difference, PathStatistics.from_arrays(arrays, PairSampler.PREFIX))
            self._pairs[block] = 1

    def bias(self, pairs: MeanEstimate) -> SolverBias:
        """Return the scheme's bias at dt from the mean difference of pairs."""
        return SolverBias.of(pairs, self._noise_free_bias, self._noise_free_difference)
