"""Networks of the user's own by the name of their function: what runs code, and what results depend on."""

import json
import sys

import pandas as pd
import pytest
import torch
from tiny_config import TINY, refused, write_config

import smesolve as sme
from smesolve.study.command_line import main

SOURCE = """
import torch
from torch import nn

import smesolve as sme


class Halves(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.hidden, self.drop, self.last = nn.Linear(2, width), nn.Dropout(0.25), nn.Linear(width, 1)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.hidden(x)) / 2))


def plain():
    return Halves(3)


def loaded(in_features, out_features):
    module = nn.Sequential(nn.Linear(in_features, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, out_features))
    nn.init.constant_(module[0].weight, 0.25)
    return module


def dropping(keep_prob):
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(1 - keep_prob), nn.Linear(3, 1))


def closed():
    features = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    return sme.FeatureNetwork(features, nn.Linear(3, 1))


def number():
    return 3


def failing():
    raise KeyError("weights")


ATTRIBUTE = 3
"""

SMALL = {"horizon": 0.2, "lrs": [0.2, 0.1], "paths": 8, "orders": [1], "observables": ["loss"]}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in the working directory, which is not among the places of imports."""
    folder = tmp_path / "mypackage"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder / "models.py"
    for name in [name for name in sys.modules if name.split(".")[0] == "mypackage"]:
        del sys.modules[name]


def configuration(directory, network=None, **changes):
    small = {**SMALL, "network": network, **changes}
    return write_config(directory, **{key: {} if value is None else value for key, value in small.items()})


def test_a_name_in_a_file_runs_nothing_unless_the_user_allows_it(package, tmp_path, capsys):
    package.write_text("import pathlib\n\npathlib.Path('ran').touch()\n" + SOURCE)
    for network in ("mypackage.models:plain", {"module": "mypackage.models:plain"}):
        config = configuration(tmp_path, network)
        for command in ("weak-error", "compare"):
            words = "network.module='mypackage.models:plain'", "files are data; give --allow-code"
            refused(capsys, [command, config, "--out", "results"], *words)
            refused(capsys, [command, config, "--dry-run"], *words)
            refused(capsys, [command, config, "--dry-run", "--network", "{seed: 1}"], *words)
            refused(capsys, [command, config, "--dry-run", "--network.seed", "1"], *words)
    refused(capsys, ["weak-error", configuration(tmp_path, "mypackage.models:plain", allow_code=True), "--out", "r"],
            "a file cannot allow itself to run code")  # fmt: skip
    assert not (tmp_path / "ran").exists()


def test_a_sweep_runs_nothing_unless_the_user_allows_it(package, tmp_path, capsys):
    package.write_text("import pathlib\n\npathlib.Path('ran').touch()\n" + SOURCE)
    base = {key: value for key, value in (TINY | SMALL).items() if key != "network"} | {"command": "weak-error"}
    for content in (
        {"network": "mypackage.models:plain", "sweep": {"seed": [0, 1]}},
        {"network": {"module": "mypackage.models:plain"}, "sweep": {"seed": [0, 1]}},
        {"network.module": "mypackage.models:plain", "sweep": {"seed": [0, 1]}},
        {"sweep": {"network.module": ["mypackage.models:plain", "mypackage.models:loaded"]}},
        {"sweep": {"network": ["mypackage.models:plain"]}},
    ):
        (tmp_path / "sweep.yaml").write_text(json.dumps(base | content))
        refused(capsys, ["sweep", "sweep.yaml", "--out", "swept"], "would run code, and files are data")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_sweep_compares_networks(package, tmp_path):
    base = {key: value for key, value in (TINY | SMALL).items() if key != "network"} | {"command": "weak-error"}
    content = base | {"sweep": {"network.module": ["mypackage.models:plain", "mypackage.models:loaded"]}}
    (tmp_path / "sweep.yaml").write_text(json.dumps(content))
    assert main(["sweep", "sweep.yaml", "--out", "swept", "--allow-code"]) == 0
    assert pd.read_csv(tmp_path / "swept" / "table.csv")["network.module"].nunique() == 2


def test_results_name_the_function_and_its_source(package, tmp_path, capsys):
    config = configuration(tmp_path, "mypackage.models:loaded")
    arguments = ["weak-error", config, "--out", "results", "--allow-code"]
    assert main(arguments) == 0
    manifest = json.loads((tmp_path / "results" / "manifest.json").read_text())
    assert manifest["config"]["network"]["module"] == "mypackage.models:loaded" and len(manifest["code"]) == 32
    report = (tmp_path / "results" / "report.md").read_text()
    assert "Network made by mypackage.models:loaded: 13 parameters" in report
    assert "Dropout where the network has it" in report
    assert main([*arguments, "--resume"]) == 0 and "were finished before" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    other = configuration(tmp_path / "other")
    assert main(["weak-error", other, "--network", "mypackage.models:loaded", "--out", "named"]) == 0
    tables = [pd.read_csv(tmp_path / name / "table.csv") for name in ("results", "named")]
    pd.testing.assert_frame_equal(*tables)
    package.write_text(SOURCE + "# another source\n")
    capsys.readouterr()
    refused(capsys, [*arguments, "--resume"], "results of another study", "code")


def test_the_start_is_what_the_function_makes(package, tmp_path):
    """Not what the layers' own initialisation would draw; `network.seed` seeds the function."""
    starts = []
    for seed in (0, 1):
        network = {"module": "mypackage.models:loaded", "seed": seed}
        arguments = ["weak-error", configuration(tmp_path, network), "--allow-code", "--out", f"seed {seed}"]
        from smesolve.study.command_line import _read

        experiment = _read(arguments).experiment
        start = experiment.problem.theta_from(experiment.problem.network)
        assert torch.equal(experiment.theta0, start) and (start[:6] == 0.25).all()
        starts.append(start)
    assert not torch.equal(*starts)


