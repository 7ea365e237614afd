"""Studies of learning-rate scaling: what they compute is exact where closed forms are known."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, ScheduledMoments, scalar_dropout
from smesolve.comparison.gradient_flow import flow_change, relaxation_time
from smesolve.comparison.mean_square_growth import growth_rates, observed_limit
from smesolve.comparison.readout_problem import readout_problem
from smesolve.comparison.stability_limits import stability_limits
from smesolve.comparison.stationary_variances import stationary_variances
from smesolve.experiments.scaling.acceleration import AccelerationSettings, acceleration
from smesolve.experiments.scaling.kappa import Kappa, KappaSettings, linear_scaling_rule
from smesolve.experiments.scaling.map import ErrorMap, error_map
from smesolve.experiments.scaling.schedule import SCHEDULES, Schedule, ScheduleSettings, schedules
from smesolve.experiments.scaling.width import mean_field_problem
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.experiments.shared.section import Section, markdown
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings
from smesolve.problem.iteration import DropoutIteration
from smesolve.study.command_line import main


def scalar_problem(keep_prob):
    one = torch.ones(1, 1, dtype=torch.float64)
    return sme.DropoutProblem(sme.LinearNetwork(1), one, one, keep_prob=keep_prob)


def excess(keep_prob):
    """u^2 with u = a/keep_prob - 1."""
    return lambda theta: (theta[..., 0] / keep_prob - 1).square()


# --- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_prob", [0.01, 0.1, 0.8])
def test_scalar_weak_errors_equal_the_closed_forms(keep_prob):
    """E u^2 of iteration and equations, of the readout machinery of the map, against geometric Brownian motion."""
    moments = LinearMoments(scalar_problem(keep_prob), torch.zeros(1, dtype=torch.float64))
    steps = 40
    for multiple in (0.05, 0.5, 0.95):
        lr = multiple * 2 * keep_prob**2
        closed = scalar_dropout(keep_prob, lr, steps * lr)
        exact = closed[None].second_moment
        assert moments.iteration(lr, steps, excess(keep_prob)) == pytest.approx(exact, rel=1e-10)
        for order in (1, 2):
            error = closed[order].second_moment - exact
            assert moments.error(lr, order, steps * lr, excess(keep_prob)) == pytest.approx(error, rel=1e-8, abs=1e-11)


def test_the_readout_has_the_losses_and_gradients_of_the_network():
    problem = make_problem(bias=True, out_features=2)
    theta0 = problem.initial()
    readout, start = readout_problem(problem, theta0)
    assert float(readout.loss(start)) == pytest.approx(float(problem.loss(theta0)), rel=1e-13)
    assert float(readout.modified_loss(start)) == pytest.approx(float(problem.modified_loss(theta0)), rel=1e-13)
    mask = problem.sample(1, seed=3)[0]
    size = start.numel()
    whole = problem.gradient(theta0, mask)[-size - 2 : -2]  # the bias comes last
    assert (readout.gradient(start, mask) - whole).abs().max() < 1e-13
    with pytest.raises(ValueError, match="problem must be a DropoutProblem with shared masks"):
        readout_problem(make_problem(bias=True, out_features=2, masks="per_sample"), theta0)


def test_flow_change_and_relaxation_of_a_scalar():
    """L_S = (a - k y)^2 / (2k) + const: rate 1/k, so the change of u^2 is 1 - exp(-2 T/k)."""
    problem, start = scalar_problem(0.4), torch.zeros(1, dtype=torch.float64)
    assert relaxation_time(problem, start) == pytest.approx(0.4, rel=1e-12)
    assert flow_change(problem, start, 0.6, excess(0.4)) == pytest.approx(1 - np.exp(-3.0), rel=1e-8)


def test_the_mean_field_problem_moves_particles_by_lr():
    """A step of size lr moves each particle (A, W) by lr times its own thinned gradient, at every width."""
    x, y = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    problem, theta0 = mean_field_problem(x, y, 5, 0.5)
    mask = problem.sample(1, seed=0)[0]
    moved = theta0 - 0.1 * problem.gradient(theta0, mask)
    W, A = (part * 5**0.5 for part in (theta0[:10].view(5, 2), theta0[10:]))
    residual = (mask * A * torch.tanh(x @ W.T)).mean(-1) - y[:, 0]
    for r in range(5):
        h = torch.tanh(x @ W[r])
        A_step = mask[r] * (residual * h).mean()
        W_step = mask[r] * A[r] * ((residual * (1 - h**2))[:, None] * x).mean(0)
        assert moved[10 + r] * 5**0.5 == pytest.approx(float(A[r] - 0.1 * A_step), rel=1e-12)
        assert torch.allclose(moved[2 * r : 2 * r + 2] * 5**0.5, W[r] - 0.1 * W_step, rtol=1e-12)
    wide, more = mean_field_problem(x, y, 8, 0.5)
    assert torch.allclose(more[:10] * 8**0.5, W.flatten()) and wide.width == 8


def test_order_2_is_worse_in_the_stationary_variance_of_additive_noise():
    """One parameter, Hessian 1, label noise s: exact lr s^2/(2 - lr), order 1 lr s^2/2, order 2 lr s^2/(2 + lr)."""
    x = torch.ones(1, 1, dtype=torch.float64)
    problem = sme.ModuleProblem(torch.nn.Linear(1, 1, bias=False).double(), x, 0.7 * x, label_noise=0.5)
    table = stationary_variances(problem, torch.zeros(1, dtype=torch.float64), [0.2, 0.6])
    for lr, group in table.groupby("lr"):
        ratio = group.set_index("equation").ratio
        assert group.exact.iloc[0] == pytest.approx(0.25 * lr / (2 - lr), rel=1e-10)
        assert ratio["1"] == pytest.approx((2 - lr) / 2, rel=1e-10)
        assert ratio["2"] == pytest.approx((2 - lr) / (2 + lr), rel=1e-10)
        assert ratio["quadratic"] == pytest.approx(1, rel=1e-10)
    with pytest.raises(ValueError, match="beyond the limit"):
        stationary_variances(problem, torch.zeros(1, dtype=torch.float64), [2.5])


# --- observed limits ------------------------------------------------------------------------------------------------


def test_growth_rates_of_the_scalar_iteration():
    """log(1 - 2 lr/k + lr^2/k^3) a step, where a plain sample of paths would see almost sure decay."""
    k, lr = 0.2, 1.3 * 2 * 0.2**2
    plain = sme.DropoutProblem(sme.LinearNetwork(1), torch.ones(1, 1).double(), torch.zeros(1, 1).double(), keep_prob=k)
    rates = growth_rates(DropoutIteration(plain, lr, 0), plain.initial(), 2, 100, 6, 0)
    exact = np.log(1 - 2 * lr / k + lr**2 / k**3)
    assert exact > 0
    assert abs(rates.mean() - exact) < 4 * rates.std(ddof=1) / 6**0.5
    almost_sure = k * np.log(abs(1 - lr / k**2))
    assert almost_sure < exact


@pytest.mark.parametrize(
    "order", [None, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_observed_limits_agree_with_the_predicted_ones_within_two_percent(order):
    problem = scalar_problem(0.1)
    predicted = LinearMoments(problem, torch.zeros(1, dtype=torch.float64)).stability_limit(order)
    seen = observed_limit(problem, order, populations=4)
    assert abs(seen.lr / predicted - 1) < 0.02
    assert seen.high - seen.low < 0.05 * predicted


def test_limits_beyond_the_mean_are_predicted_alone():
    problem = scalar_problem(0.8)
    limits = stability_limits(problem, (1,)).set_index("process")
    assert list(limits.index) == ["iteration", "order 1"]
    assert limits.ratio["iteration"] == pytest.approx(1, abs=0.02)
    assert limits.predicted["order 1"] == pytest.approx(2 * 0.64 / 0.2) and np.isnan(limits.observed["order 1"])


# --- studies --------------------------------------------------------------------------------------------------------


def synthetic_map(power, scatter=0.0):
    rng = np.random.default_rng(1)
    rows = []
    for keep in (0.5, 0.1, 0.02):
        for multiple in (0.02, 0.05, 0.1, 0.2):
            lr = multiple * 2 * keep**2
            error = (lr / keep**power) ** 1.5 * np.exp(scatter * rng.standard_normal())
            row = {"keep_prob": keep, "lr": lr, "multiple": multiple, "relative": error, "horizon": keep}
            rows.append(row | {"relative_low": 0.99 * error, "relative_high": 1.01 * error, "resolved": True})
    table = pd.DataFrame(rows).assign(model="network", order=1)
    return ErrorMap(table, pd.DataFrame(), "loss")


def test_collapse_finds_the_power_and_says_so_with_an_interval():
    for power in (1.0, 2.0):
        row = synthetic_map(power).collapse().set_index("ordinate").loc["relative"]
        assert row.power == pytest.approx(power, abs=0.02)
        assert row.power_low < power < row.power_high
        assert row[f"spread_{power:g}"] < 0.02
        assert row["spread_0_low"] > 0.1
    noisy = synthetic_map(2.0, scatter=0.5).collapse().set_index("ordinate").loc["relative"]
    assert noisy.spread_2_high > 0.25


def test_error_map_of_a_small_network():
    problem = make_problem()
    theta0 = problem.initial()
    result = error_map(problem, theta0, [0.8], [0.2, 0.4], orders=(1,), effort=SamplingEffort(paths=1024))
    exact = result.table[result.table.model == "readout"]
    here = problem.with_keep_prob(0.8)
    readout, start = readout_problem(here, theta0)
    moments = LinearMoments(readout, start)
    for row in exact.itertuples():
        assert row.error == pytest.approx(moments.error(row.lr, 1, row.horizon, "modified_loss"), rel=1e-10)
    network = result.table[result.table.model == "network"]
    assert network.resolved.all() and (network.relative_low < network.relative_high).all()
    assert set(result.limits.process) == {"iteration", "order 1"}
    with pytest.raises(ValueError, match=r"multiples\[0\] must be a positive number"):
        error_map(problem, theta0, [0.5], [-1.0])


def test_the_rule_reaches_as_far_as_the_leading_constant_says():
    problem = make_problem()
    result = linear_scaling_rule(
        problem, problem.initial(), 0.02, [1, 2, 5, 10], 1.0, tolerance=0.003, effort=SamplingEffort(paths=1024)
    )
    for model, group in result.table.groupby("model"):
        ratio = (group.relative / group.predicted).iloc[0]
        assert ratio == pytest.approx(1, abs=0.05), model
    assert result.table.follows.map(lambda verdict: verdict is True).iloc[0]
    reach = result.reach().set_index("model")
    assert 0.5 < reach.kappa["readout"] / reach.predicted["readout"] < 2
    with pytest.raises(ValueError, match="tolerance must lie in"):
        linear_scaling_rule(problem, problem.initial(), 0.02, [1], 1.0, tolerance=0.0)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules_keep_the_weak_order_exactly(name):
    problem = make_problem(width=2)
    readout, start = readout_problem(problem, problem.initial())
    moments = ScheduledMoments(SCHEDULES[name](readout, 1.0), start)
    for order in (1, 2):
        errors = [moments.error(lr, order, 1.0) for lr in (0.1, 0.05)]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    with pytest.raises(ValueError, match="names holds 'linear', which is unknown"):
        schedules(problem, problem.initial(), [0.1], 1.0, names=["linear"])
    with pytest.raises(ValueError, match="lrs must hold at least two learning rates"):
        schedules(problem, problem.initial(), [0.1], 1.0)


def test_workers_change_no_bit_of_a_study():
    problem = make_problem(width=2)
    theta0 = problem.initial()
    alone, shared = (
        schedules(problem, theta0, [0.25, 0.125], 1.0, ["step"], (1,), effort=SamplingEffort(paths=64, workers=workers))
        for workers in (None, 2)
    )
    pd.testing.assert_frame_equal(alone.table, shared.table, check_exact=True)
    alone, shared = (stability_limits(scalar_problem(0.1), (2,), workers=workers) for workers in (None, 2))
    assert np.isfinite(alone.observed).all()
    pd.testing.assert_frame_equal(alone, shared, check_exact=True)


@pytest.mark.parametrize("name", ["step", pytest.param("keep_prob", marks=pytest.mark.slow)])
def test_the_weak_order_of_a_network_is_certified_under_a_schedule(name):
    """The control variates of second order hold under schedules: the slopes of both orders are resolved."""
    problem, lrs = make_problem(), [0.25, 0.125, 0.0625, 0.03125]
    result = schedules(problem, problem.initial(1), lrs, 1.0, [name], effort=SamplingEffort(paths=1024))
    for row in result.fit[result.fit.model == "network"].itertuples():
        assert row.points == 4
        assert row.slope_low < row.order < row.slope_high
        assert row.slope_high - row.slope_low < (0.05 if row.order == 1 else 0.5)


def test_the_error_of_long_steps_is_that_of_the_solution_at_these_steps():
    """Whose exact moments are known for a linear readout; without its bias the error would not depend on the step."""
    problem, theta0 = linear_problem(), torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments, lr, horizon = LinearMoments(problem, theta0), 0.05, 1.0
    table = acceleration(
        problem, theta0, lr, horizon, [4, 20], orders=[1], scheme="euler", effort=SamplingEffort(paths=1024)
    ).table
    change = flow_change(problem, theta0, horizon, problem.loss)
    for row in table.itertuples():
        exact = moments.scheme(lr, 1, horizon, "euler", row.solver_dt) - moments.iteration(lr, round(horizon / lr))
        assert row.relative_low < exact / change < row.relative_high


def test_variances_without_noise_have_no_ratio():
    """One output that the readout can learn: no mask changes the gradient at its minimum, 0."""
    x = torch.ones(2, 1, dtype=torch.float64)
    problem = sme.DropoutProblem(sme.LinearNetwork(1), x, 0 * x, keep_prob=0.8)
    found = stationary_variances(problem, torch.ones(1, dtype=torch.float64), [0.1])
    assert (found.exact == 0).all() and found.ratio.isna().all()


def test_numbers_stand_with_their_intervals():
    columns = {"n": [3, 40], "a": [0.5, np.nan], "a_low": [0.25, 0.0], "a_high": [0.75, 1.0], "b": [2 / 3, np.inf]}
    table = pd.DataFrame(columns).assign(kept=[True, False], name="x|y")
    shown = markdown(table, ["n", "a", "b", "kept", "name"], {"b": ".4f"}, {"n": "count", "b": "ratio"})
    assert shown.splitlines() == [
        "| count | a | ratio | kept | name |",
        "| --- | --- | --- | --- | --- |",
        "| 3 | 0.5 [0.25, 0.75] | 0.6667 | yes | x\\|y |",
        "| 40 | - | inf | no | x\\|y |",
    ]
    assert markdown(table, ["a_low"]).startswith("| a_low |")


# --- the command ----------------------------------------------------------------------------------------------------

READOUT = {"data": {"name": "random", "samples": 4, "in_features": 2}, "network": {"width": 3}}
TINY = READOUT | {"paths": 64, "threads": 1}


@pytest.mark.parametrize(
    "study, changes",
    [
        pytest.param("map", {"keep_probs": [0.8, 0.3], "multiples": [0.1, 0.2], "orders": [1]}, marks=pytest.mark.slow),
        ("kappa", {"lrs": [0.1], "kappas": [1, 2]}),
        ("schedule", {"lrs": [0.2, 0.1], "horizon": 0.4, "schedules": ["step"], "orders": [1]}),
        ("horizon", {"lrs": [0.5], "times": [0.5, 1.0], "multiples": [0.1]}),
        ("width", {"lrs": [0.1], "horizon": 0.2, "widths": [2, 4], "orders": [1]}),
        ("acceleration", {"lrs": [0.05], "horizon": 0.4, "factors": [2, 4]}),
    ],
)
def test_scaling_writes_tables_figures_and_report(tmp_path, study, changes):
    config = tmp_path / "study.yaml"
    given = TINY | {"study": study} | changes
    if study == "width":
        del given["network"]  # its networks are its own
    config.write_text(yaml.safe_dump(given), encoding="utf-8")
    out = tmp_path / "out"
    assert main(["scaling", str(config), "--out", str(out)]) == 0
    written = {path.name for path in out.iterdir()}
    assert {"table.csv", "report.md", "manifest.json", f"{study}.png", f"{study}.pdf"} <= written
    report = (out / "report.md").read_text(encoding="utf-8")
    assert report.startswith(f"# Learning-rate scaling: {study}") and "nan" not in report
    assert ("Network 2-3-1" in report) == (study != "width"), "the networks of width are its own"


def test_the_report_says_that_relu_is_outside_the_theorem():
    section = Section("Error", {}, {}, "text", "- conclusion")
    for activation in ("relu", "tanh"):
        data, network = DataSettings("random", samples=3, in_features=2), NetworkSettings(4, activation)
        report = Kappa(KappaSettings(data=data, network=network)).report([section])
        assert ("relu has kinks" in report.split("## ")[1]) == (activation == "relu")


@pytest.mark.parametrize(
    ("study", "changes", "fragments"),
    [
        ("map", {"kappas": [3]}, ["kappas is not read by study 'map'"]),
        ("width", {"network": {"width": 4}}, ["network is not read by study 'width'"]),
        ("width", {"observables": ["loss"]}, ["observables is not read by study 'width'"]),
        ("maps", {}, ["study must be one of", "'maps'"]),
        ("map", {"training": {"batch_size": 2}}, ["training is not read by study 'map'"]),
        ("kappa", {"lrs": [0.1, 0.2]}, ["lrs must hold one value"]),
        ("kappa", {"kappa": [1]}, ["'kappa' is unknown", "did you mean 'kappas'"]),
        ("schedule", READOUT | {"lrs": [0.1, 0.2], "schedules": ["linear"]}, ["schedules", "'linear'", "cosine"]),
        ("schedule", {"lrs": [0.1, 0.2]}, ["network.width=32", "320 weights", "--network.width 4"]),
    ],
)
def test_only_keys_of_the_study_itself_are_read(tmp_path, capsys, study, changes, fragments):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump({"study": study} | changes), encoding="utf-8")
    for options in ([], ["--dry-run"]):
        assert main(["scaling", str(config), "--out", str(tmp_path / "out"), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and all(fragment in error for fragment in fragments), error


def test_multiples_of_the_learning_rate_divide_the_horizon_by_default_and_others_are_refused():
    for settings, name in ((KappaSettings, "kappas"), (AccelerationSettings, "factors")):
        assert settings()
        with pytest.raises(ValueError, match=rf"8 lr \({name}\)=0.4 does not divide horizon=1; take for example"):
            settings(**{name: [2, 8]})


def test_the_default_schedules_have_a_slope():
    """One learning rate would be refused."""
    settings = ScheduleSettings(data=DataSettings("random", samples=4, in_features=2), network=NetworkSettings(3))
    assert len(settings.lrs) >= 2 and len(Schedule(settings).cells()) == 2 * len(SCHEDULES)
