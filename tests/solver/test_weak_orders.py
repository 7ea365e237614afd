"""Every scheme has the weak order that it declares, on SDEs and problems whose expectations are known exactly.

A scheme declares terms such as "dt^4 + lr dt^2 + lr^2 dt". Along lr = dt^q the error then falls as the lowest of the
powers, and no Monte Carlo noise hides it: expectations of schemes are sums over all increments or draws.
"""

import math
import re

import numpy as np
import pytest
from exact_sdes import (
    EXACT_SDES,
    PROBLEMS,
    equation_second_moment,
    scheme_expectation,
    scheme_second_moment,
)

import smesolve as sme
from smesolve.solver.schemes.gradient_scheme import GradientScheme

TOLERANCE = 0.15
"""Tolerance of a slope between two steps that are as small as the enumeration allows."""

RAYS = {"no noise": math.inf, "lr = dt": 1, "lr fixed": 0}
START = np.array([1.0, -0.5])
DRIFT_SCHEMES = [name for name, scheme in sme.SCHEMES.items() if not issubclass(scheme, GradientScheme)]


def declared_order(scheme, ray):
    """The power of dt at which the declared terms fall along lr = dt^q."""
    powers = []
    for term in sme.SCHEMES[scheme].weak_error.split(" + "):
        power = {name: int(exponent or 1) for name, exponent in re.findall(r"(lr|dt)(?:\^(\d+))?", term)}
        if RAYS[ray] < math.inf or "lr" not in power:
            powers.append(power["dt"] + (RAYS[ray] * power["lr"] if "lr" in power else 0))
    return min(powers)


def slope(error, steps):
    """log2 of the ratio of the errors at 1/steps and 1/(2 steps)."""
    coarse, fine = (abs(error(number)) for number in (steps, 2 * steps))
    return math.log2(coarse / fine)


@pytest.mark.parametrize("ray", RAYS)
@pytest.mark.parametrize("name", EXACT_SDES)
@pytest.mark.parametrize("scheme", DRIFT_SCHEMES)
def test_the_error_on_an_sde_falls_at_least_as_declared(scheme, name, ray):
    exact = EXACT_SDES[name]
    horizon = 1.0 if exact.affine else 0.5
    steps = {"no noise": 16, "lr = dt": 64, "lr fixed": 128} if exact.affine else dict.fromkeys(RAYS, 5)

    def error(number):
        dt = horizon / number
        lr = {"no noise": 0.0, "lr = dt": dt, "lr fixed": 2.0}[ray]  # large, where the noise decides
        return scheme_expectation(exact, lr, scheme, dt, number) - exact.expectation(lr, horizon)

    assert slope(error, steps[ray]) > declared_order(scheme, ray) - TOLERANCE


@pytest.mark.parametrize("ray", ["lr = dt", "lr fixed"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("scheme", sme.SCHEMES)
def test_the_error_on_a_modified_equation_falls_as_declared(scheme, name, order, ray):
    problem, horizon = PROBLEMS[name], 1.0
    start = START[: problem.dim]

    def error(number):
        dt = horizon / number
        lr = dt if ray == "lr = dt" else 0.3
        exact = equation_second_moment(problem, start, lr, order, horizon)
        return scheme_second_moment(problem, start, lr, order, scheme, dt, number) - exact

    steps = 64 if ray == "lr = dt" else 2**13
    assert slope(error, steps) == pytest.approx(declared_order(scheme, ray), abs=TOLERANCE)


@pytest.mark.parametrize("scheme", sme.SCHEMES)
def test_the_weak_order_is_that_of_the_declared_terms_at_one_learning_rate(scheme):
    assert sme.SCHEMES[scheme].weak_order == declared_order(scheme, "lr fixed")
