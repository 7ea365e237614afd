"""The interval of a weak error, the paths that a tolerance asks for, and the largest error over the times, exactly."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from given_errors import Q, exactly
from problems import make_problem
from scipy import stats

import smesolve as sme
from smesolve.comparison.budget_row import budget_row
from smesolve.comparison.cost import step_cost
from smesolve.comparison.equation_side import EquationSide
from smesolve.comparison.error_budget import ErrorBudget
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.outcomes import Status
from smesolve.comparison.paths_wanted import Estimates, bias_is_large, next_paths, wanted_paths
from smesolve.comparison.solver_bias import SolverBias
from smesolve.comparison.study_design import StudyDesign, chosen_control
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.problem.observables import named_observables
from smesolve.sampling.runner import Runner

FREEDOM = 60
STUDENT = stats.t.ppf(0.975, FREEDOM)
ROUNDING = 1e-3


def estimated(mean, stderr, paths=100, plain=0.4, kurtosis=3.0, diverged=0, skewness=0.0):
    """One time and one observable, far from heavy tails."""
    numbers = {"mean": mean, "stderr": stderr, "plain_stderr": plain, "skewness": skewness, "kurtosis": kurtosis}
    numbers |= {"shortage": 0.0, "plain_shortage": 0.0, "diverged": diverged, "undefined": 0}
    arrays = {name: np.full((1, 1), value) for name, value in numbers.items()}
    return MeanEstimate(**arrays, values=paths, freedom=FREEDOM, paths=paths)


def budget(dropout, equation, pairs, bias=(0.0, 0.0, 0.0), rel_tol=None, tolerance=0.0, hiding=(False, False)):
    noise_free = SimpleNamespace(values=np.zeros((1, 1)), rounding=lambda *means: np.full((1, 1), ROUNDING))
    biases = SolverBias(*(np.full((1, 1), number) for number in bias))
    given = (biases, noise_free, tolerance, True, hiding, rel_tol)
    return budget_row((0, 0), dropout, equation, pairs, *given)


def test_values_that_are_all_equal_are_an_interval_only_where_no_path_can_differ():
    dropout, equation = estimated(1.0, 0.03), estimated(1.8, 0.0, plain=0.0)
    pairs = estimated(0.0, 0.0)
    assert budget(dropout, equation, pairs)["reason"] == Status.RESOLVED
    assert budget(dropout, equation, pairs, hiding=(True, False))["reason"] == Status.RESOLVED
    assert budget(dropout, equation, pairs, hiding=(True, True))["reason"] == Status.ALL_EQUAL


def test_the_interval_of_an_error_adds_monte_carlo_bias_rounding_and_tolerance():
    dropout, equation = estimated(1.0, 0.03, 400, 0.5, 5.0), estimated(1.8, 0.04, 100, 0.6, 4.0)
    row = budget(dropout, equation, estimated(0.0, 0.002, 50), bias=(-0.05, 0.004, 0.02), tolerance=0.007)
    half = np.hypot(STUDENT * 0.05, 0.02) + ROUNDING + 0.007
    assert (row["error"], row["stderr"], row["freedom"], row["half_width"]) == exactly((0.85, 0.05, 60, STUDENT * 0.05))
    assert (row["low"], row["high"]) == exactly((0.85 - half, 0.85 + half))
    assert (row["solver_bias"], row["solver_bias_stderr"], row["tolerance"]) == exactly((-0.05, 0.004, 0.007))
    assert (row["discrete"], row["sde"], row["discrete_stderr"], row["sde_stderr"]) == (1.0, 1.85, 0.03, 0.04)
    assert (row["paths"], row["discrete_paths"], row["sde_paths"], row["kurtosis"]) == (100, 400, 100, 5.0)
    assert row["stderr_reduction"] == exactly(np.hypot(0.5 * 20, 0.6 * 10) / np.hypot(0.03 * 20, 0.04 * 10))
    assert row["resolved"] and row["reason"] == "" and row["diverged"] == 0


def test_skewness_of_each_side_lengthens_the_interval_by_its_share_of_the_variance():
    """The shift (2 q^2 + 1)/6 of Student's quantiles in units of the skewness of a mean, that of a value / sqrt(N)."""
    dropout, equation = estimated(1.0, 0.03, 400, skewness=-0.5), estimated(1.8, 0.04, 100, skewness=0.8)
    row = budget(dropout, equation, estimated(0.0, 0.0))
    shift = (2 * Q**2 + 1) / 6
    more = shift * (0.5 / 20 * 0.03 * 0.36 + 0.8 / 10 * 0.04 * 0.64)
    assert row["half_width"] == exactly(STUDENT * 0.05 + more)


