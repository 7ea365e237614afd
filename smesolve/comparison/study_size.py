"""The sizes of studies: memory, steps of blocks and work, and the refusal of studies that are too large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from math import comb

import joblib

from smesolve.comparison.cost import ITERATION_STEP_COST, step_cost
from smesolve.comparison.defects import DefectSampler
from smesolve.comparison.equation_side import paired_blocks
from smesolve.comparison.leading_constants import constants_floats
from smesolve.comparison.noise_free_path import DENSE_DIM, batch_sizes
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import OVERSAMPLING, RANK
from smesolve.errors import SmesolveError
from smesolve.machine_memory import machine_memory
from smesolve.sampling.ensemble import check_block_steps
from smesolve.sampling.moments import CHUNK_FLOATS as CHUNK_FLOATS_OF_MOMENTS

__all__ = ["WORKING_ARRAYS", "DefectSize", "StudySize", "check_memory", "processes"]

WORKING_ARRAYS = 6
"""Number of arrays of a block, each with `floats_per_path` floats per path, that a step holds at once."""

DERIVATIVE_ARRAYS = 30
"""Number of arrays that a second derivative along directions holds at once."""


@dataclass(frozen=True)
class StudySize:
    """Memory and work of a weak-error study, known before anything is computed."""

    design: StudyDesign
    paths: int
    """Paths of each ensemble in the first round."""
    workers: int | None = None
    """Processes that share the blocks, or None for the calling process."""
    compared: bool = True
    """Whether `weak_error` compares the ensembles. If False, the iteration runs only where there are no equations, and
    no path comes in a pair."""

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        return self.design.problem.block_size

    def check(self, max_memory: float | None) -> None:
        """Refuse a study that takes more steps than a process can run, or more bytes than allowed.

        Default: this machine's memory.
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
            self.processes,
            max_memory,
            f"control variates and paths take for {_counted(len(design.observables), 'observable')} at "
            f"{_counted(len(design.times), 'time')} with control={design.control!r}",
            f"take {remedy}fewer observables, times or workers",
        )

    @property
    def processes(self) -> int:
        """Number of processes: the calling process and its workers."""
        return processes(self.workers)

    # --- the first round -------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Number of blocks of each ensemble in the first round."""
        return -(-self.paths // self.block_size)

    @property
    def equation_blocks(self) -> int:
        """Blocks of one equation in units of a block at dt; a pair counts as three, as dt/2 takes twice the steps."""
        pairs = paired_blocks(self.blocks, self.block_size) if self.compared else 0
        return self.blocks + 2 * pairs

    @property
    def iteration_blocks(self) -> int:
        """Number of blocks of the iteration."""
        return self.blocks if self.compared or not self.design.orders else 0

    @property
    def block_steps(self) -> float:
        """Number of steps of blocks in the first round, over all ensembles and learning rates."""
        design, equations = self.design, len(self.design.orders) * self.equation_blocks
        return sum(design.horizon * (self.iteration_blocks / lr + equations / design.first_dt(lr)) for lr in design.lrs)

    @property
    def work(self) -> float:
        """Work of the first round over all ensembles and learning rates, in gradients."""
        design = self.design
        equations = self.equation_blocks * sum(step_cost(order, design.scheme) for order in design.orders)
        steps = sum(
            design.horizon * (self.iteration_blocks * ITERATION_STEP_COST / lr + equations / design.first_dt(lr))
            for lr in design.lrs
        )
        return steps * self.block_size

    # --- memory ----------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> float:
        """Largest memory of the arrays of one process, in bytes."""
        return self.step_memory + self.memory_beyond_steps

    @property
    def memory_beyond_steps(self) -> float:
        """Memory of one process beyond that of the steps of a block, in bytes, as freed memory is used again.

        Control variates are kept while blocks run; the arrays from which they are made are freed before. For workers,
        control variates are pickled into one array of bytes, of which the calling process holds two copies. Predicted
        constants are computed last.
        """
        copies = 2 if self.processes > 1 else 0
        beside = max(self.making_memory - self.step_memory, self.value_memory, copies * self.control_memory)
        return max(self.control_memory + beside, self.constants_memory - self.step_memory)

    @property
    def step_memory(self) -> float:
        """Memory of the working arrays of one step of a block, in bytes."""
        problem = self.design.problem
        return 8.0 * WORKING_ARRAYS * problem.floats_per_path * problem.block_size

    @property
    def controls(self) -> int:
        """Largest number of control variates of each target and observable."""
        return {"none": 0, "first": 1, "second": 3}[self.design.control]

    @property
    def value_memory(self) -> float:
        """Memory of the results of one block, in bytes: values, products of deviations, vectors of quadratic forms.

        With c control variates, a path has 2 + c values for each time and observable. They are held for both paths of a
        pair, for their difference, for the difference with the control variates of both, and, half as many, for means
        of antithetic paths. Moments of 1 + 2c variables up to the second, or of 1 + c variables up to the fourth, are
        computed from a bounded number of deviations at once. A dense form A of a target needs A d for the deviations d
        of all paths, and a copy in another memory layout.
        """
        design, problem, c = self.design, self.design.problem, self.controls
        points = len(design.times) * len(design.observables)
        values = 3 * (2 + c) + (2 + 2 * c) + (1 + 2 * c) / 2
        products = (comb(c + 3, 3) + c + 2) * min(CHUNK_FLOATS_OF_MOMENTS, points * problem.block_size / 2)
        forms = 2 * points * max(problem.dim, self._noise_forms_dim) if self._dense else 0
        return 8.0 * (problem.block_size * (points * values + forms) + products)

    @property
    def _dense(self) -> bool:
        """Whether the control variates have dense forms."""
        return self.design.control == "second" and self.design.problem.dim <= DENSE_DIM

    @property
    def _noise_forms_dim(self) -> int:
        """M if there are quadratic forms in the noise, else 0."""
        problem = self.design.problem
        return problem.noise_dim if problem.noise_dim <= 2 * problem.dim else 0

    @property
    def control_memory(self) -> float:
        """Memory of the control variates, in bytes: adjoints at every step and Hessians at every grid point, or
        weights.

        A target (time, observable) is followed back from its time, hence the sum over times. The equation of each order
        has two step sizes, dt and dt/2. While dense Hessians are computed, memory also holds the derivatives of the
        Hessian of the loss along the adjoints and, for every step, this Hessian and the Jacobian of the step.
        """
        design, problem = self.design, self.design.problem
        if design.control == "none":
            return 0.0
        bytes_each, lr, observables = design.theta0.element_size(), min(design.lrs), len(design.observables)
        targets = sum(design.times) * observables
        rate = 1 / lr + 3 * len(design.orders) / design.first_dt(lr)
        adjoints = targets * rate * problem.dim * bytes_each
        if not problem.has_closed_form:
            return design.horizon * observables * rate * problem.draw_dim * bytes_each
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
    def making_memory(self) -> float:
        """Memory of the arrays from which control variates are made, in bytes; it is freed before paths are run.

        These are batches of derivatives: along unit vectors where D is small, else of adjoints and along the vectors
        that span a subspace; or, for dense Hessians of a step, third derivatives and a product.
        """
        design, problem = self.design, self.design.problem
        if design.control == "none":
            return 0.0
        floats, points = problem.reference_floats, len(design.times) * len(design.observables)
        if problem.dim > DENSE_DIM:
            vectors = min(points, batch_sizes(1, problem.dim, floats)[0])
            derivatives = max(vectors, RANK + OVERSAMPLING if design.control == "second" else 0) * floats
        else:
            steps = max(1, math.ceil(2 * design.horizon / design.first_dt(min(design.lrs))))
            sizes = [floats, problem.floats_per_path] if self._dense else [floats]
            derivatives = max(self._batch_floats(steps, size) for size in sizes)
        forms = 2 * points * problem.dim**2 if self._dense else 0
        return max(DERIVATIVE_ARRAYS * derivatives, forms) * design.theta0.element_size()

    def _batch_floats(self, steps: int, size: int) -> int:
        """Return the floats in one array of a batch of derivatives along the unit vectors."""
        dim = self.design.problem.dim
        vectors, together = batch_sizes(steps, dim, size)
        return min(vectors, dim) * together * max(dim, size)

    @property
    def constants_memory(self) -> float:
        """Memory of the predicted constants, in bytes."""
        design = self.design
        observables = len(design.observables)
        return constants_floats(design.problem, design.orders, observables) * design.theta0.element_size()


def processes(workers: int | None) -> int:
    """Return the number of processes: the calling one and its workers."""
    jobs = int(joblib.effective_n_jobs(workers))
    return 1 if jobs == 1 else 1 + jobs


def check_memory(each: float, processes: int, max_memory: float | None, what: str, remedy: str) -> None:
    """Refuse arrays of `each` bytes in each process that are larger than allowed. Default: this machine's memory.

    `what` is subject and verb of the message, such as "defects take".
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


@dataclass(frozen=True)
class DefectSize:
    """Memory and work of a study by defects, known before anything is computed."""

    design: StudyDesign
    paths: int
    """Paths at each learning rate in the first round."""
    workers: int | None = None
    """Processes that share the blocks, or None for the calling process."""

    @cached_property
    def samplers(self) -> list[DefectSampler]:
        """One for each learning rate."""
        return [DefectSampler.of(self.design, lr) for lr in self.design.lrs]

    @property
    def block_size(self) -> int:
        """Paths in a block."""
        return self.samplers[0].block_size

    def check(self, max_memory: float | None) -> None:
        """Refuse a study that takes more steps than a process can run, or more bytes than allowed.

        Default: this machine's memory.
        """
        check_block_steps(
            f"paths={self.paths} at lr={min(self.design.lrs):g}",
            sum(sampler.steps * self._blocks(sampler) for sampler in self.samplers),
            self.workers,
            "take fewer paths, a larger lr, or fewer learning rates",
        )
        remedy = "orders=[1], or " if 2 in self.design.orders else ""
        check_memory(self.memory, processes(self.workers), max_memory, "defects take", f"take {remedy}fewer workers")

    @property
    def memory(self) -> float:
        """Largest memory of one process in bytes: all states of a block, and the arrays of their gradients."""
        return max(
            8.0 * sampler.block_size * sampler.states * (WORKING_ARRAYS * sampler.problem.floats_per_path)
            for sampler in self.samplers
        )

    @property
    def step_memory(self) -> float:
        """Memory of one step in bytes, which is `memory`: it does not depend on the number of steps."""
        return self.memory

    @property
    def memory_beyond_steps(self) -> float:
        """Memory beyond the steps in bytes, which is 0."""
        return 0.0

    @property
    def work(self) -> float:
        """Work of the first round at all learning rates, in gradients."""
        return sum(sampler.cost * self._blocks(sampler) for sampler in self.samplers)

    def _blocks(self, sampler: DefectSampler) -> int:
        return -(-self.paths // sampler.block_size)
