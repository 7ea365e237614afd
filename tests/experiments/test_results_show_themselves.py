"""Every result of a study has words, a table of an article, a page of a notebook and a figure, all of its own table."""

import matplotlib.figure
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from given_errors import GivenErrors
from problems import make_problem

import smesolve as sme
from smesolve import experiments
from smesolve.comparison.agreement import at_most, headline, in_short
from smesolve.comparison.outcomes import Status
from smesolve.experiments.scaling.acceleration import acceleration
from smesolve.experiments.scaling.horizon import long_horizon
from smesolve.experiments.scaling.kappa import linear_scaling_rule
from smesolve.experiments.scaling.map import error_map
from smesolve.experiments.scaling.schedule import schedules
from smesolve.experiments.scaling.width import width_sweep
from smesolve.result import Result, sentences

PROBLEM = make_problem(width=3)
THETA0 = PROBLEM.initial()
STARTS = torch.stack([PROBLEM.initial(seed) for seed in range(3)])
STATES = torch.stack([STARTS, 0.9 * STARTS])
GIVEN = GivenErrors()


def regularisation():
    return experiments.regularisation_orders(PROBLEM, THETA0, [0.1, 0.05], 0.1, paths=64, rel_tol=None)


RESULTS = {
    "weak errors": lambda: sme.weak_error(PROBLEM, THETA0, [0.2, 0.1], 0.4, orders=[1], paths=64),
    "validity": lambda: sme.validity_range(PROBLEM, THETA0, 0.4, orders=[1], tolerance=0.05),
    "kappa": lambda: linear_scaling_rule(PROBLEM, THETA0, 0.05, [2, 4], 0.4, 0.4, "loss", GIVEN),
    "map": lambda: error_map(PROBLEM, THETA0, [0.5, 0.8], [0.2, 0.4], 0.5, (1, 2), "loss", GIVEN),
    "schedules": lambda: schedules(PROBLEM, THETA0, [0.1, 0.05], 1.0, ["step"], (1,), "loss", GIVEN),
    "width": lambda: width_sweep(PROBLEM.x, PROBLEM.y, [2, 4], 0.8, 0.1, 0.5, (1,), GIVEN),
    "acceleration": lambda: acceleration(PROBLEM, THETA0, 0.05, 0.4, [2, 4], effort=GIVEN),
    "horizon": lambda: long_horizon(PROBLEM, THETA0, 0.25, [0.5, 1.0], [0.3], "loss", GIVEN, quadratic_paths=2),
    "alignment": lambda: experiments.alignment_along(PROBLEM, STATES, [0, 1], probes=20, eigenpairs=2),
    "condensation": lambda: experiments.condensation(PROBLEM, STARTS, 0.1, [0, 2], ["gradient descent", "dropout"]),
    "flatness": lambda: experiments.flatness(
        PROBLEM, {name: STARTS for name in ("gradient descent", "drift only", "noise only", "dropout")}, 4, probes=20
    ),
    "regularisation": regularisation,
    "variance": lambda: experiments.variance_principle(PROBLEM, STARTS, 0.1, draws=40, directions=3),
}


def test_results_of_other_trainings_and_covariances_show_themselves():
    """Effects of drift and noise are those of the four ablations; solutions of other trainings have none."""
    study = experiments.flatness(PROBLEM, {"SGD": STARTS, "Adam": 0.9 * STARTS}, 4, probes=12)
    assert study.summary().startswith("On the line to Adam") and study.plot().axes
    study = experiments.alignment_along(PROBLEM, STATES, [0, 1], ["gradient term"], probes=12, eigenpairs=2)
    (line,) = [line for line in study.plot().axes[3].lines if line.get_label() == "null 97.5%"]
    assert list(line.get_ydata()) == list(study.table.groupby("step").overlap_null_high.mean())


def test_a_single_run_has_no_interval():
    study = experiments.alignment_along(PROBLEM, STATES[:, :1], [0, 1], ["full batch"], probes=12, eigenpairs=2)
    assert "without an interval, from one run" in study.summary() and "nan" not in study.summary()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "map")) for n in RESULTS])
