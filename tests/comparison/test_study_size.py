"""What a study takes, known beforehand: steps, blocks and memory; what no machine holds is refused at once."""

import builtins
import dataclasses
import re
import subprocess
import sys
import warnings
from itertools import combinations_with_replacement, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.comparison import noise_free_path
from smesolve.comparison import value_hessians as value_hessians_module
from smesolve.comparison.equation_side import in_pairs, paired_blocks
from smesolve.comparison.error_budget import Aim, ErrorBudget
from smesolve.comparison.observables import named_observables
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.study_size import StudySize
from smesolve.comparison.value_hessians import value_hessians
from smesolve.experiments.shared import dry_run
from smesolve.machine_memory import free_memory, machine_memory
from smesolve.sampling import ensemble
from smesolve.sampling.ensemble import in_lists
from smesolve.sampling.runner import Runner
from smesolve.study.command_line import main
from smesolve.study.configuration_types import check_type
from smesolve.validation import MOST_ENTRIES

RANDOM = ["--data.name", "random", "--data.samples", "4", "--data.in_features", "2", "--network.width", "2"]
SMALL = ["--lrs", "[0.2]", "--horizon", "0.4", "--paths", "8"]


@pytest.fixture(scope="module")
def problem():
    return make_problem(samples=4, width=2)


def budget(problem, lr=0.2, orders=(1, 2)):
    functions = named_observables(problem, ["squared_norm"])
    design = StudyDesign(problem, problem.initial(), [lr], [0.4], orders, functions, "small_noise_rk4")
    return ErrorBudget(design, lr, None, Runner())


# --- blocks without lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 8, 64, 1024])
def test_the_number_of_paired_blocks_is_that_of_a_count(size):
    for blocks in range(150):
        assert paired_blocks(blocks, size) == sum(in_pairs(block, size) for block in range(blocks))


def test_tasks_are_those_of_a_plain_list_of_blocks(problem):
    """Rounds of any size, with and without a number of pairs, against sets of block numbers."""
    one = budget(problem, orders=(1,))
    side, size = one.sides[0], problem.block_size
    alone, paired = (name for name in side.work)
    done, in_a_pair = 0, set()
    for paths, pairs in [(5, None), (9, 3), (9, 6), (9, 9), (9, 9), (40, 12), (41, 30), (41, 41), (3, 1)]:
        new = range(done, max(done, paths))
        if pairs is None:
            chosen = {block for block in new if in_pairs(block, size)}
        else:
            order = [*new, *(block for block in range(done) if block not in in_a_pair)]
            chosen = set(order[: max(0, pairs - len(in_a_pair))])
        wanted = [(paired if block in chosen else alone, block) for block in sorted(chosen | {*new})]
        aim = paths * size, None if pairs is None else pairs * size
        tasks = list(side.tasks(*aim))
        assert tasks == wanted
        for name, block in tasks:
            if block >= len(side._pairs):
                side._pairs.append(0)
            side._pairs[block] |= name == paired
        done, in_a_pair = max(done, paths), in_a_pair | chosen


def test_the_work_of_the_first_round_is_that_of_its_tasks(problem):
    both = budget(problem)
    work = both._work()
    expected = sum(work[name].cost for name, _ in both._tasks(5000, [Aim(5000, None)] * 2))
    assert StudySize(both.design, 5000).work == pytest.approx(expected)


def test_a_round_of_many_paths_is_begun_at_once(problem):
    one = budget(problem)
    paths = 10**15
    begun = list(islice(one._tasks(paths, [Aim(paths, None)] * 2), 6))
    assert [block for _, block in begun] == [0, 0, 0, 1, 1, 1]
    assert StudySize(one.design, paths).work > 1e12
    assert [len(some) for some in in_lists(iter([("a", 0)] * (2 * ensemble.LIST + 1)))] == [ensemble.LIST] * 2 + [1]


