"""With dt = lr on the order-1 equation a step has the iteration's mean and covariance, which every entry warns of."""

import contextlib
import importlib
import warnings

import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.solver.integration import integration
from smesolve.solver.schemes import SCHEMES, Euler
from smesolve.study.command_line import main

SAME = ("euler", "svag", "sampled_euler")
PROBLEM = make_problem(width=2)
THETA0 = PROBLEM.initial(0)


class Checked(Exception):
    """Everything was checked, and the computing would begin."""


@pytest.fixture(autouse=True)
def without_computing(monkeypatch):
    def stop(*arguments):
        raise Checked

    monkeypatch.setattr(importlib.import_module("smesolve.comparison.weak_error"), "ErrorBudget", stop)


def warned(call):
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(Checked):
        warnings.simplefilter("always")
        call()
    found = [warning for warning in caught if issubclass(warning.category, sme.NothingTestedWarning)]
    assert all(warning.filename == __file__ for warning in found)
    return bool(found)


def solved(scheme, dt, lr=0.1, order=1):
    equation = sme.ModifiedEquation(PROBLEM, lr, order)
    return lambda: sme.solve(equation, THETA0, [0.0, 5 * dt], scheme, dt=dt, paths=2)


def measured(scheme, dt, order=1, problem=PROBLEM):
    return lambda: sme.weak_error(
        problem,
        THETA0,
        [0.1],
        0.2,
        orders=(order,),
        times=[0.2],
        scheme=scheme,
        dt=dt,
        paths=8,
        control="first",
        progress=False,
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_solve_and_weak_error_warn_where_the_step_is_the_iteration(scheme):
    same = scheme in SAME
    assert warned(solved(scheme, 0.1)) == same
    assert warned(measured(scheme, 0.1)) == same
    assert not warned(solved(scheme, 0.05)) and not warned(solved(scheme, 0.1, order=2))
    assert not warned(measured(scheme, 0.05)) and not warned(measured(scheme, None))


def test_dt_may_differ_from_lr_by_rounding():
    assert warned(solved("sampled_euler", 0.1 + 0.2, lr=0.3))
    assert warned(solved("euler", 0.1 + 0.2, lr=0.3))
    assert not warned(solved("euler", 0.3 * (1 + 1e-6), lr=0.3))


def test_a_pair_at_half_the_step_is_no_comparison():
    """The bias at dt = 2 lr is measured by steps of dt/2 = lr."""
    assert not warned(measured("euler", 0.2))


def test_a_scheme_of_the_users_whose_step_is_chosen_warns(monkeypatch):
    class Mine(Euler):
        weak_error = "dt + lr"  # so that dt = lr is taken unless given

    monkeypatch.setitem(SCHEMES, "mine", Mine)
    assert warned(measured("mine", None))


def test_a_problem_known_by_sampling_warns():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Tanh(), torch.nn.Dropout(0.2))
    module.append(torch.nn.Linear(2, 1, bias=False)).double()
    sampled = sme.ModuleProblem(module, PROBLEM.x, PROBLEM.y, masks="shared")
    assert warned(measured("sampled_euler", 0.1, problem=sampled))
    assert not warned(measured(None, None, problem=sampled))


@pytest.mark.parametrize("scheme", SAME)
def test_the_step_has_the_mean_and_the_covariance_of_the_iteration(scheme):
    """What the warning says, by many paths of one step."""
    process = integration(sme.ModifiedEquation(PROBLEM, 0.1, 1), THETA0, scheme, 0.1)
    start = THETA0.expand(process.block_size, -1)
    ends = torch.cat([process.advance(start, block, 0) for block in range(10)])
    mean = THETA0 - 0.1 * PROBLEM.mean_gradient(THETA0)
    covariance = 0.01 * PROBLEM.covariance(THETA0)
    spread = covariance.diagonal().sqrt()
    assert ((ends.mean(0) - mean).abs() < 5 * spread / len(ends) ** 0.5).all()
    difference = (torch.cov(ends.mT) - covariance).abs() / (spread[:, None] * spread)
    assert difference.max() < 10 / len(ends) ** 0.5


@pytest.mark.parametrize("dry", [False, True])
def test_the_command_line_says_it(tmp_path, monkeypatch, capsys, dry):
    if dry:
        monkeypatch.undo()  # a dry run measures what libraries take by the smallest study
    monkeypatch.chdir(tmp_path)
    arguments = "--data.name random --data.samples 4 --data.in_features 2 --network.width 2 --lrs [0.1] --horizon 0.2"
    arguments += " --orders [1] --paths 8 --scheme sampled_euler --dt 0.1 --control first"
    with contextlib.suppress(Checked):
        main(["weak-error", *arguments.split(), *(["--dry-run"] if dry else ["--out", "results"])])
    said = capsys.readouterr()
    assert "tests nothing" in (said.out if dry else said.err)
