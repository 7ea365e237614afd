"""Kernels in use: the environment chooses them, and results of other kernels are read, or refused."""

import gc
import importlib.util
import itertools
import pickle
import threading

import numpy as np
import pytest
import torch
from problems import make_problem
from torch.utils._python_dispatch import TorchDispatchMode

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


class LibraryOfTwoThreads:
    """Makes handles, and lets no thread go on to their release before both have made one."""

    def __init__(self):
        self.numbers, self.released, self.both = itertools.count(1), [], threading.Barrier(2, timeout=60)

    def smesolve_make(self, *sizes_and_data):
        return next(self.numbers)

    @property
    def smesolve_release(self):
        self.both.wait()
        return self.released.append

    def smesolve_loss(self, handle, *arguments):
        """Computes nothing."""


def test_threads_that_come_at_once_release_each_handle_once(monkeypatch):
    made = LibraryOfTwoThreads()
    monkeypatch.setattr(fused, "library", lambda: made)
    data = torch.zeros(3, 2, dtype=torch.float64)
    kernels = fused.Kernels((0, 2, 4, 1, 0, 0), data, data[:, :1].mT, per_sample=False)
    threads = [threading.Thread(target=kernels._call, args=("loss",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del thread, threads, kernels
    gc.collect()
    assert sorted(made.released) == [1, 2]


@compiled
@pytest.mark.parametrize("network", [sme.TwoLayerNetwork(2, 3, activation="relu"), sme.LinearNetwork(2)])
def test_dispatch_modes_see_every_operation(network):
    """The search for kinks depends on this."""
    x = torch.randn(5, 2, dtype=torch.float64)
    problem = sme.DropoutProblem(network, x, x[:, :1], keep_prob=0.8)
    theta, seen = problem.initial(), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    for function in (problem.loss, problem.modified_loss, problem.mean_gradient):
        seen.clear()
        with Watch():
            function(theta)
        assert torch.ops.aten.bmm.default in seen or torch.ops.aten.mm.default in seen, function


@compiled
def test_transforms_of_something_else_go_around_the_kernels():
    """The derivative of a step with respect to lr alone, which no tensor of the problem carries."""
    x = torch.randn(5, 2, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), x, x[:, :1], keep_prob=0.8)
    theta, draw = problem.initial(), problem.sample(3, seed=0)
    at, along = (torch.tensor(number, dtype=torch.float64) for number in (0.1, 1.0))
    _, slope = torch.func.jvp(lambda lr: theta - lr * problem.gradient(theta, draw), (at,), (along,))
    assert torch.allclose(slope, -problem.gradient(theta, draw), rtol=1e-12, atol=1e-14)
    own = sme.Training(problem, lambda state, draw, lr: state - lr * problem.gradient(state, draw), lr=0.1)
    assert torch.equal(own.step(theta, draw, 0.1), theta - 0.1 * problem.gradient(theta, draw))
