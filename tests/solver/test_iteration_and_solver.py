import re

import numpy as np
import pytest
import torch
import torchsde
from problems import ThreeValuedMasks, linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.solver.integration import integration


def test_iterate_applies_one_dropout_gradient_a_step():
    problem = make_problem(width=3)
    theta0 = problem.initial()
    paths = sme.iterate(problem, theta0, lr=0.1, steps=3, paths=5, seed=7)
    assert paths.shape == (4, 5, problem.dim)
    assert torch.equal(paths[0], theta0.expand(5, -1))
    theta = theta0.expand(problem.block_size, -1)
    for step in range(3):
        masks = problem.law.quantile(keyed_uniforms((problem.block_size, 3), 7, 0, step))
        theta = theta - 0.1 * problem.gradient(theta, masks)
        assert torch.equal(paths[step + 1], theta[:5])


def test_a_path_is_the_same_whatever_the_number_of_paths_and_what_is_saved():
    problem = make_problem(width=3, samples=7)
    theta0 = problem.initial()
    sde = sme.ModifiedEquation(problem, lr=0.1, order=2)
    many = problem.block_size + 3
    few = {"paths": 10, "seed": 4}
    assert torch.equal(
        sme.iterate(problem, theta0, 0.1, 4, **few),
        sme.iterate(problem, theta0, 0.1, 4, paths=many, seed=4)[:, :10],
    )
    assert torch.equal(
        sme.iterate(problem, theta0, 0.1, 4, **few)[[1, 4]], sme.iterate(problem, theta0, 0.1, 4, **few, save=[1, 4])
    )
    for scheme in sme.SCHEMES:
        whole = sme.solve(sde, theta0, [0, 0.25, 1.0], scheme, dt=0.05, paths=many, seed=4)
        assert whole.shape == (3, many, problem.dim)
        assert torch.equal(whole[:, :10], sme.solve(sde, theta0, [0, 0.25, 1.0], scheme, dt=0.05, **few))
        assert torch.equal(whole[[0, 2]], sme.solve(sde, theta0, [0, 1.0], scheme, dt=0.05, paths=many, seed=4))
        other = sme.solve(sde, theta0, [0, 1.0], scheme, dt=0.05, paths=10, seed=5)
        assert not torch.equal(whole[[0, 2], :10], other)
    # blocks differ
    assert not torch.equal(whole[-1, 0], whole[-1, problem.block_size])


class DenseEquation(torch.nn.Module):
    """The modified equation stated with a dense factor, as a user of torchsde would write it."""

    noise_type, sde_type = "general", "ito"

    def __init__(self, equation):
        super().__init__()
        self.equation = equation

    def f(self, t, y):
        gradient = torch.func.vmap(torch.func.grad(self.equation.problem.modified_loss))(y)
        if self.equation.order == 1:
            return -gradient
        hessian = torch.func.vmap(torch.func.hessian(self.equation.problem.modified_loss))(y)
        return -gradient - self.equation.lr / 2 * torch.einsum("bde,be->bd", hessian, gradient)

    def g(self, t, y):
        return self.equation.lr**0.5 * self.equation.problem.noise_factor(y)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", [{"out_features": 2, "bias": True}, {"law": ThreeValuedMasks()}])
def test_torchsde_takes_the_equation_and_dense_and_matrix_free_agree(order, case):
    problem = make_problem(width=3, **case)
    equation = sme.ModifiedEquation(problem, lr=0.1, order=order)
    theta0 = problem.initial()
    y0 = theta0.expand(6, -1)
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)

    def integrate(sde):
        bm = sme.KeyedBrownian(6, problem.noise_dim, dt=0.0625, seed=3)
        return torchsde.sdeint(sde, y0, ts, bm=bm, method="euler", dt=0.0625)

    matrix_free, dense = integrate(equation), integrate(DenseEquation(equation))
    assert (matrix_free - dense).abs().max() < 1e-12
    # and with torchsde's own Brownian motion
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(6, problem.noise_dim), dtype=torch.float64, entropy=1)
    assert torchsde.sdeint(equation, y0, ts, bm=bm, method="euler", dt=0.0625).isfinite().all()


