"""Sweeps: cells that are studies of their own, shards, resuming, and the joined table."""

import json

import pandas as pd
import pytest
import yaml
from tiny_config import TINY, refused

import smesolve as sme
from smesolve.study import command_line
from smesolve.study.command_line import main

SWEEP = TINY | {"command": "compare", "sweep": {"keep_prob": [0.8, 0.5], "network.width": [2, 3]}}
SWEEP = {key: value for key, value in SWEEP.items() if key != "network"} | {"lrs": [0.2]}


def write(directory, **changes):
    path = directory / "sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP | changes), encoding="utf-8")
    return str(path)


def test_the_joined_table_is_that_of_the_cells(tmp_path, out, capsys):
    config = write(tmp_path)
    assert main(["sweep", config, "--out", str(out)]) == 0
    joined = pd.read_csv(out / "table.csv", dtype=str)
    assert list(joined.columns[:2]) == ["keep_prob", "network.width"]
    combinations = joined[["keep_prob", "network.width"]].drop_duplicates().to_numpy().tolist()
    assert combinations == [["0.8", "2"], ["0.8", "3"], ["0.5", "2"], ["0.5", "3"]]
    # A cell has the numbers, digit by digit, of the command with these values.
    alone = tmp_path / "alone"
    study = {key: value for key, value in SWEEP.items() if key not in ("command", "sweep")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    arguments = ["--keep_prob", "0.5", "--network.width", "2", "--out", str(alone)]
    assert main(["compare", str(tmp_path / "study.yaml"), *arguments]) == 0
    expected = pd.read_csv(alone / "table.csv", dtype=str)
    cell = joined[(joined.keep_prob == "0.5") & (joined["network.width"] == "2")]
    pd.testing.assert_frame_equal(cell[expected.columns].reset_index(drop=True), expected)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "4 cells" in report and "0003_keep_prob=0.5_network.width=2" in report
    assert "table.csv" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    alone_report = (alone / "report.md").read_text(encoding="utf-8")
    conclusion = alone_report.partition("## Conclusion\n\n")[2].partition("\n\n![")[0]
    assert conclusion.count("\n- ") >= 4 and conclusion in report and "![" not in report
    with pytest.raises(sme.SmesolveError, match="are those of sweep, not of compare or weak-error"):
        sme.load(out).weak_error()
    capsys.readouterr()
    refused(capsys, ["sweep", config, "--out", out], "--resume")
    other = write(tmp_path, seed=7)
    refused(capsys, ["sweep", other, "--out", out, "--resume"], "another sweep", "seed")


def test_shards_share_the_cells_and_the_last_one_joins(tmp_path, out, capsys):
    config = write(tmp_path)
    assert main(["sweep", config, "--out", str(out), "--shard", "2/2"]) == 0
    assert not (out / "table.csv").exists() and "the last one joins" in capsys.readouterr().out
    cells = sorted(path.name for path in (out / "cells").iterdir())
    assert [name[:4] for name in cells] == ["0002", "0004"]
    assert main(["sweep", config, "--out", str(out), "--shard", "1/2"]) == 0
    assert len(pd.read_csv(out / "table.csv")[["keep_prob", "network.width"]].drop_duplicates()) == 4


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, out, monkeypatch):
    config, run, ran = write(tmp_path), command_line._write_results, []

    def interrupted(request, argv):
        if len(ran) == 1:
            raise KeyboardInterrupt
        ran.append(request.out.name)
        run(request, argv)

    monkeypatch.setattr(command_line, "_write_results", interrupted)
    assert main(["sweep", config, "--out", str(out)]) == 130
    ran.clear()
    monkeypatch.setattr(command_line, "_write_results", lambda request, argv: (ran.append(0), run(request, argv)))
    assert main(["sweep", config, "--out", str(out), "--resume"]) == 0
    assert len(ran) == 3  # the first cell was finished


def test_a_dry_run_writes_nothing(tmp_path, out, capsys):
    assert main(["sweep", write(tmp_path), "--out", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("memory:") == 4 and not out.exists()


def test_a_swept_key_that_is_a_column_has_a_name_of_its_own(tmp_path, out):
    content = {key: value for key, value in SWEEP.items() if key != "paths"} | {"sweep": {"paths": [64, 128]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--out", str(out)]) == 0
    joined = pd.read_csv(out / "table.csv")
    assert set(joined["sweep.paths"]) == {64, 128} and "paths" in joined


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"command": "sweep"}, ["command", "compare"]),
        ({"command": None}, ["command"]),
        ({"sweep": {}}, ["sweep", "mapping"]),
        ({"sweep": {"keep_prob": 0.5}}, ["sweep.keep_prob", "list"]),
        ({"sweep": {"keep_prob": []}}, ["sweep.keep_prob", "list"]),
        ({"sweep": {"keep_prob": [0.5, 0.5]}}, ["sweep.keep_prob", "different"]),
        ({"sweep": {"seed": [0, 1]}, "seed": 3}, ["seed", "beside"]),
        ({"sweep": {"data.samples": [3, 4]}}, ["data.samples", "beside"]),
        ({"sweep": {"keep_probb": [0.5]}}, ["keep_probb", "keep_prob"]),
        ({"sweep": {"keep_prob": [0.5, 2.0]}}, ["keep_prob", "2"]),
        ({"sweep": {"seed": list(range(101)), "max_paths": list(range(2, 103))}}, ["10201", "cells"]),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_cell(changes, words, tmp_path, out, capsys):
    refused(capsys, ["sweep", write(tmp_path, **changes), "--out", out], *words)
    assert not out.exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3"])
def test_a_shard_is_written_i_of_n(shard, tmp_path, out, capsys):
    refused(capsys, ["sweep", write(tmp_path), "--out", out, "--shard", shard], "--shard", "1/4")


def test_a_directory_with_something_else_is_refused(tmp_path, out, capsys):
    out.mkdir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    refused(capsys, ["sweep", write(tmp_path), "--out", out], "not empty")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
