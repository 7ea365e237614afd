"""The interval of a weak error, the paths that a tolerance asks for, and the largest error over the times, exactly."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from given_errors import Q, exactly
from problems import make_problem
from scipy import stats

import smesolve as sme
from smesolve.comparison.equation_side import EquationSide, block_cost, in_pairs, step_cost
from smesolve.comparison.error_budget import ErrorBudget, _budget, _next, first_dt, first_round_cost
from smesolve.comparison.estimate import Estimate
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.observables import named_observables
from smesolve.comparison.weak_error import chosen_control, control_memory, observation_times
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.sampling.progress import Progress
from smesolve.sampling.runner import Runner

EPSILON = 2.0**-52


def estimated(mean, stderr, paths=100, plain=0.4, kurtosis=3.0, diverged=0):
    """One time and one observable."""
    numbers = (np.full((1, 1), float(value)) for value in (mean, stderr, plain, kurtosis))
    return Estimate(*numbers, paths=paths, diverged=diverged)


def budget(dropout, equation, pairs, bias=0.0, dtype=torch.float64, rel_tol=None):
    return _budget((0, 0), dropout, equation, pairs, np.full((1, 1), bias), dtype, rel_tol)


def test_the_interval_of_an_error_adds_monte_carlo_bias_and_rounding():
    dropout, equation = estimated(1.0, 0.03, 400, 0.5, 5.0), estimated(1.8, 0.04, 100, 0.6, 4.0)
    row = budget(dropout, equation, estimated(0.0, 0.002, 50), bias=-0.05)
    half = Q * 0.05 + 0.05 + Q * 0.004 + 2 * EPSILON * 1.8
    assert (row["error"], row["stderr"]) == exactly((0.8, 0.05))
    assert (row["low"], row["high"]) == exactly((0.8 - half, 0.8 + half))
    assert (row["solver_bias"], row["solver_bias_stderr"]) == exactly((-0.05, 0.004))
    assert (row["discrete"], row["sde"], row["discrete_stderr"], row["sde_stderr"]) == (1.0, 1.8, 0.03, 0.04)
    assert (row["paths"], row["discrete_paths"], row["sde_paths"], row["kurtosis"]) == (100, 400, 100, 5.0)
    assert row["gain"] == exactly(np.hypot(0.5 * 20, 0.6 * 10) / np.hypot(0.03 * 20, 0.04 * 10))
    assert row["resolved"] and row["reason"] == "" and row["diverged"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounding_is_two_units_of_the_larger_mean(dtype):
    """Of means that are known without Monte Carlo."""
    epsilon = torch.finfo(dtype).eps
    row = budget(estimated(-1000.0, 0.0), estimated(10.0, 0.0), estimated(0.0, 0.0), dtype=dtype)
    assert row["high"] - row["low"] == pytest.approx(2 * 2 * epsilon * 1000, rel=1e-3)
    for size, resolved in ((1, False), (3, True)):
        end = 1024 * (1 + size * epsilon)
        row = budget(estimated(1024.0, 0.0), estimated(end, 0.0), estimated(0.0, 0.0), dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        assert (row["resolved"], row["reason"]) == (resolved, "" if resolved else f"inside the rounding of {name}")


@pytest.mark.parametrize(
    ("error", "bias", "rel_tol", "resolved", "reason"),
    [
        (0.99 * Q * 0.05, 0.0, None, False, "inside its Monte Carlo interval"),
        (-0.99 * Q * 0.05, 0.0, None, False, "inside its Monte Carlo interval"),
        (1.01 * Q * 0.05, 0.0, None, True, ""),
        (1.01 * Q * 0.05, 0.02 * Q * 0.05, None, False, "inside the solver bias"),
        (1.01 * Q * 0.05, -0.02 * Q * 0.05, None, False, "inside the solver bias"),
        (Q * 0.05 / 0.1, 0.0, 0.1, True, ""),
        (Q * 0.05 / 0.1, 0.0, 0.0954, True, ""),
        (Q * 0.05 / 0.1, 0.0, 0.095, True, "rel_tol not reached at max_paths"),
        (-Q * 0.05 / 0.1, 0.0, 0.095, True, "rel_tol not reached at max_paths"),
    ],
)
def test_an_error_is_resolved_where_its_interval_leaves_out_zero(error, bias, rel_tol, resolved, reason):
    row = budget(estimated(0.0, 0.03), estimated(error, 0.04), estimated(0.0, 0.0), bias, rel_tol=rel_tol)
    assert (row["resolved"], row["reason"]) == (resolved, reason)
    assert row["resolved"] == (row["low"] > 0 or row["high"] < 0)


def test_diverged_paths_of_both_sides_are_counted():
    row = budget(estimated(0, 0.1, diverged=2), estimated(9, 0.1, diverged=3), estimated(0, 0, diverged=4))
    assert (row["diverged"], row["discrete_diverged"], row["sde_diverged"]) == (6, 2, 4)
    assert (row["resolved"], row["reason"]) == (False, "diverged")


# --- paths ----------------------------------------------------------------------------------------------------------


def given_side(error, stderr, cost=4.5, spread_of_pair=0.3, bias=0.0, bias_stderr=0.0, paths=25):
    both = (np.full((1, 1), value) for value in (bias, bias_stderr, spread_of_pair))
    made = tuple(both)
    return SimpleNamespace(statistics=estimated(error, stderr, paths), bias=lambda: made, cost=cost)


@pytest.mark.parametrize("rel_tol", [0.02, 0.5])
def test_a_tolerance_asks_for_the_cheapest_paths_that_meet_it(rel_tol, monkeypatch):
    monkeypatch.setattr("smesolve.comparison.error_budget.estimate", lambda given: given)
    error, cost = -0.2, 6.0
    side = given_side(error, 0.05, cost)
    wanted = ErrorBudget._wanted(SimpleNamespace(dropout=estimated(0.0, 0.03, 100)), side, rel_tol)
    spread = 0.03 * 10, 0.05 * 5
    variance = (rel_tol * 0.2 / Q) ** 2
    share = np.linspace(0.001, 0.999, 99_999)  # of the variance that the iteration takes
    work = 1.5 * spread[0] ** 2 / (share * variance) + cost * spread[1] ** 2 / ((1 - share) * variance)
    best = share[np.argmin(work)]
    assert wanted[0] == pytest.approx(spread[0] ** 2 / (best * variance), rel=1e-3, abs=1)
    assert wanted[1] == pytest.approx(spread[1] ** 2 / ((1 - best) * variance), rel=1e-3, abs=1)
    pairs = np.ceil((0.3 * Q / (min(0.1, rel_tol) * 0.2)) ** 2)
    assert wanted[2] == min(pairs, max(wanted[1], 25))


def test_without_noise_or_without_a_mean_no_path_is_asked_for(monkeypatch):
    monkeypatch.setattr("smesolve.comparison.error_budget.estimate", lambda given: given)
    still = SimpleNamespace(dropout=estimated(0.0, 0.0, 100))
    assert ErrorBudget._wanted(still, given_side(0.0, 0.0, spread_of_pair=0.0), 0.1) == (0, 0, 0)
    assert ErrorBudget._wanted(still, given_side(np.nan, 0.1), 0.1) == (0, 0, 0)
    noisy = SimpleNamespace(dropout=estimated(0.0, 0.1, 100))
    assert ErrorBudget._wanted(noisy, given_side(0.0, 0.1), 0.1)[:2] == (2**40, 2**40)


@pytest.mark.parametrize(
    ("bias", "stderr", "left", "halved"),
    [
        (0.021, 0.0, 3, True), (-0.021, 0.0, 3, True), (0.019, 0.0, 3, False), (0.021, 0.0, 0, False),
        (0.03, 0.0154, 3, False), (0.03, 0.0152, 3, True),
    ],
)  # fmt: skip
def test_the_step_is_halved_while_a_significant_bias_is_above_a_tenth_of_the_error(
    bias, stderr, left, halved, monkeypatch
):
    monkeypatch.setattr("smesolve.comparison.error_budget.estimate", lambda given: given)
    side = given_side(-0.2, 0.05, bias=bias, bias_stderr=stderr)
    side.equation, side.dt, side.exact = SimpleNamespace(order=2), 0.4, "known"
    made = []
    study = SimpleNamespace(
        dropout=estimated(0.0, 0.0), sides=[side], _halvings_left=[left], _side=lambda *given: made.append(given)
    )
    assert ErrorBudget._halve(study) == halved
    assert made == ([(2, 0.2, "known")] if halved else []) and study._halvings_left == [left - halved]


def test_the_bias_of_a_side_is_twice_the_mean_difference_of_its_pairs_beyond_the_noise_free_one(monkeypatch):
    monkeypatch.setattr("smesolve.comparison.equation_side.estimate", lambda given: given)
    side = EquationSide.__new__(EquationSide)
    side._noise_free_bias, side._noise_free_difference = np.full((1, 1), 0.5), np.full((1, 1), 0.3)
    side.difference = estimated(0.37, 0.01, paths=400)
    bias, stderr, spread = side.bias()
    assert (bias.item(), stderr.item(), spread.item()) == exactly((0.5 + 2 * 0.07, 0.02, 0.4))


def test_the_noise_free_bias_is_that_of_the_scheme_on_the_mean():
    """One parameter: L_S'' = 1/keep_prob = h. Without noise RK4 at order 1 multiplies by the Taylor polynomial."""
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), one, 0 * one, keep_prob=0.5)
    theta0, dt = torch.ones(1, dtype=torch.float64), 0.25
    observables = named_observables(problem, ["theta[0]"])
    equation = sme.ModifiedEquation(problem, 0.25, 1)
    side = EquationSide(equation, theta0, [0.5, 1.0], observables, "small_noise_rk4", dt, 0, lambda *given: None)

    def taylor(h):
        return 1 - 2 * h + (2 * h) ** 2 / 2 - (2 * h) ** 3 / 6 + (2 * h) ** 4 / 24

    for row, time in enumerate((0.5, 1.0)):
        coarse, fine = (taylor(h) ** round(time / h) for h in (dt, dt / 2))
        assert side._noise_free_bias[row, 0] == pytest.approx(coarse - np.exp(-2 * time), abs=1e-10)
        assert side._noise_free_difference[row, 0] == exactly(coarse - fine)
    assert side.cost == exactly(step_cost(1, "small_noise_rk4"))


def test_costs_in_gradients():
    """Euler: one gradient, a noise product (1.5) and at order 2 a Hessian product (4)."""
    assert (step_cost(1, "euler"), step_cost(2, "euler"), step_cost(2, "small_noise_heun")) == (2.5, 6.5, 7.5)
    assert (step_cost(1, "svag"), step_cost(1, "sampled_euler"), step_cost(2, "svag")) == (2, 4, 6)
    assert block_cost(1, "euler", 0.1, 2.0, 64) == exactly(2.5 * 20 * 64)
    assert (first_dt("euler", 0.4, None), first_dt("small_noise_rk4", 0.4, None), first_dt("euler", 0.4, 0.2)) == (
        0.05, 0.4, 0.2,
    )  # fmt: skip


@pytest.mark.parametrize("paths", [8, 3000])
def test_the_announced_work_is_that_of_the_first_round(paths):
    """One block in four comes in pairs, which cost three times as much, and all blocks of the first 64 paths."""
    problem = make_problem(width=2)
    theta0, lr, times = problem.initial(), 0.25, [0.5, 1.0]
    observables = named_observables(problem, ["loss"])
    size = problem.block_size
    with Progress(False, 1) as bar:
        given = (times, (1, 2), observables, "small_noise_rk4", None, "none", None, 0, Runner(None, None, bar))
        study = ErrorBudget(problem, theta0, lr, *given)
        tasks = study._tasks(paths, [(paths, None)] * 2)
        announced = study._cost(tasks)
    blocks = -(-paths // size)
    paired = sum(block % 4 == 0 or block * size < 64 for block in range(blocks))
    assert [in_pairs(block, size) for block in range(blocks)].count(True) == paired
    assert sum(name.endswith("pairs") for name, _ in tasks) == 2 * paired and len(tasks) == 3 * blocks
    steps = 4 * size
    assert announced == exactly(steps * (2.5 * blocks + (5.5 + 9.5) * (blocks + 2 * paired)))
    assert first_round_cost(problem, lr, times, (1, 2), "small_noise_rk4", None, paths) == exactly(announced)


# --- the study ------------------------------------------------------------------------------------------------------


def test_the_largest_error_over_three_times_has_simultaneous_intervals():
    """Bonferroni: the quantile of 1 - 0.05 / (2 * 3) in place of that of 0.975."""
    columns = {"time": [0.5, 1.0, 1.5], "error": [0.1, -0.4, 0.3], "stderr": [0.02, 0.05, 0.1]}
    half = np.array([0.05, 0.1, 0.2])
    table = pd.DataFrame(columns).assign(order=2, lr=0.1, observable="loss", solver_bias=[1, 2, 3])
    table = table.assign(solver_bias_stderr=[4, 5, 6], low=table.error - half, high=table.error + half)
    row = WeakErrorStudy(table, {}, 1.5, pd.DataFrame).maximum().iloc[0]
    wider = stats.norm.ppf(1 - 0.05 / 6) / Q
    assert (row.error, row.time, row.solver_bias, row.solver_bias_stderr) == (0.4, 1.0, 2, 5)
    assert row.stderr == exactly(0.05 * wider)
    assert (row.low, row.high) == exactly((0.4 - 0.1 * wider, 0.3 + 0.2 * wider)) and row.resolved
    near = table.assign(low=table.error - 0.5, high=table.error + 0.5)
    row = WeakErrorStudy(near, {}, 1.5, pd.DataFrame).maximum().iloc[0]
    assert row.low == 0 and not row.resolved
    one = table[table.time == 1.5]
    row = WeakErrorStudy(one, {}, 1.5, pd.DataFrame).maximum().iloc[0]
    assert (row.low, row.high) == exactly((0.1, 0.5))


def test_times_of_observation_are_the_finest_grid_of_at_most_five():
    assert observation_times([0.1], 1.0, None) == exactly([0.2, 0.4, 0.6, 0.8, 1.0])
    assert observation_times([0.25, 0.125], 1.0, None) == exactly([0.25, 0.5, 0.75, 1.0])
    assert observation_times([0.5, 0.25], 1.5, None) == exactly([0.5, 1.0, 1.5])
    assert observation_times([1.0], 1.0, None) == [1.0]


def test_memory_of_control_variates_in_bytes():
    """D = 4, M = 3: adjoints (1 + 3 orders) D, Hessians D^2 + M^2, at 4 + 8 steps and for two observables."""
    one = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(1, 2, 1), one[:, :1], one[:, :1], keep_prob=0.5)
    assert (problem.dim, problem.noise_dim) == (4, 3)
    given = (problem, problem.initial(), [0.25, 0.125], [0.5, 1.0], 2, 2)
    followed = 12 * 2
    assert control_memory(*given, "none") == 0
    assert control_memory(*given, "first") == exactly(followed * (1 + 3 * 2) * 4 * 8)
    assert control_memory(*given, "second") == exactly(followed * ((1 + 3 * 2) * 4 + 16 + 9) * 8)


def test_a_study_covers_the_exact_error_as_its_intervals_state():
    """Linear regression, no control variates, many seeds: all of the interval is Monte Carlo, and 95% of them cover."""
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), one, one, keep_prob=0.7)
    theta0 = torch.zeros(1, dtype=torch.float64)
    exact = LinearMoments(problem, theta0).error(0.25, 1, 0.5)
    scores = []
    for seed in range(40):
        row = sme.weak_error(
            problem, theta0, [0.25], 0.5, (1,), times=[0.5], paths=64, control="none", seed=seed
        ).table.iloc[0]
        scores.append((row.error - row.solver_bias - exact) / row.stderr)
    # the sum of 40 squares of standard scores, within its central 99.9%
    assert stats.chi2.ppf(0.0005, 40) < np.square(scores).sum() < stats.chi2.ppf(0.9995, 40)


def test_a_round_adds_at_most_four_times_the_paths():
    known = SimpleNamespace(paths=100)
    for wanted, most, expected in (
        (50, 1000, 100),
        (250, 1000, 250),
        (900, 1000, 400),
        (900, 300, 300),
        (900, 50, 100),
    ):
        assert _next(known, wanted, most) == expected


def test_value_hessians_are_taken_up_to_two_to_the_fourteen_parameters():
    for dim, exact, control in ((2**14, True, "second"), (2**14 + 1, True, "first"), (3, False, "first")):
        assert chosen_control("auto", SimpleNamespace(dim=dim, exact=exact)) == control
