"""Settings and measurement of the experiments compare and weak-error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import pandas as pd

from smesolve.comparison.leading_constants import constants_table, constants_work
from smesolve.comparison.study_design import CONTROLS, StudyDesign, check_orders, learning_rates_and_times
from smesolve.comparison.study_size import DefectSize, StudySize
from smesolve.comparison.weak_error import ESTIMATORS, chosen_estimator, predicted_constants, weak_error
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.experiments.shared.cells import Cell, Ensembles
from smesolve.experiments.shared.defect_runs import DefectRuns
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.other_estimator import OtherEstimator
from smesolve.experiments.shared.settings import ProblemSettings, TrainingSettings
from smesolve.experiments.shared.stopwatch import idle_seconds
from smesolve.problem.observables import named_observables
from smesolve.validation import check_choice

__all__ = ["WeakErrorExperiment", "WeakErrorSettings"]


@dataclass(frozen=True)
class WeakErrorSettings(ProblemSettings):
    """Study.

    Args:
        training: optimiser, loss and noise.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lrs: learning rates; each divides the horizon.
        horizon: last time T; training takes T/lr steps.
        orders: orders of the modified equation, 1, 2 and/or 3; poisson for training steps at random times.
        observables: loss, modified_loss, squared_norm, accuracy; test_loss and test_accuracy with data.test; or
            coordinates such as theta[0].
        paths: independent paths on each side; the first round where rel_tol is given.
        rel_tol: paths are added until the interval of every error at the horizon is at most this share of the error.
            Default: no paths are added.
        max_paths: bound on the paths of each side.
        scheme: scheme of the equation: small_noise_rk4, small_noise_heun or euler; svag or sampled_euler if dropout is
            not only on the last hidden layer, or the loss is not the squared error. Default: one that applies.
        dt: step of the scheme. Default: chosen from the bias of the scheme.
        control: control variates: auto, none, first or second.
        estimator: difference of the means of both sides; defects, summed up along the training run, without scheme,
            dt and control; or auto, the difference where there are closed forms or one of these is given, else defects.
        seed: root seed of masks and Brownian motions.
        threads: threads of torch, divided among the workers. Default: left as they are.
        workers: processes that share the paths; results do not depend on them. Default: only this one.
        device: device of torch, such as cpu or cuda.
        dtype: float64, or float32 for errors above its rounding (1e-6 of a mean).
        max_memory: bytes that control variates may take in all processes together. Default: the machine's memory.
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)
    keep_prob: float = 0.8
    lrs: list[float] = field(default_factory=lambda: [0.1, 0.05])
    horizon: float = 1.0
    orders: list[int | str] = field(default_factory=lambda: [1, 2])
    observables: list[str] = field(default_factory=lambda: ["loss", "modified_loss"])
    paths: int = 1024
    rel_tol: float | None = None
    max_paths: int = 2**17
    scheme: str | None = None
    dt: float | None = None
    control: str = "auto"
    estimator: str = "auto"
    seed: int = 0
    threads: int | None = None
    workers: int | None = None
    device: str = "cpu"
    dtype: str = "float64"
    max_memory: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_orders("orders", self.orders)
        check_choice("control", self.control, CONTROLS)
        check_choice("estimator", self.estimator, ESTIMATORS)


