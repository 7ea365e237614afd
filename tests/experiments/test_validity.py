"""The command that looks for the largest learning rate, and the part of a comparison that says it."""

import functools

import numpy as np
import pandas as pd
import pytest
import yaml

import smesolve as sme
from smesolve.comparison.defects import DefectSampler
from smesolve.comparison.outcomes import Status
from smesolve.comparison.validity_range import ValidityRange, _Search
from smesolve.study.command_line import main

CONFIG = {
    "data": {"name": "random", "samples": 8, "in_features": 2},
    "network": {"width": 4, "seed": 1},
    "horizon": 2.0,
    "tolerance": 0.02,
    "rel_tol": 0.3,
    "max_paths": 1024,
    "orders": [1],
    "threads": 1,
}


def test_the_command_names_the_largest_learning_rate(tmp_path):
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    assert main(["validity", str(path), "--out", str(out)]) == 0
    (row,) = pd.read_csv(out / "table.csv").itertuples()
    assert 0 < row.lr_low < row.lr < row.lr_high
    errors = pd.read_csv(out / "errors.csv")
    inside = errors[errors.lr < row.lr_low]
    assert (inside.relative_high < 0.02 * (1 + 1e-9)).all()
    report = (out / "report.md").read_text(encoding="utf-8")
    assert f"Order 1 describes the training to 2% of the change of the loss up to lr = {row.lr:.2g} [" in report
    assert {"validity.png", "validity.pdf"} <= {path.name for path in out.iterdir()}


def test_an_interrupted_one_goes_on_with_the_blocks_that_are_left(tmp_path, monkeypatch):
    path, out, whole = tmp_path / "study.yaml", tmp_path / "out", tmp_path / "whole"
    path.write_text(yaml.safe_dump(CONFIG | {"orders": [1, 2], "max_paths": 128}), encoding="utf-8")
    measure, calls = DefectSampler.run, []

    def interrupted(self, block):
        calls.append((self.lr, block))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, block)

    monkeypatch.setattr(DefectSampler, "run", interrupted)
    assert main(["validity", str(path), "--out", str(out)]) == 130
    assert main(["validity", str(path), "--out", str(out), "--resume"]) == 0
    assert not set(calls[:2]) & set(calls[3:])
    monkeypatch.setattr(DefectSampler, "run", measure)
    assert main(["validity", str(path), "--out", str(whole)]) == 0
    assert (out / "errors.csv").read_bytes() == (whole / "errors.csv").read_bytes()


def test_a_dry_run_says_the_first_learning_rate(tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    assert main(["validity", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "at lr" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_a_comparison_says_the_range_of_its_own_network(tmp_path):
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    config = {key: CONFIG[key] for key in ("data", "network", "threads")} | {"horizon": 2.0, "lrs": [0.1], "paths": 256}
    path.write_text(yaml.safe_dump(config | {"observables": ["loss"]}), encoding="utf-8")
    assert main(["compare", str(path), "--out", str(out)]) == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "- Order 1 describes the training to 1% of the change of the loss up to" in report
    assert "## Range of validity" in report


def test_a_comparison_keeps_the_blocks_of_its_range(tmp_path, monkeypatch):
    """The range is measured at learning rates that the study has, too, whose blocks are others."""
    path, out, whole = tmp_path / "study.yaml", tmp_path / "out", tmp_path / "whole"
    config = {key: CONFIG[key] for key in ("data", "network", "threads")} | {"horizon": 1.0, "lrs": [0.5], "paths": 64}
    path.write_text(yaml.safe_dump(config | {"observables": ["loss"], "estimator": "defects"}), encoding="utf-8")
    measure, calls = DefectSampler.run, []

    def interrupted(self, block):
        calls.append((self.lr, tuple(self.saved), block))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, block)

    monkeypatch.setattr(DefectSampler, "run", interrupted)
    assert main(["compare", str(path), "--out", str(out)]) == 130
    assert main(["compare", str(path), "--out", str(out), "--resume"]) == 0
    assert len(calls) > 5 and len(set(calls)) == len(calls) - 1, "only the block that was interrupted is run again"
    monkeypatch.setattr(DefectSampler, "run", measure)
    assert main(["compare", str(path), "--out", str(whole)]) == 0
    assert (out / "report.md").read_bytes() == (whole / "report.md").read_bytes()


WORDS = {
    (False, False): "up to a lr that is not known",
    (False, True): "up to a lr below ",
    (True, False): " at least (",
    (True, True): "up to a lr between ",
}
"""What is said where the search ended early, by whether there is a bound from below, and from above."""


def linear_problem():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((4, 3))
    return sme.DropoutProblem(sme.LinearNetwork(3, 1), x, x[:, :1] + x[:, 1:2], keep_prob=0.8)


def test_the_work_of_a_range_is_bounded_and_what_is_not_resolved_is_a_bound(monkeypatch):
    problem = linear_problem()
    theta0 = problem.initial(seed=0)
    find = functools.partial(sme.validity_range, problem, theta0, 2.0, 0.001, orders=[1], paths=64, max_paths=64)
    whole = find()
    assert whole.table.limited_by.tolist() == ["tolerance"] and len(whole.errors) > 1
    spent, run = [], DefectSampler.run

    def counted(self, block):
        spent.append(self.cost)
        return run(self, block)

    monkeypatch.setattr(DefectSampler, "run", counted)
    with pytest.raises(sme.SmesolveError, match=r"max_gradients=1 is less than the .* that paths=64 take at the first"):
        find(max_gradients=1.0)
    find()
    first, all_of_them = spent[0], sum(spent)
    for bound in np.linspace(first, all_of_them, 5):
        spent.clear()
        found = find(max_gradients=float(bound))
        assert sum(spent) <= bound
        (row,) = found.table.itertuples()
        if bound == all_of_them:
            pd.testing.assert_frame_equal(found.table, whole.table)
        else:
            assert row.limited_by == "cost" and row.lr == row.lr_low < row.lr_high
            assert row.lr_low <= whole.table.lr[0] <= row.lr_high, "the bound holds what is found without one"
            assert WORDS[row.lr_low > 0, row.lr_high < found.stability_limit] in found.conclusion()


@pytest.mark.parametrize("high", [np.inf, np.nan])
def test_no_range_is_extrapolated_beyond_a_learning_rate_whose_error_is_not_known(high):
    """Errors of 0.1 lr reach the tolerance at lr = 0.5, but at 0.2 nothing is known."""
    lrs = np.array([0.05, 0.1, 0.2])
    errors = pd.DataFrame({"order": 1, "observable": "loss", "lr": lrs, "relative": 0.1 * lrs})
    errors = errors.assign(
        relative_low=0.09 * lrs,
        relative_high=[0.0055, 0.011, high],
        reason=["", "", str(Status.OUTSIDE_ASYMPTOTICS if high == np.inf else Status.DIVERGED)],
    )
    table = _Search(1.0, 1.0, 1).ranges(errors, 0.05)
    row = table.iloc[0]
    assert (row.lr, row.lr_low, row.lr_high, row.limited_by) == (0.1, 0.1, 1.0, "measurement")
    found = ValidityRange(table, errors, 1.0, 0.05, 1.0)
    assert "up to lr = 0.1 at least, as errors at larger ones are not known" in found.conclusion()
    inside = _Search(1.0, 1.0, 1).ranges(errors, 0.007).iloc[0]  # where all is known
    assert inside.lr == pytest.approx(0.07) and inside.limited_by == "tolerance"
