"""The mean loss under a modified equation by quasi-Monte Carlo, where no exact mean is known and plain paths are noisy.

The normals of all steps are scrambled Sobol points (Owen, SIAM J. Numer. Anal. 34, 1997). A discrete cosine transform
over the steps puts the displacement over the whole horizon into the first coordinates, which are the most even ones,
and of these the leading singular vectors of the noise at the start come first. Paths come in antithetic pairs, and the
control variates of second order are subtracted with coefficients of one, so that what the points integrate is of higher
order in the noise. Each scrambling is an unbiased estimate of the mean under the scheme; several give the standard
error.

The scheme is small-noise RK4 at two steps, dt and dt/2, on the same Brownian motion. Where the leading term of its weak
error, lr dt^2, is most of it, the mean at dt/2 lacks a third of the difference of both means, which is added. The bound
on what remains is two thirds of the difference: that is right for an error of first order in dt.

    python benchmarks/equation_mean.py [--out equation_mean.json]

compares it with exact moments of a linear readout: `difference` is in units of the root of the squares of `stderr` and
`bias`.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import harness
import numpy as np
import pandas as pd
import torch
from scipy.fft import idct
from scipy.special import ndtri
from scipy.stats import qmc
from torch import Tensor

import smesolve as sme
from smesolve.comparison.control_variate import control_of
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.sampler import Sampler
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.observables import named_observables
from smesolve.solver.integration import Integration

__all__ = ["EquationMean", "SobolBrownian", "equation_mean"]

SCHEME = "small_noise_rk4"


class SobolBrownian:
    """Brownian paths in antithetic pairs from the points of one scrambling, on a grid of n steps.

    Args:
        factor: C (D, M) at the start; its leading directions take the leading coordinates.
        pairs: number of pairs, a power of two.
        horizon: last time.
        steps: n.
        seed: of the scrambling.
    """

    def __init__(self, factor: Tensor, pairs: int, horizon: float, steps: int, seed: int) -> None:
        noise_dim = factor.shape[-1]
        self.shape = 2 * pairs, noise_dim
        points = qmc.Sobol(noise_dim * steps, rng=np.random.default_rng([seed, steps])).random(pairs)
        normals = ndtri(np.clip(points, 2.0**-53, 1 - 2.0**-53)).reshape(pairs, steps, noise_dim)
        self._dt = horizon / steps
        directions = torch.linalg.svd(factor).Vh  # orthogonal: what it turns are independent normals again
        self._increments = torch.from_numpy(self._dt**0.5 * idct(normals, axis=1, norm="ortho")) @ directions

    def __call__(self, ta: float, tb: float) -> Tensor:
        """Increments (B, M) over [ta, tb], whose ends are on the grid."""
        increments = self._increments[:, round(ta / self._dt) : round(tb / self._dt)].sum(1)
        return torch.cat([increments, -increments])


class EquationMean(NamedTuple):
    """A mean with its standard error and a bound on what is left of the scheme's bias."""

    value: float
    stderr: float
    bias: float


@torch.no_grad()
def equation_mean(
    problem: sme.Problem,
    theta0: Tensor,
    lr: float,
    order: int,
    horizon: float,
    pairs: int = 512,
    scramblings: int = 8,
    steps_per_lr: int = 2,
) -> EquationMean:
    """Mean loss at the horizon under the equation of an order, at dt = lr / steps_per_lr and half of it."""
    means = np.array(list(_means(problem, theta0, lr, order, horizon, pairs, scramblings, steps_per_lr)))
    coarse, fine = means.T
    corrected = fine + (fine - coarse) / 3
    stderr = corrected.std(ddof=1) / scramblings**0.5
    return EquationMean(float(corrected.mean()), float(stderr), float(2 / 3 * abs((fine - coarse).mean())))


def _means(
    problem: sme.Problem,
    theta0: Tensor,
    lr: float,
    order: int,
    horizon: float,
    pairs: int,
    scramblings: int,
    steps_per_lr: int,
) -> Iterator[tuple[float, float]]:
    """Means at both steps for each scrambling."""
    observables, equation = named_observables(problem, ["loss"]), sme.ModifiedEquation(problem, lr, order)
    hessians = value_hessians(problem, theta0, [horizon], observables, lr)
    steps = round(horizon / lr) * steps_per_lr
    design = StudyDesign(problem, theta0, [lr], [horizon], [order], observables, SCHEME, horizon / steps, "second")
    for seed in range(scramblings):
        brownian = SobolBrownian(problem.noise_factor(theta0), pairs, horizon, 2 * steps, seed)
        found = []
        for n in (steps, 2 * steps):
            process = Integration(equation, theta0, SCHEME, horizon / n, antithetic=True, bm=brownian)
            control = control_of(design, process, [n], lr, horizon / n, hessians)
            found.append(float(Sampler(process, theta0, [n], observables, control).values(0)[1].mean()))
        yield found[0], found[1]


def main() -> None:
    given = harness.parser(__doc__).parse_args()
    rows = []
    for keep_prob, lr, order in product((0.8, 0.5), (0.1, 0.05), (1, 2)):
        problem, theta0 = harness.linear_problem(keep_prob)
        found = equation_mean(problem, theta0, lr, order, 0.5)
        exact = LinearMoments(problem, theta0).equation(lr, order, 0.5)
        difference = (found.value - exact) / np.hypot(found.stderr, found.bias)
        row = {"keep_prob": keep_prob, "lr": lr, "order": order, "exact": exact}
        rows.append(row | found._asdict() | {"difference": difference})
    print(harness.shown(pd.DataFrame(rows), 6))
    harness.write(given.out, rows)


if __name__ == "__main__":
    main()