class WeakErrorExperiment(NetworkExperiment[WeakErrorSettings]):
    """A measurement of weak errors, with each block of paths stored on disk, and a check by the other estimator."""

    Settings = WeakErrorSettings
    extendable = takes_modules = takes_schedules = True
    goals = ("rel_tol", "max_paths")
    samples: ClassVar[int] = 0
    """Paths of each ensemble whose values at the horizon are kept."""
    predicts: ClassVar[bool] = False
    """Whether the report shows predicted constants. The verdict on a fit of three points or more needs them, too."""

    @property
    def times(self) -> list[float] | None:
        """Times of observation. Default: those of `weak_error`."""
        return None

    def cells(self) -> list[Cell]:
        """Return the cell of the study, and the cell of the other estimator if it is cheap."""
        s = self.settings
        lrs, times = learning_rates_and_times(s.lrs, s.horizon, self.times)
        ensembles: list[Ensembles | DefectRuns]
        orders = check_orders("orders", s.orders)
        if self.estimator == "defects":
            common = orders, s.paths, self._most_paths, named_observables(self.problem, s.observables)
            ensembles = [DefectRuns(self.problem, self.theta0, lr, times, *common) for lr in lrs]
        else:
            measured = orders, s.paths, s.scheme, s.dt, len(s.observables), s.control
            ensembles = [
                Ensembles(self.problem, self.theta0, lr, times, *measured, most=self._most_paths) for lr in lrs
            ]
        sampling = {name: getattr(s, name) for name in ("paths", "rel_tol", "max_paths", "max_memory", "workers")}
        measure = partial(
            weak_error,
            self.problem,
            self.theta0,
            s.lrs,
            s.horizon,
            **self._asked(),
            **sampling,
            estimator=self.estimator,
            journal=self.journal,
            keep=self.samples if self.estimator == "difference" else 0,
        )
        cells = [Cell("weak errors", measure, ensembles, kept=False), *self.other_estimator.cells(self.journal)]
        if self._uses_constants:
            work = constants_work(self.problem, self.design.times, orders)
            constants = predicted_constants(self.design)
            cells.append(Cell("predicted constants", constants, work=work, seconds=self._constants_seconds))
        return cells

    @cached_property
    def estimator(self) -> str:
        """The estimator that the settings ask for."""
        s = self.settings
        given = {"scheme": s.scheme, "dt": s.dt, "control": None if s.control == "auto" else s.control}
        return chosen_estimator(s.estimator, self.design, given)

    @cached_property
    def other_estimator(self) -> OtherEstimator:
        """The other estimator, at the largest learning rate."""
        return OtherEstimator(self.design, self.estimator, self.size.work, self.settings.workers)

    @cached_property
    def design(self) -> StudyDesign:
        """The checked design of the measurement."""
        problem = self.problem.in_blocks_for(self._most_paths)
        return StudyDesign.of(problem, self.theta0, self.settings.lrs, self.settings.horizon, **self._asked())

    @property
    def size(self) -> StudySize | DefectSize:
        """Work and memory of the first round."""
        kind = DefectSize if self.estimator == "defects" else StudySize
        return kind(self.design, self.settings.paths, self.settings.workers)

    @property
    def _most_paths(self) -> int:
        """Paths for which `weak_error` chooses the size of a block."""
        return self.settings.paths if self.settings.rel_tol is None else self.settings.max_paths

    def _asked(self) -> dict[str, Any]:
        """Return the arguments of `weak_error` and `StudyDesign.of` that say what is measured."""
        names = ("orders", "observables", "scheme", "dt", "control", "seed")
        return {name: getattr(self.settings, name) for name in names} | {"times": self.times}

    def dry_run(self, overhead: float = 0.0) -> dict[str, str]:
        """Return the estimated cost of the study, after the checks of `weak_error`."""
        by_defects = self.estimator == "defects"
        self.size.check(self.settings.max_memory)
        fields = super().dry_run(overhead)
        fields["paths"] += f"; estimator {self.estimator}"
        fields["time"] += "; not in it: further rounds"
        for sentence in [] if by_defects else self.design.nothing_tested():
            fields["warning"] = sentence
        return fields

    def result(self, results: list[Any]) -> WeakErrorStudy:
        """Return the result of the study, that of the first cell, with the predicted constants."""
        study = results[0]
        assert isinstance(study, WeakErrorStudy)
        constants = _table_with("constant", results)
        if constants is None:
            return study if self._uses_constants else replace(study, predict=constants_table)
        return replace(study, predict=lambda: constants)

    def beside(self, results: list[Any]) -> pd.DataFrame | None:
        """Return the result of the cell of the other estimator, or None if there is none."""
        return _table_with("error", results)

    @property
    def _uses_constants(self) -> bool:
        return self.predicts or len(self.settings.lrs) > 2

    def _constants_seconds(self) -> float:
        """Return the seconds of the predicted constants, estimated from the first observable."""
        observables = dict(list(self.design.observables.items())[:1])
        one = replace(self.design, observables=observables)
        return len(self.design.observables) * idle_seconds(predicted_constants(one))


def _table_with(column: str, results: list[Any]) -> pd.DataFrame | None:
    """Return the first result that is a table with a column, or None."""
    return next((result for result in results if isinstance(result, pd.DataFrame) and column in result), None)
