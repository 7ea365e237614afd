"""What may be rescaled: averaged draws, schedules, and the equation that resums quadratic losses."""

import numpy as np
import pytest
import torch
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.exact import LinearMoments, ScheduledMoments, enumerated_expectation
from smesolve.comparison.leading_constants import first_constants
from smesolve.comparison.noise_free_equation import NoiseFreeSolution, observed_along_scheme
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.sampler import Sampler
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.derived_problem import ScaledProblem
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.observables import named_observables
from smesolve.problem.schedule import Piecewise, ScheduledProblem, cosine, step, warm_up
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.solver.integration import integration


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()


def test_averaged_draws_have_the_mean_of_their_gradients():
    problem = make_problem(width=2)
    averaged = AveragedProblem(problem, 3)
    theta = problem.initial()
    draw = averaged.sample(5, seed=1)
    gradients = torch.stack([problem.gradient(theta, draw[:, k]) for k in range(3)])
    assert relative(averaged.gradient(theta, draw), gradients.mean(0)) < 1e-14
    with pytest.raises(ValueError, match="count must be a positive integer"):
        AveragedProblem(problem, 0)
    with pytest.raises(ValueError, match="AveragedProblem would lose the schedule"):
        AveragedProblem(sme.ScheduledProblem(problem, lr_factor=lambda t: 1 - t / 2), 2)


def test_a_problem_under_a_schedule_has_the_hessian_of_its_time():
    problem = make_problem()
    theta = torch.stack([problem.initial(seed=seed) for seed in (0, 1)])
    vector = torch.linspace(-1, 1, problem.dim, dtype=torch.float64).expand(2, -1)
    at = scheduled(problem).at(0.4)
    exact = torch.stack([torch.func.jacfwd(at.mean_gradient)(row) for row in theta]) @ vector[0]
    assert relative(at.hessian_product(theta, vector), exact) < 1e-12


def test_the_linear_scaling_rule_leaves_the_order_1_equation_unchanged():
    problem = make_problem()
    theta0 = problem.initial()
    plain = sme.ModifiedEquation(problem, 0.05, 1)
    scaled = sme.ModifiedEquation(AveragedProblem(problem, 4), 0.2, 1)
    ends = [sme.solve(sde, theta0, [0, 1.0], dt=0.1, paths=8, seed=2)[-1] for sde in (plain, scaled)]
    assert relative(*ends) < 1e-14


@pytest.mark.parametrize("schedule", [cosine(1.0), cosine(1.0, 0.2), warm_up(0.4, 0.1), step(0.5, 0.1)])
def test_schedules_have_the_slope_of_their_values(schedule):
    t = torch.tensor(0.31, dtype=torch.float64)
    begin, here, end = (schedule.piece(at) if isinstance(schedule, Piecewise) else schedule for at in (0.0, 0.31, 1.0))
    slope = torch.func.jvp(here, (t,), (torch.ones_like(t),))[1]
    assert float(slope) == pytest.approx(float(here(t + 1e-6) - here(t - 1e-6)) / 2e-6, abs=1e-8)
    ends = [float(piece(torch.tensor(at, dtype=torch.float64))) for piece, at in ((begin, 0.0), (end, 1.0))]
    assert ends in ([1.0, 0.0], [1.0, 0.2], [0.1, 1.0], [1.0, 0.1])


def falling(t):
    return 0.9 - 0.3 * t


def scheduled(problem):
    return ScheduledProblem(problem, lr_factor=cosine(1.0, 0.3), keep_prob=falling)


def test_a_scheduled_step_is_that_of_its_time():
    problem = scheduled(make_problem())
    theta = problem.initial()
    paths = sme.iterate(problem, theta, lr=0.25, steps=3, paths=8, seed=1)
    then = make_problem(keep_prob=0.9 - 0.3 * 0.5)
    factor = float(cosine(1.0, 0.3)(torch.tensor(0.5, dtype=torch.float64)))
    masks = then.draw(keyed_uniforms((then.block_size, 3), 1, 0, 2))[:8]
    expected = paths[2] - 0.25 * factor * then.gradient(paths[2], masks)
    assert relative(paths[3], expected) < 1e-13


def test_drift_slope_is_the_time_derivative_of_the_drift():
    problem = scheduled(make_problem())
    theta = problem.initial()
    difference = problem.at(0.4 + 1e-6).mean_gradient(theta) - problem.at(0.4 - 1e-6).mean_gradient(theta)
    assert relative(problem.drift_slope(0.4, theta), -difference / 2e-6) < 1e-8


