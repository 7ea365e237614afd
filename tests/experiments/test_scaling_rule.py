"""The study of scaling rules: its noises, what it refuses, and its table."""

import pandas as pd
import pytest
from tiny_config import refused, write_config

import smesolve as sme
from smesolve.experiments.scaling.rule import Rule, RuleSettings
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


def test_the_reach_begins_where_nothing_is_averaged():
    rows = pd.DataFrame({"kappa": [2, 4, 8], "relative": [0.04, 0.08, 0.3], "follows": [None, False, False]})
    rows = rows.assign(relative_low=rows.relative - 0.02, relative_high=rows.relative + 0.02)
    found = reach(rows, 0.05, below=1.0)
    assert found["kappa_low"] == 1.0 and 2 < found["kappa"] < 4 and 2 < found["kappa_high"] < 4
    beyond = reach(rows.assign(relative=0.2), 0.05, below=1.0)
    assert beyond["kappa"] != beyond["kappa"] and beyond["holds"] != beyond["holds"] and beyond["fails"] == 4
    wide = reach(rows.assign(relative_low=-0.3, relative_high=0.4), 0.05)
    assert wide["kappa_high"] == float("inf")
