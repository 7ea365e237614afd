import numpy as np
import pandas as pd
import pytest
import torch
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.exact import LinearMoments, enumerated_expectation, scalar_dropout
from smesolve.comparison.leading_constants import leading_constants
from smesolve.comparison.mean_estimate import MeanEstimate
from smesolve.comparison.noise_free_equation import NoiseFreeSolution
from smesolve.comparison.sampler import PairSampler, Sampler
from smesolve.comparison.stationary_variances import stationary_variances
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.observables import named_observables
from smesolve.solver.integration import Integration


def test_streams_of_paths_are_the_same_with_and_without_splitting():
    problem = make_problem()
    theta0 = problem.initial()
    for process in (
        DropoutIteration(problem, 0.1, 3),
        Integration(sme.ModifiedEquation(problem, 0.1), theta0, "small_noise_rk4", 0.1, 3),
    ):
        theta = theta0.expand(process.block_size, -1)
        taken = process.advance_split(theta, 2, 5)
        # The kernels compute a whole step in another order of operations than its parts.
        torch.testing.assert_close(process.advance(theta, 2, 5), taken.state, rtol=0, atol=1e-14)
        assert taken.noise.shape == (process.block_size, problem.noise_dim)
        assert process.noise_free_step(theta0[None], 0)[1].shape == (1, problem.dim)


def test_exact_references_agree_with_each_other():
    problem = linear_problem()
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = LinearMoments(problem, theta0)
    for observable in ("loss", "modified_loss", "squared_norm", "theta[1]"):
        exact = enumerated_expectation(problem, theta0, 0.2, 4, observable)
        assert moments.iteration(0.2, 4, observable) == pytest.approx(exact, rel=1e-13)
    # one neuron, one sample: u = theta / k - y
    k, y = 0.6, 0.3
    one = torch.ones(1, 1, dtype=torch.float64)
    scalar = sme.DropoutProblem(sme.LinearNetwork(1), one, y * one, keep_prob=k)
    start = torch.tensor([0.9], dtype=torch.float64)

    def u_squared(theta):
        return (theta[..., 0] / k - y) ** 2

    known = scalar_dropout(k, lr=0.1, horizon=2.0, u0=0.9 / k - y)
    line = LinearMoments(scalar, start)
    assert line.iteration(0.1, 20, u_squared) == pytest.approx(known[None].second_moment, rel=1e-12)
    for order in (1, 2):
        assert line.equation(0.1, order, 2.0, u_squared) == pytest.approx(known[order].second_moment, rel=1e-12)
    # stability limits: growth just beyond, decay just below
    for order in (None, 1, 2):
        limit = scalar_dropout(0.1, 0.01, 0.1)[order].stability_limit
        for factor, stable in ((0.98, True), (1.02, False)):
            lr = limit * factor
            assert (scalar_dropout(0.1, lr, 100 * lr)[order].second_moment < 1) == stable
    with pytest.raises(ValueError, match="affine"):
        LinearMoments(make_problem(width=2), make_problem(width=2).initial())


def test_exact_moments_of_masks_per_sample_and_of_weak_noise():
    problem = linear_problem(samples=2)
    theta0 = torch.tensor([1.5, -1.0], dtype=torch.float64)
    alone = sme.DropoutProblem(problem.network, problem.x, problem.y, keep_prob=0.7, masks="per_sample")
    for masked in (problem, alone):
        exact = LinearMoments(masked, theta0).iteration(0.3, 2)
        assert exact == pytest.approx(enumerated_expectation(masked, theta0, 0.3, 2, "loss"), rel=1e-12)
    weak = LinearMoments(problem.with_weak_noise(), theta0)
    assert weak.equation(0.3, 2, 0.6) == pytest.approx(LinearMoments(problem, theta0).equation(0.3, 2, 0.6), rel=1e-12)
    with pytest.raises(ValueError, match="linear in normals"):
        weak.scheme(0.3, 1, 0.6, "euler", 0.1)
    with pytest.raises(ValueError, match="quadratic in theta"):
        weak.iteration(0.3, 2, lambda theta: theta.pow(3).sum(-1))


def test_enumeration_in_float32():
    network = sme.TwoLayerNetwork(2, 2, dtype=torch.float32)
    wide = make_problem(width=2)
    problem = sme.DropoutProblem(network, wide.x, wide.y, keep_prob=0.8)
    theta0 = wide.initial()
    assert enumerated_expectation(problem, theta0.float(), 0.3, 2, "loss") == pytest.approx(
        enumerated_expectation(wide, theta0, 0.3, 2, "loss"), rel=1e-5
    )
    with pytest.raises(ValueError, match=r"problem must be in torch\.float64"):
        LinearMoments(problem, theta0.float())


def test_directions_that_do_not_move_are_not_unstable():
    """Two samples of five inputs without dropout: three directions have no curvature, and nothing grows in them."""
    for seed in range(6):
        x = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        problem = sme.DropoutProblem(sme.LinearNetwork(5), x, x[:, :1], keep_prob=1.0)
        moments = LinearMoments(problem, problem.initial())
        assert moments.stability_limit() == pytest.approx(problem.stability_limit(problem.initial()), rel=1e-9)
        assert moments.stability_limit(1) == np.inf