@pytest.mark.parametrize("order", [1, 2])
def test_weak_order_is_kept_under_a_smooth_schedule(order):
    """Linear regression: the means of iteration and equation obey linear recursions; their difference is exact."""
    problem = scheduled(linear_problem())
    theta0 = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    errors = []
    for steps in (10, 20, 40):
        lr = 1.0 / steps
        mean = theta0
        for k in range(steps):
            mean = mean - lr * problem.at(k * lr).mean_gradient(mean)
        quiet = sme.ModifiedEquation(problem, lr, order)
        flow, h = theta0, 1 / 80
        for k in range(80):  # classical Runge-Kutta on the drift, which is affine: the mean of the equation
            k1 = quiet.f(k * h, flow)
            k2 = quiet.f((k + 0.5) * h, flow + h / 2 * k1)
            k3 = quiet.f((k + 0.5) * h, flow + h / 2 * k2)
            k4 = quiet.f((k + 1) * h, flow + h * k3)
            flow = flow + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        errors.append(float((flow - mean)[0, 0]))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert rates[-1] == pytest.approx(order, abs=0.1)


def test_weak_error_takes_a_schedule():
    problem = scheduled(make_problem())
    theta0 = problem.initial(seed=1)
    study = sme.weak_error(problem, theta0, [0.2], 1.0, times=[1.0], observables=["loss"], paths=1024)
    order1 = study.table.set_index("order").loc[1]
    assert order1.resolved
    first = sme.weak_error(problem, theta0, [0.2], 1.0, times=[1.0], observables=["loss"], paths=1024, control="first")
    assert order1.stderr_reduction > 5 * first.table.stderr_reduction[0] > 10
    enumerated = enumerated_two_steps(problem, theta0, 0.5)
    sampled = problem.loss(sme.iterate(problem, theta0, 0.5, 2, 20_000)[-1])
    assert abs(sampled.mean() - enumerated) < 4 * sampled.std() / 20_000**0.5


def test_a_piecewise_schedule_has_two_values_at_a_break():
    schedule = Piecewise([0.5, 2.0], [torch.ones_like, cosine(1.0), lambda t: 0.3 * t])
    for time, value in ((0.2, 1.0), (0.5, 0.5), (0.1 * 5 - 1e-16, 0.5), (2.0, 0.6)):
        assert schedule.value(time) == pytest.approx(value, abs=1e-12)
    for time in (0.5, 2.0):
        assert schedule.value(time, left_limit=True) == pytest.approx(1.0, abs=1e-12)
    assert schedule.jumps == [0.5, 2.0]
    problem = ScheduledProblem(
        make_problem(), lr_factor=warm_up(0.4, 0.1), keep_prob=Piecewise([0.2], [falling, falling])
    )
    assert (problem.breaks, problem.jumps) == ((0.2, 0.4), ())
    with pytest.raises(ValueError, match="breaks must increase from above 0"):
        Piecewise([0.5, 0.5], [falling] * 3)
    with pytest.raises(ValueError, match="pieces must hold 2 schedules for 1 breaks, got 1"):
        Piecewise([0.5], [falling])


def jumping(problem):
    """The learning rate and keep_prob jump, each at a time of its own, and lr turns in a third one."""
    lr_factor = Piecewise([0.25, 0.75], [torch.ones_like, cosine(1.0, 0.3), lambda t: 0.2 + t])
    return ScheduledProblem(problem, lr_factor, Piecewise([0.5], [falling, lambda t: 0.4 + 0.5 * t]))


@pytest.mark.parametrize("order", [1, 2])
def test_the_scheme_and_the_noise_free_path_cross_a_jump(order):
    """Linear regression: without noise both follow the mean of the equation, which is exact."""
    problem = jumping(linear_problem())
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments, observables = ScheduledMoments(problem, theta0), named_observables(problem, ["theta[0]"])
    gaps = []
    for steps in (16, 32):
        dt = 1 / steps
        lr = 0.25 if order == 1 else dt
        exact = moments.equation(lr, order, round(1 / lr), "theta[0]")
        equation = sme.ModifiedEquation(problem, lr, order)
        solution = NoiseFreeSolution.of(equation, theta0, [1.0], observables)
        assert solution.values[0, 0] == pytest.approx(exact, abs=1e-10)
        process = integration(equation, theta0, "small_noise_rk4", dt)
        gaps.append(observed_along_scheme(process, theta0, [steps], observables)[0, 0] - exact)
    # dt^4 in the drift; at order 2 lr^2 dt from where lr b1 is taken
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(4 if order == 1 else 3, abs=0.3)


