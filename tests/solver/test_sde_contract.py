"""SDEs that users write: what they say of themselves is tried, and that every path is treated by itself."""

import numpy as np
import pytest
import torch

import smesolve as sme

START = torch.tensor([1.0, 0.5], dtype=torch.float64)


class Linear:
    """dY = -Y dt + Y/2 dW, one Brownian motion for each coordinate."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, f=lambda t, y: -y, g=lambda t, y: y / 2, noise_type="diagonal"):
        self.f, self.g, self.noise_type = f, g, noise_type


def error(sde, scheme="euler"):
    study = sme.convergence(sde, START, 1.0, [0.25], [scheme], {"y": "theta[0]"}, ("euler", 1 / 64), paths=8)
    return study.table.error[0]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda t, y: y.mean(0) - y, "by itself, but its value for one"),
        (lambda t, y: -y / len(y), "by itself, but its value for one"),
        (lambda t, y: -y + torch.randn_like(y), "other values when it is called again"),
    ],
)
@pytest.mark.parametrize("name", ["f", "g"])
def test_paths_are_treated_one_by_one(name, function, words):
    for use in (error, lambda sde: sme.solve(sde, START, [0.0, 0.5], "euler", dt=0.25, paths=4)):
        with pytest.raises(sme.SmesolveError, match=f"sde.{name} .* {words}"):
            use(Linear(**{name: function}))


def test_the_number_of_brownian_motions_may_be_an_integer_of_numpy():
    sde = Linear(noise_type="general")
    del sde.g
    sde.g_prod, sde.noise_dim = lambda t, y, v: y * v.sum(-1, keepdim=True) / 2, np.int64(2)
    assert sme.solve(sde, START, [0.0, 0.5], "euler", dt=0.25, paths=4).isfinite().all()


def test_additive_noise_is_the_same_everywhere():
    with pytest.raises(sme.SmesolveError, match="noise_type='additive' says that the noise does not depend on y"):
        error(Linear(g=lambda t, y: y[..., None], noise_type="additive"))
    assert error(Linear(g=lambda t, y: torch.ones_like(y)[..., None], noise_type="additive")) != 0


@pytest.mark.parametrize("scheme", ["milstein", "srk"])
def test_diagonal_noise_is_elementwise_where_the_order_rests_on_it(scheme):
    coupled = Linear(g=lambda t, y: y.flip(-1) / 2)
    assert error(coupled) != 0
    with pytest.raises(sme.SmesolveError, match="element i of g is a function of y_i only"):
        error(coupled, scheme)
    assert error(Linear(), scheme) != 0


def test_milsteins_method_needs_the_derivative_of_the_noise():
    lost = Linear(g=lambda t, y: y.detach() / 2)
    assert error(lost) == error(Linear())
    with pytest.raises(sme.SmesolveError, match=r"sde\.g must have the derivative of its values"):
        error(lost, "milstein")
