"""Times and learning rates as step numbers: what agrees up to rounding, what does not fit, what is too short."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import make_problem

import smesolve as sme
from smesolve.experiments.scaling.horizon import long_horizon
from smesolve.rounded_number import RoundedNumber, as_numbers
from smesolve.solver.time_grid import even_grid, grid_numbers, grid_steps, on_grid

SMALL = {"horizon": 0.6, "orders": [1], "paths": 16, "observables": ["squared_norm"], "control": "none"}


@pytest.fixture(scope="module")
def problem():
    return make_problem(samples=4, width=2)


def refused(call):
    """Return the sentence by which a call is refused."""
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


# --- step numbers ------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**6), st.floats(1e-6, 10.0), st.sampled_from(["product", "quotient", "sum"]))
def test_multiples_of_a_step_are_on_the_grid_however_they_were_computed(count, step, how):
    if how == "product":
        duration = count * step
    elif how == "quotient":
        duration, step = step, step / count
    else:
        count = min(count, 2000)
        duration = float(np.cumsum(np.full(count, step))[-1])
    assert grid_steps(duration, step, "horizon") == count


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 300), st.integers(1, 9999), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_multiples_in_low_precision_are_on_the_grid(count, thousandths, dtype):
    """Both decimals, and the step alone, with the duration as torch computes it in that precision."""
    count = count if dtype == torch.float32 else min(count, 20)
    step = as_numbers(torch.tensor([thousandths / 1000], dtype=dtype))[0]
    duration = as_numbers(torch.tensor([count * float(step)], dtype=torch.float64).to(dtype))[0]
    assert grid_steps(duration, step, "horizon") == count
    assert on_grid(duration, float(step), "horizon") == pytest.approx(count * float(step), rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.floats(0.05, 0.95), st.floats(1e-3, 10.0))
def test_what_lies_between_two_steps_is_refused_by_a_step_that_divides(count, share, step):
    duration = (count + share) * step
    said = refused(lambda: grid_steps(duration, step, "horizon"))
    proposed = float(said.split("take ")[1].removeprefix("for example ").removeprefix("dt=").rstrip("."))
    assert proposed != step and grid_steps(duration, proposed, "horizon") >= 1


def test_float32_between_two_steps_is_refused_too():
    dt, late = as_numbers(np.array([0.001, 0.25005], dtype=np.float32))
    assert "float64" in refused(lambda: grid_steps(late, dt, "horizon"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_number_of_low_precision_is_the_shortest_decimal_that_rounds_to_it(dtype):
    values = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    for number, value in zip(as_numbers(values), values, strict=True):
        assert torch.tensor(number, dtype=dtype) == value
    assert as_numbers(torch.tensor([0.2, 0.1, 3.0], dtype=dtype)) == [0.2, 0.1, 3.0]


def test_numbers_of_numpy_and_pandas_are_taken_alike_and_float64_is_left_alone():
    values = [0.1, 0.7, 1 / 3]
    assert as_numbers(np.array(values)) == as_numbers(torch.tensor(values, dtype=torch.float64)) == values
    assert type(as_numbers(np.array(values))[0]) is float
    assert as_numbers(pd.Series([0.1, 0.7], dtype="float32")) == [0.1, 0.7]
    assert as_numbers(np.array([1, 2])) == [1, 2]


def test_a_rounded_number_survives_copies_and_pickles():
    number = RoundedNumber(np.float32(0.1), 1e-7)
    for other in (copy.deepcopy(number), pickle.loads(pickle.dumps(number))):
        assert other == 0.1 and other.rounding == 1e-7


def test_too_short_and_too_many():
    assert "horizon=1e-10 is shorter than lr=0.2" in refused(lambda: grid_steps(1e-10, 0.2, "horizon", "lr"))
    assert "4e+09 steps" in refused(lambda: grid_steps(4.0, 1e-9, "horizon"))
    assert grid_steps(5.5e-17, 0.1, "ts[0]", least=0) == 0
    assert grid_steps(0, 1, "ts[0]", least=0) == 0


def test_an_even_grid_has_the_most_times_that_all_steps_divide():
    assert even_grid(0.6, [0.1, 0.2], 5) == pytest.approx([0.2, 0.4, 0.6])
    assert even_grid(1.0, [0.3], 5) is None


# --- where they come in ------------------------------------------------------------------------------------------

SAME = {
    "later": [0.0, 0.3, 0.1 * 3, 0.6],
    "first": [0.3, 0.1 * 3, 0.6],
    "at 0": [0.0, 0.1 + 0.2 - 0.3, 0.1],
}


@pytest.mark.parametrize("ts", SAME.values(), ids=SAME)
def test_times_of_a_solution_that_agree_up_to_rounding_are_refused(problem, ts):
    sde = sme.ModifiedEquation(problem, lr=0.1)
    assert "same time up to rounding" in refused(lambda: sme.solve(sde, problem.initial(), ts, dt=0.1, paths=2))


@pytest.mark.parametrize("ts", [[1.0, 0.0], [0.0, 0.5, 0.5], [-1.0, 0.0], [0.5], [0.0, float("nan")], [0.0, 1e30]])
def test_times_that_do_not_increase_or_do_not_fit_are_refused(problem, ts):
    sde = sme.ModifiedEquation(problem, lr=0.1)
    assert "ts" in refused(lambda: sme.solve(sde, problem.initial(), ts, dt=0.1, paths=2))


@pytest.mark.parametrize("make", [torch.linspace, np.linspace])
def test_a_grid_in_float32_gives_the_solution_of_the_same_grid_in_float64(problem, make):
    sde, theta0 = sme.ModifiedEquation(problem, lr=0.1), problem.initial()
    single = make(0, 1, 11, dtype=torch.float32 if make is torch.linspace else np.float32)
    ours = sme.solve(sde, theta0, single, dt=0.1, paths=3)
    assert torch.equal(ours, sme.solve(sde, theta0, [k / 10 for k in range(11)], dt=np.float32(0.1), paths=3))


def test_the_times_of_torchsde_in_float32_are_those_of_the_grid():
    bm = sme.KeyedBrownian(2, 3, dt=0.1, seed=1)
    time, step = torch.tensor(0.0), torch.tensor(0.1)
    for k in range(50):
        assert torch.equal(bm(time, time + step), bm(k * 0.1, (k + 1) * 0.1))
        time = time + step


@pytest.mark.parametrize("times", [[0.3, 0.1 * 3, 0.6], [0.3, 0.3, 0.6], [0.6, 0.3], [0.3, 0.9], [0.3], [0.25, 0.6]])
def test_times_of_a_study_that_do_not_fit_are_refused(problem, times):
    assert "times" in refused(lambda: sme.weak_error(problem, problem.initial(), [0.1], times=times, **SMALL))


@pytest.mark.parametrize("lrs", [[0.1, 0.1], [0.1, 0.3 - 0.2], [0.2, 0.1, 0.1 * (1 + 2**-52)], np.float32([0.1, 0.1])])
def test_learning_rates_that_agree_up_to_rounding_are_refused(problem, lrs):
    said = refused(lambda: sme.weak_error(problem, problem.initial(), lrs, **SMALL))
    assert said.startswith("lrs holds a value twice")


@pytest.mark.parametrize("horizon, lr", [(1e-10, 0.2), (0.1, 0.2), (1.0, 1e-10)])
def test_a_horizon_of_no_step_or_too_many_is_refused(problem, horizon, lr):
    said = refused(lambda: sme.weak_error(problem, problem.initial(), [lr], **SMALL | {"horizon": horizon}))
    assert "horizon" in said and "lr" in said


def test_a_study_in_float32_numbers_is_that_in_float64(problem):
    theta0 = problem.initial()
    wanted = sme.weak_error(problem, theta0, [0.2, 0.1, 0.6 / 7], **SMALL).table
    single = torch.tensor([0.2, 0.1, 0.6 / 7])
    found = sme.weak_error(problem, theta0, single, **SMALL | {"horizon": np.float32(0.6)}).table
    assert list(found.lr) == pytest.approx(list(wanted.lr), rel=1e-7)
    exact = found.lr.isin([0.1, 0.2])
    pd.testing.assert_frame_equal(found[exact], wanted[exact])
    times = torch.linspace(0, 0.6, 7)[1:]
    at_times = sme.weak_error(problem, theta0, [0.1], times=times, **SMALL).table
    assert list(at_times.time) == pytest.approx([0.1 * k for k in range(1, 7)], rel=1e-12)


def test_scaling_studies_refuse_times_beside_the_grid(problem):
    assert "times[0]" in refused(lambda: long_horizon(problem, problem.initial(), 0.1, [0.25, 0.5], [0.1]))


def test_numbers_of_a_list_increase_strictly():
    assert grid_numbers([0, 0.1, 0.30000000000000004], 0.1, "ts", least=0) == [0, 1, 3]
    assert "ts must increase" in refused(lambda: grid_numbers([0.2, 0.1], 0.1, "ts"))
