"""What no diffusion has at order 3, and the equations that are rejected with the order that they do have."""

import dataclasses
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import sympy
from symbolic_problems import p, rule
from sympy import Integer, Matrix, Rational, Symbol, symbols

from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks, UniformMasks
from smesolve.symbolic import (
    ExplicitNetwork,
    averaged_modified_flow,
    dropout,
    dropout_sgd,
    gradient_descent,
    label_noise,
    modified_equation,
    sgd,
    third_cumulant,
    vanishes,
    without_blocks,
)
from smesolve.symbolic.chaos_expansion import step_moment
from smesolve.symbolic.verification import Generator, diffusion_terms

a, y, eta = symbols("a y eta")
KEEP = BernoulliMasks(Rational(4, 5))


def scalar_dropout(law):
    return gradient_descent((eta * a - y) ** 2 / 2, [a], {eta: law}, [y])


@pytest.mark.parametrize(
    "make",
    [
        lambda: dropout(ExplicitNetwork(), KEEP),
        lambda: dropout(ExplicitNetwork(), GaussianMasks(Rational(1, 4))),
        lambda: dropout(ExplicitNetwork(), FiniteMasks([0, 1, 3], [Rational(2, 5), Rational(2, 5), Rational(1, 5)])),
        lambda: sgd(ExplicitNetwork(samples=3)),
        lambda: dropout_sgd(ExplicitNetwork(samples=2, hidden=1), KEEP),
    ],
)
def test_third_cumulant_equals_enumeration_or_quadrature(make):
    iteration = make()
    kappa = third_cumulant(iteration)
    symbols_ = [*iteration.state, *iteration.constants]
    point = np.random.default_rng(0).normal(size=len(symbols_))
    step = sympy.lambdify([*iteration.random, *symbols_], iteration.step_terms[0], "numpy", cse=True)
    rules = [rule(law, 8) for law in iteration.random.values()]
    choices = list(product(*(range(len(nodes)) for nodes, _ in rules)))
    steps = np.array([step(*(r[0][k] for k, r in zip(c, rules, strict=True)), *point) for c in choices], dtype=float)
    weights = np.array([np.prod([r[1][k] for k, r in zip(c, rules, strict=True)]) for c in choices])
    centred = steps - weights @ steps
    third = np.einsum("b,bi,bj,bk->ijk", weights, centred, centred, centred)
    scale = max(1.0, np.abs(third).max())
    entries = sympy.lambdify(symbols_, list(kappa.entries.values()), "numpy", cse=True)(*point)
    for index, entry in zip(kappa.entries, entries, strict=True):
        assert abs(entry - third[index]) < 1e-12 * scale


def test_it_is_the_difference_of_the_third_moments_at_order_3_whatever_the_drift():
    """E[Delta_i Delta_j Delta_k] at lr^3, iteration minus SDE, is kappa_ijk: a symbolic identity."""
    iteration = dropout(ExplicitNetwork(), BernoulliMasks(p))
    equation = modified_equation(iteration, order=2)
    kappa = third_cumulant(iteration)
    free = Matrix([Symbol(f"c_{i}") for i in range(4)])
    generator = Generator(iteration.state, [*equation.drift_terms, free], diffusion_terms(equation.diffusion))
    for index in [(0, 0, 0), (0, 1, 2), (2, 2, 3)]:
        difference = step_moment(iteration, [(0, i) for i in index])
        difference -= generator.taylor_coefficient({index: Integer(1)}, 3)
        assert vanishes(difference - kappa.entries[index])
        assert not vanishes(difference)


def test_scalar_dropout_has_it_everywhere_but_at_one_half():
    kappa = third_cumulant(scalar_dropout(BernoulliMasks(p)))
    v, s = 1 / p - 1, 1 / p - 2
    assert vanishes(kappa.entries[0, 0, 0] + v * s * (a / p - y) ** 3)
    assert kappa.roots(p) == [Rational(1, 2), 1]
    assert third_cumulant(scalar_dropout(BernoulliMasks(Rational(1, 2)))).vanishes
    assert "1 of 1 third cumulants of the step do not vanish, which obstructs order 3; the shortest is" in str(kappa)


def test_with_pairs_of_neurons_one_half_does_not_help():
    """E[xi_k xi_r Xi_kr] = 1: two neurons have a third cumulant at every keep_prob but 1."""
    assert third_cumulant(dropout(ExplicitNetwork(hidden=1), BernoulliMasks(p))).roots(p) == [Rational(1, 2), 1]
    assert third_cumulant(dropout(ExplicitNetwork(hidden=2), BernoulliMasks(p))).roots(p) == [1]
    assert not third_cumulant(dropout(ExplicitNetwork(hidden=2), BernoulliMasks(Rational(1, 2)))).vanishes


def test_noise_that_enters_linearly_by_a_symmetric_law_has_none():
    for law in (GaussianMasks(Rational(1, 4)), UniformMasks(Symbol("b", positive=True))):
        kappa = third_cumulant(label_noise(ExplicitNetwork(samples=2), law))
        assert kappa.vanishes and "no obstruction" in str(kappa)
        with pytest.raises(ValueError, match="symbol p has no roots"):
            kappa.roots(p)
    assert third_cumulant(sgd(ExplicitNetwork(samples=2))).vanishes
    assert not third_cumulant(sgd(ExplicitNetwork(samples=3))).vanishes


def test_the_flow_of_all_regularisers_is_of_order_1_with_and_without_noise():
    iteration = dropout(ExplicitNetwork(), BernoulliMasks(p))
    equation, flow = modified_equation(iteration), averaged_modified_flow(iteration)
    extra = [sympy.diff(equation.covariance.trace(), theta) / 4 for theta in iteration.state]
    for candidate in (flow, dataclasses.replace(flow, diffusion=equation.diffusion)):
        proof = candidate.verify()
        assert not proof.holds and proof.order == 1
        index, power, difference = proof.first_mismatch
        assert (index, power) == ((0,), 2)
        assert vanishes(difference - extra[0])
    assert dataclasses.replace(flow, order=1).verify().holds


def test_groups_without_noise_have_no_columns_and_no_index_counts_twice():
    quiet = modified_equation(gradient_descent(y * a**2, [a], {}, [y]))
    assert without_blocks(quiet, [[0]]).diffusion == sympy.zeros(1, 1)
    equation = modified_equation(dropout(ExplicitNetwork(), BernoulliMasks(p)))
    with pytest.raises(ValueError, match="groups must hold each index once"):
        without_blocks(equation, [[0, 2], [2, 3]])
    alone = without_blocks(equation, [[0, 0, 2]])
    square = alone.diffusion * alone.diffusion.T
    assert all(vanishes(square[i, i] - (equation.covariance[i, i] if i in (0, 2) else 0)) for i in range(4))


def test_independent_noise_of_the_neurons_is_of_order_1():
    iteration = dropout(ExplicitNetwork(), BernoulliMasks(p))
    equation = modified_equation(iteration)
    groups = [[0, 2], [1, 3]]
    candidate = without_blocks(equation, groups)
    square = candidate.diffusion * candidate.diffusion.T
    for i, j in combinations_with_replacement(range(4), 2):
        same = any(i in group and j in group for group in groups)
        assert vanishes(square[i, j] - (equation.covariance[i, j] if same else 0))
    proof = candidate.verify()
    assert not proof.holds and proof.order == 1
    index, power, difference = proof.first_mismatch
    assert (index, power) == ((0, 1), 2)
    assert vanishes(difference - equation.covariance[0, 1])
