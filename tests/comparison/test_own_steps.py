"""Problems whose step is not gradient descent: order, defects and stability, against exact moments of a heavy ball."""

import math

import pytest
import torch

import smesolve as sme
from smesolve.comparison.defects import DefectSampler
from smesolve.comparison.exact import LinearMoments, enumerated_expectation
from smesolve.comparison.leading_constants import leading_constants
from smesolve.problem.observables import named_observables

X = torch.tensor([[1.0, 0.3], [-0.4, 1.2], [0.8, -0.7], [0.1, 0.9]], dtype=torch.float64)
Y = torch.tensor([[0.9], [-0.3], [0.5], [1.1]], dtype=torch.float64)
READOUT = sme.DropoutProblem(sme.LinearNetwork(2), X, Y, keep_prob=0.8)
START = torch.tensor([2.0, -1.5, 0.5, -1.0], dtype=torch.float64)


class HeavyBall(sme.Problem):
    """State (theta, m): m' = (1 - c lr) m + c lr g(theta), theta' = theta - lr m'."""

    linear_step = conservative = False
    dim, draw_dim, noise_dim, friction = 4, 2, READOUT.noise_dim, 2.0
    draw, all_draws = READOUT.draw, READOUT.all_draws

    def loss(self, theta):
        return READOUT.loss(theta[..., :2])

    def moved(self, theta, gradient, lr):
        theta, m = theta.expand(*gradient.shape[:-1], -1).chunk(2, -1)
        m = m + lr * self.friction * (gradient - m)
        return torch.cat([theta - lr * m, m], -1)

    def step(self, theta, draw, lr):
        return self.moved(theta, READOUT.gradient(theta[..., :2], draw), lr)

    def field(self, theta, gradient):
        theta, m = theta.expand(*gradient.shape[:-1], -1).chunk(2, -1)
        return torch.cat([m, self.friction * (m - gradient)], -1)

    def gradient(self, theta, draw):
        return self.field(theta, READOUT.gradient(theta[..., :2], draw))

    def mean_gradient(self, theta):
        return self.field(theta, READOUT.mean_gradient(theta[..., :2]))

    def noise_product(self, theta, normals):
        noise = READOUT.noise_product(theta[..., :2], normals)
        return torch.cat([torch.zeros_like(noise), -self.friction * noise], -1)

    def mean_second_term(self, theta):
        m, mean = theta[..., 2:], READOUT.mean_gradient(theta[..., :2])
        return torch.cat([self.friction * (m - mean), torch.zeros_like(m)], -1)

    def mean_step(self, theta, lr):
        return self.moved(theta, READOUT.mean_gradient(theta[..., :2]), lr)

    def step_noise(self, theta, normals, lr):
        noise = lr * self.friction * READOUT.noise_product(theta[..., :2], normals)
        return torch.cat([-lr * noise, noise], -1)


class SampledHeavyBall(HeavyBall):
    """The same, as if means were not known."""

    has_closed_form = False
    __doc__ = HeavyBall.__doc__


BALL = HeavyBall()


def test_the_expansion_of_the_step_is_its_polynomial():
    draw = BALL.all_draws()[0][1]
    g, m = READOUT.gradient(START[:2], draw), START[2:]
    first, second, third = BALL.step_terms(START, draw, 3)
    assert torch.allclose(first, torch.cat([-m, 2 * (g - m)]), rtol=1e-14)
    assert torch.allclose(second, torch.cat([-2 * (g - m), torch.zeros(2)]), rtol=1e-14)
    assert not third.any()
    draws, weights = BALL.all_draws()
    terms = BALL.step_terms(START.expand(4, -1), draws, 2)
    assert torch.allclose(weights @ terms[0], -BALL.mean_gradient(START), rtol=1e-13)
    assert torch.allclose(weights @ terms[1], BALL.mean_second_term(START), rtol=1e-13)
    assert torch.allclose(terms[0].mT @ torch.diag(weights) @ terms[0] - torch.outer(*[weights @ terms[0]] * 2),
                          BALL.covariance(START), rtol=1e-12)  # fmt: skip


@pytest.mark.parametrize("observable", ["loss", lambda s: s.square().sum(-1)])
def test_exact_moments_have_slopes_one_and_two(observable):
    moments = LinearMoments(BALL, START)
    assert moments.iteration(0.25, 4, observable) == pytest.approx(
        enumerated_expectation(BALL, START, 0.25, 4, observable), rel=1e-13
    )
    for order in (1, 2):
        errors = [moments.error(lr, order, 2.0, observable) for lr in (1 / 2048, 1 / 4096)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.02)


