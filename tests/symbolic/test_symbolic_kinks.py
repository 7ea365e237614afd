"""Steps with kinks: real derivatives, no proof of order, and sums that vanish away from the kinks."""

import dataclasses

import pytest
import sympy
from sympy import (
    Abs,
    DiracDelta,
    Eq,
    Function,
    Heaviside,
    Max,
    Min,
    Ne,
    Piecewise,
    Rational,
    Symbol,
    exp,
    log,
    sign,
    sqrt,
    symbols,
)

import smesolve as sme
from smesolve.symbolic import Iteration, averaged_modified_flow, gradient_descent, modified_equation, vanishes
from smesolve.symbolic.real_calculus import derivative, smoothness

a, b, y, eta, lr = symbols("a b y eta lr")
DROPOUT = sme.BernoulliMasks(Rational(4, 5))


def equation(function, order=2):
    step = [-lr * eta * (eta * a - y) - lr * function]
    return modified_equation(Iteration([a], step, {eta: DROPOUT}, lr, [y, b]), order)


@pytest.mark.parametrize(
    "function",
    [
        Abs(a),
        Abs(a * b),
        Abs(eta * a - y),
        Max(0, a),
        Max(0, eta * a),
        Min(a, b, 1),
        sign(a) * a**2,
        sign(a),
        Heaviside(a) * a,
        Piecewise((a, a > 0), (a / 10, True)),
        sqrt(a**2),
        (a**2) ** Rational(3, 2),
        (a**2) ** Rational(1, 3),
        sqrt(a**2 + b**2 * a**2),
        sympy.floor(a),
        sympy.frac(a) * a,
        sympy.Mod(a, 2),
        sympy.KroneckerDelta(a, 1),
    ],
)
@pytest.mark.parametrize("order", [1, 2])
def test_no_order_is_proven_for_a_kink(function, order):
    derived = equation(function, order)
    assert not any(entry.has(DiracDelta, sympy.Derivative, sympy.Subs, sympy.re, sympy.im) for entry in derived.drift)
    proof = derived.verify()
    assert not proof.holds and proof.order == 0 and proof.smoothness.kinks
    assert proof.agreement == order
    assert str(proof).startswith(f"weak order {order} is NOT PROVEN: one-step moments agree up to lr^{order}")
    assert "away from kinks" in str(proof) and "no order is proven" in str(proof)


@pytest.mark.parametrize(
    ("function", "assumed"),
    [
        (exp(a) * sympy.tanh(a), ""),
        (log(1 + exp(a)), ""),
        (sqrt(1 + a**2), ""),
        (1 / (1 + a**2), ""),
        (Abs(a) ** 2, ""),
        (Abs(y) * a, ""),
        (Max(0, y) * a, ""),
        (Heaviside(eta - 1) * a, ""),
        (a * sympy.re(a) + sympy.im(a), ""),
        (a * sympy.conjugate(a), ""),
        (Function("f")(a), ""),
        (sympy.atan2(a, 1), ""),
        (log(a), "The state is assumed to stay where log(a), 1/a can be differentiated."),
        (1 / a, "The state is assumed to stay where 1/a, a**(-2) can be differentiated."),
        (a ** Rational(1, 3), "The state is assumed to stay where"),
        (sympy.tan(a), "The state is assumed to stay where tan(a) can be differentiated."),
    ],
)
def test_smooth_steps_are_proven_and_their_domain_is_said(function, assumed):
    proof = equation(function).verify()
    assert proof.holds and proof.order == 2
    assert proof.assumption.startswith(assumed) and bool(proof.assumption) == bool(assumed)
    assert proof.assumption in str(proof)


def test_a_wrong_equation_with_kinks_fails_and_is_not_only_unproven():
    right = equation(Max(0, a))
    wrong = dataclasses.replace(right, drift_terms=(right.drift_terms[0], 2 * right.drift_terms[1])).verify()
    assert wrong.agreement == 1 and str(wrong).startswith("weak order 2 FAILS: one-step moments agree up to lr^1")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Abs(a), sign(a)),
        (Abs(a) ** 3, 3 * Abs(a) * a),
        (Max(0, a), Heaviside(a)),
        (Max(a, b), Heaviside(a - b)),
        (Min(a, b), Heaviside(b - a)),
        (sign(a) * a, sign(a)),
        (sign(a * b), 0),
        (sympy.floor(a * b), 0),
        (sympy.frac(a * b), b),
        (sympy.Mod(3 * a, b), 3),
        (a * sympy.conjugate(a), 2 * a),
        (exp(sympy.re(a)), exp(a)),
        (Piecewise((a**2, a > b), (b, True)), Piecewise((2 * a, a > b), (0, True))),
    ],
)
def test_symbols_without_assumptions_are_real(function, expected):
    assert vanishes(derivative(function, a) - expected)
    assert derivative(function, a).free_symbols <= {a, b}


