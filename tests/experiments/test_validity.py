"""The command that looks for the largest learning rate, and the part of a comparison that says it."""

import numpy as np
import pandas as pd
import pytest
import yaml

from smesolve.comparison.defects import DefectSampler
from smesolve.comparison.outcomes import Status
from smesolve.comparison.validity_range import ValidityRange, _ranges
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
    table = _ranges(errors, tolerance=0.05, limit=1.0, horizon=1.0)
    row = table.iloc[0]
    assert (row.lr, row.lr_low, row.lr_high, row.limited_by) == (0.1, 0.1, 1.0, "measurement")
    found = ValidityRange(table, errors, 1.0, 0.05, 1.0)
    assert "up to lr = 0.1 at least, as errors at larger ones are not known" in found.conclusion()
    inside = _ranges(errors, tolerance=0.007, limit=1.0, horizon=1.0).iloc[0]  # where all is known
    assert inside.lr == pytest.approx(0.07) and inside.limited_by == "tolerance"
