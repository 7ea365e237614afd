"""The study of shuffled batches: what its dry run counts, and its intervals."""

import pandas as pd
import pytest
import torch
from problems import make_problem
from scipy import stats

import smesolve as sme
from smesolve.comparison.cost import step_cost
from smesolve.experiments.scaling.shuffle import ARMS, _cells, _combined
from smesolve.experiments.shared.sampling_effort import SamplingEffort


def test_the_dry_run_counts_the_steps_of_the_equation():
    given = make_problem(samples=6, width=2)
    epochs = sme.ShuffledEpochs(given.network, given.x, given.y, batch_size=2)
    theta0 = torch.zeros(epochs.dim, dtype=torch.float64)
    shuffled, independent, usual = (
        cell.ensembles[0].size() for cell in _cells(epochs, theta0, [0.1], 0.4, SamplingEffort(paths=64))
    )
    assert shuffled.iteration_blocks and independent.iteration_blocks
    assert usual.iteration_blocks == 0 and usual.equation_blocks == usual.blocks
    gradients = step_cost(1, "small_noise_rk4")  # three batches in each of four epochs, one step of the equation each
    assert usual.work == pytest.approx(12 * usual.blocks * usual.design.problem.block_size * gradients)


def test_intervals_are_those_of_student_on_the_log_scale():
    rows = [
        {"arm": arm, "lr": lr, "variance": 4.0 * lr**power, "stderr": lr**power}
        for arm, power in zip(ARMS, (3, 1, 1), strict=True)
        for lr in (0.2, 0.1)
    ]
    found = _combined(rows, paths=5)
    factor = torch.tensor(stats.t.ppf(0.975, 4) / 4).exp().item()
    assert (found.table.variance_high / found.table.variance).tolist() == pytest.approx([factor] * 6)
    usual = found.table[found.table.arm == ARMS[2]]
    assert usual.ratio.tolist() == pytest.approx([1 / 0.04, 1 / 0.01])
    assert (usual.ratio_high / usual.ratio).tolist() == pytest.approx([factor**2**0.5] * 2)
    assert isinstance(found.slopes, pd.DataFrame) and found.slopes.slope.tolist() == pytest.approx([3, 1, 1])
