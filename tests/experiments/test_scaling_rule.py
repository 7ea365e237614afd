"""The study of scaling rules: its noises, what it refuses, and its table."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny_config import refused, write_config

import smesolve as sme
from smesolve.experiments.scaling.rule import Rule, RuleSettings, _combined
from smesolve.experiments.shared.reach import reach
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings, TrainingSettings
from smesolve.study.command_line import main

RANDOM = {"data": DataSettings("random", samples=4, in_features=2), "network": NetworkSettings(width=3, seed=5)}


def test_each_noise_is_measured_by_itself_and_together():
    settings = RuleSettings(**RANDOM, keep_probs=[0.8, 0.5], training=TrainingSettings(momentum=0.5, batch_size=2))
    sources = Rule(settings).sources()
    names = [("masks and batches", 0.8), ("masks", 0.8), ("masks and batches", 0.5), ("masks", 0.5), ("batches", 1.0)]
    assert [(source.noise, source.keep_prob) for source in sources] == names
    both, masks, *_, batches = (source.trained.trained for source in sources)
    assert isinstance(both, sme.ModuleProblem) and isinstance(masks, sme.DropoutProblem)
    assert both.batch_size == batches.batch_size == 2 and batches.has_closed_form
    only = RuleSettings(**RANDOM, keep_probs=[1.0], training=TrainingSettings(batch_size=2))
    assert [source.noise for source in Rule(only).sources()] == ["batches"]


def test_a_study_without_noise_or_with_steps_that_do_not_divide_is_refused(tmp_path, capsys):
    with pytest.raises(sme.SmesolveError, match="there is no noise to average"):
        Rule(RuleSettings(**RANDOM, keep_probs=[1.0])).cells()
    with pytest.raises(sme.SmesolveError, match=r"training\.shuffle has no noise"):
        RuleSettings(**RANDOM, training=TrainingSettings(batch_size=2, shuffle=True))
    with pytest.raises(sme.SmesolveError, match="kappas"):
        RuleSettings(**RANDOM, lrs=[0.1], horizon=0.8, kappas=[3])
    config = write_config(tmp_path, study="rule", training={"optimizer": "adam"}, horizon=0.4, kappas=[2])
    refused(capsys, ["scaling", config, "--out", tmp_path / "out"], "training.warm must be at least 1")


def test_one_table_holds_noise_scales_and_where_the_rule_fails(tmp_path):
    training = {"momentum": 0.5, "batch_size": 2}
    config = write_config(tmp_path, study="rule", training=training, horizon=0.4, kappas=[2], network={"width": 3})
    out = tmp_path / "out"
    assert main(["scaling", config, "--paths", "16", "--draws", "64", "--out", str(out)]) == 0
    table = pd.read_csv(out / "reach.csv")
    assert list(table.noise) == ["masks and batches"] * 2 + ["masks"] * 2 + ["batches"] * 2
    assert (table.noise_scale > 0).all() and (table.noise_scale_low <= table.noise_scale).all()
    report = (out / "report.md").read_text()
    assert (
        "Derived: for any noise, the equation of order 1 stays the same with lr ~ kappa^2, 1 - momentum ~ kappa"
        in report
    )


@pytest.mark.parametrize("relative", [-0.8, 0.05, 1.5])
def test_intervals_of_relative_changes_hold_them(relative):
    """The loss falls from 3 to 1 with one draw per step; both means have an error, also that of the denominator."""
    noise, replicates, stderr = np.random.default_rng(0), 20_000, np.array([0.05, 0.05])
    one, kappa = noise.normal([1.0, 1.0 + 2.0 * relative], stderr, (replicates, 2)).T
    rows = [
        {"noise": f"{k}", "keep_prob": 0.8, "lr": 0.1, "scaled_lr": 0.1, "mean": mean, "stderr": error}
        | {"rule": rule, "kappa": number, "change": mean - 3.0}
        for rule, number, means, error in (("", 1, one, stderr[0]), ("square root", 4, kappa, stderr[1]))
        for k, mean in enumerate(means)
    ]
    scale = {"noise": "0", "keep_prob": 0.8, "noise_scale": 1.0, "noise_scale_low": 1.0, "noise_scale_high": 1.0}
    table = _combined([], [scale, *rows], tolerance=0.05, paths=10**6).table
    held = ((table.relative_low <= relative) & (relative <= table.relative_high)).mean()
    assert abs(held - 0.95) < 0.006  # four standard errors of the share
    few = _combined([], [scale, *rows[:1], *rows[replicates : replicates + 1]], tolerance=0.05, paths=3).table
    half = (table.relative_high - table.relative_low)[0]
    assert (few.relative_high - few.relative_low)[0] == pytest.approx(
        half * stats.t.ppf(0.975, 2) / stats.t.ppf(0.975, 10**6 - 1)
    )


def test_the_reach_begins_where_nothing_is_averaged():
    rows = pd.DataFrame({"kappa": [2, 4, 8], "relative": [0.04, 0.08, 0.3], "follows": [None, False, False]})
    rows = rows.assign(relative_low=rows.relative - 0.02, relative_high=rows.relative + 0.02)
    found = reach(rows, 0.05, below=1.0)
    assert found["kappa_low"] == 1.0 and 2 < found["kappa"] < 4 and 2 < found["kappa_high"] < 4
    beyond = reach(rows.assign(relative=0.2), 0.05, below=1.0)
    assert beyond["kappa"] != beyond["kappa"] and beyond["holds"] != beyond["holds"] and beyond["fails"] == 4
    wide = reach(rows.assign(relative_low=-0.3, relative_high=0.4), 0.05)
    assert wide["kappa_high"] == float("inf")
