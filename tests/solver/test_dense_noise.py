"""Dense noise and noise products of an equation agree, and torchsde's adjoint has the gradients of the steps."""

import pytest
import torch
import torchsde
from problems import make_problem

import smesolve as sme

PROBLEM = make_problem(width=3)


@pytest.mark.parametrize("order", [1, 2])
def test_the_dense_noise_is_that_of_the_products(order):
    equation = sme.ModifiedEquation(PROBLEM, lr=0.1, order=order, dense=True)
    y = torch.stack([PROBLEM.initial(seed) for seed in range(4)])
    v = torch.randn(4, PROBLEM.noise_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(torch.einsum("bdm,bm->bd", equation.g(0.0, y), v), equation.g_prod(0.0, y, v), atol=1e-14)
    assert not hasattr(sme.ModifiedEquation(PROBLEM, lr=0.1, order=order), "g")


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_the_adjoint_approach_those_of_the_steps(order):
    equation = sme.ModifiedEquation(PROBLEM, lr=0.1, order=order, dense=True)
    ts, size = torch.tensor([0.0, 0.2], dtype=torch.float64), (3, PROBLEM.noise_dim)

    def gradient(integrate, dt, **more):
        y0 = PROBLEM.initial().expand(3, -1).clone().requires_grad_()
        bm = torchsde.BrownianInterval(0.0, 0.2, size=size, dtype=torch.float64, entropy=1)
        PROBLEM.loss(integrate(equation, y0, ts, bm=bm, method="euler", dt=dt, **more)[-1]).sum().backward()
        return y0.grad

    errors = []
    for dt in (0.05, 0.0125):
        exact = gradient(torchsde.sdeint, dt)
        errors.append(
            float((gradient(torchsde.sdeint_adjoint, dt, adjoint_method="euler") - exact).norm() / exact.norm())
        )
    assert errors[1] < 0.5 * errors[0] < 0.1


@pytest.mark.parametrize(
    ("problem", "more", "words"),
    [
        (PROBLEM, {"order": "quadratic"}, "dense=True is for order 1 or 2"),
        (PROBLEM, {"order": 3}, "dense=True is for order 1 or 2"),
        (PROBLEM.with_weak_noise(), {}, "dense=True is for order 1 or 2"),
        (make_problem(width=50), {}, "would make 150 x 1275 numbers for each path"),
        (PROBLEM, {"dense": 1}, "dense must be True or False"),
    ],
)
def test_a_noise_that_is_not_dense_is_refused(problem, more, words):
    with pytest.raises(sme.SmesolveError, match=words):
        sme.ModifiedEquation(problem, lr=0.1, **{"dense": True} | more)
