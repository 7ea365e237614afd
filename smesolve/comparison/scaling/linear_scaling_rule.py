"""The linear scaling rule: kappa masks a step at kappa lr, against the order-1 equation, which stays what it is.

The equation does not know kappa; the iteration leaves it at its own order, error = c kappa lr + O((kappa lr)^2), with
the leading constant c of the mean flow alone. So the rule holds up to kappa of about tolerance / (|c| lr).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from smesolve.arguments import checked
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.leading_error import first_constants
from smesolve.comparison.observables import Observable, named_observables
from smesolve.comparison.scaling.gradient_flow import flow_change
from smesolve.comparison.scaling.readout_problem import readout_problem
from smesolve.comparison.scaling.sampling_effort import EFFORT, SamplingEffort
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.dropout import DropoutProblem
from smesolve.sampling.progress import hidden

__all__ = ["LinearScalingRule", "linear_scaling_rule"]


@dataclass(frozen=True)
class LinearScalingRule:
    """How far the iteration with kappa masks at kappa lr follows the unchanged equation."""

    table: pd.DataFrame
    """A row for each model ("readout", exact; "network", measured) and kappa: lr (kappa times the first), `relative`
    error with `relative_low`, `relative_high`, `predicted` (leading term), `resolved`, `follows`: True, False, or None
    where the interval holds the tolerance."""

    tolerance: float

    def reach(self) -> pd.DataFrame:
        """Up to which kappa the iteration follows: a row for each model.

        `holds` is the largest kappa up to which every error is inside the tolerance, `fails` the smallest one that is
        not; `kappa`, with `kappa_low`, `kappa_high`, is where the error, interpolated on log scales, reaches the
        tolerance; `predicted` is where the leading term does. NaN outside the measured range.
        """
        rows = []
        for model, group in self.table.groupby("model", sort=False):
            sure = group.follows.map(lambda verdict: verdict is True).cummin()
            broken = group[group.follows.map(lambda verdict: verdict is False)]
            size = group.relative.abs()
            half = (group.relative_high - group.relative_low) / 2
            rows.append(
                {
                    "model": model,
                    "holds": group[sure].kappa.max() if sure.any() else np.nan,
                    "fails": broken.kappa.min() if len(broken) else np.nan,
                    "kappa": _crossing(group.kappa, size, self.tolerance),
                    "kappa_low": _crossing(group.kappa, size + half, self.tolerance),
                    "kappa_high": _crossing(group.kappa, (size - half).clip(lower=1e-300), self.tolerance),
                    "predicted": self.tolerance / (group.predicted / group.kappa).abs().iloc[0],
                }
            )
        return pd.DataFrame(rows)


def _crossing(kappas: pd.Series, sizes: pd.Series, tolerance: float) -> float:
    """The first kappa at which sizes, linear between the points on log scales, reach the tolerance."""
    x, y = np.log(kappas.to_numpy(float)), np.log(sizes.to_numpy() / tolerance)
    for k in range(len(x) - 1):
        if y[k] < 0 <= y[k + 1]:
            return float(np.exp(x[k] - y[k] * (x[k + 1] - x[k]) / (y[k + 1] - y[k])))
    return np.nan


@checked
def linear_scaling_rule(
    problem: DropoutProblem,
    theta0: Tensor,
    lr: float,
    kappas: Sequence[int],
    horizon: float,
    tolerance: float = 0.02,
    observable: str | Observable = "modified_loss",
    effort: SamplingEffort = EFFORT,
) -> LinearScalingRule:
    """Measure the error of the order-1 equation against the iteration with kappa masks at kappa lr.

    Args:
        problem: what is trained.
        theta0: (D,), the start.
        lr: learning rate of one mask a step.
        kappas: masks a step, increasing; kappa lr divides the horizon.
        horizon: last time.
        tolerance: largest relative error that counts as following; relative to the change along the gradient flow.
        observable: whose expectation is compared.
        effort: paths, tolerance, seed, progress bars and processes.

    Raises:
        SmesolveError: bad arguments, a kappa lr that does not divide the horizon or is unstable.

    Cost: horizon/lr gradients a path of the iteration for every kappa.
    """
    kappas = sorted(set(kappas))
    readout, start = readout_problem(problem, theta0)
    (name,) = named_observables(problem, [observable])
    rows = []
    for model, one, at in (("readout", readout, start), ("network", problem, theta0)):
        function = named_observables(one, [observable])[name]
        change = flow_change(one, at, horizon, function)
        constant, _ = first_constants(one, at, horizon, {name: function}, lr)[name]
        for kappa in tqdm(kappas, desc=f"kappa, {model}", disable=hidden(effort.progress)):
            averaged = AveragedProblem(one, kappa)
            if model == "readout":
                error = low = high = LinearMoments(averaged, at).error(kappa * lr, 1, horizon, observable)
                resolved = True
            else:
                study = effort.weak_error(averaged, at, [kappa * lr], [horizon], [1], observable)
                error, low, high, resolved = study.table.iloc[0][["error", "low", "high", "resolved"]]
            row = {"model": model, "kappa": kappa, "lr": kappa * lr, "resolved": bool(resolved)}
            relative = {
                "relative": error,
                "relative_low": low,
                "relative_high": high,
                "predicted": constant * kappa * lr,
            }
            rows.append(row | {name: value / change for name, value in relative.items()})
    table = pd.DataFrame(rows)
    table["follows"] = [
        _verdict(low, high, tolerance) for low, high in zip(table.relative_low, table.relative_high, strict=True)
    ]
    return LinearScalingRule(table, tolerance)


def _verdict(low: float, high: float, tolerance: float) -> bool | None:
    """Whether an error with this interval is inside the tolerance; None where the interval does not say."""
    if max(-low, high) <= tolerance:
        return True
    return False if low > tolerance or high < -tolerance else None
