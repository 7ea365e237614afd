"""What an iteration accepts, and the sentence for what it does not."""

import dataclasses
import re

import pytest
import sympy
import torch
from sympy import Function, Rational, exp, sqrt, symbols

from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks, MaskLaw, UniformMasks
from smesolve.symbolic import (
    Centred,
    ExplicitNetwork,
    Iteration,
    SampleIndex,
    dropconnect,
    dropout,
    expectation,
    label_noise,
    modified_equation,
    momentum,
    sgd,
    smooth_function,
    vanishes,
)

theta, y, eta, lr = symbols("theta y eta lr")
LAW = GaussianMasks(Rational(1, 4))


class ShiftedMasks(MaskLaw):
    """A law of one's own with the wrong mean."""

    def central_moment(self, j):
        return Rational(11, 10) ** j

    def quantile(self, uniforms):
        raise NotImplementedError

    def __repr__(self):
        return "ShiftedMasks()"


def test_monomials_in_the_masks():
    iteration = Iteration([theta], [-lr * eta * (eta * sympy.tanh(theta) - y)], {eta: LAW}, lr, constants=[y])
    assert iteration.step_monomials == (({(2,): -sympy.tanh(theta), (1,): y},),)


def test_powers_of_the_small_parameter():
    iteration = Iteration([theta, y], [lr * (theta + lr * eta), lr**2 * exp(theta) * lr], {eta: LAW}, lr)
    assert iteration.step_terms == ((theta, 0), (eta, 0), (0, exp(theta)))


def test_any_function_of_a_variable_on_finitely_many_values():
    iteration = Iteration([theta], [lr * exp(eta * theta)], {eta: BernoulliMasks(Rational(1, 2))}, lr)
    assert iteration.step_monomials == (({(1,): 1, (2,): exp(2 * theta)},),)


def test_expectation_of_what_the_step_is_not():
    """A polynomial step, and expressions of higher degree or of no degree at all in its random variable."""
    finite = Iteration([theta], [lr * eta * theta], {eta: BernoulliMasks(Rational(1, 2))}, lr)
    assert vanishes(expectation(finite, exp(eta) * theta) - theta * (1 + exp(2)) / 2)
    assert expectation(finite, eta**3) == 4
    gaussian = Iteration([theta], [lr * eta * theta], {eta: LAW}, lr)
    assert expectation(gaussian, eta**4) == 1 + 6 * Rational(1, 4) + 3 * Rational(1, 16)
    with pytest.raises(ValueError, match="expression is not a polynomial in eta, which takes infinitely many values"):
        expectation(gaussian, exp(eta))
    with pytest.raises(ValueError, match=re.escape("expression must be a polynomial in eta, got exp(eta)")):
        gaussian.monomials(exp(eta), gaussian.functions)


def test_high_powers_and_bound_symbols():
    law = BernoulliMasks(Rational(1, 2))
    equation = modified_equation(Iteration([theta], [lr * eta**1000 * theta**1000], {eta: law}, lr), order=1)
    assert equation.drift_terms[0][0] == 2**999 * theta**1000 and equation.verify().holds
    integral = sympy.Integral(exp(-(eta**2)), (eta, 0, eta))
    equation = modified_equation(Iteration([theta], [lr * integral * theta], {eta: law}, lr), order=1)
    assert vanishes(equation.drift_terms[0][0] - theta * sqrt(sympy.pi) * sympy.erf(2) / 4)
    point = torch.tensor([[0.5]], dtype=torch.float64)
    drift = equation.to_torch({}, 0.1).f(0.0, point).item()
    assert drift == pytest.approx(float(sqrt(sympy.pi) * sympy.erf(2) / 8), rel=1e-14)
    total = sympy.Sum(eta**y * theta, (y, 1, 3))
    assert modified_equation(Iteration([theta], [lr * total], {eta: law}, lr), order=1).verify().holds


def test_a_step_that_vanishes_with_the_small_parameter_need_not_show_it():
    step = sympy.sin(theta) ** 2 + sympy.cos(theta) ** 2 - 1 - lr * theta
    assert modified_equation(Iteration([theta], [step], {}, lr)).drift_terms[0][0] == -theta


def test_floats_become_exact():
    iteration = Iteration([theta], [0.1 * lr * eta * theta], {eta: LAW}, lr)
    assert iteration.step == (Rational(1, 10) * lr * eta * theta,)