SURE = STUDENT * 0.05  # the Monte Carlo half-width of what follows


@pytest.mark.parametrize(
    ("error", "bias", "rel_tol", "resolved", "reason"),
    [
        (0.99 * SURE, 0.0, None, False, "inside its Monte Carlo interval"),
        (-0.99 * SURE, 0.0, None, False, "inside its Monte Carlo interval"),
        (1.02 * SURE, 0.0, None, True, ""),
        (1.02 * SURE, 0.25 * SURE, None, False, "inside the solver bias"),
        (-1.02 * SURE, 0.25 * SURE, None, False, "inside the solver bias"),
        (SURE / 0.1, 0.0, 0.1, True, ""),
        (SURE / 0.1, 0.0, 0.0954, True, ""),
        (SURE / 0.1, 0.0, 0.095, True, "rel_tol not reached at max_paths"),
        (-SURE / 0.1, 0.0, 0.095, True, "rel_tol not reached at max_paths"),
    ],
)
def test_an_error_is_resolved_where_its_interval_leaves_out_zero(error, bias, rel_tol, resolved, reason):
    row = budget(estimated(0.0, 0.03), estimated(error, 0.04), estimated(0.0, 0.0), (0.0, 0.0, bias), rel_tol)
    assert (row["resolved"], row["reason"]) == (resolved, reason)
    assert row["resolved"] == (row["low"] > 0 or row["high"] < 0)


def test_diverged_paths_of_both_sides_are_counted():
    row = budget(estimated(0, 0.1, diverged=2), estimated(9, 0.1, diverged=3), estimated(0, 0, diverged=4))
    assert (row["diverged"], row["discrete_diverged"], row["sde_diverged"]) == (6, 2, 4)
    assert (row["resolved"], row["reason"]) == (False, "diverged")


# --- paths ----------------------------------------------------------------------------------------------------------


def test_the_noise_free_bias_is_that_of_the_scheme_on_the_mean():
    """One parameter: L_S'' = 1/keep_prob = h. Without noise RK4 at order 1 multiplies by the Taylor polynomial."""
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), one, 0 * one, keep_prob=0.5)
    theta0, dt = torch.ones(1, dtype=torch.float64), 0.25
    observables = named_observables(problem, ["theta[0]"])
    design = StudyDesign(problem, theta0, [0.25], [0.5, 1.0], (1,), observables, "small_noise_rk4")
    side = EquationSide(design, sme.ModifiedEquation(problem, 0.25, 1), dt, seed=0)

    def taylor(h):
        return 1 - 2 * h + (2 * h) ** 2 / 2 - (2 * h) ** 3 / 6 + (2 * h) ** 4 / 24

    for row, time in enumerate((0.5, 1.0)):
        coarse, fine = (taylor(h) ** round(time / h) for h in (dt, dt / 2))
        assert side._noise_free_bias[row, 0] == pytest.approx(coarse - np.exp(-2 * time), abs=1e-10)
        assert side._noise_free_difference[row, 0] == exactly(coarse - fine)
    for name, sampler in side.work.items():
        side.add((name, len(side._pairs)), sampler.run(0))
    assert side.statistics.values.shape == (0, 1)  # no value is kept that was not asked for


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("bias", "half_width", "rounding", "tolerance", "halved"),
    [
        (0.101, 0.0, 0.0, 0.0, True),
        (0.099, 0.0, 0.0, 0.0, False),
        (0.25, 0.249, 0.0, 0.0, True),
        (0.25, 0.251, 0.0, 0.0, False),
        (0.25, 0.0, 0.249, 0.0, True),
        (0.25, 0.0, 0.251, 0.0, False),
        (0.25, 0.0, 0.0, 0.249, True),
        (0.25, 0.0, 0.0, 0.251, False),
        (0.25, 0.08, 0.08, 0.08, True),
        (0.25, 0.09, 0.08, 0.09, False),
        (np.nan, 0.0, 0.0, 0.0, False),
    ],
)
def test_dt_is_halved_for_a_significant_bias_above_a_tenth_of_the_error(
    bias, half_width, rounding, tolerance, halved, sign
):
    """The bias counts beyond its half-width, the rounding and the tolerance; the error is -sign."""
    estimates = Estimates(
        SimpleNamespace(mean=np.array([[1.0], [2.0 + sign]])),
        SimpleNamespace(mean=np.array([[1.0], [2.0 + sign * bias]])),
        SimpleNamespace(),
    )
    values, widths, rounded, solved = (
        np.array([[9.0], [last]]) for last in (sign * bias, half_width, rounding, tolerance)
    )
    assert bias_is_large(estimates, SolverBias(values, 0 * widths, widths), rounded, solved) is halved


