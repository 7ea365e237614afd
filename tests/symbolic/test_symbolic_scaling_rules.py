"""Scaling rules: their exponents, and that they leave the derived equation what it is."""

import itertools

import pytest
import sympy
from sympy import Rational

import smesolve as sme
from smesolve.symbolic import Centred, Iteration, adam, modified_equation, momentum, rmsprop, scaling_rule

theta, G = sympy.symbols("theta G", real=True)
S, kappa, lr, power = sympy.symbols("S kappa lr power", positive=True)
c_1, c_2, eps = sympy.symbols("c_1 c_2 epsilon", positive=True)
xi = sympy.Symbol("xi", real=True)
DESCENT = Iteration(
    [theta], [-lr * (G + sympy.sqrt(S / kappa) * xi)], {xi: Centred(sme.GaussianMasks(1))}, lr, [G, S, kappa]
)
FIXED = [theta, G, S]
HALF = Rational(1, 2)


def memory(equation, stem):
    return next(symbol for symbol in equation.iteration.state if symbol.name == f"{stem}_theta")


def test_the_linear_rule_of_descent_and_of_momentum():
    plain = scaling_rule(modified_equation(DESCENT, 1), kappa, FIXED)
    assert (plain.exponents, plain.time, plain.steps, plain.changes) == ({lr: 1}, 0, -1, {})
    assert str(plain) == "lr ~ kappa"
    heavy = modified_equation(momentum(DESCENT, rate=c_1), 1)
    rule = scaling_rule(heavy, kappa, FIXED)
    assert rule.exponents == {lr: 1, c_1: 0, memory(heavy, "m"): 0} and rule.steps == -1


def test_adam_has_a_rule_at_large_and_at_small_noise_and_none_in_between():
    equation = modified_equation(adam(DESCENT), 1)
    m, v = memory(equation, "m"), memory(equation, "v")
    large = scaling_rule(equation, kappa, FIXED, vanishing={G: 1, m: 1}, noiseless=[v])
    assert large.exponents == {lr: HALF, c_1: HALF, c_2: HALF, eps: -HALF, m: 0, v: -1}
    assert (large.time, large.steps) == (-HALF, -1)
    assert large.changes == {(m, v): 1, (v, v): 1}  # the noise of v grows with kappa
    small = scaling_rule(equation, kappa, FIXED, vanishing={S: 1})
    assert small.exponents == {lr: 1, c_1: 0, c_2: 0, eps: 0, m: 0, v: 0} and small.changes == {}
    assert scaling_rule(equation, kappa, FIXED) is None
    assert scaling_rule(equation, kappa, FIXED, noiseless=[v]) is None
    assert scaling_rule(equation, kappa, FIXED, vanishing={G: 1, m: 1}) is None  # because of the noise of v


def test_rmsprop_has_the_rules_of_adam():
    equation = modified_equation(rmsprop(DESCENT), 1)
    v = memory(equation, "v")
    large = scaling_rule(equation, kappa, FIXED, vanishing={G: 1}, noiseless=[v])
    assert large.exponents == {lr: HALF, c_2: HALF, eps: -HALF, v: -1} and large.steps == -1
    small = scaling_rule(equation, kappa, FIXED, vanishing={S: 1})
    assert small.exponents == {lr: 1, c_2: 0, eps: 0, v: 0}


@pytest.mark.parametrize("noise", [{"G": 0}, {"S": 0}])
def test_the_equation_with_multiplied_constants_is_the_same(noise):
    """By substitution, in an equation in which what the regime leaves out is not there."""
    equation = modified_equation(adam(DESCENT), 1)
    (name,) = noise
    state = [symbol for symbol in equation.iteration.state if symbol.name.startswith("m")] if name == "G" else []
    v, gone = memory(equation, "v"), G if name == "G" else S
    rule = scaling_rule(
        equation, kappa, FIXED, vanishing={gone: 1, **dict.fromkeys(state, 1)}, noiseless=[v] if name == "G" else []
    )
    powers = {symbol: symbol * power**exponent for symbol, exponent in rule.exponents.items()} | {kappa: power * kappa}
    drift, covariance = equation.drift.subs(gone, 0), equation.covariance.subs(gone, 0)
    exponent = [rule.exponents.get(symbol, 0) for symbol in equation.iteration.state]
    for k, entry in enumerate(drift):
        there = entry.subs(powers, simultaneous=True)
        assert sympy.simplify(there - power ** (exponent[k] - rule.time) * entry) == 0
    for i, j in itertools.product(range(len(exponent)), repeat=2):
        pair = tuple(
            sorted((equation.iteration.state[i], equation.iteration.state[j]), key=equation.iteration.state.index)
        )
        there = (lr * covariance[i, j]).subs(powers, simultaneous=True)
        wanted = exponent[i] + exponent[j] - rule.time + rule.changes.get(pair, 0)
        assert sympy.simplify(there - power**wanted * lr * covariance[i, j]) == 0


def test_bad_requests_are_refused():
    equation = modified_equation(DESCENT, 1)
    with pytest.raises(sme.SmesolveError, match="equation must be of order 1, got order 2"):
        scaling_rule(modified_equation(DESCENT, 2), kappa, FIXED)
    with pytest.raises(sme.SmesolveError, match="by holds xi, which is not a constant or state variable"):
        scaling_rule(equation, xi, FIXED)
    for by, fixed in ((kappa, [*FIXED, kappa]), (theta, FIXED)):
        with pytest.raises(sme.SmesolveError, match="by must be a constant of the iteration that is not in fixed"):
            scaling_rule(equation, by, fixed)
    p, q = sympy.symbols("p q", positive=True)
    both = Iteration([theta], [-lr * (p * q * G + xi)], {xi: Centred(sme.GaussianMasks(1))}, lr, [G, p, q, kappa])
    with pytest.raises(sme.SmesolveError, match="leaves exponents free"):
        scaling_rule(modified_equation(both, 1), kappa, [theta, G])
