"""The size of a study: bytes of memory, steps of blocks and work, and the refusal of what no machine can do."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import joblib

from smesolve.comparison.cost import ITERATION_STEP_COST, step_cost
from smesolve.comparison.equation_side import paired_blocks
from smesolve.comparison.noise_free_path import CHUNK_FLOATS, DENSE_DIM
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import OVERSAMPLING, RANK
from smesolve.errors import SmesolveError
from smesolve.machine_memory import machine_memory
from smesolve.sampling.ensemble import check_block_steps
from smesolve.sampling.moments import CHUNK_FLOATS as CHUNK_FLOATS_OF_MOMENTS

__all__ = ["WORKING_ARRAYS", "StudySize", "check_memory", "processes"]

WORKING_ARRAYS = 6
"""Arrays of a block that a step holds at once, of `floats_per_path` floats a path."""

DERIVATIVE_ARRAYS = 7
"""The same for a derivative of a derivative along a direction."""


@dataclass(frozen=True)
class StudySize:
    """What a weak-error study asks of a machine, known before anything is computed."""

    design: StudyDesign
    paths: int
    """Of each ensemble in the first round."""
    workers: int | None = None
    """Processes that share the blocks; None for this one."""

    def check(self, max_memory: float | None) -> None:
        """Refuse a study that takes more steps than a process can run, or more memory than allowed.

        Args:
            max_memory: bytes. Default: this machine's memory.

        Raises:
            SmesolveError: with the numbers.
        """
        design = self.design
        check_block_steps(
            f"paths={self.paths} at lr={min(design.lrs):g}{'' if design.dt is None else f' and dt={design.dt:g}'}",
            self.block_steps,
            self.workers,
            "take fewer paths, a larger lr or dt, or fewer learning rates",
        )
        remedy = 'control="first", or ' if design.control == "second" else ""
        check_memory(
            self.memory,
            processes(self.workers),
            max_memory,
            f"control variates and paths take for {_counted(len(design.observables), 'observable')} at "
            f"{_counted(len(design.times), 'time')} with control={design.control!r}",
            f"take {remedy}fewer observables, times or workers",
        )

    # --- the first round -------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Blocks of each ensemble in the first round."""
        return -(-self.paths // self.design.problem.block_size)

    @property
    def equation_blocks(self) -> int:
        """Blocks of one equation in units of one at dt: a pair is a path at dt and one at dt/2, of twice the steps."""
        return self.blocks + 2 * paired_blocks(self.blocks, self.design.problem.block_size)

    @property
    def block_steps(self) -> float:
        """Steps of a block in the first round, of all ensembles and learning rates."""
        design, equations = self.design, len(self.design.orders) * self.equation_blocks
        return sum(design.horizon * (self.blocks / lr + equations / design.first_dt(lr)) for lr in design.lrs)

    @property
    def work(self) -> float:
        """Gradients that the first round takes, of all ensembles and learning rates."""
        design = self.design
        equations = self.equation_blocks * sum(step_cost(order, design.scheme) for order in design.orders)
        steps = sum(
            design.horizon * (self.blocks * ITERATION_STEP_COST / lr + equations / design.first_dt(lr))
            for lr in design.lrs
        )
        return steps * design.problem.block_size

    # --- memory ----------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> float:
        """Bytes of the arrays of one process at their largest: control variates, one block, its statistics."""
        return self.control_memory + max(self.derivative_memory, self.block_memory)

    @property
    def controls(self) -> int:
        """Largest number of control variates of each target and observable."""
        return {"none": 0, "first": 1, "second": 3}[self.design.control]

    @property
    def block_memory(self) -> float:
        """Bytes of one block: states, draws, values of pairs, products of deviations, and vectors of quadratic forms.

        With c control variates a path has 2 + c values at each time and of each observable: those of both paths of a
        pair, their difference, that with the control variates of both, and half as many means of antithetic paths.
        Moments of 1 + 2c variables up to the second, or of q = 1 + c up to the fourth, are made of a bounded number of
        deviations at once. A dense form A of a target takes A d of all paths, and once more in another order.
        """
        design, problem, c = self.design, self.design.problem, self.controls
        points = len(design.times) * len(design.observables)
        values = 3 * (2 + c) + (2 + 2 * c) + (1 + 2 * c) / 2
        products = (comb(c + 3, 3) + c + 2) * min(CHUNK_FLOATS_OF_MOMENTS, points * problem.block_size / 2)
        steps = WORKING_ARRAYS * problem.floats_per_path
        forms = 2 * points * max(problem.dim, self._noise_forms_dim) if self._dense else 0
        return 8.0 * (problem.block_size * (steps + points * values + forms) + products)

    @property
    def _dense(self) -> bool:
        """Whether there are dense forms."""
        return self.design.control == "second" and self.design.problem.dim <= DENSE_DIM

    @property
    def _noise_forms_dim(self) -> int:
        """M where there are forms in the noise, else 0."""
        problem = self.design.problem
        return problem.noise_dim if problem.noise_dim <= 2 * problem.dim else 0

    @property
    def control_memory(self) -> float:
        """Bytes of the control variates: adjoints at every step, Hessians at every grid point.

        A target (time, observable) is followed back from its time, hence the sum over times. The equation of each order
        has two step sizes, dt and dt/2. While dense Hessians are made, the derivatives of the Hessian of the loss along
        the adjoints are there as well, and for every step that Hessian and the Jacobian of the step.
        """
        design, problem = self.design, self.design.problem
        if design.control == "none":
            return 0.0
        bytes_each, lr, observables = design.theta0.element_size(), min(design.lrs), len(design.observables)
        targets = sum(design.times) * observables
        rate = 1 / lr + 3 * len(design.orders) / design.first_dt(lr)
        adjoints = targets * rate * problem.dim * bytes_each
        if design.control == "first":
            return adjoints
        quadratic = self._noise_forms_dim
        if self._dense:
            forms = targets / lr * (2 * problem.dim**2 + quadratic**2)
            return adjoints + (forms + 2 * design.horizon / lr * problem.dim**2) * bytes_each
        spacing = design.stability_limit / 4
        forms = design.horizon * observables / spacing * RANK * (problem.dim + quadratic)
        return adjoints + forms * bytes_each

    @property
    def derivative_memory(self) -> float:
        """Bytes of derivatives along all directions and of all steps at once, of which dense control variates are made.

        For low rank they are those along the vectors that find the subspace.
        """
        design, problem = self.design, self.design.problem
        if design.control == "none" or not problem.has_closed_form:
            return 0.0
        steps = max(1.0, 2 * design.horizon / design.first_dt(min(design.lrs)))
        if problem.dim <= DENSE_DIM:
            rows = steps * min(problem.dim, max(1.0, CHUNK_FLOATS // (steps * problem.dim)))
            floats = problem.floats_per_path
        else:
            rows = RANK + OVERSAMPLING if design.control == "second" else 1
            # Hessian products have no noise.
            floats = max(problem.dim, problem.floats_per_path - 2 * problem.noise_dim)
        return DERIVATIVE_ARRAYS * rows * floats * design.theta0.element_size()


def processes(workers: int | None) -> int:
    """Return the number of processes: the calling one and its workers."""
    jobs = int(joblib.effective_n_jobs(workers))
    return 1 if jobs == 1 else 1 + jobs


def check_memory(each: float, processes: int, max_memory: float | None, what: str, remedy: str) -> None:
    """Refuse arrays that are larger than allowed.

    Args:
        each: bytes of one process.
        processes: how many there are.
        max_memory: bytes. Default: this machine's memory.
        what: takes the memory, with the verb.
        remedy: to be taken.
    """
    size, limit = processes * each, machine_memory() if max_memory is None else max_memory
    if size > limit:
        whose = f"this machine's memory of {limit:.3g} bytes" if max_memory is None else f"max_memory={limit:g} bytes"
        raise SmesolveError(
            f"{whose} is less than the {size:.3g} bytes that {what} in {_counted(processes, 'process', 'es')}; "
            f"{remedy}{'' if max_memory is None else ', or raise it'}."
        )


def _counted(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"
