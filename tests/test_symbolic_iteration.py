"""What an iteration accepts, and the sentence for what it does not."""

import dataclasses
import re

import pytest
import sympy
from sympy import Function, Rational, exp, sqrt, symbols

from smesolve.problem.masks import BernoulliMasks
from smesolve.symbolic import Iteration, smooth_function, two_layer_dropout

theta, y, eta, lr = symbols("theta y eta lr")
LAW = BernoulliMasks(Rational(4, 5))


def test_monomials_in_the_masks():
    iteration = Iteration([theta], [eta * (eta * sympy.tanh(theta) - y)], {eta: LAW}, lr, constants=[y])
    assert iteration.mask_monomials == ({(2,): sympy.tanh(theta), (1,): -y},)


def test_floats_become_exact():
    iteration = Iteration([theta], [0.1 * eta * theta], {eta: LAW}, lr)
    assert iteration.gradient == (Rational(1, 10) * eta * theta,)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"gradient": [theta * eta - y, theta]},
            "gradient has 2 expressions for 1 parameters: give one expression for each parameter, in the same order.",
        ),
        (
            {"constants": []},
            "gradient contains y, which is neither a parameter nor a mask: name it in constants.",
        ),
        (
            {"gradient": [theta - y]},
            "masks names eta, which the gradient does not contain: leave it out.",
        ),
        (
            {"gradient": [lr * theta * eta - y]},
            "gradient contains lr = lr, but the iteration multiplies the gradient by lr itself: take lr out "
            "of the gradient.",
        ),
        (
            {"gradient": [exp(eta) * theta - y]},
            "gradient of theta is not a polynomial in the masks (theta*exp(eta) - y): a finite mask "
            "expansion exists only for polynomials, as squared loss with masks on the last hidden layer "
            "gives.",
        ),
        (
            {"gradient": [theta / eta - y]},
            "gradient of theta is not a polynomial in the masks (-y + theta/eta)",
        ),
        ({"gradient": [sqrt(eta) - y]}, "gradient of theta is not a polynomial in the masks (sqrt(eta) - y)"),
        (
            {"constants": [y, theta]},
            "theta is named 2 times among parameters, masks, constants and lr: give each symbol one role and "
            "a name of its own.",
        ),
        (
            {"masks": {eta: 0.8}},
            "masks[eta] is 0.8, which is no MaskLaw: give its law, for example BernoulliMasks(keep_prob).",
        ),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(changes, sentence):
    iteration = Iteration([theta], [eta * (eta * theta - y)], {eta: LAW}, lr, constants=[y])
    with pytest.raises(ValueError, match=re.escape(sentence)):
        dataclasses.replace(iteration, **changes)


def test_two_layer_refusals():
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        two_layer_dropout(1, 1, 0)
    with pytest.raises(ValueError, match=re.escape("activation 'relu6' is not known: use one of ['tanh'] or ")):
        two_layer_dropout(1, 1, 1, activation="relu6")
    with pytest.raises(ValueError, match=re.escape("data: x has shape (1, 2), expected (2, 1)")):
        two_layer_dropout(2, 1, 1, data=([[1.0, 2.0]], [[1.0], [2.0]]))
    with pytest.raises(ValueError, match=re.escape("keep_prob must lie in (0, 1]")):
        two_layer_dropout(1, 1, 1, keep_prob=1.2)


def test_named_derivatives_do_not_mix_with_those_of_sympy():
    plain, named = Function("sigma"), smooth_function("sigma")
    assert plain(theta * y) != named(theta * y)
    assert named(theta * y).diff(theta) == y * smooth_function("sigmaprime")(theta * y)
    assert named(theta * y).diff(theta, 2) == y**2 * smooth_function("sigmaprimeprime")(theta * y)
    assert sympy.latex(smooth_function("sigmaprime")(theta)).count("'") == 1
