"""The study of higher moments and tails at small keep_prob: exact rates, and intervals that hold."""

import numpy as np
import pandas as pd
import pytest
from problems import make_problem
from scipy import stats

from smesolve.comparison import stability_limits
from smesolve.comparison.cost import step_cost
from smesolve.comparison.mean_square_growth import ObservedLimit
from smesolve.experiments.scaling.map import error_map
from smesolve.experiments.scaling.small_keep_prob import _cells, decay_rates, small_keep_prob, statistics_of
from smesolve.experiments.shared.cells import Ensembles
from smesolve.experiments.shared.dry_run import estimate
from smesolve.experiments.shared.error_map_figures import nearer_order
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.experiments.weak_error import _not_predicted


def test_second_moments_hide_what_fourth_moments_show():
    rates = decay_rates([0.1, 0.01], 0.5).set_index(["keep_prob", "process", "degree"]).relative
    assert np.allclose(rates[0.1, :, 4], [-0.340, -0.289, -0.055, -0.048], atol=1e-3)
    assert rates[:, :, 2].abs().max() < 0.04
    assert rates[0.01, "order 2", 4] < -0.4 and abs(rates[0.01, "order 3", 4]) < 0.01


def test_intervals_hold_the_moments_and_quantiles_of_a_known_law():
    rng, held = np.random.default_rng(0), []
    exact = {"mean": 1.0, "moment 2": 1.0, "moment 3": 2.0, "moment 4": 9.0}
    exact |= {f"quantile {p:g}": stats.expon.ppf(p) for p in (0.5, 0.99)}
    for _ in range(200):
        rows = statistics_of(rng.exponential(size=2000), [0.5, 0.99])
        held.append([row["low"] <= exact[row["statistic"]] <= row["high"] for row in rows])
    coverage = np.mean(held, axis=0)
    assert (coverage[[0, 1, 4, 5]] > 0.90).all()
    assert (coverage > 0.80).all()  # third and fourth moments of a heavy tail


def test_a_quantile_beyond_the_sample_has_no_upper_bound():
    rows = statistics_of(np.arange(100.0), [0.999])
    assert rows[-1]["high"] == np.inf and np.isfinite(rows[-1]["low"])


def test_the_table_has_every_process_and_statistic():
    problem = make_problem(width=2)
    effort = SamplingEffort(paths=64, progress=False)
    result = small_keep_prob(problem, problem.initial(), [0.8, 0.3], probabilities=[0.5, 0.9], effort=effort)
    assert len(result.table) == 2 * 5 * 6
    assert result.table.differs[result.table.process == "iteration"].isna().all()
    assert "order 3" in repr(result) and result.plot().axes[-1].get_title().startswith("quantile")
    with pytest.raises(ValueError, match=r"probabilities\[0\] must lie in"):
        small_keep_prob(problem, problem.initial(), [0.8], probabilities=[1.5])


def test_the_map_takes_equations_with_jumps(monkeypatch):
    seen = []

    def observed(readout, order, populations, seed):
        seen.append(order)
        return ObservedLimit(1.0, 0.9, 1.1)

    monkeypatch.setattr(stability_limits, "observed_limit", observed)
    problem = make_problem(width=2, samples=2)
    effort = SamplingEffort(paths=64, progress=False)
    orders = [3, "poisson", 1]
    result = error_map(problem, problem.initial(), [0.8, 0.3], [0.5], orders=orders, effort=effort)
    assert set(result.table.order) == set(orders) and list(result.table.order[:2]) == [1, 1]
    assert {"order 3", "poisson"} < set(result.limits.process)
    exact = result.limits.set_index(["keep_prob", "process"]).predicted
    assert exact[0.3, "poisson"] == pytest.approx(exact[0.3, "iteration"])
    assert set(seen) <= {None, 1}  # those of equations with jumps are only predicted
    assert result.limits[result.limits.process.isin(["order 3", "poisson"])].observed.isna().all()
    (legend,) = result.plot().legends
    entries = {text.get_text() for text in legend.get_texts()}
    assert "limit of poisson" in entries and not {"observed, poisson", "observed, order 3"} & entries
    assert "poisson is nearest in" in result.summary() and "poisson" in result.plot().axes[2].get_title(loc="left")


def test_the_nearest_of_several_equations_is_counted():
    sizes = {1: 0.4, 2: 0.2, "poisson": 0.1}
    rows = [("network", order, 0.1, k, 1.0, size) for k in (1, 2) for order, size in sizes.items()]
    table = pd.DataFrame(rows, columns=["model", "order", "keep_prob", "lr", "multiple", "relative"])
    table = table.assign(relative_low=table.relative - 0.04, relative_high=table.relative + 0.04, resolved=True)
    table.loc[3, "resolved"] = False  # that of order 1 at the second learning rate: it may be of any size
    assert nearer_order(table) == (
        "- network: poisson is nearest in 1 of 2 cells, from multiple 1 on; order 2 in 0; order 1 in 0; the others are "
        "not resolved."
    )


def test_the_dry_run_counts_what_is_simulated():
    """The study of higher moments runs each process once and none in pairs; a comparison runs the iteration too."""
    problem = make_problem(width=2)
    given = problem, problem.initial(), 0.1, [0.4]
    for order in (1, 2, 3, "poisson"):
        alone = Ensembles(*given, [order], 256, control="none", compared=False).size()
        assert alone.iteration_blocks == 0 and alone.equation_blocks == alone.blocks
        assert alone.work == pytest.approx(4 * alone.blocks * problem.block_size * step_cost(order, "small_noise_rk4"))
        assert Ensembles(*given, [order], 256).size().work > 2 * alone.work
    assert Ensembles(*given, [], 256, compared=False).size().iteration_blocks == alone.blocks
    assert step_cost("poisson", "small_noise_rk4") < step_cost(1, "small_noise_rk4") < step_cost(3, "small_noise_rk4")
    cells = _cells(problem, problem.initial(), [0.3], 0.5, 1.0, "loss", [0.5], SamplingEffort(paths=64))
    fields = estimate("", cells, None)
    assert all(name in fields["time"] for name in ("iteration", "order 1", "order 2", "order 3", "poisson"))


def test_reports_say_why_no_constant_is_predicted():
    fit = pd.DataFrame({"order": [1, 3, "poisson"], "predicted_constant": [0.1, np.nan, 0.2]})
    third = "No constant of order 3 is predicted: it needs the fourth cumulant of the noise."
    problem = make_problem()
    assert _not_predicted(fit, problem, []).strip() == third
    assert _not_predicted(fit[fit.order != 3], problem, []) == ""
    fit.loc[2, "predicted_constant"] = np.nan
    text = _not_predicted(fit, problem, ["relu"])
    assert text.startswith("No constant of poisson is predicted: it needs derivatives") and text.strip().endswith(third)
