"""Blocks of a study follow the paths that are asked for, and what it measures depends on nothing else."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from problems import Quadratic, make_problem
from torch import nn

import smesolve as sme
from smesolve.comparison.mean_estimate import FITTED_ON, MeanEstimate
from smesolve.comparison.path_statistics import PathStatistics
from smesolve.experiments.shared.cells import Ensembles
from smesolve.experiments.shared.defect_runs import DefectRuns
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.sampling.ensemble import fitting_block_size, holding_block_size
from smesolve.study.command_line import main

STUDY = {"lrs": [0.2], "horizon": 0.4, "times": [0.4], "observables": ["loss"], "progress": False}
PARTS = ["paths", "discrete_paths", "sde_paths"]


def sampled_problem():
    torch.manual_seed(0)
    x, y = make_problem().x, make_problem().y
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, y.shape[1])).double()
    return sme.ModuleProblem(module, x, y)


PROBLEMS = {"closed form": make_problem, "sampled": sampled_problem}


def measured(problem, **more):
    return sme.weak_error(problem, problem.initial(seed=0), **STUDY | more).table


def test_a_block_is_the_smallest_power_of_two_that_holds_the_paths():
    sizes = {1: 8, 2: 8, 8: 8, 9: 16, 16: 16, 17: 32, 512: 512, 513: 1024, 10**6: 1024}
    assert {paths: holding_block_size(paths) for paths in sizes} == sizes
    problem = make_problem()
    assert problem.block_size == fitting_block_size(problem.floats_per_path) == 1024
    assert {paths: problem.in_blocks_for(paths).block_size for paths in sizes} == sizes
    small = problem.in_blocks_for(16)
    assert small.in_blocks_for(16) is small and small.in_blocks_for(2000).block_size == 1024
    wide = sme.DropoutProblem(sme.TwoLayerNetwork(2, 100), problem.x, problem.y, keep_prob=0.8)
    assert wide.block_size == fitting_block_size(wide.floats_per_path) < 32
    assert wide.in_blocks_for(10**6).block_size == wide.in_blocks_for(64).block_size == 2 * wide.block_size
    assert wide.in_blocks_for(8).block_size == 8 < wide.block_size


class InBlocksOfFour(Quadratic):
    block_size = 4


def test_problems_of_ones_own_have_blocks_of_the_paths_or_of_their_own():
    for kind, run in ((Quadratic, 16), (InBlocksOfFour, 12)):
        start = torch.ones(1, dtype=torch.float64)
        table = sme.weak_error(kind(), start, **STUDY, paths=run - 3, orders=[1], control="none").table
        assert (table[PARTS] == run).all(axis=None)


@pytest.mark.parametrize("estimator", ["difference", "defects"])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_as_many_paths_run_as_are_asked_for(kind, estimator):
    for asked, run in ((16, 16), (20, 32)) if kind == "closed form" else ((16, 16),):
        control = "none" if estimator == "difference" else "auto"
        table = measured(PROBLEMS[kind](), paths=asked, orders=[1], estimator=estimator, control=control)
        assert (table[PARTS] == run).all(axis=None)
        assert np.isfinite(table[["error", "low", "high"]]).all(axis=None)


def test_these_paths_are_the_first_ones_of_the_iteration():
    problem, theta0, lr = make_problem(), make_problem().initial(seed=0), 0.2
    row = measured(problem, lrs=[lr], paths=16, control="none", orders=[1]).iloc[0]
    seed = int(np.random.SeedSequence([0, int(np.float64(lr).view(np.uint64))]).generate_state(1, np.uint64)[0])
    losses = problem.loss(sme.iterate(problem, theta0, lr, 2, paths=16, seed=seed)[-1])
    assert row.discrete == pytest.approx(losses.mean().item(), rel=1e-13)
    assert row.discrete_stderr == pytest.approx(losses.std().item() / 4, rel=1e-9)
    many = sme.iterate(problem, theta0, lr, 2, paths=2000, seed=seed)  # blocks of `iterate` are whole, as ever
    assert torch.equal(sme.iterate(problem, theta0, lr, 2, paths=16, seed=seed), many[:, :16])


def test_intervals_of_a_few_paths_have_the_freedom_of_what_is_fitted():
    """16 paths are 8 antithetic pairs, too few for coefficients of control variates; 64 paths have them."""
    assert (measured(make_problem(), paths=16, control="second").freedom == 8 - 1).all()
    assert 64 / 4 >= FITTED_ON > 16 / 4
    assert (measured(make_problem(), paths=64, control="second").freedom == 32 - 1 - 2 * 3).all()


@pytest.mark.parametrize("antithetic", [True, False])
def test_intervals_of_16_paths_hold_the_mean(antithetic):
    """Means of lognormal paths, many studies at once; the mean over a pair is close to the square of a normal."""
    normals = np.random.default_rng(0).standard_normal((16, 4000))
    if antithetic:
        normals[8:] = -normals[:8]
    for spread in (0.05, 0.3, 0.6):
        values = np.exp(spread * normals - spread**2 / 2)[..., None]
        found = MeanEstimate.of(PathStatistics.of(np.stack([values, values]), antithetic, 4))
        wrong = (np.abs(found.mean - 1) > found.half_width) & ~found.heavy_tailed
        assert wrong.mean() < 0.075  # 4,000 of them tell 5% to 0.7%; without lengthening it is 10% to 13% of pairs


def test_with_a_tolerance_blocks_hold_the_most_paths():
    table = measured(make_problem(), paths=16, rel_tol=0.5, max_paths=64, orders=[1])
    assert (table[PARTS] == 64).all(axis=None)


@pytest.mark.parametrize("estimator", ["difference", "defects"])
def test_a_study_that_is_interrupted_goes_on_with_blocks_of_its_size(estimator, tmp_path, monkeypatch):
    problem, path = make_problem(), tmp_path / "blocks.journal"
    whole = {paths: measured(problem, paths=paths, estimator=estimator) for paths in (16, 40)}
    put, calls = sme.Journal.put, []

    def interrupted(self, key, arrays):
        put(self, key, arrays)
        calls.append(key)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(sme.Journal, "put", interrupted)
    with sme.Journal(path, study={}) as journal, pytest.raises(KeyboardInterrupt):
        measured(problem, paths=16, estimator=estimator, journal=journal)
    for paths in (16, 40, 16):  # blocks of both sizes lie in one journal, and none serves the other study
        with sme.Journal(path, study={}) as journal:
            found = measured(problem, paths=paths, estimator=estimator, journal=journal, workers=2)
        assert found.equals(whole[paths])
    assert len(set(calls)) == len(calls)
    assert {key.partition("blocks of ")[2].split(",")[0] for key in calls} == {"16", "64"}


def test_extended_results_are_those_of_the_larger_study(tmp_path, capsys):
    config = {"data": {"name": "random", "samples": 4, "in_features": 2}, "network": {"width": 3}, "threads": 1}
    config |= {"lrs": [0.2], "horizon": 0.4, "orders": [1], "seed": 3}
    for paths in (16, 64):
        (tmp_path / f"{paths}.yaml").write_text(yaml.safe_dump(config | {"paths": paths}), encoding="utf-8")
        out = tmp_path / str(paths)
        assert main(["weak-error", str(tmp_path / f"{paths}.yaml"), "--out", str(out)]) == 0
        assert (pd.read_csv(out / "table.csv").paths == paths).all()
    assert main(["extend", str(tmp_path / "16"), "--paths", "64"]) == 0
    assert (tmp_path / "16" / "table.csv").read_bytes() == (tmp_path / "64" / "table.csv").read_bytes()


def test_costs_are_those_of_the_blocks_that_run():
    problem = make_problem()
    for effort, size in ((SamplingEffort(paths=16), 16), (SamplingEffort(paths=16, rel_tol=0.1), 1024)):
        assert effort.ensembles(problem, problem.initial(), 0.1, [0.2], [1]).size().block_size == size
    whole = Ensembles(problem, problem.initial(), 0.1, [0.2], [1], 16).size()
    small = Ensembles(problem, problem.initial(), 0.1, [0.2], [1], 16, most=16).size()
    assert (whole.work / small.work, whole.block_size) == (64, 1024)
    by_defects = [DefectRuns(problem, problem.initial(), 0.1, [0.2], [1, 2], 16, most).size() for most in (None, 16)]
    assert [size.block_size for size in by_defects] == [256, 16]
    assert by_defects[0].work == 16 * by_defects[1].work


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["difference", "defects"])
def test_processes_give_the_same_small_studies(estimator):
    alone, shared = (
        measured(sampled_problem(), paths=16, orders=[1], estimator=estimator, workers=workers) for workers in (None, 2)
    )
    assert shared.equals(alone)
