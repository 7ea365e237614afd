"""The command convergence: test equations and expressions in, orders and a work-precision figure out."""

import math

import pytest
import torch
import yaml

import smesolve as sme
from smesolve.experiments.convergence import Convergence, ConvergenceSettings
from smesolve.experiments.shared.sde_expressions import TEST_EQUATIONS, ExpressionSDE
from smesolve.study.command_line import main

CUSTOM = {
    "sde": "custom",
    "state": ["x", "v"],
    "drift": ["v", "-x - 0.5*v"],
    "diffusion": ["0; 0.1*x", "0.3*cos(t); 0"],
    "start": [1.0, 0.0],
    "dts": [0.25, 0.125],
    "schemes": ["euler"],
    "observables": ["x", "x**2 + v**2"],
    "reference_scheme": "small_noise_rk4",
    "reference_dt": 0.03125,
    "paths": 64,
}


def test_expressions_are_the_drift_and_the_diffusion_that_they_say():
    sde = Convergence(ConvergenceSettings(**CUSTOM)).sde
    y, t = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    x, v = y.unbind(-1)
    assert torch.allclose(sde.f(t, y), torch.stack([v, -x - 0.5 * v], -1))
    noise = torch.zeros(2, 2, 2, dtype=torch.float64)
    noise[:, 0, 1], noise[:, 1, 0] = 0.1 * x, 0.3 * math.cos(0.5)
    assert torch.allclose(sde.g(t, y), noise)


def test_a_configuration_has_the_errors_of_the_function(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(CUSTOM))
    assert main(["convergence", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 0
    saved = sme.load(tmp_path / "out")
    sde = ExpressionSDE(["x", "v"], CUSTOM["drift"], [["0", "0.1*x"], ["0.3*cos(t)", "0"]], "ito", "general")
    observables = {"x": lambda y: y[..., 0], "x**2 + v**2": lambda y: y.square().sum(-1)}
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    reference = ("small_noise_rk4", 0.03125)
    table = sme.convergence(sde, start, 1.0, [0.25, 0.125], ["euler"], observables, reference, paths=64).table
    assert saved.table[["scheme", "observable"]].equals(table[["scheme", "observable"]])
    for column in ("dt", "error", "low", "high"):
        assert saved.table[column].tolist() == pytest.approx(table[column].tolist(), rel=1e-12)
    assert set(saved.tables) == {"table", "fit"} and "convergence.png" in saved.figures
    assert saved.summary().startswith("Weak errors at T = 1 against small_noise_rk4 with dt = 0.03125")


@pytest.mark.parametrize("name", TEST_EQUATIONS)
def test_test_equations_have_the_solution_that_they_say(name):
    test = TEST_EQUATIONS[name]
    more = {} if test.exact else {"reference_scheme": "srk", "reference_dt": 1 / 64}
    settings = ConvergenceSettings(name, error="strong", schemes=["srk"], dts=[0.25, 0.125], paths=4096, **more)
    experiment = Convergence(settings)
    (section,) = experiment.summarise([cell.run() for cell in experiment.cells()])
    (order,) = section.tables["fit"].order
    assert order > 1.2  # srk finds the solution with strong order 1.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sde": "gbm"}, "sde 'gbm' is unknown"),
        ({"drift": ["v", "__import__('os')"]}, r"drift\[1\] .* cannot be read as an expression"),
        ({"drift": ["v", "-k*x"]}, r"drift\[1\] '-k\*x' holds 'k', which is no state variable"),
        ({"drift": ["v"]}, "drift must hold 2 expressions"),
        ({"diffusion": ["0; 1", "1"]}, "rows of 2, 1"),
        ({"diffusion": ["0; 1", "1; q"]}, r"diffusion\[1\], column 2, 'q' holds 'q'"),
        ({"noise": "diagonal"}, "noise=diagonal has one expression in each row of diffusion, got 2"),
        ({"state": ["x", "t"]}, "state must hold different names"),
        ({"state": ["x", "x"]}, "state must hold different names"),
        ({"start": None}, "start is missing"),
        ({"start": [1.0]}, "start must hold 2 values"),
        ({"observables": ["w"]}, r"observables\[0\] 'w' holds 'w'"),
        ({"observables": ["x", "x"]}, "observables must hold different expressions"),
        ({"reference_dt": None}, "reference_scheme is given alone"),
        ({"reference_dt": 0.3}, "reference_dt=0.3 does not divide horizon"),
        ({"reference_dt": None, "reference_scheme": None}, "sde=custom has no known exact solution"),
        ({"exact": [1.0, 2.0]}, "exact and reference_scheme are both given"),
        ({"calculus": "levy"}, "calculus must be one of"),
        ({"schemes": ["heun"]}, "'heun' is for SDEs of type 'stratonovich'"),
        ({"sde": "geometric"}, "state is not read by sde=geometric"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_begins(change, words):
    with pytest.raises(sme.SmesolveError, match=words):
        Convergence(ConvergenceSettings(**CUSTOM | change)).dry_run()


def test_a_dry_run_says_the_steps(capsys):
    assert main(["convergence", "--sde", "hyperbolic", "--dts", "[0.25,0.125]", "--dry-run"]) == 0
    assert "4, 8 of each of 3 solvers" in capsys.readouterr().out
