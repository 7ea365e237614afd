"""Runge-Kutta-Chebyshev steps: order 2, stable up to the limit that is stated, and few velocities on stiff flows."""

import math

import pytest
import torch
from numpy.polynomial import Polynomial

from smesolve.solver.stabilised_ode import (
    _coefficients,
    _largest_eigenvalue,
    _step,
    solve_dissipative,
)

RATES = torch.logspace(-2, 3, 12, dtype=torch.float64)


def stability_polynomial(stages):
    """Return P_s with y_{n+1} = P_s(h lambda) y_n, by the recursion on polynomials."""
    z, one = Polynomial([0.0, 1.0]), Polynomial([1.0])
    first, rows = _coefficients(stages)
    before, current = one, one + first * z
    for mu, nu, m, g in rows:
        before, current = current, (1 - mu - nu) * one + mu * current + nu * before + m * z * current + g * z
    return current


@pytest.mark.parametrize("stages", [2, 3, 8])
def test_a_step_agrees_with_the_exponential_through_second_order(stages):
    assert stability_polynomial(stages).coef[:3] == pytest.approx([1, 1, 0.5], rel=1e-12)


@pytest.mark.parametrize("stages", [2, 5, 20, 60])
def test_a_step_is_stable_up_to_its_limit(stages):
    limit = 2 / 3 * (stages**2 - 1) * (1 - 2 / 15 * 2 / 13)
    rates = torch.linspace(0, limit, 2001, dtype=torch.float64)
    factors = _step(lambda y: -rates * y, torch.ones_like(rates), -rates, 1.0, stages)
    assert factors.abs().max() <= 1 + 1e-9
    beyond = torch.tensor([1.2 * limit], dtype=torch.float64)
    assert _step(lambda y: -beyond * y, torch.ones_like(beyond), -beyond, 1.0, stages).abs() > 1


def test_the_error_of_a_nonlinear_step_is_of_third_order():
    def error(h):  # dy/dt = -y^2: y = y_0/(1 + y_0 t)
        y = torch.ones(1, dtype=torch.float64)
        return abs(float(_step(lambda at: -at.square(), y, -y.square(), h, 6)) - 1 / (1 + h))

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_a_stiff_flow_takes_few_velocities(tolerance):
    calls = [0]

    def velocity(y):
        calls[0] += 1
        return -RATES * y

    start = torch.stack([torch.ones_like(RATES), torch.linspace(1, 2, 12, dtype=torch.float64)])
    end = solve_dissipative(velocity, start, 50.0, tolerance)
    exact = start * torch.exp(-50 * RATES)
    assert (end - exact).abs().max() < 30 * tolerance
    assert calls[0] < 50 * float(RATES.max()) / 2 / 5  # a fifth of the steps of gradient descent at the edge


def test_the_largest_eigenvalue_is_that_of_the_stiffest_row():
    y = torch.stack([torch.ones_like(RATES), 2 * torch.ones_like(RATES)])
    rates = torch.stack([RATES, 3 * RATES])
    found, _ = _largest_eigenvalue(lambda at: -rates * at, y, -rates * y, torch.ones_like(y))
    assert found == pytest.approx(3000, rel=0.05)


def test_flows_at_rest_and_flows_that_explode():
    start = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(solve_dissipative(torch.zeros_like, start, 5.0, 1e-3), start)
    with pytest.raises(ArithmeticError):
        solve_dissipative(lambda y: y.square(), start, 5.0, 1e-3)  # 1/(1 - t)
