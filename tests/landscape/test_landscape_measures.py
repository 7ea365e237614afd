"""What condensation, noises and the variance principle measure equals its definition at every state."""

import numpy as np
import pytest
import torch
from given_errors import exactly
from problems import make_problem
from scipy import stats

import smesolve as sme
from smesolve.experiments import condensation, noise_alignment
from smesolve.experiments.landscape_sections.variance_principle import _relation
from smesolve.landscape import (
    NOISES,
    NoiseScales,
    checkpoints,
    covering,
    initial_points,
    input_weights,
    interval_flatness,
    participation,
    random_noise,
    sampled_alignment,
    train,
)
from smesolve.landscape.operators import loss_hessian_operator
from smesolve.solver.integration import Integration


@pytest.mark.parametrize(("steps", "count"), [(1, 2), (100, 2), (100, 3), (1000, 12), (7, 30)])
def test_checkpoints_begin_at_0_and_end_at_the_last_step(steps, count):
    found = checkpoints(steps, count)
    assert found[0] == 0 and found[-1] == steps and len(found) <= count
    assert found == sorted(set(found))
    assert checkpoints(1000, 5) == [0, 1, 10, 100, 1000]


def test_a_relation_has_the_slope_and_the_p_value_of_scipy():
    rng = np.random.default_rng(8)
    x = np.exp(rng.standard_normal(12))
    y = x**0.5 * np.exp(rng.standard_normal(12))
    found = _relation(np.append(x, [-1.0, 3.0]), np.append(y, [1.0, np.nan]))  # neither has a logarithm
    ranks = stats.spearmanr(x, y)
    assert found["slope"] == pytest.approx(stats.linregress(np.log(x), np.log(y)).slope, rel=1e-10)
    assert (found["rank_correlation"], found["p_value"]) == exactly((ranks.statistic, ranks.pvalue))
    assert np.isfinite(_relation(x[:3], y[:3])["slope"]) and found["points"] == 12
    assert np.isnan(_relation(x[:2], y[:2])["slope"])


def test_condensation_states_the_measures_of_each_state():
    problem = make_problem(width=4, out_features=2)
    starts, lr = initial_points(problem, 2), 0.1
    study = condensation(problem, starts, lr, [0, 3], ["SME order 2"], lines=True, seed=4)
    process = Integration(sme.ModifiedEquation(problem, lr, 2), starts[0], "small_noise_heun", lr, 4)
    states = train(process, starts, [0, 3])
    weights, amplitudes = input_weights(problem, states)
    for row in study.table.itertuples():
        i = [0, 3].index(row.step)
        caps = covering(weights[i, row.run], lines=True)
        assert (row.orientations, row.least_orientations) == (caps.upper, caps.lower)
        assert row.effective_ratio == caps.upper / 4
        assert row.participation == exactly(participation(weights[i, row.run], amplitudes[i, row.run]))
        assert row.loss == exactly(float(problem.loss(states[i, row.run])))


def test_noises_are_those_of_their_names():
    problem, scales = make_problem(width=3, samples=6, keep_prob=0.7), NoiseScales(batch_size=2)
    options = {name: NOISES[name](problem, scales) for name in NOISES}
    assert options["dropout"] is problem
    for name, dropped, batch, per_sample in (
        ("mini-batch", False, 2, False), ("dropout and mini-batch", True, 2, False),
        ("dropout, batch of one", True, 1, True), ("parameter noise", False, None, False),
        ("label noise", False, None, False),
    ):  # fmt: skip
        noisy = options[name]
        assert [law.keep_prob for law in noisy._laws.values()] == exactly([0.7] * dropped), name
        assert (noisy.batch_size, noisy._shared) == (batch, not per_sample), name
    assert (options["parameter noise"].parameter_noise, options["label noise"].label_noise) == (0.02, 0.5)
    assert NoiseScales().batch_size == 50


def test_alignment_of_noises_takes_their_own_draws_and_states():
    problem = make_problem(width=3, samples=6)
    problems = {"dropout": problem, "parameter noise": NOISES["parameter noise"](problem, NoiseScales())}
    starts = initial_points(problem, 2)
    table = noise_alignment(problems, starts, 0.1, [0], draws=8, probes=problem.dim, seed=5)
    row = table[(table.noise == "parameter noise") & (table.run == 1) & (table.points == "own")].iloc[0]
    noise = random_noise(problems["parameter noise"], starts[1], 8, 6)
    expected = sampled_alignment(loss_hessian_operator(problem, starts[1]), noise, problem.dim, 6)
    assert (row.cosine, row.cosine_low, row.score_high) == exactly(
        (expected["cosine"], expected["cosine_low"], expected["score_high"])
    )
    normals = np.random.default_rng(np.random.SeedSequence(6)).standard_normal((8, problem.noise_dim))
    product = problem.noise_product(starts[1], torch.from_numpy(normals))
    assert torch.equal(random_noise(problem, starts[1], 8, 6), product)


class Recorder:
    """Moves a run by its block and step."""

    block_size = 3

    def __init__(self, growth=1.0):
        self.growth = growth

    def advance(self, theta, block, step):
        return self.growth * theta + 100 * block + 10**-step


def test_runs_are_trained_in_blocks_and_saved_at_their_steps():
    starts = torch.arange(7, dtype=torch.float64)[:, None]
    states = train(Recorder(), starts, [0, 1, 3])
    blocks = torch.tensor([0, 0, 0, 1, 1, 1, 2], dtype=torch.float64)[:, None]
    for state, steps, more in zip(states, (0, 1, 3), (0.0, 1.0, 1.11), strict=True):
        assert torch.allclose(state, starts + steps * 100 * blocks + more)


@pytest.mark.parametrize(("growth", "diverged"), [(0.9e6, False), (1.2e6, True)])
def test_a_run_has_diverged_from_a_million_times_its_start_on(growth, diverged):
    starts = torch.full((2, 1), 10.0, dtype=torch.float64)  # the bound is 10^6 (1 + 10)
    if diverged:
        with pytest.raises(ValueError, match="2 of 2 runs diverged in 1 steps"):
            train(Recorder(growth), starts, [1])
    else:
        assert (train(Recorder(growth), starts, [1])[0] > 8e6).all()


def test_an_interval_is_sought_up_to_a_thousand_norms():
    theta, direction = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)

    def width(end):
        return interval_flatness(lambda points: 1 + points[..., 1].abs() / end, theta, direction, 2.0)[0]

    assert width(1900.0) == pytest.approx(2 * 1900.0, rel=1e-9)
    assert width(1e-5) == pytest.approx(2e-5, rel=1e-6)
    assert np.isnan(width(3000.0))
