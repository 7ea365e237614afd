"""Observables along paths have the statistics of the paths themselves, which are not kept."""

import numpy as np
import pytest
import torch
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.outcomes import Status
from smesolve.confidence import student_quantile
from smesolve.sampling.heavy_tails import HEAVY_TAILS, shortage_of
from smesolve.sampling.moments import Moments
from smesolve.sampling.scaled_moments import ScaledMoments

PROBLEM = make_problem(width=3, samples=7)
THETA0 = PROBLEM.initial()
SDE = sme.ModifiedEquation(PROBLEM, lr=0.1, order=2)
MANY = 2 * PROBLEM.block_size + 3


def largest(theta):
    return theta.abs().amax(-1)


def iterated(**more):
    return sme.iterate(PROBLEM, THETA0, 0.1, 4, paths=MANY, seed=4, save=[0, 1, 4], **more)


def solved(**more):
    return sme.solve(SDE, THETA0, [0.0, 0.1, 0.4], dt=0.05, paths=MANY, seed=4, **more)


@pytest.mark.parametrize("run", [iterated, solved])
def test_the_statistics_are_those_of_the_kept_paths(run):
    functions = {"loss": PROBLEM.loss, "theta[2]": lambda theta: theta[..., 2], "largest": largest}
    table, paths = run(observables=["loss", "theta[2]", largest]), run()
    assert list(table.observable[:3]) == list(functions)
    assert table.time.tolist() == pytest.approx(np.repeat([0.0, 0.1, 0.4], 3).tolist())
    assert (table.paths == MANY).all() and (table.quantile_paths == MANY).all() and (table.lost == 0).all()
    for name, function in functions.items():
        values, rows = function(paths).numpy(), table[table.observable == name]
        close = {"rel": 1e-12, "abs": 1e-14}
        assert rows["mean"].to_numpy() == pytest.approx(values.mean(1), **close)
        assert rows["std"].to_numpy() == pytest.approx(values.std(1, ddof=1), **close)
        assert rows["stderr"].to_numpy() == pytest.approx(values.std(1, ddof=1) / MANY**0.5, **close)
        assert rows[["q05", "q50", "q95"]].to_numpy() == pytest.approx(np.quantile(values, [0.05, 0.5, 0.95], axis=1).T)
    student = student_quantile(MANY - 1) * table.stderr
    assert ((table.high - table["mean"]) >= student - 1e-14).all()
    assert table.low.to_numpy() + table.high.to_numpy() == pytest.approx(2 * table["mean"].to_numpy())


@pytest.mark.parametrize("run", [iterated, solved])
def test_the_table_is_the_same_for_any_number_of_workers(run):
    assert run(observables=["loss"]).equals(run(observables=["loss"], workers=2))


def test_names_of_a_dict_are_kept():
    table = iterated(observables={"size": largest, "training loss": "loss"})
    assert list(table.observable.unique()) == ["size", "training loss"]
    assert (
        table[table.observable == "training loss"]["mean"].tolist() == iterated(observables=["loss"])["mean"].tolist()
    )


def test_intervals_hold_the_exact_second_moment():
    problem = linear_problem()
    theta0, exact = problem.initial(), LinearMoments(problem, problem.initial())
    table = sme.iterate(problem, theta0, 0.1, 20, paths=4000, seed=1, save=[20], observables=["squared_norm"])
    mean = exact.iteration(0.1, 20, "squared_norm")
    (row,) = table.to_dict("records")
    assert row["low"] < mean < row["high"]
    assert row["high"] - row["low"] < 0.2 * mean


def test_more_paths_than_are_kept_for_quantiles_change_no_quantile(monkeypatch):
    monkeypatch.setattr("smesolve.sampling.observed_paths.MOST_KEPT", 16)
    table = iterated(observables=["loss"])
    values = PROBLEM.loss(iterated())[:, :16].numpy()
    assert (table.quantile_paths == 16).all() and (table.paths == MANY).all()
    assert table["q50"].to_numpy() == pytest.approx(np.quantile(values, 0.5, axis=1))


def test_a_diverged_path_leaves_no_mean_and_earlier_times_keep_theirs():
    with pytest.warns(sme.DivergenceWarning, match="paths diverged before step 400"):
        table = sme.iterate(PROBLEM, 5 + THETA0, 50.0, 400, paths=8, save=[0, 400], observables=["loss"])
    assert table["mean"].notna().tolist() == [True, False]
    assert table.lost.tolist()[0] == 0 and table.lost.tolist()[1] > 0


def test_one_path_has_a_mean_and_no_interval():
    table = sme.iterate(PROBLEM, THETA0, 0.1, 2, paths=1, observables=["loss"])
    assert table["mean"].notna().all() and table.low.isna().all() and table.stderr.isna().all()


class OrnsteinUhlenbeck(torch.nn.Module):
    sde_type, noise_type = "ito", "general"

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return torch.ones_like(y)[..., None]


def test_an_sde_without_a_problem_takes_callables_and_coordinates_only():
    start = torch.tensor([1.0], dtype=torch.float64)
    given = {"ts": [0.0, 0.5], "dt": 0.1, "paths": 10}
    table = sme.solve(OrnsteinUhlenbeck(), start, **given, observables=["theta[0]", "squared_norm", largest])
    assert list(table.observable.unique()) == ["theta[0]", "squared_norm", "largest"]
    with pytest.raises(sme.SmesolveError, match="'loss' needs a problem, which this sde does not have"):
        sme.solve(OrnsteinUhlenbeck(), start, **given, observables=["loss"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("loss", "observables must be a sequence"),
        ([], "at least one value"),
        (["loss", "loss"], "holds 'loss' twice"),
        (["nonsense"], "must be one of loss"),
        ({1: largest}, "names as its keys"),
        ({"size": 3}, r"observables\['size'\] must be a name"),
        ([lambda theta: theta], "must map theta"),
        (["test_loss"], "test data"),
    ],
)
def test_what_cannot_be_observed_is_refused(wrong, words):
    with pytest.raises(sme.SmesolveError, match=words):
        iterated(observables=wrong)