def test_an_unknown_derivative_is_not_taken_for_zero():
    unknown = derivative(sympy.zeta(a) * Abs(a), a)
    assert unknown.has(sympy.Derivative)


def test_gradient_descent_on_a_loss_with_kinks():
    """|a - y|^3/3 and a hinge: the gradient in real symbols, and its order-2 drift -1/2 b0' b0."""
    cubic = modified_equation(gradient_descent(Abs(a - y) ** 3 / 3, [a], {}, [y]))
    assert vanishes(cubic.drift_terms[0][0] + Abs(a - y) * (a - y))
    assert vanishes(cubic.drift_terms[1][0] + (a - y) ** 3)
    hinge = modified_equation(gradient_descent(Max(0, 1 - a * y) ** 2 / 2, [a], {}, [y]))
    assert vanishes(hinge.drift_terms[0][0] - y * Max(0, 1 - a * y))
    assert vanishes(hinge.drift_terms[1][0] - y**3 * Max(0, 1 - a * y) / 2)
    flow = averaged_modified_flow(gradient_descent(Abs(a - y) ** 3 / 3, [a], {}, [y]))
    assert vanishes(flow.drift_terms[1][0] + (a - y) ** 3)


@pytest.mark.parametrize(
    ("expression", "zero"),
    [
        (Abs(a) - a, False),
        (Abs(a) ** 2 - a**2, True),
        (sign(a) * Abs(a) - a, True),
        (Max(0, a) - a, False),
        (Max(0, a) - (a + Abs(a)) / 2, True),
        (Max(a, b) + Min(a, b) - a - b, True),
        (Max(a, b) - a, False),
        (Max(a, b, 0) - Max(a, b), False),
        (Heaviside(a) ** 2 - Heaviside(a), True),
        (Heaviside(a) + Heaviside(-a) - 1, True),
        (Heaviside(2 * a) - Heaviside(a), True),
        (Heaviside(a - 1) - Heaviside(a), False),
        (sqrt(a**2) - a, False),
        (sqrt(a**2) - Abs(a), True),
        (Piecewise((a, a > 0), (0, True)) - Max(0, a), True),
        (Piecewise((a, a > 0), (0, True)) - Max(0, a) / 2, False),
        (sympy.frac(a) - a + sympy.floor(a), True),
        (Piecewise((1, Eq(b, 0)), (Abs(a * b) - Max(a * b, -a * b), True)), True),
        (Piecewise((Abs(a * b) - Max(a * b, -a * b), Ne(b, 0)), (1, True)), True),
        (Piecewise((1, Ne(b, 0)), (Abs(a * b) - Max(a * b, -a * b), True)), False),
        (Symbol("n", negative=True) + Abs(Symbol("n", negative=True)), True),
        (Symbol("n", negative=True) + sqrt(Symbol("n", negative=True) ** 4), False),
    ],
)
def test_what_vanishes_away_from_kinks(expression, zero):
    assert vanishes(expression) is zero


@pytest.mark.parametrize("expression", [sqrt(a) * sqrt(b) - sqrt(a * b), log(a * b) - log(a) - log(b)])
def test_what_cannot_be_decided_is_said_in_one_sentence(expression):
    with pytest.raises(ValueError, match=r"expression .* is 0 up to rounding at random points"):
        vanishes(expression)


@pytest.mark.parametrize("scale", [Rational(1, 10**90), 10**90])
def test_what_is_small_is_not_zero(scale):
    assert not vanishes(scale * a**1000)
    assert not vanishes(scale * (sympy.sin(a) ** 2 + sympy.cos(a) ** 2 - 1 + a * exp(a) / 10**20))
    assert vanishes(scale * (sympy.sin(a) ** 2 + sympy.cos(a) ** 2 - 1))


def test_more_kinks_than_can_be_looked_at_prove_nothing():
    letters = symbols("a:h")
    kinks = sum(Max(0, letter) - (letter + Abs(letter)) / 2 for letter in letters)
    with pytest.raises(ValueError, match="is 0 up to rounding at random points"):
        vanishes(kinks)


def test_smoothness_asks_about_the_state_only():
    found = smoothness([Abs(a) + log(b) + Abs(y) + Piecewise((b, b > y), (0, True))], [a, b])
    assert Abs(a) in found.kinks and Abs(y) not in found.kinks and len(found.kinks) == 2
    assert found.domain == (log(b),)
