"""verify(): it proves what holds, and rejects what does not, at the right order."""

import dataclasses
from math import comb

import pytest
import sympy
from symbolic_problems import p, two_layer_dropout
from sympy import Function, Integer, Matrix, Rational, exp, symbols
from test_symbolic_masks import three_valued_masks

from smesolve.problem.masks import BernoulliMasks, GaussianMasks
from smesolve.symbolic import Iteration, modified_equation, vanishes
from smesolve.symbolic.verification import Generator, diffusion_terms


def count(dimension, degree):
    """Moments of exactly this degree, up to symmetry."""
    return comb(dimension + degree - 1, degree)


@pytest.fixture(scope="module")
def equation():
    return modified_equation(two_layer_dropout(1, 1, 2), order=2)


@pytest.mark.parametrize(
    ("samples", "activation"), [(1, "tanh"), (2, "tanh"), (1, Function("sigma")), (2, Function("sigma"))]
)
def test_both_orders_are_proven_and_are_sharp(samples, activation):
    iteration = two_layer_dropout(samples, 1, 2, activation=activation)
    first = modified_equation(iteration, order=1)
    proof = first.verify()
    assert proof.holds and proof.order == 1
    assert len(proof.checked) == count(4, 1) + 1
    # The order-1 equation is not of order 2: what it lacks is b1.
    index, power, difference = proof.first_mismatch
    assert (index, power) == ((0,), 2)
    b0 = first.drift_terms[0]
    assert vanishes(difference + (b0.jacobian(iteration.state) * b0)[0] / 2)
    assert not dataclasses.replace(first, order=2).verify().holds

    proof = modified_equation(iteration, order=2).verify()
    assert proof.holds and proof.order == 2
    proven = [check for check in proof.checked if check.difference == 0]
    assert len(proven) == count(4, 1) + count(4, 1) + count(4, 2)
    assert proof.first_mismatch.power == 3 and proof.checked[-1] is proof.first_mismatch


@pytest.mark.parametrize("law", [BernoulliMasks(0.8), three_valued_masks(), GaussianMasks(Rational(1, 4))])
def test_other_laws(law):
    iteration = two_layer_dropout(1, 1, 2)
    iteration = dataclasses.replace(iteration, random=dict.fromkeys(iteration.random, law))
    assert modified_equation(iteration, order=2).verify().order == 2


def test_two_outputs_and_given_data():
    data = ([[1.0], [2.0]], [[0.5, -0.25], [1.5, 1.0]])
    iteration = two_layer_dropout(2, 1, 2, 2, keep_prob=0.8, data=data)
    assert modified_equation(iteration, order=2).verify().order == 2


def test_a_wrong_mean_is_of_order_0(equation):
    """The flow of R_S instead of L_S: dropout's penalty is missing from the drift."""
    undamped = equation.drift_terms[0].xreplace({p: Integer(1)})
    proof = dataclasses.replace(equation, drift_terms=(undamped, equation.drift_terms[1])).verify()
    assert not proof.holds and proof.order == 0
    index, power, difference = proof.first_mismatch
    assert (index, power) == ((0,), 1)
    assert vanishes(difference - equation.drift_terms[0][0] + undamped[0])


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_diffusion_column_is_of_order_1(equation, missing):
    kept = [c for c in range(equation.diffusion.cols) if c != missing]
    proof = dataclasses.replace(equation, diffusion=equation.diffusion[:, kept]).verify()
    assert not proof.holds and proof.order == 1
    index, power, difference = proof.first_mismatch
    assert power == 2 and len(index) == 2
    column = equation.diffusion.col(missing)
    assert vanishes(difference - column[index[0]] * column[index[1]])


def test_noise_does_not_count_at_order_1(equation):
    """The noise is O(sqrt(lr)): even the flow without it is of order 1, and only order 2 sees it."""
    flow = dataclasses.replace(equation, diffusion=0 * equation.diffusion)
    assert flow.verify().order == 1
    assert dataclasses.replace(flow, order=1).verify().holds


