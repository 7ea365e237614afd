"""The bytes and steps that a study is predicted to take are those of what it holds and runs."""

import dataclasses
import re
import subprocess
import sys
from itertools import combinations_with_replacement
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import make_problem

from smesolve.comparison import noise_free_path
from smesolve.comparison import value_hessians as value_hessians_module
from smesolve.comparison.equation_side import in_pairs
from smesolve.comparison.error_budget import ErrorBudget
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.study_size import StudySize
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.observables import named_observables
from smesolve.sampling.runner import Runner


@pytest.fixture(scope="module")
def problem():
    return make_problem(samples=4, width=2)


def study_size(problem, theta0=None, paths=300, workers=1, observables=1, **changes):
    functions = {f"g{k}": None for k in range(observables)}
    given = {"lrs": [0.2, 0.1], "times": [0.2, 0.4], "orders": (1, 2), "scheme": "small_noise_rk4", "control": "second"}
    start = problem.initial() if theta0 is None else theta0
    return StudySize(StudyDesign(problem, start, observables=functions, **given | changes), paths, workers)


def changed(sizes, **changes):
    return dataclasses.replace(sizes, design=dataclasses.replace(sizes.design, **changes))


def numbers(arrays):
    return sum(array.numel() for array in arrays)


@pytest.mark.parametrize("scheme, dt", [("small_noise_rk4", None), ("small_noise_rk4", 0.05), ("euler", None)])
def test_the_predicted_adjoints_are_those_of_all_processes_less_their_last_ones(problem, scheme, dt):
    """At each step of the iteration and of both step sizes of each order, D numbers a target that lies ahead."""
    lr, theta0, names = 0.1, problem.initial(), ["loss", "theta[0]", "theta[1]"]
    functions = named_observables(problem, names)
    design = StudyDesign(problem, theta0, [lr], [0.2, 0.4], (1, 2), functions, scheme, dt, "first")
    one = ErrorBudget(design, lr, None, Runner())
    alone = [sampler for side in one.sides for sampler in (side.work[side._single], side.work[side._paired].second)]
    paths = [sampler.control.path for sampler in (one.sampler, *alone)]
    held = sum(numbers(path.adjoints) for path in paths) - 2 * len(names) * problem.dim * len(paths)
    sizes = study_size(problem, lrs=[lr], observables=3, control="first", scheme=scheme, dt=dt)
    assert (len(paths), sizes.control_memory) == (5, pytest.approx(8 * held, rel=1e-12))
    float32 = changed(sizes, theta0=theta0.float())
    assert float32.control_memory == pytest.approx(4 * held, rel=1e-12)
    assert changed(sizes, control="none").control_memory == 0


def recorded(monkeypatch, module):
    """The matrices of derivatives that a module makes from now on."""
    made, directional = [], noise_free_path.directional
    monkeypatch.setattr(module, "directional", lambda *given: made.append(directional(*given)) or made[-1])
    return made


@pytest.mark.parametrize("width", [1, 2])
def test_the_predicted_dense_hessians_are_those_that_are_made(width, monkeypatch):
    """One neuron has M = 1; with two there are pairs as well."""
    problem, lr = make_problem(samples=4, width=width), 0.1
    made, jacobians = (recorded(monkeypatch, module) for module in (value_hessians_module, noise_free_path))
    functions = named_observables(problem, ["loss", "theta[0]", "theta[1]"])
    found = value_hessians(problem, problem.initial(), [0.2, 0.4], functions, lr)
    ends = 2 * len(functions) * (problem.dim**2 + problem.noise_dim**2)
    forms = [form.matrices for forms in (found.hessians, found.quadratics) for form in forms]
    held = numbers(forms) - ends + numbers(made) + numbers(jacobians)
    sizes = study_size(problem, lrs=[0.2, lr], observables=3)
    first = changed(sizes, control="first")
    assert sizes.control_memory - first.control_memory == pytest.approx(8 * held, rel=1e-12)


def test_the_predicted_hessians_of_low_rank_are_those_that_are_made(problem, monkeypatch):
    for name in ("value_hessians", "study_size"):
        monkeypatch.setattr(f"smesolve.comparison.{name}.DENSE_DIM", 0)
        monkeypatch.setattr(f"smesolve.comparison.{name}.RANK", 4)
    monkeypatch.setattr(type(problem), "stability_limit", lambda self, start, time: time)  # four steps to the horizon
    functions = named_observables(problem, ["loss", "theta[0]"])
    found = value_hessians(problem, problem.initial(), [0.2, 0.4], functions, 0.1)
    held = numbers(form.factors for forms in (found.hessians, found.quadratics) for form in forms[1:])
    assert held == 4 * 2 * 4 * (problem.dim + problem.noise_dim)
    sizes = study_size(problem, observables=2)
    first = changed(sizes, control="first")
    assert sizes.control_memory - first.control_memory == pytest.approx(8 * held, rel=1e-12)


