"""The command line, end to end: what it writes, what it refuses, what it leaves behind."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_config import refused, write_config

import smesolve as sme
from smesolve.comparison.sampler import PairSampler, Sampler
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.problems import build_problem, described
from smesolve.experiments.shared.settings import NetworkSettings, TrainingSettings
from smesolve.study import command_line
from smesolve.study.command_line import main


def test_compare_writes_table_report_figures_and_manifest(config, out):
    assert main(["compare", config, "--out", str(out), "--seed", "5"]) == 0
    assert {path.name for path in out.iterdir()} == {
        "table.csv", "distributions.csv", "report.md", "report.html", "comparison.png", "comparison.pdf",
        "manifest.json", "blocks.journal",
    }  # fmt: skip
    table = pd.read_csv(out / "table.csv")
    assert set(table.order) == {1, 2} and set(table.lr) == {0.2, 0.1}
    assert set(table.observable) == {"loss", "modified_loss"}
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.pdf").read_bytes().startswith(b"%PDF")
    assert (out / "comparison.png").stat().st_size > 20_000

    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seed"] == 5 and manifest["config"]["seed"] == 5
    data = {"name": "random", "target": None, "samples": 4, "in_features": 2, "seed": None}
    assert manifest["config"]["data"] == data | {"test": None, "pooling": None}
    assert manifest["command"].startswith("smesolve compare")
    assert set(manifest["versions"]) >= {"python", "smesolve", "torch", "torchsde", "numpy", "scipy"}
    assert manifest["wall_time"] > 0 and manifest["threads"] >= 1

    report = (out / "report.md").read_text(encoding="utf-8")
    assert "No path diverged." in report and "95% interval" in report
    assert "Network 2-22-1, tanh" in report


def test_weak_error_writes_the_certificate(config, out):
    assert main(["weak-error", config, "--out", str(out), "--rel_tol", "0.5", "--max_paths", "2048"]) == 0
    fit = pd.read_csv(out / "fit.csv")
    assert list(fit.order) == [1, 1, 2, 2]
    assert fit.predicted_constant[:2].notna().all()
    assert (out / "weak_error.png").stat().st_size > 20_000 and (out / "weak_error.pdf").stat().st_size > 5_000
    report = (out / "report.md").read_text(encoding="utf-8")
    for heading in ("Orders", "Error budget", "not resolved", "Predicted and measured constants"):
        assert heading in report
    assert "No constant of order 2 is predicted: " in report and "this problem has 66 and 4.194e+06." in report


@pytest.mark.parametrize(("activation", "said"), [("relu", True), ("tanh", False)])
def test_the_report_says_that_relu_is_outside_the_theorem(activation, said, config, out):
    assert main(["weak-error", config, "--out", str(out), "--network.activation", activation]) == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    assert ("relu has kinks" in report) == said
    assert ("order 2 is predicted: the integral needs third derivatives, which a network with kinks" in report) == said
    assert ("relu has kinks" in (out / "report.html").read_text(encoding="utf-8")) == said


def test_same_seed_same_bytes_other_seed_other_table(config, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(["compare", config, "--out", str(tmp_path / name), "--seed", str(seed)]) == 0
    a, b, c = ((tmp_path / name / "table.csv").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_options_override_the_file_wherever_it_stands(config, out):
    assert main(["compare", "--lrs", "[0.2]", "--out", str(out), config, "--orders", "[2]"]) == 0
    table = pd.read_csv(out / "table.csv")
    assert set(table.lr) == {0.2} and set(table.order) == {2}


def test_print_config_shows_the_effective_configuration(config, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", config, "--paths", "7", "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["paths"] == 7 and shown["lrs"] == [0.2, 0.1] and shown["control"] == "auto"


@pytest.mark.parametrize("flag", ["--print_config", "--help"])
def test_the_study_is_read_from_the_file_behind_a_flag(flag, tmp_path, capsys):
    config = tmp_path / "study.yaml"
    config.write_text(
        "{study: kappa, keep_prob: 0.7, data: {name: random, samples: 4, in_features: 1}}", encoding="utf-8"
    )
    with pytest.raises(SystemExit) as stop:
        main(["scaling", flag, str(config), "--network.width", "2", "--kappas", "[1]"])
    assert stop.value.code == 0 and "kappas" in capsys.readouterr().out


def test_as_a_process(config, out):
    program = [sys.executable, "-c", "import sys; from smesolve.study.command_line import main; sys.exit(main())"]
    done = subprocess.run([*program, "compare", config, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "learning rates" in done.stderr, "progress is shown"
    assert (out / "table.csv").is_file()
    again = subprocess.run([*program, "compare", config, "--out", str(out)], capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1 and "--out" in again.stderr


def test_plotting_and_algebra_are_imported_late():
    code = (
        "import sys, smesolve.study.command_line; print(sorted({'matplotlib', 'sklearn', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits(tmp_path, out):
    pytest.importorskip("sklearn")
    config = write_config(tmp_path, data={"name": "digits", "samples": 20}, lrs=[0.1], horizon=0.1, paths=8)
    assert main(["compare", config, "--out", str(out), "--control", "first"]) == 0
    assert "Network 64-22-10" in (out / "report.md").read_text(encoding="utf-8")


def test_files_give_the_same_table_as_each_other(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 2)), rng.standard_normal((4, 1))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    pd.DataFrame({"x1": x[:, 0], "x2": x[:, 1], "y": y[:, 0]}).to_csv(tmp_path / "data.csv", index=False)
    tables = []
    for ending in ("npz", "csv"):
        config = write_config(tmp_path, data={"name": str(tmp_path / f"data.{ending}"), "samples": 3})
        assert main(["compare", config, "--out", str(tmp_path / ending)]) == 0
        tables.append(pd.read_csv(tmp_path / ending / "table.csv"))
    pd.testing.assert_frame_equal(*tables)


def test_class_labels_are_numbered_as_they_increase():
    training, network = TrainingSettings(loss="cross_entropy", dropout="every"), NetworkSettings()
    x, labels = np.ones((4, 2)), np.array([[3.0], [1.0], [7.0], [3.0]])
    problem = build_problem(x, labels, network, training, 0.8)
    assert problem.y.tolist() == [1, 0, 2, 1] and "2-32-3" in described(
        "labels", problem, problem, network, training, [0.8]
    )
    for bad in (labels + 0.5, np.ones((4, 1))):
        with pytest.raises(
            SmesolveError, match=r"whole numbers for training\.loss=cross_entropy, the labels of at least"
        ):
            build_problem(x, bad, network, training, 0.8)


def test_a_resumed_study_may_have_another_goal(config, out, capsys, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    goal = ["--rel_tol", "0.01", "--max_paths", "2048"]
    with monkeypatch.context() as late:
        late.setattr(command_line, "write_manifest", interrupted)
        assert main(["weak-error", config, "--out", str(out), *goal]) == 130
    assert "to end sooner with a larger rel_tol than 0.01" in capsys.readouterr().err
    for sampler in (Sampler, PairSampler):
        monkeypatch.setattr(sampler, "run", interrupted)  # every block is there
    assert main(["weak-error", config, "--out", str(out), "--resume", "--rel_tol", "0.9"]) == 0


@pytest.mark.parametrize(
    "options, fragments",
    [
        (["--keep_prob", "1.2"], ["keep_prob", "1.2", "(0, 1]"]),
        (["--lrs", "0.1"], ["lrs must be a list", "0.1"]),
        (["--lrs", "[5.0]", "--horizon", "10"], ["lr=5", "stability limit", "smaller"]),
        (["--lrs", "[0.3]"], ["lr=0.3", "does not divide", "take for example"]),
        (["--dt", "0.15"], ["dt=0.15", "does not divide", "take for example"]),
        (["--scheme", "milstein"], ["scheme", "milstein", "small_noise_rk4"]),
        (["--observables", "[los]"], ["observable", "los", "modified_loss"]),
        (["--orders", "[4]"], ["order", "4"]),
        (["--control", "third"], ["control", "third", "second"]),
        (["--horizon", "0"], ["horizon", "positive"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--threads", "0"], ["threads", "0"]),
        (["--workers", "0"], ["workers", "0"]),
        (["--device", "gpu"], ["device", "gpu", "cpu"]),
        (["--dtype", "float16"], ["dtype", "float16", "float32"]),
        (["--max_memory", "1000"], ["max_memory=1000", "control"]),
        (["--rel_tol", "2"], ["rel_tol", "2"]),
        (["--network.activation", "tanhh"], ["activation", "tanhh", "tanh"]),
        (["--network.width", "0"], ["network.width", "0"]),
        (["--data.samples", "0"], ["data.samples", "0"]),
        (["--data.name", "nothing.npz", "--data.in_features", "null"], ["nothing.npz", "no such file"]),
        (["--data.name", "digit"], ["in_features", "random"]),
        (["surplus.yaml"], ["surplus.yaml", "one too many"]),
    ],
)  # fmt: skip
def test_bad_options(config, out, capsys, options, fragments):
    refused(capsys, ["compare", config, "--out", out, *options], *fragments)
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(
    "changes, fragments",
    [
        ({"data": {"name": "digit"}}, ["digit", "did you mean 'digits'"]),
        ({"data": {"name": "random", "samples": 3}}, ["data.in_features", "missing"]),
    ],
)
def test_bad_files(tmp_path, out, capsys, changes, fragments):
    refused(capsys, ["compare", write_config(tmp_path, **changes), "--out", out], *fragments)
    assert not out.exists()


def test_scikit_learn_missing_names_the_extra(tmp_path, out, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    config = write_config(tmp_path, data={"name": "digits", "samples": 20})
    refused(capsys, ["compare", config, "--out", out], "smesolve[examples]")


def test_commands(out, capsys):
    refused(
        capsys,
        [],
        "a command is missing",
        "compare, convergence, derive, landscape, reproduce, scaling, validity, weak-error, extend, sweep",
    )
    refused(capsys, ["comare", "--out", out], "'comare'", "did you mean 'compare'")
    refused(capsys, ["--out", out], "a command is missing")
    refused(capsys, ["derive"], "--out is missing")
    refused(capsys, ["derive", "--order", "4", "--out", out], "order", "4")
    refused(capsys, ["derive", "--activation", "relu", "--out", out], "activation", "relu", "tanh")
    refused(capsys, ["derive", "--keep_prob", "1.5", "--out", out], "keep_prob", "1.5")


def test_a_defect_is_not_dressed_up_as_a_bad_configuration(config, out, monkeypatch):
    monkeypatch.setattr(
        "smesolve.experiments.shared.weak_error_experiment.weak_error", lambda *args, **settings: np.zeros(2).reshape(3)
    )
    with pytest.raises(ValueError, match="reshape"):
        main(["compare", config, "--out", str(out)])
    assert not out.exists()


def test_nothing_tested_is_said_on_stderr_and_in_the_report(config, out, capsys):
    options = ["--scheme", "euler", "--lrs", "[0.1]", "--dt", "0.1"]
    assert main(["compare", config, "--out", str(out), *options]) == 0
    assert capsys.readouterr().err.count("tests nothing") == 1
    assert "tests nothing" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_diverged_paths_are_in_report_and_figure(tmp_path, out, capsys):
    np.savez(tmp_path / "data.npz", x=np.array([[1.0]]), y=np.array([[30.0]]))
    config = write_config(
        tmp_path,
        data={"name": str(tmp_path / "data.npz")},
        network={"width": 33, "activation": "identity"},
        keep_prob=0.2,
        lrs=[0.05],
        horizon=1.0,
        control="none",
    )
    assert main(["compare", config, "--out", str(out)]) == 0
    assert "diverged at lr = 0.05" in capsys.readouterr().err
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "paths diverged: order 1" in report and "No error at the horizon has an interval: diverged" in report
    assert (out / "comparison.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"network": {"width": [4, 22]}, "training": {"masks": "per_sample"}},
            ["2-4-22-1", "on the last hidden layer", "one mask for each sample", "normals per noise product"],
        ),
        (
            {"network": {"width": [4, 3]}, "training": {"dropout": "every", "batch_size": 2}, "orders": [1]},
            ["after every hidden layer", "mini-batches of 2 without replacement", "only by sampling"],
        ),
    ],
)
def test_a_deep_network_is_compared(tmp_path, out, changes, words):
    assert main(["compare", write_config(tmp_path, **changes), "--out", str(out)]) == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    for word in words:
        assert word in report


def test_the_report_says_why_nothing_is_predicted_only_by_sampling(tmp_path, out):
    config = write_config(tmp_path, training={"dropout": "every"}, network={"width": [4, 3]}, orders=[1])
    assert main(["weak-error", config, "--out", str(out)]) == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "No constant of order 1 is predicted: mean gradient and covariance are known only by sampling." in report


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"training": {"loss": "hinge"}}, ["training.loss must be one of", "cross_entropy", "'hinge'"]),
        ({"training": {"dropout": "first"}}, ["training.dropout must be one of", "every"]),
        ({"network": {"width": []}}, ["network.width must hold at least one value"]),
        ({"network": {"activation": "tan"}}, ["network.activation must be one of", "relu"]),
        ({"training": {"batch_size": 5}}, ["batch_size must", "4 samples"]),
        ({"training": {"dropout": "every"}, "scheme": "euler"}, ["take scheme='svag' or 'sampled_euler'"]),
    ],
)
def test_a_training_that_cannot_be_is_refused(tmp_path, out, capsys, changes, fragments):
    refused(capsys, ["compare", write_config(tmp_path, **changes), "--out", out], *fragments)
    assert not out.exists()


def test_an_observable_that_jumps_is_said_on_the_command_line_and_in_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sme.OBSERVABLES, "stepped", lambda problem: lambda theta: theta[..., 0] + (theta[..., 1] > 0))
    config = write_config(tmp_path, observables=["stepped"], orders=[1])
    assert main(["weak-error", str(config), "--out", str(tmp_path / "out")]) == 0
    said, report = capsys.readouterr().err, (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "smesolve: warning: The observable 'stepped' jumps, at gt" in said and ".py:" not in said
    assert "The observable 'stepped' jumps, at gt" in report
    assert "No constant is predicted where derivatives leave something out: stepped jumps." in report
