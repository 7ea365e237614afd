"""The sections of a landscape study by name, and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from smesolve.problem.dropout import DropoutProblem
from smesolve.study.configuration_errors import ConfigError, nearest
from smesolve.study.landscape_alignment import alignment_section
from smesolve.study.landscape_condensation import condensation_section
from smesolve.study.landscape_configuration import LandscapeConfig
from smesolve.study.landscape_flatness import flatness_section
from smesolve.study.landscape_geometry import geometry_section
from smesolve.study.landscape_noises import noises_section
from smesolve.study.landscape_regularisation import regularisation_section
from smesolve.study.landscape_variance import variance_section
from smesolve.study.markdown import join
from smesolve.study.problems import described, outside_theorems
from smesolve.study.section import Section

__all__ = ["SECTIONS", "check_sections", "landscape_report"]

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
            raise ConfigError(f"sections holds {name!r}, which is unknown; {nearest(name, list(SECTIONS))}.")


def landscape_report(problem: DropoutProblem, config: LandscapeConfig, sections: Mapping[str, Section]) -> str:
    """What was measured, section by section."""
    conclusions, details = [], []
    for section in sections.values():
        files = ", ".join(f"`{table}.csv`" for table in section.tables)
        figures = ", ".join(f"`{figure}.png`, `{figure}.pdf`" for figure in section.figures)
        conclusions += [f"**{section.title}**" if len(sections) > 1 else "", section.conclusion]
        details += [
            f"## {section.title}",
            section.pictures,
            section.text,
            f"Data: {files}; figure: {figures}.",
        ]
    return join(
        "# Noise and landscape",
        "## Conclusion",
        "Values stand with 95% intervals, over runs unless another source is named; where an interval holds the null "
        "value, nothing is claimed.",
        *conclusions,
        outside_theorems(config, problem) if "implicit_regularisation" in sections else "",
        "## What was measured",
        f"{described(config, problem)} lr {config.lr:g}, {config.steps} steps, {config.runs} runs from independent "
        f"initial points (network seeds from {config.network.seed} on), seed {config.seed}.",
        *details,
        "`report.html` is this report in one file, with configuration, seed and versions.",
    )
