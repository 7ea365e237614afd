"""Weak and strong orders of every solver against known ones, errors against closed forms."""

import math

import numpy as np
import pytest
import torch
from exact_sdes import EXACT_SDES, PROBLEMS
from malformed import Odd

import smesolve as sme
from smesolve.comparison.convergence_study import ConvergenceStudy
from smesolve.solver.schemes.scheme import Scheme

DTS = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
START = torch.tensor([1.5], dtype=torch.float64)


class Growth(torch.nn.Module):
    """dY = -Y dt + 0.8 Y dW, whose solution is known: Ito's, or Stratonovich's, whose drift has no correction."""

    def __init__(self, sde_type="ito", noise_type="diagonal"):
        super().__init__()
        self.sde_type, self.noise_type = sde_type, noise_type

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return 0.8 * y if self.noise_type == "diagonal" else 0.8 * y[..., None]

    def exact(self, W):
        correction = 0.32 if self.sde_type == "ito" else 0.0
        return 1.5 * torch.exp(-1 - correction + 0.8 * W[:, 0])


class Additive(torch.nn.Module):
    """dY = (sin 3 Y - Y) dt + 0.7 dW."""

    sde_type, noise_type = "ito", "additive"

    def f(self, t, y):
        return torch.sin(3 * y) - y

    def g(self, t, y):
        return torch.full_like(y, 0.7)[..., None]


def first(y):
    return y[..., 0]


ITO = [name for name, scheme in sme.SCHEMES.items() if issubclass(scheme, Scheme)]
STRONG = [
    *((Growth(), name, 0.5) for name in ITO),
    (Growth(), "torchsde.euler", 0.5),
    (Growth(), "milstein", 1.0),
    (Growth(), "srk", 1.5),
    (Growth(noise_type="scalar"), "srk", 1.5),
    *((Growth("stratonovich"), name, 1.0) for name in ("midpoint", "heun", "euler_heun", "milstein")),
    (Growth("stratonovich"), "reversible_heun", 1.0),
]


@pytest.mark.parametrize(
    ("sde", "scheme", "order"), STRONG, ids=lambda value: value if isinstance(value, str) else None
)
def test_strong_orders_are_the_known_ones(sde, scheme, order):
    study = sme.convergence(sde, START, 1.0, DTS, [scheme], {"Y": first}, {"Y": sde.exact}, "strong", paths=2048)
    (row,) = study.fit().to_dict("records")
    assert row["order_low"] <= order <= row["order_high"] and row["order_high"] - row["order_low"] < 1
    heavy = study.table.reason == "heavy tails"  # of a lognormal law, which few paths may carry
    assert row["points"] == len(DTS) - heavy.sum() >= len(DTS) - 1
    assert row["declared"] == (0.5 if scheme == "reversible_heun" else order)  # that of noise that does not commute


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1.0), ("small_noise_heun", 1.0), ("srk", 1.5)])
def test_strong_orders_for_additive_noise(scheme, order):
    reference = ("srk", 1 / 512)
    study = sme.convergence(Additive(), START, 1.0, DTS, [scheme], reference=reference, error="strong", paths=512)
    (row,) = study.fit().to_dict("records")
    assert row["order_low"] <= order <= row["order_high"] and row["observable"] == "state"


@pytest.mark.parametrize("scheme", [*ITO, "torchsde.euler", "milstein", "srk"])
def test_weak_errors_hold_the_exact_ones(scheme):
    """E Y of a solver of a linear SDE follows from one step of the mean: (1 - dt)^n, (1 - dt + dt^2/2)^n, ..."""
    study = sme.convergence(Growth(), START, 1.0, DTS, [scheme], {"Y": first}, {"Y": 1.5 * math.exp(-1)}, paths=2**14)
    factor = {
        "small_noise_heun": lambda h: 1 - h + h**2 / 2,
        "small_noise_rk4": lambda h: 1 - h + h**2 / 2 - h**3 / 6 + h**4 / 24,
        "srk": lambda h: 1 - h + h**2 / 2,
    }.get(scheme, lambda h: 1 - h)
    for row in study.table.itertuples():
        exact = 1.5 * (factor(row.dt) ** round(1 / row.dt) - math.exp(-1))
        assert abs(row.error - exact) < 4 * row.stderr
        assert row.low < row.error < row.high and row.paths == 2**14


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1.0), ("torchsde.euler", 1.0), ("milstein", 1.0)])
def test_weak_orders_from_differences_on_the_same_paths(scheme, order):
    sde = Growth()
    study = sme.convergence(sde, START, 1.0, DTS[:3], [scheme], {"Y": first}, {"Y": sde.exact}, paths=2**15)
    (row,) = study.fit().to_dict("records")
    assert row["order_low"] <= order <= row["order_high"]


@pytest.mark.parametrize("name", EXACT_SDES)
def test_errors_against_the_exact_value_of_each_sde(name):
    exact = EXACT_SDES[name]
    start = torch.tensor(exact.start, dtype=torch.float64)
    observables, reference = {"g": exact.observable}, {"g": exact.expectation(0.5, 1.0)}
    study = sme.convergence(exact.at(0.5), start, 1.0, [1 / 32], ["small_noise_rk4"], observables, reference, seed=3)
    row = study.table.iloc[0]
    assert abs(row.error) < 4 * row.stderr + 0.02  # Monte Carlo, and the scheme's own error


