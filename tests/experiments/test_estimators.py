"""Commands that measure weak errors by defects, by the difference of means, and by both."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

import smesolve as sme
from smesolve.comparison.defects import DefectSampler
from smesolve.comparison.leading_constants import constants_table
from smesolve.experiments.compare import Compare
from smesolve.experiments.shared import other_estimator
from smesolve.experiments.shared.other_estimator import OtherEstimator
from smesolve.experiments.shared.settings import build
from smesolve.experiments.shared.weak_error_experiment import WeakErrorSettings
from smesolve.experiments.weak_error import WeakError
from smesolve.study.command_line import main

SAMPLED = {
    "data": {"name": "random", "samples": 4, "in_features": 2},
    "network": {"width": [3, 2]},
    "training": {"dropout": "every", "masks": "per_sample"},
    "lrs": [0.2, 0.1],
    "horizon": 0.4,
    "observables": ["loss"],
    "paths": 8,
    "threads": 1,
}
CLOSED = {key: value for key, value in SAMPLED.items() if key != "training"} | {"network": {"width": 2}, "paths": 16}


def written(tmp_path, config):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


@pytest.fixture
def expensive(monkeypatch):
    """Both estimators beside each other are too much."""
    monkeypatch.setattr(other_estimator, "AFFORDABLE", 0.0)


@pytest.mark.parametrize("command", ["compare", "weak-error"])
def test_a_problem_without_closed_form_is_measured_by_defects(command, tmp_path, expensive):
    out = tmp_path / "out"
    assert main([command, written(tmp_path, SAMPLED), "--out", str(out)]) == 0
    assert set(pd.read_csv(out / "table.csv").estimator) == {"defects"}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "Estimator: defects" in report and "## Both estimators" in report
    assert "nan" not in report
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["config"]["estimator"] == "auto"


def test_a_closed_form_is_measured_by_the_difference_and_checked_by_defects(tmp_path):
    out = tmp_path / "out"
    config = CLOSED | {"lrs": [0.4, 0.2], "horizon": 2.0, "paths": 512}
    assert main(["weak-error", written(tmp_path, config), "--out", str(out)]) == 0
    assert set(pd.read_csv(out / "table.csv").estimator) == {"difference"}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "- At lr = 0.4 the difference of means and defects agree inside their joint intervals" in report


@pytest.mark.parametrize("name", ["scheme", "dt", "control"])
def test_what_defects_have_not_is_refused_with_them_and_asks_for_the_difference_without(name, tmp_path, capsys):
    value = {"scheme": "svag", "dt": 0.1, "control": "first"}[name]
    path = written(tmp_path, SAMPLED | {name: value})
    assert main(["weak-error", path, "--estimator", "defects", "--out", str(tmp_path / "out")]) == 2
    assert f"smesolve: {name}={value!r} is for estimator='difference'" in capsys.readouterr().err
    assert WeakError(build_settings(SAMPLED | {name: value})).estimator == "difference"
    assert WeakError(build_settings(SAMPLED)).estimator == "defects"
    assert WeakError(build_settings(CLOSED | {"estimator": "defects"})).estimator == "defects"


def build_settings(config):
    settings = WeakErrorSettings()
    nested = {"data": settings.data, "network": settings.network, "training": settings.training}
    values = {**vars(settings)} | {name: vars(part) | config.get(name, {}) for name, part in nested.items()}
    return build(WeakErrorSettings, values | {key: value for key, value in config.items() if key not in nested})


def test_keep_is_refused_with_defects():
    problem = Compare(build_settings(SAMPLED)).problem
    with pytest.raises(sme.SmesolveError, match="keep=4 is for estimator='difference'"):
        sme.weak_error(problem, problem.initial(), [0.1], 0.2, keep=4, estimator="defects")


def test_a_dry_run_counts_the_gradients_of_defects(tmp_path, capsys, expensive):
    assert main(["weak-error", written(tmp_path, SAMPLED), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "defects" in shown and "estimator" in shown
    experiment = WeakError(build_settings(SAMPLED))
    work = experiment.cells()[0].cost
    blocks = 1  # of each learning rate
    problem = experiment.problem.in_blocks_for(SAMPLED["paths"])
    sampler = DefectSampler(problem, experiment.theta0, 0.1, [4], {}, [1, 2], False)
    assert work == pytest.approx(blocks * sampler.cost * (1 + 2 / 4))


def test_an_interrupted_study_by_defects_goes_on(tmp_path, monkeypatch, expensive):
    path, out, whole = written(tmp_path, SAMPLED), tmp_path / "out", tmp_path / "whole"
    measure, calls = DefectSampler.run, []

    def interrupted(self, block):
        calls.append(self.lr)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, block)

    monkeypatch.setattr(DefectSampler, "run", interrupted)
    assert main(["weak-error", path, "--out", str(out)]) == 130
    assert main(["weak-error", path, "--out", str(out), "--resume"]) == 0
    assert calls[1:].count(0.2) == 0, "the block that was finished is not run again"
    assert main(["weak-error", path, "--out", str(whole)]) == 0
    assert (out / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()


def test_the_other_estimator_takes_the_workers_of_the_study(monkeypatch):
    asked = []

    def measured(*given, workers, **options):
        asked.append(workers)
        return sme.weak_error(*given, **options)

    monkeypatch.setattr(other_estimator, "weak_error", measured)
    for workers in (1, 2):
        cells = WeakError(build_settings(CLOSED | {"workers": workers})).cells()
        next(cell for cell in cells if cell.key == other_estimator.CELL).run()
    assert asked == [1, 2]


def test_estimates_that_differ_by_more_than_their_intervals_are_said_to():
    experiment = WeakError(build_settings(CLOSED))
    study = experiment.result([experiment.cells()[0].run()])
    other = OtherEstimator(experiment.design, "difference", 16, None)
    rows = study.at_horizon().loc[lambda t: t.lr == 0.2, ["order", "observable", "error", "low", "high", "reason"]]
    rows = rows.assign(paths=16)
    assert "DISAGREE" not in other.conclusion(study, rows)
    far = 10 * np.abs(rows[["low", "high"]].to_numpy()).max()
    moved = rows.assign(error=rows.error + far, low=rows.low + far, high=rows.high + far)
    assert "DISAGREE beyond their joint intervals: order 1, loss, order 2, loss" in other.conclusion(study, moved)


def test_constants_are_predicted_where_they_are_read_and_counted_as_work(tmp_path, monkeypatch):
    """A comparison at two learning rates shows none, and no verdict needs them; a certificate shows them."""
    asked = []
    monkeypatch.setattr(
        "smesolve.comparison.weak_error.leading_constants", lambda *_: asked.append(1) or constants_table()
    )
    keys = [cell.key for cell in Compare(build_settings(CLOSED)).cells()]
    assert len(CLOSED["lrs"]) == 2 and "predicted constants" not in keys
    assert "predicted constants" in [cell.key for cell in WeakError(build_settings(CLOSED)).cells()]
    three = CLOSED | {"lrs": [*CLOSED["lrs"], CLOSED["lrs"][0] / 4]}
    assert "predicted constants" in [cell.key for cell in Compare(build_settings(three)).cells()]
    assert main(["compare", written(tmp_path, CLOSED), "--out", str(tmp_path / "compared")]) == 0 and not asked
    assert main(["weak-error", written(tmp_path, CLOSED), "--out", str(tmp_path / "certified")]) == 0
    assert asked == [1], "once, in the cell, and not again for the report"