def test_any_other_factor_of_the_covariance_is_as_good(equation):
    rotation = Matrix([[Rational(3, 5), Rational(4, 5), 0], [Rational(-4, 5), Rational(3, 5), 0], [0, 0, -1]])
    assert dataclasses.replace(equation, diffusion=equation.diffusion * rotation).verify().order == 2


def test_scalar_dropout_mismatch_in_closed_form():
    """E Delta of the SDE has (a/p - y)/(3 p^2) at lr^3, the iteration has 0."""
    a, y, eta, lr = symbols("a y eta lr")
    iteration = Iteration([a], [-lr * eta * (eta * a - y)], {eta: BernoulliMasks(p)}, lr, constants=[y])
    proof = modified_equation(iteration).verify()
    index, power, difference = proof.first_mismatch
    assert (proof.order, index, power) == (2, (0,), 3)
    assert vanishes(difference + (a / p - y) / (3 * p**2))


def test_no_mismatch_where_the_equation_is_exact():
    theta, lr = symbols("theta lr")
    proof = modified_equation(Iteration([theta], [3 * lr], {}, lr)).verify()
    assert proof.holds and proof.order == 3 and proof.first_mismatch is None
    assert "no mismatch up to lr^3" in str(proof)


def test_ito_taylor_expansion_of_geometric_brownian_motion():
    """dX = (m0 + lr m1) X dt + sqrt(lr) s X dW: E X^j = x^j exp((j m0 + lr (j m1 + j(j-1)/2 s^2)) lr)."""
    x, m0, m1, s, lr = symbols("x m_0 m_1 s lr")
    generator = Generator([x], [Matrix([m0 * x]), Matrix([m1 * x])], diffusion_terms(Matrix([[s * x]])))
    for j in range(1, 5):
        # (X - x)^j by the binomial theorem
        exact = sum(
            comb(j, i) * (-1) ** (j - i) * exp(i * m0 * lr + (i * m1 + Rational(i * (i - 1), 2) * s**2) * lr**2)
            for i in range(j + 1)
        )
        series = sympy.series(exact, lr, 0, 5).removeO()
        for power in range(1, 5):
            ours = generator.taylor_coefficient({(0,) * j: Integer(1)}, power)
            assert vanishes(ours - x**j * series.coeff(lr, power))


def test_ito_taylor_expansion_of_a_linear_system():
    """dX = A X dt + sqrt(lr) C dW: E (X - x)(X - x)^T against the expansion of its linear ODE."""
    x1, x2 = symbols("x_1 x_2")
    x, matrix, factor = Matrix([x1, x2]), Matrix([[1, 2], [-3, 5]]), Matrix([[1, 0, 2], [3, -1, 1]])
    generator = Generator([x1, x2], [matrix * x], diffusion_terms(factor))
    covariance = factor * factor.T
    shift = [sympy.zeros(2, 1)] + [(matrix**k / sympy.factorial(k)) * x for k in (1, 2, 3)]
    for i, j in [(0, 0), (0, 1), (1, 1)]:
        noise = {2: covariance, 3: (matrix * covariance + covariance * matrix.T) / 2}
        for power in (1, 2, 3):
            mean = sum(shift[k][i] * shift[power - k][j] for k in range(1, power))
            expected = mean + (noise[power][i, j] if power in noise else 0)
            assert vanishes(sympy.sympify(expected) - generator.taylor_coefficient({(i, j): Integer(1)}, power))


def test_report_is_readable(equation):
    report = str(equation.verify())
    assert report.startswith("weak order 2 holds: one-step moments agree up to lr^2 (18 coefficients proven")
    assert "first mismatch at lr^3 in E[Delta[w_1_1]], iteration minus SDE: " in report
    assert len(report) < 700
    wrong = dataclasses.replace(equation, diffusion=0 * equation.diffusion)
    assert str(wrong.verify()).startswith("weak order 2 FAILS: one-step moments agree up to lr^1")
