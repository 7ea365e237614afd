"""Kernels in use: the environment chooses them, and what others computed is read, or refused."""

import importlib.util
import pickle

import numpy as np
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.problem.activations import ACTIVATIONS
from smesolve.problem.kernels import fused
from smesolve.problem.kernels.library import CHOICE, TORCH, kernels_in_use, library
from smesolve.sampling.journal import Journal, JournalError

compiled = pytest.mark.skipif(library() is None, reason="no compiled kernels are installed")


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setenv(CHOICE, TORCH)
    assert kernels_in_use() == TORCH and library() is None
    assert make_problem().kernels is None
    monkeypatch.setenv(CHOICE, "fast")
    with pytest.raises(sme.SmesolveError, match=r"SMESOLVE_KERNELS must name kernels .* got 'fast'; name one of them"):
        make_problem()


@compiled
def test_pickles_open_where_there_are_no_kernels(monkeypatch):
    problem = make_problem(width=4)
    pickled, expected = pickle.dumps(problem), problem.mean_gradient(problem.initial())
    monkeypatch.setenv(CHOICE, TORCH)
    found = pickle.loads(pickled).mean_gradient(problem.initial())
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_a_journal_of_other_kernels_is_refused(tmp_path):
    with Journal(tmp_path / "blocks.journal", {"kernels": "x86-64-v4"}) as journal:
        journal.put("block", {"mean": np.ones(1)})
    with pytest.raises(JournalError, match=r"computed by the kernels x86-64-v4, but torch are in use; set .*KERNELS"):
        Journal(tmp_path / "blocks.journal", {"kernels": TORCH})


def test_an_activation_that_was_added_before_has_no_kernel_of_another(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "sine", torch.sin)
    specification = importlib.util.spec_from_file_location("fused_again", fused.__file__)
    again = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(again)
    assert torch.sin not in again.ACTIVATIONS and again.ACTIVATIONS[torch.relu] == 1
