"""The study of higher moments and tails at small keep_prob: exact rates, and intervals that hold."""

import numpy as np
import pytest
from problems import make_problem
from scipy import stats

from smesolve.experiments.scaling.small_keep_prob import decay_rates, small_keep_prob, statistics_of
from smesolve.experiments.shared.sampling_effort import SamplingEffort


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
