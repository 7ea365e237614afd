"""Paths that do not fit the free memory are refused with the bytes that they need, a block in work included."""

import pytest
from problems import make_problem

import smesolve as sme
from smesolve.sampling import ensemble


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
