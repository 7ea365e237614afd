"""Paths and control variates that do not fit the memory are refused with the bytes that they need."""

import pytest
from problems import make_problem

import smesolve as sme
from smesolve.sampling import ensemble


def test_more_paths_than_memory_are_refused():
    problem = make_problem(width=3)
    theta0 = problem.initial()
    with pytest.raises(
        sme.SmesolveError, match=r"max_memory=1000 bytes is less than the 2880 bytes that 10 paths of 9 p"
    ):
        sme.iterate(problem, theta0, 0.1, 3, 10, max_memory=1000)
    with pytest.raises(sme.SmesolveError, match=r"max_memory=1000 bytes is less than .* take control=\"first\""):
        sme.weak_error(problem, theta0, lrs=[0.1, 0.05], horizon=0.2, paths=3000, observables=["loss"], max_memory=1000)


def test_a_block_in_work_counts_beside_the_paths(monkeypatch):
    problem = make_problem(width=3)
    monkeypatch.setattr(ensemble, "free_memory", lambda: 3000.0)
    needed = 2 * 10 * 9 * 4 * 8  # 10 paths and 10 paths in work, of 9 parameters at 4 steps
    with pytest.raises(
        sme.SmesolveError, match=rf"memory of 3e\+03 bytes is less than the {needed} bytes that 10 paths"
    ):
        sme.iterate(problem, problem.initial(), 0.1, 3, 10)
    monkeypatch.setattr(ensemble, "free_memory", lambda: float(needed))
    assert sme.iterate(problem, problem.initial(), 0.1, 3, 10).shape == (4, 10, 9)
