"""The studies of learning-rate scaling by name, and their report."""

from __future__ import annotations

from collections.abc import Callable

from smesolve.problem.problem import Problem
from smesolve.study.markdown import join
from smesolve.study.problems import described, outside_theorems
from smesolve.study.scaling_acceleration import acceleration_section
from smesolve.study.scaling_configuration import ScalingConfig
from smesolve.study.scaling_horizon import horizon_section
from smesolve.study.scaling_kappa import kappa_section
from smesolve.study.scaling_map import map_section
from smesolve.study.scaling_schedule import schedule_section
from smesolve.study.scaling_width import width_section
from smesolve.study.section import Section

__all__ = ["STUDIES", "scaling_report"]

STUDIES: dict[str, Callable[[Problem, ScalingConfig], Section]] = {
    "map": map_section,
    "kappa": kappa_section,
    "schedule": schedule_section,
    "horizon": horizon_section,
    "width": width_section,
    "acceleration": acceleration_section,
}


def scaling_report(problem: Problem, config: ScalingConfig, section: Section) -> str:
    """The whole report of one study."""
    files = ", ".join([f"`{name}.csv`" for name in section.tables] + [f"`{name}.png`" for name in section.figures])
    return join(
        f"# Learning-rate scaling: {config.study}",
        "## Conclusion",
        section.conclusion,
        outside_theorems(config, problem),
        section.pictures,
        f"{described(config, problem)} Seed {config.seed}; intervals are 95% intervals.",
        f"## {section.title}",
        section.text.strip(),
        "## Files",
        f"`report.html`: this report in one file, with configuration, seed and versions. {files} "
        "(figures also as PDF); `manifest.json`: configuration, seed, versions, command, wall time.",
    )
