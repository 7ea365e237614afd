"""The bias of a scheme from paths at dt and dt/2, against solutions whose dependence on dt is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from smesolve.comparison.solver_bias import SolverBias


def one(value):
    return np.full((1, 1), value)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("size", [0.3, -0.3])
def test_the_interval_holds_the_bias_whatever_the_order_of_the_noise(order, size):
    """V_0(dt) = 2 + dt^4 and N(dt) = 0.1 + size dt^p: the bias is dt^4 + size dt^p."""
    dt = 0.2
    without = 2 + dt**4, 2 + (dt / 2) ** 4
    coarse, fine = (value + 0.1 + size * h**order for value, h in zip(without, (dt, dt / 2), strict=True))
    pairs = SimpleNamespace(mean=one(coarse - fine), stderr=one(0.004), half_width=one(0.01))
    bias = SolverBias.of(pairs, one(dt**4), one(without[0] - without[1]))
    noise = size * (dt**order - (dt / 2) ** order)
    assert bias.value[0, 0] == pytest.approx(dt**4 + 1.5 * noise, rel=1e-12)
    assert bias.stderr[0, 0] == pytest.approx(0.006, rel=1e-12)
    assert bias.half_width[0, 0] == pytest.approx(0.015 + abs(noise), rel=1e-12)
    left = abs(bias.value[0, 0] - dt**4 - size * dt**order)
    assert left <= abs(noise) / 2 * (1 + 1e-12)  # c lies in (1, 2]: half of what the interval allows for
