"""Schedules of configurations: the factor that they name, the words of reports, resuming, and what is refused."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from tiny_config import refused, write_config

import smesolve as sme
from smesolve.comparison.defects import DefectSampler
from smesolve.experiments.scaling.acceleration import AccelerationSettings, Accelerator
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings, TrainingSettings
from smesolve.experiments.shared.weak_error_experiment import WeakErrorSettings
from smesolve.experiments.validity import Validity, ValiditySettings
from smesolve.experiments.weak_error import WeakError
from smesolve.study.command_line import main

RANDOM = {"data": DataSettings("random", samples=4, in_features=2), "network": NetworkSettings(width=3, seed=5)}
HALF = (1 + math.cos(math.pi / 2)) / 2
CHOICES = [
    ({"schedule": "cosine"}, {0.0: 1.0, 1.0: HALF, 2.0: 0.0}),
    ({"schedule": "cosine", "last": 0.2}, {1.0: 0.2 + 0.8 * HALF, 2.0: 0.2}),
    ({"schedule": "warm_up", "duration": 0.5}, {0.0: 0.0, 0.25: 0.5, 0.5: 1.0, 2.0: 1.0}),
    ({"schedule": "warm_up", "duration": 0.5, "first": 0.2}, {0.0: 0.2, 0.25: 0.6}),
    ({"schedule": "warm_up_cosine", "duration": 1.0, "last": 0.1}, {0.5: 0.5, 1.0: 1.0, 1.5: 0.55, 2.0: 0.1}),
    ({"schedule": "step", "time": 1.5, "factor": 0.1}, {0.0: 1.0, 1.4: 1.0, 1.5: 0.1, 2.0: 0.1}),
]


@pytest.mark.parametrize(("keys", "values"), CHOICES)
def test_the_factor_is_that_of_the_keys(keys, values):
    for training in (TrainingSettings(**keys), TrainingSettings(**keys, optimizer="adam", warm=1, lr=0.01)):
        problem = Validity(ValiditySettings(**RANDOM, training=training, horizon=2.0)).problem
        assert isinstance(problem, sme.ScheduledProblem) and not problem.autonomous
        for time, value in values.items():
            assert problem.lr_factor_at(time) == pytest.approx(value, abs=1e-12)


def test_a_warm_start_has_the_first_value_of_the_schedule():
    """Under a warm-up from 0 the parameters stay, and the second moments settle."""
    keys = {"optimizer": "adam", "warm": 20, "lr": 0.02}
    plain = WeakError(WeakErrorSettings(**RANDOM, training=TrainingSettings(**keys)))
    for schedule in ({"schedule": "warm_up", "duration": 0.5}, {"schedule": "cosine"}):
        study = WeakError(WeakErrorSettings(**RANDOM, training=TrainingSettings(**keys, **schedule), horizon=1.0))
        dim = study.trained.dim
        if schedule["schedule"] == "cosine":
            assert torch.equal(study.theta0, plain.theta0)
        else:
            assert torch.equal(study.theta0[:dim], study.trained.initial(5)) and study.theta0[dim:].any()
            assert "20 steps at lr 0.02 times 0, the first value of the schedule" in study.measured()


def test_reports_say_the_schedule():
    for keys, words in (
        (
            {"schedule": "cosine"},
            "under a cosine schedule: the learning rate falls from 1 to 0 times lr at t = 2 along",
        ),
        ({"schedule": "warm_up", "duration": 0.5}, "a warm-up schedule: the learning rate rises linearly from 0 to 1"),
        (
            {"schedule": "warm_up_cosine", "duration": 1.0, "last": 0.1, "momentum": 0.5, "lr": 0.1},
            "a warm-up and cosine schedule: the learning rate rises linearly from 0 to 1 times lr at t = 1 and "
            "falls to 0.1 times lr at t = 2 along half a cosine.",
        ),
        ({"schedule": "step", "time": 1.5, "factor": 0.1}, "jumps from 1 to 0.1 times lr at t = 1.5."),
    ):
        study = Validity(ValiditySettings(**RANDOM, training=TrainingSettings(**keys), horizon=2.0))
        assert words in study.measured()
    assert "schedule" not in Validity(ValiditySettings(**RANDOM, horizon=2.0)).measured()


REFUSED = [
    ({"schedule": "linear"}, r"training\.schedule must be one of 'constant', 'cosine', 'warm_up'"),
    ({"schedule": "warm_up"}, r"training\.schedule=warm_up needs training\.duration; give it"),
    ({"schedule": "step", "time": 1.0}, r"training\.schedule=step needs training\.factor"),
    (
        {"schedule": "cosine", "duration": 1.0},
        r"training\.duration is a number of the schedule warm_up and warm_up_cos",
    ),
    ({"factor": 0.1}, r"training\.factor is a number of the schedule step, got training\.schedule=constant; leave it"),
    ({"schedule": "cosine", "last": -0.1}, r"training\.last must be a number of at least 0"),
    ({"schedule": "warm_up", "duration": 0}, r"training\.duration must be a positive number"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_keys_that_do_not_belong_to_the_schedule_are_refused(keys, message):
    with pytest.raises(sme.SmesolveError, match=message):
        TrainingSettings(**keys)


def test_schedules_that_are_not_over_and_studies_without_schedules_are_refused():
    late = TrainingSettings(schedule="step", time=1.0, factor=0.1)
    with pytest.raises(sme.SmesolveError, match=r"training\.time=1 is not before the horizon 1; take a smaller one"):
        _ = Validity(ValiditySettings(**RANDOM, training=late, horizon=1.0)).problem
    momentum = TrainingSettings(schedule="cosine", momentum=0.9)
    with pytest.raises(sme.SmesolveError, match=r"training\.schedule=cosine is read by compare, weak-error and valid"):
        _ = Accelerator(AccelerationSettings(**RANDOM, training=momentum)).problem


def test_commands_measure_under_a_schedule_and_resume(tmp_path, capsys, monkeypatch):
    training = {"loss": "squared_error", "schedule": "step", "time": 0.2, "factor": 0.3}
    training |= {"optimizer": "sgd", "momentum": 0.5, "lr": 0.2, "label_noise": 0.1}
    config = write_config(tmp_path, network={"width": 3}, orders=[1], paths=16, max_paths=64, training=training)
    refused(capsys, ["weak-error", config, "--lrs", "[0.16]", "--horizon", "0.32", "--out", tmp_path / "no"], "0.2")
    out, whole = tmp_path / "out", tmp_path / "whole"
    measure, calls = DefectSampler.run, []

    def interrupted(self, block):
        calls.append(block)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, block)

    monkeypatch.setattr(DefectSampler, "run", interrupted)
    assert main(["weak-error", config, "--out", str(out)]) == 130
    monkeypatch.setattr(DefectSampler, "run", measure)
    assert main(["weak-error", config, "--out", str(out), "--resume"]) == 0
    assert main(["weak-error", config, "--out", str(whole)]) == 0
    assert (out / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    assert (pd.read_csv(out / "table.csv").estimator == "defects").all()
    assert json.loads((out / "manifest.json").read_text())["config"]["training"]["schedule"] == "step"
    assert "Trained under a step schedule" in (out / "report.md").read_text(encoding="utf-8")
    main(["weak-error", config, "--out", str(out), "--resume", "--training.factor", "0.2"])
    assert "training.factor" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_and_a_range_of_validity_meet_the_breaks(tmp_path, capsys):
    training = {"schedule": "warm_up_cosine", "duration": 0.25}
    path = Path(write_config(tmp_path, horizon=1.0, orders=[1], network={"width": 4}, max_paths=64, training=training))
    settings = yaml.safe_load(path.read_text())
    del settings["lrs"]
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["validity", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "warm-up and cosine" in capsys.readouterr().out
    assert main(["validity", str(path), "--out", str(tmp_path / "out")]) == 0
    errors = pd.read_csv(tmp_path / "out" / "errors.csv")
    assert ((1 / errors.lr).round() % 4 == 0).all()