def test_the_stationary_state_keeps_the_start_where_nothing_moves():
    """Three inputs, one of which is always 0, and two samples by turns without dropout in three dimensions."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    start = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    dead = x * torch.tensor([1.0, 0.0, 1.0])
    network = torch.nn.Linear(3, 1, bias=False).double()
    for problem in (
        sme.DropoutProblem(sme.LinearNetwork(3), dead, x[:, :1].exp(), keep_prob=0.8),
        sme.ModuleProblem(network, x[:2], x[:2, :1].exp(), loss="squared_error", batch_size=1),
    ):
        moments, lr, steps = LinearMoments(problem, start), 0.2, 2**10
        late = moments.iteration(lr, steps, "squared_norm")
        assert moments.stationary(lr, None, "squared_norm") == pytest.approx(late, rel=1e-9)
        for order in (1, 2):
            end = moments.equation(lr, order, lr * steps, "squared_norm")
            assert moments.stationary(lr, order, "squared_norm") == pytest.approx(end, rel=1e-9)
        mean = np.array([moments.iteration(lr, steps, f"theta[{k}]") for k in range(3)])
        exact = stationary_variances(problem, start, [lr]).exact
        assert exact.to_numpy() == pytest.approx(late - mean @ mean, rel=1e-7, abs=1e-10)
    nothing = sme.DropoutProblem(sme.LinearNetwork(3), 0 * x, x[:, :1], keep_prob=0.8)
    moments = LinearMoments(nothing, start)
    assert moments.stability_limit() == moments.stability_limit(2) == np.inf
    assert moments.stationary(0.1, None, "squared_norm") == pytest.approx(14.0, rel=1e-14)


@pytest.mark.parametrize("observable", ["loss", "squared_norm"])
def test_exact_weak_errors_have_orders_one_and_two_and_the_predicted_constant(observable):
    problem = linear_problem()
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = LinearMoments(problem, theta0)
    for order in (1, 2):
        errors = [moments.error(lr, order, 1.2, observable) for lr in (0.02, 0.01, 0.005)]
        rates = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
        assert rates[-1] == pytest.approx(order, abs=0.05)
    functions = named_observables(problem, [observable])
    predicted = leading_constants(problem, theta0, [1.2], functions, 0.02, [1, 2]).set_index("order").constant
    for order, lr, tolerance in ((1, 0.0005, 1e-4), (2, 0.0025, 1e-3)):
        one, two = (moments.error(step, order, 1.2, observable) / step**order for step in (lr, 2 * lr))
        assert predicted[order] == pytest.approx(2 * one - two, rel=tolerance)  # extrapolated to lr = 0


def test_weak_error_on_a_tanh_network_halves_and_quarters():
    problem = make_problem(width=4, samples=8)
    study = sme.weak_error(problem, problem.initial(), lrs=[0.2, 0.1, 0.05], horizon=1.0, paths=4096, times=[1.0])
    table = study.table.set_index(["order", "lr"])
    assert table.resolved.all()
    for order, expected in ((1, 2), (2, 4)):
        coarse, fine = table.loc[(order, 0.1)], table.loc[(order, 0.05)]
        # the ratio, and its interval, lie away from one
        low = (abs(coarse.error) - (coarse.high - coarse.low) / 2) / (abs(fine.error) + (fine.high - fine.low) / 2)
        assert low > 1
        assert coarse.error / fine.error == pytest.approx(expected, rel=0.25)
    fit = study.fit().set_index("order")
    for order in (1, 2):
        assert fit.slope_low[order] < order < fit.slope_high[order]
        assert fit.slope_low[order] > order - 0.5
    assert fit.constant[1] == pytest.approx(fit.predicted_constant[1], rel=0.03)


def test_weak_error_agrees_with_the_exact_error_and_itself():
    problem = linear_problem()
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = LinearMoments(problem, theta0)
    arguments = {"lrs": [0.1, 0.05], "horizon": 1.0, "observables": ["loss", "theta[0]"], "paths": 2048}
    study = sme.weak_error(problem, theta0, **arguments)
    for row in study.table.itertuples():
        exact = moments.error(row.lr, row.order, row.time, row.observable)
        assert abs(row.error - exact) < 2 * np.hypot(row.half_width, row.solver_bias_half_width)
    again = sme.weak_error(problem, theta0, **arguments)
    pd.testing.assert_frame_equal(study.table, again.table, check_exact=True)
    alone = sme.weak_error(problem, theta0, **{**arguments, "lrs": [0.05]})
    pd.testing.assert_frame_equal(
        study.table[study.table.lr == 0.05].reset_index(drop=True), alone.table, check_exact=True
    )
    largest = study.maximum()
    assert (largest.low <= largest.error).all()
    assert (largest.error <= largest.high).all()
    assert set(study.fit("max").order) == {1, 2}


def test_rel_tol_is_met_or_said_to_be_missed():
    problem = make_problem(width=3)
    theta0 = problem.initial()
    arguments = {"lrs": [0.1], "horizon": 1.0, "paths": 1024, "rel_tol": 0.1}
    table = sme.weak_error(problem, theta0, **arguments).table
    final = table[table.time == 1.0]
    assert (1.96 * final.stderr <= 0.105 * final.error.abs()).all()
    poor = sme.weak_error(problem, theta0, **{**arguments, "lrs": [0.0125], "control": "none"}, max_paths=2048).table
    second = poor[(poor.time == 1.0) & (poor.order == 2)].iloc[0]
    assert not second.resolved
    assert second.reason == "inside its Monte Carlo interval"
    assert second.paths <= 2048


def test_solver_bias_is_seen_and_dt_follows(monkeypatch):
    problem = linear_problem()
    theta0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    moments = LinearMoments(problem, theta0)
    arguments = {"lrs": [0.1], "horizon": 1.0, "orders": [2], "scheme": "euler", "paths": 1024}
    row = sme.weak_error(problem, theta0, **arguments, dt=0.05).table.iloc[-1]
    true_bias = moments.scheme(0.1, 2, 1.0, "euler", 0.05) - moments.equation(0.1, 2, 1.0)
    assert row.solver_bias == pytest.approx(true_bias, rel=0.2)
    assert row.low < moments.error(0.1, 2, 1.0) < row.high
    followed, follow = [], NoiseFreeSolution.of
    monkeypatch.setattr(NoiseFreeSolution, "of", lambda equation, *rest: followed.append(1) or follow(equation, *rest))
    chosen = sme.weak_error(problem, theta0, **arguments).table.iloc[-1]
    assert chosen["solver_dt"] == pytest.approx(0.1 / 64)  # halved as often as it may
    assert len(followed) == 1  # the noise-free solution does not depend on dt
    assert abs(chosen.solver_bias) < 0.5 * abs(row.solver_bias)
    assert chosen.low < moments.error(0.1, 2, 1.0) < chosen.high


def test_euler_at_the_learning_rate_warns():
    problem = make_problem(width=2)
    with pytest.warns(sme.NothingTestedWarning, match="tests nothing"):
        sme.weak_error(
            problem, problem.initial(), [0.1], 0.5, orders=[1], scheme="euler", dt=0.1, paths=8, control="first"
        )


def test_pairs_on_one_brownian_path_differ_little():
    problem = make_problem(width=3)
    theta0 = problem.initial()
    observables = named_observables(problem, ["loss"])
    sde = sme.ModifiedEquation(problem, 0.1)
    coarse = Sampler(Integration(sde, theta0, "small_noise_rk4", 0.1, 1, nested=2), theta0, [10], observables, None)
    fine = Sampler(Integration(sde, theta0, "small_noise_rk4", 0.05, 1), theta0, [20], observables, None)
    first, difference = PairSampler(coarse, fine).statistics(0)
    assert MeanEstimate.of(difference).paths == 1024
    assert MeanEstimate.of(difference).mean == pytest.approx(
        MeanEstimate.of(coarse.statistics(0)).mean - MeanEstimate.of(fine.statistics(0)).mean, abs=1e-15
    )
    assert MeanEstimate.of(difference).stderr < 0.1 * MeanEstimate.of(fine.statistics(0)).stderr
    assert MeanEstimate.of(first).mean == MeanEstimate.of(coarse.statistics(0)).mean


def test_diverged_paths_have_no_mean():
    problem = make_problem(activation="identity", keep_prob=0.3)
    theta0 = problem.initial()
    lr = 0.9 * problem.stability_limit(theta0)
    with np.errstate(all="ignore"), pytest.warns(sme.DivergenceWarning, match="unresolved"):
        table = sme.weak_error(problem, theta0, [lr], 40 * lr, orders=[1], paths=64, control="none").table
    last = table.iloc[-1]
    assert last.diverged > 0
    assert np.isnan(last.error)
    assert last.reason == "diverged"
    assert not last.resolved


def test_what_torch_cannot_differentiate_is_no_observable():
    problem = make_problem()

    def by_numpy(theta):
        return torch.as_tensor(theta.numpy().sum(-1))

    with pytest.raises(ValueError, match="observable 'by_numpy', whose derivative torch takes, must work on what it"):
        named_observables(problem, [by_numpy])


def test_a_dt_that_is_given_is_kept_however_large_its_bias():
    problem = make_problem(width=2)
    study = sme.weak_error(
        problem, problem.initial(seed=1), [0.2], 0.8, orders=(2,), times=[0.8], observables=["loss"], paths=256,
        scheme="euler", dt=0.2, rel_tol=0.5, max_paths=512,
    )  # fmt: skip
    row = study.table.iloc[0]
    assert row.solver_dt == 0.2 and abs(row.solver_bias) > 10 * abs(row.error)
    finer = sme.weak_error(problem, problem.initial(seed=1), [0.2], 0.8, orders=(2,), times=[0.8], paths=4096).table
    assert row.low < finer.error.item() < row.high  # the bias is taken off
