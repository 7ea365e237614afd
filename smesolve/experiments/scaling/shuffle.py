"""The noise of shuffled training, compared with independent batches and with the SDE that is used for both.

Over one epoch of N batches the gradients of shuffled batches add up to N times the gradient of all samples, in any
order, so the noise cancels to leading order: the variance of the parameters falls like lr^3
(`smesolve.problem.shuffled_epochs`). For batches drawn independently, and for the stochastic differential equation with
their covariance, it falls like lr. With Var the total variance E|theta - E theta|^2 at the horizon, the equation
overstates the noise of training by the factor

    ratio = Var_SDE / Var_shuffled = O(lr^-2).                                                            (1)

Time counts epochs: at t = k lr the training has taken k epochs, or k N independent batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from smesolve.confidence import student_quantile
from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cells import Cell, Ensembles, run_cells
from smesolve.experiments.shared.experiment import NetworkExperiment
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.sampling_effort import EFFORT, SamplingEffort, SamplingSettings, check_study
from smesolve.experiments.shared.section import Captioned, ReportedResult, Section, interval, markdown
from smesolve.experiments.shared.settings import TrainingSettings
from smesolve.figures import PAGE, SEQUENCE, Figure, drawing, log_ticks
from smesolve.problem.iteration import iterate
from smesolve.problem.shuffled_epochs import ShuffledEpochs
from smesolve.solver.integration import solve
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.time_grid import grid_steps
from smesolve.validation import check_list, check_positive

__all__ = ["Shuffle", "ShuffleSettings", "ShuffledNoise", "shuffled_noise"]

CAPTION = (
    "Total variance of the parameters at the horizon against the learning rate, with 95% intervals: batches as a "
    "shuffled loader gives them, batches drawn independently, and the usual equation of order 1."
)

ARMS = ("shuffled epochs", "independent batches", "usual SDE")
"""The compared processes. The index of each is added to the root seed, so that their variances are independent."""


@dataclass(frozen=True)
class ShuffleSettings(SamplingSettings):
    """Noise of shuffled training.

    Args:
        training: loss and noise; it needs a batch_size, which divides the number of samples.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob). Default: no dropout.
        lrs: learning rates, each of which divides the horizon.
        horizon: last time T: T/lr epochs.
    """

    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(batch_size=1, shuffle=True))
    keep_prob: float = 1.0
    lrs: list[float] = field(default_factory=lambda: [0.04, 0.02, 0.01])
    horizon: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for lr in self.lrs:
            grid_steps(self.horizon, lr, "horizon", "lr")
        if not self.training.shuffle:
            raise SmesolveError("training.shuffle must be true: this study measures the noise of shuffled training.")


@dataclass(frozen=True, repr=False)
class ShuffledNoise(ReportedResult):
    """Variances of shuffled training, of independent batches and of the usual equation."""

    table: pd.DataFrame
    """One row per arm of `ARMS` and lr: total `variance` of the parameters with `variance_low`, `variance_high`, and
    its `ratio` to the variance of shuffled epochs, with interval."""

    slopes: pd.DataFrame
    """One row per arm and pair of neighbouring learning rates: the local `slope` of log variance in log lr."""

    @drawing()
    def plot(self) -> Figure:
        """Draw the variances against the learning rate."""
        figure = Figure(figsize=(PAGE / 2, 2.9), layout="constrained")
        axis = figure.subplots()
        for style, (arm, part) in zip(SEQUENCE, self.table.groupby("arm", sort=False), strict=False):
            spread = np.array([part.variance - part.variance_low, part.variance_high - part.variance])
            axis.errorbar(part.lr, part.variance, spread, capsize=1.5, label=arm, **style.line_options)
        log_ticks(axis, self.table.lr)
        axis.set(yscale="log", xlabel=r"learning rate $\epsilon$", ylabel=r"$E|\Theta - E\Theta|^2$")
        axis.legend(loc="best")
        return figure

    def conclusion(self) -> str:
        """Return the conclusions, as a list in Markdown."""
        table, slopes = self.table, self.slopes
        usual = table[table.arm == ARMS[2]]
        ratios = "; ".join(f"{interval(row, 'ratio', '.4g')} at lr {row['lr']:g}" for row in usual.to_dict("records"))
        lines = [f"- The usual SDE overstates the variance of shuffled training by a factor of {ratios}."]
        for arm, part in slopes.groupby("arm", sort=False):
            last = part.to_dict("records")[-1]
            lines.append(f"- Variance of {arm}: falls like lr^{interval(last, 'slope')} from lr {last['lrs']}.")
        return "\n".join(lines)


@entry_point
def shuffled_noise(
    problem: ShuffledEpochs,
    theta0: Tensor,
    lrs: Sequence[float],
    horizon: float,
    effort: SamplingEffort = EFFORT,
) -> ShuffledNoise:
    """Measure the variance of the parameters after shuffled epochs, after independent batches, and of their equation.

    Args:
        problem: the problem, whose step is an epoch.
        theta0: start (D,).
        lrs: learning rates, each of which divides the horizon.
        horizon: last time T; training takes T/lr epochs.
        effort: paths, seed, progress bar and processes.

    Raises:
        SmesolveError: invalid arguments, or a learning rate that does not divide the horizon.

    Cost: for each lr, T/lr epochs per path for shuffled and for independent batches, and one step of the equation per
    batch.
    """
    theta0 = check_study(problem, theta0, effort, ShuffledEpochs)
    horizon = check_positive("horizon", horizon)
    for lr in check_list("lrs", lrs, check_positive):
        grid_steps(horizon, lr, "horizon", "lr")
    cells = _cells(problem, theta0, lrs, horizon, effort)
    return _combined(run_cells(cells, progress=effort.progress), effort.paths)


def _cells(
    epochs: ShuffledEpochs, theta0: Tensor, lrs: Sequence[float], horizon: float, effort: SamplingEffort
) -> list[Cell]:
    """Return one cell per arm and learning rate."""
    problem, batches = epochs.independent_batches, epochs.batches

    def shuffled(lr: float, seed: int) -> Tensor:
        steps = round(horizon / lr)
        return iterate(epochs, theta0, lr, steps, effort.paths, seed, save=[steps], workers=effort.workers)

    def independent(lr: float, seed: int) -> Tensor:
        steps = batches * round(horizon / lr)
        return iterate(problem, theta0, lr, steps, effort.paths, seed, save=[steps], workers=effort.workers)

    def scheme_and_step(lr: float) -> tuple[str, float]:
        """Return how the equation is solved. A step of lr by svag would be the iteration itself."""
        return ("small_noise_rk4", lr) if problem.has_closed_form else ("svag", lr / 4)

    def usual(lr: float, seed: int) -> Tensor:
        scheme, step = scheme_and_step(lr)
        equation = ModifiedEquation(problem, lr, order=1)
        times = [0.0, batches * horizon]  # its own time is that of the batches
        paths = solve(
            equation, theta0, times, scheme=scheme, dt=step, paths=effort.paths, seed=seed, workers=effort.workers
        )
        return paths[-1:]

    arms: Sequence[Callable[[float, int], Tensor]] = shuffled, independent, usual

    def row(number: int, lr: float) -> dict[str, Any]:
        variance, stderr = _total_variance(arms[number](lr, effort.seed + number)[0])
        return {"arm": ARMS[number], "lr": lr, "variance": variance, "stderr": stderr}

    cells = []
    for number, arm in enumerate(ARMS):
        for lr in sorted(set(lrs), reverse=True):
            one, time = (epochs, horizon) if arm == ARMS[0] else (problem, batches * horizon)
            equations, scheme, dt = ([1], *scheme_and_step(lr)) if arm == ARMS[2] else ([], None, None)
            ensembles = [
                Ensembles(one, theta0, lr, [time], equations, effort.paths, scheme, dt, control="none", compared=False)
            ]
            cells.append(Cell(f"{arm}, lr {lr!r}", partial(row, number, lr), ensembles))
    return cells


def _total_variance(theta: Tensor) -> tuple[float, float]:
    """Return tr Cov of paths (B, D), and its standard error, computed for the mean of |theta - mean|^2."""
    squares = (theta - theta.mean(0)).square().sum(-1) * (len(theta) / (len(theta) - 1))
    return float(squares.mean()), float(squares.std() / len(theta) ** 0.5)


def _combined(rows: list[dict[str, Any]], paths: int) -> ShuffledNoise:
    """Return the table with intervals, ratios by eq. (1), and local slopes."""
    table, quantile = pd.DataFrame(rows), float(student_quantile(paths - 1))
    # Intervals on a log scale: variances are positive, and their relative errors are similar.
    factor = (quantile * table.stderr / table.variance).map(math.exp)
    table["variance_low"], table["variance_high"] = table.variance / factor, table.variance * factor
    reference = table[table.arm == ARMS[0]].set_index("lr")
    base = table.lr.map(reference.variance)
    table["ratio"] = table.variance / base  # (1)
    spread = ((table.stderr / table.variance) ** 2 + (table.lr.map(reference.stderr) / base) ** 2) ** 0.5
    spread[table.arm == ARMS[0]] = 0.0
    factor = (quantile * spread).map(math.exp)
    table["ratio_low"], table["ratio_high"] = table.ratio / factor, table.ratio * factor
    slopes = []
    for arm, part in table.groupby("arm", sort=False):
        for large, small in zip(part.iloc[:-1].itertuples(), part.iloc[1:].itertuples(), strict=True):
            step = math.log(large.lr / small.lr)
            slope = math.log(large.variance / small.variance) / step
            half = quantile * math.hypot(large.stderr / large.variance, small.stderr / small.variance) / step
            between = f"{large.lr:g} to {small.lr:g}"
            slopes.append(
                {"arm": arm, "lrs": between, "slope": slope, "slope_low": slope - half, "slope_high": slope + half}
            )
    return ShuffledNoise(table, pd.DataFrame(slopes))


@experiment("scaling", "shuffle")
class Shuffle(NetworkExperiment[ShuffleSettings]):
    """The noise of shuffled training, compared with independent batches and the usual equation."""

    Settings = ShuffleSettings
    title = "Learning-rate scaling: shuffle"
    example = "examples/scaling_shuffle.yaml --out results/scaling_shuffle"

    def cells(self) -> list[Cell]:
        """Return one cell per arm and learning rate."""
        s, epochs = self.settings, self.problem
        assert isinstance(epochs, ShuffledEpochs)
        return _cells(epochs, self.theta0, s.lrs, s.horizon, s.effort)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return the section of the variances."""
        result = _combined(results, self.settings.paths)
        tables = {"table": result.table, "slopes": result.slopes}
        figures = {"shuffle": Captioned(result.plot(), CAPTION)}
        text = _report(result, self.settings)
        return [Section("Noise of shuffled training", tables, figures, text, result.conclusion())]


def _report(result: ShuffledNoise, settings: ShuffleSettings) -> str:
    columns, headers = ["arm", "lr", "variance", "ratio"], {"ratio": "ratio to shuffled epochs"}
    return join(
        f"Batches of {settings.training.batch_size}; total variance of the parameters after T/lr epochs, T = "
        f"{settings.horizon:g}, over {settings.paths} paths.",
        markdown(result.table, columns, {"ratio": ".4g"}, headers),
        "## Local slopes",
        markdown(result.slopes, ["arm", "lrs", "slope"], headers={"lrs": "from lr to lr"}),
    )