def test_a_bound_on_kept_paths_is_refused_where_none_are_kept():
    with pytest.raises(sme.SmesolveError, match="max_memory=1e\\+09 bounds the paths that are kept"):
        iterated(observables=["loss"], max_memory=1e9)


def lognormal(log_spread):
    """Return E of a function of an Ornstein-Uhlenbeck process that is lognormal with the given spread of its log."""
    return lambda theta: (log_spread * theta[..., 0]).exp()


def test_means_that_few_paths_carry_have_the_verdict_of_weak_errors():
    given = {"ts": [0.0, 2.0], "dt": 0.25, "paths": 1000, "seed": 3}
    observables = {"light": lognormal(0.2), "heavy": lognormal(6.0), "no spread": lambda theta: 1 + 0 * theta[..., 0]}
    start = torch.zeros(1, dtype=torch.float64)
    table = sme.solve(OrnsteinUhlenbeck(), start, **given, observables=observables)
    assert table.reason.tolist() == ["", "", "", "", HEAVY_TAILS, ""]
    values = lognormal(6.0)(sme.solve(OrnsteinUhlenbeck(), start, **given)[-1]).numpy()
    shares = np.sort(values)[::-1] / values.sum()
    assert shares[:5].sum() > 0.5  # five of a thousand paths carry half of the mean
    plain = Moments.of(values[None, :, None], 4)
    assert shortage_of(plain)[0] > 1 and Status.HEAVY_TAILS == HEAVY_TAILS


def test_spread_that_is_rounding_has_no_tail():
    table = sme.solve(
        OrnsteinUhlenbeck(), torch.zeros(1, dtype=torch.float64), [0.0, 2.0], dt=0.25, paths=1000,
        observables={"rounding": lambda theta: 1 + 1e-16 * (3 * theta[..., 0]).exp()},
    )  # fmt: skip
    assert table["std"].iloc[1] > 0 and table.reason.tolist() == ["", ""]


@pytest.mark.parametrize("size", [1e-250, 1e-160, 1e-90, 1e90, 1e200])
@pytest.mark.parametrize("run", [iterated, solved])
def test_statistics_do_not_depend_on_the_unit(run, size):
    unit = 2.0 ** round(np.log2(size))
    names = ["mean", "stderr", "low", "high", "std", "q05", "q50", "q95"]
    plain, scaled = run(observables=["loss"]), run(observables={"loss": lambda theta: unit * PROBLEM.loss(theta)})
    assert (plain.stderr > 0).tolist() == [False, True, True]
    assert ((scaled[names] / unit).to_numpy() == plain[names].to_numpy()).all()  # to the last bit
    assert scaled.reason.tolist() == plain.reason.tolist()


def test_errors_of_solvers_do_not_depend_on_the_unit_either():
    start, given = torch.ones(1, dtype=torch.float64), {"horizon": 1.0, "dts": [0.25, 0.125], "schemes": ["euler"]}
    tables = [
        sme.convergence(
            OrnsteinUhlenbeck(), start, **given, reference=("euler", 1 / 32), paths=256,
            observables={"size": lambda theta, unit=unit: unit * theta[..., 0] ** 2},
        ).table
        for unit in (1.0, 2.0**-600)
    ]  # fmt: skip
    names = ["error", "stderr", "low", "high"]
    assert (tables[0].stderr > 0).all()
    assert (tables[1][names].to_numpy() == 2.0**-600 * tables[0][names].to_numpy()).all()


def test_errors_of_solvers_that_few_paths_carry_are_not_resolved():
    study = sme.convergence(
        OrnsteinUhlenbeck(), torch.zeros(1, dtype=torch.float64), 2.0, [0.5, 0.25], ["euler"],
        {"light": lognormal(0.1), "heavy": lognormal(6.0)}, ("euler", 1 / 32), "strong", paths=1000,
    )  # fmt: skip
    light, heavy = (study.table[study.table.observable == name] for name in ("light", "heavy"))
    assert light.resolved.all() and (light.reason == "").all()
    assert not heavy.resolved.any() and (heavy.reason == HEAVY_TAILS).all()
    assert "has no interval: heavy tails" in study.summary()


def test_blocks_in_other_units_are_merged_as_their_values():
    generator = np.random.default_rng(0)
    values = generator.standard_normal((3, 40, 2)) * np.array([1e-200, 1.0, 1e-3])[:, None, None] + 0.5
    values[0] -= 0.5
    merged = ScaledMoments.of(values[0], 4).merged(ScaledMoments.of(values[1], 4)).merged(
        ScaledMoments.unpacked(ScaledMoments.of(values[2], 4).packed(), 4)
    )  # fmt: skip
    whole = ScaledMoments.of(values.reshape(-1, 2), 4)
    assert (merged.exponent == whole.exponent).all()
    assert merged.moments.mean == pytest.approx(whole.moments.mean, rel=1e-12)
    for mine, theirs in zip(merged.moments.sums, whole.moments.sums, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-10)
