"""Brownian paths that solvers with different steps share, with their time integrals, and SDEs in every form."""

import numpy as np
import pytest
import torch
import torchsde
from problems import make_problem

import smesolve as sme
from smesolve.solver.nested_paths import NestedPaths
from smesolve.solver.sde_contract import CompletedSDE

ONE = torch.ones(1, dtype=torch.float64)


def test_increments_and_time_integrals_of_coarse_steps_are_those_of_the_fine_path():
    paths = NestedPaths(5, 2, 12, 0.25, 3, True, ONE)
    W, H = paths.block(1)
    values = torch.cat([torch.zeros(1, 5, 2), W.cumsum(0)])
    area = 0.25 * (values[:-1] + W / 2 + H)  # of W from 0 on, over each fine step
    for ratio in (1, 2, 3, 4, 12):
        increments, U = paths.over_steps(W, H, ratio)
        assert torch.allclose(increments, values[ratio::ratio] - values[:-1:ratio], atol=1e-14)
        begin = values[:-1:ratio]
        assert torch.allclose(U, area.unflatten(0, (-1, ratio)).sum(1) - ratio * 0.25 * begin, atol=1e-14)


def test_the_law_of_increment_and_time_integral_is_that_of_brownian_motion():
    """Var W = t, Cov(W, U) = t^2/2, Var U = t^3/3."""
    paths = NestedPaths(50_000, 1, 4, 0.5, 1, True, ONE)
    W, U = paths.over_steps(*paths.block(0), 4)
    found = np.cov(W[0, :, 0], U[0, :, 0])
    exact = np.array([[2.0, 2.0], [2.0, 8 / 3]])
    stderr = np.sqrt((exact**2 + np.outer(exact.diagonal(), exact.diagonal())) / 50_000)
    assert (np.abs(found - exact) < 4 * stderr).all()


def test_keyed_brownian_gives_torchsde_the_time_integrals_it_asks_for():
    bm = sme.KeyedBrownian(6, 2, dt=0.125, seed=3, levy_area_approximation="space-time")
    W, U = bm(0.0, 0.5, return_U=True)
    assert torch.equal(W, sme.KeyedBrownian(6, 2, dt=0.125, seed=3)(0.0, 0.5))
    halves = [bm(0.0, 0.25, return_U=True), bm(0.25, 0.5, return_U=True)]
    assert torch.allclose(U, halves[0][1] + halves[1][1] + 0.25 * halves[0][0], atol=1e-14)
    y0, ts = torch.ones(6, 2, dtype=torch.float64), torch.tensor([0.0, 0.5], dtype=torch.float64)
    ends = [torchsde.sdeint(Growth(), y0, ts, bm=bm, method="srk", dt=dt)[-1] for dt in (0.25, 0.125)]
    exact = torch.exp(-0.32 * 0.5 + 0.8 * bm(0.0, 0.5)) * np.exp(-0.5)
    assert (ends[1] - exact).abs().mean() < 0.6 * (ends[0] - exact).abs().mean()
    with torch.device("meta"):  # nothing is made where torch makes tensors by default
        assert torch.equal(bm(0.0, 0.5, return_U=True)[1], U)
    with pytest.raises(sme.SmesolveError, match="levy_area_approximation='space-time'"):
        sme.KeyedBrownian(6, 2, dt=0.125)(0.0, 0.5, return_U=True)
    with pytest.raises(sme.SmesolveError, match="areas between Brownian motions"):
        bm(0.0, 0.5, return_A=True)


class Growth(torch.nn.Module):
    """dY = -Y dt + 0.8 Y dW in each coordinate."""

    sde_type, noise_type = "ito", "diagonal"

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return 0.8 * y


class Form:
    """The same with general noise, in one of torchsde's forms."""

    sde_type, noise_type, noise_dim = "ito", "general", 2

    def __init__(self, *names):
        for name in names:
            setattr(self, name, getattr(self, f"_{name}"))

    def _f(self, t, y):
        assert isinstance(t, torch.Tensor)  # as torchsde gives it
        return -y

    def _g(self, t, y):
        return torch.diag_embed(0.8 * y)

    def _g_prod(self, t, y, v):
        return 0.8 * y * v

    def _f_and_g(self, t, y):
        return self._f(t, y), self._g(t, y)

    def _f_and_g_prod(self, t, y, v):
        return self._f(t, y), self._g_prod(t, y, v)


FORMS = [("f", "g"), ("f", "g_prod"), ("f_and_g",), ("f_and_g_prod",), ("f", "g", "g_prod", "f_and_g", "f_and_g_prod")]


