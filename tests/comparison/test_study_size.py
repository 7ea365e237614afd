"""What a study takes, known beforehand: steps, blocks and memory; what no machine holds is refused at once."""

import builtins
import warnings
from itertools import islice

import pandas as pd
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.comparison.equation_side import in_pairs, paired_blocks
from smesolve.comparison.error_budget import Aim, ErrorBudget
from smesolve.comparison.study_design import StudyDesign
from smesolve.comparison.study_size import StudySize
from smesolve.experiments.shared import dry_run
from smesolve.machine_memory import free_memory, machine_memory
from smesolve.problem.observables import named_observables
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
        ({"max_memory": 1000.0}, ["max_memory=1000 bytes", 'take control="first"']),
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
    said = refused(lambda: sme.iterate(problem, theta0, 0.1, 3, 10, max_memory=1000))
    assert said.startswith(f"max_memory=1000 bytes is less than the {8 * 10 * 6 * 4} bytes that 10 paths of 6 p")
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
    monkeypatch.setattr(dry_run, "_seconds_per_step", lambda process, theta0, split: calls.append(process) or 1e-3)
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
    assert said.startswith("the free memory of ")
    assert f"{8 * 2 * numbers} bytes that 64 paths and a block of them" in said
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
