import dataclasses
import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import ThreeValuedMasks, linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.exact import LinearMoments, enumerated_expectation
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.comparison.sampler import Sampler
from smesolve.comparison.value_hessians import DenseForms, LowRankForms, ValueHessians, value_hessians
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.observables import named_observables
from smesolve.solver.integration import Integration


def drawn(sampler, paths):
    """Estimates from whole blocks, of at least so many paths."""
    blocks = range(-(-paths // sampler.process.block_size))
    return MeanEstimate.of(functools.reduce(PathStatistics.merged, (sampler.statistics(block) for block in blocks)))


class EnumeratedIteration(DropoutIteration):
    """The iteration over every sequence of masks: path b of the one block takes the b-th sequence."""

    def set_up(self, steps):
        masks, weights = self.problem.all_draws()
        sequences = list(itertools.product(range(len(masks)), repeat=steps))
        object.__setattr__(self, "sequences", masks[torch.tensor(sequences)])
        object.__setattr__(self, "weights", weights[torch.tensor(sequences)].prod(-1))
        return self

    @property
    def block_size(self):
        return len(self.sequences)

    def _draw(self, problem, block, step):
        return self.sequences[:, step]


@pytest.mark.parametrize("case", [{"width": 2, "out_features": 2}, {"width": 2, "law": ThreeValuedMasks()}])
def test_control_variates_have_mean_zero_by_enumeration(case):
    problem = make_problem(**case)
    theta0, lr, steps = problem.initial(), 0.3, 3
    process = EnumeratedIteration(problem, lr).set_up(steps)
    observables = named_observables(problem, ["loss", "theta[1]"])
    saved = [2, steps]
    control = ControlVariate(
        NoiseFreePath.of(process, theta0, saved, observables),
        lr,
        process.noise_time,
        lr**2,
        value_hessians(problem, theta0, [lr * k for k in saved], observables, lr),
    )
    values = torch.as_tensor(Sampler(process, theta0, saved, observables, control).values(0))
    means = torch.einsum("b,cbto->cto", process.weights, values)
    spread = torch.einsum("b,cbto->cto", process.weights, values**2).sqrt()
    assert spread[2:].amax((1, 2)).min() > 1e-4  # all do vary
    assert means[2:].abs().max() < 1e-14
    assert (means[1] - means[0]).abs().max() < 1e-14
    assert means[0, 1, 0].item() == pytest.approx(enumerated_expectation(problem, theta0, lr, steps, "loss"), rel=1e-13)
    # any coefficients whatever keep the mean: a wrong path and wrong Hessians
    wrong = dataclasses.replace(control, path=NoiseFreePath.of(process, theta0 + 0.5, saved, observables))
    values = torch.as_tensor(Sampler(process, theta0, saved, observables, wrong).values(0))
    assert torch.einsum("b,cbto->cto", process.weights, values)[2:].abs().max() < 1e-14


def test_adjoint_and_value_hessian_are_the_derivatives_of_the_value_function():
    problem = make_problem(width=3)
    theta0, lr, steps = problem.initial(), 0.2, 5
    observables = named_observables(problem, ["modified_loss"])
    iteration = DropoutIteration(problem, lr)

    def value(theta):
        for step in range(steps):
            theta, _ = iteration.noise_free_step(theta, step)
        return problem.modified_loss(theta)

    path = NoiseFreePath.of(iteration, theta0, [steps], observables)
    assert torch.allclose(path.adjoints[0][0, 0], torch.func.grad(value)(theta0), rtol=1e-12, atol=1e-14)
    exact = torch.func.hessian(value)(theta0)
    # Lam belongs to the flow: it differs from the iteration's own by O(lr)
    gaps = []
    for divide in (1, 2, 4):
        observed = value_hessians(problem, theta0, [lr * steps], observables, lr / divide).hessians[0].matrices[0, 0]
        gaps.append((observed - exact).norm() / exact.norm())
    assert gaps[0] < 0.2
    assert (observed - observed.mT).abs().max() < 1e-12


@pytest.mark.parametrize("scheme", ["euler", "small_noise_heun", "small_noise_rk4"])
def test_control_variates_shrink_the_error_bar_without_moving_the_mean(scheme):
    problem = linear_problem()
    theta0, lr = torch.tensor([1.0, -0.5], dtype=torch.float64), 0.05
    observables = named_observables(problem, ["loss"])
    moments = LinearMoments(problem, theta0)
    for process, step_time, exact in (
        (DropoutIteration(problem, lr, 1), lr, moments.iteration(lr, 20)),
        (
            Integration(sme.ModifiedEquation(problem, lr, 2), theta0, scheme, lr / 2, 1),
            lr / 2,
            moments.scheme(lr, 2, 1.0, scheme, lr / 2),
        ),
    ):
        saved = [round(1.0 / step_time)]
        path = NoiseFreePath.of(process, theta0, saved, observables)
        results = []
        for hessians in (None, value_hessians(problem, theta0, [1.0], observables, lr)):
            control = ControlVariate(path, step_time, process.noise_time, lr * step_time, hessians)
            results.append(drawn(Sampler(process, theta0, saved, observables, control), 4096))
        first, second = results
        assert second.plain_stderr > 5 * first.stderr > 50 * second.stderr
        for result in results:
            assert abs(result.mean - exact) < 4 * result.stderr


@pytest.mark.parametrize("scheme", ["euler", "small_noise_heun", "small_noise_rk4"])
def test_the_adjoint_stands_where_the_noise_enters(scheme):
    """d E phi / d normal_j at zero noise equals < lam at noise_time, increment column >, up to O(dt^2)."""
    problem = make_problem(width=3)
    theta0, steps = problem.initial(), 8
    observables = named_observables(problem, ["modified_loss"])
    gaps = []
    for lr in (0.1, 0.05):
        process = Integration(sme.ModifiedEquation(problem, 2 * lr, 1), theta0, scheme, lr)
        path = NoiseFreePath.of(process, theta0, [steps], observables)
        column = torch.linspace(-1, 1, problem.noise_dim, dtype=torch.float64)

        def value(size, process=process, column=column):
            theta = theta0[None]
            for step in range(steps):
                increments = (size * column if step == 3 else 0 * column)[None]
                theta = process._step(theta, step, increments)[0]
            return problem.modified_loss(theta[0])

        slope = (value(1e-4) - value(-1e-4)) / 2e-4
        _, _, increment = process._step(path.states[3:4], 3, column[None])
        weight = process.noise_time
        adjoint = weight * path.adjoints[4][0, 0] + (1 - weight) * path.adjoints[3][0, 0]
        gaps.append(abs((adjoint @ increment[0]) / slope - 1).item())
    assert gaps[1] < 1e-3
    assert gaps[1] < 0.35 * gaps[0] or gaps[1] < 1e-8  # second order in dt


def whole(forms):
    if isinstance(forms, DenseForms):
        return forms.matrices
    return (forms.factors * forms.values[..., None, :]) @ forms.factors.mT


def test_control_variates_of_large_problems_follow_the_last_time_on_a_coarse_grid(monkeypatch):
    problem = make_problem(width=4)
    theta0, lr, times = problem.initial(), 0.05, [0.5, 1.0]
    observables = named_observables(problem, ["loss", "squared_norm"])
    process = DropoutIteration(problem, lr, 1)
    saved = [round(time / lr) for time in times]
    path = NoiseFreePath.of(process, theta0, saved, observables)
    exact = value_hessians(problem, theta0, [1.0], observables, 0.05)
    monkeypatch.setattr("smesolve.comparison.noise_free_path.DENSE_DIM", 4)
    monkeypatch.setattr("smesolve.comparison.value_hessians.DENSE_DIM", 4)
    coarse_path = NoiseFreePath.of(process, theta0, saved, observables)  # pullbacks one by one: the same adjoints
    for fine, coarse in zip(path.adjoints, coarse_path.adjoints, strict=True):
        assert torch.allclose(fine, coarse, rtol=1e-12, atol=1e-14)
    hessians = value_hessians(problem, theta0, times, observables, lr)
    assert len(hessians.hessians) - 1 == round(1.0 / hessians.spacing) < saved[-1]
    # D = 12 is below the rank: nothing is cut off, only the coarser grid is seen
    dense = exact.hessians[0].matrices
    assert (whole(hessians.hessians[0]) - dense).abs().max() < 0.1 * dense.abs().max()
    end = NoiseFreePath.of(
        DropoutIteration(problem, hessians.spacing), theta0, [len(hessians.hessians) - 1], observables
    )
    last = torch.stack([torch.func.hessian(g)(end.states[-1]) for g in observables.values()])[None]
    factor = problem.noise_factor(end.states[-1])
    quadratic = factor.mT @ last @ factor
    for forms, matrices in ((hessians.hessians[-1], last), (hessians.quadratics[-1], quadratic)):
        assert (whole(forms) - matrices).abs().max() < 1e-12
        assert torch.allclose(forms.trace, DenseForms(matrices).trace, rtol=1e-12)
        left, right = torch.randn(
            2, 5, matrices.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        assert torch.allclose(forms.bilinear(left, right), DenseForms(matrices).bilinear(left, right))
    control = ControlVariate(path, lr, process.noise_time, lr**2, hessians)
    sampler = Sampler(process, theta0, saved, observables, control)
    first = Sampler(process, theta0, saved, observables, dataclasses.replace(control, hessians=None))
    remaining = drawn(sampler, 2048).stderr[-1]
    assert (remaining < 0.5 * drawn(first, 2048).stderr[-1]).all()
    # The 3 steps of the grid for 20 of the iteration lose a factor of 1.2 and 2.4; with the next grid point in place of
    # a line it would be 3.5 and 8.2.
    on_every_step = Sampler(process, theta0, saved, observables, dataclasses.replace(control, hessians=exact))
    assert (remaining < 3 * drawn(on_every_step, 2048).stderr[-1]).all()
    controls = np.concatenate([sampler.values(block)[2:] for block in range(2)], axis=1)
    assert (np.abs(controls.mean(1)) < 4 * controls.std(1) / 2048**0.5 + 1e-15).all()


@pytest.mark.parametrize(
    ("control", "dense_dim", "expected"),
    [("none", 256, []), ("first", 256, []), ("second", 256, [0.4, 0.2]), ("second", 0, [0.4])],
)
def test_hessians_are_computed_once_for_each_grid_that_they_are_for(control, dense_dim, expected, monkeypatch):
    """Dense ones live on the grid of one learning rate; those of low rank serve all of them."""
    problem, computed = make_problem(width=2), []

    def counted(problem, theta0, times, functions, lr, stability_limit):
        computed.append(lr)
        return "Hessians"

    monkeypatch.setattr("smesolve.comparison.weak_error.value_hessians", counted)
    monkeypatch.setattr("smesolve.comparison.weak_error.DENSE_DIM", dense_dim)
    row = {"diverged": 0, "reason": "", "observable": "loss"}
    nothing = SimpleNamespace(draw=lambda *given: None, rows=lambda rel_tol: [row], samples=dict)
    monkeypatch.setattr("smesolve.comparison.weak_error.ErrorBudget", lambda *given: nothing)
    sme.weak_error(problem, problem.initial(), [0.4, 0.2], 0.4, orders=(1,), paths=8, control=control)
    assert computed == expected


@pytest.mark.parametrize("kind", ["dense", "low rank"])
def test_hessians_between_grid_points_are_on_a_line(kind):
    generator = torch.Generator().manual_seed(0)

    def forms(targets, size):
        if kind == "dense":
            return DenseForms(torch.randn(targets, 2, size, size, generator=generator, dtype=torch.float64))
        factors = torch.randn(targets, 2, size, 4, generator=generator, dtype=torch.float64)
        return LowRankForms(factors, torch.randn(targets, 2, 4, generator=generator, dtype=torch.float64))

    # the first of two targets is at the second grid point, so that one is left at the third
    lams, Qs = [[forms(targets, size) for targets in (2, 2, 1)] for size in (5, 3)]
    hessians = ValueHessians(0.1, lams, Qs)
    assert hessians.hessian_at(0.1) is lams[1] and hessians.quadratic_at(3 * 0.1 - 0.1) is Qs[2]
    assert ValueHessians(0.1, lams, None).quadratic_at(0.13) is None
    for found, (before, after) in ((hessians.hessian_at(0.17), lams[1:]), (hessians.quadratic_at(0.17), Qs[1:])):
        line = 0.3 * whole(before)[-1:] + 0.7 * whole(after)
        assert found.targets == 1 and torch.allclose(whole(found), line, rtol=1e-12)
        assert torch.allclose(found.trace, DenseForms(line).trace, rtol=1e-12)
        vectors = torch.randn(4, line.shape[-1], generator=generator, dtype=torch.float64)
        assert torch.allclose(found.bilinear(vectors, vectors), DenseForms(line).bilinear(vectors, vectors))
