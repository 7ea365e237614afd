"""Dense matrices, plain Jacobians and coverage, on which the tests of landscape agree."""

import numpy as np
import torch
from scipy.stats import binom


def dense(operator):
    return operator @ np.eye(operator.shape[0])


def near(operator, matrix, tolerance=1e-12):
    return np.abs(dense(operator) - np.asarray(matrix)).max() < tolerance


def covers_as_stated(hits, runs, level=0.95):
    """Whether `hits` of `runs` intervals is a likely outcome of coverage `level` (two-sided, 1 in 1000)."""
    return binom.cdf(hits, runs, level) > 0.0005 and binom.sf(hits - 1, runs, level) > 0.0005


def plain_outputs(problem):
    """theta -> f (n, o) without dropout."""

    def outputs(theta):
        at = problem.network.linearize(theta, problem.x)
        values = at.readout @ at.features
        return (values if at.bias is None else values + at.bias).mT

    return outputs


def jacobians(problem, theta):
    """J (n, o, D) of the outputs and Z (n, m, o, D) of the contributions."""
    return torch.func.jacrev(plain_outputs(problem))(theta), torch.func.jacrev(problem.contributions)(theta)