def test_dt_is_halved_three_times_at_most_and_the_noise_free_solution_is_kept(monkeypatch):
    problem = make_problem(width=2)
    functions = named_observables(problem, ["loss"])
    design = StudyDesign(problem, problem.initial(), [0.2], [0.4], (1,), functions, "small_noise_heun")
    budget = ErrorBudget(design, 0.2, None, Runner())
    solution = budget.sides[0].solution
    monkeypatch.setattr("smesolve.comparison.error_budget.bias_is_large", lambda *given: True)
    budget.draw(64, None, 64)
    assert budget.sides[0].dt == 0.2 / 8 and budget.sides[0].solution is solution
    given = ErrorBudget(dataclasses.replace(design, dt=0.1), 0.2, None, Runner())
    given.draw(64, None, 64)
    assert given.sides[0].dt == 0.1


def part(half_width, paths, shortage=0.0, plain_shortage=0.0, mean=0.0):
    """An estimate at two times, of which the first one must not matter."""
    last = {"mean": mean, "half_width": half_width, "shortage": shortage, "plain_shortage": plain_shortage}
    return SimpleNamespace(**{name: np.array([[7.0], [value]]) for name, value in last.items()}, paths=paths)


def wanted(dropout, equation, pairs, rel_tol=0.2, max_paths=10**6):
    rounding = np.full((2, 1), ROUNDING)
    return wanted_paths(Estimates(dropout, equation, pairs), rounding, 6.0, rel_tol, max_paths)


@pytest.mark.parametrize("rel_tol", [0.2, 0.02])
def test_paths_that_are_asked_for_meet_the_tolerance_with_the_least_work(rel_tol):
    """Half-widths fall like paths^-1/2; a step costs 1.5 gradients of the iteration and here 6 of the equation."""
    dropout, equation, pairs = part(0.3, 100, mean=1.0), part(0.1, 400, mean=0.5), part(0.05, 25)
    first, second, third = wanted(dropout, equation, pairs, rel_tol)
    widths = np.array([0.3 * (100 / first) ** 0.5, 0.1 * (400 / second) ** 0.5])
    assert np.hypot(*widths) == pytest.approx(rel_tol * 0.5, rel=1e-2) and np.hypot(*widths) <= rel_tol * 0.5

    def work(share):
        """Of the same accuracy where the iteration's variance is this share of all."""
        variances = (rel_tol * 0.5) ** 2 * np.array([share, 1 - share])
        return 1.5 * 100 * 0.3**2 / variances[0] + 6 * 400 * 0.1**2 / variances[1]

    least = min(work(share) for share in np.linspace(0.01, 0.99, 197))
    assert 1.5 * first + 6 * second == pytest.approx(least, rel=2e-2)
    # the bias is 3/2 of a difference of pairs: its half-width is a tenth of the error, or rel_tol of it where less
    needed = 25 * (1.5 * 0.05 / (min(0.1, rel_tol) * 0.5)) ** 2
    assert third == min(np.ceil(round(needed, 9)), max(second, 400))


def test_nothing_is_asked_for_where_noise_is_rounding_or_a_mean_is_not_finite():
    rounded, more = part(0.99 * ROUNDING, 100), part(1.01 * ROUNDING, 100, mean=ROUNDING)
    assert wanted(part(0.99 * ROUNDING, 100, mean=1.0), rounded, rounded) == (0, 0, 0)
    assert wanted(part(np.nan, 100, mean=np.nan), part(0.1, 400), part(0.1, 25)) == (0, 0, 0)
    first, second, third = wanted(more, rounded, rounded)
    assert (first, second, third) == (np.ceil(100 * (1.01 / 0.2) ** 2), 0, 0)


@pytest.mark.parametrize(
    ("dropout", "equation", "max_paths", "expected"),
    [
        (part(0.01, 100, shortage=3.0), part(0.01, 400), 300, (300, 1)),
        (part(0.01, 100, plain_shortage=3.0), part(0.01, 400), 300, (300, 1)),
        (part(0.01, 100, plain_shortage=3.0, shortage=np.nan), part(0.01, 400), 300, (300, 1)),
        (part(0.01, 100, shortage=3.0), part(0.01, 400), 299, (1, 1)),
        (part(0.01, 100, shortage=0.99), part(0.01, 400), 1000, (1, 1)),
        (part(0.01, 100), part(0.01, 400, shortage=2.0), 800, (1, 800)),
        (part(0.99 * ROUNDING, 100, shortage=3.0), part(0.01, 400), 300, (0, 1)),
    ],
)
def test_paths_for_the_tails_are_asked_for_if_max_paths_may_be_enough(dropout, equation, max_paths, expected):
    """The tolerance asks for one path: the error is 100."""
    equation.mean[1] = 100.0
    assert wanted(dropout, equation, part(0.0, 25), max_paths=max_paths)[:2] == expected


