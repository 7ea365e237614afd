"""Symbols: one for each name, real, and with no assumption that its role does not have."""

import re

import pytest
import sympy
from sympy import Rational, Symbol, exp, symbols

import smesolve as sme
from smesolve.symbolic import (
    Centred,
    ExplicitNetwork,
    Iteration,
    dropout,
    expectation,
    gradient_descent,
    modified_equation,
    momentum,
    third_cumulant,
    vanishes,
)

a, y, eta, lr = symbols("a y eta lr")
GAUSSIAN, DROPOUT = sme.GaussianMasks(Rational(1, 4)), sme.BernoulliMasks(Rational(4, 5))


def other(symbol):
    """Of the same name, and another symbol."""
    return Symbol(symbol.name, real=True)


def iteration(state=a, random=eta, constant=y, small=lr, law=GAUSSIAN, loss=None):
    return Iteration([state], [-lr * eta * (eta * a - y)], {random: law}, small, [constant], loss)


@pytest.mark.parametrize(
    "make",
    [
        lambda: iteration(state=other(a)),
        lambda: iteration(random=other(eta)),
        lambda: iteration(constant=other(y)),
        lambda: iteration(small=Symbol("lr", positive=True)),
        lambda: iteration(law=sme.GaussianMasks(Symbol("y", positive=True))),
        lambda: iteration(loss=(eta * other(a) - y) ** 2),
        lambda: Iteration([a], [-lr * a * other(a)], {}, lr),
        lambda: gradient_descent((eta * a) ** 2, [other(a)], {eta: GAUSSIAN}),
        lambda: gradient_descent((eta * a) ** 2, [a], {other(eta): GAUSSIAN}),
        lambda: momentum(iteration(), friction=other(y)),
        lambda: expectation(iteration(), other(eta) ** 2),
        lambda: third_cumulant(iteration(law=sme.BernoulliMasks(Symbol("p", positive=True)))).roots(Symbol("p")),
        lambda: vanishes(a - other(a)),
        lambda: dropout(ExplicitNetwork(loss=lambda f, y: (f - y) ** 2 * Symbol("a_1_1")), DROPOUT),
    ],
)
def test_two_symbols_of_one_name_are_refused(make):
    with pytest.raises(ValueError, match="symbols of one name with different assumptions are different symbols"):
        make()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Iteration([Symbol("a", imaginary=True)], [lr], {}, lr),
            "state contains Symbol('a', imaginary=True), and by this assumption it is not a real number: "
            "take Symbol('a', real=True).",
        ),
        (lambda: Iteration([Symbol("a", integer=True)], [lr], {}, lr), "by this assumption it is an integer"),
        (lambda: Iteration([a], [y], {}, Symbol("y", negative=True)), "assumptions are different symbols"),
        (
            lambda: Iteration([a], [Symbol("h", negative=True)], {}, Symbol("h", negative=True)),
            "small contains Symbol('h', negative=True), and by this assumption it is not positive: "
            "take Symbol('h', positive=True).",
        ),
        (
            lambda: Iteration([a], [-lr * Symbol("e", positive=True)], {Symbol("e", positive=True): DROPOUT}, lr),
            "random contains Symbol('e', positive=True), and this assumption does not hold for all values of its law",
        ),
        (
            lambda: Iteration([a], [-lr * Symbol("e", positive=True)], {Symbol("e", positive=True): GAUSSIAN}, lr),
            "this assumption does not hold for all values of its law GaussianMasks(variance=1/4)",
        ),
        (
            lambda: Iteration([a], [-lr * Symbol("e", integer=True)], {Symbol("e", integer=True): DROPOUT}, lr),
            "this assumption does not hold for all values of its law BernoulliMasks(keep_prob=4/5)",
        ),
        (lambda: iteration(law=sme.BernoulliMasks(lr)), "a law depends neither on the state, nor on"),
        (lambda: iteration(law=sme.BernoulliMasks(1 - lr)), "nor on the small parameter"),
        (lambda: iteration(law=sme.GaussianMasks(exp(a))), "random[eta] is GaussianMasks(variance=exp(a)), which"),
        (lambda: Iteration([a], [lr], {"eta": GAUSSIAN}, lr), "a key of random must be a sympy symbol, got 'eta'"),
        (lambda: Iteration([a], [sympy.I * lr], {}, lr), "step of a contains I, which is not a real number"),
        (lambda: Iteration([a], [sympy.oo * lr * a], {}, lr), "step of a contains oo, which is not a real number"),
        (lambda: Iteration([a], [lr * sympy.DiracDelta(a)], {}, lr), "step of a contains DiracDelta(a), which is no"),
    ],
)
def test_assumptions_that_contradict_the_role_are_refused(make, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make()


def test_assumptions_that_every_value_has_are_welcome():
    e, state = Symbol("e", positive=True), Symbol("a", positive=True)
    law = sme.FiniteMasks([Rational(1, 2), Rational(3, 2)], [Rational(1, 2), Rational(1, 2)])
    equation = modified_equation(Iteration([state], [-lr * sympy.sqrt(e**2) * state], {e: law}, lr))
    assert equation.drift_terms[0] == sympy.Matrix([-state])
    centred = Symbol("e", real=True)
    step = [-lr * sympy.Abs(centred) * a]
    equation = modified_equation(Iteration([a], step, {centred: Centred(law)}, lr), order=1)
    assert equation.drift_terms[0] == sympy.Matrix([-a / 2])


def test_dummies_of_one_name_have_no_names_of_their_own():
    first, second = sympy.Dummy("a"), sympy.Dummy("a")
    with pytest.raises(ValueError, match="a is named 2 times"):
        Iteration([first, second], [lr * second, lr * first], {}, lr)
