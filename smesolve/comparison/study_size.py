"""The size of a study: bytes of memory and steps of blocks, and the refusal of what no machine or no lifetime holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import joblib
from torch import Tensor

from smesolve.comparison.equation_side import paired_blocks
from smesolve.comparison.error_budget import first_dt
from smesolve.comparison.noise_free_path import CHUNK_NUMBERS, DENSE_DIM
from smesolve.comparison.value_hessians import OVERSAMPLING, RANK
from smesolve.errors import SmesolveError
from smesolve.machine_memory import machine_memory
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import check_block_steps
from smesolve.sampling.moments import CHUNK_NUMBERS as CHUNK_NUMBERS_OF_MOMENTS

__all__ = ["StudySize"]

WORKING_ARRAYS = 6
"""Arrays of a block that a step holds at once, of `numbers_per_path` numbers a path."""

DERIVATIVE_ARRAYS = 7
"""The same for a derivative of a derivative along a direction."""


@dataclass(frozen=True)
class StudySize:
    """What a weak-error study asks of a machine, known before anything is computed."""

    problem: Problem
    theta0: Tensor
    lrs: Sequence[float]
    times: Sequence[float]
    orders: int
    """How many."""
    observables: int
    """How many."""
    control: str
    """"none", "first" or "second"."""
    scheme: str
    dt: float | None
    paths: int
    """Of each ensemble in the first round."""
    workers: int | None

    def check(self, max_memory: float | None) -> None:
        """Refuse a study that takes more than max_memory, by default this machine's memory, or more steps than a
        process can take.

        Raises:
            SmesolveError: with the numbers.
        """
        check_block_steps(
            f"paths={self.paths} at lr={min(self.lrs):g}{'' if self.dt is None else f' and dt={self.dt:g}'}",
            self.block_steps,
            self.workers,
            "take fewer paths, a larger lr or dt, or fewer learning rates",
        )
        size, limit = self.processes * self.memory, machine_memory() if max_memory is None else max_memory
        if size > limit:
            whose = "this machine's memory" if max_memory is None else f"max_memory={max_memory:g} bytes"
            remedy = 'control="first", or ' if self.control == "second" else ""
            raise SmesolveError(
                f"{whose}{f' of {limit:.3g} bytes' if max_memory is None else ''} is less than the {size:.3g} bytes "
                f"that {self.observables} observables at {len(self.times)} times with control={self.control!r} take in "
                f"{self.processes} processes; take {remedy}fewer observables, times or workers"
                f"{'' if max_memory is None else ', or raise it'}."
            )

    @property
    def processes(self) -> int:
        """The calling one and its workers."""
        jobs = joblib.effective_n_jobs(self.workers)
        return 1 if jobs == 1 else 1 + jobs

    @property
    def block_steps(self) -> float:
        """Steps of a block in the first round, of all ensembles and learning rates."""
        size = self.problem.block_size
        blocks = -(-self.paths // size)
        # a pair is a path at dt with one at dt/2, of twice as many steps
        equation = self.orders * (blocks + 2 * paired_blocks(blocks, size))
        return sum(self.times[-1] * (blocks / lr + equation / first_dt(self.scheme, lr, self.dt)) for lr in self.lrs)

    @property
    def memory(self) -> float:
        """Bytes of the arrays of one process at their largest: control variates, one block, its statistics."""
        return self.control_memory + max(self.derivative_memory, self.block_memory)

    @property
    def controls(self) -> int:
        """Control variates of each target and observable, at most."""
        return {"none": 0, "first": 1, "second": 3}[self.control]

    @property
    def block_memory(self) -> float:
        """Bytes of one block: states and draws, values of a pair of paths, products of deviations, and what the
        quadratic control variates multiply.

        With c control variates a path has 2 + c values at each time and of each observable: those of both paths of a
        pair, their difference, that with the control variates of both, and half as many means of antithetic paths.
        Moments of 1 + 2c variables up to the second, or of q = 1 + c up to the fourth, are made of a bounded number of
        deviations at once. A dense form A of a target takes A d of all paths, and once more in another order.
        """
        block, c = self.problem.block_size, self.controls
        points = len(self.times) * self.observables
        values = 3 * (2 + c) + (2 + 2 * c) + (1 + 2 * c) / 2
        products = (comb(c + 3, 3) + c + 2) * min(CHUNK_NUMBERS_OF_MOMENTS, points * block / 2)
        steps = WORKING_ARRAYS * self.problem.numbers_per_path
        forms = 2 * points * max(self.problem.dim, self._quadratic) if self._dense else 0
        return 8.0 * (block * (steps + points * values + forms) + products)

    @property
    def _dense(self) -> bool:
        """Whether there are dense forms."""
        return self.control == "second" and self.problem.dim <= DENSE_DIM

    @property
    def _quadratic(self) -> int:
        """M where there are forms in the noise, else 0."""
        return self.problem.noise_dim if self.problem.noise_dim <= 2 * self.problem.dim else 0

    @property
    def control_memory(self) -> float:
        """Bytes of the control variates: adjoints at every step, Hessians at every grid point.

        A target (time, observable) is followed back from its time, hence the sum over times. The equation of each order
        has two step sizes, dt and dt/2. While dense Hessians are made, the derivatives of the Hessian of the loss along
        the adjoints are there as well, and for every step that Hessian and the Jacobian of the step.
        """
        if self.control == "none":
            return 0.0
        problem, bytes_each = self.problem, self.theta0.element_size()
        lr = min(self.lrs)
        targets = sum(self.times) * self.observables
        rate = 1 / lr + 3 * self.orders / first_dt(self.scheme, lr, self.dt)
        adjoints = targets * rate * problem.dim * bytes_each
        if self.control == "first":
            return adjoints
        quadratic = self._quadratic
        if self._dense:
            forms = targets / lr * (2 * problem.dim**2 + quadratic**2)
            return adjoints + (forms + 2 * self.times[-1] / lr * problem.dim**2) * bytes_each
        spacing = problem.stability_limit(self.theta0, self.times[-1]) / 4
        forms = self.times[-1] * self.observables / spacing * RANK * (problem.dim + quadratic)
        return adjoints + forms * bytes_each

    @property
    def derivative_memory(self) -> float:
        """Bytes of the derivatives along all directions, of all steps at once, that dense control variates are made of;
        for low rank those along the vectors that find the subspace.
        """
        problem = self.problem
        if self.control == "none" or not problem.exact:
            return 0.0
        steps = max(1.0, 2 * self.times[-1] / first_dt(self.scheme, min(self.lrs), self.dt))
        if problem.dim <= DENSE_DIM:
            rows = steps * min(problem.dim, max(1.0, CHUNK_NUMBERS // (steps * problem.dim)))
            numbers = problem.numbers_per_path
        else:
            rows = RANK + OVERSAMPLING if self.control == "second" else 1
            numbers = max(
                problem.dim, problem.numbers_per_path - 2 * problem.noise_dim
            )  # Hessian products have no noise
        return DERIVATIVE_ARRAYS * rows * numbers * self.theta0.element_size()
