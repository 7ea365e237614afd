"""Results on disk come back as they were: settings, tables to the last digit, figures, and the study itself."""

import json

import pandas as pd
import pytest
import yaml
from small_study import STUDY as SMALLEST

import smesolve as sme
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.settings import DataSettings
from smesolve.study.command_line import main

STUDY = SMALLEST | {"paths": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("saved")
    (place / "study.yaml").write_text(yaml.safe_dump(STUDY))
    assert main(["weak-error", str(place / "study.yaml"), "--out", str(place / "out")]) in (None, 0)
    return place / "out"


def test_settings_tables_and_figures_are_those_of_the_folder(folder):
    study = sme.load(folder)
    assert study.command == "weak-error" and study.settings["lrs"] == STUDY["lrs"]
    assert set(study.tables) == {"table", "fit"} and study.table is study.tables["table"]
    assert all(path.is_file() for path in (*study.figures.values(), study.report))
    assert set(study.figures) == {"weak_error.png", "weak_error.pdf"}
    assert study.versions["smesolve"] == sme.__version__
    first, *rest = repr(study).splitlines()
    assert first.startswith("SavedStudy of weak-error in ") and "tables fit, table" in first
    assert rest and "\n".join(rest) == study.summary() and "## " not in study.summary()
    assert study._repr_html_().count("<p>") == 1 + len(rest)


def test_the_study_is_the_one_that_was_measured(folder):
    saved = sme.load(str(folder)).weak_error()
    x, y = load_data(DataSettings(**STUDY["data"]))
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, STUDY["network"]["width"]), x, y, keep_prob=0.8)
    names = ("lrs", "horizon", "orders", "observables", "control", "paths")
    study = sme.weak_error(problem, problem.initial(0), **{name: STUDY[name] for name in names})
    pd.testing.assert_frame_equal(saved.table, study.table, check_dtype=False, check_exact=True)
    assert saved.horizon == study.horizon
    pd.testing.assert_frame_equal(saved.fit(), study.fit())
    assert saved.plot().axes and "SME of order 1" in saved.summary()


def test_a_changed_table_is_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    sme.load(copy)
    (copy / "table.csv").write_text((copy / "table.csv").read_text().replace("0.2", "0.3"))
    with pytest.raises(sme.SmesolveError, match=r"'table\.csv' in .* is not there, or not as smesolve wrote it"):
        sme.load(copy)
    (copy / "table.csv").unlink()
    with pytest.raises(sme.SmesolveError, match=r"'table\.csv' in .* is not there"):
        sme.load(copy)


def test_results_of_another_command_have_no_weak_errors(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_text())
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"study": "derive"}))
    with pytest.raises(sme.SmesolveError, match="are those of derive"):
        sme.load(tmp_path).weak_error()


@pytest.mark.parametrize("value", [3, None, "", "nowhere", "a\0b", ["results"]])
def test_what_holds_no_results_is_refused(value):
    with pytest.raises(sme.SmesolveError, match="directory"):
        sme.load(value)
