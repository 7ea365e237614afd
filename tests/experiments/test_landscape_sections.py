"""smesolve landscape, end to end on a tiny network."""

import json
import re

import pandas as pd
import pytest
import yaml

from smesolve.experiments.landscape_sections import alignment, base
from smesolve.study.command_line import main

TINY = {
    "data": {"name": "random", "samples": 8, "in_features": 2},
    "network": {"width": 4},
    "lr": 0.1,
    "steps": 20,
    "runs": 2,
    "threads": 1,
    "alignment": {"checkpoints": 3, "probes": 12, "eigenpairs": 2},
    "noises": {"batch_size": 3, "checkpoints": 2, "draws": 12, "probes": 12},
    "variance_principle": {"draws": 30, "directions": 4},
    "implicit_regularisation": {"lrs": [0.2, 0.1], "horizon": 0.4, "paths": 64, "max_paths": 64},
    "flatness": {"directions": 2, "probes": 12},
    "condensation": {"checkpoints": 3},
    "information_geometry": {"keep_probs": [0.9, 0.5], "draws": 8, "checkpoints": 2, "directions": 1, "probes": 12},
}

SECTIONS = {
    "alignment": ["alignment"],
    "noises": ["noises"],
    "variance_principle": ["variance_principle", "variance_principle_slopes"],
    "implicit_regularisation": [
        "implicit_regularisation", "implicit_regularisation_orders", "implicit_regularisation_exact",
    ],
    "flatness": ["flatness", "flatness_effects", "flatness_curves", "flatness_interpolation"],
    "condensation": ["condensation"],
    "information_geometry": ["information_geometry", "information_geometry_logistic"],
}  # fmt: skip


def run(tmp_path, **changes):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
    return main(["landscape", str(config), "--out", str(tmp_path / "results")])


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_writes_tables_figure_and_report(tmp_path, name):
    assert run(tmp_path, sections=[name]) == 0
    out = tmp_path / "results"
    assert {path.name for path in out.iterdir()} == {
        "report.md", "report.html", "manifest.json", f"{name}.png", f"{name}.pdf",
        *(f"{table}.csv" for table in SECTIONS[name]),
    }  # fmt: skip
    assert all(len(pd.read_csv(out / f"{table}.csv")) for table in SECTIONS[name])
    assert (out / f"{name}.png").stat().st_size > 10_000
    report = (out / "report.md").read_text(encoding="utf-8")
    assert re.search(rf"^!\[[^\]]*[Aa]gainst [^\]]*\.\]\({name}\.png\)$", report, flags=re.M), "a caption"
    assert report.startswith("# Noise and landscape") and "2-4-1" in report and "nan" not in report.split()
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["config"]["sections"] == [name] and manifest["config"]["runs"] == 2


def test_condensation_is_compared_with_the_first_training_named(tmp_path):
    for trainings, words in (
        (["drift only"], "- drift only is the only training"),
        (["dropout", "SME order 2"], "- SME order 2, initial scale 1: unresolved against dropout"),
    ):
        (tmp_path / trainings[0]).mkdir()
        options = {"checkpoints": 3, "scales": [1.0], "trainings": trainings}
        assert run(tmp_path / trainings[0], sections=["condensation"], condensation=options) == 0
        assert words in (tmp_path / trainings[0] / "results" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"sections": ["alignement"]}, ["sections", "'alignement'", "did you mean 'alignment'"]),
        ({"sections": []}, ["sections must hold at least one value"]),
        ({"sections": ["alignment"], "runs": 1}, ["runs must be an integer of at least 2, got 1"]),
        ({"sections": ["noises"], "noises": {"names": ["dropuot"]}}, ["noises.names[0] must be one of", "'dropuot'"]),
        ({"sections": ["alignment"], "alignment": {"probes": 3}}, ["alignment.probes", "at least 12, got 3"]),
        ({"sections": ["alignment"], "lr": 1000.0}, ["lr is too large", "diverged"]),
        ({"sections": ["alignment", "alignment"]}, ["sections holds a value twice"]),
        ({"noises": {"names": ["dropout", "dropout"]}}, ["noises.names holds a value twice"]),
        ({"flatness": {"noises": ["mini-batch", "mini-batch"]}}, ["flatness.noises holds a value twice"]),
        ({"condensation": {"scales": [1, 1.0]}}, ["condensation.scales holds a value twice"]),
        ({"variance_principle": {"factors": [2.0, 2.0]}}, ["variance_principle.factors holds a value twice"]),
        ({"implicit_regularisation": {"lrs": [0.1, 0.1]}}, ["implicit_regularisation.lrs holds a value twice"]),
        ({"implicit_regularisation": {"max_paths": 8}}, ["implicit_regularisation.max_paths", "at least 256, got 8"]),
        ({"information_geometry": {"keep_probs": [0.5, 0.5]}}, ["information_geometry.keep_probs holds a value twice"]),
    ],
)
def test_bad_configurations_are_refused_in_one_sentence(tmp_path, capsys, changes, fragments):
    assert run(tmp_path, **changes) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("smesolve: ")
    for fragment in fragments:
        assert fragment in error, f"{fragment!r} is not in {error!r}"
    assert not (tmp_path / "results").exists()


def test_an_interrupted_section_goes_on_with_the_cells_that_are_left(tmp_path, monkeypatch):
    """The training is read from the disk, and the tables are those of an uninterrupted run."""
    (tmp_path / "whole").mkdir()
    assert run(tmp_path / "whole", sections=["alignment"]) == 0
    measure, steps = alignment._at_step, []

    def interrupted(problem, points, step, *more):
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return measure(problem, points, step, *more)

    with monkeypatch.context() as patch:
        patch.setattr(alignment, "_at_step", interrupted)
        assert run(tmp_path, sections=["alignment"]) == 130
    assert steps == [0, 1] and not (tmp_path / "results").exists()
    monkeypatch.setattr(base, "train", lambda *_: pytest.fail("was trained again"))
    config = str(tmp_path / "study.yaml")
    assert main(["landscape", config, "--out", str(tmp_path / "results"), "--resume"]) == 0
    tables = [(folder / "results" / "alignment.csv").read_bytes() for folder in (tmp_path, tmp_path / "whole")]
    assert tables[0] == tables[1]


def test_a_dry_run_counts_the_cells_of_all_sections(tmp_path, capsys):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(TINY | {"sections": list(SECTIONS)}), encoding="utf-8")
    assert main(["landscape", str(config), "--dry-run"]) == 0
    # training and 3 steps, 5 noises, training and 2 runs, SMEs and 2 flows and a linear model, 6 trainings, 2 scales of
    # 4 trainings, a regression and 3 trainings
    assert "cells:   34" in capsys.readouterr().out