@pytest.mark.parametrize(
    ("number", "fraction"),
    [
        (0.1, Rational(1, 10)),
        (1 / 3, Rational(1, 3)),
        (0.333333333333, Rational(333333333333, 10**12)),
        (1.0000000000001, Rational(10000000000001, 10**13)),
        (1 - 0.8, Rational(1, 5)),
        (-1e-20, -Rational(1, 10**20)),
        (0.0, 0),
        (2.0, 2),
        (sympy.Float("0.12345678901234567890123", 23), Rational(12345678901234567890123, 10**23)),
        (sympy.Float("1e400"), 10**400),
    ],
)
def test_a_float_is_the_number_that_was_written(number, fraction):
    iteration = Iteration([theta], [lr * sympy.sympify(number) * theta + lr * y], {}, lr, [y])
    assert iteration.step_terms[0][0] == fraction * theta + y


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"step": [lr * (theta * eta - y), lr * theta]},
            "step has 2 expressions for 1 state variables: give one expression for each, in the same order.",
        ),
        (
            {"constants": []},
            "step contains y, which has no role: name it in constants, or, if it is random, give its law in random.",
        ),
        (
            {"random": {}},
            "step contains eta, which has no role: name it in constants, or, if it is random, give its law",
        ),
        ({"step": [lr * (theta - y)]}, "random names eta, which the step does not contain: leave it out."),
        (
            {"step": [lr * theta * eta - y]},
            "step of theta does not vanish with lr (it is -y at lr = 0): a modified equation exists for small steps "
            "only; write state' = state + step, with lr a factor of the step.",
        ),
        ({"step": [lr * y * eta**17]}, "step has degree 17 in eta, which is too much for an exact expansion: take a"),
        (
            {"step": [lr * y * eta ** (10**20)], "random": {eta: BernoulliMasks(0.5)}},
            "step contains eta**100000000000000000000, which is too much for an exact expansion",
        ),
        (
            {"step": [lr * y * eta + lr**101 * theta]},
            "step of theta has degree 101 in the small parameter lr, of which",
        ),
        (
            {"step": [lr * y / eta], "random": {eta: BernoulliMasks(0.5)}},
            "step of theta at eta = 0 contains zoo, which is not a real number: write it in functions that are",
        ),
        (
            {"step": [lr * y * sqrt(eta - 1)], "random": {eta: BernoulliMasks(0.5)}},
            "step of theta at eta = 0 contains I, which is not a real number",
        ),
        (
            {"step": [eta * sqrt(lr) * y]},
            "step of theta is not a polynomial in the small parameter lr: expand it in powers of lr.",
        ),
        (
            {"step": [lr * (exp(eta) * theta - y)]},
            "step of theta is not a polynomial in eta, which takes infinitely many values (GaussianMasks(variance=1/4))"
            ": a finite expansion exists only for polynomials or for laws on finitely many values; take FiniteMasks "
            "for eta, or a polynomial activation and loss.",
        ),
        ({"step": [lr * (theta / eta - y)]}, "step of theta is not a polynomial in eta"),
        ({"step": [lr * (sqrt(eta) - y)]}, "step of theta is not a polynomial in eta"),
        (
            {"constants": [y, theta]},
            "theta is named 2 times among state, random, constants and small: give each symbol one role and "
            "a name of its own.",
        ),
        (
            {"random": {eta: 0.8}},
            "random[eta] must be a law, such as BernoulliMasks(keep_prob) or SampleIndex(n), got 0.8.",
        ),
        ({"random": {eta: None}}, "random[eta] must be a law, such as BernoulliMasks(keep_prob)"),
        (
            {"random": {eta: ShiftedMasks()}},
            "random[eta] is ShiftedMasks(), a mask law of mean 21/10, but the mean of a mask must be 1: divide its "
            "values by their mean.",
        ),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(changes, sentence):
    iteration = Iteration([theta], [-lr * eta * (eta * theta - y)], {eta: LAW}, lr, constants=[y])
    with pytest.raises(ValueError, match=re.escape(sentence)):
        dataclasses.replace(iteration, **changes)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ExplicitNetwork(hidden=0), "hidden must be a positive integer, got 0;"),
        (
            lambda: ExplicitNetwork(activation="relu6"),
            "activation must be one of 'tanh', 'identity', got 'relu6'; give a function",
        ),
        (
            lambda: ExplicitNetwork(samples=2, data=([[1.0, 2.0]], [[1.0], [2.0]])),
            "data of x must have shape (2, 1), got (1, 2)",
        ),
        (lambda: BernoulliMasks(1.2), "keep_prob must lie in (0, 1]"),
        (lambda: GaussianMasks(-1.0), "variance must be a positive number, got -1.0."),
        (lambda: UniformMasks(0), "half_width must be a positive number, got 0."),
        (
            lambda: FiniteMasks([0.0, 1.5], [0.5, 0.5]),
            "the mean of the masks must be 1, got 0.75 for values [0.0, 1.5]: divide the values by the mean.",
        ),
        (
            lambda: FiniteMasks([0.0, 2.0], [0.5, 0.6]),
            "probabilities must add up to 1, got 1.1: divide them by their sum.",
        ),
        (lambda: FiniteMasks([1.0, 1.0], [0.5, 0.5]), "values must be distinct, got [1.0, 1.0]"),
        (lambda: FiniteMasks([0.0, 1.0], [0, 1]), "probabilities must be positive, got [0, 1]"),
        (lambda: FiniteMasks([1.0], [0.5, 0.5]), "values and probabilities must be of the same length, got 1 and 2"),
        (
            lambda: dropout(ExplicitNetwork(), SampleIndex(2)),
            "masks must be a MaskLaw, such as BernoulliMasks(keep_prob), got SampleIndex(2).",
        ),
        (
            lambda: dropout(ExplicitNetwork(), LAW, [2]),
            "layers[0] must be at most 1, got 2; the number of hidden layers is 1.",
        ),
        (lambda: dropconnect(ExplicitNetwork(), LAW), "step of w_1_1 is not a polynomial in eta_w_1_1"),
        (
            lambda: label_noise(ExplicitNetwork(), Centred(LAW)),
            "noise must be a MaskLaw, such as BernoulliMasks(keep_prob), got Centred",
        ),
        (lambda: sgd(ExplicitNetwork(samples=2), batch=0), "batch must be a positive integer, got 0."),
        (
            lambda: momentum(momentum(dropout(ExplicitNetwork(), LAW))),
            "iteration must have a step that is proportional to the small parameter",
        ),
    ],
)
def test_refusals_of_laws_and_constructors(make, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make()


def test_named_derivatives_do_not_mix_with_those_of_sympy():
    plain, named = Function("sigma"), smooth_function("sigma")
    assert plain(theta * y) != named(theta * y)
    assert named(theta * y).diff(theta) == y * smooth_function("sigmaprime")(theta * y)
    assert named(theta * y).diff(theta, 2) == y**2 * smooth_function("sigmaprimeprime")(theta * y)
    assert sympy.latex(smooth_function("sigmaprime")(theta)).count("'") == 1