def test_predicted_constants_are_those_of_exact_moments():
    """The adjoint takes the transposed Jacobian, which is not symmetric here."""
    table = leading_constants(BALL, START, [2.0], named_observables(BALL, ["loss"]), 0.1, [1, 2])
    assert table.order.tolist() == [1]
    lr = 1 / 1024
    moments = LinearMoments(BALL, START)
    exact = 2 * moments.error(lr / 2, 1, 2.0) / (lr / 2) - moments.error(lr, 1, 2.0) / lr
    assert table.constant[0] == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("problem", [BALL, SampledHeavyBall()])
def test_defects_hold_the_exact_errors(problem):
    lr, moments = 0.025, LinearMoments(BALL, START)
    sampler = DefectSampler(problem, START, lr, [40], named_observables(problem, ["loss"]), (1, 2), False, seed=11)
    values = sampler.values(0)[:, 0, 0]
    half = 3 * values.std(0) / len(values) ** 0.5
    for order in (1, 2):
        exact = moments.error(lr, order, 1.0)
        assert abs(values[:, order].mean() - exact) < half[order] + 0.05 * abs(exact)
        assert half[order] < abs(exact)


def test_defects_that_see_kinks_have_the_same_means():
    sampler = DefectSampler(BALL, START, 0.05, [20], named_observables(BALL, ["loss"]), (1, 2), True)
    values = sampler.values(0)[:, 0, 0]
    half = 3 * values.std(0) / len(values) ** 0.5
    for order in (1, 2):
        exact = LinearMoments(BALL, START).error(0.05, order, 1.0)
        assert abs(values[:, order].mean() - exact) < half[order] + 0.25 * abs(exact)
    assert abs(values[:, 4].mean()) < half[4] + 1e-9  # without kinks nothing is missed


@pytest.mark.parametrize("control", ["first", "second"])
def test_the_difference_of_means_holds_the_exact_errors(control):
    moments = LinearMoments(BALL, START)
    study = sme.weak_error(BALL, START, [0.1], 1.0, times=[1.0], paths=1024, control=control, seed=1)
    for order, row in zip((1, 2), study.table.itertuples(), strict=True):
        assert row.low <= moments.error(0.1, order, 1.0) <= row.high
    assert study.table.stderr.max() < {"first": 4e-4, "second": 2e-4}[control]


def test_schemes_from_gradients_solve_the_equation_of_order_two():
    """SVAG with many small steps, whose correction has F2 of both draws."""
    problem = SampledHeavyBall()
    sde = sme.ModifiedEquation(problem, 0.2, order=2)
    ends = sme.solve(sde, START, [0.0, 1.0], "svag", dt=0.2 / 8, paths=2**12, seed=2)[-1]
    losses = problem.loss(ends)
    exact = LinearMoments(BALL, START).equation(0.2, 2, 1.0)
    without = LinearMoments(BALL, START).equation(0.2, 1, 1.0)
    interval = 3 * float(losses.std()) / len(losses) ** 0.5
    assert abs(float(losses.mean()) - exact) < interval + abs(exact - without) / 4
    assert interval < abs(exact - without) / 4


def test_stability_is_that_of_the_step_itself():
    """The eigenvalues of the step of a heavy ball have the modulus (1 - c lr)^(1/2) until they are real."""
    curvature = torch.linalg.eigvalsh(torch.func.jacfwd(READOUT.mean_gradient)(START[:2])).max().item()
    c = BALL.friction  # 2 (1 + mu) = lr c lr curvature, mu = 1 - c lr
    exact = (-2 * c + math.sqrt(4 * c * c + 16 * c * curvature)) / (2 * c * curvature)
    limit = BALL.stability_limit(START)
    assert limit == pytest.approx(exact, rel=2e-3)
    ends = [BALL.mean_step(START, lr) for lr in (0.98 * limit, 1.02 * limit)]
    for _ in range(4000):
        ends = [BALL.mean_step(end, lr) for end, lr in zip(ends, (0.98 * limit, 1.02 * limit), strict=True)]
    assert ends[0].abs().max() < 10 < 1e6 < ends[1].abs().max()


def test_steps_that_contradict_themselves_are_refused():
    class Silent(HeavyBall):
        linear_step = True

    class Elsewhere(HeavyBall):
        def step(self, theta, draw, lr):
            return 2 * HeavyBall.step(self, theta, draw, lr) + 1

    class Slow(HeavyBall):
        def gradient(self, theta, draw):
            return HeavyBall.gradient(self, theta, draw) / 2

    for made, words in ((Silent, "linear_step=False"), (Elsewhere, "theta itself at lr=0"), (Slow, "derivative")):
        with pytest.raises(sme.SmesolveError, match=words):
            sme.iterate(made(), START, 0.1, 2, 2)
    with pytest.raises(sme.SmesolveError, match="order='quadratic'"):
        sme.ModifiedEquation(BALL, 0.1, "quadratic")
    with pytest.raises(sme.SmesolveError, match="changes gradients, not steps"):
        sme.AveragedProblem(BALL, 2)
