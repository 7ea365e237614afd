"""Explicit iterations on which the symbolic tests agree, and their moments computed the plain way."""

from itertools import product

import numpy as np
import sympy
from sympy import Symbol

from smesolve.problem.masks import BernoulliMasks
from smesolve.symbolic import ExplicitNetwork, dropout

p = Symbol("p", positive=True)


def two_layer_dropout(samples, in_features, width, out_features=1, activation="tanh", keep_prob=p, data=None):
    network = ExplicitNetwork(in_features, width, out_features, samples, activation, data=data)
    return dropout(network, BernoulliMasks(sympy.nsimplify(keep_prob, rational=True)))


def numeric(matrix, symbols, point):
    return np.array(sympy.lambdify(symbols, matrix, "numpy", cse=True)(*point), dtype=float)


def rule(law, degree):
    """Values and weights that integrate polynomials up to the degree: the law's own, or Gauss quadrature.

    Golub and Welsch's rule from the moments alone: nothing of the symbolic derivation is used.
    """
    if law.support is not None:
        return [np.array([float(number) for number in part]) for part in law.support]
    n = degree // 2 + 1
    moments = [float(law.central_moment(j)) for j in range(2 * n + 1)]
    hankel = np.array([[moments[i + j] for j in range(n + 1)] for i in range(n + 1)])
    r = np.linalg.cholesky(hankel).T
    alpha = [r[j, j + 1] / r[j, j] - (r[j - 1, j] / r[j - 1, j - 1] if j else 0) for j in range(n)]
    beta = [r[j + 1, j + 1] / r[j, j] for j in range(n - 1)]
    nodes, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    return float(law.mean) + nodes, vectors[0] ** 2


def enumerated(iteration, symbols, point, degree=8, part=0):
    """s_(part + 1) at every value of every random variable (K, D), and the weights (K,); the point may be complex."""
    step = sympy.lambdify([*iteration.random, *symbols], iteration.step_terms[part], "numpy", cse=True)
    rules = [rule(law, degree) for law in iteration.random.values()]
    values, weights = [], []
    for choice in product(*(range(len(nodes)) for nodes, _ in rules)):
        chosen = [nodes[k] for k, (nodes, _) in zip(choice, rules, strict=True)]
        values.append(step(*chosen, *point))
        weights.append(np.prod([weight[k] for k, (_, weight) in zip(choice, rules, strict=True)]))
    return np.array(values, dtype=complex), np.array(weights)


def enumerated_moments(iteration, symbols, point, degree=8):
    """Mean and covariance of s_1."""
    values, weights = enumerated(iteration, symbols, point, degree)
    mean = (weights @ values).real
    centred = values.real - mean
    return mean, centred.T * weights @ centred


def enumerated_correction(iteration, symbols, point, degree=8):
    """b_1 = E s_2 - 1/2 (D b_0) b_0, the derivative by a complex step, which has no rounding error to speak of."""
    mean, _ = enumerated_moments(iteration, symbols, point, degree)
    size, tiny = len(iteration.state), 1e-30
    shifted = [*(point[:size] + 1j * tiny * mean), *point[size:]]
    values, weights = enumerated(iteration, symbols, shifted, degree)
    correction = -(weights @ values).imag / tiny / 2
    if len(iteration.step_terms) > 1:
        values, weights = enumerated(iteration, symbols, point, degree, part=1)
        correction = correction + (weights @ values).real
    return correction
