"""An experiment of a user's own, in twenty lines, and what the command line makes of it."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from smesolve.experiments import EXPERIMENTS, Cell, Experiment, Section, experiment
from smesolve.experiments.shared.registry import commands, studies, summary
from smesolve.study.command_line import main
from smesolve.validation import check_integer, check_list

RUNS = []
"""Sizes whose cells have run."""


@pytest.fixture
def means():
    """The experiment, registered for one test."""
    RUNS.clear()

    # --- twenty lines from here ---
    @dataclass(frozen=True)
    class MeansSettings:
        """Means of normals.

        Args:
            sizes: how many numbers each mean has.
            seed: root seed.
        """

        sizes: list[int] = field(default_factory=lambda: [10, 100, 1000])
        seed: int = 0

        def __post_init__(self):
            check_list("sizes", self.sizes, check_integer)

    @experiment("means")
    class Means(Experiment[MeansSettings]):
        """Means of standard normals against how many there are."""

        Settings = MeansSettings
        title = "Means of normals"

        def cells(self):
            return [Cell(f"size {size}", partial(mean_of, size, self.settings.seed)) for size in self.settings.sizes]

        def summarise(self, results):
            table = pd.DataFrame(results)
            return [
                Section("Means", {"table": table}, {}, "Means.", f"- The last one is {table['mean'].iloc[-1]:.3g}.")
            ]

    # --- to here ---
    yield Means
    for key in (("means", ""), ("scaling", "means")):
        EXPERIMENTS.pop(key, None)


def mean_of(size, seed):
    RUNS.append(size)
    if size in INTERRUPTED:
        raise KeyboardInterrupt
    return {"size": size, "mean": np.random.default_rng([seed, size]).standard_normal(size).mean()}


INTERRUPTED = set()


def test_it_is_a_command_with_help_dry_run_report_and_manifest(means, tmp_path, capsys):
    assert "means" in commands() and not studies("means")
    assert summary("means") == "Means of standard normals against how many there are."
    with pytest.raises(SystemExit):
        main(["means", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "how many numbers each mean has." in said and "smesolve means" in said
    assert main(["means", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "dry run of means, nothing is written" in said and "cells:   3" in said and not RUNS
    config, out = tmp_path / "means.yaml", tmp_path / "out"
    config.write_text("sizes: [5, 50]\n", encoding="utf-8")
    assert main(["means", str(config), "--seed", "3", "--out", str(out)]) == 0
    table = pd.read_csv(out / "table.csv")
    assert table["size"].tolist() == [5, 50] and table["mean"][0] == mean_of(5, 3)["mean"]
    report = (out / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# Means of normals\n\n## Conclusion\n\n- The last one is ") and "`table.csv`" in report
    assert "Means of normals" in (out / "report.html").read_text(encoding="utf-8")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (
        manifest["study"] == "means" and manifest["config"] == {"sizes": [5, 50], "seed": 3} and manifest["seed"] == 3
    )
    assert {path.name for path in out.iterdir()} == {"table.csv", "report.md", "report.html", "manifest.json"}


def test_an_interrupted_one_goes_on_with_the_cells_that_are_left(means, tmp_path, capsys, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    monkeypatch.setattr(f"{__name__}.INTERRUPTED", {1000})
    assert main(["means", "--out", str(out)]) == 130
    assert "continue by the same command with --resume" in capsys.readouterr().err
    assert RUNS == [10, 100, 1000] and not out.exists()
    monkeypatch.setattr(f"{__name__}.INTERRUPTED", set())
    assert main(["means", "--out", str(out)]) == 2
    assert "holds an interrupted study" in capsys.readouterr().err
    assert main(["means", "--out", str(out), "--resume", "--seed", "1"]) == 2
    assert "holds another study: its config.seed is 0, but 1 is asked for" in capsys.readouterr().err
    RUNS.clear()
    assert main(["means", "--out", str(out), "--resume"]) == 0
    assert RUNS == [1000] and not out.with_name("out.partial").exists()
    assert main(["means", "--out", str(whole)]) == 0
    assert (out / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    assert main(["means", "--out", str(whole), "--resume"]) == 0
    assert "were finished before" in capsys.readouterr().out


def test_its_settings_are_refused_by_one_sentence(means, tmp_path, capsys):
    for options, fragments in (
        (["--sizes", "[0]"], ["sizes[0] must be a positive integer, got 0"]),
        (["--sizes", "3"], ["sizes must be a list of integers"]),
        (["--size", "3"], ["'size' is unknown", "did you mean 'sizes'"]),
        (["--study", "all"], ["'study' is unknown"]),
    ):
        assert main(["means", *options, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and all(fragment in error for fragment in fragments), error


def test_a_study_can_be_added_to_a_command_of_the_package(means, tmp_path, capsys):
    experiment("scaling", "means")(type("Means", (means,), {"__doc__": "Means as a study."}))
    assert "means" in studies("scaling") and summary("scaling", "means") == "Means as a study."
    assert main(["scaling", "--study", "means", "--sizes", "[4]", "--out", str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["study"] == "scaling" and manifest["config"] == {"study": "means", "sizes": [4], "seed": 0}


def test_the_one_of_the_documentation_runs_as_a_script(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    script = tmp_path / "means.py"
    script.write_text("\n\n".join(re.findall(r"^```python\n(.*?)^```", page, flags=re.S | re.M)), encoding="utf-8")
    command = [sys.executable, str(script), "means", "--sizes", "[5, 50]", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "out" / "table.csv")["size"].tolist() == [5, 50]
