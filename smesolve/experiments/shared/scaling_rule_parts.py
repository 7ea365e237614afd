"""Result of the study of scaling rules: tables, figure and words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smesolve.comparison.optimizer_rules import OptimizerRule
from smesolve.experiments.shared.error_curves import curve
from smesolve.experiments.shared.reach import reach
from smesolve.experiments.shared.section import ReportedResult, interval
from smesolve.figures import PAGE, SEQUENCE, drawing, log_ticks

__all__ = ["CAPTION", "GROUP", "ScalingRuleStudy"]

CAPTION = (
    "|relative change| of the mean at the horizon against kappa, draws that a step averages, with 95% intervals, "
    "hollow if the interval contains 0; one panel per noise. Dotted grey: the tolerance; vertical: the noise scale."
)

GROUP = ["noise", "keep_prob", "lr", "rule"]
"""Columns that identify a curve."""


@dataclass(frozen=True, repr=False)
class ScalingRuleStudy(ReportedResult):
    """How far the iteration follows the scaling rules of its optimiser."""

    rules: tuple[OptimizerRule, ...]
    """The derived rules."""
    table: pd.DataFrame
    """One row per noise, keep_prob, lr, rule and kappa: `scaled_lr`, the learning rate with kappa draws per step,
    `relative` change with `relative_low`, `relative_high`, `resolved`, and `follows`: True, False, or None if the
    interval contains the tolerance."""
    noises: pd.DataFrame
    """One row per noise and keep_prob: `noise_scale` at the start with its interval."""
    tolerance: float

    def reach(self) -> pd.DataFrame:
        """Return up to which kappa the iteration follows, one row per noise, keep_prob, lr and rule.

        Columns: `noise_scale`; `holds`, the largest kappa up to which every change is within the tolerance; `fails`,
        the smallest kappa with a change beyond it; and `kappa`, with `kappa_low`, `kappa_high`, where the change,
        interpolated on log scales, reaches the tolerance. NaN outside the measured range.
        """
        rows = [
            dict(zip(GROUP, values, strict=True)) | reach(group, self.tolerance, below=1.0)
            for values, group in self.table.groupby(GROUP, sort=False, dropna=False)
        ]
        return pd.DataFrame(rows).merge(self.noises, on=["noise", "keep_prob"], how="left")

    @drawing()
    def plot(self) -> Figure:
        """Draw relative changes against kappa, one panel per noise."""
        noises = list(self.table.noise.unique())
        several = {name for name in ("keep_prob", "lr") if self.table[name].nunique() > 1}
        figure = Figure(figsize=(PAGE * (0.5 if len(noises) == 1 else 1), 2.9), layout="constrained")
        axes = figure.subplots(1, len(noises), squeeze=False, sharey=True)[0]
        for axis, noise in zip(axes, noises, strict=True):
            curves = self.table[self.table.noise == noise].groupby(GROUP[1:], sort=False, dropna=False)
            for number, (values, part) in enumerate(curves):
                named = dict(zip(GROUP[1:], values, strict=True))
                label = ", ".join([str(named["rule"]), *(f"{name} {named[name]:g}" for name in sorted(several))])
                curve(axis, part.kappa, part, SEQUENCE[number % len(SEQUENCE)], label)
            for scale in self.noises[self.noises.noise == noise].noise_scale:
                if self.table.kappa.min() <= scale <= self.table.kappa.max():
                    axis.axvline(scale, color="0.7", linewidth=0.6)
            axis.axhline(self.tolerance, color="0.5", linestyle=":")
            log_ticks(axis, self.table.kappa)
            axis.set(yscale="log", xlabel=r"draws per step $\kappa$")
            axis.set_title(noise, loc="left")
            axis.legend(loc="best", fontsize=6)
        axes[0].set_ylabel("|relative change| of the mean")
        return figure

    def conclusion(self) -> str:
        """Return the derived rules, and how far the iteration follows each of them."""
        lines = [
            f"- Derived: {rule.regime}, the equation of order 1 stays the same with {rule}." for rule in self.rules
        ]
        if len(self.rules) > 1:
            lines.append(
                "- In between no powers of kappa leave it unchanged, as second moments contain the squares of gradient "
                "and noise. Where noise dominates, the noise of the second moments themselves, which grows with kappa, "
                "is neglected."
            )
        for row in self.reach().to_dict("records"):
            holds, fails = row["holds"], row["fails"]
            words = f"follows up to kappa = {holds:g}" if np.isfinite(holds) else "follows at no kappa that was tried"
            words += f", no longer at {fails:g}" if np.isfinite(fails) else ""
            if np.isfinite(row["kappa"]):
                words += f"; its change reaches the tolerance at kappa = {interval(row, 'kappa')}"
            under = row["noise"] + ("" if np.isnan(row["keep_prob"]) else f", keep_prob {row['keep_prob']:g}")
            lines.append(
                f"- {under}, lr {row['lr']:g}, noise scale {interval(row, 'noise_scale')}: by the {row['rule']} rule "
                f"the iteration {words}."
            )
        return "\n".join(lines)