@pytest.mark.parametrize("scheme", ["euler", "small_noise_heun", "small_noise_rk4"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_sde_has_the_same_paths(form, scheme):
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    given = {"ts": [0.0, 0.5], "scheme": scheme, "dt": 0.125, "paths": 5, "seed": 2}
    assert torch.allclose(sme.solve(Form(*form), start, **given), sme.solve(Growth(), start, **given), atol=1e-14)


def test_solve_takes_a_brownian_motion_and_halved_steps_see_the_same_path():
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    bm = sme.KeyedBrownian(400, 2, dt=1 / 64, seed=5)
    exact = start * torch.exp(-1.32 + 0.8 * bm(0.0, 1.0))
    errors = [
        (sme.solve(Growth(), start, [0.0, 1.0], "euler", dt=dt, paths=400, bm=bm)[-1] - exact).abs().mean().item()
        for dt in (1 / 4, 1 / 64)
    ]
    assert errors[1] < 0.4 * errors[0]  # 16 times smaller steps: a quarter at order 1/2
    interval = torchsde.BrownianInterval(0.0, 1.0, size=(7, 2), dtype=torch.float64, entropy=3)
    ours = sme.solve(Growth(), start, [0.0, 0.5, 1.0], "euler", dt=0.25, paths=7, bm=interval)
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    theirs = torchsde.sdeint(Growth(), start.expand(7, -1), ts, bm=interval, method="euler", dt=0.25)
    assert (ours - theirs).abs().max() < 1e-14
    problem = make_problem(width=3)
    equation = sme.ModifiedEquation(problem, lr=0.1, order=1)
    block = sme.KeyedBrownian(problem.block_size, problem.noise_dim, dt=0.05, seed=4)
    by_seed = sme.solve(equation, problem.initial(), [0.0, 0.2], dt=0.05, paths=problem.block_size, seed=4)
    given = sme.solve(equation, problem.initial(), [0.0, 0.2], dt=0.05, paths=problem.block_size, bm=block)
    assert torch.equal(by_seed, given)


class Given:
    """A Brownian motion with a shape, and with the same value on every interval."""

    def __init__(self, shape, value=None):
        self.shape, self.value = shape, value

    def __call__(self, ta, tb):
        return self.value


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"bm": 3}, r"bm must be a Brownian motion of shape \(5, 2\)"),
        ({"bm": sme.KeyedBrownian(4, 2, 0.1)}, r"got \(4, 2\)"),
        ({"bm": sme.KeyedBrownian(5, 2, 0.1), "seed": 3}, "seed=3 has no meaning beside bm"),
        ({"bm": sme.KeyedBrownian(5, 2, 0.1), "workers": 2}, "workers=2 has no meaning beside bm"),
        ({"bm": Given(5)}, r"bm must be a Brownian motion of shape \(5, 2\), .* got 5"),
        ({"bm": Given(torch.tensor([5, 2]))}, r"bm must be a Brownian motion of shape \(5, 2\), .* got a torch.int64"),
        ({"bm": Given((5, 2), None)}, r"bm must return a tensor of shape \(5, 2\), its `shape`, got None"),
        ({"bm": Given((5, 2), torch.ones(1, 2).double())}, r"bm must return .* got a torch\.float64 .* \(1, 2\)"),
    ],
)
def test_a_brownian_motion_that_does_not_fit_is_refused(more, words):
    with pytest.raises(sme.SmesolveError, match=words):
        sme.solve(Growth(), torch.ones(2).double(), [0.0, 0.5], "euler", dt=0.1, paths=5, **more)


def test_a_scheme_of_gradients_names_the_sde_that_has_none():
    with pytest.raises(
        sme.SmesolveError, match=r"scheme SVAG takes the gradients of .* got Growth; take another scheme"
    ):
        sme.solve(Growth(), torch.ones(2).double(), [0.0, 0.5], "svag", dt=0.1, paths=5)


@pytest.mark.parametrize("order", [3, "poisson"])
def test_a_brownian_motion_for_jumps_is_refused(order):
    problem = make_problem()
    equation, bm = sme.ModifiedEquation(problem, 0.1, order), sme.KeyedBrownian(5, problem.noise_dim, 0.1)
    with pytest.raises(sme.SmesolveError, match=rf"bm drives a diffusion, .* order {order!r} has jumps; leave bm out"):
        sme.solve(equation, problem.initial(), [0.0, 0.5], dt=0.1, paths=5, bm=bm)


class Wrong(Growth):
    def __init__(self, **given):
        super().__init__()
        for name, value in given.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("sde", "words"),
    [
        (
            Wrong(g=lambda t, y: y[..., None]),
            r"sde\.g must return shape \(2, 2\) for 2 paths and noise_type='diagonal'",
        ),
        (Wrong(noise_type="general"), r"sde\.g must return shape \(2, 2, 2\)"),
        (Wrong(noise_type="coloured"), "noise_type must be one of"),
        (Wrong(f=lambda t, y: y[..., :1]), r"sde\.f must return shape \(2, 2\)"),
        (Wrong(f=lambda t, y: y.float()), r"sde\.f must return torch\.float64"),
        (Wrong(noise_type="general", g=lambda t, y: torch.zeros(2, 2, 2)), r"sde\.g must return torch\.float64"),
        (Wrong(f=lambda t, y: 1 / 0), r"sde\.f must work"),
        (Wrong(sde_type="stratonovich"), "sde must be a ModifiedEquation"),
        (object(), "sde must be a ModifiedEquation"),
        (Growth, "sde must be a ModifiedEquation"),
        (Wrong(noise_type="general", noise_dim=10**12), r"sde\.noise_dim=1000000000000 would take .* bytes"),
    ],
)
def test_an_sde_that_torchsde_would_not_take_is_refused(sde, words):
    with pytest.raises(sme.SmesolveError, match=words):
        sme.solve(sde, torch.ones(2).double(), [0.0, 0.5], "euler", dt=0.1, paths=5)


def test_an_unknown_number_of_brownian_motions_is_asked_for():
    form = Form("f", "g_prod")
    form.noise_dim = None
    with pytest.raises(sme.SmesolveError, match="give it noise_dim, an integer"):
        CompletedSDE(form, torch.ones(2).double())