def test_euler_equals_torchsde_up_to_rounding():
    problem = make_problem(width=3)
    equation = sme.ModifiedEquation(problem, lr=0.1, order=2)
    theta0, blocks = problem.initial(), problem.block_size
    ours = sme.solve(equation, theta0, [0, 0.5, 1.0], "euler", dt=0.125, paths=blocks, seed=3)
    bm = sme.KeyedBrownian(blocks, problem.noise_dim, dt=0.125, seed=3)
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    theirs = torchsde.sdeint(equation, theta0.expand(blocks, -1), ts, bm=bm, method="euler", dt=0.125)
    assert (ours - theirs).abs().max() < 1e-14


def test_antithetic_paths_take_the_other_sign():
    problem = make_problem()
    theta0 = problem.initial()
    process = integration(sme.ModifiedEquation(problem, 0.1), theta0, "euler", 0.1, seed=2, antithetic=True)
    taken = process.advance_split(theta0.expand(process.block_size, -1), 0, 0)
    half = process.block_size // 2
    assert torch.equal(taken.noise[:half], -taken.noise[half:])
    middle = (taken.state[:half] + taken.state[half:]) / 2
    assert (middle - taken.prediction[:half]).abs().max() < 1e-15


def test_brownian_increments_are_nested_and_standard():
    fine = sme.KeyedBrownian(4000, 3, dt=0.25, seed=1)
    assert torch.allclose(fine(0.0, 1.0), sum(fine(k / 4, (k + 1) / 4) for k in range(4)), atol=1e-14)
    sample = fine(0.5, 0.75).flatten()
    assert abs(sample.mean()) < 4 * 0.5 / 12_000**0.5
    assert abs(sample.var() / 0.25 - 1) < 4 * (2 / 12_000) ** 0.5
    assert not torch.equal(fine(0.0, 0.25), sme.KeyedBrownian(4000, 3, 0.25, seed=1, block=1)(0.0, 0.25))
    with pytest.raises(ValueError, match=r"dt=0.25 does not divide"):
        fine(0.0, 0.3)
    with pytest.raises(sme.SmesolveError, match=r"must not end before it begins, got ta=0\.5 and tb=0\.25; swap them"):
        fine(0.5, 0.25)
    for first, last in ((3, 1), (1, 1), (-1, 1)):
        with pytest.raises(sme.SmesolveError, match=rf"must be 0 <= first < last, got first={first} and last={last}"):
            fine.increment(first, last)
    for time in (-0.25, np.nan, np.inf, "a", None, True, 1j, torch.zeros(2)):
        for name, interval in (("ta", (time, 0.25)), ("tb", (0.0, time))):
            with pytest.raises(sme.SmesolveError, match=f"{name} must be a number of at least 0, got"):
                fine(*interval)
    with pytest.raises(sme.SmesolveError, match=r"paths=.* would take .* bytes"):
        sme.KeyedBrownian(2**50, 3, 0.1)


@pytest.mark.parametrize(("scheme", "power"), [("euler", 1), ("small_noise_heun", 2), ("small_noise_rk4", 4)])
def test_noise_free_order_of_each_scheme(scheme, power):
    """Without noise (keep_prob 1) order 1 is the gradient flow of a quadratic: exact by matrix exponential."""
    problem = linear_problem(keep_prob=1.0)
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    hessian = torch.func.hessian(problem.loss)(theta0)
    minimiser = theta0 - torch.linalg.solve(hessian, problem.mean_gradient(theta0))
    exact = minimiser + torch.linalg.matrix_exp(-hessian) @ (theta0 - minimiser)
    equation = sme.ModifiedEquation(problem, lr=0.3, order=1)
    errors = [
        (sme.solve(equation, theta0, [0, 1.0], scheme, dt=dt, paths=1)[-1, 0] - exact).norm().item()
        for dt in (0.125, 0.0625, 0.03125)
    ]
    rates = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert rates[-1] == pytest.approx(power, abs=0.15)