def test_a_modified_equation_is_an_sde_like_any_other():
    problem = PROBLEMS["scalar dropout"]
    equation = sme.ModifiedEquation(problem, lr=0.2, order=2)
    theta0 = torch.ones(problem.dim, dtype=torch.float64)
    study = sme.convergence(
        equation, theta0, 0.4, [0.2, 0.1], ["euler"], ["loss"], ("small_noise_rk4", 0.025), paths=256
    )
    assert study.table.observable.unique().tolist() == ["loss"] and study.table.resolved.all()


def test_errors_depend_neither_on_workers_nor_on_what_else_is_measured():
    given = (Growth(), START, 1.0)
    more = {"observables": {"Y": first}, "reference": ("srk", 1 / 64), "paths": 1500}
    whole = sme.convergence(*given, [1 / 4, 1 / 8], ["euler", "milstein"], **more).table
    shared = sme.convergence(*given, [1 / 4, 1 / 8], ["euler", "milstein"], **more, workers=2).table
    alone = sme.convergence(*given, [1 / 8], ["milstein"], **more).table
    columns = ["scheme", "dt", "observable", "error", "stderr", "low", "high"]
    assert whole[columns].equals(shared[columns])
    assert whole[columns].iloc[[-1]].to_dict("records") == alone[columns].to_dict("records")


def test_the_columns_come_in_their_order_and_steps_increase():
    study = sme.convergence(Growth(), START, 1.0, DTS[::-1], ["euler"], {"Y": first}, {"Y": 0.5}, paths=64)
    columns = ["scheme", "dt", "observable", "error", "stderr", "low", "high", "seconds"]
    assert isinstance(study, ConvergenceStudy) and list(study.table)[: len(columns)] == columns
    assert sorted(study.table.dt) == sorted(DTS) and (study.table.seconds > 0).all()


def test_a_study_shows_itself(tmp_path):
    study = sme.convergence(Growth(), START, 1.0, DTS, ["euler", "srk"], {"Y_1": first}, ("srk", 1 / 64), paths=128)
    first_line, *lines = study.summary().splitlines()
    assert first_line == "Weak errors at T = 1 against srk with dt = 0.015625, with 95% intervals:"
    assert [line.split(",")[0] for line in lines] == ["euler", "srk"]
    assert r"Y\_1" in study.to_latex() and study._repr_html_().count("<tr") == 9
    figure = study.plot()
    figure.savefig(tmp_path / "figure.png")
    assert [axis.get_xlabel() for axis in figure.axes] == ["step dt", "seconds for 128 paths"]


def test_diverged_paths_leave_no_error():
    class Cubic(Growth):
        def f(self, t, y):
            return -50 * y**3

    with pytest.warns(sme.DivergenceWarning, match="paths diverged"):
        study = sme.convergence(Cubic(), 5 * START, 4.0, [0.5, 1 / 1024], ["euler"], {"Y": first}, {"Y": 0.0}, paths=16)
    rows = study.table.set_index("dt")
    assert np.isnan(rows.error[0.5]) and rows.lost[0.5] == 16


VALID = {"observables": {"Y": first}, "reference": {"Y": 1.0}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sde": Odd()}, "sde must be a ModifiedEquation"),
        ({"dts": [0.3]}, "does not divide horizon"),
        ({"dts": [0.25, 0.25]}, "dts must hold different values"),
        ({"dts": [1 / 7, 1 / 11, 1 / 13]}, "dts must lie on one grid"),
        ({"schemes": ["rk45"]}, "schemes must be one of 'euler'"),
        ({"schemes": "euler"}, "schemes must be a sequence"),
        ({"schemes": ["euler", "euler"]}, "schemes must hold different values"),
        ({"schemes": ["svag"]}, "takes draws and no Brownian motion"),
        ({"schemes": ["heun"]}, "torchsde's 'heun' is for SDEs of type 'stratonovich'"),
        ({"sde": Growth("stratonovich")}, "'euler' is for Ito SDEs"),
        ({"observables": None}, "observables is missing"),
        ({"reference": None}, r"reference must be a pair \(scheme, dt\)"),
        ({"reference": {"Z": 1.0}}, "add or remove 'Y'"),
        ({"reference": {"Y": "one"}}, r"reference\['Y'\] must be a finite number"),
        ({"reference": {"Y": lambda W: W}}, r"must map W of shape \(B, 1\) to \(B,\)"),
        ({"reference": ("euler", 0.5)}, r"reference\[1\]=0.5 must be smaller than all dts"),
        ({"reference": ("euler",)}, "reference must be a pair"),
        ({"error": "mean"}, "error must be one of 'weak', 'strong'"),
        ({"error": "strong"}, "is a number, and a strong error compares path by path"),
        ({"paths": 1}, "paths must be an integer of at least 2"),
        ({"theta0": [1.0]}, "theta0 must be one parameter vector"),
        ({"horizon": -1.0}, "horizon must be a positive number"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, words):
    given = {"sde": Growth(), "theta0": START, "horizon": 1.0, "dts": [0.25, 0.125], "schemes": ["euler"], **VALID}
    with pytest.raises(sme.SmesolveError, match=words):
        sme.convergence(**given | change)
