"""smesolve reproduce, end to end on tiny networks: what the tables hold is what the trainings give."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from smesolve.experiments.reproduce.penalties import _verdict
from smesolve.experiments.reproduce.recovery import _recovered_from
from smesolve.experiments.shared.teacher import TeacherSettings, student_problem, teacher_data
from smesolve.landscape import (
    PENALISED_TRAININGS,
    PenalisedIteration,
    covering,
    first_penalty,
    input_weights,
    train,
    train_by_adam,
    train_by_flow,
)
from smesolve.study.command_line import main

FULL_SIZE = Path(__file__).parents[2] / "examples" / "full_size"

IMAGES = {"data": {"name": "digits", "samples": 20, "test": 0.5}, "network": {"width": 4, "activation": "relu"}}
TINY = {
    "penalties": IMAGES | {"keep_probs": [0.5, 0.8], "steps": 3, "runs": 2, "lr": 0.1},
    "barriers": IMAGES | {"keep_probs": [0.5, 0.9], "steps": 3, "runs": 2, "lr": 0.1},
    "orientations": {"width": 6, "steps": 4, "runs": 2, "samples": 5, "checkpoints": 3},
    "recovery": {"width": 6, "steps": 4, "runs": 2, "samples": [3, 5]},
}


def run(tmp_path, study, **changes):
    if study in ("penalties", "barriers"):
        pytest.importorskip("sklearn")
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump({"study": study, "threads": 1} | TINY[study] | changes), encoding="utf-8")
    return main(["reproduce", str(config), "--out", str(tmp_path / "results")])


def table(tmp_path, name):
    return pd.read_csv(tmp_path / "results" / f"{name}.csv")


@pytest.mark.parametrize("study", TINY)
def test_a_study_writes_its_report(tmp_path, study):
    assert run(tmp_path, study) == 0
    report = (tmp_path / "results" / "report.md").read_text(encoding="utf-8")
    assert "## Conclusion\n\n- " in report and "nan" not in report.split()
    assert (tmp_path / "results" / f"{study}.png").stat().st_size > 10_000


def digits_problem():
    from smesolve.experiments.reproduce.penalties import Penalties, PenaltiesSettings
    from smesolve.experiments.shared.settings import DataSettings, NetworkSettings

    settings = PenaltiesSettings(DataSettings(**IMAGES["data"]), NetworkSettings(**IMAGES["network"]), keep_probs=[0.5])
    return Penalties(settings).dropout_problem


def test_penalties_are_those_of_the_trainings(tmp_path):
    assert run(tmp_path, "penalties") == 0
    runs, pairs = table(tmp_path, "penalties"), table(tmp_path, "penalties_differences")
    problem = digits_problem()
    starts = torch.stack([problem.initial(seed=k) for k in range(2)])
    for keep_prob in (0.5, 0.8):
        one = problem.with_keep_prob(keep_prob)
        for training in PENALISED_TRAININGS:
            (ends,) = train(PenalisedIteration(one, 0.1, 0, training, 2), starts, [3])
            rows = runs[(runs.training == training) & np.isclose(runs.keep_prob, keep_prob)]
            assert np.allclose(rows.R_S, one.loss(ends), rtol=1e-12)
            assert np.allclose(rows.R_1, first_penalty(one, ends), rtol=1e-10)
            right = one.test.outputs(ends).argmax(-1) == one.test.y.argmax(-1)
            assert np.allclose(rows.test_accuracy, right.double().mean(-1))
    chosen = runs[np.isclose(runs.keep_prob, 0.8)].pivot(index="run", columns="training", values="test_accuracy")
    row = pairs[np.isclose(pairs.keep_prob, 0.8) & (pairs["first"] == "dropout") & (pairs.second == "R_S")].iloc[0]
    assert row.value == pytest.approx((chosen["dropout"] - chosen["R_S"]).mean())
    assert row.paper == pytest.approx(0.8982 - 0.8296)


def test_a_prediction_is_made_where_both_trainings_are(tmp_path):
    assert run(tmp_path, "penalties", trainings=["dropout", "R_S + R_1"]) == 0
    predicted = table(tmp_path, "penalties_prediction")
    assert set(predicted.quantity) == {"R_S", "R_1", "test_accuracy", "test_loss"} and len(predicted) == 8
    printed = predicted[(predicted.quantity == "R_S") & np.isclose(predicted.keep_prob, 0.8)].iloc[0]
    assert printed.paper == pytest.approx(2.237 / 2.234 - 1)
    assert printed.at_paper_lr == pytest.approx(printed.predicted * 0.005 / 0.1)  # which is the lr of figure 2
    inside = printed.at_paper_lr_low <= printed.paper <= printed.at_paper_lr_high
    assert (printed.agrees in ("yes", "unresolved")) == inside
    report = (tmp_path / "results" / "report.md").read_text(encoding="utf-8")
    assert "- R_S of dropout against R_S + R_1, keep_prob 0.8: " in report
    (tmp_path / "other").mkdir()
    assert run(tmp_path / "other", "penalties", trainings=["dropout", "R_S"]) == 0
    assert not (tmp_path / "other" / "results" / "penalties_prediction.csv").exists()


def test_a_prediction_can_be_left_out(tmp_path):
    assert run(tmp_path, "penalties", trainings=["dropout", "R_S + R_1"], predict=False) == 0
    assert not (tmp_path / "results" / "penalties_prediction.csv").exists()


def test_flows_stand_beside_the_descents_of_the_paper(tmp_path):
    trainings = ["flow of R_S", "flow of R_S + R_1"]
    assert run(tmp_path, "penalties", trainings=trainings, lr=0.005, steps=600) == 0
    runs, beside = table(tmp_path, "penalties"), table(tmp_path, "penalties_figures")
    problem = digits_problem().with_keep_prob(0.8)
    starts = torch.stack([problem.initial(seed=k) for k in range(2)])
    for training in trainings:
        ends = train_by_flow(problem, starts, training, 3.0)
        rows = runs[(runs.training == training) & np.isclose(runs.keep_prob, 0.8)]
        assert np.allclose(rows.R_S, problem.loss(ends), rtol=1e-12)
        assert np.allclose(rows.R_1, first_penalty(problem, ends), rtol=1e-10)
    printed = beside[np.isclose(beside.keep_prob, 0.8)].set_index(["training", "quantity"]).paper
    assert printed["flow of R_S + R_1", "R_S"] == pytest.approx(2.234e-4)
    assert printed["flow of R_S", "test_accuracy"] == pytest.approx(0.7897)
    report = (tmp_path / "results" / "report.md").read_text(encoding="utf-8")
    assert "- R_1 after the flow of R_S + R_1, keep_prob 0.5: " in report
    assert " times the 0.0002234 of the paper." in report


def test_without_masks_there_is_nothing_to_penalise(tmp_path):
    assert run(tmp_path, "penalties", keep_probs=[1.0]) == 0
    runs, predicted = table(tmp_path, "penalties"), table(tmp_path, "penalties_prediction")
    assert (runs.R_1.abs() < 1e-15).all()
    assert set(predicted[predicted.quantity == "R_S"].verdict) == {"unresolved"}
    assert set(predicted[predicted.quantity == "R_1"].verdict) <= {"not defined", "unresolved"}


@pytest.mark.parametrize(
    ("measured", "predicted", "verdict"),
    [
        ((-1, 1), (2, 3), "unresolved"),
        ((1, 2), (-1, 3), "prediction unresolved"),
        ((1, 2), (-3, -2), "other sign"),
        ((1, 2), (3, 4), "same sign"),
        ((1, 2), (1.5, 4), "agrees"),
        ((np.nan, np.nan), (1.5, 4), "not defined"),
    ],
)
def test_verdicts_on_predictions(measured, predicted, verdict):
    row = {"measured": sum(measured) / 2, "predicted": sum(predicted) / 2}
    row |= dict(zip(("measured_low", "measured_high"), measured, strict=True))
    row |= dict(zip(("predicted_low", "predicted_high"), predicted, strict=True))
    assert _verdict(row) == verdict


def test_barriers_are_those_of_the_line_between_both_solutions(tmp_path):
    assert run(tmp_path, "barriers") == 0
    lines, beside = table(tmp_path, "barriers_lines"), table(tmp_path, "barriers")
    problem = digits_problem().with_keep_prob(0.9)
    starts = torch.stack([problem.initial(seed=k) for k in range(2)])
    ends = [train(PenalisedIteration(problem, 0.1, 0, name, 2), starts, [3])[0] for name in ("R_S + R_1", "R_S + R_2")]
    rows = lines[np.isclose(lines.keep_prob, 0.9)]
    for alpha in (-0.5, 0.0, 1.0, 1.5):
        expected = problem.loss((1 - alpha) * ends[0] + alpha * ends[1])
        assert np.allclose(rows[np.isclose(rows.alpha, alpha)].loss, expected, rtol=1e-12)
    behind = beside[(beside.quantity == "behind") & np.isclose(beside.keep_prob, 0.9)].iloc[0]
    assert behind.value == pytest.approx(rows[np.isclose(rows.alpha, -0.5)].loss.mean()) and behind.paper == 0.0252


def test_the_teacher_of_one_input_is_the_target_of_the_paper():
    x, y = teacher_data(TeacherSettings(in_features=1, teacher=2), 7)
    assert torch.allclose(y, (torch.tanh(-x - 1 / 3) + torch.tanh(x - 1 / 3)) / 2, rtol=0, atol=1e-15)
    assert x.flatten().tolist() == pytest.approx(np.linspace(-2, 2, 7).tolist())
    x, y = teacher_data(TeacherSettings(in_features=3, teacher=4, activation="relu"), 5)
    expected = torch.relu(torch.cat([x, -x[:, :1]], dim=1) - 1 / 3).mean(1, keepdim=True)
    assert torch.allclose(y, expected, rtol=0, atol=1e-15) and x.shape == (5, 3)


def test_orientations_are_counted_along_training_by_adam(tmp_path):
    assert run(tmp_path, "orientations") == 0
    rows = table(tmp_path, "orientations")
    problem, starts = student_problem(TeacherSettings(width=6, runs=2), 5)
    (ends,) = train_by_adam(problem, starts, 1e-3, [4], "dropout", 0)
    weights, _ = input_weights(problem, ends)
    found = rows[(rows.training == "dropout") & (rows.step == 4)]
    assert found.effective_ratio.tolist() == [covering(part, lines=True).upper / 6 for part in weights]
    assert (found.effective_ratio == found.least_ratio).all()  # one input: exact


def test_recovery_is_the_error_on_new_inputs(tmp_path):
    assert run(tmp_path, "recovery") == 0
    rows = table(tmp_path, "recovery")
    settings = TeacherSettings(width=6, runs=2)
    problem, starts = student_problem(settings, 3)
    (ends,) = train_by_adam(problem, starts, 1e-3, [4], "R_S", 0)
    x, y = teacher_data(settings, 1001)
    error = (problem.on_data(x, y).outputs(ends) - y).square().mean((-2, -1)).sqrt() / y.std(correction=0)
    assert np.allclose(rows[(rows.samples == 3) & (rows.training == "R_S")].test_error, error, rtol=1e-12)


def test_a_target_is_recovered_from_where_all_larger_samples_are_below_the_threshold():
    highs = {3: 0.05, 4: 0.3, 6: 0.09, 9: 0.01}
    means = pd.DataFrame({"samples": list(highs), "test_error_high": list(highs.values()), "training": "dropout"})
    assert _recovered_from(means, "dropout", 0.1) == {"training": "dropout", "samples": "6"}
    assert _recovered_from(means, "dropout", 0.005)["samples"] == "more than tried"


@pytest.mark.parametrize(
    ("study", "changes", "fragment"),
    [
        (
            "penalties",
            {"data": {"name": "digits", "samples": 20, "test": None}},
            "data.test is missing; give the share",
        ),
        ("penalties", {"data": {"name": "random", "samples": 9, "in_features": 2, "test": 0.4}}, "needs classes"),
        ("penalties", {"keep_probs": [1.5]}, "keep_probs[0] must lie in (0, 1]"),
        ("penalties", {"trainings": ["R_1"]}, "trainings[0] must be one of 'R_S', 'R_S + R_1'"),
        ("penalties", {"predict": "often"}, "predict"),
        ("penalties", {"runs": 1}, "runs must be an integer of at least 2, got 1"),
        ("penalties", {"scale": 0.0}, "scale must be"),
        ("penalties", {"device": "abacus"}, "device"),
        ("barriers", {"keep_probs": []}, "keep_probs must hold at least one value"),
        ("orientations", {"teacher": 3}, "teacher=3 is more than 2 in_features = 2"),
        ("orientations", {"trainings": ["dropout", "dropout"]}, "trainings holds a value twice"),
        ("orientations", {"activation": "step"}, "activation must be one of"),
        ("recovery", {"samples": [1]}, "samples[0] must be an integer of at least 2, got 1"),
        ("recovery", {"recovered": -1.0}, "recovered must be"),
    ],
)
def test_bad_configurations_are_refused_in_one_sentence(tmp_path, capsys, study, changes, fragment):
    assert run(tmp_path, study, **changes) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("smesolve: ") and fragment in error, error


@pytest.mark.parametrize("name", sorted(path.stem for path in FULL_SIZE.glob("*.yaml")))
def test_configurations_of_full_size_are_understood(name, tmp_path, capsys):
    small = ["--width", "3"]
    if name in ("reproduce_penalties", "reproduce_barriers"):
        pytest.importorskip("sklearn")
        small = ["--data.name", "digits", "--data.samples", "20", "--network.width", "3", "--device", "cpu"]
    assert main(["reproduce", str(FULL_SIZE / f"{name}.yaml"), *small, "--dry-run"]) == 0
    assert "cells:" in capsys.readouterr().out
