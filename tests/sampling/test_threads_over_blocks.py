"""Blocks of paths in threads: the same numbers to the last digit, without a process."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.problem.kernels.library import library
from smesolve.problem.observables import in_threads, named_observables
from smesolve.sampling.parallel import run_blocks

compiled = pytest.mark.skipif(library() is None, reason="no compiled kernels are installed")


@pytest.fixture
def no_processes(monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError("a process was asked for")

    monkeypatch.setattr(joblib, "Parallel", refused)


@compiled
@pytest.mark.parametrize("workers", [2, 5])
def test_paths_are_the_same(workers, no_processes):
    problem = make_problem(width=6, samples=21)
    theta0 = problem.initial()
    for one in (problem, problem.with_weak_noise()):
        for order in (1, 2):
            given = (sme.ModifiedEquation(one, 0.1, order), theta0, [0.0, 0.2])
            alone = sme.solve(*given, dt=0.05, paths=3000)
            assert torch.equal(sme.solve(*given, dt=0.05, paths=3000, workers=workers), alone)
    alone = sme.iterate(problem, theta0, 0.1, 4, 3000)
    assert torch.equal(sme.iterate(problem, theta0, 0.1, 4, 3000, workers=workers), alone)


@compiled
def test_a_weak_error_is_the_same(no_processes):
    problem = make_problem(width=2)
    given = (problem, problem.initial(), [0.2], 0.2)
    options = {"orders": [1], "observables": ["loss", "squared_norm"], "paths": 4096, "estimator": "difference"}
    tables = [sme.weak_error(*given, **options, workers=workers).table for workers in (None, 3)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@compiled
def test_observables_of_the_user_run_in_processes():
    """They may keep state that threads must not share."""
    problem = make_problem(width=2)
    named = named_observables(problem, ["loss", "modified_loss", "squared_norm"])
    assert all(map(in_threads, named.values()))
    assert not in_threads(lambda theta: theta.sum(-1))


def test_subclasses_and_problems_without_kernels_run_in_processes():
    class Own(sme.DropoutProblem):
        pass

    problem = make_problem(width=3)
    own = Own(problem.network, problem.x, problem.y, keep_prob=0.8)
    module = sme.ModuleProblem(torch.nn.Linear(2, 1).double(), problem.x, problem.y)
    assert problem.in_threads == (library() is not None)
    assert not own.in_threads and not module.in_threads


def test_an_error_of_a_block_comes_back_and_ends_the_others():
    done = []

    def block(number):
        done.append(number)
        if number == 3:
            raise ValueError("block 3")
        return number

    with pytest.raises(ValueError, match="block 3"):
        list(run_blocks({"work": block}, [("work", k) for k in range(500)], 2, in_threads=True))
    assert len(done) < 20


def test_threads_have_the_callers_surroundings():
    def block(number):
        return torch.is_grad_enabled(), np.geterr()["invalid"]

    with torch.no_grad(), np.errstate(invalid="call"):
        found = dict(run_blocks({"work": block}, [("work", k) for k in range(8)], 2, in_threads=True))
    assert found == dict.fromkeys(range(8), (False, "call"))


def test_the_number_of_torch_threads_stays():
    before = torch.get_num_threads()
    found = dict(run_blocks({"work": lambda k: torch.get_num_threads()}, [("work", k) for k in range(8)], 2, True))
    assert set(found.values()) == {max(1, before // 2)} and torch.get_num_threads() == before
