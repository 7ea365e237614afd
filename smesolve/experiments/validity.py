"""Up to which learning rate each equation describes a training to a tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from smesolve.comparison.study_design import check_orders
from smesolve.comparison.validity_range import ValidityRange, first_learning_rate, validity_range
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.defect_runs import DefectRuns
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join, plain
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.experiments.shared.settings import ProblemSettings, TrainingSettings
from smesolve.experiments.shared.validity_parts import in_words, ranges_table
from smesolve.validation import check_integer

__all__ = ["Validity", "ValiditySettings"]

CAPTION = (
    "|error| of the mean at the horizon, relative to its change since the start, against the learning rate, with 95% "
    "intervals. Horizontal: the tolerance; bands: the largest learning rates; dashed: the stability limit."
)


@dataclass(frozen=True)
class ValiditySettings(ProblemSettings):
    """Range of validity.

    Args:
        training: optimiser, loss and noise.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        horizon: last time T; training takes T/lr steps.
        tolerance: largest error, relative to the change of the observable since the start.
        orders: orders of the modified equation, 1 and/or 2.
        observables: loss, modified_loss, squared_norm, test_loss with data.test; or coordinates such as theta[0].
        rel_tol: relative half-width of the interval to which errors are measured.
        paths: paths of the first round at each learning rate.
        max_paths: bound on the paths at each learning rate.
        seed: root seed of masks.
        threads: threads of torch, divided among the workers. Default: left as they are.
        workers: processes that share the paths; results do not depend on them. Default: only this one.
        device: device of torch, such as cpu or cuda.
        dtype: float64 or float32.
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)
    keep_prob: float = 0.8
    horizon: float = 1.0
    tolerance: float = 0.01
    orders: list[int] = field(default_factory=lambda: [1, 2])
    observables: list[str] = field(default_factory=lambda: ["loss"])
    rel_tol: float = 0.2
    paths: int = 64
    max_paths: int = 2**14
    seed: int = 0
    threads: int | None = None
    workers: int | None = None
    device: str = "cpu"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_orders("orders", self.orders)
        check_integer("max_paths", self.max_paths, self.paths)


@experiment("validity")
class Validity(NetworkExperiment[ValiditySettings]):
    """Up to which learning rate each equation describes a training to a tolerance."""

    Settings = ValiditySettings
    title = "Range of validity of the stochastic modified equation"
    example = "--data.samples 500 --horizon 0.5 --out results/validity"
    writes = "tables (CSV), one figure (PNG and PDF)"
    takes_modules = takes_schedules = True
    goals = ("rel_tol", "max_paths")

    def cells(self) -> list[Cell]:
        """Return the only cell, which stores its blocks of paths one by one."""
        s = self.settings
        lr = first_learning_rate(self.problem, self.theta0, s.horizon)
        runs = DefectRuns(self.problem, self.theta0, lr, [s.horizon], s.orders, s.paths, s.max_paths)
        names = ("tolerance", "orders", "observables", "rel_tol", "paths", "max_paths", "seed", "workers")
        measure = partial(
            validity_range,
            self.problem,
            self.theta0,
            s.horizon,
            **{name: getattr(s, name) for name in names},
            journal=self.journal,
        )
        return [Cell("relative errors", measure, [runs], kept=False)]

    def dry_run(self, overhead: float = 0.0) -> dict[str, str]:
        """Return the estimated cost of the first learning rate."""
        fields = super().dry_run(overhead)
        fields["time"] += "; not in it: one to three more learning rates, and further rounds"
        return fields

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the largest learning rates, with the figure."""
        (found,) = results
        assert isinstance(found, ValidityRange)
        measured = ["order", "observable", "lr", "error", "low", "high", "paths", "resolved", "reason"]
        errors = found.errors[[*measured, "change", "relative", "relative_low", "relative_high"]]
        columns = ["order", "observable", "lr", "relative", "change", "paths", "reason"]
        text = join(
            in_words(found, self.problem),
            ranges_table(found),
            "## Measurements at each learning rate",
            markdown(errors, columns, {"lr": ".4g"}),
        )
        tables = {"table": found.table, "errors": errors}
        figures = {"validity": Captioned(found.plot(), CAPTION)}
        return [Section("Largest learning rates", tables, figures, text, plain(found.conclusion()))]