def test_errors_under_a_jump_are_the_exact_ones():
    problem = ScheduledProblem(linear_problem(keep_prob=0.9), lr_factor=step(0.5, 0.3))
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = ScheduledMoments(problem, theta0)
    study = sme.weak_error(problem, theta0, [0.125], 1.0, observables=["loss"], times=[0.5, 1.0], paths=1024)
    for row in study.table.itertuples():
        assert row.low < moments.error(row.lr, row.order, row.time) < row.high
        assert row.high - row.low < 0.5 * abs(row.error)
    problem = jumping(linear_problem())
    with pytest.raises(ValueError, match=r"lr=0.2 does not divide the schedule's jump=0.25; take for example lr=0.125"):
        sme.weak_error(problem, theta0, [0.2], 1.0)
    with pytest.raises(ValueError, match=r"dt=0.2 does not divide the schedule's jump=0.25"):
        sme.solve(sme.ModifiedEquation(problem, 0.1), theta0, [0, 1.0], dt=0.2, paths=2)
    with pytest.raises(ValueError, match=r"lr=0.2 does not divide the schedule.s jump=0.25"):
        ScheduledMoments(problem, theta0).error(0.2, 1, 1.0)


@pytest.mark.parametrize("schedule", [scheduled, jumping])
def test_the_leading_constant_under_a_schedule_is_the_limit_of_the_exact_errors(schedule):
    problem = schedule(linear_problem())
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = ScheduledMoments(problem, theta0)
    predicted, stderr = first_constants(problem, theta0, 1.0, {"loss": problem.loss}, 0.02)["loss"]
    assert stderr < 1e-4 * abs(predicted)
    ratios = np.array([moments.error(lr, 1, 1.0) / lr for lr in (1 / 16, 1 / 32, 1 / 64)])
    once = 2 * ratios[1:] - ratios[:-1]
    assert predicted == pytest.approx((4 * once[1] - once[0]) / 3, rel=2e-4)


@pytest.mark.parametrize("schedule", [scheduled, jumping])
def test_value_hessians_under_a_schedule_are_the_derivatives_of_the_value_function(schedule, monkeypatch):
    """Those of the scheduled flow: they approach the second derivatives of its noise-free steps like lr."""
    problem = schedule(make_problem())
    theta0, observables = problem.initial(), {"loss": problem.loss}

    def value(theta, lr):
        iteration = DropoutIteration(problem, lr)
        for k in range(round(1 / lr)):
            theta, _ = iteration.noise_free_step(theta, k)
        return problem.loss(theta)

    gaps = []
    for lr in (1 / 16, 1 / 32):
        exact = torch.func.hessian(value)(theta0, lr)
        gaps.append(relative(value_hessians(problem, theta0, [1.0], observables, lr).hessians[0].matrices[0, 0], exact))
    assert gaps[0] < 0.1
    assert gaps[1] < 0.6 * gaps[0]
    with monkeypatch.context() as patch:
        patch.setattr("smesolve.comparison.value_hessians.DENSE_DIM", 4)
        low_rank = value_hessians(problem, theta0, [1.0], observables, lr)  # D is below the rank: nothing is cut off
    dense = value_hessians(problem, theta0, [1.0], observables, low_rank.spacing)
    for kind in ("hessians", "quadratics"):
        for forms, exact in zip(getattr(low_rank, kind), getattr(dense, kind), strict=True):
            factors, values = forms.factors[0, 0], forms.values[0, 0]
            assert relative((factors * values) @ factors.mT, exact.matrices[0, 0]) < 1e-10


def enumerated_two_steps(problem, theta0, lr):
    total = 0.0
    first, probability = problem.at(0.0).problem.all_draws()
    second, conditional = problem.at(lr).problem.all_draws()
    for mask, weight in zip(first, probability, strict=True):
        middle = theta0 - lr * problem.at(0.0).gradient(theta0, mask)
        ends = middle - lr * problem.at(lr).gradient(middle, second)
        total += float(weight) * float(conditional @ problem.loss(ends))
    return total


def test_a_piecewise_schedule_inside_another_one_is_refused():
    """Its breaks would not be known: a jump within a step costs an order."""
    with pytest.raises(ValueError, match="make that schedule a Piecewise itself"):
        ScheduledProblem(linear_problem(), lr_factor=lambda t: step(0.5, 0.3)(t) / 2)


class SecondStepEnumerated(DropoutIteration):
    """keep_prob is 1 in the first step; in the second one each path has one of all masks."""

    @property
    def block_size(self):
        return int(self.problem.draw_count)

    def _draw(self, problem, block, step):
        masks = problem.all_draws()[0]
        return masks if step else torch.ones_like(masks)