@pytest.mark.parametrize("order", [1, 2])
def test_bias_of_each_scheme_falls_at_its_declared_rate(order):
    """Linear problem: moments of a scheme's solution are known exactly, and so is its bias."""
    problem = linear_problem()
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = LinearMoments(problem, theta0)

    def bias(scheme, lr, dt):
        return abs(moments.scheme(lr, order, 1.2, scheme, dt) - moments.equation(lr, order, 1.2))

    # dt = lr -> 0: dt, dt^2 + lr^2 dt, dt^4 + lr dt^2 + lr^2 dt
    for scheme, power in (("euler", 1), ("small_noise_heun", 2), ("small_noise_rk4", 3)):
        rates = np.log2([bias(scheme, lr, lr) / bias(scheme, lr / 2, lr / 2) for lr in (0.02, 0.01)])
        assert rates[-1] == pytest.approx(power, abs=0.1), scheme
    # lr fixed, dt -> 0: all converge, the small-noise schemes at first order in the end
    for scheme in ("euler", "small_noise_heun", "small_noise_rk4"):
        assert bias(scheme, 0.1, 0.1 / 256) < 0.05 * bias(scheme, 0.1, 0.1 / 8), scheme
    assert bias("small_noise_rk4", 0.05, 0.05) < 0.1 * abs(moments.error(0.05, order, 1.2))


def test_a_scheme_of_ones_own_joins_the_registry(monkeypatch):
    class Midpoint(sme.Scheme):
        def step(self, sde, t0, t1, y, dW):
            dt, noise = t1 - t0, sde.noise(t0, y, dW)
            prediction = y + dt * sde.drift(t0, y + dt / 2 * sde.drift(t0, y))
            return prediction + noise, prediction, noise

    monkeypatch.setitem(sme.SCHEMES, "midpoint", Midpoint)
    problem = make_problem()
    equation = sme.ModifiedEquation(problem, lr=0.1)
    assert sme.solve(equation, problem.initial(), [0, 1.0], "midpoint", dt=0.1, paths=4).isfinite().all()


def test_solve_takes_a_plain_torchsde_equation():
    """Ornstein-Uhlenbeck: mean and variance known."""

    class OrnsteinUhlenbeck(torch.nn.Module):
        noise_type, sde_type = "general", "ito"

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return 0.3 * torch.ones(*y.shape, 1, dtype=y.dtype)

    theta0 = torch.tensor([2.0], dtype=torch.float64)
    end = sme.solve(OrnsteinUhlenbeck(), theta0, [0, 1.0], "small_noise_rk4", dt=0.05, paths=20_000, seed=0)[-1, :, 0]
    variance = 0.09 / 2 * (1 - np.exp(-2))
    assert end.mean().item() == pytest.approx(2 * np.exp(-1), abs=4 * (variance / 20_000) ** 0.5)
    assert end.var().item() == pytest.approx(variance, rel=4 * (2 / 20_000) ** 0.5 + 1e-3)


def test_the_scheme_that_tests_nothing_warns():
    problem = make_problem()
    equation = sme.ModifiedEquation(problem, lr=0.1, order=1)
    with pytest.warns(sme.NothingTestedWarning, match="tests nothing"):
        sme.solve(equation, problem.initial(), [0, 1.0], "euler", dt=0.1, paths=2)
    sme.solve(equation, problem.initial(), [0, 1.0], "euler", dt=0.05, paths=2)  # no warning: an error otherwise


