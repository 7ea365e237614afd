"""Stochastic variance amplified gradient."""

from __future__ import annotations

from smesolve.errors import SmesolveError
from smesolve.solver.schemes.gradient_scheme import GradientScheme

__all__ = ["SVAG"]


class SVAG(GradientScheme):
    """Two gradients per step of dt = lr/l, with weights (1 +- sqrt(2l - 1))/2; the weak error falls like 1/l.

    With l = 1 it is the discrete iteration itself. The correction of order 2 takes both draws in both orders, so that
    it has no covariance with their amplified difference.

    Source: Li, Malladi, Arora (NeurIPS 2021, arXiv 2102.12470), section 4.
    """

    at_learning_rate = "it is the discrete iteration itself"
    drift_evaluations = 2
    corrections = 2

    @staticmethod
    def weights(ratio: float) -> tuple[list[float], list[float]]:
        """Return (1/2, 1/2) and +- sqrt(2l - 1)/2."""
        if ratio < 0.5:
            raise SmesolveError(f"dt must be at most 2 lr for svag, got dt = {1 / ratio:g} lr; take dt = lr/8.")
        deviation = max(0.0, 2 * ratio - 1) ** 0.5 / 2
        return [0.5, 0.5], [deviation, -deviation]
