"""Hessian, noise and flatness of trained networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError
from smesolve.experiments.landscape_sections.alignment import Alignment, AlignmentSettings
from smesolve.experiments.landscape_sections.base import LandscapeSection, TrainingRunSettings
from smesolve.experiments.landscape_sections.condensation import Condensation, CondensationSettings
from smesolve.experiments.landscape_sections.flatness import Flatness, FlatnessSettings
from smesolve.experiments.landscape_sections.implicit_regularisation import (
    ImplicitRegularisation,
    ImplicitRegularisationSettings,
)
from smesolve.experiments.landscape_sections.information_geometry import (
    InformationGeometry,
    InformationGeometrySettings,
)
from smesolve.experiments.landscape_sections.noises import Noises, NoisesSettings
from smesolve.experiments.landscape_sections.variance_principle import VariancePrinciple, VarianceSettings
from smesolve.experiments.shared.cell_store import CellStore
from smesolve.experiments.shared.cells import Cell
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Section
from smesolve.validation import check_list

__all__ = ["SECTIONS", "Landscape", "LandscapeSettings"]


@dataclass(frozen=True)
class LandscapeSettings(TrainingRunSettings):
    """Landscape study.

    Args:
        sections: the measurements: alignment, noises, variance_principle, implicit_regularisation, flatness,
            condensation, information_geometry.
        threads: threads of torch. Default: unchanged.
        alignment: options of that section.
        noises: options of that section.
        variance_principle: options of that section.
        implicit_regularisation: options of that section.
        flatness: options of that section.
        condensation: options of that section.
        information_geometry: options of that section.
    """

    sections: list[str] = field(default_factory=lambda: ["alignment"])
    threads: int | None = None
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    noises: NoisesSettings = field(default_factory=NoisesSettings)
    variance_principle: VarianceSettings = field(default_factory=VarianceSettings)
    implicit_regularisation: ImplicitRegularisationSettings = field(default_factory=ImplicitRegularisationSettings)
    flatness: FlatnessSettings = field(default_factory=FlatnessSettings)
    condensation: CondensationSettings = field(default_factory=CondensationSettings)
    information_geometry: InformationGeometrySettings = field(default_factory=InformationGeometrySettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("sections", self.sections, _check_section, distinct=True)


def _check_section(name: str, section: Any) -> str:
    """Return the name of a section."""
    if not isinstance(section, str) or section not in SECTIONS:
        raise SmesolveError(f"{name} is {section!r}, which is unknown; {nearest_name(str(section), list(SECTIONS))}.")
    return section


SECTIONS: dict[str, type[LandscapeSection[Any]]] = {
    section.name: section
    for section in (
        Alignment,
        Noises,
        VariancePrinciple,
        ImplicitRegularisation,
        Flatness,
        Condensation,
        InformationGeometry,
    )
}
"""Sections by name."""


@experiment("landscape")
class Landscape(NetworkExperiment[LandscapeSettings]):
    """Hessian, noise and flatness of trained networks."""

    Settings = LandscapeSettings
    title = "Noise and landscape"
    example = "examples/landscape_alignment.yaml --runs 4 --out results/alignment"

    def _planned(self) -> list[tuple[LandscapeSection[Any], list[Cell]]]:
        """Return the chosen sections, each with its cells."""
        store = None if self.journal is None else CellStore(self.journal)
        sections = [SECTIONS[name](self.dropout_problem, self.settings, store) for name in self.settings.sections]
        return [(section, section.cells()) for section in sections]

    def cells(self) -> list[Cell]:
        """Return the cells of all sections."""
        return [cell for _, cells in self._planned() for cell in cells]

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the sections."""
        left = iter(results)
        return [section.summarise(list(islice(left, len(cells)))) for section, cells in self._planned()]

    def caveats(self) -> str:
        """Return the limits of the theorems of weak order, where an order is measured."""
        return super().caveats() if "implicit_regularisation" in self.settings.sections else ""

    def measured(self) -> str:
        """Return data, network, noise and training in words."""
        s = self.settings
        return (
            f"{super().measured()} lr {s.lr:g}, {s.steps} steps, {s.runs} runs from independent initial points "
            f"(network seeds from {s.network.seed} on). Values have 95% intervals, over runs where no "
            "other source is named; where an interval contains the null value, nothing is claimed."
        )

    def dry_run(self, overhead: float = 0.0) -> dict[str, str]:
        """Return the cost of the training runs and ensembles, without that of the measurements."""
        return super().dry_run(overhead) | {"paths": f"{self.settings.runs} trained networks in each section"}