def test_results_do_not_depend_on_how_blocks_are_listed(problem, monkeypatch):
    theta0 = problem.initial()

    def results():
        table = sme.weak_error(
            problem, theta0, [0.2], horizon=0.4, orders=[1], paths=5 * 1024, rel_tol=0.05, max_paths=9 * 1024
        ).table
        return table, sme.iterate(problem, theta0, 0.1, 2, 5000, save=[2])

    whole = results()
    monkeypatch.setattr(ensemble, "LIST", 2)
    parts = results()
    pd.testing.assert_frame_equal(whole[0], parts[0], check_exact=True)
    assert torch.equal(whole[1], parts[1])


# --- refusals ----------------------------------------------------------------------------------------------------


def refused(call):
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"paths": 10**15}, ["paths=1000000000000000", "steps of a block"]),
        ({"dt": 1e-9, "control": "none"}, ["dt=1e-09", "steps of a block"]),
        ({"dt": 1e-8, "observables": [f"theta[{k}]" for k in range(6)]}, ["memory", "6 observables", "bytes"]),
        ({"lrs": [1e-9], "control": "none"}, ["lr=1e-09", "steps of a block"]),
        ({"max_memory": 1000.0}, ["max_memory=1000 bytes"]),
    ],
)
def test_a_study_that_nothing_can_hold_is_refused_with_its_numbers(problem, change, words):
    options = {"lrs": [0.2], "horizon": 0.4, "orders": [1], "paths": 8} | change
    said = refused(lambda: sme.weak_error(problem, problem.initial(), **options))
    assert all(word in said for word in words), said


def test_paths_of_too_many_steps_or_bytes_are_refused(problem):
    theta0, sde = problem.initial(), sme.ModifiedEquation(problem, lr=0.1)
    assert "steps of a block" in refused(lambda: sme.iterate(problem, theta0, 0.1, 10**9, 4, save=[10**9]))
    assert "steps of a block" in refused(lambda: sme.solve(sde, theta0, [0.0, 1.0], dt=1e-9, paths=4))
    assert "bytes" in refused(lambda: sme.iterate(problem, theta0, 0.1, 10**9, 4))
    assert "bytes" in refused(lambda: sme.solve(sde, theta0, [0.0, 1.0], dt=0.1, paths=10**12))