def test_control_variates_have_mean_zero_where_dropout_sets_in():
    """Masks that are always 1 have no function of variance 1, which the third part would take them for."""
    lr, steps = 0.2, 2
    problem = ScheduledProblem(make_problem(), keep_prob=lambda t: 1 - t)
    theta0, process = problem.initial(), SecondStepEnumerated(problem, lr)
    observables = named_observables(problem, ["loss"])
    path = NoiseFreePath.of(process, theta0, [steps], observables)
    hessians = value_hessians(problem, theta0, [lr * steps], observables, lr)
    control = ControlVariate(path, lr, process.noise_time, lr**2, hessians)
    values = torch.as_tensor(Sampler(process, theta0, [steps], observables, control).values(0))
    weights = problem.at(lr).all_draws()[1]
    means = torch.einsum("b,cbto->cto", weights, values)
    assert values[4].abs().max() > 1e-4
    assert means[2:].abs().max() < 1e-14
    assert means[0].item() == pytest.approx(enumerated_expectation(problem, theta0, lr, steps, "loss"), rel=1e-13)


@pytest.mark.parametrize("derive", [lambda problem: ScaledProblem(problem, 0.5), lambda one: AveragedProblem(one, 2)])
def test_draws_of_derived_problems_are_enumerated(derive):
    """`CompiledProblem` and its like then have the predicted constant of order 2."""
    problem = derive(make_problem())
    theta, (draws, weights) = problem.initial(), problem.all_draws()
    assert len(weights) == problem.draw_count
    gradients = problem.gradient(theta, draws)
    assert relative(weights @ gradients, problem.mean_gradient(theta)) < 1e-12
    centred = gradients - problem.mean_gradient(theta)
    assert relative(centred.mT @ (weights[:, None] * centred), problem.covariance(theta)) < 1e-12
    with pytest.raises(ValueError, match="count=30 makes more"):
        AveragedProblem(problem, 30).all_draws()


def test_enumeration_follows_schedules_and_averages():
    problem = ScheduledProblem(make_problem(), lr_factor=lambda t: 1 - t / 2, keep_prob=lambda t: 0.8 - t)
    theta0 = problem.initial()
    assert enumerated_expectation(problem, theta0, 0.2, 2, "loss") == pytest.approx(
        enumerated_two_steps(problem, theta0, 0.2), rel=1e-13
    )
    linear = linear_problem()
    start = torch.tensor([1.5, -1.0], dtype=torch.float64)
    averaged = AveragedProblem(linear, 2)
    assert enumerated_expectation(averaged, start, 0.3, 2, "loss") == pytest.approx(
        LinearMoments(averaged, start).iteration(0.3, 2), rel=1e-12
    )
    scheduled = ScheduledProblem(linear, lr_factor=lambda t: 1 - t / 2)
    assert enumerated_expectation(scheduled, start, 0.3, 3, "loss") == pytest.approx(
        ScheduledMoments(scheduled, start).iteration(0.3, 3), rel=1e-12
    )
    with pytest.raises(ValueError, match="use ScheduledMoments"):
        LinearMoments(scheduled, start)
    with pytest.raises(ValueError, match="take order=2"):
        sme.ModifiedEquation(scheduled, 0.1, "quadratic")


def scheme_moment(problem, scheme, lr, dt, steps):
    """E theta^2 of a scheme whose state and noise are one number each, from theta = 2: exact, as a step is affine."""
    process = integration(sme.ModifiedEquation(problem, lr, 2), torch.zeros(1, dtype=torch.float64), scheme, dt)
    moments = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for k in range(steps):
        plain, noisy = (process._step(points, k, points.new_full((2, 1), size))[0] for size in (0.0, dt**0.5))
        still, pushed = (torch.stack([ends[0, 0], ends[1, 0] - ends[0, 0]]) for ends in (plain, noisy - plain))
        mean, square = still @ moments[0], still @ moments @ still + pushed @ moments @ pushed
        moments = torch.stack([moments[0, 0], mean, mean, square]).reshape(2, 2)
    return moments[1, 1].item()


@pytest.mark.parametrize("scheme, rate", [("small_noise_heun", 3.5), ("small_noise_rk4", 1.8)])
def test_small_noise_schemes_keep_their_bias_under_a_schedule(scheme, rate):
    """Heun: O(dt^2) as the noise, too, is taken at the middle of a step; at its begin O(lr dt) would be left."""
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = ScheduledProblem(
        sme.DropoutProblem(sme.LinearNetwork(1), one, one, keep_prob=0.5), lr_factor=lambda t: 1 + 2 * t
    )
    lr, steps = 0.04, 10
    exact = ScheduledMoments(problem, one[0] * 2).equation(lr, 2, steps, "squared_norm")
    coarse, fine = (scheme_moment(problem, scheme, lr, lr / parts, steps * parts) - exact for parts in (2, 4))
    assert coarse / fine > rate
    assert abs(fine) < 2e-4
