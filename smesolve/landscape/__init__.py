"""Hessian and noise covariance at a point, as linear operators."""

from smesolve.landscape.operators import covariance_operator, hessian_operator
