"""A scaling study that is interrupted goes on with the cells that are left, and ends with the same tables.

Errors are given, not measured, except for the fits of study schedule: it is not the numbers that are tried here.
"""

import pytest
import yaml
from given_errors import GivenErrors

from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.study.command_line import main

TINY = {"data": {"name": "random", "samples": 4, "in_features": 2}, "paths": 32, "threads": 1}
NETWORK = TINY | {"network": {"width": 2}}
STUDIES = {
    "kappa": NETWORK | {"lrs": [0.1], "kappas": [1, 2]},
    "schedule": NETWORK | {"lrs": [0.2, 0.1], "horizon": 0.4, "schedules": ["step", "cosine"], "orders": [1]},
    "width": TINY | {"lrs": [0.1], "horizon": 0.2, "widths": [2, 4], "orders": [1]},
    "horizon": NETWORK | {"lrs": [0.5], "times": [0.5, 1.0], "multiples": [0.1]},
}


@pytest.mark.parametrize(
    "study",
    [
        "kappa",
        "width",
        pytest.param("schedule", marks=pytest.mark.slow),
        pytest.param("horizon", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_study_ends_with_the_same_tables(study, tmp_path, monkeypatch, capsys):
    config, out, whole = tmp_path / "study.yaml", tmp_path / "out", tmp_path / "whole"
    config.write_text(yaml.safe_dump({"study": study} | STUDIES[study]), encoding="utf-8")
    calls, measure = [], SamplingEffort.weak_error if study == "schedule" else GivenErrors.weak_error
    last = 1 if study == "horizon" else 2

    def interrupted(self, *given, **more):
        calls.append(given)
        if len(calls) == last:
            raise KeyboardInterrupt
        return measure(self, *given, **more)

    monkeypatch.setattr(SamplingEffort, "weak_error", interrupted)
    assert main(["scaling", str(config), "--out", str(out)]) == 130
    assert "holds the finished part; continue by the same command with --resume." in capsys.readouterr().err
    assert main(["scaling", str(config), "--out", str(out), "--resume"]) == 0
    resumed = len(calls) - last
    calls[:] = [None] * last
    assert main(["scaling", str(config), "--out", str(whole)]) == 0
    assert resumed == len(calls) - last - (last - 1), "cells that were finished are not run again"
    tables = [path.name for path in whole.glob("*.csv")]
    assert len(tables) >= 2
    for name in tables:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    assert not list(tmp_path.glob("*.partial"))
