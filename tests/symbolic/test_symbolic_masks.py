"""Orthonormal mask polynomials, and the zero test they are proven with."""

import numpy as np
import pytest
import sympy
from sympy import Function, Integer, Rational, Symbol, sqrt, symbols, tanh

from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks
from smesolve.symbolic import vanishes
from smesolve.symbolic.orthogonal_polynomials import orthogonal_polynomials
from smesolve.symbolic.zero_test import is_zero_in_ring

p = Symbol("p", positive=True)


def three_valued_masks(number=Rational):
    """eta in {0, 1, 3} with probabilities 0.4, 0.4, 0.2: mean 1, skewed."""
    return FiniteMasks([0, 1, 3], [number("0.4"), number("0.4"), number("0.2")])


def test_dropout_is_linear_in_its_mask():
    polynomials = orthogonal_polynomials(BernoulliMasks(p), 4)
    v, s = 1 / p - 1, 1 / p - 2
    assert len(polynomials.norms) == 2
    assert vanishes(polynomials.norms[1] - v)
    # zeta^2 - s zeta - v = 0 almost surely
    assert all(vanishes(a - b) for a, b in zip(polynomials.relation, (-v, -s, 1), strict=True))


@pytest.mark.parametrize("law", [BernoulliMasks(p), BernoulliMasks(0.8), three_valued_masks(), GaussianMasks(p)])
def test_moments_beyond_those_used_follow_from_the_relation(law):
    polynomials = orthogonal_polynomials(law, 2)
    for j in range(2, 9):
        exact = sympy.nsimplify(law.central_moment(j), rational=True)
        assert vanishes(polynomials.central_moment(j) - exact)


@pytest.mark.parametrize("number", [Rational, float])
def test_three_values_give_three_orthogonal_polynomials(number):
    law = three_valued_masks(number)
    polynomials = orthogonal_polynomials(law, 5)
    assert len(polynomials.norms) == 3
    assert polynomials.norms[2] == sympy.nsimplify(law.chi_variance, rational=True)
    zeta = np.array([-1, 0, 2])
    table = np.array([np.polyval([float(c) for c in q[::-1]], zeta) for q in polynomials.polynomials])
    gram = table * np.array([0.4, 0.4, 0.2]) @ table.T
    assert np.abs(gram - np.diag([float(h) for h in polynomials.norms])).max() < 1e-15
    # ... and the cubic vanishes at each of the values
    assert [sum(c * z**i for i, c in enumerate(polynomials.relation)) for z in (-1, 0, 2)] == [0, 0, 0]


def test_float_moments_do_not_hide_that_two_values_have_no_second_polynomial():
    for keep in np.linspace(0.05, 0.95, 19):
        assert len(orthogonal_polynomials(BernoulliMasks(float(keep)), 3).norms) == 2


def test_a_mask_that_is_always_one_is_a_constant():
    assert orthogonal_polynomials(BernoulliMasks(1.0), 2).norms == (1,)


def test_the_ring_decides_roots_and_denominators():
    a, b = symbols("a b")
    root, cube = sqrt(1 / p - 1), (1 + a * b) ** Rational(1, 3)
    for zero in (
        (root + a) * (root - a) - 1 / p + 1 + a**2,
        (root + a) ** 4 - (root**3 + 3 * a * root**2 + 3 * a**2 * root + a**3) * (root + a),
        (cube + a) * (cube**2 - a * cube + a**2) - 1 - a * b - a**3,
        1 / root - p * root / (1 - p),
        a / (1 + b) + a * b / (1 + b) - a,
        1 / (1 + 1 / (1 + a)) - (1 + a) / (2 + a),
        (1 / p**3 - 1) / (1 / p - 1) - 1 - 1 / p - 1 / p**2,
        sympy.tanh(a) * (b + 1) - sympy.tanh(a) * b - sympy.tanh(a),
    ):
        assert is_zero_in_ring(zero), zero
        assert not is_zero_in_ring(zero + a), zero
        assert not is_zero_in_ring(zero + 1 / p), zero


def test_vanishes_proves_and_refutes():
    a, b = symbols("a b")
    sigma = Function("sigma")
    root = sqrt(1 / p - 1)
    assert vanishes((root + a) * (root - a) - 1 / p + 1 + a**2)
    assert vanishes(a / (1 + b) + a * b / (1 + b) - a)
    assert vanishes(sigma(a * b).diff(a) * a - sigma(a * b).diff(b) * b)
    assert vanishes(tanh(2 * a) * (1 + tanh(a) ** 2) - 2 * tanh(a))
    assert not vanishes(root * a - root * b)
    assert not vanishes(sigma(a) ** 2 - sigma(2 * a))
    assert not vanishes(Rational(1, 10**25) * a)
    assert vanishes(Integer(0)) and not vanishes(Integer(1))
