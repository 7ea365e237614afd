"""Euler steps with a drift that is itself sampled."""

from __future__ import annotations

from smesolve.errors import SmesolveError
from smesolve.solver.schemes.gradient_scheme import GradientScheme

__all__ = ["SampledEuler"]

DRIFT_DRAWS = 2
"""R, over which the drift is averaged."""


class SampledEuler(GradientScheme):
    """Drift from the mean of R = 2 gradients, noise from the difference of two more: weak error O(dt).

    y1 = y - dt/R sum_r g_r + sqrt(lr dt - dt^2/R) (g - g')/sqrt(2). The sampled drift has a covariance of its own,
    dt^2 Sigma / R; the noise is reduced by as much, so that the step's covariance is lr dt Sigma exactly. The third
    cumulant of a step is that of the drift only, dt^3/R^2, smaller than SVAG's by the order of lr/dt.
    """

    drift_evaluations = DRIFT_DRAWS + 2

    @staticmethod
    def weights(ratio: float) -> tuple[list[float], list[float]]:
        """Return (1/R, ..., 1/R, 0, 0) and (0, ..., 0, c, -c) with 2 c^2 = lr/dt - 1/R."""
        spare = ratio - 1 / DRIFT_DRAWS
        if spare < 0:
            raise SmesolveError(
                f"dt must be at most {DRIFT_DRAWS} lr for sampled_euler, got dt = {1 / ratio:g} lr; take dt = lr/8."
            )
        c = (spare / 2) ** 0.5
        return [*[1 / DRIFT_DRAWS] * DRIFT_DRAWS, 0.0, 0.0], [*[0.0] * DRIFT_DRAWS, c, -c]
