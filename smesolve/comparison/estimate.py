"""Means of observables over ensembles, with control variates and standard errors.

Antithetic pairs are averaged first: with control variates the odd powers of the noise are most of what is left, and
they cancel in a pair. The coefficients of the control variates come from regression. They are cross-fitted: those used
on one half of the paths were fitted on the other half, so that each term keeps its zero mean exactly and the estimate
its unbiasedness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.draw_control import DrawControl
from smesolve.comparison.observables import Observable
from smesolve.sampling.ensemble import Process, block_of

__all__ = ["Estimate", "Sampler", "difference", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """Means over paths for all saved times and observables; arrays (T, O)."""

    mean: np.ndarray
    stderr: np.ndarray
    """Standard error of `mean`, control variates applied."""
    plain_stderr: np.ndarray
    """Standard error of the plain mean of the same paths."""
    kurtosis: np.ndarray
    """Kurtosis of the averaged values (3 for a normal law); far above 100 the standard error cannot be trusted."""
    paths: int
    diverged: int
    """Paths with a value that is not finite; with one of them the means are NaN."""


class Sampler:
    """Draws blocks of one process and keeps, for each path, the observables and their control variates.

    Memory: paths x T x O x (1 + control variates) numbers; paths themselves are not kept.

    Args:
        process: the iteration or an integration.
        theta0: (D,), the start.
        saved: step numbers of the observations, increasing and positive.
        observables: by name.
        control: control variates, or None.
        label: of the progress bar.
    """

    def __init__(
        self,
        process: Process,
        theta0: Tensor,
        saved: Sequence[int],
        observables: Mapping[str, Observable],
        control: ControlVariate | DrawControl | None,
        label: str = "",
    ) -> None:
        self.process, self.theta0, self.saved = process, theta0, list(saved)
        self.observables, self.control, self.label = dict(observables), control, label
        self._blocks: list[np.ndarray] = []

    @property
    def paths(self) -> int:
        """Paths drawn so far."""
        return len(self._blocks) * self.process.block_size

    @property
    def values(self) -> np.ndarray:
        """(1 + control variates, paths, T, O): observables first."""
        return np.concatenate(self._blocks, axis=1)

    @property
    def independent(self) -> np.ndarray:
        """The same with antithetic pairs averaged, (1 + control variates, paths/2, T, O), or as it is without pairs."""
        if not self.process.antithetic:
            return self.values
        return np.concatenate(
            [block.reshape(block.shape[0], 2, -1, *block.shape[2:]).mean(1) for block in self._blocks], axis=1
        )

    def draw(self, paths: int, progress: bool = False) -> None:
        """Draw whole blocks until at least this many paths are there."""
        blocks = -(-paths // self.process.block_size)
        missing = range(len(self._blocks), blocks)
        for block in tqdm(missing, desc=self.label, unit="block", disable=not progress, leave=False):
            self._blocks.append(self._run(block))

    @torch.no_grad()
    def _run(self, block: int) -> np.ndarray:
        theta = block_of(self.process, self.theta0)
        controls = 0 if self.control is None else self.control.count
        values = theta.new_zeros(1 + controls, self.process.block_size, len(self.saved), len(self.observables))
        row = 0
        for step in range(self.saved[-1]):
            if self.control is None:
                theta = self.process.advance(theta, block, step)
            else:
                taken = self.process.advance_split(theta, block, step)
                self.control.add(values[1:], step, taken)
                theta = taken.state
            if step + 1 == self.saved[row]:
                for column, observable in enumerate(self.observables.values()):
                    values[0, :, row, column] = observable(theta)
                row += 1
        return values.cpu().numpy()


def estimate(sampler: Sampler) -> Estimate:
    """Means and standard errors of everything a sampler has drawn."""
    return _estimate(sampler.independent, sampler.values[0])


def difference(coarse: Sampler, fine: Sampler) -> Estimate:
    """Mean of coarse - fine over the paths that both have drawn, path by path on one Brownian motion."""
    a, b, paths = coarse.independent, fine.independent, min(coarse.paths, fine.paths)
    common = min(a.shape[1], b.shape[1])
    a, b = a[:, :common], b[:, :common]
    with np.errstate(invalid="ignore"):  # diverged paths are counted, not subtracted
        gap = a[:1] - b[:1]
        plain = coarse.values[0, :paths] - fine.values[0, :paths]
    return _estimate(np.concatenate([gap, a[1:], b[1:]]), plain)


def _estimate(values: np.ndarray, plain: np.ndarray) -> Estimate:
    """From independent values (1 + control variates, N, T, O) and the plain values of all paths (paths, T, O)."""
    paths = plain.shape[0]
    diverged = int((~np.isfinite(plain).all(axis=(1, 2))).sum())
    if diverged:
        nothing = np.full(plain.shape[1:], np.nan)
        return Estimate(nothing, nothing, nothing, nothing, paths, diverged)
    adjusted = np.empty_like(values[0])
    for target in np.ndindex(plain.shape[1:]):
        adjusted[:, *target] = _cross_fitted(values[0, :, *target], values[1:, :, *target].T)
    centred = adjusted - adjusted.mean(0)
    variance = (centred**2).mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = np.where(variance > 0, (centred**4).mean(0) / variance**2, 3.0)
    return Estimate(
        mean=adjusted.mean(0),
        stderr=adjusted.std(0, ddof=1) / len(adjusted) ** 0.5,
        plain_stderr=plain.std(0, ddof=1) / paths**0.5,
        kurtosis=kurtosis,
        paths=paths,
        diverged=0,
    )


def _cross_fitted(plain: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """plain - controls @ beta, (N,), with beta for each half of the paths fitted on the other half."""
    if not controls.any():
        return plain
    half = len(plain) // 2
    adjusted = np.empty_like(plain)
    for here, other in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
        centred = controls[other] - controls[other].mean(0)
        beta = np.linalg.lstsq(centred, plain[other] - plain[other].mean(), rcond=None)[0]
        adjusted[here] = plain[here] - controls[here] @ beta
    return adjusted
