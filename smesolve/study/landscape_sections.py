"""The sections of a landscape study by name, and its report."""

from __future__ import annotations

from collections.abc import Callable

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.section import Section
from smesolve.problem.dropout import DropoutProblem
from smesolve.study.landscape_alignment import alignment_section
from smesolve.study.landscape_condensation import condensation_section
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_flatness import flatness_section
from smesolve.study.landscape_geometry import geometry_section
from smesolve.study.landscape_noises import noises_section
from smesolve.study.landscape_regularisation import regularisation_section
from smesolve.study.landscape_variance import variance_section

__all__ = ["SECTIONS", "check_sections"]

SECTIONS: dict[str, Callable[[DropoutProblem, LandscapeConfig], Section]] = {
    "alignment": alignment_section,
    "noises": noises_section,
    "variance_principle": variance_section,
    "implicit_regularisation": regularisation_section,
    "flatness": flatness_section,
    "condensation": condensation_section,
    "information_geometry": geometry_section,
}
"""Sections by name."""


def check_sections(names: list[str]) -> None:
    """Refuse names that are not in `SECTIONS`, before anything is computed."""
    for name in names:
        if name not in SECTIONS:
            raise SmesolveError(f"sections holds {name!r}, which is unknown; {nearest_name(name, list(SECTIONS))}.")
