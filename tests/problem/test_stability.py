"""Limits of stability of steps that are not those of gradient descent."""

import math

import pytest
import torch

from smesolve.problem.stability import step_limit


@pytest.mark.parametrize("friction", [1.0, 0.1, 1e-3])
def test_the_limit_of_an_oscillation_falls_with_its_friction(friction):
    """Of x'' + c x' + x = 0 Euler's step has eigenvalues with |1 + nu|^2 = 1 - c lr + lr^2: the limit is c."""
    A = torch.tensor([[0.0, 1.0], [-1.0, -friction]], dtype=torch.float64)
    found = step_limit(lambda at, lr: lr * at @ A.mT, torch.zeros(2, dtype=torch.float64), math.inf)
    assert found == pytest.approx(friction, rel=2e-3)
