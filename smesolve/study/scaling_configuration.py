"""Configuration of a study of learning-rate scaling."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from smesolve.solver.time_grid import grid_steps
from smesolve.study.configuration import StudyConfig
from smesolve.study.configuration_errors import ConfigError

__all__ = ["ScalingConfig"]

SHARED = {"study", "data", "paths", "seed", "threads", "workers"}

PROBLEM = {"network", "training", "observables"}
"""The keys of what is trained and observed."""

KEYS = {
    "map": PROBLEM | {"keep_probs", "multiples", "relaxations", "orders", "rel_tol", "max_paths"},
    "kappa": PROBLEM | {"keep_prob", "lrs", "horizon", "kappas", "tolerance", "rel_tol", "max_paths"},
    "schedule": PROBLEM | {"keep_prob", "lrs", "horizon", "schedules", "orders", "rel_tol", "max_paths"},
    "horizon": PROBLEM | {"keep_prob", "lrs", "times", "multiples"},
    "width": {"keep_prob", "lrs", "horizon", "widths", "orders", "rel_tol", "max_paths"},
    "acceleration": PROBLEM | {"keep_prob", "lrs", "horizon", "factors", "tolerance", "orders", "scheme"},
}
"""The keys that each study reads, beside `SHARED`; the networks of width are its own, and it observes modified_loss."""

READOUT = ("map", "kappa", "schedule", "horizon")
"""Studies of the network beside its readout alone, whose moments are exact."""


@dataclass(frozen=True)
class ScalingConfig(StudyConfig):
    """Study of scaling; further keys are those of weak-error.

    Args:
        study: map, kappa, schedule, horizon, width or acceleration.
        keep_probs: of the map.
        multiples: learning rates in units of the mean-square limit of the readout's iteration: of the map, and of the
            stationary variances of study horizon.
        relaxations: horizon of the map in relaxation times 1/lambda_max.
        kappas: masks a step, at kappa times the learning rate, which divides the horizon.
        tolerance: largest relative error that counts as following (kappa) or as acceptable (acceleration).
        schedules: constant, step, cosine, warm_up, keep_prob.
        times: horizons of study horizon.
        factors: steps of the SDE in learning rates; each step divides the horizon.
        widths: of study width, whose networks are its own.
    """

    study: str = "map"
    lrs: list[float] = field(default_factory=lambda: [0.05])
    observables: list[str] = field(default_factory=lambda: ["modified_loss"])
    max_paths: int = 4096
    keep_probs: list[float] = field(default_factory=lambda: [0.8, 0.3, 0.1, 0.03, 0.01])
    multiples: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.4, 0.8])
    relaxations: float = 1.0
    kappas: list[int] = field(default_factory=lambda: [1, 2, 4, 10, 20])
    tolerance: float = 0.01
    schedules: list[str] = field(default_factory=lambda: ["constant", "step", "cosine", "warm_up", "keep_prob"])
    times: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0, 8.0])
    factors: list[int] = field(default_factory=lambda: [2, 4, 10, 20])
    widths: list[int] = field(default_factory=lambda: [4, 8, 16, 32])

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.study not in KEYS:
            raise ConfigError(f"study must be one of {', '.join(KEYS)}, got {self.study!r}.")
        for entry in dataclasses.fields(self):
            default = entry.default_factory() if entry.default is dataclasses.MISSING else entry.default
            if entry.name not in SHARED | KEYS[self.study] and getattr(self, entry.name) != default:
                raise ConfigError(f"{entry.name} is not read by study {self.study!r}; leave it out.")
        for name in ("lrs", "observables") if self.study != "schedule" else ("observables",):
            if len(getattr(self, name)) != 1:
                raise ConfigError(
                    f"{name} must hold one value for study {self.study!r}, got {getattr(self, name)!r}; keep one."
                )
        for name in {"kappas", "factors"} & KEYS[self.study]:
            for multiple in getattr(self, name):
                grid_steps(self.horizon, multiple * self.lrs[0], "horizon", f"{multiple} lr ({name})")
        if self.study in READOUT and not self.training.closed_form:
            raise ConfigError(
                f"training must be squared_error with dropout on the last hidden layer and no other noise for study "
                f"{self.study!r}, which compares the network with its readout, got {self.training}; leave it out."
            )