@pytest.mark.parametrize("control", ["none", "first", "second"])
def test_the_predicted_block_holds_the_values_of_a_pair_and_their_products(problem, control):
    """Values as they are sampled; of q variables the deviations, one product a multiset of three, and one of four."""
    theta0, lr, times = problem.initial(), 0.2, [0.2, 0.4]
    functions = named_observables(problem, ["loss", "theta[0]", "theta[1]"])
    hessians = value_hessians(problem, theta0, times, functions, lr) if control == "second" else None
    design = StudyDesign(problem, theta0, [lr], times, (1,), functions, "small_noise_rk4", None, control)
    one = ErrorBudget(design, lr, hessians, Runner())
    pair = one.sides[0].work[one.sides[0]._paired]
    first, second = pair.first.values(0), pair.second.values(0)
    difference = np.concatenate([first, second[2:]])  # less its plain values it is averaged over antithetic paths
    values = first.size + second.size + first.size + difference.size + difference[1:].size / 2
    q, block = len(first) - 1, problem.block_size
    multisets = len(list(combinations_with_replacement(range(q), 3)))
    forms = 2 * 6 * block * max(problem.dim, problem.noise_dim) if control == "second" else 0
    held = values + (multisets + q + 1) * block * 6 / 2 + 6 * block * problem.floats_per_path + forms
    assert study_size(problem, observables=3, control=control).block_memory == pytest.approx(8 * held, rel=1e-12)


def test_the_steps_of_a_study_are_counted_block_by_block(problem):
    """Of each order as many blocks as of the iteration, and a pair has a path at dt/2 as well."""
    one = study_size(problem, paths=3000, lrs=[0.2, 0.1], scheme="euler")
    blocks = -(-3000 // problem.block_size)
    steps = 0.0
    for lr in (0.2, 0.1):
        for block in range(blocks):
            steps += 0.4 / lr  # the iteration
            for _order in (1, 2):
                steps += 0.4 / (lr / 8) * (3 if in_pairs(block, problem.block_size) else 1)
    assert one.block_steps == pytest.approx(steps, rel=1e-12)


def test_a_study_has_its_workers_and_the_process_that_calls_them(problem):
    assert [study_size(problem, workers=workers).processes for workers in (1, 2, 5)] == [1, 3, 6]


def test_the_predicted_derivatives_go_along_as_many_directions_as_a_chunk_holds():
    """Seven arrays of the numbers of a path for each direction and step: 2 T/dt steps, all of them at once."""

    def size(dim, **changes):
        problem = SimpleNamespace(dim=dim, has_closed_form=True, floats_per_path=1000, noise_dim=0)
        theta0 = torch.zeros(1, dtype=torch.float64)
        return study_size(problem, theta0, **{"lrs": [0.001]} | changes).derivative_memory / (7 * 1000 * 8)

    assert size(5) == pytest.approx(800 * 5)  # all directions
    assert size(256) == pytest.approx(800 * 5)  # 2^20 numbers are five times 800 x 256
    assert size(256, dt=1e-5) == pytest.approx(80_000)  # one direction at least
    assert (size(257), size(257, control="first"), size(5, control="none")) == (48, 1, 0)
    assert size(5, lrs=[1.0]) == pytest.approx(5)  # one step at least
    sampled = SimpleNamespace(dim=5, has_closed_form=False, floats_per_path=1000)
    assert study_size(sampled, torch.zeros(1), control="first").derivative_memory == 0


@pytest.mark.slow
def test_the_predicted_memory_is_near_the_peak_of_the_run():
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    names = ["small", "dense Hessians, D 250", "60 observables"]
    command = [sys.executable, "dry_run_memory.py", "--only", *names]
    said = subprocess.run(command, cwd=benchmarks, capture_output=True, text=True, check=True).stdout
    ratios = [float(number) for number in re.findall(r"(\d+\.\d\d)$", said, re.MULTILINE)]
    assert len(ratios) == len(names) and all(1 / 1.3 < ratio < 1.3 for ratio in ratios), said