def test_a_result_shows_itself(name, tmp_path):
    result = RESULTS[name]()
    assert isinstance(result, Result) and isinstance(result.table, pd.DataFrame)
    lines = result.summary().splitlines()
    assert lines and all(line and not line.startswith("-") and "\\" not in line for line in lines)
    text = repr(result)
    assert text.startswith(result.summary()) and all(str(column) in text for column in result.shown())
    page = result._repr_html_()
    assert page.count("<tr") >= 1 + min(len(result.shown()), 60) and "<p>" in page
    latex = result.to_latex()
    assert latex.count(r"\\") == 1 + len(result.shown()) and latex.count(r"\toprule") == 1
    figure = result.plot()
    assert isinstance(figure, matplotlib.figure.Figure) and figure.axes
    (tmp_path / "figure.png").write_bytes(figure._repr_png_())  # as a notebook shows it without pyplot
    height, width, _ = matplotlib.image.imread(tmp_path / "figure.png").shape
    # Matplotlib 3.8 cuts off fractions of a pixel, 324 - 4e-14 to 323.
    assert abs(width - 120 * figure.get_figwidth()) < 1.1 and abs(height - 120 * figure.get_figheight()) < 1.1


def rows(**columns):
    """Rows at one horizon, an order each."""
    number = len(next(iter(columns.values())))
    given = {"time": 2.0, "lr": 0.1, "observable": "loss", "discrete_half_width": 0.0, "reason": "", "resolved": True}
    return pd.DataFrame(given | {"order": range(1, number + 1)} | columns)


def test_the_bound_is_the_farther_end_of_the_interval_over_mean_change_and_spread():
    table = rows(
        discrete=[0.5, 0.5], error=[0.01, 1e-4], low=[0.009, -2e-4], high=[0.011, 4e-4], resolved=[True, False]
    )
    words = headline(table, {"loss": 0.9}, {(0.1, "loss"): 0.02})
    assert words.startswith("At T = 2 and lr = 0.1, with 95% confidence, the mean loss under the SME of order 2 agrees")
    # 4e-4 of 0.5, of |0.5 - 0.9| and of 0.02
    assert (
        "agrees to within 0.08% (0.1% of its change, 2% of its spread over paths), and nothing larger is hidden"
        in words
    )
    assert "under order 1 it is off by +2% [+1.8%, +2.2%], by at most 2.2%" in words
    assert in_short(table) == (
        "The SME of order 2 gives the mean loss of dropout at T = 2 to within 0.08%, order 1 to within 2.2% (lr = 0.1, "
        "95% confidence)."
    )


def test_a_mean_that_is_not_known_itself_makes_bounds_larger_or_absolute():
    table = rows(discrete=[0.5], discrete_half_width=[0.1], error=[0.0], low=[-0.01], high=[0.004], resolved=[False])
    assert "agrees to within 2.5%" in headline(table, {}, {})
    unknown = table.assign(discrete=0.05)
    assert "agrees to within 0.01, and nothing larger" in headline(unknown, {}, {})


@pytest.mark.parametrize("reason", [Status.DIVERGED, Status.HEAVY_TAILS, Status.OUTSIDE_ASYMPTOTICS])
def test_what_has_no_interval_has_no_bound(reason):
    table = rows(discrete=[0.5, 0.5], error=[0.1, 0.1], low=[0.0, 0.0], high=[0.2, 0.2], reason=["", reason])
    assert "order 2" not in headline(table, {}, {})
    nothing = table.assign(reason=reason)
    assert headline(nothing, {}, {}) == in_short(nothing) == f"No error at the horizon has an interval: {reason}."


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0741, "0.075"), (0.07, "0.07"), (12.1, "13"), (0.0, "0"), (99.9, "1e+02")]
)
def test_bounds_are_rounded_up(value, shown):
    assert at_most(value) == shown and float(shown) >= value


def test_latex_writes_numbers_as_mathematics_and_escapes_words():
    class Given(Result):
        table = pd.DataFrame({"a_b": ["50% of x_1", "&"], "v": [1.5e-7, np.nan], "yes": [True, False]})

        def summary(self):
            return "words"

        def plot(self):
            raise NotImplementedError

    latex = Given().to_latex()
    assert r"a\_b & v & yes \\" in latex
    assert r"50\% of x\_1 & $1.5 \times 10^{-7}$ & yes \\" in latex and r"\& & -- & no \\" in latex


def test_sentences_of_a_list_are_plain():
    assert (
        sentences("- order 2, theta\\[0\\]: a &lt; b_1\n\n- next \\| one") == "order 2, theta[0]: a < b_1\nnext | one"
    )


def test_a_long_table_is_printed_in_part():
    class Long(Result):
        table = pd.DataFrame({"k": range(100)})

        def summary(self):
            return "words"

        def plot(self):
            raise NotImplementedError

    assert repr(Long()).endswith("The first 60 of 100 rows; `table` has all of them.")
    assert Long()._repr_html_().count("<tr") == 61 and Long().to_latex().count(r"\\") == 101
