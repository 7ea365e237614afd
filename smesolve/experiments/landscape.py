"""Hessian, noise and flatness of trained networks."""

from __future__ import annotations

from functools import partial
from typing import Any

from smesolve.experiments.shared.cells import Cell, Ensembles
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Section
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_sections import SECTIONS, check_sections

__all__ = ["Landscape"]


@experiment("landscape")
class Landscape(NetworkExperiment[LandscapeConfig]):
    """Hessian, noise and flatness of trained networks."""

    Settings = LandscapeConfig
    title = "Noise and landscape"
    example = "examples/landscape_alignment.yaml --runs 4 --out results/alignment"

    def cells(self) -> list[Cell]:
        """Return a cell for each section."""
        s = self.settings
        check_sections(s.sections)
        training = Ensembles(self.problem, self.theta0, s.lr, [s.steps * s.lr], (), s.runs, control="none")
        return [Cell(name, partial(SECTIONS[name], self.problem, s), [training], kept=False) for name in s.sections]

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the sections."""
        return results

    def caveats(self) -> str:
        """Return what the theorems of weak order do not cover, where an order is measured."""
        return super().caveats() if "implicit_regularisation" in self.settings.sections else ""

    def measured(self) -> str:
        """Return data, network, noise and training in words."""
        s = self.settings
        return (
            f"{super().measured()} lr {s.lr:g}, {s.steps} steps, {s.runs} runs from independent initial points "
            f"(network seeds from {s.network.seed} on), seed {s.seed}. Values stand with 95% intervals, over runs "
            "where no other source is named; where an interval holds the null value, nothing is claimed."
        )

    def dry_run(self) -> dict[str, str]:
        """Return what the training runs take; the measurements are not counted."""
        return super().dry_run() | {"paths": f"{self.settings.runs} trained networks in each section"}
