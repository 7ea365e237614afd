"""Expectations without Monte Carlo, which calibrate measurements.

- `enumerated_expectation`: any network and a few steps, by enumeration of all sequences of draws.
- `LinearMoments`: gradients that are affine in theta (`LinearNetwork`: a trained readout, linear regression). Moments
  of the iteration by a linear recursion, and of the equations by a matrix exponential, for any lr and number of steps.
- `ScheduledMoments`: the same where drift and noise depend on time.
- `scalar_dropout`: one neuron and one sample, with closed forms and mean-square stability limits.
"""

from smesolve.comparison.exact.enumeration import enumerated_expectation
from smesolve.comparison.exact.linear_moments import LinearMoments
from smesolve.comparison.exact.scalar_model import ScalarDropout, scalar_dropout
from smesolve.comparison.exact.scheduled_moments import ScheduledMoments

__all__ = ["LinearMoments", "ScalarDropout", "ScheduledMoments", "enumerated_expectation", "scalar_dropout"]