@pytest.mark.parametrize(
    "more",
    [
        ["--paths", "1000000000000000"],
        ["--dt", "1e-9"],
        ["--lrs", "[1e-9]"],
        ["--max_memory", "1000"],
        ["--orders", "[1, 1]"],
    ],
)
def test_a_dry_run_refuses_what_the_study_refuses(more, capsys, tmp_path):
    said = []
    for last in (["--dry-run"], ["--out", str(tmp_path / "results")]):
        assert main(["weak-error", *RANDOM, *SMALL, *more, *last]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and said[0].startswith("smesolve: ") and said[0].count("\n") == 1


def test_a_dry_run_of_many_learning_rates_times_a_step_once(capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(dry_run, "_seconds_per_step", lambda process, theta0: calls.append(process) or 1e-3)
    lrs = "[" + ", ".join(repr(0.4 / count) for count in range(1, 1001)) + "]"
    assert main(["weak-error", *RANDOM, "--lrs", lrs, *SMALL[2:], "--control", "none", "--dry-run"]) == 0
    assert len(calls) == 3 and "980 more" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, key, entry",
    [
        ("weak-error", "lrs", "1"),
        ("compare", "observables", "loss"),
        ("weak-error", "orders", "2"),
        ("weak-error", "network.width", "1"),
        ("scaling", "keep_probs", "1"),
        ("scaling", "observables", "loss"),
        ("landscape", "sections", "x"),
        ("derive", "state", "a"),
        ("derive", "values", "1"),
    ],
)
def test_a_long_list_is_refused_with_its_length(command, key, entry, tmp_path, capsys):
    text, head, _, last = f"[{', '.join([entry] * 10_000)}]", *key.rpartition(".")
    (tmp_path / "study.yaml").write_text(f"{head}:\n  {last}: {text}\n" if head else f"{key}: {text}\n")
    for arguments in ([f"--{key}", text], [str(tmp_path / "study.yaml")]):
        assert main([command, *arguments, "--dry-run"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"smesolve: {key} has 10000 entries, more than 1000; ") and error.count("\n") == 1, (
            error
        )


def test_a_list_of_a_thousand_entries_is_read_and_one_more_is_not():
    lrs = [0.5 / count for count in range(1, MOST_ENTRIES + 1)]
    check_type("lrs", lrs, list[float])
    with pytest.raises(ValueError, match="lrs has 1001 entries, more than 1000; "):
        check_type("lrs", [*lrs, 1.0], list[float])


def test_a_million_entries_are_refused_by_their_bytes(capsys):
    text = f"[{'1,' * 10**6}1]"
    assert main(["weak-error", "--lrs", text, "--dry-run"]) == 2
    assert "has 2000003 bytes, more than 100000; " in capsys.readouterr().err


# --- what is predicted -------------------------------------------------------------------------------------------


def test_a_dry_run_without_the_module_resource_says_what_it_knows(monkeypatch, capsys):
    """As on Windows."""
    load = builtins.__import__

    def windows(name, *more, **kwargs):
        if name == "resource":
            raise ModuleNotFoundError(name)
        return load(name, *more, **kwargs)

    monkeypatch.setattr(builtins, "__import__", windows)
    assert main(["weak-error", *RANDOM, *SMALL, "--dry-run"]) == 0
    assert "on top of what Python and its libraries take" in capsys.readouterr().out


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


def test_divergence_that_a_table_tells_is_no_warning_and_leaves_the_filters_alone(problem):
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ensemble.without_divergence_warnings():
            sme.iterate(problem, problem.initial(), 1e100, 9, 2)
        assert not [one for one in caught if issubclass(one.category, ensemble.DivergenceWarning)]
        sme.iterate(problem, problem.initial(), 1e100, 9, 2)
        assert len([one for one in caught if issubclass(one.category, ensemble.DivergenceWarning)]) == 1
    assert warnings.filters == before


@pytest.mark.parametrize("name", ["lrs", "observables"])
def test_more_entries_than_a_study_can_work_on_are_refused_at_once(name):
    problem = make_problem(width=2)
    given = {"lrs": [1 / k for k in range(10, 10_010)], "observables": [f"theta[{k}]" for k in range(10_000)]}
    arguments = {"lrs": [0.1], "observables": ["loss"], name: given[name]}
    with pytest.raises(ValueError, match=f"{name} has 10000 entries, more than 1000"):
        sme.weak_error(problem, problem.initial(), arguments["lrs"], 1.0, observables=arguments["observables"])


def test_paths_are_held_to_the_memory_that_is_free(problem, monkeypatch):
    theta0, numbers = problem.initial(), problem.dim * 11 * 64
    monkeypatch.setattr(ensemble, "free_memory", lambda: 8.0 * 2 * numbers)
    assert sme.iterate(problem, theta0, 0.1, 10, 64).shape == (11, 64, problem.dim)
    monkeypatch.setattr(ensemble, "free_memory", lambda: 8.0 * 2 * numbers - 1)
    said = refused(lambda: sme.iterate(problem, theta0, 0.1, 10, 64))
    assert said.startswith("the free memory of ") and f"{8 * numbers} bytes that 64 paths" in said
    assert 0 < free_memory() <= machine_memory()


def test_few_paths_of_many_steps_take_no_more_than_they_are(problem):
    """A block is run whole, 1,024 paths here, and only what is asked for is kept."""
    theta0 = problem.initial()
    sme.iterate(problem, theta0, 0.1, 1, 1)
    before = resource_peak()
    few = sme.iterate(problem, theta0, 0.1, 2000, 2)
    grown = resource_peak() - before
    assert torch.equal(few[:51], sme.iterate(problem, theta0, 0.1, 50, 20)[:, :2])
    assert grown < 8 * 2000 * problem.dim * problem.block_size / 4


def resource_peak():
    return pytest.importorskip("resource").getrusage(pytest.importorskip("resource").RUSAGE_SELF).ru_maxrss * 1024
