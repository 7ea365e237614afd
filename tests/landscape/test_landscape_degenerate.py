"""Landscape studies of data that carry little or nothing: the right limit, or one sentence."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator

import smesolve as sme
from smesolve.experiments import exact_regularisation_orders
from smesolve.experiments.landscape import SECTIONS, LandscapeSettings
from smesolve.experiments.landscape_sections.alignment import AlignmentSettings
from smesolve.experiments.landscape_sections.condensation import CondensationSettings
from smesolve.experiments.landscape_sections.flatness import FlatnessSettings
from smesolve.experiments.landscape_sections.implicit_regularisation import (
    ImplicitRegularisationSettings,
    linear_problem,
)
from smesolve.experiments.landscape_sections.information_geometry import InformationGeometrySettings
from smesolve.experiments.landscape_sections.noises import NoisesSettings
from smesolve.experiments.shared.cells import run_cells
from smesolve.landscape import ABLATIONS, alignment, factorial_effects
from smesolve.landscape.flatness import logarithms

CONFIG = LandscapeSettings(
    steps=4,
    runs=2,
    lr=0.05,
    alignment=AlignmentSettings(checkpoints=2, probes=12, eigenpairs=2),
    noises=NoisesSettings(checkpoints=2, draws=16, probes=12, batch_size=1),
    flatness=FlatnessSettings(noises=["mini-batch"], directions=2, probes=12),
    condensation=CondensationSettings(checkpoints=2, scales=[1.0]),
    implicit_regularisation=ImplicitRegularisationSettings(lrs=[0.1, 0.05], horizon=0.1, paths=64, max_paths=64),
    information_geometry=InformationGeometrySettings(keep_probs=[0.8], draws=4, checkpoints=2, directions=2, probes=12),
)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 2, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(6, 1, generator=GENERATOR, dtype=torch.float64)

DATA = {
    "zero x": (0 * X, Y, 3, 0.8),
    "zero y": (X, 0 * Y, 3, 0.8),
    "zero x and y": (0 * X, 0 * Y, 3, 0.8),
    "one sample": (X[:1], Y[:1], 3, 0.8),
    "equal samples": (X[:1].expand(6, 2), Y[:1].expand(6, 1), 3, 0.8),
    "equal targets": (X, torch.ones(6, 2, dtype=torch.float64), 3, 0.8),
    "no dropout": (X, Y, 3, 1.0),
    "one neuron": (X, Y, 1, 0.8),
    "one of everything": (X[:1, :1], Y[:1], 1, 0.8),
}


QUICK = ("zero x and y", "one of everything")
"""Cases in which the section implicit_regularisation, the longest, is tested by default."""

CASES = [
    pytest.param(section, name, marks=pytest.mark.slow)
    if section == "implicit_regularisation" and name not in QUICK
    else (section, name)
    for section in SECTIONS
    for name in DATA
]


def summary(section, problem, config=CONFIG):
    """What the section says of a problem."""
    made = SECTIONS[section](problem, config, None)
    return made.summarise(run_cells(made.cells()))


@pytest.mark.parametrize(("section", "name"), CASES)
def test_a_section_ends_well_or_says_why_not(section, name):
    x, y, width, keep_prob = DATA[name]
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(x.shape[1], width, y.shape[1]), x, y, keep_prob=keep_prob)
    try:
        found = summary(section, problem)
    except ValueError as error:
        assert isinstance(error, sme.SmesolveError), error
    else:
        assert found.conclusion and all(len(table) for table in found.tables.values())
        assert "nan" not in found.conclusion
        if section in ("alignment", "noises") and "x" in name:
            assert (found.tables[section].verdict == "unresolved").all()


def test_a_constant_loss_has_no_flatness_and_nothing_is_trained(monkeypatch):
    monkeypatch.setattr("smesolve.experiments.landscape_sections.flatness.train", lambda *_: pytest.fail("was trained"))
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), 0 * X, Y, keep_prob=0.8)
    with pytest.raises(ValueError, match="data must give the loss curvature, got a Hessian of 0"):
        summary("flatness", problem)


@pytest.mark.parametrize("name", ["zero x", "one sample", "equal samples"])
def test_a_linear_model_of_data_that_do_not_vary_has_no_errors(name):
    x, y, width, keep_prob = DATA[name]
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(x.shape[1], width), x, y, keep_prob=keep_prob)
    linear = linear_problem(problem)
    exact = exact_regularisation_orders(linear, linear.initial(0), [0.1, 0.05], 0.1, ["theta[0]", "loss"])
    assert (exact.error == 0).all() and exact.slope.isna().all()


def test_isotropic_noise_has_no_score():
    """The share of S beside its mean eigenvalue is rounding alone."""
    H, S = np.diag(np.arange(1.0, 8.0)), 0.3 * np.eye(7)
    row = alignment(aslinearoperator(H), {"S": aslinearoperator(S)}, 7).iloc[0]
    assert np.isnan(row.score) and row.verdict == "unresolved" and row.ratio == pytest.approx(1)


def test_a_penalty_of_zero_has_no_relative_error():
    from smesolve.landscape import penalty_comparison

    table = penalty_comparison(0 * X, X[:2], {0.8: sme.BernoulliMasks(0.8)}, draws=4)
    assert table.penalty[0] == 0 and np.isnan(table.relative_error[0])


def test_solutions_of_negative_trace_leave_the_other_measures_standing():
    """Far from a minimum the trace of the Hessian is negative at some points, and has no logarithm there."""
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), x, 30 * torch.sin(4 * x[:, :1]), keep_prob=0.8)
    found = summary("flatness", problem, dataclasses.replace(CONFIG, steps=1, lr=1e-4, runs=4))
    assert found.tables["flatness"].trace.min() < 0
    effects = found.tables["flatness_effects"].set_index("measure")
    assert effects.loc["trace", "change"].isna().all() and (effects.loc["trace", "verdict"] == "not defined").all()
    assert effects.loc["top_eigenvalue", "change"].notna().all()
    assert "drift on the trace: not defined, because it is not positive" in found.conclusion
    assert "nan" not in found.conclusion + found.text


def test_an_effect_is_known_where_its_measure_is_positive_in_all_runs():
    """The logarithm is NaN for all runs of a training, not only for the one that has none."""
    rows = [
        {"training": name, "run": run, "trace": 2.0 + run, "width": -1.0 if (name, run) == ("noise only", 1) else 1.0}
        for name in (*ABLATIONS, "other")
        for run in range(3)
    ]
    table = pd.DataFrame(rows)
    logs = logarithms(table, ["trace", "width"])
    assert logs.width.isna().equals(table.training == "noise only") and logs.trace.equals(np.log(table.trace))
    elsewhere = table.assign(trace=np.where(table.training == "other", -1.0, table.trace))
    effects = factorial_effects(elsewhere, ["trace", "width"])
    assert effects[effects.measure == "trace"].change.eq(0).all()
    assert effects[effects.measure == "width"].change.isna().all()


def test_effects_need_one_row_for_each_training_and_run():
    rows = [{"training": name, "run": run, "trace": 1.0 + run} for name in ABLATIONS for run in range(3)]
    table = pd.DataFrame(rows)
    assert (factorial_effects(table, ["trace"]).change == 0).all()
    with pytest.raises(ValueError, match="got several for training 'gradient descent' and run 0"):
        factorial_effects(pd.concat([table, table[:1]]), ["trace"])
    with pytest.raises(ValueError, match="measures must be a sequence, got 'trace'"):
        factorial_effects(table, "trace")
