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
from smesolve.comparison.leading_constants import constants_floats
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.study_size import StudySize
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.module_problem import ModuleProblem
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
    made = []

    def recording(derivative):
        return lambda *given: made.append(derivative(*given)) or made[-1]

    for name in ("directional", "row_by_row"):  # by automatic differentiation, or by compiled kernels
        monkeypatch.setattr(module, name, recording(getattr(noise_free_path, name)))
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
    held = values + (multisets + q + 1) * block * 6 / 2 + forms
    sizes = study_size(problem, observables=3, control=control)
    assert sizes.value_memory == pytest.approx(8 * held, rel=1e-12)
    assert sizes.step_memory == 8 * 6 * block * problem.floats_per_path


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
    """Thirty arrays of the floats of a gradient for each direction and step, whatever the number of steps: 2 T/dt."""

    def size(dim, **changes):
        problem = SimpleNamespace(dim=dim, has_closed_form=True, reference_floats=1000, floats_per_path=1000)
        theta0 = torch.zeros(1, dtype=torch.float64)
        return study_size(problem, theta0, **{"lrs": [0.001], "control": "first"} | changes).making_memory / (30 * 8000)

    assert size(5) == 800  # 2^20 floats: 800 steps along one vector
    assert size(5, lrs=[0.01]) == 80 * 5  # all steps and directions
    assert size(5, dt=1e-5) == 2**20 // 1000  # a part of the steps
    assert size(5, lrs=[1.0]) == 5  # one step at least
    assert (size(257), size(257, observables=2000), size(5, control="none")) == (2, 2**20 // 1000, 0)


@pytest.mark.parametrize("inference", [False, True])
def test_arrays_of_a_sampled_problem_are_those_of_its_reference_draws(inference):
    """32 draws on all samples, a batch of which a step takes; weights of every draw are kept."""
    layers = torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)
    x, y = torch.zeros(10, 2, dtype=torch.float64), torch.ones(10, 1, dtype=torch.float64)
    with torch.inference_mode(inference):
        sampled = ModuleProblem(torch.nn.Sequential(*layers).double(), x, y, batch_size=4)
        activations = 10 * (3 + 1)  # what both linear layers give
        assert (sampled.draw_dim, sampled.reference_floats) == (10 + 4 * 3, 32 * (13 + activations))
        plain = ModuleProblem(torch.nn.Sequential(*layers[:2], layers[3]).double(), x, y, batch_size=4)
        assert plain.reference_floats == 13 + activations
    sizes = study_size(sampled, sampled.initial(seed=0), scheme="svag", control="first", dt=0.05, observables=3)
    assert sizes.making_memory == 8 * 30 * 13 * 16 * 32 * 53
    assert sizes.control_memory == pytest.approx(8 * 0.4 * 3 * 22 * (1 / 0.1 + 6 / 0.05))


@pytest.mark.parametrize("limit", [1, 60, 300, 2**20])
def test_batches_of_derivatives_are_bounded_and_change_nothing(limit, monkeypatch):
    """Steps and unit vectors in batches of any size give the same Jacobians."""
    monkeypatch.setattr(noise_free_path, "CHUNK_FLOATS", limit)
    taken = []

    def derivative(states, vectors):
        taken.append(states.numel() * 4)  # under vmap: of one unit vector
        return torch.einsum("kd,kd->k", states, vectors)[:, None] * states

    states = torch.arange(15.0, dtype=torch.float64).reshape(5, 3)
    found = noise_free_path.directional(derivative, [states], 12)
    assert torch.equal(found, states[:, :, None] * states[:, None, :])
    assert max(taken) <= max(12, limit)


def test_constants_take_the_arrays_that_are_integrated(problem):
    """52 arrays of third derivatives for the observables at once, and 60 of a batch of fourth ones; none if sampled."""
    batch = 21 * problem.floats_per_path
    assert constants_floats(problem, (1,), 7) == 52 * 7 * 6
    assert constants_floats(problem, (1, 2), 7) == 52 * 7 * 6**3 + 60 * 7 * batch
    assert constants_floats(problem, (2,), 10**6) == 52 * (2**18 // 216) * 216 + 60 * 2**18
    wide = make_problem(samples=4, width=40)
    assert constants_floats(wide, (1, 2), 1) == 52 * wide.dim


@pytest.mark.slow
def test_the_predicted_memory_is_near_the_peak_of_the_run():
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    names = ["small", "dense Hessians, D 250", "20 learning rates", "500 samples", "mini-batches"]
    command = [sys.executable, "dry_run.py", "--only", *names]
    said = subprocess.run(command, cwd=benchmarks, capture_output=True, text=True, check=True).stdout
    ratios = [float(number) for number in re.findall(r"(\d+\.\d\d)$", said, re.MULTILINE)]
    assert len(ratios) == len(names) and all(1 / 1.3 < ratio < 1.3 for ratio in ratios), said
