"""Convergence of solvers of an SDE: weak or strong errors against the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from smesolve.comparison.convergence import block_size, common_grid, convergence
from smesolve.comparison.convergence_study import ConvergenceStudy
from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.dry_run import memory_in_words, time_in_words
from smesolve.experiments.shared.experiment import Experiment
from smesolve.experiments.shared.markdown import join, plain
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sde_expressions import TEST_EQUATIONS, ExpressionSDE, torch_function
from smesolve.experiments.shared.section import Captioned, Section, markdown
from smesolve.experiments.shared.settings import StudySettings, check_string
from smesolve.experiments.shared.stopwatch import idle_seconds
from smesolve.result import sentences
from smesolve.solver.sde_contract import NOISE_TYPES, CompletedSDE
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_choice, check_list, check_number, check_positive

__all__ = ["Convergence", "ConvergenceSettings"]

CAPTION = (
    "Left: |error| against the step, with 95% intervals and fitted orders. Right: |error| against the seconds that the "
    "solver took. Hollow: not resolved. One row of panels per observable."
)

CUSTOM = "custom"

CUSTOM_KEYS = ("state", "drift", "diffusion", "calculus", "noise")


@dataclass(frozen=True)
class ConvergenceSettings(StudySettings):
    """Convergence.

    Args:
        sde: geometric, hyperbolic, ornstein-uhlenbeck or double-well, of one variable y, or custom.
        state: names of the variables, for custom.
        drift: one expression per variable, in the variables and the time t, for custom.
        diffusion: one entry per variable, with one expression per Brownian motion, separated by semicolons, for custom.
        calculus: ito or stratonovich, for custom.
        noise: general, additive, scalar or diagonal (one Brownian motion per variable), for custom.
        start: values of the variables at t = 0. Default: the start of the test equation.
        horizon: last time T.
        dts: steps; each divides the horizon.
        schemes: solvers of smesolve (euler, small_noise_heun, small_noise_rk4) and of torchsde (milstein, srk; heun,
            midpoint, euler_heun, reversible_heun for stratonovich).
        observables: expressions in the variables.
        exact: expectations of the observables at T, for weak errors. Default: the exact solution of a test equation,
            if it has one.
        reference_scheme: solver of the reference solution, in place of exact values.
        reference_dt: step of the reference solution.
        error: weak or strong.
        paths: number of independent paths.
        seed: root seed of the Brownian motions.
        threads: threads of torch, divided among the workers. Default: left as they are.
        workers: processes that share the paths; errors do not depend on them. Default: only this one.
    """

    sde: str = "geometric"
    state: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    diffusion: list[str] = field(default_factory=list)
    calculus: str = "ito"
    noise: str = "general"
    start: list[float] | None = None
    horizon: float = 1.0
    dts: list[float] = field(default_factory=lambda: [0.25, 0.125, 0.0625, 0.03125])
    schemes: list[str] = field(default_factory=lambda: ["euler", "milstein", "srk"])
    observables: list[str] = field(default_factory=lambda: ["y"])
    exact: list[float] | None = None
    reference_scheme: str | None = None
    reference_dt: float | None = None
    error: str = "weak"
    paths: int = 4096
    seed: int = 0
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sde not in (*TEST_EQUATIONS, CUSTOM):
            raise SmesolveError(f"sde {self.sde!r} is unknown; {nearest_name(self.sde, [*TEST_EQUATIONS, CUSTOM])}.")
        for name in ("state", "drift", "diffusion"):
            check_list(name, getattr(self, name), check_string, least=int(self.sde == CUSTOM))
        check_choice("calculus", self.calculus, ("ito", "stratonovich"))
        check_choice("noise", self.noise, NOISE_TYPES)
        unread = [key for key in CUSTOM_KEYS if getattr(self, key) != getattr(ConvergenceSettings, key, [])]
        if self.sde != CUSTOM and unread:
            raise SmesolveError(f"{unread[0]} is not read by sde={self.sde}; leave it out, or take sde=custom.")
        if self.start is not None:
            check_list("start", self.start, check_number, size=len(self.state) if self.sde == CUSTOM else 1)
        elif self.sde == CUSTOM:
            raise SmesolveError("start is missing; sde=custom needs the values of the variables at t = 0.")
        check_list("dts", self.dts, check_positive)
        check_list("schemes", self.schemes, check_string)
        if self.exact is not None:
            check_list("exact", self.exact, check_number, size=len(self.observables))
        if (self.reference_scheme is None) != (self.reference_dt is None):
            given = "reference_scheme" if self.reference_dt is None else "reference_dt"
            raise SmesolveError(f"{given} is given alone; give both reference_scheme and reference_dt, or neither.")
        if self.exact is not None and self.reference_scheme is not None:
            raise SmesolveError("exact and reference_scheme are both given; leave one of them out.")
        if self.reference_dt is not None:
            grid_steps(self.horizon, self.reference_dt, "horizon", "reference_dt")
        check_choice("error", self.error, ("weak", "strong"))


@experiment("convergence")
class Convergence(Experiment[ConvergenceSettings]):
    """Weak or strong errors of solvers of an SDE against their step."""

    Settings = ConvergenceSettings
    title = "Convergence of solvers of an SDE"
    example = "--sde geometric --error strong --out results/convergence"

    @property
    def state(self) -> list[str]:
        """Names of the variables."""
        return self.settings.state if self.settings.sde == CUSTOM else ["y"]

    @cached_property
    def sde(self) -> nn.Module:
        """The SDE of the settings."""
        s = self.settings
        if s.sde == CUSTOM:
            rows = [[entry.strip() for entry in row.split(";")] for row in s.diffusion]
            return ExpressionSDE(s.state, s.drift, rows, s.calculus, s.noise)
        test = TEST_EQUATIONS[s.sde]
        return ExpressionSDE(["y"], [test.drift], [[test.diffusion]], "ito", test.noise)

    def cells(self) -> list[Cell]:
        """Return the only cell, because all solvers use the same Brownian paths."""
        arguments = self._arguments()
        return [Cell("errors", lambda: _kept(convergence(**arguments)))]

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of `convergence`."""
        s = self.settings
        sde = self.sde
        start = s.start or [TEST_EQUATIONS[s.sde].start]
        observables = {text: _observable(k, text, self.state) for k, text in enumerate(s.observables)}
        if len(observables) < len(s.observables):
            raise SmesolveError("observables must hold different expressions; leave out repeated ones.")
        names = ("horizon", "dts", "schemes", "error", "seed", "paths", "workers")
        return {name: getattr(s, name) for name in names} | {
            "sde": sde,
            "theta0": torch.tensor(start, dtype=torch.float64),
            "observables": observables,
            "reference": self._reference(observables),
        }

    def _reference(self, observables: dict[str, Callable[[Tensor], Tensor]]) -> Any:
        s = self.settings
        if s.reference_scheme is not None:
            return s.reference_scheme, s.reference_dt
        if s.exact is not None:
            return dict(zip(observables, s.exact, strict=True))
        exact = None if s.sde == CUSTOM else TEST_EQUATIONS[s.sde].exact
        if exact is None or s.start is not None:
            raise SmesolveError(
                f"sde={s.sde} has no known exact solution{' from this start' if exact else ''}; give exact, or "
                "reference_scheme and reference_dt, such as srk and an eighth of the smallest of dts."
            )
        solution, horizon = exact, s.horizon
        return {
            text: lambda W, observable=observable: observable(solution(W, horizon))
            for text, observable in observables.items()
        }

    def measured(self) -> str:
        """Return the equation in words."""
        s = self.settings
        if s.sde != CUSTOM:
            return plain(f"{TEST_EQUATIONS[s.sde].words}, from {(s.start or [TEST_EQUATIONS[s.sde].start])[0]:g}.")
        start = ", ".join(f"{value:g}" for value in s.start or [])
        return plain(
            f"{s.calculus.capitalize()} SDE of {', '.join(s.state)}: drift {', '.join(s.drift)}; diffusion "
            f"{', '.join(s.diffusion)}; {s.noise} noise; from {start}."
        )

    def dry_run(self, overhead: float = 0.0) -> dict[str, str]:
        """Return steps, paths, and the time estimated from one block, after the checks of `convergence`."""
        s, arguments = self.settings, self._arguments()
        one_block = arguments | {"paths": 2, "workers": None}
        seconds = idle_seconds(lambda: convergence(**one_block, progress=False))
        noise_dim = CompletedSDE(self.sde, arguments["theta0"]).noise_dim
        steps = sorted(round(s.horizon / dt) for dt in s.dts)
        last = [round(s.horizon / s.reference_dt)] if s.reference_dt else []
        blocks = -(-s.paths // block_size(common_grid([*steps, *last], s.horizon), noise_dim))
        return {
            "problem": sentences(self.measured()),
            "cells": "1",
            "D": str(len(self.state)),
            "M": str(noise_dim),
            "steps": f"{', '.join(map(str, steps))} of each of {len(s.schemes)} solvers"
            + (f", and {last[0]} of the reference" if last else ""),
            "paths": str(s.paths),
            "time": time_in_words({"paths": seconds * blocks / (s.workers or 1)}, overhead),
            "memory": memory_in_words(0.0, s.workers),
        }

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return orders, errors and the work-precision figure."""
        (kept,) = results
        study = ConvergenceStudy(**kept)
        head, *lines = study.summary().splitlines()
        errors = study.table.rename(columns={"low": "error_low", "high": "error_high"})
        text = join(
            "Errors; all solvers and steps use the same Brownian paths.",
            markdown(errors, ["scheme", "dt", "observable", "error", "seconds", "resolved", "reason"]),
            "## Orders",
            markdown(study.fit(), ["scheme", "observable", "order", "declared", "points", "p_value", "verdict"]),
        )
        conclusion = join(plain(head), "\n".join(f"- {plain(line)}" for line in lines))
        figures = {"convergence": Captioned(study.plot(), CAPTION)}
        return [Section("Orders of convergence", {"table": study.table, "fit": study.fit()}, figures, text, conclusion)]


def _observable(number: int, text: str, state: list[str]) -> Callable[[Tensor], Tensor]:
    values = torch_function({f"observables[{number}]": text}, state)
    return lambda y: values(0.0, y)[..., 0]


def _kept(study: ConvergenceStudy) -> dict[str, Any]:
    """Return the content of a study in a form that can be kept on disk."""
    names = ("table", "kind", "horizon", "reference", "declared")
    return {name: getattr(study, name) for name in names}
