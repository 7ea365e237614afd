"""Euler steps with a sampled drift."""

from __future__ import annotations

from smesolve.errors import SmesolveError
from smesolve.solver.schemes.gradient_scheme import GradientScheme

__all__ = ["SampledEuler"]

DRIFT_DRAWS = 2
"""R, the number of draws over which the drift is averaged."""


class SampledEuler(GradientScheme):
    """Drift from the mean of R = 2 gradients, noise from the difference of two more: weak error O(dt).

    y1 = y - dt/R sum_r g_r + sqrt(lr dt - dt^2/R) (g - g')/sqrt(2). The sampled drift has a covariance of its own,
    dt^2 Sigma / R, by which the covariance of the noise is reduced, so that the step has exactly the covariance
    lr dt Sigma. With the third cumulant kappa3 of the gradient, the third cumulant of a step comes from the drift only:
    -dt^3 kappa3 / R^2, against about -3/2 lr dt^2 kappa3 for SVAG.
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