def test_costs_in_gradients():
    """Euler: one gradient, a noise product (1.5) and at order 2 a Hessian product (4); svag has two of these."""
    assert (step_cost(1, "euler"), step_cost(2, "euler"), step_cost(2, "small_noise_heun")) == (2.5, 6.5, 7.5)
    assert (step_cost(1, "svag"), step_cost(1, "sampled_euler"), step_cost(2, "svag")) == (2, 4, 10)


def test_the_first_step_of_a_scheme():
    """lr/8 for schemes of weak error O(dt), else lr, where dt is not given."""
    for scheme, dt, expected in (("euler", None, 0.05), ("small_noise_rk4", None, 0.4), ("euler", 0.2, 0.2)):
        assert StudyDesign(None, None, [0.4], [2.0], (1,), {}, scheme, dt).first_dt(0.4) == expected


# --- the study ------------------------------------------------------------------------------------------------------


def test_the_largest_error_over_three_times_has_simultaneous_intervals():
    """Bonferroni: Student's quantile of 1 - 0.05 / (2 * 3) for that of 0.975, at the fewest degrees of freedom."""
    columns = {"time": [0.5, 1.0, 1.5], "error": [0.1, -0.4, 0.3], "stderr": [0.02, 0.05, 0.1]}
    half = np.array([0.05, 0.1, 0.2])
    table = pd.DataFrame(columns).assign(order=2, lr=0.1, observable="loss", solver_bias=[1, 2, 3])
    table = table.assign(solver_bias_stderr=[4, 5, 6], low=table.error - half, high=table.error + half)
    table = table.assign(freedom=[90, 60, 80], half_width=half / 2, rounding=0.0, tolerance=0.0, reason="")
    table = table.assign(solver_bias_half_width=[7, 8, 9])
    row = WeakErrorStudy(table, {}, 1.5, pd.DataFrame).maximum().iloc[0]
    wider = stats.t.ppf(1 - 0.05 / 6, 60) / STUDENT
    assert (row.error, row.time, row.solver_bias, row.solver_bias_stderr) == (0.4, 1.0, 2, 5)
    assert (row.stderr, row.half_width) == exactly((0.05 * wider, 0.05 * wider))
    assert (row.low, row.high) == exactly((0.4 - 0.1 * wider, 0.3 + 0.2 * wider)) and row.resolved
    near = table.assign(low=table.error - 0.5, high=table.error + 0.5)
    row = WeakErrorStudy(near, {}, 1.5, pd.DataFrame).maximum().iloc[0]
    assert row.low == 0 and not row.resolved
    one = table[table.time == 1.5]
    row = WeakErrorStudy(one, {}, 1.5, pd.DataFrame).maximum().iloc[0]
    assert (row.low, row.high) == exactly((0.1, 0.5))


@pytest.mark.slow
def test_a_study_covers_the_exact_error_as_its_intervals_state():
    """Linear regression, no control variates, many seeds: all of the interval is Monte Carlo, and 95% of them cover."""
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), one, one, keep_prob=0.7)
    theta0 = torch.zeros(1, dtype=torch.float64)
    exact = LinearMoments(problem, theta0).error(0.25, 1, 0.5)
    scores = []
    for seed in range(40):
        row = sme.weak_error(
            problem, theta0, [0.25], 0.5, orders=(1,), times=[0.5], paths=64, control="none", seed=seed
        ).table.iloc[0]
        scores.append((row.error - exact) / np.hypot(row.stderr, row.solver_bias_stderr))
    # the sum of 40 squares of standard scores, within its central 99.9%
    assert stats.chi2.ppf(0.0005, 40) < np.square(scores).sum() < stats.chi2.ppf(0.9995, 40)


def test_a_round_adds_at_most_four_times_the_paths():
    for wanted, most, expected in (
        (50, 1000, 100),
        (250, 1000, 250),
        (900, 1000, 400),
        (900, 300, 300),
        (900, 50, 100),
    ):
        assert next_paths(100, wanted, most) == expected


def test_value_hessians_are_taken_up_to_two_to_the_fourteen_parameters():
    for dim, exact, control in ((2**14, True, "second"), (2**14 + 1, True, "first"), (3, False, "first")):
        assert chosen_control("auto", SimpleNamespace(dim=dim, has_closed_form=exact, has_mean_step=True)) == control