def test_bad_input_gets_one_clear_sentence():
    problem = make_problem()
    theta0 = problem.initial()
    equation = sme.ModifiedEquation(problem, lr=0.1)
    cases = [
        (lambda: sme.solve(equation, theta0, [0, 1.0], "heun", dt=0.1, paths=2), "scheme must be one of 'euler'"),
        (lambda: sme.solve(equation, theta0, [0, 1.0], dt=0.3, paths=2), "dt=0.3 does not divide .*dt=0.25"),
        (lambda: sme.solve(equation, theta0, [0, 1.0], dt=-0.1, paths=2), "dt must be a positive number"),
        (lambda: sme.solve(equation, theta0, [1.0, 0.5], dt=0.1, paths=2), "ts must increase"),
        (lambda: sme.solve(equation, theta0, [0, 1.0], dt=0.1, paths=0), "paths must be a positive integer"),
        (lambda: sme.solve(equation, theta0[None], [0, 1.0], dt=0.1, paths=2), "theta0 must be one parameter vector"),
        (lambda: sme.solve(equation, theta0 / 0, [0, 1.0], dt=0.1, paths=2), "theta0 has values that are NaN"),
        (lambda: sme.ModifiedEquation(problem, lr=0.1, order=4), "order must be 1, 2 or 3.*fourth cumulant"),
        (lambda: sme.ModifiedEquation(problem, lr=-0.1), "lr must be a positive number"),
        (lambda: sme.iterate(problem, theta0, lr=float("nan"), steps=2, paths=2), "lr must be a positive number"),
        (lambda: sme.iterate(problem, theta0, lr=0.1, steps=0, paths=2), "steps must be a positive integer"),
        (lambda: sme.iterate(problem, theta0, lr=0.1, steps=2, paths=2, save=[3]), "save must hold increasing"),
        (
            lambda: sme.iterate(problem, theta0[:-1], lr=0.1, steps=2, paths=2),
            "theta0 must be one parameter vector of shape",
        ),
    ]
    for call, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            call()


def test_diverged_paths_are_reported():
    problem = make_problem(activation="identity")
    with pytest.warns(sme.DivergenceWarning, match="of 4 paths diverged"):
        sme.iterate(problem, problem.initial(), lr=50.0, steps=60, paths=4)


def test_a_start_later_than_zero_is_a_start_at_that_time():
    class Clock(torch.nn.Module):
        """dY = t dt, without noise."""

        noise_type, sde_type, noise_dim = "general", "ito", 1

        def f(self, t, y):
            return torch.full_like(y, float(t))

        def g(self, t, y):
            return torch.zeros(*y.shape, 1, dtype=y.dtype)

    start = torch.zeros(1, dtype=torch.float64)
    paths = sme.solve(Clock(), start, [1.0, 1.5, 2.0], scheme="small_noise_heun", dt=0.25, paths=2)
    assert (paths[:, 0, 0] - torch.tensor([0.0, 0.625, 1.5], dtype=torch.float64)).abs().max() < 1e-14


def test_a_scheme_that_is_measured_declares_its_properties(monkeypatch):
    class Silent(sme.Scheme):
        noise_time = 0.5

        def step(self, sde, t0, t1, y, dW):
            return y, y, dW

    monkeypatch.setitem(sme.SCHEMES, "silent", Silent)
    problem = make_problem()
    words = "scheme='silent' must declare weak_error, drift_evaluations, corrections, noise_products; see "
    with pytest.raises(ValueError, match=re.escape(words)):
        sme.weak_error(problem, problem.initial(), [0.1], 0.1, scheme="silent")


def test_a_scheme_without_a_step_and_what_is_no_scheme_are_refused(monkeypatch):
    class Stepless(sme.Scheme):
        noise_time = 0.5

    equation, theta0 = sme.ModifiedEquation(make_problem(), 0.1), make_problem().initial()
    for scheme, sentence in (
        (Stepless, "scheme='mine' must define step"),
        (Stepless.step, "must be a subclass of Scheme"),
    ):
        monkeypatch.setitem(sme.SCHEMES, "mine", scheme)
        with pytest.raises(sme.SmesolveError, match=sentence):
            sme.solve(equation, theta0, [0, 1.0], "mine", dt=0.1, paths=2)
