"""Observables along paths: their statistics at saved steps, as a table, without keeping the paths.

A block of paths is reduced to its moments in the process that runs it, so that memory does not depend on the number of
paths, and depends on the number of steps through the rows of the table only. Blocks are merged in their order, so that
a table is the same, bit for bit, for any number of processes.

The mean of N independent values with standard deviation s and skewness gamma has the 95% interval

    mean -+ s/sqrt(N) [ t_{N-1} + (2 z^2 + 1)/6 |gamma|/sqrt(N) ],                                            (1)

with Student's quantile t, the normal quantile z, and the shift of the quantile by the skewness (Hall, The Bootstrap and
Edgeworth Expansion, 1992, section 2.6). No interval is reliable where so few paths carry the mean that a sample does
not determine it; the column `reason` says so by the verdict of tables of weak errors (`smesolve.sampling.heavy_tails`).
Quantiles are taken from the first paths, or from all paths if there are few: paths are independent, so the first ones
are a random sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smesolve.confidence import NORMAL_QUANTILE, student_quantile
from smesolve.sampling.ensemble import Chain, block_of, check_block_steps, in_lists, warn_of_divergence
from smesolve.sampling.heavy_tails import HEAVY_TAILS, shape_of, shortage_of
from smesolve.sampling.progress import Progress
from smesolve.sampling.runner import Arrays, Runner
from smesolve.sampling.scaled_moments import ScaledMoments

__all__ = ["DEGREE", "QUANTILES", "SKEW_SHIFT", "mean_columns", "observed_paths"]

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
"""Names of the columns of quantiles, and their probabilities."""

MOST_KEPT = 2**12
"""Largest number of paths from which the quantiles of one row are taken."""

KEPT_IN_ALL, FEWEST_KEPT = 2**22, 2**8
"""Values kept for the quantiles of all rows together (32 MiB), and the smallest number per row, which comes first."""

SKEW_SHIFT = (2 * NORMAL_QUANTILE**2 + 1) / 6
"""Shift of the quantile in (1), in units of the skewness gamma/sqrt(N) of the mean."""

DEGREE = 4
"""Highest degree of the moments that are kept."""

ROUNDINGS = 64
"""Spread in units of rounding of the largest value up to which it may be rounding, which says nothing about tails."""


@dataclass(frozen=True)
class _Observed:
    """Blocks of paths as moments of their observables, and the values of the first paths."""

    process: Chain
    theta0: Tensor
    saved: Sequence[int]
    first: int
    paths: int
    observables: Mapping[str, Callable[[Tensor], Tensor]]
    kept: int
    """Number of paths whose values are kept."""
    in_threads: ClassVar[bool] = False
    """Observables are any functions, which threads need not be able to share."""

    @property
    def cost(self) -> float:
        return float((self.saved[-1] - self.first) * self.process.block_size)

    @torch.no_grad()
    def run(self, block: int) -> Arrays:
        """Return packed moments (2 + DEGREE, T O), kept values (T, O, k), and numbers of lost paths (T, O)."""
        size = self.process.block_size
        count, kept = (min(size, most - block * size) for most in (self.paths, self.kept))
        theta, row, shape = block_of(self.process, self.theta0), 0, (len(self.saved), len(self.observables))
        values = np.empty((*shape, max(kept, 0)))
        lost = np.zeros(shape)
        moments = np.empty((*shape, 2 + DEGREE))
        for step in range(self.first, self.saved[-1] + 1):
            if step == self.saved[row]:
                diverged = ~theta[:count].isfinite().all(-1)
                found = torch.stack([observable(theta)[:count] for observable in self.observables.values()])
                numbers = found.to(torch.float64).masked_fill(diverged, torch.nan).cpu().numpy()
                lost[row] = (~np.isfinite(numbers)).sum(1)
                moments[row] = ScaledMoments.of(numbers.T, DEGREE).packed().T
                values[row] = numbers[:, : values.shape[2]]
                row += 1
            if step < self.saved[-1]:
                theta = self.process.advance(theta, block, step)
        return {"moments": moments.reshape(-1, 2 + DEGREE).T, "values": values, "lost": lost}


def observed_paths(
    process: Chain,
    theta0: Tensor,
    paths: int,
    saved: Sequence[int],
    times: Sequence[float],
    observables: Mapping[str, Callable[[Tensor], Tensor]],
    workers: int | None = None,
    first: int = 0,
) -> pd.DataFrame:
    """Run paths from theta0 (D,) and return the statistics of observables at the saved step numbers.

    The table is that of `smesolve.iterate`, with `times` as the times of the saved steps and intervals by (1). With a
    lost path all statistics of a row are NaN, with a single path all but mean and quantiles. `first` is the step number
    at which the paths start, and `workers` is as for `run_blocks`.

    Warns:
        DivergenceWarning: with the number of paths that are not finite at the last saved step.
    """
    shape = len(saved), len(observables)
    kept = min(paths, MOST_KEPT, max(FEWEST_KEPT, KEPT_IN_ALL // (shape[0] * shape[1])))
    blocks = -(-paths // process.block_size)
    check_block_steps(
        f"{paths} paths of {saved[-1]} steps", blocks * (saved[-1] - first), workers, "take fewer paths, or fewer steps"
    )
    work = _Observed(process, theta0, saved, first, paths, observables, kept)
    total, lost, parts = None, np.zeros(shape), []
    with np.errstate(invalid="ignore", over="ignore"), Progress(False, blocks * work.cost) as bar:
        for tasks in in_lists(("observables", block) for block in range(blocks)):
            for arrays in Runner(workers, None, bar).results({"observables": work}, tasks):
                moments = ScaledMoments.unpacked(arrays["moments"], DEGREE)
                total = moments if total is None else total.merged(moments)
                lost += arrays["lost"]
                if arrays["values"].size:
                    parts.append(arrays["values"])
        assert total is not None  # there is at least one path
        precision = torch.finfo(theta0.dtype).eps
        table = _table(total, np.concatenate(parts, axis=2).reshape(-1, kept), lost.reshape(-1), precision)
    if lost[-1].any():
        warn_of_divergence(
            f"{int(lost[-1].max())} of {paths} paths diverged before step {saved[-1]}, or have an observable that is "
            "not finite: a mean over them means nothing; lower lr.",
            stacklevel=5,  # the user's call, past the decorators of the public function
        )
    table.insert(0, "time", np.repeat(np.asarray(times, dtype=float), shape[1]))
    table.insert(1, "observable", list(observables) * shape[0])
    return table


def mean_columns(scaled: ScaledMoments, precision: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the statistics of one variable at P points, each (P,), from moments up to degree 4.

    Args:
        scaled: the moments.
        precision: machine epsilon of the values.

    Returns:
        mean, stderr, low and high (1), and std; and whether so few values carry the mean that no interval is reliable.
    """
    moments = scaled.moments
    count, mean, squares = moments.count, moments.mean[0], moments.sums[0][0].clip(min=0)
    spread = (squares / (count - 1)) ** 0.5 if count > 1 else np.full_like(mean, np.nan)
    skewness, _ = shape_of(moments)
    stderr = spread / count**0.5
    quantile = student_quantile(count - 1) if count > 1 else np.nan
    half = stderr * (quantile + SKEW_SHIFT * np.abs(skewness) / count**0.5)  # (1)
    columns = {"mean": mean, "stderr": stderr, "low": mean - half, "high": mean + half, "std": spread}
    heavy = (shortage_of(moments) > 1) & (spread > ROUNDINGS * precision)
    return {name: np.ldexp(column, scaled.exponent) for name, column in columns.items()}, heavy


def _table(moments: ScaledMoments, values: np.ndarray, lost: np.ndarray, precision: float) -> pd.DataFrame:
    """Return the statistics of each row from its moments, its kept values (R, k), and its lost paths (R,)."""
    columns, heavy = mean_columns(moments, precision)
    columns |= dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=1), strict=True))
    table = pd.DataFrame({name: np.where(lost > 0, np.nan, column) for name, column in columns.items()})
    reason = np.where(heavy & ~(lost > 0), HEAVY_TAILS, "")
    paths = moments.moments.count
    return table.assign(paths=paths, quantile_paths=values.shape[1], lost=lost.astype(int), reason=reason)