@pytest.mark.slow
def test_processes_find_the_network(package, tmp_path):
    config = configuration(tmp_path, "mypackage.models:plain")
    tables = []
    for workers in ("1", "2"):
        arguments = ["weak-error", config, "--allow-code", "--paths", "128", "--workers", workers]
        assert main([*arguments, "--out", f"results {workers}"]) == 0
        tables.append(pd.read_csv(tmp_path / f"results {workers}" / "table.csv"))
    pd.testing.assert_frame_equal(*tables)


def test_a_network_of_closed_forms_keeps_them_and_takes_keep_prob(package, tmp_path):
    from smesolve.study.command_line import _read

    def problem(name, **changes):
        config = configuration(tmp_path, f"mypackage.models:{name}", **changes)
        return _read(["weak-error", config, "--allow-code", "--out", "x"]).experiment.problem

    closed = problem("closed", keep_prob=0.5)
    assert isinstance(closed, sme.DropoutProblem) and closed.law.keep_prob == 0.5
    assert problem("dropping", keep_prob=0.5).network[2].p == 0.5


@pytest.mark.parametrize(
    ("network", "changes", "words"),
    [
        ("mypackage.models", {}, "must be package.module:function"),
        ("mypackage.models:", {}, "must be package.module:function"),
        ("../models.py:plain", {}, "must be package.module:function"),
        ("mypackage.nothing:plain", {}, "cannot be imported (ModuleNotFoundError"),
        ("mypackage.models:missing", {}, "mypackage.models has no function 'missing'"),
        ("mypackage.models:ATTRIBUTE", {}, "has no function 'ATTRIBUTE'"),
        ("mypackage.models:number", {}, "must return a torch.nn.Module, got 3"),
        ("mypackage.models:failing", {}, "KeyError"),
        ("mypackage.models:plain", {"keep_prob": 0.5}, "keep_prob=0.5 is not read by network.module"),
        ("mypackage.models:plain", {"training": {"dropout": "every"}}, "training.dropout=every is not read by"),
        ("mypackage.models:closed", {"training": {"batch_size": 2}}, "which has closed forms only for squared error"),
        ({"module": "mypackage.models:plain", "width": 4}, {}, "network.width is not read beside network.module"),
        ({"module": 3}, {}, "network.module must be a string"),
    ],
)
def test_what_makes_no_network_is_refused(network, changes, words, package, tmp_path, capsys):
    config = configuration(tmp_path, network if isinstance(network, dict) else {"module": network}, **changes)
    refused(capsys, ["weak-error", config, "--allow-code", "--out", "results"], words)


def test_other_studies_say_that_they_do_not_read_it(package, tmp_path, capsys):
    refused(capsys, ["landscape", "--network", "mypackage.models:plain", "--out", "x"], "network.module is read by")


@pytest.mark.slow
def test_more_paths_run_code_only_where_the_user_allows_it(package, tmp_path, capsys):
    config = configuration(tmp_path, "mypackage.models:plain")
    assert main(["weak-error", config, "--allow-code", "--out", "results"]) == 0
    capsys.readouterr()
    refused(capsys, ["extend", "results", "--paths", "128"], "would run code, and files are data")
    assert main(["extend", "results", "--paths", "128", "--allow-code"]) == 0
    assert json.loads((tmp_path / "results" / "manifest.json").read_text())["config"]["paths"] == 128
