"""Half-widths that reports print and figures draw are those of the table, exactly."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from given_errors import Q, exactly
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy import stats

from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.experiments.compare import Compare, _nearer, comparison_figure
from smesolve.experiments.landscape_sections.comparisons import against_first, signed
from smesolve.experiments.landscape_sections.flatness import FlatnessStudy
from smesolve.experiments.landscape_sections.implicit_regularisation import _draw_errors
from smesolve.experiments.scaling.schedule import Schedules
from smesolve.experiments.shared.error_curves import curve
from smesolve.experiments.shared.error_map_figures import _bounds
from smesolve.experiments.shared.section import interval
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings
from smesolve.experiments.shared.weak_error_experiment import WeakErrorSettings
from smesolve.experiments.weak_error import WeakError
from smesolve.figures import ORDERS, band
from smesolve.landscape.estimates import mean_over
from smesolve.landscape.flatness import factorial_effects

LRS, TIMES = (0.2, 0.1), (0.5, 1.0)


@pytest.fixture(scope="module")
def study():
    """Standard errors that differ from row to row, and intervals that hold more than the Monte Carlo error."""
    rows = []
    for number, (order, lr, time) in enumerate((o, lr, t) for o in (1, 2) for lr in LRS for t in TIMES):
        error, stderr = (-0.4 * lr if order == 1 else 0.9 * lr**2) * time, 0.001 * (1 + 0.37 * number)
        freedom = 20 + number
        wide = stats.t.ppf(0.975, freedom) * stderr
        half = wide + 0.0005
        row = {
            "order": order,
            "lr": lr,
            "time": time,
            "observable": "loss",
            "discrete": 2 - time,
            "sde": 2 - time + error,
        }
        row |= {
            "sde": 2 - time + error,
            "error": error,
            "stderr": stderr,
            "low": error - half,
            "high": error + half,
            "diverged": 0,
        }
        row |= {"solver_bias": 0.0005, "solver_bias_stderr": 0.13 * stderr, "paths": 64, "discrete_paths": 64}
        row |= {"sde_paths": 128, "discrete_stderr": 0.61 * stderr, "sde_stderr": 0.79 * stderr, "kurtosis": 3.5}
        row |= {
            "stderr_reduction": 12.5,
            "discrete_diverged": 0,
            "sde_diverged": 0,
            "solver_dt": lr / 2,
            "scheme": "small_noise_rk4",
        }
        row |= {"freedom": freedom, "half_width": wide, "rounding": 0.0, "tolerance": 0.0}
        row |= {"discrete_half_width": 0.62 * wide, "sde_half_width": 0.83 * wide, "estimator": "difference"}
        row |= {"solver_bias_half_width": 0.17 * wide}
        resolved = abs(error) > half
        rows.append(row | {"resolved": resolved, "reason": "" if resolved else "inside the solver bias"})
    values = {"loss": np.linspace(0.5, 1.5, 20)}
    samples = {(lr, order): values for lr in LRS for order in (None, 1, 2)}
    constants = [{"order": 1, "time": 1.0, "observable": "loss", "constant": -0.4, "stderr": 0.0137}]
    return WeakErrorStudy(pd.DataFrame(rows), samples, 1.0, lambda: pd.DataFrame(constants))


def cells(report, title):
    """The table under a title: headers and rows."""
    section = report.split(f"## {title}")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


@pytest.fixture(scope="module")
def reports(study):
    data = DataSettings("random", samples=3, in_features=2)
    settings = WeakErrorSettings(data=data, network=NetworkSettings(width=3))
    return [one.report(one.summarise([study])) for one in (Compare(settings), WeakError(settings))]


def test_reports_print_the_half_widths_of_the_table(study, reports):
    final = study.table[study.table.time == 1.0].set_index(["lr", "order"])
    budget, horizon = cells(reports[1], "Error budget at the horizon"), cells(reports[0], "At the horizon T = 1")
    assert len(budget) == len(horizon) == len(final)
    for printed, beside in zip(budget, horizon, strict=True):
        row = final.loc[(float(printed["lr"]), int(printed["order"]))]
        assert (beside["lr"], beside["order"]) == (printed["lr"], printed["order"])
        bias = f"{row.solver_bias:+.1e} ± {row.solver_bias_half_width:.1e}"
        assert (printed["solver bias"], beside["solver bias"]) == (bias, bias)
        assert printed["dropout ±"] == f"{row.discrete_half_width:.1e}"
        assert printed["SME ±"] == f"{row.sde_half_width:.1e}"
        assert beside["Monte Carlo ±"] == f"{row.half_width:.1e}"
        assert beside["95% interval"] == f"[{row.low:+.2e}, {row.high:+.2e}]"
        assert (beside["dropout"], beside["SME"]) == (f"{row.discrete:.6g}", f"{row.sde:.6g}")
        assert (printed["error"], printed["stderr_reduction"], printed["kurtosis"]) == (
            f"{row.error:+.3e}",
            "12.5",
            "3.5",
        )
        assert (printed["solver_dt"], printed["paths dropout / SME"]) == (f"{row['solver_dt']:g}", "64 / 128")
        assert (printed["resolved"] == "yes") == row.resolved == (beside["resolved"] == "yes")


def test_reports_print_fits_constants_and_maxima_as_they_are(study, reports):
    fit = study.fit().set_index("order")
    for report, title in ((reports[0], "Order: error against learning rate"), (reports[1], "Orders")):
        for printed in cells(report, title):
            row = fit.loc[int(printed["order"])]
            assert printed["slope"] == f"{row.slope:.3f}"
            assert printed["95% interval"] == f"[{row.slope_low:.3f}, {row.slope_high:.3f}]"
    first, second = cells(reports[1], "Predicted and measured constants")
    assert first["95% interval"] == f"[{fit.constant_low[1]:.4g}, {fit.constant_high[1]:.4g}]"
    assert first["predicted"] == f"-0.4 ± {Q * 0.0137:.1g}" and second["predicted"] == "-"
    assert first["measured / predicted"] == f"{fit.constant[1] / -0.4:.3f}"
    maxima = study.maximum().set_index(["lr", "order"])
    for report in reports:
        for printed in cells(report, "Largest error over the times"):
            row = maxima.loc[(float(printed["lr"]), int(printed["order"]))]
            assert printed["95% interval"] == f"[{row.low:.2e}, {row.high:.2e}]"
            assert printed["max error"] == f"{row.error:.2e}"


def test_the_distribution_is_stated_by_its_sample_statistics(study, reports):
    printed = cells(reports[0], "Distribution of the observables at the horizon")[0]
    values = study.samples[0.2, None]["loss"]
    assert (printed["plain mean"], printed["standard deviation"]) == ("1", f"{values.std(ddof=1):.3g}")
    quantiles = [printed[name] for name in ("5%", "median", "95%")]
    assert quantiles == [f"{q:.5g}" for q in np.quantile(values, [0.05, 0.5, 0.95])]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((0.5, 0.1), (-0.2, 0.1), "order 2 is nearer to dropout than order 1, by a factor of at least 1.3"),
        ((0.1, 0.1), (-0.9, 0.1), "order 1 is nearer to dropout than order 2, by a factor of at least 4"),
        ((0.5, 0.16), (-0.2, 0.15), "not resolved"),
    ],
)
def test_the_nearer_order_is_named_where_sizes_do_not_overlap(first, second, said):
    pair = pd.DataFrame([{"error": e, "low": e - h, "high": e + h} for e, h in (first, second)], index=[1, 2])
    assert said in _nearer(pair.assign(reason=""))
    assert "not resolved" in _nearer(pair.assign(reason="heavy tails"))


# --- figures --------------------------------------------------------------------------------------------------------


def bars(axis):
    """(x, low, high) of the vertical error bars, a list for each call."""
    drawn = [part for part in axis.containers if isinstance(part, ErrorbarContainer)]
    return [[(*s[0], s[1][1]) for s in part.lines[2][0].get_segments()] for part in drawn]


def filled(axis):
    """Lower and upper edges of each band, by x."""
    edges = []
    for part in axis.collections:
        if isinstance(part, PolyCollection) and not isinstance(part, LineCollection):
            points = part.get_paths()[0].vertices
            edges.append({x: (points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()) for x in TIMES})
    return edges


def test_bands_of_means_have_their_half_widths(study):
    (means, over_time), (_, against_lr) = np.reshape(comparison_figure(study).axes, (2, 2))
    rows = study.table[study.table.lr == 0.2]
    curves = [(rows[rows.order == 1], "discrete")] + [(rows[rows.order == order], "sde") for order in (1, 2)]
    for edges, (curve_rows, side) in zip(filled(means), curves, strict=True):
        for row in curve_rows.to_dict("records"):
            half = row[f"{side}_half_width"]
            assert edges[row["time"]] == exactly((row[side] - half, row[side] + half))
    power = 10.0 ** np.floor(np.log10(np.abs(rows[["low", "high"]]).to_numpy().max()))
    for order, drawn in zip((1, 2), bars(over_time), strict=True):
        for row, (x, low, high) in zip(rows[rows.order == order].itertuples(), drawn, strict=True):
            assert (low * power, high * power) == exactly((row.low, row.high))
            assert x == exactly(row.time + 0.12 * 0.5 * (order - 1.5))
    assert_sizes_against_lr(against_lr, study)


def line_of(axis, style, look):
    return next(line for line in axis.lines if (line.get_linestyle(), line.get_color()) == (style, look.colour))


def assert_sizes_against_lr(axis, study):
    final = study.table[study.table.time == 1.0].sort_values("lr")
    half = (final.high - final.low) / 2
    bottom = 0.4 * min(final.error.abs().min(), half.min())
    for order, drawn in zip((1, 2), bars(axis), strict=True):
        for row, (x, low, high) in zip(final[final.order == order].itertuples(), drawn, strict=True):
            half, size = (row.high - row.low) / 2, abs(row.error)
            assert (x, low, high) == exactly((row.lr, max(size - half, bottom), size + half))
        floor = next(
            line for line in axis.lines if line.get_linestyle() == ":" and line.get_color() == ORDERS[order].colour
        )
        rows = final[final.order == order]
        assert floor.get_ydata() == exactly(((rows.high - rows.low) / 2).to_numpy())


def test_the_certificate_draws_intervals_fits_and_predictions(study):
    (axis,) = study.plot().axes
    assert_sizes_against_lr(axis, study)
    (predicted,) = (line for line in axis.lines if line.get_label().startswith("predicted"))
    assert predicted.get_ydata() == exactly([0.04, 0.08])
    fit = study.fit().set_index("order")
    labels = [line.get_label() for line in axis.lines]
    for order in (1, 2):
        y = line_of(axis, "--", ORDERS[order]).get_ydata()
        assert np.log2(y[1] / y[0]) == pytest.approx(fit.slope[order], rel=1e-9)
        decimals = 2 if fit.slope_high[order] - fit.slope_low[order] >= 0.04 else 3
        ends = f"[{fit.slope_low[order]:.{decimals}f}, {fit.slope_high[order]:.{decimals}f}]"
        assert any(f"{fit.slope[order]:.{decimals}f} {ends}" in label for label in labels)


def relative_rows():
    columns = {"relative": [-0.4, 0.2], "relative_low": [-0.5, -0.1], "relative_high": [-0.2, 0.5]}
    return pd.DataFrame(columns).assign(resolved=[True, False])


def test_curves_of_scaling_draw_half_the_width_of_each_interval():
    axis = Figure().subplots()
    curve(axis, pd.Series([1.0, 2.0]), relative_rows(), ORDERS[1], "order 1")
    (drawn,) = bars(axis)
    assert [tuple(bar) for bar in drawn] == [exactly((1.0, 0.25, 0.55)), exactly((2.0, 0.02, 0.5))]
    low, high = _bounds(relative_rows())
    assert (low[0], high[0]) == exactly((0.25, 0.55)) and np.isnan(low[1])


def test_errors_under_schedules_and_of_flows_have_their_intervals():
    table = pd.DataFrame({"order": 1, "lr": [0.1, 0.2], "error": [-0.4, 0.2], "low": [-0.5, 0.1], "high": [-0.2, 0.5]})
    exact = table.assign(low=table.error, high=table.error)
    whole = pd.concat([table.assign(model="network"), exact.assign(model="readout")]).assign(schedule="step")
    axis = Schedules(whole, pd.DataFrame()).plot().axes[0]
    assert bars(axis)[0] == [exactly((0.1, 0.25, 0.55)), exactly((0.2, 0.0, 0.4))]
    axis = Figure().subplots()
    _draw_errors(axis, table.assign(low=[-0.5, -0.3]), 0, "flow")
    assert bars(axis)[0] == [exactly((0.1, 0.25, 0.55)), exactly((0.2, 0.02, 0.6))]


def test_flatness_draws_students_intervals():
    rng = np.random.default_rng(0)
    names = ("gradient descent", "drift only", "noise only", "dropout")
    rows = [{"training": name, "run": run} for name in names for run in range(3)]
    measures = {name: np.exp(rng.standard_normal(12)) for name in ("trace", "top_eigenvalue", "width", "loss")}
    table = pd.DataFrame(rows).assign(**measures)
    curves = pd.concat([table[["training", "run"]].assign(distance=x, loss=table.loss * (1 + x)) for x in TIMES])
    lines = pd.concat(
        [table[["run"]].assign(first=names[0], second=table.training, alpha=x, loss=table.loss * x) for x in TIMES]
    )
    effects = factorial_effects(table)
    a, b, c, d = FlatnessStudy(table, curves, lines).plot().axes
    for name, edges, bar in zip(names, filled(a), bars(c), strict=True):
        losses = table.loss[table.training == name]
        for x in TIMES:
            rise = mean_over(losses * x)
            assert edges[x] == exactly((rise.low, rise.high))
        mean = mean_over(table.trace[table.training == name])
        assert bar[0][1:] == exactly((mean.low, mean.high))
    assert len(filled(b)) == 3
    for (_, rows), drawn in zip(effects.groupby("effect", sort=False), bars(d), strict=True):
        assert [bar[1:] for bar in drawn] == [
            exactly(ends) for ends in zip(rows.change_low, rows.change_high, strict=True)
        ]


def test_bands_differences_and_words_of_a_landscape_study():
    axis = Figure().subplots()
    table = pd.DataFrame({"step": TIMES, "loss": [1.0, 2.0], "loss_low": [0.5, 1.8], "loss_high": [1.25, 2.5]})
    band(axis, table, "step", "loss", 0, "dropout")
    assert filled(axis) == [{0.5: exactly((0.5, 1.25)), 1.0: exactly((1.8, 2.5))}]
    runs = pd.DataFrame({"training": [*["plain"] * 3, *["dropout"] * 3], "run": [*range(3)] * 2, "loss": range(6)})
    runs["loss"] = [1.0, 2.0, 3.0, 1.5, 2.0, 4.0]
    row = against_first(runs, ["loss"]).iloc[0]
    expected = mean_over([0.5, 0.0, 1.0])
    assert (row.loss, row.loss_low, row.loss_high) == exactly((0.5, expected.low, expected.high))
    for low, high, word in ((0.1, 0.3, "higher"), (-0.3, -0.1, "lower"), (-0.1, 0.1, "unresolved")):
        said = signed(SimpleNamespace(value=(low + high) / 2, low=low, high=high), "higher", "lower")
        assert said.startswith(word)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"a": 0.51234, "a_low": 0.25, "a_high": 0.75}, "0.512 [0.25, 0.75]"),
        ({"a": 0.5, "a_low": 0.5, "a_high": 0.5}, "0.5"),
        ({"a": 0.5, "a_low": -np.inf, "a_high": 0.75}, "0.5"),
        ({"a": 0.5}, "0.5"),
        ({"a": np.nan, "a_low": 0.0, "a_high": 1.0}, "-"),
    ],
)
def test_an_interval_in_words(row, said):
    assert interval(row, "a") == said
